r"""A deep equilibrium model as the theory sees it: an activation and a few variances.

The variance q of the pre-activations of a row x solves

    q = s_a E[(phi(sqrt(q) xi) - m)^2] + s_b |x|^2 + s_c,

and the model is centred if the constant m is E phi(tau* xi), tau*^2 the solution for |x| = tau0.
Everything is computed for phi - phi(0) and m - phi(0), which are small for small rows: the
difference of phi and m would lose its digits.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real

import numpy as np
import torch

from .._state import storable
from .._torch import single_thread
from .activations import Activation, get_activation, rise
from .expectations import FLOOR, moments, require_in_range, slope_square

KERNELS = ("ck", "ntk", "ntk_full")
_LARGEST = 1e306  # variances above it are as good as infinite


class NoFixedPointError(ValueError):
    """A row has no stable fixed point."""


@storable
@dataclass(frozen=True)
class DEQSpec:
    """A validated DEQ specification; make it with `deq_spec`."""

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
        constant = None if self.center else self.offset
        return float(solve_variance(self.phi, self.recurrent_var, base, constant).sqrt())

    @property
    def phi(self):
        """The Activation less phi(0)."""
        return rise(self.activation)[0]

    @cached_property
    def offset(self):
        """m - phi(0), the constant m = E phi(tau* xi) or 0 where the DEQ is not centred."""
        if not self.center:
            return 0.0 - rise(self.activation)[1]
        if self.phi.parity == "odd":
            return 0.0
        return float(moments(self.phi, torch.tensor([self.tau], dtype=torch.float64)).mean)

    @cached_property
    def mean(self):
        """The constant m subtracted from phi."""
        return self.offset + rise(self.activation)[1] if self.center else 0.0

    @property
    def homogeneous(self):
        """Whether kernels scale with the norms of the two rows."""
        return self.activation.homogeneous and self.mean == 0 and self.bias_var == 0

    def deviation(self, norms):
        """Standard deviation of the pre-activations of rows with these norms, (n,) to (n,).

        Raises
        ------
        NoFixedPointError, ValueError
            If no stable fixed point exists for a row, or a norm is too large for the computation.
        """
        require_in_range(float(norms.max()), self.input_var)
        deviation, stable = self._deviation(norms)
        if not stable.all():
            bad = norms[~stable]
            largest = _largest_stable(self, lambda spec: bool(spec.stable(bad).all()))
            raise NoFixedPointError(
                f"recurrent_var={self.recurrent_var:g} has no stable fixed point with activation="
                f"{self.activation.name!r}, input_var={self.input_var:g} for a row of norm "
                f"{float(bad[0]):.3g}; use recurrent_var < {largest:.6g}."
            )
        return deviation

    def stable(self, norms):
        """Which of these norms of rows (n,) have a stable fixed point."""
        return self._deviation(norms)[1]

    def _deviation(self, norms):
        """Deviations, and whether each is a stable fixed point: s_a E phi'(u)^2 < 1."""
        base = self.input_var * norms**2 + self.bias_var
        variance = solve_variance(self.phi, self.recurrent_var, base, self.offset)
        solved = torch.isfinite(variance)
        deviation = torch.where(solved, variance, 0).sqrt().clamp_min(FLOOR)
        gain = self.recurrent_var * slope_square(self.phi, deviation)
        return deviation, solved & (gain < 1)


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


@single_thread()
def deq_spec(activation, recurrent_var, input_var=None, bias_var=0.0, center=True, tau0=1.0):
    """Validate a DEQ specification and return it as a DEQSpec.

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
    require_in_range(tau0, input_var, "tau0 =")
    if not isinstance(center, bool | np.bool_):
        raise TypeError(f"center must be True or False, got {center!r}.")
    if activation.lipschitz == math.inf:
        raise ValueError(
            f"activation={activation.name!r} is discontinuous: no fixed point of a DEQ with it is "
            "stable. Use a continuous activation."
        )
    spec = DEQSpec(activation, recurrent_var, input_var, bias_var, bool(center), tau0)
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
    for _ in range(30):
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
    return spec.recurrent_var * float(slope_square(spec.phi, tau)) < 1


def solve_variance(activation, recurrent_var, base, constant=None):
    """Solve q = recurrent_var E[(phi(sqrt(q) xi) - constant)^2] + base for base (n,).

    None for the constant means the solution's own E phi(sqrt(q) xi). Newton's method, from a few
    plain iterations; inf where there is no solution. An entry does not depend on the others.
    Linear where phi is homogeneous and nothing else is subtracted.
    """
    if recurrent_var == 0:
        return base.clone()
    if activation.homogeneous and not constant:
        one = moments(activation, torch.ones(1, dtype=torch.float64))
        gain = recurrent_var * one.centred_square(one.mean if constant is None else 0.0)
        q = torch.where(base > 0, base / (1 - gain).clamp_min(0), 0.0)
        return q.where(q <= _LARGEST, torch.inf)
    # what runs off is set aside, at 1
    lost = ~(base <= _LARGEST)
    base = base.where(~lost, 1.0)
    q = base.clone()
    for iteration in range(100):
        m = moments(activation, q.sqrt().clamp_min(FLOOR))
        mean = m.mean if constant is None else constant
        excess = recurrent_var * m.centred_square(mean) + base - q
        # dq-derivative by Stein's lemma; E phi^2 and E phi have (xi^2 - 1) / (2 q) under E
        slope = m.centred_square_quadratic(mean) / (2 * q.clamp_min(FLOOR**2))
        gain = recurrent_var * slope
        step = excess if iteration < 3 else excess / (1 - gain).clamp_min(1e-6)
        rounding = recurrent_var * (m.square + mean * mean)
        q = (q + step).clamp_min(0)
        # a solution is no larger than base / rounding^2: phi has its slopes of large t long before
        lost = lost | ~(q <= _LARGEST) | ((q > 1e40 * (1 + base)) & (excess > 0))
        q = q.where(~lost, 1.0)
        # no better than rounding lets the excess say
        settled = (step.abs() <= 1e-15 * q + 1e-16 * rounding) | (excess.abs() <= 5e-16 * q)
        if iteration >= 3 and bool((settled | lost).all()):
            break
    else:
        lost = lost | (excess.abs() > 1e-12 * q + 1e-14 * rounding)
    return q.where(~lost, torch.inf)
