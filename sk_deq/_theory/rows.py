"""What a PairKernel needs of single rows: a function of the norm, exact or from tables."""

import torch

from .cache import kept
from .chebyshev import chebyshev_coefficients, scale_basis, scale_nodes

_FEW, _FEW_OF_MANY = 64, 16  # norms for which no table is made: of all, in a part of many
_NODES = 32  # of a table; where they are too few, it is halved
_PARTS = 16  # of an octave, at most
_PRECISION, _OF_DIAGONAL = 1e-13, 1e-11  # relative, of a table


def row_values(pair, norms):
    """The columns of pair.rows and then F(n, n, 1), for norms (n,): (n, n_values + 1).

    Exact to 1e-13, and to 1e-11 in the last column; a value does not depend on other norms.

    Raises
    ------
    NoFixedPointError
        If F does not exist for one of the norms.
    """
    norms = norms.cpu()
    if len(norms) <= _FEW:
        return _exact(pair, norms)
    octaves = torch.log2(norms).floor().clamp(-1000, 1000)
    every = torch.arange(len(norms))
    pending = [((2.0**k, 2.0 ** (k + 1)), every[octaves == k]) for k in octaves.unique().tolist()]
    out = norms.new_empty(len(norms), _exact(pair, norms[:1]).shape[1])
    while pending:
        (low, high), rows = pending.pop()
        table = _table(pair, low, high) if len(rows) > _FEW_OF_MANY and low > 2.0**-1000 else None
        if table is not None:
            out[rows] = scale_basis((low, high), norms[rows], _NODES) @ table
        elif len(rows) > _FEW_OF_MANY and high / low > 2 ** (1.5 / _PARTS):
            middle = (low * high) ** 0.5
            below = norms[rows] < middle
            halves = [((low, middle), rows[below]), ((middle, high), rows[~below])]
            pending += [half for half in halves if len(half[1])]
        else:
            out[rows] = torch.cat([_exact(pair, part) for part in norms[rows].split(256)])
    return out


def _exact(pair, norms):
    rows = pair.rows(norms)
    return torch.cat([rows, pair.diagonal(rows)[:, None]], 1)


@kept
def _table(pair, low, high):
    """Chebyshev coefficients (n_nodes, n_values + 1) for norms in a range; None if too few."""
    nodes = scale_nodes((low, high), _NODES)
    if not pair.stable(nodes).all():
        return None
    table = chebyshev_coefficients(_exact(pair, nodes), 0)
    precision = torch.full_like(table[0], _PRECISION)
    precision[-1] = _OF_DIAGONAL
    enough = table[-3:].abs().amax(0) <= precision * table.abs().amax(0)
    return table if enough.all() else None
