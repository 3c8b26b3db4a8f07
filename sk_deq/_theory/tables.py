r"""Tables of functions of two scales and a cosine.

A function F(n1, n2, r), smooth in log n1, log n2 and the cosine r (or its angle), is tabulated as

    F(n1, n2, r) = sum_k T_k(x(r)) sum_ab C_abk T_a(n1) T_b(n2),

each C_k factorised. Its rank is small, so evaluating F on a matrix of cosines costs a short
Clenshaw recurrence with a thin matrix product per term. Where few linear combinations f_j of the
T_k matter (one, if all rows have the same norm), they are looked up as piecewise cubics instead.
"""

import math
from dataclasses import dataclass

import torch

from .chebyshev import (
    chebyshev_coefficients,
    chebyshev_nodes,
    clenshaw,
    scale_basis,
    scale_nodes,
    series_length,
)

_TOLERANCE = 1e-11  # relative size of the coefficients that are left out
_MAX_SCALES = 32
# nodes in the cosine or its angle, of which the first that are enough are taken
_ANGLES = (False, 48), (True, 64), (True, 96)
_OF_ONE_SCALE = (True, 256), (True, 1024)
_TERMS_PER_LOOKUP = (
    10  # terms of Clenshaw's recurrence that take the time of one function looked up
)


@dataclass(frozen=True)
class Cubics:
    """Functions on [-1, 1] as piecewise cubics: coefficients of 1, u, u^2, u^3 in each cell.

    Parameters
    ----------
    coefficients : tensor of shape (n_functions, 4, n_cells)
    """

    coefficients: torch.Tensor

    @classmethod
    def through(cls, series, tolerance):
        """Of Chebyshev series (n_functions, n_terms), on as many cells as they need; its error."""
        u = (1 + chebyshev_nodes(4)) / 2
        to_monomials = torch.linalg.inv(u[:, None] ** torch.arange(4))
        n_cells = 256
        while True:
            edges = torch.arange(n_cells, dtype=torch.float64)[:, None]
            cubics = clenshaw(series, ((edges + u) * (2 / n_cells) - 1).ravel())
            cubics = cubics.unflatten(-1, (n_cells, 4)) @ to_monomials.T
            # between the nodes the error is largest in the middle and at the edges
            at = torch.tensor([0.0, 0.5], dtype=torch.float64)
            exact = clenshaw(series, ((edges + at) * (2 / n_cells) - 1).ravel())
            values = cubics @ (at ** torch.arange(4)[:, None])
            error = float((values.flatten(-2) - exact).abs().max())
            if error <= 10 * tolerance or n_cells == 2**14:
                return cls(cubics.mT.contiguous()), error
            n_cells *= 2

    def _cells(self, x):
        """Index of the cell that each x falls into, and place u in it; x is overwritten."""
        n_cells = self.coefficients.shape[2]
        x.add_(1).mul_(n_cells / 2).clamp_(0, n_cells * (1 - 2 * torch.finfo(x.dtype).eps))
        return x.to(torch.int32).ravel(), x.frac_().ravel()

    def __call__(self, x):
        """Yield the values of every function at x, of any shape, which is overwritten."""
        cell, u = self._cells(x)
        for c0, c1, c2, c3 in self.coefficients.to(x):
            value = c3.index_select(0, cell)
            for c in (c2, c1, c0):
                value = c.index_select(0, cell).addcmul_(value, u)
            yield value.view(x.shape)

    def with_slope(self, x):
        """Values and derivatives of the first function at x, which is overwritten."""
        cell, u = self._cells(x)
        c0, c1, c2, c3 = (c.index_select(0, cell) for c in self.coefficients[0].to(x))
        slope = (3 * c3).mul_(u).add_(c2, alpha=2).mul_(u).add_(c1)
        slope.mul_(self.coefficients.shape[2] / 2)
        value = c3.mul_(u).add_(c2).mul_(u).add_(c1).mul_(u).add_(c0)
        return value.view(x.shape), slope.view(x.shape)


@dataclass(frozen=True)
class Table:
    """sum_k left_k(n1) right_k(n2)^T f_k(x), the factors concatenated over k.

    f_k = T_k, or piecewise cubics; `ends` says where the factors of each k end.
    """

    angular: bool  # x(r) = 2 asin(r) / pi if so, else x(r) = r
    ranges: tuple
    stretch: tuple | None  # factors of a(n1, n2), b(n1, n2): x is that of a r + b if not None
    left: torch.Tensor
    right: torch.Tensor
    ends: tuple
    cubics: Cubics | None

    def __call__(self, scales1, scales2, r):
        """Evaluate on a tile of cosines r (m1, m2), which is overwritten."""
        return self.evaluate(self.factors(0, scales1, r), self.factors(1, scales2, r), r)

    def factors(self, side, scales, like):
        """What `evaluate` needs of the scales (m,) of rows (side 0) or columns (side 1).

        A list of tensors (m, rank), which can be indexed by row.
        """
        if self.cubics is not None and len(self.left) == len(self.right) == 1:
            return []
        matrices = [(self.left, self.right), *(self.stretch or ())]
        matrices = [pair[side] for pair in matrices]
        bases = {n: scale_basis(self.ranges[side], scales, n) for n in {len(m) for m in matrices}}
        return [(bases[len(m)] @ m.to(scales)).to(like) for m in matrices]

    def evaluate(self, first, second, r):
        """Evaluate on a tile of cosines r (m1, m2), which is overwritten, with their `factors`."""
        if self.stretch is not None:
            slope, offset = (a @ b.T for a, b in zip(first[1:], second[1:], strict=True))
            r = offset.addcmul_(slope, r).clamp_(-1, 1)
        x = r.asin_().mul_(2 / math.pi) if self.angular else r
        if not first:
            return next(self.cubics(x))
        first, second = first[0], second[0].T.contiguous()
        parts = [slice(*ends) for ends in zip((0, *self.ends[:-1]), self.ends, strict=True)]
        if self.cubics is None:
            return _matrix_clenshaw([(first[:, part], second[part]) for part in parts], x)
        out = torch.zeros_like(x)
        for part, values in zip(parts, self.cubics(x), strict=True):
            out.addcmul_(values, first[:, part] @ second[part])
        return out


def _matrix_clenshaw(factors, x):
    """Evaluate sum_k (left_k @ right_k) T_k(x) for two terms or more; x is overwritten."""
    b1, b2 = torch.zeros_like(x), torch.zeros_like(x)
    x *= 2
    for left, right in factors[:0:-1]:
        torch.addmm(b2, left, right, beta=-1, out=b2)
        b1, b2 = b2.addcmul_(x, b1), b1
    torch.addmm(b2, *factors[0], beta=-1, out=b2)
    return b2.addcmul_(x, b1, value=0.5)


def tabulate(function, range1, range2, limits=None):
    """Tabulate functions of two scales and a cosine on two ranges of scales.

    Where a function is smooth in the cosine's angle, but for cosines between other limits than -1
    and 1, those limits can be given.

    Parameters
    ----------
    function : callable
        (n1 (m1,), n2 (m2,), r (1, 1, m)) -> tuple of tensors (m1, m2, m).
    range1, range2 : tuple of float
    limits : callable, default=None
        (n1 (m1,), n2 (m2,)) -> lowest and highest cosine, tensors (m1, m2).

    Returns
    -------
    tuple of Table, or None where that takes too many coefficients
    """

    stretch = None
    if limits is not None:
        plain, stretch = function, _stretch(limits, range1, range2)
        if stretch is None:
            return None

        def function(n1, n2, x):
            low, high = (limit[:, :, None] for limit in limits(n1, n2))
            return plain(n1, n2, (low + high) / 2 + (high - low) / 2 * x)

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
    for angular, largest in _ANGLES if max(m1, m2) > 1 else (*_ANGLES, *_OF_ONE_SCALE):
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
            return tuple(_factorise(C, angular, (range1, range2), stretch) for C in coefficients)
        sizes = [n + 4 * grow for n, grow in zip(sizes, short, strict=True)]
    return None


def _cosines(angular, n):
    """The n nodes, in the cosine or in the angle, of a Table's series, (1, 1, n)."""
    x = chebyshev_nodes(n)
    return (torch.sin(x * (math.pi / 2)) if angular else x)[None, None]


def _stretch(limits, range1, range2):
    """Factors of the slope and the offset that map the cosines between the limits to [-1, 1]."""
    nodes = [scale_nodes(r, 1 if r[0] == r[1] else _MAX_SCALES) for r in (range1, range2)]
    low, high = limits(*nodes)
    if not torch.isfinite(low).all() or not torch.isfinite(high).all():
        return None  # norms whose product underflows
    factors = []
    for values in (2 / (high - low), (low + high) / (low - high)):
        C = chebyshev_coefficients(chebyshev_coefficients(values, 0), 1)
        for axis in (0, 1):
            if C.shape[axis] > 1 and series_length(C.movedim(axis, 1), 1e-14) > _MAX_SCALES - 2:
                return None
        U, S, Vh = torch.linalg.svd(C, full_matrices=False)
        rank = max(1, int((S > 1e-15 * S[0]).sum()))
        factors.append((U[:, :rank] * S[:rank], Vh[:rank].T))
    return tuple(factors)


def _factorise(C, angular, ranges, stretch):
    """Truncate the series in k and factorise what depends on the scales."""
    cut = _TOLERANCE / 10 * float(C.abs().max())
    large = torch.nonzero(C.abs().amax((0, 1)) > cut)[:, 0].tolist()
    C = C[:, :, : max([2, *(k + 1 for k in large)])]
    # the functions f_j that matter, by decreasing weight
    U, S, Vh = torch.linalg.svd(C.flatten(0, 1), full_matrices=False)
    n_functions = max(1, int((cut < S).sum()))
    cubics = None
    if _TERMS_PER_LOOKUP * n_functions < C.shape[2]:
        cubics, error = Cubics.through(S[:n_functions, None] * Vh[:n_functions], cut)
        cubics = cubics if error <= 10 * cut else None
    if cubics is not None:
        C = U[:, :n_functions].unflatten(0, C.shape[:2])
    left, right, ends = [], [], []
    for k in range(C.shape[2]):
        U, S, Vh = torch.linalg.svd(C[:, :, k])
        rank = max(1, int((_TOLERANCE / 10 < S).sum() if cubics is not None else (cut < S).sum()))
        left.append(U[:, :rank] * S[:rank])
        right.append(Vh[:rank].T)
        ends.append(rank + (ends[-1] if ends else 0))
    if cubics is not None and C.numel() == 1:
        cubics = Cubics(cubics.coefficients * C.flatten())
    left, right = torch.cat(left, 1), torch.cat(right, 1)
    return Table(angular, ranges, stretch, left, right, tuple(ends), cubics)
