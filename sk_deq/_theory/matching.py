"""Solving the four matching equations for the activations of a shallow explicit network.

A layer's parameters are kept relative to its input scale, and hidden layers are normalised to keep
that scale (the equations leave it free), so that a solution depends on nothing but the target.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares
from scipy.special import erf, erfc
from sklearn.exceptions import ConvergenceWarning

from .._state import storable
from .._warn import warn
from .four_numbers import KernelCoefficients, LayerMoments, recursion
from .layers import hard_tanh_layer, hermite_layer, leaky_relu_layer

_N_STARTS = 40


@storable
class MatchResult(NamedTuple):
    """What `match_explicit` found.

    Parameters
    ----------
    layers : tuple of Layer
        The activations of the explicit network, first layer first.
    target, achieved : KernelCoefficients
        The DEQ's four numbers and the network's.
    residual : float
        Largest relative deviation between the two (of a zero number: relative to the diagonal).
    n_layers : int
        Number of hidden layers.

    Examples
    --------
    >>> from sk_deq.theory import match_explicit
    >>> match = match_explicit("relu", recurrent_var=0.2)
    >>> match.n_layers, match.target.linear, match.achieved.linear
    (2, 0.2105, 0.2105)
    """

    layers: tuple
    target: tuple
    achieved: tuple
    residual: float
    n_layers: int


class _Family(NamedTuple):
    """Activations of unit input scale with a few parameters."""

    n_parameters: int
    moments: Callable
    layer: Callable  # (*parameters, scale) -> Layer
    amplitudes: slice  # parameters that multiply the activation
    hidden: tuple = (None,)  # parameters fixed to 0 in all but the last layer, in order of trial


def _leaky_relu_moments(s, d):
    # a = s + d, b = s - d: sigma = s t + d |t|, less its mean
    square = s * s + d * d * (1 - 2 / math.pi)
    return LayerMoments(s * s, 2 * d * d / math.pi, 2 * square, square, s * s + d * d)


def _leaky_relu(s, d, scale):
    s, d = abs(s), abs(d)
    return leaky_relu_layer(s + d, s - d, scale)


def _hard_tanh_moments(a, log_c):
    c = math.exp(log_c)
    inside = erf(c / math.sqrt(2))
    density = math.sqrt(2 / math.pi) * math.exp(-c * c / 2)
    variance = inside + c * c * erfc(c / math.sqrt(2)) - c * density
    e4 = 2 * (inside - c * density)
    return LayerMoments(*(a * a * x for x in (inside**2, 0.0, e4, variance, inside)))


def _hard_tanh(a, log_c, scale):
    return hard_tanh_layer(abs(a), math.exp(log_c) * scale, scale)


def _hermite_moments(c1, c2, c3):
    slope = c1 * c1 + 2 * c2 * c2 + 3 * c3 * c3
    cross = 2 * math.sqrt(6) * c1 * c3
    return LayerMoments(c1 * c1, 2 * c2 * c2, 2 * slope + cross, c1 * c1 + c2 * c2 + c3 * c3, slope)


def _hermite(c1, c2, c3, scale):
    sign = -1.0 if c1 < 0 else 1.0  # of c1 c3 only the product matters
    return hermite_layer(sign * c1 * scale, abs(c2) * scale, sign * c3 * scale, scale)


_FAMILIES = {
    "leaky_relu": _Family(2, _leaky_relu_moments, _leaky_relu, slice(0, 2)),
    "hard_tanh": _Family(2, _hard_tanh_moments, _hard_tanh, slice(0, 1)),
    "hermite": _Family(3, _hermite_moments, _hermite, slice(0, 3), (2, None)),
}
_AUTO = [(1, "leaky_relu"), (1, "hard_tanh"), (1, "hermite")]
_AUTO += [(2, "leaky_relu"), (2, "hermite"), (3, "hermite")]


def solve_matching(target, tau0, kernel, n_layers="auto", family="auto", tol=1e-8):
    """Try families and depths from the simplest on; see `theory.match_explicit`."""
    if family != "auto" and family not in _FAMILIES:
        raise ValueError(f"family={family!r} is unknown; use 'auto' or one of {list(_FAMILIES)}.")
    if n_layers != "auto" and (
        isinstance(n_layers, bool) or not isinstance(n_layers, int | np.integer) or n_layers < 1
    ):
        raise ValueError(f"n_layers must be 'auto' or a positive integer, got {n_layers!r}.")
    depths = (1, 2, 3) if n_layers == "auto" else (int(n_layers),)
    names = _FAMILIES if family == "auto" else (family,)
    trials = _AUTO if family == n_layers == "auto" else list(product(depths, names))
    # in units of tau0 the equations do not know it
    units = np.array([tau0**-2, tau0**-4, tau0**-4, 1.0])
    goal = np.array(target) / units / tau0**2
    best = None
    for depth, name, zero in ((d, n, zero) for d, n in trials for zero in _FAMILIES[n].hidden):
        found = _solve(goal, _FAMILIES[name], depth, zero, kernel, tol)
        if best is None or found[0] < best[0]:
            best = (*found, name, depth)
        if best[0] <= tol:
            break
    residual, parameters, name, depth = best
    if residual > tol:
        warn(
            f"The matching equations are not solved: relative residual {residual:.1e} > tol="
            f"{tol:g} with {depth} layer(s) of family {name!r}. Use family='auto', more layers, "
            "another recurrent_var, or accept the approximation by a larger tol.",
            ConvergenceWarning,
        )
    achieved = _coefficients([_FAMILIES[name].moments(*p) for p in parameters], kernel)
    layers, scale = [], tau0
    for p in parameters:
        layers.append(_FAMILIES[name].layer(*p, scale))
        scale *= math.sqrt(_FAMILIES[name].moments(*p).square)
    achieved = KernelCoefficients(*(float(x) for x in achieved * units * tau0**2))
    return MatchResult(tuple(layers), target, achieved, float(residual), depth)


def _coefficients(layers, kernel):
    """The four numbers of layers given by their moments at unit scale, for tau0 = 1."""

    def along():
        variance = 1.0
        for m in layers:
            # sigma keeps its shape relative to its input: sigma'' scales with the inverse
            yield m._replace(e2=m.e2 / variance, square=m.square * variance)
            variance *= m.square

    return np.array(recursion(along(), kernel))


def _solve(goal, family, depth, zero, kernel, tol):
    """Least squares from several starts; returns the residual and the parameters of every layer."""
    weight = np.where(np.abs(goal) > 1e-12 * goal[3], np.abs(goal), goal[3])
    width = family.n_parameters

    def unpack(x):
        layers = x.reshape(depth, width).copy()
        if zero is not None:
            layers[:-1, zero] = 0
        for p in layers[:-1]:
            p[family.amplitudes] /= math.sqrt(max(family.moments(*p).square, 1e-300))
        return layers

    def error(x):
        moments = [family.moments(*p) for p in unpack(x)]
        return (_coefficients(moments, kernel) - goal) / weight

    rng = np.random.default_rng(0)
    best = (np.inf, None)
    for _ in range(8 if depth == 1 else _N_STARTS):
        start = rng.normal(size=depth * width)
        fit = least_squares(error, start, xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=300)
        residual = float(np.abs(fit.fun).max())
        if residual < best[0]:
            best = (residual, unpack(fit.x))
        if residual <= min(tol, 1e-10):
            break
    return best
