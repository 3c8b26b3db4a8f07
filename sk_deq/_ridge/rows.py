"""The rows that a kernel ridge is fitted to: their keys, distinct ones, and landmarks."""

from functools import cached_property

import torch

from .._array_api import take
from .._row_keys import merge_repeated_rows, row_keys, smallest_rows
from .._torch import make_generator, to_tensor


class TrainingRows:
    """Rows with targets and weights.

    Parameters
    ----------
    X : ndarray or tensor of shape (n, n_features)
        An ndarray may be mapped from a file.
    y : tensor of shape (n, n_outputs), float64
    w : tensor of shape (n,), float64
        Weights >= 0.
    seed : int
        Of the keys.
    keys : tensor of shape (n,), default=None
        Where they are known.
    """

    def __init__(self, X, y, w, seed, keys=None):
        self.X, self.y, self.w, self.seed, self._keys = X, y, w, seed, keys

    @property
    def keys(self):
        """A hash of each row, (n,): one pass over them, when they are first asked for."""
        if self._keys is None:
            self._keys = row_keys(self.X, make_generator(self.seed))
        return self._keys

    @cached_property
    def n_distinct(self):
        """Number of distinct rows of positive weight."""
        return len(torch.unique(self.keys[self.w > 0]))

    @property
    def mean_weight(self):
        """Total weight over the number of distinct rows."""
        return float(self.w.sum()) / self.n_distinct

    def in_units(self, scale, unit):
        """The same rows, with targets in units of scale (n_outputs,), weights in theirs."""
        return TrainingRows(self.X, self.y / scale, self.w / unit, self.seed, self._keys)

    def smallest(self, n):
        """TrainingRows of the n distinct rows of the smallest keys."""
        keys, X, y, w = smallest_rows(self.keys, self.X, self.y, self.w, n)
        return TrainingRows(X, y, w, self.seed, keys)

    def distinct(self):
        """TrainingRows without rows of weight 0, and with repeated ones merged into one."""
        kept = self.w > 0
        X, y, w, keys = self.X, self.y, self.w, self.keys
        if not bool(kept.all()):
            X, y, w, keys = take(X, kept), y[kept], w[kept], keys[kept]
        first, y, w = merge_repeated_rows(to_tensor(X), y, w, keys)
        if first is not None:
            X, keys = take(X, first), keys[first]
        return TrainingRows(X, y, w, self.seed, keys)
