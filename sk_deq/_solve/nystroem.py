r"""Kernel ridge regression on the functions spanned by landmarks (Nystroem), in one pass over rows.

With landmarks L, K(L, L) = R R^T and features phi(x) = R^-1 k(L, x), minimises

    sum_i w_i (y_i - f(x_i))^2 + alpha c^T K(L, L) c,   f(x) = k(x, L) c + b = phi(x)^T R^T c + b.

The normal equations in R^T c need only sums over rows, sum_i w_i phi_i phi_i^T and the like. So
rows pass by in tiles, and memory is that of a few m x m matrices, however many rows there are.
"""

from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace

import torch
from scipy.linalg import LinAlgWarning

from .._progress import stage
from .._row_keys import smallest_keys
from .._state import storable
from .._warn import warn
from .exact import Solution, best_candidate

_TILE = 2**22  # entries of the features that are computed at once
_HELD_OUT = 10  # one row in so many is held out to choose alpha,
_MOST_HELD_OUT = 10_000  # but no more than this
_STRIPES = 8  # the Gram matrix of the features is computed below its diagonal, in stripes


def landmarks_and_held_out(keys, positive, n_landmarks, hold_out):
    """Choose landmarks and held-out rows by their keys: order and copies do not matter.

    Parameters
    ----------
    keys : tensor of shape (n,), int64
        Equal for equal rows.
    positive : bool tensor of shape (n,)
        Whether a row has positive weight; only such rows are chosen.
    n_landmarks : int
    hold_out : bool

    Returns
    -------
    landmarks : tensor of shape (at most n_landmarks,)
        Indices of distinct rows.
    held_out : bool tensor of shape (n,) or None
        All copies of a tenth of the distinct rows, at most 10,000 of them.
    """
    kept = keys[positive]
    _, first = smallest_keys(kept, n_landmarks)
    landmarks = torch.nonzero(positive)[:, 0][first]
    if not hold_out:
        return landmarks, None
    other = kept * -0x61C8864680B583EB  # an order of its own: odd factors keep keys apart
    n_distinct = len(torch.unique(other))
    chosen, _ = smallest_keys(other, min(-(-n_distinct // _HELD_OUT), _MOST_HELD_OUT))
    held_out = torch.zeros_like(positive)
    held_out[positive] = other <= chosen[-1]
    return landmarks, held_out


class Features:
    """phi(x) = R^-1 k(L, x) for landmarks L.

    Parameters
    ----------
    kernel : callable
        Tensors of rows to the matrix of kernel values.
    landmarks : tensor of shape (m, n_features)
    """

    def __init__(self, kernel, landmarks):
        self.kernel, self.landmarks = kernel, landmarks
        K = kernel(landmarks).double()
        trace, eps = float(K.trace()), torch.finfo(landmarks.dtype).eps
        jitter = 8 * eps * trace  # kernel values are known to rounding only
        while True:
            K.diagonal().add_(jitter)
            factor, info = torch.linalg.cholesky_ex(K)
            if info == 0:
                break
            jitter *= 10
        if jitter > eps**0.5 * trace:
            warn(
                "The kernel matrix of the landmarks is indefinite by "
                f"{jitter / trace:.1g} of its trace, which was added to its diagonal.",
                LinAlgWarning,
            )
        self.factor = factor  # R, in float64
        self._working = factor.to(landmarks)

    def __len__(self):
        return len(self.landmarks)

    def __call__(self, rows):
        """Features of rows (n, n_features), as columns: (m, n)."""
        K = self.kernel(self.landmarks, rows)
        return torch.linalg.solve_triangular(self._working, K, upper=False)

    def on(self, device):
        """The same for rows on another device."""
        same = copy(self)
        same.landmarks, same._working = self.landmarks.to(device), self._working.to(device)
        return same

    def dual_coef(self, beta):
        """Coefficients of k(., L) for coefficients (m, n_outputs) of the features."""
        return torch.linalg.solve_triangular(self.factor.T, beta, upper=True)


@storable
class Sums:
    """Weighted sums over rows, in float64: all that the least-squares problem depends on."""

    def __init__(self, n_features, n_outputs, device):
        def zeros(*shape):
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.gram = zeros(n_features, n_features)  # its lower triangle
        self.features, self.targets = zeros(n_features), zeros(n_outputs)
        self.products = zeros(n_features, n_outputs)
        self.weight, self.squares = zeros(()), zeros(())

    def add(self, phi, y, w):
        """Account for rows with features phi (m, n), targets y (n, n_outputs) and weights w."""
        weighted = phi * w.to(phi)
        size = -(-len(phi) // _STRIPES)
        for start in range(0, len(phi), size):
            stripe, columns = slice(start, start + size), slice(start + size)
            self.gram[stripe, columns] += weighted[stripe] @ phi[columns].T
        self.features += weighted.sum(1, dtype=torch.float64)
        self.products += weighted @ y.to(phi)
        self.targets += w @ y
        self.weight += w.sum()
        self.squares += w @ y.square().sum(1)

    def merged(self, other):
        """The Sums over these rows and those of other sums."""
        both = Sums.__new__(Sums)
        for name, value in vars(self).items():
            setattr(both, name, value + getattr(other, name))
        return both

    def to(self, device):
        """The same Sums on a device."""
        same = Sums.__new__(Sums)
        for name, value in vars(self).items():
            setattr(same, name, value.to(device))
        return same

    def ridge(self, alpha):
        """Coefficients (m, n_outputs) of the features, and the constant (n_outputs,)."""
        mean, target = self.features / self.weight, self.targets / self.weight
        A = torch.addr(self.gram, self.features, mean, alpha=-1)
        A.diagonal().add_(alpha)
        b = self.products - self.features[:, None] * target
        factor, info = torch.linalg.cholesky_ex(A)
        if info == 0:
            beta = torch.cholesky_solve(b, factor)
        else:
            warn(
                "The normal equations of the landmarks are numerically singular; solved by an "
                "eigendecomposition, without the smallest eigenvalues. Raise alpha.",
                LinAlgWarning,
            )
            values, U = torch.linalg.eigh(A)
            large = values > len(A) * torch.finfo(A.dtype).eps * values[-1]
            beta = U[:, large] @ ((U[:, large].T @ b) / values[large, None])
        return beta, target - mean @ beta

    def error(self, beta, constant):
        """Weighted mean squared error of these coefficients, summed over the outputs."""
        gram = self.gram.tril()
        twice = gram @ beta
        quadratic = (beta * (twice + gram.T @ beta - gram.diagonal()[:, None] * beta)).sum()
        linear = (beta * self.products).sum() + constant @ self.targets
        crossed = constant @ (beta.T @ self.features)
        constants = self.weight * constant.square().sum()
        return (self.squares - 2 * linear + quadratic + 2 * crossed + constants) / self.weight


def tile_rows(n_columns):
    """How many rows pass by at once."""
    return max(1024, _TILE // n_columns)


def solve_nystroem(features, rows, y, w, alphas, held_out=None, kept=None, devices=()):
    """Solve for the alpha with the least error on the held-out rows; then with all rows.

    Parameters
    ----------
    features : Features
    rows : callable
        A slice or an index tensor to the tensor of these rows.
    y : tensor of shape (n, n_outputs), float64
    w : tensor of shape (n,), float64
        Weights >= 0.
    alphas : list of float
    held_out : bool tensor of shape (n,) or None
        Needed if there are several alphas.
    kept : Checkpoint, default=None
        Where the sums are kept on the way.
    devices : sequence of torch.device
        Those that share the pass over rows, where there are several and nothing is kept.

    Returns
    -------
    Solution
        Its predictions are those of the held-out rows by the model of all others.
    """
    center = w @ y / w.sum()
    if len(devices) > 1 and kept is None:
        sums = accumulate_on(devices, features, rows, y - center, w, held_out)
    else:
        sums = accumulate(features, rows, y - center, w, held_out, kept)
    solution, (beta, constant) = solve_sums(features, sums, alphas, center)
    if held_out is None:
        return solution
    index = torch.nonzero(held_out)[:, 0]
    size = tile_rows(max(features.landmarks.shape))
    coef = features.dual_coef(beta).to(features.landmarks)
    predictions = torch.cat(
        [
            (features.kernel(rows(part), features.landmarks) @ coef).double() + constant
            for part in index.split(size)
        ]
    ) + center.to(coef.device)
    return replace(solution, predictions=predictions, rows=index)


def accumulate(features, rows, y, w, held_out=None, kept=None):
    """Pass over rows once: the Sums of those that are not held out, and of those that are.

    As for `solve_nystroem`, y less a constant; a list of one if `held_out` is None, else of two.
    """
    device = features.landmarks.device
    sums = [Sums(len(features), y.shape[1], device) for _ in range(1 if held_out is None else 2)]
    size, begin = tile_rows(max(features.landmarks.shape)), 0
    if kept is not None and kept.state is not None:
        begin, sums = kept.state["begin"], [part.to(device) for part in kept.state["sums"]]
    n_tiles = -(-(len(y) - begin) // size)
    with stage(f"pass over rows, {len(features)} landmarks", n_tiles) as step:
        for start in range(begin, len(y), size):
            tile = slice(start, start + size)
            phi = features(rows(tile))
            targets, weight = y[tile].to(device), w[tile].to(device)
            for side, part in enumerate(sums):
                if held_out is None:
                    part.add(phi, targets, weight)
                else:
                    mine = (held_out[tile] == bool(side)).to(device)
                    part.add(phi[:, mine], targets[mine], weight[mine])
            if kept is not None:
                state = {"begin": start + size, "sums": sums}
                kept.offer(state, last=start + size >= len(y))
            step()
    return sums


def accumulate_on(devices, features, rows, y, w, held_out=None):
    """As `accumulate`, each device with a share of the rows, in a thread of its own."""
    size = -(-len(y) // len(devices))

    def share(start, device):
        mine = slice(start, min(start + size, len(y)))

        def tile(part):
            return rows(slice(start + part.start, min(start + part.stop, mine.stop))).to(device)

        left_out = None if held_out is None else held_out[mine]
        return accumulate(features.on(device), tile, y[mine], w[mine], left_out)

    with ThreadPoolExecutor(len(devices)) as pool:
        sums, *others = pool.map(share, range(0, len(y), size), devices)
    sums = [part.to(features.landmarks.device) for part in sums]
    for other in others:
        sums = [one.merged(two.to(one.gram.device)) for one, two in zip(sums, other, strict=True)]
    return sums


def solve_sums(features, sums, alphas, center):
    """The Solution of all the rows, and coefficients and constant from those not held out.

    The alpha is the one with the least error on the held-out rows, where there are some.

    Parameters
    ----------
    features : Features
    sums : list of Sums
        See `accumulate`.
    alphas : list of float
    center : tensor of shape (n_outputs,)
        What was subtracted from the targets.
    """
    errors, alpha, total = None, alphas[0], sums[0]
    candidate = None
    if len(sums) > 1:
        candidates = [sums[0].ridge(a) for a in alphas]
        errors = torch.stack([sums[1].error(*candidate) for candidate in candidates])
        best = best_candidate(errors)
        alpha, candidate = alphas[best], candidates[best]
        total = sums[0].merged(sums[1])
    beta, constant = total.ridge(alpha)
    solution = Solution(
        dual_coef=features.dual_coef(beta).to(features.landmarks),
        intercept=(constant.cpu() + center).to(features.landmarks),
        alpha=float(alpha),
        errors=errors,
    )
    return solution, candidate or (beta, constant)
