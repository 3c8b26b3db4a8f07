r"""Gram matrices of kernels that depend on norms and cosine: k(x, y) = F(|x|, |y|, cos(x, y)).

Where F is smooth it is tabulated as a Chebyshev series (`_chebyshev.tabulate`), and an entry costs
little more than its dot product. Elsewhere F is evaluated entry by entry; what it needs of single
rows is interpolated in their norms.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch

from ._chebyshev import chebyshev_coefficients, scale_basis, scale_nodes, scale_ranges, tabulate
from ._torch import single_thread

_TILE = 256  # rows and columns of a tile: its buffers stay in cache


def kernel_matrix(pair, X, Y=None):
    """Return the matrix k(X[i], Y[j]) as a tensor of X's dtype and device.

    Parameters
    ----------
    pair : hashable object
        Its methods `rows`, `pairs` and `diagonal` compute F, see `_equilibrium.DEQPairKernel`; its
        attribute `homogeneous` says that F scales with both norms.
    X : tensor of shape (n_X, n_features)
    Y : tensor of shape (n_Y, n_features), default=None
        None means X; then the result is symmetric and computed once.
    """
    n_threads = torch.get_num_threads()
    with single_thread():
        return _kernel_matrix(pair, X, Y, n_threads)


def _kernel_matrix(pair, X, Y, n_threads):
    symmetric = Y is None
    norms1, unit1 = _normalise(X)
    norms2, unit2 = (norms1, unit1) if symmetric else _normalise(Y)
    unit1 = unit1 * (1 + 8 * torch.finfo(X.dtype).eps)  # rounding leaves duplicates at cosine 1
    out = X.new_empty(len(norms1), len(norms2))
    if out.numel() == 0:
        return out
    groups = [(1.0, 1.0)] if pair.homogeneous else scale_ranges(torch.cat([norms1, norms2]))
    for i, range1 in enumerate(groups):
        rows = _members(norms1, range1, groups)
        for range2 in groups[i if symmetric else 0 :]:
            columns = _members(norms2, range2, groups)
            first, second = (rows, norms1, unit1), (columns, norms2, unit2)
            _fill(out, pair, (range1, range2), first, second, symmetric, n_threads)
    return out


def kernel_diagonal(pair, X):
    """Return k(X[i], X[i]) as a tensor of shape (n,)."""
    norms, _ = _normalise(X)
    out = X.new_empty(len(norms))
    groups = [(1.0, 1.0)] if pair.homogeneous else scale_ranges(norms)
    for norm_range in groups:
        rows = _members(norms, norm_range, groups)
        out[rows] = _diagonal(pair, norm_range, norms[rows]).to(out)
    return out


def _normalise(X):
    """Norms, in float64, and rows of norm 1; safe for norms whose square overflows."""
    largest = X.abs().amax(dim=1, keepdim=True)
    unit = X / torch.where(largest > 0, largest, 1)
    norms = torch.linalg.vector_norm(unit, dim=1, keepdim=True)
    unit /= torch.where(norms > 0, norms, 1)
    return (norms.double() * largest.double())[:, 0], unit


def _members(norms, norm_range, groups):
    """The rows of a range: all of them as a slice, or an index tensor."""
    if len(groups) == 1:
        return slice(None)
    low, high = norm_range
    inside = norms == low if low == high else (norms >= low) & (norms < high)
    return torch.nonzero(inside)[:, 0]


def _run(function, arguments, n_threads):
    """Call function(*argument) for every argument, on so many threads.

    Whole tiles go to threads of their own: splitting every small operation between threads costs
    a barrier each time, which is slow, and very slow where others use the processor too.
    """
    if n_threads == 1 or len(arguments) == 1:
        for argument in arguments:
            function(*argument)
        return
    with ThreadPoolExecutor(n_threads, initializer=_one_thread) as pool:
        for done in [pool.submit(function, *argument) for argument in arguments]:
            done.result()


def _one_thread():
    torch.set_num_threads(1)


def _fill(out, pair, ranges, first, second, symmetric, n_threads):
    """Evaluate the block out[rows, columns] in tiles."""
    (rows, norms1, unit1), (columns, norms2, unit2) = first, second
    norms1, unit1, norms2, unit2 = norms1[rows], unit1[rows], norms2[columns], unit2[columns]
    table = _table(pair, *ranges)
    if table is None:
        values1 = _interpolate(_row_table(pair, ranges[0]), ranges[0], norms1.cpu())
        values2 = _interpolate(_row_table(pair, ranges[1]), ranges[1], norms2.cpu())
    block = out if isinstance(rows, slice) else out.new_empty(len(norms1), len(norms2))
    triangle = symmetric and ranges[0] == ranges[1]
    size = _TILE * 16 if out.is_cuda else _TILE

    def fill_tile(i, j):
        here, there = slice(i, i + size), slice(j, j + size)
        r = (unit1[here] @ unit2[there].T).clamp_(-1, 1)
        if table is not None:
            tile = table(norms1[here], norms2[there], r)
        else:
            r = r.cpu().double()[:, :, None]
            tile = pair.pairs(values1[here], values2[there], r)[:, :, 0].to(out)
            same = (r[:, :, 0] == 1) & (norms1[here, None] == norms2[there]).cpu()
            if same.any():  # rounding in the correlation would show at a kink
                row, column = torch.nonzero(same, as_tuple=True)
                tile[row, column] = _diagonal(pair, ranges[0], norms1[here][row]).to(tile)
        if pair.homogeneous:
            tile *= (norms1[here, None] * norms2[there]).to(tile)
        if triangle and i == j:
            tile.diagonal().copy_(_diagonal(pair, ranges[0], norms1[here]))
            tile = tile.triu().add_(tile.triu(1).T)
        block[here, there] = tile
        if triangle and i != j:
            block[there, here] = tile.T

    _diagonal_table(pair, ranges[0])  # once, before the threads want it
    tiles = [
        (i, j)
        for i in range(0, len(norms1), size)
        for j in range(i if triangle else 0, len(norms2), size)
    ]
    _run(fill_tile, tiles, 1 if out.is_cuda else n_threads)
    if block is not out:
        out[rows[:, None], columns] = block
        if symmetric and not triangle:
            out[columns[:, None], rows] = block.T


@lru_cache(maxsize=256)
def _table(pair, range1, range2):
    """The kernel as a Table; None if it is not smooth enough."""
    if range1 != range2 or range1[0] < range1[1]:
        if not pair.smooth:
            return None
    with single_thread():
        tables = tabulate(
            lambda n1, n2, r: (pair.pairs(pair.rows(n1), pair.rows(n2), r),), range1, range2
        )
    return None if tables is None else tables[0]


def _diagonal(pair, norm_range, norms):
    """F(n, n, 1) for every norm."""
    if pair.homogeneous:
        return _diagonal_table(pair, norm_range)[0].to(norms) * norms**2
    return _interpolate(_diagonal_table(pair, norm_range), norm_range, norms)


@lru_cache(maxsize=256)
def _diagonal_table(pair, norm_range):
    """Chebyshev coefficients of n -> F(n, n, 1), (n_nodes,)."""
    nodes = _row_nodes(norm_range)
    with single_thread():
        return chebyshev_coefficients(pair.diagonal(pair.rows(nodes)))


@lru_cache(maxsize=256)
def _row_table(pair, norm_range):
    """Chebyshev coefficients of n -> pair.rows(n), (n_values, n_nodes)."""
    with single_thread():
        return chebyshev_coefficients(pair.rows(_row_nodes(norm_range)).T)


def _row_nodes(norm_range):
    return scale_nodes(norm_range, 1 if norm_range[0] == norm_range[1] else 32)


def _interpolate(coefficients, norm_range, norms):
    """Evaluate Chebyshev coefficients (.., n_nodes) at norms (n,): (n, ..)."""
    basis = scale_basis(norm_range, norms, coefficients.shape[-1])
    return torch.einsum("nk,...k->n...", basis, coefficients.to(norms.device))
