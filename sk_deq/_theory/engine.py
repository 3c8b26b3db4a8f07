r"""Gram matrices of kernels that depend on norms and cosine: k(x, y) = F(|x|, |y|, cos(x, y)).

Where F is smooth it is tabulated as a Chebyshev series (`tables.tabulate`), and an entry costs
little more than its dot product. Elsewhere F is evaluated entry by entry; what it needs of single
rows is interpolated in their norms.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch.nn.functional import pad

from .._scaling import row_norms
from .._torch import single_thread
from .chebyshev import chebyshev_coefficients, scale_basis, scale_nodes, scale_ranges
from .tables import tabulate
from .univariate import univariate_kernel

_TILE = 256  # rows and columns of a tile: its buffers stay in cache
_NEAR = 0.8  # cosines up to which a kernel with kinks elsewhere than at 0 is tabulated


def kernel_matrix(pair, X, Y=None):
    """Return the matrix k(X[i], Y[j]) as a tensor of X's dtype and device.

    Parameters
    ----------
    pair : PairKernel
    X : tensor of shape (n_X, n_features)
    Y : tensor of shape (n_Y, n_features), default=None
        None means X; then the result is symmetric and computed once.
    """
    n_threads = torch.get_num_threads()
    with single_thread():
        pair, constant = pair.reduced()
        if constant is not None:
            X, Y = (Z if Z is None else pad(Z, (0, 1), value=constant) for Z in (X, Y))
        return _kernel_matrix(pair, X, Y, n_threads)


def _kernel_matrix(pair, X, Y, n_threads):
    symmetric = Y is None
    norms1, unit1 = normalise(X)
    norms2, unit2 = (norms1, unit1) if symmetric else normalise(Y)
    unit1 = grown(unit1)
    out = _empty(len(norms1), len(norms2), X)
    if out.numel() == 0:
        return out
    norms = torch.cat([norms1, norms2])
    pair.rows(torch.stack(norms.aminmax()).cpu())  # a row without a fixed point is named, no node
    one = univariate_kernel(pair)
    if one is not None:
        _fill_univariate(out, one, (norms1, unit1), (norms2, unit2), symmetric, n_threads)
        return out
    groups = [(1.0, 1.0)] if pair.homogeneous else _groups(pair, norms, X.dtype)
    whole = (slice(None), norms1, unit1), (slice(None), norms2, unit2)
    if len(groups) == 1:
        _fill(out, pair, (groups[0], groups[0]), *whole, symmetric, n_threads)
        return out
    # The largest group's table fills the whole matrix: overwriting what is not that group's is
    # faster than writing its own rows and columns, which do not lie together.
    main = max(groups, key=lambda group: int(_inside(norms1, group).sum()))
    if _table(pair, main, main) is None:
        main = None
    else:
        _fill(out, pair, (main, main), *whole, symmetric, n_threads)
    for i, range1 in enumerate(groups):
        rows = torch.nonzero(_inside(norms1, range1))[:, 0]
        for range2 in groups[i if symmetric else 0 :]:
            columns = torch.nonzero(_inside(norms2, range2))[:, 0]
            first, second = (rows, norms1, unit1), (columns, norms2, unit2)
            if main is None or (range1, range2) != (main, main):
                _fill(out, pair, (range1, range2), first, second, symmetric, n_threads)
    return out


@single_thread()
def kernel_diagonal(pair, X):
    """Return k(X[i], X[i]) as a tensor of shape (n,)."""
    norms, _ = normalise(X)
    out = X.new_empty(len(norms))
    groups = [(1.0, 1.0)] if pair.homogeneous else _groups(pair, norms, X.dtype)
    for norm_range in groups:
        rows = slice(None) if pair.homogeneous else _inside(norms, norm_range)
        out[rows] = _diagonal(pair, norm_range, norms[rows]).to(out)
    return out


def normalise(X):
    """Norms (n,), in float64, and rows of norm 1; for norms whose square overflows too."""
    rows = X.double()
    norms = row_norms(rows)
    return norms, (rows / norms.where(norms > 0, 1)[:, None]).to(X)


def grown(unit):
    """Rows whose products with the like are 1 or more, despite rounding, where they are equal."""
    return unit * (1 + 8 * torch.finfo(unit.dtype).eps)


def _empty(n_rows, n_columns, like):
    """An uninitialised matrix; numpy's have large pages, which are faster to fill at first."""
    if like.is_cuda:
        return like.new_empty(n_rows, n_columns)
    dtype = like.new_empty(0).numpy().dtype
    return torch.from_numpy(np.empty((n_rows, n_columns), dtype))


def _groups(pair, norms, dtype):
    """Ranges that cover the norms, which are known to the precision of the rows.

    A range goes no further than its norms where the kernel does not exist.
    """
    ranges = scale_ranges(norms, digits=12 if dtype == torch.float64 else 6)
    return [r if _exists(pair, r) else _narrowed(norms[_inside(norms, r)]) for r in ranges]


@lru_cache(maxsize=256)
def _exists(pair, norm_range):
    """Whether the kernel exists throughout a range of norms."""
    norms = torch.cat([torch.tensor(norm_range, dtype=torch.float64), _row_nodes(norm_range)])
    return bool(pair.stable(norms).all())


def _narrowed(norms):
    low, high = (float(end) for end in norms.aminmax())
    return low * (1 - 1e-9), high * (1 + 1e-9)


def _inside(norms, norm_range):
    """Whether each norm lies in a range, which is half-open or a point up to rounding."""
    low, high = norm_range
    if low == high:  # the only range of positive norms
        return norms > 0 if low > 0 else norms == 0
    return (norms >= low) & (norms < high)


def _run(function, arguments, n_threads):
    """Call function(*argument) for every argument, on so many threads.

    Whole tiles go to threads of their own: splitting every small operation between threads costs
    a barrier each time, which is slow, and very slow where others use the processor too.
    """
    if n_threads == 1 or len(arguments) == 1:
        for argument in arguments:
            function(*argument)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        for done in [pool.submit(single_thread()(function), *argument) for argument in arguments]:
            done.result()


def _fill(out, pair, ranges, first, second, symmetric, n_threads):
    """Evaluate the block out[rows, columns] in tiles."""
    (rows, norms1, unit1), (columns, norms2, unit2) = first, second
    whole = isinstance(rows, slice)
    norms1, unit1, norms2, unit2 = norms1[rows], unit1[rows], norms2[columns], unit2[columns]
    table = _table(pair, *ranges)
    near = table is not None and _tabulated_near(pair, *ranges)
    if table is not None:
        factors1, factors2 = table.factors(0, norms1, out), table.factors(1, norms2, out)
    if table is None or near:
        values1 = _interpolate(_row_table(pair, ranges[0]), ranges[0], norms1.cpu())
        values2 = _interpolate(_row_table(pair, ranges[1]), ranges[1], norms2.cpu())
    triangle = symmetric and ranges[0] == ranges[1]
    size = _TILE * 16 if out.is_cuda else _TILE

    def fill_tile(i, j):
        here, there = slice(i, i + size), slice(j, j + size)
        r = (unit1[here] @ unit2[there].T).clamp_(-1, 1)
        beyond = same = None
        if not pair.smooth and bool(r.max() == 1):  # rounding of the correlation would show
            same = torch.nonzero((r == 1) & (norms1[here, None] == norms2[there]), as_tuple=True)
        if near:
            far = r.abs() > _NEAR
            if same is not None:
                far[same] = False
            if far.any():
                beyond = torch.nonzero(far, as_tuple=True)
                cosines = r[beyond].cpu().double()
        if table is not None:
            tile = table.evaluate([f[here] for f in factors1], [f[there] for f in factors2], r)
        else:
            r = r.cpu().double()[:, :, None]
            tile = pair.pairs(values1[here], values2[there], r)[:, :, 0].to(out)
        if beyond is not None:
            i_far, j_far = (indices.cpu() for indices in beyond)
            far = pair.entries(values1[here][i_far], values2[there][j_far], cosines)
            tile[beyond] = far.to(tile)
        if pair.homogeneous:
            tile *= (norms1[here, None] * norms2[there]).to(tile)
        if same is not None:
            tile[same] = _diagonal(pair, ranges[0], norms1[here][same[0]]).to(tile)
        if triangle and i == j:
            tile = _symmetric(tile, _diagonal(pair, ranges[0], norms1[here]))
        if not whole:
            here, there = rows[here], columns[there]
        _write(out, here, there, tile)
        if symmetric and not (triangle and i == j):
            _write(out, there, here, tile.T)

    _diagonal_table(pair, ranges[0])  # once, before the threads want it
    tiles = _tiles(len(norms1), len(norms2), size, triangle)
    _run(fill_tile, tiles, 1 if out.is_cuda else n_threads)


def _fill_univariate(out, kernel, first, second, symmetric, n_threads):
    """Evaluate the matrix in tiles, by the tables of a UnivariateKernel."""
    (norms1, unit1), (norms2, unit2) = first, second
    s1, s2 = kernel.deviations(norms1), kernel.deviations(norms2)
    points1 = grown(kernel.coordinates(norms1, s1, unit1))
    points2 = kernel.coordinates(norms2, s2, unit2)
    factors1, factors2 = kernel.factors(s1, out), kernel.factors(s2, out)
    diagonal = kernel.diagonal(s1).to(out)
    offset = out.new_tensor(kernel.offset)
    size = _TILE * 16 if out.is_cuda else _TILE

    def fill_tile(i, j):
        here, there = slice(i, i + size), slice(j, j + size)
        x = torch.addmm(offset, points1[here], points2[there].T).clamp_(-1, 1)
        same = None
        if bool(x.max() == 1):  # rounding would show there
            same = torch.nonzero((x == 1) & (norms1[here, None] == norms2[there]), as_tuple=True)
        tile = kernel.evaluate([f[here] for f in factors1], [f[there] for f in factors2], x)
        if same is not None:
            tile[same] = diagonal[here][same[0]]
        if symmetric and i == j:
            tile = _symmetric(tile, diagonal[here])
        out[here, there] = tile
        if symmetric and i != j:
            out[there, here] = tile.T

    tiles = _tiles(len(norms1), len(norms2), size, symmetric)
    _run(fill_tile, tiles, 1 if out.is_cuda else n_threads)


def _tiles(n_rows, n_columns, size, triangle):
    """Where the tiles of a matrix begin, or those on and above its diagonal."""
    return [
        (i, j) for i in range(0, n_rows, size) for j in range(i if triangle else 0, n_columns, size)
    ]


def _symmetric(tile, diagonal):
    """The tile with this diagonal and its upper triangle below too."""
    tile.diagonal().copy_(diagonal)
    return tile.triu().add_(tile.triu(1).T)


def _write(out, rows, columns, tile):
    if isinstance(rows, slice):
        out[rows, columns] = tile
    else:
        out[rows[:, None], columns] = tile


@lru_cache(maxsize=256)
def _table(pair, range1, range2):
    """The kernel as a Table; None if it is not smooth enough."""
    limits = None
    if not _smooth(pair, range1, range2):
        limits = _near_limits if _tabulated_near(pair, range1, range2) else pair.limits
        if limits is None or 0 in (range1[0], range2[0]):
            return None
    tables = tabulate(
        lambda n1, n2, r: (pair.pairs(pair.rows(n1), pair.rows(n2), r),), range1, range2, limits
    )
    return None if tables is None else tables[0]


def _smooth(pair, range1, range2):
    """Whether the kernel is smooth in norms and angle."""
    return pair.smooth or (range1 == range2 and range1[0] == range1[1])


def _tabulated_near(pair, range1, range2):
    """Whether the kernel's table is for cosines up to _NEAR only.

    Kinks elsewhere than at 0 meet for parallel rows of equal norms: no change of variables makes
    the kernel smooth there.
    """
    return not _smooth(pair, range1, range2) and pair.limits is None and pair.has_entries


def _near_limits(n1, n2):
    high = torch.full((len(n1), len(n2)), _NEAR, dtype=n1.dtype)
    return -high, high


def _diagonal(pair, norm_range, norms):
    """F(n, n, 1) for every norm."""
    if pair.homogeneous:
        return _diagonal_table(pair, norm_range)[0].to(norms) * norms**2
    return _interpolate(_diagonal_table(pair, norm_range), norm_range, norms)


@lru_cache(maxsize=256)
def _diagonal_table(pair, norm_range):
    """Chebyshev coefficients of n -> F(n, n, 1), (n_nodes,)."""
    nodes = _row_nodes(norm_range)
    return chebyshev_coefficients(pair.diagonal(pair.rows(nodes)))


@lru_cache(maxsize=256)
def _row_table(pair, norm_range):
    """Chebyshev coefficients of n -> pair.rows(n), (n_values, n_nodes)."""
    return chebyshev_coefficients(pair.rows(_row_nodes(norm_range)).T)


def _row_nodes(norm_range):
    return scale_nodes(norm_range, 1 if norm_range[0] == norm_range[1] else 32)


def _interpolate(coefficients, norm_range, norms):
    """Evaluate Chebyshev coefficients (.., n_nodes) at norms (n,): (n, ..)."""
    basis = scale_basis(norm_range, norms, coefficients.shape[-1])
    return torch.einsum("nk,...k->n...", basis, coefficients.to(norms.device))
