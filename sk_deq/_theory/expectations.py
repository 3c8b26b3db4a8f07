r"""Gaussian expectations of an activation: one quadrature rule, moments, the Hermite series.

xi is a standard normal throughout, h_k the normalised (probabilists') Hermite polynomials.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch

from .cache import kept
from .duals import legendre

FLOOR = 1e-153  # standard deviations below it are rounded up to it: no division by zero
_LARGEST = 1e151  # norms above it overflow on the way
_TAIL = 13.0  # P(|xi| > 13) = 1e-38


def require_in_range(norm, input_var=1.0, name="A row of norm"):
    """Raise a ValueError if the square of a norm, or input_var times it, overflows."""
    if not max(1.0, input_var) ** 0.5 * norm <= _LARGEST:
        raise ValueError(
            f"{name} {norm:.3g} is too large: its square is beyond the range of floating-point "
            "numbers. Scale the rows."
        )


def gaussian_rule(kinks, scale):
    """Return nodes xi and weights, (n_scales, n_nodes), exact for E f(scale * xi).

    With no kink but at 0 all scales share one row of nodes, (1, n_nodes).

    Gauss-Legendre panels, split at `kinks` / scale and at 0 and graded towards them, so that
    neither a kink nor a layer of width 1 / scale costs accuracy.

    Parameters
    ----------
    kinks : tuple of float
    scale : tensor of shape (n_scales,), float64
    """
    octaves = _octaves(scale)
    if _is_shared(kinks):
        return _shared_rule(octaves)
    # graded from 1 / 16 on, more coarsely far from the kink
    levels = torch.tensor([k for k in range(octaves - 2) if k < 16 or k % 4 == 0])
    scale = scale[:, None]
    return _rule(kinks, scale, torch.exp2(levels.double() - 4) / scale)


def _octaves(scale):
    """How many octaves, to which a rule is graded, layers of width 1 / scale need."""
    return min(520, max(3, math.ceil(math.log2(max(1.0, float(scale.max()))) + 4)))


def _is_shared(kinks):
    return not set(kinks) - {0.0}


@lru_cache
def _shared_rule(octaves):
    """The rule of all scales where no kink is but at 0."""
    grade = torch.exp2(-torch.arange(2.0, octaves, dtype=torch.float64))[None]
    return _rule((), torch.ones(1, 1, dtype=torch.float64), grade)


def _rule(kinks, scale, grade):
    """Nodes and weights on panels graded by so much towards each kink / scale and 0."""
    grade = torch.cat([-grade, torch.zeros_like(grade[:, :1]), grade], 1)
    panels = [torch.linspace(-_TAIL, _TAIL, 105, dtype=torch.float64).expand(len(scale), -1)]
    panels += [kink / scale + grade for kink in {0.0, *kinks}]
    breaks = torch.cat(panels, dim=1).clamp(-_TAIL, _TAIL).sort(dim=1).values
    x, weight = legendre(16)
    width = breaks.diff(dim=1)[..., None]
    xi = (breaks[:, :-1, None] + width * x).flatten(1)
    density = torch.exp(-xi * xi / 2) / math.sqrt(2 * math.pi)
    return xi, (width * weight).flatten(1) * density


class Moments(NamedTuple):
    """Expectations at scale * xi, each a tensor of shape (n_scales,)."""

    mean: torch.Tensor  # E[phi]
    linear: torch.Tensor  # E[xi phi] = scale E[phi']
    quadratic: torch.Tensor  # E[(xi^2 - 1) phi] = scale^2 E[phi'']
    square: torch.Tensor  # E[phi^2]
    square_quadratic: torch.Tensor  # E[(xi^2 - 1) phi^2] = scale^2 E[(phi^2)'']

    def centred_square(self, constant):
        """E[(phi - constant)^2]."""
        return self.square - 2 * constant * self.mean + constant * constant

    def centred_square_quadratic(self, constant):
        """E[(xi^2 - 1) (phi - constant)^2]."""
        return self.square_quadratic - 2 * constant * self.quadratic


def centring_shift(constant, mean1, mean2):
    """E[phi phi'] - E[(phi - constant) (phi' - constant)] for E phi = mean1, E phi' = mean2."""
    return constant * (mean1 + mean2) - constant * constant


def moments(activation, scale):
    """Return the Moments of an Activation at each of `scale`, a float64 tensor (n_scales,)."""
    if activation.moments is not None:
        return Moments(*activation.moments(scale))
    xi, weight = gaussian_rule(activation.kinks, scale)
    value = activation(scale[:, None] * xi)
    first, second = weight * value, weight * value * value
    quadratic = xi * xi - 1
    return Moments(
        mean=first.sum(1),
        linear=(first * xi).sum(1),
        quadratic=(first * quadratic).sum(1),
        square=second.sum(1),
        square_quadratic=(second * quadratic).sum(1),
    )


def slope_square(activation, scale):
    """Return E[phi'(scale * xi)^2] at each of `scale`, a float64 tensor (n_scales,)."""
    if activation.moments is not None:
        return activation.dual(scale, scale, torch.ones_like(scale))[1]
    xi, weight = gaussian_rule(activation.kinks, scale)
    return (weight * activation.derivative(scale[:, None] * xi) ** 2).sum(1)


def hermite_coefficients(activation, scale, n_terms):
    r"""Return a_k = E[phi(scale * xi) h_k(xi)] for k < n_terms, of shape (n_scales, n_terms)."""
    if not _is_shared(activation.kinks):
        return _own_coefficients(activation, tuple(scale.tolist()), n_terms)
    xi, weight = gaussian_rule(activation.kinks, scale)
    weighted = weight * activation(scale[:, None] * xi)
    return weighted @ _shared_polynomials(_octaves(scale), n_terms).T


@kept
def _own_coefficients(activation, scale, n_terms):
    """Those of an activation with kinks beside 0: every scale has nodes of its own."""
    scale = torch.tensor(scale, dtype=torch.float64)
    xi, weight = gaussian_rule(activation.kinks, scale)
    weighted = weight * activation(scale[:, None] * xi)
    terms = [(weighted * h).sum(1, keepdim=True) for h in _each_polynomial(xi, n_terms)]
    return torch.cat(terms, dim=1)


@kept
def _shared_polynomials(octaves, n_terms):
    return hermite_polynomials(_shared_rule(octaves)[0][0], n_terms)


def hermite_polynomials(x, n_terms):
    """h_0 to h_{n_terms - 1} at x (n,), (n_terms, n)."""
    return torch.stack(list(_each_polynomial(x, n_terms)))


def _each_polynomial(x, n_terms):
    """Yield h_0 to h_{n_terms - 1} at x."""
    previous, current = torch.zeros_like(x), torch.ones_like(x)
    for k in range(n_terms):
        yield current
        following = (x * current).sub_(previous, alpha=math.sqrt(k)).div_(math.sqrt(k + 1))
        previous, current = current, following
