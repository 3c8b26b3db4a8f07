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


def chebyshev_nodes(n):
    """The n zeros of the Chebyshev polynomial T_n on (-1, 1), falling, as a float64 tensor."""
    return torch.cos((torch.arange(n, dtype=torch.float64) + 0.5) * (math.pi / n))


def chebyshev_coefficients(values):
    """Coefficients, along the last axis, of the interpolant through values at chebyshev_nodes."""
    n = values.shape[-1]
    k = torch.arange(n, dtype=torch.float64)
    transform = torch.cos(k[:, None] * (k + 0.5) * (math.pi / n)) * (2 / n)
    transform[0] /= 2
    return values @ transform.T


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
    """Tabulate a function (n1 (m1,), n2 (m2,), r (1, 1, m)) -> (m1, m2, m) on two scale ranges.

    Returns None where that takes too many coefficients.
    """
    angular, n_angles, n_scales = False, 48, 10
    while n_angles <= 96 and n_scales <= 20:
        x = chebyshev_nodes(n_angles)
        r = torch.sin(x * (math.pi / 2)) if angular else x
        m1, m2 = (1 if low == high else n_scales for low, high in (range1, range2))
        nodes1 = scale_nodes(range1, m1)
        nodes2 = nodes1 if range1 == range2 else scale_nodes(range2, m2)
        C = chebyshev_coefficients(function(nodes1, nodes2, r[None, None]))
        C = chebyshev_coefficients(C.transpose(1, 2)).transpose(1, 2)
        C = chebyshev_coefficients(C.transpose(0, 2)).transpose(0, 2)
        enough = _TOLERANCE * float(C.abs().max())
        if float(C[:, :, -3:].abs().max()) > enough:
            angular, n_angles = True, n_angles * (2 if angular else 1)
        elif (m1 > 1 and float(C[-2:].abs().max()) > enough) or (
            m2 > 1 and float(C[:, -2:].abs().max()) > enough
        ):
            n_scales += 5
        else:
            return _factorise(C, angular, (range1, range2), enough / 10)
    return None


def _factorise(C, angular, ranges, cut):
    """Truncate the series in k and replace every C_k by factors of its numerical rank."""
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
