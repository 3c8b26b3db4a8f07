"""The kernel of a ridge on rows as they come: encoded, weighted, scaled, then a DEQ's kernel."""

from dataclasses import dataclass

import torch

from .._scaling import row_norms
from .._search.preparation import Preparation
from .._state import storable
from .._theory.engine import kernel_diagonal, kernel_matrix
from .._theory.four_numbers import (
    KernelCoefficients,
    deq_numbers,
    high_dim_matrix,
    require_high_dim,
)
from .._theory.pair import DEQPairKernel
from .._theory.spec import deq_spec
from .._torch import on_cpu, present_device, to_tensor

_TILE = 2**13  # rows whose norms or diagonals are computed at once


@storable
@dataclass(frozen=True)
class RowKernel:
    """k(x, x') of rows in the units of the training data; made by `row_kernel`.

    Parameters
    ----------
    preparation : Preparation
        Of the rows.
    pair : DEQPairKernel
        The kernel of scaled rows,
    numbers : KernelCoefficients or None
        or what stands for it, with method="high_dim".
    tau0 : float
        Root-mean-square norm of the scaled training rows.
    device : str
    dtype : torch.dtype
    """

    preparation: Preparation
    pair: DEQPairKernel
    numbers: KernelCoefficients | None
    tau0: float
    device: str
    dtype: torch.dtype

    def rows(self, X):
        """Rows of X scaled, on the device and in the precision of the computation."""
        rows = to_tensor(X, dtype=self.dtype, device=present_device(self.device))
        return self.preparation.transform(rows)

    def matrix(self, rows, others=None):
        """k of scaled rows (m, ..) with others (n, ..), or with one another: (m, n)."""
        if self.numbers is not None:
            return high_dim_matrix(self.numbers, self.tau0, rows, others)
        return kernel_matrix(self.pair, rows, others)

    def mean_diagonal(self, X, w):
        """Weighted mean of k(x, x) over rows X."""
        if self.numbers is not None:
            return self.numbers.diagonal
        diagonal = [kernel_diagonal(self.pair, self.rows(tile)).to(w) for tile in _tiles(X)]
        return float(w @ torch.cat(diagonal) / w.sum())


def row_kernel(X, w, choice, method, device, dtype):
    """The RowKernel of a Choice for training rows X (n, n_features), weights w (n,).

    Raises
    ------
    ValueError
        If a row has no stable fixed point, or `method` does not describe the DEQ.
    """
    p, preparation = choice.parameters, Preparation.of(choice)
    tiles = (to_tensor(x, dtype=torch.float64) for x in _tiles(X))
    norms = [row_norms(preparation.weighted(x)) for x in tiles]
    scaler = preparation.scaler.fit(torch.cat(norms)[:, None], w)
    tau0 = scaler.tau0_ if scaler.tau0_ > 0 else 1.0
    variances = p["recurrent_var"], p["input_var"], scaler.bias_var_
    numbers = None
    if method == "high_dim":
        require_high_dim(
            p["center"], scaler.bias_var_, p["kernel"], "method='high_dim'", "method='exact'"
        )
    spec = deq_spec(p["activation"], *variances, p["center"], tau0)
    if method == "high_dim":
        numbers = deq_numbers(spec, p["kernel"])
    pair = DEQPairKernel(spec, p["kernel"])
    return RowKernel(preparation, pair, numbers, tau0, device, dtype)


@storable
class FittedRows:
    """The rows that predictions compare with: scaled once, and again only where a pickle is loaded.

    Parameters
    ----------
    kernel : RowKernel
    X : ndarray or tensor of shape (n_fit, n_features)
    """

    def __init__(self, kernel, X):
        self.kernel, self.X, self._scaled = kernel, X, None

    @property
    def scaled(self):
        """The rows as `kernel` takes them."""
        if self._scaled is None:
            self._scaled = self.kernel.rows(self.X)
        return self._scaled

    def matrix(self, X):
        """k of the rows of X (m, n_features) with these: (m, n_fit)."""
        return self.kernel.matrix(self.kernel.rows(X), self.scaled)

    def __getstate__(self):
        """Leave the scaled rows out."""
        return {**self.__dict__, "X": on_cpu(self.X), "_scaled": None}


def _tiles(X):
    """Blocks of rows: X may be mapped from a file."""
    return (X[start : start + _TILE] for start in range(0, len(X), _TILE))
