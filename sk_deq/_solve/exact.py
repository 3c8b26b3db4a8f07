r"""Solvers of kernel ridge regression with weights and a constant that is not penalised.

All minimise, over f = K c + b,

    sum_i w_i (y_i - f_i)^2 + alpha c^T K c.

With S = diag(w)^(1/2), A = S K S + alpha I, s = S 1, and the projection that the constant makes,

    M = A^-1 - A^-1 s s^T A^-1 / (s^T A^-1 s),      c = S M S y,      b = s^T A^-1 S y / s^T A^-1 s,

the error at row i of the model fitted without row i, b included, is (M S y)_i / (M_ii S_ii):
the leave-one-out errors of every alpha cost one eigendecomposition.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import linalg
from scipy.linalg import LinAlgWarning

from .._warn import warn

_BLOCK = 1024  # rows of the eigenvectors that are squared at once


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

    Raises
    ------
    ValueError
        If there are several alphas and leave-one-out cannot tell between them.
    """
    r, intercept, left_out = _eigh_path(K, y, w, alphas)
    errors = (w @ left_out.square().sum(2)) / w.sum()
    best = best_candidate(errors)
    return Solution(
        dual_coef=w.sqrt()[:, None] * r[:, best],
        intercept=intercept[best],
        alpha=float(alphas[best]),
        errors=errors,
        predictions=y - left_out[:, best],
    )


def leave_one_out(K, y, w, alphas, precision):
    """Predictions for every row of the models fitted without it: (n, n_alphas, n_outputs).

    Parameters as for `solve_eigh`, and the relative precision of K's entries.
    """
    return y[:, None] - _eigh_path(K, y, w, alphas, precision)[2]


def _eigh_path(K, y, w, alphas, precision=None):
    """M S y (n, a, k), constants (a, k) and left-out residuals (n, a, k) of every alpha."""
    s = w.sqrt()
    mean = w @ y / w.sum()
    eigenvalues, U = _eigh(K.mul_(s[:, None]).mul_(s))
    eigenvalues = _clip(eigenvalues, precision or torch.finfo(K.dtype).eps)
    alphas_ = torch.as_tensor(alphas, dtype=K.dtype, device=K.device)
    rounding = len(K) * torch.finfo(K.dtype).eps * eigenvalues[-1]
    floor = rounding.clamp_min(torch.finfo(K.dtype).tiny)  # alpha = 0 means its limit
    inverse = 1 / (eigenvalues[:, None] + alphas_).maximum(floor)  # (n, n_alphas)
    z = U.T @ torch.cat([s[:, None] * (y - mean), s[:, None]], 1)
    zy, zs = z[:, None, :-1], z[:, None, -1:]
    weighted = inverse[:, :, None] * zs
    constant = (weighted * zy).sum(0) / (weighted * zs).sum(0)  # (n_alphas, k)
    # subtracted here, where directions of eigenvalue 0 cancel, and not after the product with U
    z = torch.cat([zy - zs * constant, zs.expand(-1, len(alphas_), -1)], 2)
    solved = U @ (inverse[:, :, None] * z).flatten(1)
    solved = solved.unflatten(1, (len(alphas_), -1))  # A^-1 [S (y - b), s], (n, a, k + 1)
    diagonal = torch.cat([block.square() @ inverse for block in U.split(_BLOCK)])
    r, intercept, diagonal = project(solved, diagonal, s)
    return r, mean + constant + intercept, _left_out_residuals(r, diagonal, s)


def solve_cholesky(K, y, w, alpha, leave_one_out=False):
    """Solve for one alpha by a Cholesky factorisation.

    Parameters
    ----------
    K, y, w
        As for `solve_eigh`, which takes over, with a warning, if K is not positive definite.
    alpha : float
    leave_one_out : bool, default=False
        Whether to predict every row from all others too; it takes three times as long.

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
    diagonal = torch.cholesky_inverse(L).diagonal().clone() if leave_one_out else torch.ones_like(s)
    r, intercept, diagonal = project(solved[:, None], diagonal[:, None], s)
    errors = predictions = None
    if leave_one_out:
        left_out = _left_out_residuals(r, diagonal, s)
        errors = (w @ left_out.square().sum(2)) / w.sum()
        predictions = y - left_out[:, 0]
    return Solution(s[:, None] * r[:, 0], mean + intercept[0], float(alpha), errors, predictions)


def _eigh(A):
    """torch.linalg.eigh, or scipy's, which is up to three times as fast; overwrites A."""
    if A.is_cuda:
        return torch.linalg.eigh(A)
    # the transpose is what LAPACK overwrites without a copy; A is symmetric
    pair = linalg.eigh(A.numpy().T, overwrite_a=True, check_finite=False)
    return tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in pair)


def _clip(eigenvalues, precision):
    """Set negative eigenvalues to 0; warn if they are more than rounding."""
    largest, smallest = eigenvalues[-1], eigenvalues[0]
    if smallest < -10 * len(eigenvalues) * precision * largest:
        warn(
            "The kernel matrix is indefinite: its eigenvalues lie between "
            f"{float(smallest):.3g} and {float(largest):.3g}. Negative ones were set to 0; "
            "method='exact' gives a positive semidefinite kernel.",
            LinAlgWarning,
        )
    return eigenvalues.clamp_min(0)


def project(solved, diagonal, s):
    """Account for the constant: M S y (n, a, k), b (a, k) and diag M (n, a)."""
    r, t = solved[..., :-1], solved[..., -1]
    denominator = s @ t  # (n_alphas,)
    intercept = torch.einsum("n,nak->ak", s, r) / denominator[:, None]
    projected = diagonal - t.square() / denominator
    rounding = 8 * torch.finfo(s.dtype).eps * diagonal
    return r - t[:, :, None] * intercept, intercept, projected.where(projected > rounding, 0)


def _left_out_residuals(r, diagonal, s):
    """y_i minus its prediction by the model fitted without row i; inf where there is none."""
    residuals = r / (diagonal * s[:, None])[:, :, None]
    return torch.where(diagonal[:, :, None] > 0, residuals, torch.inf)


def best_candidate(errors):
    """Index of the least error of an alpha."""
    if len(errors) == 1:
        return 0
    if not torch.isfinite(errors).any():
        raise ValueError(
            "No alpha can be chosen: rows cannot be predicted from the other rows, for there are "
            "too few distinct ones (n_samples = 1?). Give a single alpha."
        )
    return int(torch.where(torch.isfinite(errors), errors, torch.inf).argmin())
