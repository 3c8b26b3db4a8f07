r"""Kernel ridge regression by conjugate gradients: exact, if need be in memory linear in n.

Solves A z + s b = S y, s^T z = 0 for A = S K S + alpha I and s = S 1 (see `leave_one_out`: z is
M S y, b the constant) by products with the kernel matrix. Half of that is kept, in tiles, or where
it is too large computed anew for every product. The preconditioner replaces K by its Nystroem
approximation Phi Phi^T on m landmarks (Rudi, Carratino and Rosasco, 2017; Frangella, Tropp and
Udell, 2023), by Woodbury

    (U U^T + alpha I)^-1 = (I - U (U^T U + alpha I)^-1 U^T) / alpha,      U = S Phi.

One pass over the kernel in a step serves several penalties.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from sklearn.exceptions import ConvergenceWarning

from .._progress import stage
from .._torch import single_thread
from .._warn import warn
from .exact import Solution, best_candidate
from .nystroem import tile_rows

_TILE = 2048  # rows and columns of the kernel that are computed at once
_STRIP = 128  # rows of a tile that serve twice while they are at hand
_FEW = 16  # columns up to which one thread multiplies
_SHARES = 16  # of the tiles, one to a thread at a time: sums do not depend on how many there are
_ROUGHLY = 0.01  # residual at which penalties are compared, or what it is
_STEPS = 20  # after so many steps,
_LEFT_OUT = 0.1  # if it is less than this: their errors are then rather too large than too small


def times(A, V):
    """A V for A (m, n) and few columns V (n, k), as (V^T A^T)^T, which the BLAS do far faster."""
    return (V.T @ A.T).T


def threads_of(V):
    """A context for products with columns V (n, k): one thread for few, as memory is the limit."""
    return single_thread() if V.shape[1] <= _FEW else nullcontext()


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
        parts = [slice(i, i + _TILE) for i in range(0, len(X), _TILE)]
        places = [(here, there) for i, here in enumerate(parts) for there in parts[i:]]
        self._tiles = [(*place, self._tile(*place) if kept else None) for place in places]
        self._n_threads = torch.get_num_threads() if X.device.type == "cpu" else 1

    def _tile(self, here, there):
        return self.kernel(self.X[here], *(() if here == there else (self.X[there],)))

    def product(self, V):
        """K(X, X) @ V for V (n, k)."""
        shares = [self._tiles[i::_SHARES] for i in range(_SHARES)]
        with ThreadPoolExecutor(self._n_threads) as pool:
            return torch.stack([*pool.map(partial(self._part_of_product, V), shares)]).sum(0)

    @single_thread()
    def _part_of_product(self, V, tiles):
        """What some of the tiles give."""
        out = torch.zeros_like(V)
        for here, there, K in tiles:
            K = self._tile(here, there) if K is None else K
            strips = [M.split(_STRIP) for M in (K, V[here], out[here])]
            for part, v, rows in zip(*strips, strict=True):
                rows += times(part, V[there])
                if there != here:
                    out[there] += times(part.T, v)
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
        Several are solved for side by side, to a residual of 0.01 or for `_STEPS` steps, without
        the held-out rows; those that are then above `_LEFT_OUT` are left out, but for the largest,
        which is taken where there are no held-out rows, or no others.
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
            solved = residuals <= max(tol, _LEFT_OUT)
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
    """A z + s b = S y, s^T z = 0 of rows with targets y (n, k), for some weights and penalties.

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
        """A Solution for each alpha; z (n, n_alphas, k), to start from again; residuals.

        For weights w (n,); residuals are the largest relative ones of each alpha, (n_alphas,).

        Raises
        ------
        ValueError
            If an alpha is lost in the rounding of the preconditioner.
        """
        s, shape = w.sqrt(), (len(w), len(alphas), self.y.shape[1])
        mean, penalties = w @ self.y / w.sum(), torch.tensor(alphas, dtype=torch.float64).to(w)
        of_column = penalties.repeat_interleave(shape[2])

        def product(V, columns):
            return s[:, None] * self.tiles.product(s[:, None] * V) + of_column[columns] * V

        target = (s[:, None] * (self.y - mean))[:, None].expand(shape).flatten(1)
        start = None if start is None else start.flatten(1)
        precondition = self._preconditioner(s, penalties)
        with threads_of(target):
            z, constant, n_iter, residual = _conjugate_gradients(
                product, precondition, target, s, start, tol, max_iter
            )
        z, constant = z.unflatten(1, shape[1:]), constant.unflatten(0, shape[1:])
        solutions = [
            Solution(s[:, None] * z[:, i], mean + constant[i], a, n_iter=max(1, n_iter))
            for i, a in enumerate(alphas)
        ]
        return solutions, z, residual.unflatten(0, shape[1:]).amax(1)

    def _preconditioner(self, s, alphas):
        """The inverse of U U^T + alpha I where s^T z = 0, of k columns for each of the alphas."""
        U = self.features * s[:, None]
        gram = U.T @ U
        least = float(alphas.min())
        rounding = torch.finfo(s.dtype).eps * float(torch.linalg.norm(gram))
        if least <= len(gram) * rounding:
            raise ValueError(
                f"solver='cg' has no preconditioner: alpha={least:.2g} is lost in rounding. Raise "
                "alpha, or use dtype='float64' or solver='cholesky'."
            )
        eye = torch.eye(len(gram), dtype=s.dtype, device=s.device)
        factors = [torch.linalg.cholesky(gram + a * eye) for a in alphas]

        def inverse(V):
            parts = times(U.T, V).tensor_split(len(alphas), 1)
            pairs = zip(parts, factors, strict=True)
            solved = times(U, torch.cat([torch.cholesky_solve(*pair) for pair in pairs], 1))
            return (V - solved).unflatten(1, (len(alphas), -1)) / alphas[:, None]

        of_s = inverse(s[:, None].expand(-1, len(alphas)))  # (n, n_alphas, 1)
        share = of_s / torch.einsum("n,nak->ak", s, of_s)

        def precondition(V):
            solved = inverse(V)
            return (solved - share * torch.einsum("n,nak->ak", s, solved)).flatten(1)

        return precondition


def _conjugate_gradients(product, precondition, b, s, x, tol, max_iter):
    """Solve product(x) + s c = b, s^T x = 0 column by column, all at once, for b with s^T b = 0.

    A column that has converged rests. `product` takes columns, and a mask or slice of which they
    are; `precondition` gives columns with s^T z = 0 (Gould, Hribar and Nocedal, 2001).
    """
    size = torch.linalg.vector_norm(b, dim=0)
    size = size.where(size > 0, 1)
    x = torch.zeros_like(b) if x is None else x.clone()
    r = b - product(x, slice(None)) if x.any() else b.clone()
    constant = _without(s, r)
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
            constant += _without(s, r)
            z = precondition(r)
            following = (r * z).sum(0)
            p = z + p * torch.where(active, following / rz, 0)
            rz = following
            told(f"residual {float(residual.max()):.1e}, ends at {tol:g}")
    return x, constant, n_iter, residual


def _without(s, r):
    """Take its share of s from every column of r, in place; the shares."""
    share = s @ r / (s @ s)
    r -= s[:, None] * share
    return share
