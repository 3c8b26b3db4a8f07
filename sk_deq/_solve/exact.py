"""Kernel ridge regression by an eigendecomposition or a Cholesky factor of the kernel matrix."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.linalg import LinAlgWarning, lapack

from .._state import storable
from .._torch import single_thread
from .._warn import warn
from .leave_one_out import eigh_path, is_by_torch, left_out_residuals, mean_square, project

_FEW = 128  # rows up to which substitution is as fast as products of matrices


@storable
@dataclass(frozen=True)
class Solution:
    """A fitted kernel ridge model and what was predicted out of sample on the way.

    Parameters
    ----------
    dual_coef : tensor of shape (n, n_outputs)
    intercept : tensor of shape (n_outputs,)
    alpha : float
        The penalty chosen.
    errors : tensor of shape (n_alphas,) or None
        Weighted mean squared error out of sample of every candidate, summed over the outputs.
    predictions : tensor of shape (n_out_of_sample, n_outputs) or None
        Predictions out of sample for the chosen alpha.
    rows : tensor of shape (n_out_of_sample,) or None
        The rows that `predictions` are for; None means all.
    n_iter : int
        Iterations taken; 1 by a direct solver.
    """

    dual_coef: torch.Tensor
    intercept: torch.Tensor
    alpha: float
    errors: torch.Tensor | None = None
    predictions: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    n_iter: int = 1

    def times(self, scale, unit=1.0):
        """The Solution for targets multiplied by scale (n_outputs,), and weights by unit."""
        dual_coef, intercept = (x * scale.to(x) for x in (self.dual_coef, self.intercept))
        return replace(self, dual_coef=dual_coef, intercept=intercept, alpha=unit * self.alpha)

    def of_rows(self, order):
        """The same for rows of which this is the order (n,)."""
        coef = torch.empty_like(self.dual_coef)
        coef[order.to(coef.device)] = self.dual_coef
        rows = self.rows
        if self.predictions is not None:
            rows = order if rows is None else order[rows.to(order.device)]
        return replace(self, dual_coef=coef, rows=rows)


def solve_eigh(K, y, w, alphas):
    """Solve for the alpha with the least leave-one-out error, by one eigendecomposition.

    Parameters
    ----------
    K : tensor of shape (n, n)
        Positive semidefinite; overwritten. An indefinite one is replaced by the nearest positive
        semidefinite matrix, with a warning.
    y : tensor of shape (n, n_outputs)
    w : tensor of shape (n,)
        Positive weights.
    alphas : sequence of float

    Returns
    -------
    Solution
        With leave-one-out predictions for all rows.
    """
    r, intercept, left_out = eigh_path(K, y, w, alphas)
    errors = mean_square(left_out, w)
    best = best_candidate(errors)
    return Solution(
        dual_coef=w.sqrt()[:, None] * r[:, best],
        intercept=intercept[best],
        alpha=float(alphas[best]),
        errors=errors,
        predictions=y - left_out[:, best],
    )


def solve_cholesky(K, y, w, alpha, n_left_out=0):
    """Solve for one alpha by a Cholesky factorisation.

    Parameters
    ----------
    K, y, w
        As for `solve_eigh`, which takes over, with a warning, if K is not positive definite.
    alpha : float
    n_left_out : int, default=0
        How many of the last rows to predict from all others, each by itself. The factor of the
        rows that come last is that of their block of A^-1, so they cost little.

    Returns
    -------
    Solution
        With predictions for the last `n_left_out` rows, if there are any.
    """
    s = w.sqrt()
    mean = w @ y / w.sum()
    diagonal = K.diagonal().clone()
    A = K.mul_(s[:, None]).mul_(s)
    A.diagonal().add_(alpha)
    L = _factor(A)
    if L is None:
        warn(
            "The kernel matrix plus alpha is not numerically positive definite; solved by its "
            "eigendecomposition instead. Raise alpha, or use dtype='float64'.",
            LinAlgWarning,
        )
        A = A.tril(-1)
        K = (A + A.T).div_(s[:, None]).div_(s)
        K.diagonal().copy_(diagonal)
        return solve_eigh(K, y, w, [alpha])
    solved = torch.cholesky_solve(torch.cat([s[:, None] * (y - mean), s[:, None]], 1), L)
    inverse = torch.ones_like(s)
    if n_left_out:
        block = _inverse(L[-n_left_out:, -n_left_out:])
        inverse[-n_left_out:] = block.square().sum(0)
    r, intercept, inverse = project(solved[:, None], inverse[:, None], s)
    errors = predictions = None
    if n_left_out:
        last = slice(-n_left_out, None)
        residuals = left_out_residuals(r[last], inverse[last], s[last])
        errors = mean_square(residuals, w[last])
        predictions = y[last] - residuals[:, 0]
    rows = torch.arange(len(K))[-n_left_out:] if n_left_out else None
    return Solution(
        s[:, None] * r[:, 0], mean + intercept[0], float(alpha), errors, predictions, rows
    )


def _factor(A):
    """A lower triangular Cholesky factor of A, None if there is none.

    A is overwritten on and above its diagonal; what is above the factor's is not to be read.
    """
    if is_by_torch(A):
        with single_thread():
            L, info = torch.linalg.cholesky_ex(A)
        return L if info == 0 else None
    a = A.numpy().T  # as LAPACK has it, which is faster and needs no second matrix
    (potrf,) = lapack.get_lapack_funcs(("potrf",), (a,))
    L, info = potrf(a, lower=1, clean=0, overwrite_a=1)
    return torch.from_numpy(L) if info == 0 else None


def _inverse(L):
    """The inverse of a triangular matrix as `_factor` gives it."""
    if is_by_torch(L):
        with single_thread():
            return _inverse_by_halves(L)
    factor = np.asfortranarray(L.numpy())
    (trtri,) = lapack.get_lapack_funcs(("trtri",), (factor,))
    return torch.from_numpy(trtri(factor, lower=1)[0]).tril()


def _inverse_by_halves(L):
    """The same, most of it by products of matrices, which are twice as fast as substitution."""
    n = len(L)
    if n <= _FEW or not L.is_cpu:
        return torch.linalg.solve_triangular(L, torch.eye(n).to(L), upper=False)
    head, tail = slice(n // 2), slice(n // 2, n)
    inverse = torch.zeros_like(L)
    inverse[head, head] = _inverse_by_halves(L[head, head])
    inverse[tail, tail] = _inverse_by_halves(L[tail, tail])
    inverse[tail, head] = -inverse[tail, tail] @ L[tail, head] @ inverse[head, head]
    return inverse


def best_candidate(errors):
    """Index of the least error of an alpha."""
    if len(errors) == 1:
        return 0
    if not torch.isfinite(errors).any():
        raise ValueError(
            "No alpha can be chosen: no error of a row that is predicted from others is finite. "
            "Give a single alpha, or scale y and sample_weight."
        )
    return int(torch.where(torch.isfinite(errors), errors, torch.inf).argmin())
