r"""Gram matrices of kernels that depend on norms and cosine: k(x, y) = F(|x|, |y|, cos(x, y)).

Where F is smooth it is tabulated as a Chebyshev series (`tables.tabulate`), and an entry costs
little more than its dot product. Elsewhere F is evaluated entry by entry; what it needs of single
rows is interpolated in their norms.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.nn.functional import pad

from .._progress import stage
from .._torch import single_thread
from .cache import kept
from .chebyshev import scale_nodes, scale_ranges
from .directions import Rows, grown, normalise
from .rows import row_values
from .spec import NoFixedPointError
from .tables import tabulate
from .univariate import univariate_kernel

_TILE = 256  # rows and columns of a tile: its buffers stay in cache
# entries that are computed directly: of X and Y (four times as many of X alone), of a block
_FEW, _FEW_OF_MANY = 1024, {True: 2048, False: 256}  # of a block whose table is heavy, or not
_N_NORMS = 32  # at which it is checked that there is a kernel
_PRECISION = 1e-10  # of tables, relative to the root of both rows' diagonal entries
# where it is checked: shares of a range of norms on the logarithmic scale, cosines
_BETWEEN = torch.tensor([[0.003, 0.37, 0.87], [0.37, 0.13, 0.997]], dtype=torch.float64)
_COSINES = torch.tensor([-0.97, -0.51, 0.03, 0.32, 0.61, 0.78, 0.93, 0.99, 0.9993]).double()
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
    first = Rows.of(X)
    second = first if symmetric else Rows.of(Y)
    out = _empty(len(X), len(second.X), X)
    if out.numel() == 0:
        return out
    norms = torch.cat([first.norms, second.norms])
    digits = 12 if X.dtype == torch.float64 else 6  # to which norms are known
    groups = [(1.0, 1.0)] if pair.homogeneous else scale_ranges(norms, digits=digits)
    heavy = _heavy(pair, groups[0], groups[-1])
    few = out.numel() <= _FEW * (4 if symmetric and heavy else 1)
    one = None if few else univariate_kernel(pair)
    if one is not None:
        pair.rows(torch.stack(norms.aminmax()).cpu())  # names what is too large
        _fill_univariate(out, one, first, second, symmetric, n_threads)
        return out
    values = _values(pair, first.norms if symmetric else norms)
    first.values, second.values = values[: len(X)], values[-len(second.X) :]
    whole = (slice(None), first), (slice(None), second)
    on_average = out.numel() / len(groups) ** 2
    if few or (len(groups) > 1 and on_average <= _FEW_OF_MANY[heavy]):
        _fill(out, pair, None, *whole, symmetric, 1 if few else n_threads)
        return out
    groups = groups if pair.homogeneous else _existing(pair, norms, groups)
    if len(groups) == 1:
        _fill(out, pair, groups * 2, *whole, symmetric, n_threads)
        return out
    # The largest group's table fills the whole matrix: overwriting what is not that group's is
    # faster than writing its own rows and columns, which do not lie together.
    main = max(groups, key=lambda group: int(_inside(norms, group).sum()))
    if 2 * int(_inside(norms, main).sum()) < len(norms) or _table(pair, main, main) is None:
        main = None
    else:
        _fill(out, pair, (main, main), *whole, symmetric, n_threads)
    for i, range1 in enumerate(groups):
        rows = torch.nonzero(_inside(first.norms, range1))[:, 0]
        for range2 in groups[i if symmetric else 0 :]:
            columns = torch.nonzero(_inside(second.norms, range2))[:, 0]
            if main is None or (range1, range2) != (main, main):
                ranges = range1, range2
                sides = (rows, first.part(rows)), (columns, second.part(columns))
                _fill(out, pair, ranges, *sides, symmetric, n_threads)
    return out


@single_thread()
def kernel_diagonal(pair, X):
    """Return k(X[i], X[i]) as a tensor of shape (n,)."""
    pair, constant = pair.reduced()
    norms = normalise(X if constant is None else pad(X, (0, 1), value=constant))[0]
    return _diagonal(pair, _values(pair, norms), norms).to(X)


def _values(pair, norms):
    """The `row_values` for norms, or those of norm 1 if the kernel scales with the norms."""
    if not pair.homogeneous:
        return row_values(pair, norms)
    pair.rows(torch.stack(norms.aminmax()).cpu())  # names what is too large
    return _values_of_one(pair).expand(len(norms), -1)


@kept
def _values_of_one(pair):
    return row_values(pair, torch.ones(1, dtype=torch.float64))


def _diagonal(pair, values, norms):
    """F(n, n, 1) for every norm."""
    diagonal = values[:, -1].to(norms)
    return diagonal * norms**2 if pair.homogeneous else diagonal


def _empty(n_rows, n_columns, like):
    """An uninitialised matrix; numpy's have large pages, which are faster to fill at first."""
    if not like.is_cpu:
        return like.new_empty(n_rows, n_columns)
    dtype = like.new_empty(0).numpy().dtype
    return torch.from_numpy(np.empty((n_rows, n_columns), dtype))


def _existing(pair, norms, ranges):
    """The ranges, going no further than their norms where the kernel does not exist."""
    return [r if _exists(pair, r) else _narrowed(norms[_inside(norms, r)]) for r in ranges]


@kept
def _exists(pair, norm_range):
    """Whether the kernel exists throughout a range of norms."""
    low, high = norm_range
    nodes = scale_nodes(norm_range, 1 if low == high else _N_NORMS)
    norms = torch.cat([torch.tensor(norm_range, dtype=torch.float64), nodes])
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
    with stage("kernel", len(arguments)) as step:
        if n_threads == 1 or len(arguments) == 1:
            for argument in arguments:
                function(*argument)
                step()
            return
        with ThreadPoolExecutor(n_threads) as pool:
            function = single_thread()(function)
            for done in [pool.submit(function, *argument) for argument in arguments]:
                done.result()
                step()


def _fill(out, pair, ranges, first, second, symmetric, n_threads):
    """Evaluate the block out[rows, columns] in tiles: by tables for ranges of norms, or directly.

    Directly where no table is right, or the entries are few.
    """
    (rows, first), (columns, second) = first, second
    n_rows, n_columns = len(first.X), len(second.X)
    few = ranges is None or n_rows * n_columns <= _FEW_OF_MANY[_heavy(pair, *ranges)]
    table = None if few else _table(pair, *ranges)
    near = table is not None and _tabulated_near(pair, *ranges)
    if table is not None:
        factors1 = table.factors(0, first.norms, out)
        factors2 = table.factors(1, second.norms, out)
    triangle = symmetric and (ranges is None or ranges[0] == ranges[1])
    size = _TILE if out.is_cpu else 16 * _TILE
    if table is None:
        size = 64 if pair.has_entries else 32
    # as many entries where rows are few
    width = size if triangle or table is not None else max(size, size * size // n_rows)

    def fill_tile(i, j):
        here, there = slice(i, i + size), slice(j, j + width)
        one, two = first.part(here), second.part(there)
        r, sine = one.precise_cosines(two) if table is None else (one.cosines(two), None)
        diagonal = _diagonal(pair, one.values, one.norms)
        same = beyond = None
        if (table is None or not pair.smooth) and bool(r.max() == 1):
            same = _same(r, one, two)  # rounding of the correlation would show
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
            values = one.values[:, :-1], two.values[:, :-1]
            tile = pair.pairs(*values, r[:, :, None], sine[:, :, None])[:, :, 0].to(out.device)
        if beyond is not None:
            i_far, j_far = (indices.cpu() for indices in beyond)
            far = pair.entries(one.values[i_far, :-1], two.values[j_far, :-1], cosines)
            tile[beyond] = far.to(tile)
        if pair.homogeneous:
            tile *= (one.norms[:, None] * two.norms).to(tile)
        if same is not None:
            tile[same] = diagonal[same[0]].to(tile)
        if triangle and i == j:
            tile = _symmetric(tile, diagonal)
        for axis, part in enumerate((one, two)):  # a row of zeros: rounded up, its rest shows
            if (part.norms == 0).any():
                none = (part.norms == 0) & (_diagonal(pair, part.values, part.norms) == 0)
                tile.index_fill_(axis, torch.nonzero(none)[:, 0].to(tile.device), 0)
        if not isinstance(rows, slice):
            here, there = rows[here], columns[there]
        _write(out, here, there, tile)
        if symmetric and not (triangle and i == j):
            _write(out, there, here, tile.T)

    tiles = _tiles(n_rows, n_columns, size, width, triangle)
    _run(fill_tile, tiles, n_threads if out.is_cpu else 1)


def _same(r, one, two):
    """Indices of the pairs of rows that are the same, to rounding."""
    norms1, norms2 = one.norms[:, None], two.norms
    rounding = 8 * torch.finfo(r.dtype).eps
    equal = (norms1 - norms2).abs() <= rounding * norms1
    return torch.nonzero((r == 1).to(equal.device) & equal, as_tuple=True)


def _fill_univariate(out, kernel, first, second, symmetric, n_threads):
    """Evaluate the matrix in tiles, by the tables of a UnivariateKernel."""
    norms1, norms2 = first.norms, second.norms
    s1, s2 = kernel.deviations(norms1), kernel.deviations(norms2)
    points1 = grown(kernel.coordinates(norms1, s1, grown(first.unit)))
    points2 = kernel.coordinates(norms2, s2, second.unit)
    factors1, factors2 = kernel.factors(s1, out), kernel.factors(s2, out)
    diagonal = kernel.diagonal(s1).to(out)
    offset = out.new_tensor(kernel.offset)
    size = _TILE if out.is_cpu else _TILE * 16

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

    tiles = _tiles(len(norms1), len(norms2), size, size, symmetric)
    _run(fill_tile, tiles, n_threads if out.is_cpu else 1)


def _tiles(n_rows, n_columns, height, width, triangle):
    """Where the tiles of a matrix begin, or those on and above its diagonal."""
    return [
        (i, j)
        for i in range(0, n_rows, height)
        for j in range(i if triangle else 0, n_columns, width)
    ]


def _symmetric(tile, diagonal):
    """The tile with this diagonal and its upper triangle below too."""
    tile.diagonal().copy_(diagonal)
    return tile.triu().add_(tile.triu(1).T)


def _write(out, rows, columns, tile):
    tile = tile.to(out.dtype)
    if isinstance(rows, slice):
        out[rows, columns] = tile
    else:
        out[rows[:, None], columns] = tile


@kept(max_bytes=2**26)
def _table(pair, range1, range2):
    """The kernel as a Table; None if it is not smooth enough for one that is right."""
    limits, near = None, _tabulated_near(pair, range1, range2)
    if not _smooth(pair, range1, range2):
        limits = _near_limits if near else pair.limits
        if limits is None or 0 in (range1[0], range2[0]):
            return None

    def function(n1, n2, r):
        rows1 = pair.rows(n1)
        return (pair.pairs(rows1, rows1 if n2 is n1 else pair.rows(n2), r),)

    try:
        exists = _exists(pair, range1) and _exists(pair, range2)  # for norms between those of rows
        tables = tabulate(function, range1, range2, limits) if exists else None
    except NoFixedPointError:  # between the norms that were looked at
        return None
    if tables is None or not _is_right(pair, tables[0], range1, range2, _NEAR if near else 1.0):
        return None
    return tables[0]


def _is_right(pair, table, range1, range2, largest):
    """Whether a Table is right to _PRECISION for norms and cosines between its nodes."""
    norms = [
        low * (high / low if low else 1) ** between
        for (low, high), between in zip((range1, range2), _BETWEEN, strict=True)
    ]
    rows1, rows2 = (pair.rows(n) for n in norms)
    r = _COSINES[_COSINES.abs() < largest]
    exact = pair.pairs(rows1, rows2, r[None, None])
    scale = pair.diagonal(rows1).sqrt()[:, None] * pair.diagonal(rows2).sqrt()
    found = [table(*norms, x.expand(scale.shape).clone()) for x in r]
    error = (torch.stack(found, 2) - exact).abs().amax(2)
    return bool((error <= _PRECISION * scale).all())


def _heavy(pair, range1, range2):
    """Whether a table takes as long as many entries do: for several norms, by a closed form."""
    return pair.has_entries and range1[0] < range2[1]


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
