r"""Kernels of infinitely wide networks as functions of a pair of rows: of two norms and a cosine.

With z = phi(sqrt(s_a) A z + sqrt(s_b) B x + bias) / sqrt(m), the covariance of the pre-activations
of two rows of norms n1, n2 and cosine r solves

    Sigma = s_a G(Sigma) + s_b n1 n2 r + s_c,       G = E[phi(u) phi(w)],  (u, w) ~ N(0, Sigma),

and every kernel of the model is a function of Sigma (Feng and Kolter, 2023;
Ling et al., 2024).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from sklearn.exceptions import ConvergenceWarning

from .._state import storable
from .._warn import warn
from .cache import kept
from .clipped import refined
from .duality import dual_function, dual_series, rough_dual
from .expectations import FLOOR, centring_shift, gaussian_rule, moments, slope_square
from .homogeneous import solve_pair
from .spec import DEQSpec

_MAX_TERMS = 1024  # of the series for complex cosines
_NO_RECURRENCE = 1e-6  # up to which correlations come near -1, where `solve_pair` would round them
_NODES = 32  # norms at most whose `rows` are kept: tables ask for the same ones again and again


class PairKernel(Protocol):
    """F(n1, n2, r), which `engine` turns into matrices; hashable, for its tables are kept.

    `rows` computes what is needed of single rows, (n,) norms to (n, n_values); `pairs` F from
    these, (m1, n_values), (m2, n_values) and cosines (.., .., m) to (m1, m2, m), more precisely if
    1 - r^2 is given too; `diagonal` F(n, n, 1) from them, (m,). Where `has_entries`, `entries` does
    what `pairs` does for m single pairs.
    """

    homogeneous: bool  # F scales with both norms
    smooth: bool  # F is smooth also where rows of different norms are nearly parallel
    has_entries: bool
    limits: object  # (n1, n2) -> the cosines between which F is smooth in the angle; or None

    def rows(self, norms): ...

    def pairs(self, rows1, rows2, r, sine=None): ...

    def diagonal(self, rows): ...

    def stable(self, norms):
        """For which norms (n,) of rows F exists."""
        return torch.ones_like(norms, dtype=torch.bool)

    def reduced(self):
        """A simpler kernel, and the constant coordinate that its rows need, or None."""
        return self, None

    def univariate(self):
        """The DEQSpec of a kernel that is a function of one variable, else None."""
        return None


@storable
@dataclass(frozen=True)
class DEQPairKernel(PairKernel):
    """A kernel of the infinitely wide DEQ as a PairKernel; its cosines may be complex, below 1."""

    spec: DEQSpec
    kernel: str = "ck"

    def __post_init__(self):
        # tables are kept by kernel, and tau0 matters for the constant that centres phi only
        if self.spec.mean == 0:
            object.__setattr__(self, "spec", replace(self.spec, center=False, tau0=1.0))

    @property
    def homogeneous(self):
        """Whether the kernel scales with both norms."""
        return self.spec.homogeneous

    @property
    def smooth(self):
        """Whether the kernel is smooth also where rows of different norms are nearly parallel."""
        return not self.spec.activation.kinks

    @property
    def has_entries(self):
        """Whether `entries` can be had."""
        return self.spec.activation.dual is not None

    @property
    def limits(self):
        """The cosines at which pre-activations have correlation -1 and 1, as a function; or None.

        With a kink at 0 alone the kernel is singular there, whatever the norms; the cosines exceed
        1 where the norms differ.
        """
        return self._limits if set(self.spec.activation.kinks) == {0.0} else None

    def _limits(self, n1, n2):
        spec, phi = self.spec, self.spec.phi
        (_, s1, mean1, _), (_, s2, mean2, _) = self.rows(n1).T, self.rows(n2).T
        xi, weight = gaussian_rule(phi.kinks, torch.cat([s1, s2]))
        limits = []
        for sign in (-1, 1):
            G = (weight * phi(s1[:, None] * xi)) @ phi(sign * s2[:, None] * xi).T
            G -= centring_shift(spec.offset, mean1[:, None], mean2)
            base = sign * s1[:, None] * s2 - spec.recurrent_var * G - spec.bias_var
            limits.append(base / (spec.input_var * n1[:, None] * n2))
        return limits

    def reduced(self):
        """Without a homogeneous activation's bias, which is a coordinate c of the rows instead.

        c^2 = bias_var / input_var; the same kernel, five times as fast.
        """
        spec = self.spec
        if spec.bias_var == 0 or not spec.activation.homogeneous or spec.mean != 0:
            return self, None
        constant = (spec.bias_var / spec.input_var) ** 0.5
        return replace(self, spec=replace(spec, bias_var=0.0)), constant

    def univariate(self):
        """The DEQSpec where phi is homogeneous and the kernel is not."""
        return self.spec if self.spec.activation.homogeneous and not self.homogeneous else None

    def stable(self, norms):
        """Which of these norms of rows (n,) have a stable fixed point."""
        return self.spec.stable(norms)

    def rows(self, norms):
        """What the kernel needs of each row: norm, deviation, E phi, E phi^2, centred; (n, 4)."""
        if len(norms) <= _NODES:
            return _rows_of_nodes(self.spec, tuple(norms.tolist()))
        return _rows(self.spec, norms)

    def pairs(self, rows1, rows2, r, sine=None):
        """Kernel values (m1, m2, m) for `rows` (m1, 4), (m2, 4), cosines r (.., .., m), 1 - r^2."""
        phi, s1 = self.spec.phi, rows1[:, 1]
        s2 = s1 if rows2 is rows1 else rows2[:, 1]
        first, second = rows1.T[:, :, None, None], rows2.T[:, None, :, None]
        n_correlations = 5 * r.shape[-1]  # Newton's method asks for every cosine about so often
        dual, rough = dual_function(phi, s1, s2, n_correlations), None
        if not r.is_complex():
            rough = rough_dual(dual, phi, s1, s2, n_correlations)
        else:  # correlations are largest where the cosine is real
            within = self._solve(dual, first, second, r.abs().amax()[None, None, None])[0]
            dual = dual_series(phi, s1, s2, _MAX_TERMS, float(within.max()))
        solved = self._solve(dual, first, second, r, sine, rough)
        return self._value(*solved, first[1] * second[1])

    def entries(self, rows1, rows2, r):
        """Kernel values (m,) of m single pairs: `rows` (m, 4), cosines (m,); by the closed form."""
        dual = partial(self.spec.phi.dual, rows1[:, 1], rows2[:, 1])
        return self._value(*self._solve(dual, rows1.T, rows2.T, r), rows1[:, 1] * rows2[:, 1])

    def _solve(self, dual, first, second, r, sine=None, rough=None):
        """Correlations, G and D for the columns of `rows` and cosines."""
        spec, (n1, s1, mean1, square1), (n2, s2, mean2, square2) = self.spec, first, second
        s_a, s_b, s_c = spec.recurrent_var, spec.input_var, spec.bias_var
        sine = (1 - r) * (1 + r) if sine is None else sine
        if spec.activation.homogeneous and s_a > _NO_RECURRENCE and not r.is_complex():
            return solve_pair(spec, first, second, r, sine)
        base = s_b * (n1 * n2 * r) + s_c
        shift = centring_shift(spec.offset, mean1, mean2)
        if r.is_complex():
            return solve_correlation(dual, shift, s_a, base, s1 * s2)
        # shares of the deviations: of activity and bias, and of the input; a^2 + b^2 = 1
        (a1, b1), (a2, b2) = (
            ((s_a * square + s_c).clamp_min(0).sqrt() / s, s_b**0.5 * n / s)
            for n, s, square in ((n1, s1, square1), (n2, s2, square2))
        )
        a, b = a1 * a2, b1 * b2
        apart = (a1 * b2 - a2 * b1) ** 2 + b * b * sine

        def complement(drive):  # a positive sum, whatever the sizes: determinant of the covariances
            c = drive + s_c / (s1 * s2)
            return apart + (a - c) * (a + c) + 2 * b * (a - c * r)

        size = s_a * (square1 * square2).clamp_min(0).sqrt() / (s1 * s2)
        solved = solve_correlation(dual, shift, s_a, base, s1 * s2, complement, size, rough=rough)
        clipped = spec.activation.name == "hard_tanh" and s_a > 0
        return refined(spec, first, second, r, sine, solved) if clipped else solved

    def diagonal(self, rows):
        """Kernel values (m,) of rows (m, 4) with themselves: their correlation is 1 exactly."""
        _, s, _, square = rows.T
        variance = torch.where(s > FLOOR, s * s, 0)
        return self._value(1.0, square, slope_square(self.spec.phi, s), variance)

    def _value(self, rho, G, D, scale):
        """The kernel of pairs with correlation rho of pre-activations of variance `scale`."""
        if self.kernel == "ck":
            return G  # the conjugate kernel
        gain = 1 - self.spec.recurrent_var * D
        if self.kernel == "ntk":
            return G / gain  # A and v trained (Ling et al., 2024)
        return G + scale * rho * D / gain  # B trained too (Feng and Kolter, 2023)


@kept(max_bytes=2**20)
def _rows_of_nodes(spec, norms):
    return _rows(spec, torch.tensor(norms, dtype=torch.float64))


def _rows(spec, norms):
    deviation = spec.deviation(norms)
    m, some = moments(spec.phi, deviation), deviation > FLOOR  # else it is 0, and so are u and phi
    mean = torch.where(some, 0 * deviation if spec.phi.parity == "odd" else m.mean, 0)
    square = torch.where(some, m.centred_square(spec.offset), spec.offset**2)
    return torch.stack([norms, deviation, mean, square], dim=1)


def solve_correlation(
    dual, shift, recurrent_var, base, scale, complement=None, size=None, *, rough=None
):
    """Solve scale rho = recurrent_var (G(rho) - shift) + base; return rho, G(rho) - shift, D(rho).

    The right-hand side over scale grows more slowly than rho, by recurrent_var D < 1, so there is
    one solution. Newton's method for drive = rho - base / scale; real correlations stay in the
    interval where they must be. Where drive is much smaller than 1, 1 - rho^2 would be rounding:
    `complement` gives it for a drive, and `size` is that which a drive may have. A `rough` dual
    that is faster finds where to start.
    """
    base = base / scale
    drive = torch.zeros_like(base * scale)
    size = 1 + base.abs() if size is None else size
    bounds = None if base.is_complex() else (-1 - 1e-15 - base, 1 + 1e-15 - base)

    def evaluate(dual, drive):
        rho = _into_disc(base + drive)
        if complement is None:
            return rho, *dual(rho)
        w = (1 - rho) * (1 + rho)
        return rho, *dual(rho, torch.where(w > 0.5, w, complement(drive).clamp(0, 1)))

    def residual(dual, drive):
        _, G, D = evaluate(dual, drive)
        return recurrent_var * ((G - shift) / scale) - drive, 1 - recurrent_var * D

    if recurrent_var > 0:
        if rough is not None:
            drive, _ = _newton(partial(residual, rough), drive, bounds, size, 1e-4)
        # convergence is quadratic, with a constant that grows with the variances
        tolerance = max(1e-9 / max(1.0, float(scale.max())), 1e-15)
        drive, change = _newton(partial(residual, dual), drive, bounds, size, tolerance)
        if change is not None:
            warn(
                "The fixed point of a kernel did not converge: its last step changed a correlation "
                f"by {float(change.max()):.1e}. Use a smaller recurrent_var.",
                ConvergenceWarning,
            )
    rho, G, D = evaluate(dual, drive)
    return rho, G - shift, D


def _newton(function, x, bounds, size, tolerance):
    """Solve function(x) -> residual, minus its slope, elementwise, from x and within bounds.

    Returns x, and None or the last changes where some are larger than tolerance * size. Complex x
    have no bounds.
    """
    tried = torch.zeros_like(x, dtype=torch.bool)  # whether an end was tried
    change, settled, before = torch.inf, torch.zeros_like(tried), None
    low, high = bounds or (None, None)
    for _ in range(60):
        residual, slope = function(x)
        divisor = slope
        if bounds and before is not None:  # through the last slope too, by a parabola
            bend = (slope - before[1]) / torch.where(x == before[0], torch.inf, x - before[0])
            divisor = (slope + (slope * slope + 2 * residual * bend).clamp_min(0).sqrt()) / 2
        before, following = (x, slope), x + residual / divisor
        if bounds:
            low, high = torch.where(residual >= 0, x, low), torch.where(residual <= 0, x, high)
            outside = ~((following >= low) & (following <= high))
            # an end of the interval first, which is where equal rows have their solution
            end = torch.where(following < low, low, high)
            following = torch.where(outside, torch.where(tried, (low + high) / 2, end), following)
            tried = tried | outside
        # closer than rounding lets the residual say, nothing is gained
        rounding = 1e-15 * ((residual + x).abs() + size + (1 - slope).abs()) / slope.abs()
        last, change, x = change, (following - x).abs(), following
        settled = settled | (change <= torch.maximum(rounding, tolerance * size))
        settled = settled | ((change >= last) & (change <= 1000 * rounding))  # to and fro
        if bool(settled.all()):
            return x, None
    return x, change


def _into_disc(rho):
    """Correlations no larger than 1 in modulus; rounding may leave them slightly larger."""
    return rho.clamp(-1, 1) if not rho.is_complex() else rho / rho.abs().clamp_min(1)
