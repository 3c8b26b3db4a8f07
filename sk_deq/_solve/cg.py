r"""Kernel ridge regression by conjugate gradients: the exact model in memory linear in n.

Solves A z = S y for A = S K S + alpha I (see `leave_one_out`); every product computes the kernel
matrix anew, in tiles. The preconditioner replaces K by its Nystroem approximation Phi Phi^T on m
landmarks (Rudi, Carratino and Rosasco, 2017; Frangella, Tropp and Udell, 2023), by Woodbury

    (U U^T + alpha I)^-1 = (I - U (U^T U + alpha I)^-1 U^T) / alpha,      U = S Phi.
"""

from dataclasses import replace

import torch
from sklearn.exceptions import ConvergenceWarning

from .._progress import stage
from .._warn import warn
from .exact import Solution
from .leave_one_out import project
from .nystroem import tile_rows

_TILE = 2048  # rows and columns of the kernel that are computed at once


def kernel_product(kernel, X, V):
    """K(X, X) @ V for V (n, k), without the matrix: every block above the diagonal serves twice."""
    out = torch.zeros_like(V)
    parts = [slice(i, i + _TILE) for i in range(0, len(X), _TILE)]
    for i, here in enumerate(parts):
        out[here] += kernel(X[here]) @ V[here]
        for there in parts[i + 1 :]:
            K = kernel(X[here], X[there])
            out[here] += K @ V[there]
            out[there] += K.T @ V[here]
    return out


def _preconditioner(features, X, s, alpha):
    """The inverse of U U^T + alpha I, as a function."""
    size = tile_rows(len(features))
    U = torch.cat([features(part).T for part in X.split(size)]).mul_(s[:, None])
    gram = U.T @ U
    gram.diagonal().add_(alpha)
    factor, info = torch.linalg.cholesky_ex(gram)
    if info > 0:
        raise ValueError(
            f"solver='cg' has no preconditioner: alpha={alpha:.2g} is lost in rounding. Raise "
            "alpha, or use dtype='float64' or solver='cholesky'."
        )
    return lambda V: (V - U @ torch.cholesky_solve(U.T @ V, factor)) / alpha


def solve_cg(kernel, features, X, y, w, alpha, tol, max_iter, held_out=None):
    """Solve for one alpha by preconditioned conjugate gradients.

    Parameters
    ----------
    kernel : callable
        Tensors of rows to the matrix of kernel values.
    features : Features
        Of the landmarks of the preconditioner.
    X : tensor of shape (n, n_features)
    y : tensor of shape (n, n_outputs)
    w : tensor of shape (n,)
        Positive weights.
    alpha : float
    tol : float
        Bound on the residual over the right-hand side, in norm, of every output.
    max_iter : int
    held_out : bool tensor of shape (n,), default=None
        Rows to be predicted by a model of all others, which is then taken as the start.

    Returns
    -------
    Solution
        With predictions for the held-out rows, and their error.
    """
    start = errors = predictions = rows = None
    if held_out is not None:
        part, start = _solve(
            kernel, features, X, y, w.where(~held_out, 0), alpha, tol, max_iter, start
        )
        rows = torch.nonzero(held_out)[:, 0]
        predictions = torch.cat(
            [
                kernel(X[some], X) @ part.dual_coef + part.intercept
                for some in rows.split(tile_rows(len(X)))
            ]
        )
        squares = (predictions - y[rows]).square().sum(1)
        errors = (w[rows] @ squares / w[rows].sum())[None]
    solution, _ = _solve(kernel, features, X, y, w, alpha, tol, max_iter, start)
    return replace(solution, errors=errors, predictions=predictions, rows=rows)


def _solve(kernel, features, X, y, w, alpha, tol, max_iter, start):
    s = w.sqrt()
    mean = w @ y / w.sum()
    solved, n_iter = _conjugate_gradients(
        lambda V: s[:, None] * kernel_product(kernel, X, s[:, None] * V) + alpha * V,
        _preconditioner(features, X, s, alpha),
        torch.cat([s[:, None] * (y - mean), s[:, None]], 1),
        start,
        tol,
        max_iter,
    )
    r, intercept, _ = project(solved[:, None], torch.ones_like(s)[:, None], s)
    solution = Solution(s[:, None] * r[:, 0], mean + intercept[0], alpha, n_iter=max(1, n_iter))
    return solution, solved


def _conjugate_gradients(product, precondition, b, x, tol, max_iter):
    """Solve product(x) = b column by column, all at once; a column that has converged rests."""
    size = torch.linalg.vector_norm(b, dim=0)
    size = size.where(size > 0, 1)
    x = torch.zeros_like(b) if x is None else x.clone()
    r = b - product(x) if x.any() else b.clone()
    p = z = precondition(r)
    rz = (r * z).sum(0)
    with stage("conjugate gradients", max_iter) as told:
        for n_iter in range(max_iter + 1):
            residual = torch.linalg.vector_norm(r, dim=0) / size
            active = residual > tol
            if not active.any() or n_iter == max_iter:
                break
            Ap = product(p[:, active])
            step = rz[active] / (p[:, active] * Ap).sum(0)
            x[:, active] += step * p[:, active]
            r[:, active] -= step * Ap
            z = precondition(r)
            following = (r * z).sum(0)
            p = z + p * torch.where(active, following / rz, 0)
            rz = following
            told(f"residual {float(residual.max()):.1e}, ends at {tol:g}")
    if active.any():
        warn(
            f"Conjugate gradients stopped at max_iter={max_iter} with a relative residual of "
            f"{float(residual.max()):.2g}, above tol={tol:g}. Raise max_iter, n_components (the "
            "size of the preconditioner), alpha or tol.",
            ConvergenceWarning,
        )
    return x, n_iter
