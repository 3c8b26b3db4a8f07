"""Kernel ridge regression by an eigendecomposition or a Cholesky factor of the kernel matrix."""

from dataclasses import dataclass, replace

import torch
from scipy.linalg import LinAlgWarning

from .._state import storable
from .._warn import warn
from .leave_one_out import eigh_path, left_out_residuals, mean_square, project


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


def solve_cholesky(K, y, w, alpha, left_out=None):
    """Solve for one alpha by a Cholesky factorisation.

    Parameters
    ----------
    K, y, w
        As for `solve_eigh`, which takes over, with a warning, if K is not positive definite.
    alpha : float
    left_out : tensor of shape (n_left_out,), default=None
        Indices of rows to predict from all others too, each in the time of one right-hand side.

    Returns
    -------
    Solution
    """
    s = w.sqrt()
    mean = w @ y / w.sum()
    A = K * s[:, None] * s
    A.diagonal().add_(alpha)
    L, info = torch.linalg.cholesky_ex(A)
    if info > 0:
        warn(
            "The kernel matrix plus alpha is not numerically positive definite; solved by its "
            "eigendecomposition instead. Raise alpha, or use dtype='float64'.",
            LinAlgWarning,
        )
        return solve_eigh(K, y, w, [alpha])
    solved = torch.cholesky_solve(torch.cat([s[:, None] * (y - mean), s[:, None]], 1), L)
    diagonal = torch.ones_like(s)
    if left_out is not None:
        units = torch.zeros(len(K), len(left_out)).to(K)
        units[left_out, torch.arange(len(left_out), device=K.device)] = 1
        diagonal[left_out] = torch.linalg.solve_triangular(L, units, upper=False).square().sum(0)
    r, intercept, diagonal = project(solved[:, None], diagonal[:, None], s)
    errors = predictions = None
    if left_out is not None:
        residuals = left_out_residuals(r, diagonal, s)[left_out]
        errors = mean_square(residuals, w[left_out])
        predictions = y[left_out] - residuals[:, 0]
    return Solution(
        s[:, None] * r[:, 0], mean + intercept[0], float(alpha), errors, predictions, left_out
    )


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
