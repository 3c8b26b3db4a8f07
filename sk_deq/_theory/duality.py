r"""Dual activations: E[phi(u) phi(w)] and E[phi'(u) phi'(w)] for Gaussian pairs (u, w).

By Mehler's series, a closed form, or quadrature: whichever is exact and fast for the activation.
"""

import math
from dataclasses import replace
from functools import partial

import torch
from sklearn.exceptions import ConvergenceWarning

from .._warn import warn
from .cache import kept
from .chebyshev import (
    chebyshev_coefficients,
    chebyshev_nodes,
    clenshaw,
    scale_basis,
    scale_nodes,
    series_length,
    shortened,
)
from .duals import POLAR, SHORT, polar, polar_rules, sine_square
from .expectations import gaussian_rule, hermite_coefficients, slope_square
from .logistic import Mixture

_MOST_SCALES = 36  # nodes for two octaves of scales
_FEW_PAIRS = 1000  # with their correlations: single quadratures take less time than a table
_MOST_TABLES = 9  # of two octaves of both scales
_FINER = (1.0, 1.5, 2.0, 3.0, 4.0)  # times as many nodes in polar coordinates, as phi needs
_RESOLVED = 1e-8  # error up to which it has enough
_OSCILLATES = 1e-4  # errors of sums over callables that oscillate are 1e-3 and more, others below


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
    by_quadrature = at_zero and activation.dual is None
    smooth = not activation.kinks or by_quadrature
    if by_quadrature:
        _tell_of_oscillation(activation, float(s1.max()), float(s2.max()))
    many = n_correlations > 100 or len(s1) * len(s2) * n_correlations > _FEW_PAIRS
    angular = None
    if smooth and not (activation.homogeneous or activation.dual in SHORT):
        for n_terms in (64, 256) if activation.dual else (64, 256, 1024):
            a1, a2, left_out = _short_series(activation, s1, s2, n_terms)
            short = left_out <= 1e-29
            if short.all():
                return _series(a1, a2, s1, s2)
            if isinstance(activation.dual, Mixture):
                angular = activation.dual.in_angle(s1, s2)
            # it falls like exp(-c sqrt(n_terms))
            if angular is not None or not (left_out <= 1e-13).any():
                break
        if by_quadrature and many and (tables := _tabulated_polar(activation, s1, s2)):
            return tables
        if (activation.dual or at_zero) and short.any() and n_correlations <= 100:
            i, j = torch.nonzero(~short, as_tuple=True)
            if angular is not None:
                exact = _AngularSeries(angular[:, i, j])
            else:
                exact = partial(_pairwise(activation), s1[i, None], s2[j, None])
            return _mixed(_series(a1, a2, s1, s2), exact, i, j)
    if angular is not None:
        return _AngularSeries(angular)
    if by_quadrature and many:
        return _polar(activation, s1, s2) or _direct(activation, s1, s2)
    if activation.dual is not None and n_correlations > 100 and (at_zero or not activation.kinks):
        return _interpolated(activation.dual, s1, s2)
    if activation.dual is not None or at_zero:
        return _direct(activation, s1, s2)
    return dual_series(activation, s1, s2, 400)


def rough_dual(dual, activation, s1, s2, n_correlations):
    """A faster `dual_function` of a few digits where r is not next to 1 or -1, or None."""
    if isinstance(dual, _AngularSeries):
        return dual.rough()
    if activation.dual in SHORT or activation.homogeneous:
        return None
    if n_correlations > 100 and not (activation.dual and activation.kinks):  # a series already
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


def _mixed(series, exact, i, j):
    """The series, but for the pairs of scales (i, j) another function of the correlation."""

    def dual(r, w=None):
        values = series(r)
        pairs = (None if x is None else x.expand(values[0].shape)[i, j] for x in (r, w))
        return tuple(v.index_put((i, j), e) for v, e in zip(values, exact(*pairs), strict=True))

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
    return _AngularSeries(coefficients(s1, s2, n_angles))


class _AngularSeries:
    """A dual by its Chebyshev coefficients in the angle, (2, .., n_terms)."""

    def __init__(self, coefficients):
        self.coefficients = coefficients

    def __call__(self, r, w=None):
        at = torch.atan2(r, (sine_square(r) if w is None else w).sqrt()) * (2 / math.pi)
        return clenshaw(self.coefficients, at).unbind()

    def rough(self):
        """The same to a few digits."""
        return _AngularSeries(shortened(self.coefficients, 1e-4))


def _polar(activation, s1, s2):
    """Quadrature in polar coordinates at nodes of the angle, for phi smooth but at 0.

    The result is smooth in the angle, so it is interpolated: products of matrices for each node, as
    many as the largest scales need. None if these are more than 512.
    """
    for n_angles in (64, 128, 256, 512):
        ends = s1.amax(0, True), s2.amax(0, True)
        probe = chebyshev_coefficients(_at_angles(activation, *ends, n_angles, True))
        enough = 8 + max(series_length(C, 1e-14) for C in probe)
        if enough <= n_angles:
            return _AngularSeries(chebyshev_coefficients(_at_angles(activation, s1, s2, enough)))
    return None


def _at_angles(activation, s1, s2, n_angles, same_rule=False):
    r"""G and D at Chebyshev nodes of the angle, (2, n1, n2, n_angles).

    By the same rule for all angles, whose error is smooth in the angle, or by fewer nodes for
    narrow arcs.

    With r = sin(angle) the directions in which u and w have the same sign, or not, are arcs of
    width pi / 2 + angle, or - angle. On one of width omega \|u\| = s1 R sin(a) and
    \|w\| = s2 R sin(omega - a), where phi(u) phi(w) is smooth; the even parts of phi add, the odd
    ones add or cancel.
    """
    largest = max(float(s1.max()), float(s2.max()))
    finer = _finer(activation, largest)
    alike, unlike = torch.zeros(2, 2, len(s1), len(s2), n_angles, dtype=torch.float64)

    def parts(s, radius, a):
        """Even and odd parts of phi, and then of phi', at s R sin(a): two of (n, n_nodes)."""
        u = s[:, None] * (radius[:, None] * torch.sin(a)).ravel()
        for up, down in zip(activation.with_slope(u), activation.with_slope(-u), strict=True):
            yield up + down, up - down

    for i, omega in enumerate(((1 + chebyshev_nodes(n_angles)) * math.pi / 2).tolist()):
        width = math.pi if same_rule else omega
        (radius, radial_weight), (arc, arc_weight) = polar_rules(largest, width, finer)
        weight = (radial_weight[:, None] * (omega * arc_weight / 2)).ravel()
        first = list(parts(s1, radius, omega * arc))
        second = parts(s2, radius, omega * arc.flip(0))
        if s2 is s1:
            second = [
                [x.unflatten(1, (len(radius), -1)).flip(2).flatten(1) for x in pair]
                for pair in first
            ]
        for k, ((even1, odd1), (even2, odd2)) in enumerate(zip(first, second, strict=True)):
            even, odd = (even1 * weight) @ even2.T, (odd1 * weight) @ odd2.T
            alike[k, :, :, i], unlike[k, :, :, n_angles - 1 - i] = even + odd, even - odd
    return alike + unlike


def _direct(activation, s1, s2):
    """By the closed form, or else by quadrature, for phi smooth but at 0."""
    dual = _pairwise(activation)
    return lambda r, w=None: dual(s1[:, None, None], s2[None, :, None], r, w)


def _pairwise(activation):
    """The dual of single pairs, by the closed form, or else by quadrature."""
    return activation.dual or partial(_quadrature, activation)


def _quadrature(activation, s1, s2, r, w=None):
    finer = _finer(activation, max(float(s1.max()), float(s2.max())))
    return polar(activation.with_slope, s1, s2, r, w, finer=finer)


def _tell_of_oscillation(activation, s1, s2):
    """Warn if quadrature does not resolve phi' at scales up to these.

    No number of nodes would do at 1e6 for a slope that oscillates without end, such as cos(t).
    """
    error = _missed(activation, s1, s2)
    if error > _OSCILLATES:
        warn(
            f"activation={activation.name!r} oscillates too fast for rows as large as these: "
            f"kernels, NTKs above all, are right to about {error:.0e} only. Use smaller rows or a "
            "smaller input_var.",
            ConvergenceWarning,
        )


def _missed(activation, s1, s2):
    """How far quadrature may be from E phi'(u) E phi'(w), for scales up to these."""
    bound = _bound(max(s1, s2))
    if bound is not None:
        return _unresolved(activation, bound, bound, _finer(activation, bound))
    ends = sorted(12 * 2.0 ** max(0, math.ceil(math.log2(s / 12))) for s in (s1, s2))
    return _unresolved(activation, *ends, 1.0)


def _bound(largest):
    """The scale up to which the rules for this one serve, None beyond the last."""
    return next((bound for bound in POLAR if largest <= bound), None)


def _finer(activation, largest):
    """How many times the nodes of `polar_rules` a phi needs that may oscillate."""
    bound = _bound(largest)
    for finer in _FINER:
        if bound is None or _unresolved(activation, bound, bound, finer) <= _RESOLVED:
            break
    return finer


@kept(max_bytes=2**20)
def _unresolved(activation, largest1, largest2, finer):
    """How far quadrature is from E phi'(u) E phi'(w) for these scales and some nearby.

    Of independent u and w, both positive or both negative, relative to the roots of E phi'^2:
    E phi'(s xi) = E xi (phi(s xi) - phi(0)) / s needs no slope. The worst, for a sum that misses an
    oscillation may be right by chance.
    """
    near = torch.tensor([12.0, 11.0, 10.0, 9.0, 8.0], dtype=torch.float64) / 12
    s = torch.cat([largest1 * near, largest2 * near])
    xi, weight = gaussian_rule(activation.kinks, s)
    origin = activation(torch.zeros(1, dtype=torch.float64))
    slopes = weight * xi * (activation(s[:, None] * xi) - origin) / s[:, None]
    errors, (s1, s2) = [], s.chunk(2)
    for sign in (-1, 1):
        D = polar(
            activation.with_slope, s1, s2, torch.zeros_like(s1), signs=[(sign, sign)], finer=finer
        )[1]
        first, second = torch.where(sign * xi > 0, slopes, 0).sum(1).chunk(2)
        errors.append(D - first * second)
    first, second = slope_square(activation, s).chunk(2)
    return float((torch.stack(errors).abs() / (first * second).sqrt().clamp_min(1e-300)).max())


def _tabulated_polar(activation, s1, s2):
    """`_polar` from tables for two octaves of both scales each, None where it takes many."""
    (index1, parts1), (index2, parts2) = _octaves(s1), _octaves(s2)
    ends = (_two_octaves(max(parts))[1] for parts in (parts1, parts2))
    if len(parts1) * len(parts2) > _MOST_TABLES or _missed(activation, *ends) > _OSCILLATES:
        return None
    found = {(i, j): _polar_table(activation, min(i, j), max(i, j)) for i in parts1 for j in parts2}
    if any(table is None for table in found.values()):
        return None
    C = torch.zeros(2, len(s1), len(s2), max(table.shape[3] for table in found.values()))
    C = C.double()
    for (i, j), table in found.items():
        rows, columns = torch.nonzero(index1 == i)[:, 0], torch.nonzero(index2 == j)[:, 0]
        table = table if i <= j else table.transpose(1, 2)
        first = scale_basis(_two_octaves(i), s1[rows], table.shape[1])
        second = scale_basis(_two_octaves(j), s2[columns], table.shape[2])
        here = torch.einsum("ia,kabt,jb->kijt", first, table, second)
        C[:, rows[:, None], columns, : table.shape[3]] = here
    return _AngularSeries(C)


def _octaves(scales):
    """Which `_two_octaves` scales fall into, and the list of these."""
    index = ((torch.log2(scales) + 1) / 2).floor()
    return index, index.unique().tolist()


def _two_octaves(index):
    return 4.0**index / 2, 4.0**index * 2


@kept
def _polar_table(activation, i, j):
    """Chebyshev coefficients in both scales and the angle, (2, n_1, n_2, n_terms), or None.

    As many as the largest scale of the other side needs, None if that is more than _MOST_SCALES.
    """
    ranges = [_two_octaves(k) for k in ((i,) if i == j else (i, j))]
    nodes = []
    for this, other in zip(ranges, ranges[::-1], strict=True):
        line = scale_nodes(this, _MOST_SCALES), scale_nodes(other, _MOST_SCALES)[:1]
        probe = chebyshev_coefficients(_at_angles(activation, *line, 8, True)[:, :, 0], 1)
        n_scales = 2 + max(series_length(C.T, 1e-13) for C in probe)
        if n_scales > _MOST_SCALES:
            return None
        nodes.append(scale_nodes(this, n_scales))
    series = _polar(activation, nodes[0], nodes[-1])
    if series is None:
        return None
    return chebyshev_coefficients(chebyshev_coefficients(series.coefficients, 1), 2)
