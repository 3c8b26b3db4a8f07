r"""Dual activations: E[phi(u) phi(w)] and E[phi'(u) phi'(w)] for Gaussian pairs (u, w).

By Mehler's series, a closed form, or quadrature: whichever is exact and fast for the activation.
"""

import math
from dataclasses import replace
from functools import partial

import torch

from .cache import kept
from .chebyshev import (
    chebyshev_coefficients,
    chebyshev_nodes,
    clenshaw,
    scale_ranges,
    series_length,
)
from .duals import SHORT, polar, polar_rules, sine_square
from .expectations import hermite_coefficients
from .tables import tabulate


def dual_function(activation, s1, s2, n_correlations=1):
    r"""Return the map r -> (E[phi(u) phi(w)], E[phi'(u) phi'(w)]); it also takes 1 - r^2.

    (u, w) is centred Gaussian with standard deviations s1[i] and s2[j] and correlation r[i, j, :].
    A short closed form; else Mehler's series for the pairs for which it converges fast; else a
    long closed form; else quadrature if phi is smooth but at 0; else the series as far as it goes.

    Parameters
    ----------
    activation : Activation
    s1, s2 : tensors of shape (n1,) and (n2,), float64
    n_correlations : int
        About how many correlations will be asked for each pair of scales, if many: then what is not
        a series is interpolated in the angle.

    Returns
    -------
    callable
        Takes a float64 tensor broadcastable to (n1, n2, n), returns two of its broadcast shape.
    """
    # of a callable that may have a kink at 0 the coefficients are right, and tell whether it does
    at_zero = set(activation.kinks) == {0.0}
    smooth = not activation.kinks or (at_zero and activation.dual is None)
    if smooth and not (activation.homogeneous or activation.dual in SHORT):
        for n_terms in (64, 256) if activation.dual else (64, 256, 1024):
            a1, a2, left_out = _short_series(activation, s1, s2, n_terms)
            short = left_out <= 1e-29
            if short.all():
                return _series(a1, a2, s1, s2)
            if not (left_out <= 1e-13).any():  # it falls like exp(-c sqrt(n_terms))
                break
        if (activation.dual or at_zero) and short.any() and n_correlations <= 100:
            return _mixed(_series(a1, a2, s1, s2), _pairwise(activation), short, s1, s2)
    if activation.dual is None and at_zero:
        if len(s1) * len(s2) > 1024:
            return _tabulated_polar(activation, s1, s2)
        if n_correlations > 100:
            return _polar(activation, s1, s2)
    if activation.dual is not None and n_correlations > 100 and (at_zero or not activation.kinks):
        return _interpolated(activation.dual, s1, s2)
    if activation.dual is not None or at_zero:
        return _direct(activation, s1, s2)
    return dual_series(activation, s1, s2, 400)


def rough_dual(activation, s1, s2):
    """A faster `dual_function` of a few digits where r is not next to 1 or -1, or None."""
    if activation.dual in SHORT or activation.homogeneous:
        return None
    smooth = replace(activation, kinks=())
    return _series(*(hermite_coefficients(smooth, s, 48) for s in (s1, s2)), s1, s2)


def _short_series(activation, s1, s2, n_terms):
    """Mehler's series of so many terms, shortened, and about what it leaves out of pairs of scales.

    That is no more than the root of what it leaves out of both.
    """
    a1 = hermite_coefficients(activation, s1, n_terms)
    a2 = a1 if s2 is s1 else hermite_coefficients(activation, s2, n_terms)
    length = min(n_terms, max(_series_length(a1), _series_length(a2)))
    return a1[:, :length], a2[:, :length], _left_out(a1)[:, None] * _left_out(a2)


def dual_series(activation, s1, s2, n_terms, within=1.0):
    r"""Return what `dual_function` does by Mehler's series sum_k a_k(s1) a_k(s2) r^k, truncated.

    Also takes complex r. As many of the n_terms are kept as matter for \|r\| <= `within`; the
    truncated kernel is positive semidefinite as it stands. Homogeneous activations need no series:
    their closed form takes complex r.
    """
    if activation.homogeneous and activation.dual is not None:
        return lambda r, w=None: activation.dual(s1[:, None, None], s2[None, :, None], r, w)
    a1, a2 = (hermite_coefficients(activation, s, n_terms) for s in (s1, s2))
    length = max(_series_length(a, within) for a in (a1, a2))
    return _series(a1[:, :length], a2[:, :length], s1, s2)


def _series(a1, a2, s1, s2):
    # of phi(u) / s1 and phi(w) / s2, which neither under- nor overflow
    b1, b2 = ((a / s[:, None])[:, :, None] for a, s in ((a1, s1), (a2, s2)))
    scale = s1[:, None, None] * s2[None, :, None]

    def dual(r, w=None):
        G = D = torch.zeros_like(r)
        for k in range(b1.shape[1] - 1, -1, -1):
            D = torch.addcmul(G, D, r)  # Horner's rule for the derivative
            G = torch.addcmul(b1[:, None, k] * b2[None, :, k], G, r)
        return scale * G, D

    return dual


def _mixed(series, closed, short, s1, s2):
    """The series for the pairs of scales for which it is exact, else the closed form."""
    i, j = torch.nonzero(~short, as_tuple=True)

    def dual(r, w=None):
        values = series(r)
        pairs = (None if x is None else x.expand(values[0].shape)[i, j] for x in (r, w))
        exact = closed(s1[i, None], s2[j, None], *pairs)
        return tuple(v.index_put((i, j), e) for v, e in zip(values, exact, strict=True))

    return dual


def _energy(a):
    """That of phi' in each term: k a_k^2, relative to all, for coefficients (n_scales, n_terms)."""
    energy = torch.arange(a.shape[1]) * a * a
    return energy / energy.sum(1, keepdim=True)


def _series_length(a, within=1.0):
    """How many coefficients (n_scales, n_terms) matter, to rounding, for |r| <= within."""
    energy = _energy(a) * within ** torch.arange(a.shape[1])
    left = energy.flip(1).cumsum(1).flip(1)
    return 1 + int((left > 1e-15 * energy.sum(1, keepdim=True)).any(0).sum())


def _left_out(a):
    """About the share of the energy that coefficients (n_scales, n_terms) leave out."""
    return _energy(a)[:, -8:].sum(1)


def _interpolated(dual, s1, s2):
    """Interpolate a dual in the angle, with as many nodes as the largest scales need."""
    s1, s2 = s1[:, None, None], s2[None, :, None]

    def coefficients(s1, s2, n_angles):
        r = torch.sin(chebyshev_nodes(n_angles) * (math.pi / 2))
        return chebyshev_coefficients(torch.stack(dual(s1, s2, r[None, None])))

    n_angles = 4 + series_length(coefficients(s1.amax(0, True), s2.amax(1, True), 96), 1e-14)
    if n_angles > 96:  # not smooth enough
        return lambda r, w=None: dual(s1, s2, r, w)
    return _angular_series(coefficients(s1, s2, n_angles))


def _angular_series(coefficients):
    G, D = coefficients

    def dual(r, w=None):
        at = torch.atan2(r, (sine_square(r) if w is None else w).sqrt()) * (2 / math.pi)
        return clenshaw(G, at), clenshaw(D, at)

    return dual


def _polar(activation, s1, s2):
    """Quadrature in polar coordinates at nodes of the angle, for phi smooth but at 0.

    The result is smooth in the angle, so it is interpolated: a product of matrices for each node.
    """
    for n_angles in (64, 128, 256):
        coefficients = chebyshev_coefficients(_at_angles(activation, s1, s2, n_angles))
        if max(series_length(C, 1e-14) for C in coefficients) < n_angles - 1:
            return _angular_series(coefficients)
    return _angular_series(coefficients)


def _at_angles(activation, s1, s2, n_angles):
    r"""G and D at Chebyshev nodes of the angle, (2, n1, n2, n_angles).

    u = s1 R cos(alpha), w = s2 R cos(alpha - theta), r = cos(theta): phi(u) phi(w) is smooth on
    each of the four arcs between the zeros of the cosines.
    """
    (radial, radial_weight), (arc, arc_weight) = polar_rules(max(float(s1.max()), float(s2.max())))
    radius = 12 * radial[:, None]
    radial_weight = 12 * radial_weight[:, None] * radius * torch.exp(-radius * radius / 2)
    values = torch.zeros(2, len(s1), len(s2), n_angles, dtype=torch.float64)
    for i, theta in enumerate(((1 - chebyshev_nodes(n_angles)) * math.pi / 2).tolist()):
        width = torch.tensor([theta, math.pi - theta] * 2, dtype=torch.float64)[:, None]
        start = math.pi / 2 + torch.cumsum(width, 0) - width
        angle = (start + width * arc).ravel()
        weight = (radial_weight * (width * arc_weight).ravel() / (2 * math.pi)).ravel()
        u = s1[:, None] * (radius * torch.cos(angle)).ravel()
        w = s2[:, None] * (radius * torch.cos(angle - theta)).ravel()
        values[0, :, :, i] = (activation(u) * weight) @ activation(w).T
        values[1, :, :, i] = (activation.derivative(u) * weight) @ activation.derivative(w).T
    return values


def _direct(activation, s1, s2):
    """By the closed form, or else by quadrature, for phi smooth but at 0."""
    dual = _pairwise(activation)
    return lambda r, w=None: dual(s1[:, None, None], s2[None, :, None], r, w)


def _pairwise(activation):
    """The dual of single pairs, by the closed form, or else by quadrature."""
    return activation.dual or partial(polar, activation.with_slope)


def _tabulated_polar(activation, s1, s2):
    """`_polar` for many scales: smooth in their logarithms, so tabulated; for r (n1, n2, 1)."""
    (range1,), (range2,) = (scale_ranges(s, octaves=None) for s in (s1, s2))
    tables = _polar_tables(activation, range1, range2)
    if tables is None:
        return _polar(activation, s1, s2)
    return lambda r, w=None: tuple(
        table(s1, s2, r[:, :, 0].clone())[:, :, None] for table in tables
    )


@kept
def _polar_tables(activation, range1, range2):
    return tabulate(lambda s1, s2, r: _polar(activation, s1, s2)(r), range1, range2)
