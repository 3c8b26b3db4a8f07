"""Rows by their content: keys that do not depend on a row's place or on how often it occurs."""

import torch

from ._array_api import take
from ._torch import to_tensor

_TILE = 2**20  # numbers that are hashed at once
_MIX = -0x61C8864680B583EB  # odd: keys stay apart


def row_keys(X, generator):
    """A pseudo-random 64-bit integer for every row of X, equal for equal rows; (n,) int64.

    Uniform sampling and splitting by key treat a repeated row as one row, so that integer sample
    weights and repeated rows give the same sample.
    """
    draw = torch.randint(-(2**62), 2**62, (2, X.shape[1]), generator=generator)
    offset, factor = draw[0], 2 * draw[1] + 1
    size = max(1, _TILE // X.shape[1])
    keys = []
    for start in range(0, len(X), size):
        rows = to_tensor(X[start : start + size], dtype=torch.float64) + 0.0  # no negative zeros
        bits = _mix(rows.view(torch.int64) ^ offset.to(rows.device))
        keys.append(_mix((bits * factor.to(rows.device)).sum(1)))
    return torch.cat(keys)


def _mix(bits):
    """Let every bit depend on every other; one to one, in the manner of splitmix64."""
    for factor in (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15):
        bits = (bits ^ _shift_right(bits, 30)) * factor
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits, n):
    return (bits >> n) & (2 ** (64 - n) - 1)  # torch repeats the sign bit


def merge_repeated_rows(X, y, w, keys):
    """Replace rows that occur more than once by one row.

    A weighted least-squares fit does not change: the row gets the sum of the weights and the
    weighted mean of the targets. What leaves out a row then leaves out all its copies.

    Parameters
    ----------
    X : tensor of shape (n, n_features)
    y : tensor of shape (n, n_outputs)
    w : tensor of shape (n,)
        Positive weights.
    keys : tensor of shape (n,)
        Of the rows, see `row_keys`.

    Returns
    -------
    first : tensor of shape (n_distinct,) or None
        Index of the first copy of each row, ascending; None if all rows are distinct.
    y, w : tensors
        Targets and weights of the distinct rows.
    """
    keys, inverse = torch.unique(keys, return_inverse=True)
    if len(keys) == len(X):
        return None, y, w
    first = _first_index(inverse, len(keys))
    if not torch.equal(X[first[inverse]], X):  # two rows share a key: 1e-10 likely for 1e5 rows
        distinct, inverse = torch.unique(X, dim=0, return_inverse=True)
        first = _first_index(inverse, len(distinct))
    order = torch.argsort(first)
    group = torch.argsort(order)[inverse]
    total = w.new_zeros(len(first)).index_add_(0, group, w)
    sums = y.new_zeros(len(first), y.shape[1]).index_add_(0, group, w[:, None] * y)
    return first[order], sums / total[:, None], total


def smallest_keys(keys, n):
    """The n smallest distinct keys, ascending, and the first index of each."""
    distinct, inverse = torch.unique(keys, return_inverse=True)
    return distinct[:n], _first_index(inverse, len(distinct))[:n]


def smallest_rows(keys, X, y, w, n):
    """The n distinct rows of positive weight with the smallest keys; repeated ones are merged.

    What is found among those found in the parts of a table is what is found in all of it.

    Parameters
    ----------
    keys : tensor of shape (n_rows,)
    X : ndarray or tensor of shape (n_rows, n_features)
    y : tensor of shape (n_rows, n_outputs)
    w : tensor of shape (n_rows,)
    n : int

    Returns
    -------
    keys, X, y, w : tensors
        By key, ascending.
    """
    rows = torch.nonzero(w > 0)[:, 0]
    last = smallest_keys(keys[rows], n)[0][-1:]
    rows = rows[(keys[rows] <= last) if len(last) else slice(0)]
    rows = rows[keys[rows].argsort(stable=True)]
    keys, X, y, w = keys[rows], to_tensor(take(X, rows)), y[rows], w[rows]
    first, y, w = merge_repeated_rows(X, y, w, keys)
    return (keys, X, y, w) if first is None else (keys[first], X[first], y, w)


def below(share):
    """The key that this share of all keys, which are uniform, is below."""
    return int((share - 0.5) * 2**64)


def another_order(keys):
    """Keys of the same rows in an order of their own."""
    return keys * _MIX


def first_copies(keys):
    """Index of the first copy of every row, (n,)."""
    distinct, inverse = torch.unique(keys, return_inverse=True)
    return _first_index(inverse, len(distinct))[inverse]


def _first_index(inverse, n_groups):
    index = torch.arange(len(inverse), device=inverse.device)
    return index.new_full((n_groups,), len(inverse)).scatter_reduce_(0, inverse, index, "amin")
