r"""Kernels of homogeneous activations, centred or with a bias: functions of one variable.

For phi(a t) = a phi(t), a > 0, the dual of pre-activations of deviations s, s' and correlation rho
is s s' kappa(rho), and E phi is mu s. With the constant m that is subtracted from phi the fixed
point of a pair, over s s', is

    rho = sigma_a^2 kappa(rho) + c,     c = p . p' - sigma_a^2 mu^2,
    p = (sigma_b x / s, sigma_bias / s, sigma_a q),     q = m / s - mu,

so rho is a function of c alone, whatever the norms (:eq:`univariate` of the theory page). Then

    CK = s s' (kappa(rho) - mu^2 + q q'),     NTK = CK / (1 - sigma_a^2 kappa'(rho)),

and that of training the input weights too is CK + s s' rho kappa' / (1 - sigma_a^2 kappa').
"""

from functools import partial

import torch

from .._torch import single_thread
from .cache import kept
from .chebyshev import chebyshev_coefficients, chebyshev_nodes, series_length
from .expectations import FLOOR, moments
from .homogeneous import solve_gap
from .tables import Cubics

_NODES = (128, 256, 512)  # of Chebyshev series in the angle: the first that is enough
_PRECISION = 1e-11  # relative, of the series; of the cubics a tenth


class AngularTable:
    """Functions of a cosine r, smooth in its angle, as piecewise cubics in x = 2 asin(r) / pi.

    Parameters
    ----------
    function : callable
        Cosines (n,) and squares of the sines, which are not rounded near 0, to values
        (n_functions, n).
    """

    def __init__(self, function):
        for n_nodes in _NODES:
            angle = chebyshev_nodes(n_nodes) * (torch.pi / 2)
            series = chebyshev_coefficients(function(torch.sin(angle), torch.cos(angle) ** 2))
            self.resolved = series_length(series, _PRECISION) < n_nodes - 1
            if self.resolved:
                break
        self._cubics, _ = Cubics.through(series, _PRECISION / 100 * float(series.abs().max()))

    def __call__(self, r):
        """Yield the values of each function at r, of any shape, which is overwritten."""
        return self._cubics(r.asin_().mul_(2 / torch.pi))

    def with_slope(self, r):
        """Values of the first function at r, of any shape, and its derivative, 0 where |r| = 1."""
        value, slope = self._cubics.with_slope(r.asin().mul_(2 / torch.pi))
        sine = (1 - r * r).clamp_min_(0).sqrt_()
        return value, torch.where(sine > 0, slope.mul_(2 / torch.pi) / sine, 0)


@kept
@single_thread()
def angular_kernel(pair):
    """The AngularTable of a PairKernel for rows of norm 1."""
    rows = pair.rows(torch.ones(1, dtype=torch.float64))
    return AngularTable(lambda r, w: pair.pairs(rows, rows, r[None, None], w[None, None])[0])


@kept
def univariate_kernel(pair):
    """The UnivariateKernel of a PairKernel, or None where there is none or no table of it."""
    spec = pair.univariate()
    kernel = None if spec is None else UnivariateKernel(spec, pair.kernel)
    return kernel if kernel is not None and kernel.table.resolved else None


class UnivariateKernel:
    """Tables of a kernel in x, an affine function of c that is 1 for a row with itself.

    Parameters
    ----------
    spec : DEQSpec
        Of a homogeneous activation.
    kernel : {"ck", "ntk", "ntk_full"}
    """

    def __init__(self, spec, kernel):
        self.spec, self.kernel = spec, kernel
        one = torch.ones(1, dtype=torch.float64)
        self._dual = partial(self.spec.activation.dual, one, one)
        self.mu = float(moments(self.spec.activation, one).mean)
        low, high = (float(sign - self.spec.recurrent_var * self._dual(sign * one)[0])
                     for sign in (-1, 1))  # fmt: skip
        self._middle, self.half = (low + high) / 2, (high - low) / 2
        self.table = AngularTable(self._functions)

    def _functions(self, x, w):
        gap = self.half * torch.where(x > 0, w / (1 + x), 1 - x)
        return torch.stack(self._parts(*solve_gap(self.spec, gap)))

    def _parts(self, rho, G, D):
        """What is multiplied by s s', and by s s' q q' where that is not 1."""
        G, gain = G - self.mu**2, 1 - self.spec.recurrent_var * D
        if self.kernel == "ntk":
            return G / gain, 1 / gain
        return (G if self.kernel == "ck" else G + rho * D / gain,)

    @property
    def quadratic(self):
        """a and b of a s^2 + 2 b s = c, see `deviations`."""
        spec = self.spec
        a = 1 - spec.recurrent_var * float(self._dual(torch.ones(1, dtype=torch.float64))[0])
        return a, spec.recurrent_var * spec.mean * self.mu

    def deviations(self, norms):
        """s of rows with these norms: s^2 = sigma_a^2 E (phi - m)^2 + sigma_b^2 n^2 + sigma_bias^2.

        A quadratic equation here, for E phi^2 is kappa(1) s^2.
        """
        spec, m, (a, b) = self.spec, self.spec.mean, self.quadratic
        c = spec.recurrent_var * m * m + spec.input_var * norms**2 + spec.bias_var
        return (((b * b + a * c).sqrt() - b) / a).clamp_min(FLOOR)

    def diagonal(self, s):
        """The kernel of rows with themselves."""
        one = torch.ones(1, dtype=torch.float64)
        first, *second = self._parts(one, *self._dual(one))
        t = self.spec.mean - self.mu * s
        return float(first) * s * s + (float(second[0]) if second else 1.0) * t * t

    def coordinates(self, norms, s, unit):
        """Vectors whose products, plus `offset`, are x: for rows norms * unit."""
        spec = self.spec
        q = spec.mean / s - self.mu
        columns = [(spec.bias_var**0.5 / s)[:, None], (spec.recurrent_var**0.5 * q)[:, None]]
        scaled = unit * (spec.input_var**0.5 * norms / s)[:, None].to(unit)
        return torch.cat([scaled, *(column.to(unit) for column in columns)], 1) / self.half**0.5

    @property
    def offset(self):
        """See `coordinates`."""
        return -(self.spec.recurrent_var * self.mu**2 + self._middle) / self.half

    def factors(self, s, like):
        """s and s q as columns."""
        return [part[:, None].to(like) for part in (s, self.spec.mean - self.mu * s)]

    def evaluate(self, first, second, x):
        """The kernel on a tile of x, with the `factors` of its rows and columns."""
        (s1, t1), (s2, t2) = first, second
        values, *more = self.table(x)
        out = values.mul_(s1 * s2.T)
        return torch.addcmul(out, t1 * t2.T, *more) if more else out.addmm_(t1, t2.T)
