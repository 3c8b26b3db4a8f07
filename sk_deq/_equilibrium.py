r"""The infinitely wide deep equilibrium model: its pre-activation variances and covariances.

With z = phi(sqrt(s_a) A z + sqrt(s_b) B x + bias) / sqrt(m), the covariance of the pre-activations
of two rows of norms n1, n2 and cosine r solves

    Sigma = s_a G(Sigma) + s_b n1 n2 r + s_c,       G = E[phi(u) phi(w)],  (u, w) ~ N(0, Sigma),

and every kernel of the model is a function of Sigma (Feng and Kolter, 2023;
Ling et al., 2024).
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from numbers import Real

import numpy as np
import torch

from ._activations import Activation, get_activation
from ._gaussian import dual_function, dual_series, gaussian_rule, moments, slope_square

KERNELS = ("ck", "ntk", "ntk_full")
FLOOR = 1e-150  # standard deviations below it are rounded up to it: no division by zero


@dataclass(frozen=True)
class Equilibrium:
    """A validated DEQ specification; make it with `equilibrium`."""

    activation: Activation
    recurrent_var: float
    input_var: float
    bias_var: float
    center: bool
    tau0: float

    @cached_property
    def tau(self):
        """Standard deviation tau* of the pre-activations of a row of norm tau0."""
        base = self.input_var * self.tau0**2 + self.bias_var
        base = torch.tensor([base], dtype=torch.float64)
        variance = solve_variance(self.activation, self.recurrent_var, base, self.center)
        return float(variance.sqrt())

    @cached_property
    def mean(self):
        """The constant E phi(tau* xi) subtracted from phi; 0 where the DEQ is not centred."""
        if not self.center or self.activation.parity == "odd":
            return 0.0
        return float(moments(self.activation, torch.tensor([self.tau], dtype=torch.float64)).mean)

    @property
    def homogeneous(self):
        """Whether kernels scale with the norms of the two rows."""
        return self.activation.homogeneous and self.mean == 0 and self.bias_var == 0

    def deviation(self, norms):
        """Standard deviation of the pre-activations of rows with these norms, (n,) to (n,).

        Raises
        ------
        ValueError
            If no stable fixed point exists for a row.
        """
        deviation, stable = self._deviation(norms)
        if not stable.all():
            bad = norms[~stable]
            largest = _largest_stable(self, lambda spec: bool(spec._deviation(bad)[1].all()))
            raise ValueError(
                f"recurrent_var={self.recurrent_var:g} has no stable fixed point with activation="
                f"{self.activation.name!r}, input_var={self.input_var:g} for a row of norm "
                f"{float(bad[0]):.3g}; use recurrent_var < {largest:.6g}."
            )
        return deviation

    def _deviation(self, norms):
        """Deviations, and whether each is a stable fixed point: s_a E phi'(u)^2 < 1."""
        base = self.input_var * norms**2 + self.bias_var
        variance = solve_variance(self.activation, self.recurrent_var, base, self.mean)
        solved = torch.isfinite(variance)
        deviation = torch.where(solved, variance, 0).sqrt().clamp_min(FLOOR)
        gain = self.recurrent_var * slope_square(self.activation, deviation)
        return deviation, solved & (gain < 1)


@dataclass(frozen=True)
class DEQPairKernel:
    """A kernel of the infinitely wide DEQ as a function of two norms and a cosine.

    With `n_terms`, duals are Mehler series of that length and cosines may be complex.
    """

    spec: Equilibrium
    kernel: str = "ck"
    n_terms: int | None = None

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
        spec, phi = self.spec, self.spec.activation
        (_, s1, mean1), (_, s2, mean2) = self.rows(n1).T, self.rows(n2).T
        xi, weight = gaussian_rule(phi.kinks, torch.cat([s1, s2]))
        limits = []
        for sign in (-1, 1):
            G = (weight * phi(s1[:, None] * xi)) @ phi(sign * s2[:, None] * xi).T
            G -= self._shift(mean1[:, None], mean2)
            base = sign * s1[:, None] * s2 - spec.recurrent_var * G - spec.bias_var
            limits.append(base / (spec.input_var * n1[:, None] * n2))
        return limits

    def _shift(self, mean1, mean2):
        """E phi phi - E (phi - mean) (phi - mean)."""
        return self.spec.mean * (mean1 + mean2) - self.spec.mean**2

    def rows(self, norms):
        """What the kernel needs of each row: (n, 3) with norm, deviation and E phi at it."""
        deviation = self.spec.deviation(norms)
        mean = moments(self.spec.activation, deviation).mean
        return torch.stack([norms, deviation, mean], dim=1)

    def pairs(self, rows1, rows2, r):
        """Kernel values (m1, m2, m) for `rows` (m1, 3), (m2, 3) and cosines (.., .., m)."""
        phi, s1, s2 = self.spec.activation, rows1[:, 1], rows2[:, 1]
        if self.n_terms is None:
            # Newton's method asks for every cosine about five times
            dual = dual_function(phi, s1, s2, 5 * r.shape[-1])
        else:
            dual = dual_series(phi, s1, s2, self.n_terms)
        return self._solve(dual, rows1.T[:, :, None, None], rows2.T[:, None, :, None], r)

    def entries(self, rows1, rows2, r):
        """Kernel values (m,) of m single pairs: `rows` (m, 3), cosines (m,); by the closed form."""
        dual = partial(self.spec.activation.dual, rows1[:, 1], rows2[:, 1])
        return self._solve(dual, rows1.T, rows2.T, r)

    def _solve(self, dual, first, second, r):
        spec, (n1, s1, mean1), (n2, s2, mean2) = self.spec, first, second
        base = spec.input_var * (n1 * n2 * r) + spec.bias_var
        scale, shift = s1 * s2, self._shift(mean1, mean2)
        rho, G, D = solve_correlation(dual, shift, spec.recurrent_var, base, scale)
        return self._value(G, D, scale * rho)

    def diagonal(self, rows):
        """Kernel values (m,) of rows (m, 3) with themselves: their correlation is 1 exactly."""
        spec, (_, s, _) = self.spec, rows.T
        m = moments(spec.activation, s)
        G = m.square - 2 * spec.mean * m.mean + spec.mean**2
        return self._value(G, slope_square(spec.activation, s), s * s)

    def _value(self, G, D, covariance):
        if self.kernel == "ck":
            return G  # the conjugate kernel
        gain = 1 - self.spec.recurrent_var * D
        if self.kernel == "ntk":
            return G / gain  # A and v trained (Ling et al., 2024)
        return G + covariance * D / gain  # B trained too (Feng and Kolter, 2023)


def resolve_input_var(recurrent_var, input_var):
    """input_var, or where it is None what recurrent_var leaves of 1.

    Raises
    ------
    ValueError
        If nothing is left.
    """
    if input_var is not None:
        return input_var
    if recurrent_var >= 1:
        raise ValueError(
            f"recurrent_var={recurrent_var:g} leaves no input variance: input_var=None means "
            "1 - recurrent_var; use recurrent_var < 1 or give input_var."
        )
    return 1 - recurrent_var


def equilibrium(activation, recurrent_var, input_var=None, bias_var=0.0, center=True, tau0=1.0):
    """Validate a DEQ specification and return it as an Equilibrium.

    Raises
    ------
    ValueError, TypeError
        For a value out of range, or a recurrent_var for which there is no stable fixed point.
    """
    activation = get_activation(activation)
    recurrent_var = _number("recurrent_var", recurrent_var, 0.0)
    input_var = resolve_input_var(recurrent_var, input_var)
    input_var = _number("input_var", input_var, 0.0, strict=True)
    bias_var = _number("bias_var", bias_var, 0.0)
    tau0 = _number("tau0", tau0, 0.0, strict=True)
    if not isinstance(center, bool | np.bool_):
        raise TypeError(f"center must be True or False, got {center!r}.")
    if activation.lipschitz == math.inf:
        raise ValueError(
            f"activation={activation.name!r} is discontinuous: no fixed point of a DEQ with it is "
            "stable. Use a continuous activation."
        )
    spec = Equilibrium(activation, recurrent_var, input_var, bias_var, bool(center), tau0)
    if not _is_stable(spec):
        raise ValueError(
            f"recurrent_var={recurrent_var:g} has no stable fixed point with activation="
            f"{activation.name!r}, input_var={input_var:g}; use recurrent_var < "
            f"{_largest_stable(spec, _is_stable):.6g}."
        )
    return spec


def _largest_stable(spec, is_stable):
    """The recurrent_var up to which is_stable(spec) holds, where it does not at spec's own."""
    low, high = 0.0, spec.recurrent_var
    for _ in range(40):
        middle = (low + high) / 2
        stable = is_stable(replace(spec, recurrent_var=middle))
        low, high = (middle, high) if stable else (low, middle)
    return low


def _number(name, value, low, strict=False):
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {value!r}.")
    value = float(value)
    if not (value > low if strict else value >= low) or value == float("inf"):
        raise ValueError(
            f"{name} must be finite and {'>' if strict else '>='} {low:g}, got {value}."
        )
    return value


def _is_stable(spec):
    """Whether tau* exists and s_a E phi'(tau* xi)^2 < 1, so that iterating the DEQ converges."""
    tau = torch.tensor([spec.tau], dtype=torch.float64)
    if not torch.isfinite(tau):
        return False
    return spec.recurrent_var * float(slope_square(spec.activation, tau)) < 1


def solve_variance(activation, recurrent_var, base, center):
    """Solve q = recurrent_var E[(phi(sqrt(q) xi) - mean)^2] + base for every entry of base, (n,).

    `center` is the constant mean, False for 0, or True for the solution's own E phi(sqrt(q) xi).
    Newton's method, from a few plain iterations; inf where there is no solution.
    """
    q = base.clone()
    if recurrent_var == 0:
        return q
    for iteration in range(100):
        m = moments(activation, q.sqrt().clamp_min(FLOOR))
        mean = m.mean if center is True else float(center)
        excess = recurrent_var * (m.square - 2 * mean * m.mean + mean * mean) + base - q
        # dq-derivative by Stein's lemma; E phi^2 and E phi have (xi^2 - 1) / (2 q) under E
        slope = (m.square_quadratic - 2 * mean * m.quadratic) / (2 * q.clamp_min(FLOOR**2))
        gain = recurrent_var * slope
        step = excess if iteration < 3 else excess / (1 - gain).clamp_min(0.02)
        q = (q + step).clamp_min(0)
        rounding = recurrent_var * (m.square + mean * mean)
        if not torch.isfinite(q).all() or (q > 1e306).any():
            return torch.full_like(q, torch.inf)
        if iteration >= 3 and bool((step.abs() <= 1e-15 * q + 1e-16 * rounding).all()):
            return q
    unsolved = excess.abs() > 1e-12 * q + 1e-14 * rounding
    return torch.where(unsolved, torch.inf, q)


def solve_correlation(dual, shift, recurrent_var, base, scale):
    """Solve scale rho = recurrent_var (G(rho) - shift) + base; return rho, G(rho) - shift, D(rho).

    Newton's method; G is convex where it matters, so it converges from below without a line search.
    """
    base = base / scale
    rho = _into_disc(base)
    # convergence is quadratic, with a constant that grows with the variances
    tolerance = max(1e-9 / max(1.0, float(scale.max())), 1e-15)
    for _ in range(60):
        G, D = dual(rho)
        residual = recurrent_var * ((G - shift) / scale) + base - rho
        following = _into_disc(rho + residual / (1 - recurrent_var * D))
        change = float((following - rho).abs().max())
        rho = following
        if change <= tolerance or recurrent_var == 0:
            break
    G, D = dual(rho)
    return rho, G - shift, D


def _into_disc(rho):
    """Correlations no larger than 1 in modulus; rounding may leave them slightly larger."""
    return rho.clamp(-1, 1) if not rho.is_complex() else rho / rho.abs().clamp_min(1)
