r"""Chebyshev series: in one variable, and for functions of two scales and a cosine.

A function F(n1, n2, r), smooth in log n1, log n2 and the cosine r (or its angle), is tabulated as

    F(n1, n2, r) = sum_k T_k(x(r)) sum_ab C_abk T_a(n1) T_b(n2)

and each C_k is factorised. Its rank is small, so evaluating F on a matrix of cosines costs a short
Clenshaw recurrence with a thin matrix product per term.
"""

import math
from dataclasses import dataclass

import torch

_TOLERANCE = 1e-11  # relative size of the coefficients that are left out
_MAX_SCALES = 32


def chebyshev_nodes(n):
    """The n zeros of the Chebyshev polynomial T_n on (-1, 1), falling, as a float64 tensor."""
    return torch.cos((torch.arange(n, dtype=torch.float64) + 0.5) * (math.pi / n))


def chebyshev_coefficients(values, axis=-1):
    """Coefficients, along an axis, of the interpolant through values at chebyshev_nodes."""
    values = values.movedim(axis, -1)
    n = values.shape[-1]
    k = torch.arange(n, dtype=torch.float64)
    transform = torch.cos(k[:, None] * (k + 0.5) * (math.pi / n)) * (2 / n)
    transform[0] /= 2
    return (values @ transform.T).movedim(-1, axis)


def series_length(coefficients, tolerance):
    """How many coefficients along the last axis matter: exceed tolerance times the largest."""
    size = coefficients.abs().flatten(0, -2).amax(0)
    return 1 + max(torch.nonzero(size > tolerance * size.max())[:, 0].tolist(), default=0)


def clenshaw(coefficients, x):
    """Evaluate sum_k coefficients[..., k] T_k(x[..., :]) by Clenshaw's recurrence."""
    first = second = torch.zeros_like(x)
    for k in range(coefficients.shape[-1] - 1, 0, -1):
        first, second = coefficients[..., k, None] + 2 * x * first - second, first
    return coefficients[..., 0, None] + x * first - second


def scale_ranges(scales, octaves=2):
    """Intervals that cover all scales: a point if all are equal, else at most so many octaves."""
    scales = scales.cpu()
    positive = scales[scales > 0]
    ranges = [(0.0, 0.0)] if len(positive) < len(scales) else []
    if len(positive) == 0:
        return ranges
    low, high = float(positive.min()), float(positive.max())
    if high <= low * (1 + 1e-12):
        scale = float(f"{high:.12g}")
        return [*ranges, (scale, scale)]
    for octave in torch.log2(positive).floor().unique().tolist():
        if ranges and ranges[-1][0] and octave < math.log2(ranges[-1][0]) + octaves:
            ranges[-1] = (ranges[-1][0], 2.0 ** (octave + 1))
        else:
            ranges.append((2.0**octave, 2.0 ** (octave + 1)))
    return ranges


def scale_nodes(scale_range, n_nodes):
    low, high = scale_range
    if n_nodes == 1:
        return torch.tensor([low], dtype=torch.float64)
    middle, half = math.log(low * high) / 2, math.log(high / low) / 2
    return torch.exp(middle + half * chebyshev_nodes(n_nodes))


def scale_basis(scale_range, scales, n_terms):
    """T_a of the log-scales mapped to [-1, 1], (n, n_terms)."""
    if n_terms == 1:
        return torch.ones_like(scales)[:, None]
    low, high = scale_range
    x = (torch.log(scales / low) * (2 / math.log(high / low)) - 1).clamp(-1, 1)
    return torch.cos(torch.acos(x)[:, None] * torch.arange(n_terms, device=x.device))


@dataclass(frozen=True)
class Table:
    """C_k = left_k right_k^T, the factors concatenated over k; `ends` says where each ends."""

    angular: bool  # x(r) = 2 asin(r) / pi if so, else x(r) = r
    ranges: tuple
    left: torch.Tensor
    right: torch.Tensor
    ends: tuple

    def __call__(self, scales1, scales2, r):
        """Evaluate on a tile of cosines r (m1, m2), which is overwritten."""
        x = r.asin_().mul_(2 / math.pi) if self.angular else r
        if len(self.left) == len(self.right) == 1:
            return self._univariate(x)
        first = scale_basis(self.ranges[0], scales1, len(self.left)) @ self.left.to(scales1)
        second = scale_basis(self.ranges[1], scales2, len(self.right)) @ self.right.to(scales2)
        first, second = first.to(x), second.to(x).T.contiguous()
        b1, b2 = torch.zeros_like(x), torch.zeros_like(x)
        x *= 2
        for k in range(len(self.ends) - 1, 0, -1):
            factor = slice(self.ends[k - 1], self.ends[k])
            torch.addmm(b2, first[:, factor], second[factor], beta=-1, out=b2)
            b1, b2 = b2.addcmul_(x, b1), b1
        torch.addmm(b2, first[:, : self.ends[0]], second[: self.ends[0]], beta=-1, out=b2)
        return b2.addcmul_(x, b1, value=0.5)

    def _univariate(self, x):
        coefficients = (self.left[0] * self.right[0]).tolist()
        b1, b2 = torch.full_like(x, coefficients[-1]), torch.zeros_like(x)
        x *= 2
        for c in coefficients[-2:0:-1]:
            b1, b2 = b2.neg_().add_(c).addcmul_(x, b1), b1
        return b2.neg_().add_(coefficients[0]).addcmul_(x, b1, value=0.5)


def tabulate(function, range1, range2):
    """Tabulate functions of two scales and a cosine on two ranges of scales.

    Parameters
    ----------
    function : callable
        (n1 (m1,), n2 (m2,), r (1, 1, m)) -> tuple of tensors (m1, m2, m).
    range1, range2 : tuple of float

    Returns
    -------
    tuple of Table, or None where that takes too many coefficients
    """

    def length(axis, coefficients):
        return max(series_length(C.movedim(axis, 2), _TOLERANCE) for C in coefficients)

    def probe(axis, *arguments):
        lines = function(*arguments)
        return 4 + length(axis, [chebyshev_coefficients(F, axis) for F in lines])

    # sizes are found along single lines, where the function is cheap, and verified on the whole
    ends1, ends2 = (scale_nodes(r, 1 if r[0] == r[1] else 2) for r in (range1, range2))
    some = torch.tensor([-0.9, 0.5, 0.9, 0.999], dtype=torch.float64)[None, None]
    m1 = m2 = 1
    if len(ends1) > 1:
        m1 = probe(0, scale_nodes(range1, _MAX_SCALES), ends2, some)
    if len(ends2) > 1:
        again = range1 == range2
        m2 = m1 if again else probe(1, ends1, scale_nodes(range2, _MAX_SCALES), some)
    for angular, largest in ((False, 48), (True, 64), (True, 96)):
        n_angles = probe(2, ends1, ends2, _cosines(angular, largest))
        if n_angles <= largest:
            break
    sizes = [m1, m2, n_angles]
    while max(sizes[:2]) <= _MAX_SCALES and sizes[2] <= largest:
        nodes1 = scale_nodes(range1, sizes[0])
        nodes2 = nodes1 if range1 == range2 else scale_nodes(range2, sizes[1])
        coefficients = function(nodes1, nodes2, _cosines(angular, sizes[2]))
        for axis in range(3):
            coefficients = [chebyshev_coefficients(C, axis) for C in coefficients]
        # two negligible coefficients on each axis show that it was enough
        short = [n > 1 and length(axis, coefficients) > n - 2 for axis, n in enumerate(sizes)]
        if not any(short):
            return tuple(_factorise(C, angular, (range1, range2)) for C in coefficients)
        sizes = [n + 4 * grow for n, grow in zip(sizes, short, strict=True)]
    return None


def _cosines(angular, n):
    """The n nodes, in the cosine or in the angle, of a Table's series, (1, 1, n)."""
    x = chebyshev_nodes(n)
    return (torch.sin(x * (math.pi / 2)) if angular else x)[None, None]


def _factorise(C, angular, ranges):
    """Truncate the series in k and replace every C_k by factors of its numerical rank."""
    cut = _TOLERANCE / 10 * float(C.abs().max())
    left, right, ends = [], [], []
    large = torch.nonzero(C.abs().amax((0, 1)) > cut)[:, 0].tolist()
    n_terms = max([2, *(k + 1 for k in large)])
    for k in range(n_terms):
        U, S, Vh = torch.linalg.svd(C[:, :, k])
        rank = max(1, int((cut < S).sum()))
        left.append(U[:, :rank] * S[:rank])
        right.append(Vh[:rank].T)
        ends.append(rank + (ends[-1] if ends else 0))
    return Table(angular, ranges, torch.cat(left, 1), torch.cat(right, 1), tuple(ends))
