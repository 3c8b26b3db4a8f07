"""The conjugate kernel of a DEQ and its derivatives for the variances, in closed form."""

import importlib
import warnings
from threading import Lock
from typing import NamedTuple

import torch
from torch.autograd import forward_ad

from .._torch import single_thread
from .directions import grown, normalise
from .duality import dual_function
from .expectations import centring_shift, moments
from .pair import solve_correlation

_BATCH = 2**18  # pairs whose equations are solved at once
_ONE_AT_A_TIME = Lock()  # torch's forward derivatives are those of the whole process


@single_thread()
def kernel_and_derivatives(spec, X, names):
    """The conjugate kernel (n, n) of a DEQSpec, and its derivatives (n, n, n_names).

    With q = s^2 the variance of a row's pre-activations, c the covariance of a pair and mu the
    centring constant, it solves and differentiates

        q = s_a E[(phi(s xi) - mu)^2] + s_b |x|^2 + s_c,      c = s_a K + s_b x.y + s_c,
        K = E[phi(u) phi(w)] - mu (E phi(u) + E phi(w)) + mu^2

    for the variances `names` of s_a, s_b, s_c: "recurrent_var", "input_var", "bias_var".
    """
    norms, unit = normalise(X)
    cosines = grown(unit) @ unit.T
    rows = _Rows(spec, norms)
    _load_forward_derivatives()
    K = torch.empty_like(cosines)
    gradient = K.new_empty(*K.shape, len(names))
    size = max(1, _BATCH // len(X))
    derivatives = [_derivative_of_rows(spec, name, rows) for name in names]
    for start in range(0, len(X), size):
        part = slice(start, start + size)
        K[part], gradient[part] = _block(spec, rows, part, cosines[part], names, derivatives)
    K.diagonal().copy_(rows.activity)
    for k, d in enumerate(derivatives):
        gradient[:, :, k].diagonal().copy_(d.activity)
    return K, gradient


class _Rows:
    """What the equations say of single rows: s, E phi, E (phi - mu)^2 and slopes for q = s^2."""

    def __init__(self, spec, norms):
        self.norms, self.s = norms, spec.deviation(norms)
        m, self.mean_slope, self.square_slope = _moments(spec, self.s)
        self.mean, self.activity = m.mean, m.centred_square(spec.offset)


class _RowDerivatives(NamedTuple):
    centre: float
    s: torch.Tensor
    mean: torch.Tensor
    activity: torch.Tensor


def _moments(spec, s):
    """Moments at s, and the derivatives of E phi and E phi^2 for q = s^2 (Stein's lemma)."""
    m = moments(spec.phi, s)
    return m, m.quadratic / (2 * s * s), m.square_quadratic / (2 * s * s)


def _direct(name, activity, product):
    """The factor of a variance in the equation of q or c."""
    return {"recurrent_var": activity, "input_var": product, "bias_var": 1.0}[name]


def _derivative_of_centre(spec, name):
    """Derivative of mu = E phi(tau* xi), which is taken at the solution of its own equation."""
    if not spec.center or spec.phi.parity == "odd":
        return 0.0
    m, slope, square_slope = _moments(spec, torch.tensor([spec.tau], dtype=torch.float64))
    gain = spec.recurrent_var * (square_slope - 2 * m.mean * slope)
    return float(slope * _direct(name, m.square - m.mean**2, spec.tau0**2) / (1 - gain))


def _derivative_of_rows(spec, name, rows):
    centre = _derivative_of_centre(spec, name)
    slope = rows.square_slope - 2 * spec.offset * rows.mean_slope  # of the activity, for q
    turn = 2 * (spec.offset - rows.mean) * centre
    dq = _direct(name, rows.activity, rows.norms**2) + spec.recurrent_var * turn
    dq = dq / (1 - spec.recurrent_var * slope)
    return _RowDerivatives(centre, dq / (2 * rows.s), rows.mean_slope * dq, slope * dq + turn)


def _block(spec, rows, part, r, names, derivatives):
    """Kernel and derivatives for the rows of a slice with all rows; cosines r (m, n)."""

    def outer(combine, values1, values2):
        return combine(values1[part, None], values2)

    s, s_a, mu = rows.s, spec.recurrent_var, spec.offset
    means, scale = outer(torch.add, rows.mean, rows.mean), outer(torch.mul, s, s)
    dot = outer(torch.mul, rows.norms, rows.norms) * r.clamp(-1, 1)
    dual = dual_function(spec.phi, s[part], s)
    shift = centring_shift(mu, rows.mean[part, None], rows.mean)
    base = spec.input_var * dot + spec.bias_var
    shift, base, scale = (values[:, :, None] for values in (shift, base, scale))
    rho, K, D = solve_correlation(dual, shift, s_a, base, scale)
    K, D = K[:, :, 0], D[:, :, 0]
    gradient = []
    for name, d in zip(names, derivatives, strict=True):
        # how E phi phi changes with the two deviations, at a fixed correlation
        with _ONE_AT_A_TIME, forward_ad.dual_level():
            s1, s2 = forward_ad.make_dual(s[part], d.s[part]), forward_ad.make_dual(s, d.s)
            G, _ = dual_function(spec.phi, s1, s2)(rho)
            d_G = forward_ad.unpack_dual(G).tangent[:, :, 0]
        d_shift = d.centre * (means - 2 * mu) + mu * outer(torch.add, d.mean, d.mean)
        d_scale = (outer(torch.mul, d.s, s) + outer(torch.mul, s, d.s)) * rho[:, :, 0]
        d_c = _direct(name, K, dot) + s_a * (d_G - D * d_scale - d_shift)
        d_c = d_c / (1 - s_a * D)
        gradient.append(d_G + D * (d_c - d_scale) - d_shift)
    return K, torch.stack(gradient, dim=2) if names else K.new_empty(*K.shape, 0)


def _load_forward_derivatives():
    """Import what torch imports at the first dual number: with a warning that is about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("torch._decomp.decompositions_for_jvp")
