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
from .._row_keys import another_order, below, smallest_keys
from .._state import storable
from .._warn import warn
from .exact import Solution, best_candidate

_TILE = 2**22  # entries of the features that are computed at once
_HELD_OUT = 1 / 10  # the share of the rows that is held out to choose alpha
MOST_PREDICTED = 4000  # rows of these, for what needs predictions out of sample
_STRIPES = 8  # the Gram matrix of the features is computed below its diagonal, in stripes


def landmarks_of(keys, positive, n):
    """Indices of the n distinct rows of the smallest keys, of those that are `positive`."""
    _, first = smallest_keys(keys[positive], n)
    return torch.nonzero(positive)[:, 0][first]


def first_held_out(keys):
    """The key of the row of these that is held out if none else is."""
    return int(keys[another_order(keys).argmin()])


def is_held_out(keys, positive, first):
    """Which rows are held out, a tenth by their keys: all copies of a row or none, (n,) bool."""
    return positive & ((another_order(keys) < below(_HELD_OUT)) | (keys == first))


def predicted_of(keys, held_out):
    """Indices of all copies of the first `MOST_PREDICTED` distinct rows that are held out."""
    order = another_order(keys)
    last = smallest_keys(order[held_out], MOST_PREDICTED)[0][-1:]
    return torch.nonzero(held_out & (order <= last))[:, 0]


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


def solve_nystroem(
    features, rows, y, w, alphas, held_out=None, predicted=None, kept=None, devices=()
):  # fmt: skip
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
    predicted : tensor of shape (n_predicted,), default=None
        Held-out rows to predict.
    kept : Checkpoint, default=None
        Where the sums are kept on the way.
    devices : sequence of torch.device
        Those that share the pass over rows, where there are several and nothing is kept.

    Returns
    -------
    Solution
        Its predictions are by the model of the rows that are not held out.
    """
    center = w @ y / w.sum()
    if len(devices) > 1 and kept is None:
        sums = accumulate_on(devices, features, rows, y - center, w, held_out)
    else:
        sums = accumulate(features, rows, y - center, w, held_out, kept)
    solution, (beta, constant) = solve_sums(features, sums, alphas, center)
    if predicted is None:
        return solution
    size = tile_rows(max(features.landmarks.shape))
    coef = features.dual_coef(beta).to(features.landmarks)
    predictions = torch.cat(
        [
            (features.kernel(rows(part), features.landmarks) @ coef).double() + constant
            for part in predicted.split(size)
        ]
    ) + center.to(coef.device)
    return replace(solution, predictions=predictions, rows=predicted)


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
    if len(sums) > 1 and not all(bool(part.weight > 0) for part in sums):
        sums, alphas = [sums[0].merged(sums[1])], alphas[-1:]  # nothing to choose by
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
