r"""Kernel ridge regression by conjugate gradients: exact, if need be in memory linear in n.

Solves A z = S y for A = S K S + alpha I (see `leave_one_out`) by products with the kernel matrix.
Half of that is kept, in tiles, or where it is too large computed anew for every product. The
preconditioner replaces K by its Nystroem approximation Phi Phi^T on m landmarks (Rudi, Carratino
and Rosasco, 2017; Frangella, Tropp and Udell, 2023), by Woodbury

    (U U^T + alpha I)^-1 = (I - U (U^T U + alpha I)^-1 U^T) / alpha,      U = S Phi.

One eigendecomposition of U^T U, and one pass over the kernel in a step, serve several penalties.
"""

from contextlib import nullcontext
from dataclasses import replace

import torch
from sklearn.exceptions import ConvergenceWarning

from .._progress import stage
from .._torch import single_thread
from .._warn import warn
from .exact import Solution, best_candidate
from .leave_one_out import project
from .nystroem import tile_rows

_TILE = 2048  # rows and columns of the kernel that are computed at once
_FEW = 16  # columns that are multiplied by one thread
_ROUGHLY = 0.01  # residual at which penalties are compared,
_STEPS = 30  # that are this far after so many steps


def times(A, V):
    """A V for A (m, n) and few columns V (n, k), as (V^T A^T)^T, which the BLAS do far faster.

    By one thread: memory is what it waits for.
    """
    with single_thread() if V.shape[1] <= _FEW else nullcontext():
        return (V.T @ A.T).T


class Tiles:
    """The kernel matrix of rows: its tiles on and above the diagonal, each of which serves twice.

    Parameters
    ----------
    kernel : callable
        Tensors of rows to the matrix of kernel values.
    X : tensor of shape (n, n_features)
    kept : bool
        Whether tiles stay in memory, or are computed in every pass.
    """

    def __init__(self, kernel, X, kept):
        self.kernel, self.X = kernel, X
        self._kept = list(self._computed()) if kept else None

    def _computed(self):
        parts = [slice(i, i + _TILE) for i in range(0, len(self.X), _TILE)]
        for i, here in enumerate(parts):
            yield here, here, self.kernel(self.X[here])
            for there in parts[i + 1 :]:
                yield here, there, self.kernel(self.X[here], self.X[there])

    def product(self, V):
        """K(X, X) @ V for V (n, k)."""
        out = torch.zeros_like(V)
        for here, there, K in self._kept or self._computed():
            out[here] += times(K, V[there])
            if there != here:
                out[there] += times(K.T, V[here])
        return out


def bytes_of_tiles(n, itemsize):
    """Memory of the tiles of n rows, where they are kept."""
    return n * (n + _TILE) / 2 * itemsize


def solve_cg(tiles, features, y, w, alphas, tol, max_iter, held_out=None):
    """Solve by preconditioned conjugate gradients, for the alpha with the least error.

    Parameters
    ----------
    tiles : Tiles
        Of the rows.
    features : Features
        Of the landmarks of the preconditioner.
    y : tensor of shape (n, n_outputs)
    w : tensor of shape (n,)
        Positive weights.
    alphas : list of float
        Several are solved for side by side, to a residual of 0.01, without the held-out rows; those
        that need more than `_STEPS` steps for it are left out, but for the largest, which is taken
        where there are no held-out rows, or no others.
    tol : float
        Bound on the residual over the right-hand side, in norm, of every output.
    max_iter : int
    held_out : bool tensor of shape (n,), default=None
        Rows to be predicted by a model of all others, which is then taken as the start.

    Returns
    -------
    Solution
        With predictions for the held-out rows, and their errors.
    """
    system = System(tiles, features, y)
    largest = max(range(len(alphas)), key=alphas.__getitem__)
    alpha, start, errors, predictions, rows = alphas[largest], None, None, None, None
    if held_out is not None and bool((w.where(~held_out, 0) > 0).any()):
        rest, rows = w.where(~held_out, 0), torch.nonzero(held_out)[:, 0]
        several = len(alphas) > 1
        bounds = (max(tol, _ROUGHLY), _STEPS) if several else (tol, max_iter)
        solutions, starts, residuals = system.solve(rest, alphas, *bounds)
        coef = torch.cat([one.dual_coef for one in solutions], 1)
        found = tiles.product(coef)[rows].unflatten(1, (len(alphas), -1))
        found += torch.stack([one.intercept for one in solutions])
        errors = w[rows] @ (found - y[rows, None]).square().sum(2) / w[rows].sum()
        if several:
            solved = residuals <= bounds[0]
            solved[largest] = True
            errors = errors.where(solved, torch.inf)
        else:
            _warn_of(residuals, *bounds)
        best = best_candidate(errors)
        alpha, start, predictions = alphas[best], starts[:, best : best + 1], found[:, best]
    (solution,), _, residual = system.solve(w, [alpha], tol, max_iter, start)
    _warn_of(residual, tol, max_iter)
    return replace(solution, errors=errors, predictions=predictions, rows=rows)


def _warn_of(residual, tol, max_iter):
    if float(residual.max()) > tol:
        warn(
            f"Conjugate gradients stopped at max_iter={max_iter} with a relative residual of "
            f"{float(residual.max()):.2g}, above tol={tol:g}. Raise max_iter, n_components (the "
            "size of the preconditioner), alpha or tol.",
            ConvergenceWarning,
        )


class System:
    """A z = S [y - mean, 1] of rows with targets y (n, k), for some weights and penalties.

    Parameters
    ----------
    tiles : Tiles
    features : Features
        Of the landmarks of the preconditioner.
    y : tensor of shape (n, k)
    """

    def __init__(self, tiles, features, y):
        self.tiles, self.y = tiles, y
        size = tile_rows(len(features))
        self.features = torch.cat([features(part).T for part in tiles.X.split(size)])

    def solve(self, w, alphas, tol, max_iter, start=None):
        """A Solution for each alpha; z (n, n_alphas, k + 1), to start from again; residuals.

        For weights w (n,); residuals are the largest relative ones of each alpha, (n_alphas,).

        Raises
        ------
        ValueError
            If an alpha is lost in the rounding of the preconditioner.
        """
        s, shape = w.sqrt(), (len(w), len(alphas), self.y.shape[1] + 1)
        mean = w @ self.y / w.sum()
        b = torch.cat([s[:, None] * (self.y - mean), s[:, None]], 1)
        of_column = torch.tensor(alphas, dtype=torch.float64).repeat_interleave(shape[2]).to(w)

        def product(V, columns):
            return s[:, None] * self.tiles.product(s[:, None] * V) + of_column[columns] * V

        b = b[:, None].expand(shape).flatten(1)
        start = None if start is None else start.flatten(1)
        precondition = self._preconditioner(s, of_column)
        z, n_iter, residual = _conjugate_gradients(product, precondition, b, start, tol, max_iter)
        z = z.unflatten(1, shape[1:])
        r, intercepts, _ = project(z, torch.ones(shape[:2]).to(s), s)
        solutions = [
            Solution(s[:, None] * r[:, i], mean + intercepts[i], a, n_iter=max(1, n_iter))
            for i, a in enumerate(alphas)
        ]
        return solutions, z, residual.unflatten(0, shape[1:]).amax(1)

    def _preconditioner(self, s, alpha):
        """The inverse of U U^T + alpha I, as a function of columns with an alpha (k,) each."""
        U = self.features * s[:, None]
        values, Q = torch.linalg.eigh(U.T @ U)
        least, rounding = float(alpha.min()), torch.finfo(s.dtype).eps * values[-1]
        if least <= len(values) * rounding:
            raise ValueError(
                f"solver='cg' has no preconditioner: alpha={least:.2g} is lost in rounding. Raise "
                "alpha, or use dtype='float64' or solver='cholesky'."
            )
        values, U = values.clamp_min(0)[:, None], U @ Q
        return lambda V: (V - times(U, times(U.T, V) / (values + alpha))) / alpha


def _conjugate_gradients(product, precondition, b, x, tol, max_iter):
    """Solve product(x) = b column by column, all at once; a column that has converged rests.

    `product` takes columns, and a mask or slice of which they are.
    """
    size = torch.linalg.vector_norm(b, dim=0)
    size = size.where(size > 0, 1)
    x = torch.zeros_like(b) if x is None else x.clone()
    r = b - product(x, slice(None)) if x.any() else b.clone()
    p = z = precondition(r)
    rz = (r * z).sum(0)
    with stage("conjugate gradients", max_iter) as told:
        for n_iter in range(max_iter + 1):
            residual = torch.linalg.vector_norm(r, dim=0) / size
            active = residual > tol
            if not active.any() or n_iter == max_iter:
                break
            Ap = product(p[:, active], active)
            step = rz[active] / (p[:, active] * Ap).sum(0)
            x[:, active] += step * p[:, active]
            r[:, active] -= step * Ap
            z = precondition(r)
            following = (r * z).sum(0)
            p = z + p * torch.where(active, following / rz, 0)
            rz = following
            told(f"residual {float(residual.max()):.1e}, ends at {tol:g}")
    return x, n_iter, residual
