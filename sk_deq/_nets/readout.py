"""The readout of random features, a convex problem: by scikit-learn's solvers or in closed form."""

import numpy as np
import torch

from .._row_keys import merge_repeated_rows
from .._search.criterion import ALPHAS
from .._solve.exact import best_candidate, solve_eigh
from .._solve.leave_one_out import mean_square

_LEFT_OUT = 4000  # distinct rows on which the penalty is chosen, at most


def solve_logistic(Z, target, weight, penalty, n_classes):
    """Minimise the cross entropy plus penalty |v|^2 / 2 of logits Z v^T + b.

    Parameters
    ----------
    Z : ndarray of shape (n, width)
    target : ndarray of shape (n,)
        Class indices.
    weight : ndarray of shape (n,)
    penalty : float
    n_classes : int
        Of which some may not occur; their logits are 0.

    Returns
    -------
    weights : ndarray of shape (n_classes, width)
    bias : ndarray of shape (n_classes,)
    n_iter : int
    """
    from sklearn.linear_model import LogisticRegression

    present = np.unique(target)
    weights, bias = np.zeros((n_classes, Z.shape[1])), np.zeros(n_classes)
    if len(present) == 1:
        return weights, bias, 0
    C = 1 / penalty if penalty else np.inf
    model = LogisticRegression(C=C, tol=1e-7, max_iter=10_000).fit(Z, target, weight)
    if len(present) == 2:  # one row of log-odds, which logits share evenly
        weights[present] = np.concatenate([-model.coef_, model.coef_]) / 2
        bias[present] = np.concatenate([-model.intercept_, model.intercept_]) / 2
    else:
        weights[present], bias[present] = model.coef_, model.intercept_
    return weights, bias, int(model.n_iter_.max())


def solve_ridge(Z, target, weight, penalty):
    """Minimise the squared error plus penalty |v|^2; as `solve_logistic`, target (n, n_outputs)."""
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=penalty).fit(Z, target, weight)
    return np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_), 1


def solve_left_out(Z, y, w, keys):
    """Ridge regression with the penalty of the least leave-one-out error.

    Parameters
    ----------
    Z : tensor of shape (n, width), float64
        Features.
    y : tensor of shape (n, n_outputs)
    w : tensor of shape (n,)
        Positive weights.
    keys : tensor of shape (n,)
        Of the rows, see `row_keys`: all copies of a row are left out together.

    Returns
    -------
    weights : tensor of shape (n_outputs, width)
    bias : tensor of shape (n_outputs,)
    out_of_sample : tuple of tensors
        Predictions of rows that were left out, what was to be predicted, and weights.
    """
    first, y, w = merge_repeated_rows(Z, y, w, keys)
    if first is not None:
        Z, keys = Z[first], keys[first]
    w = w / w.mean()  # the penalty is relative to the number of distinct rows
    if len(Z) == 1:  # nothing but its target is known
        return Z.new_zeros(y.shape[1], Z.shape[1]), y[0], (y, y, w)
    some = slice(None) if len(Z) <= _LEFT_OUT else keys.argsort()[:_LEFT_OUT]
    Z_some, y_some, w_some = Z[some], y[some], w[some]
    alphas = ALPHAS * float(w_some @ Z_some.square().sum(1) / w_some.sum())
    if len(Z_some) > Z.shape[1]:
        weights, bias, left_out = _path(Z_some, y_some, w_some, alphas)
        errors = mean_square(left_out, w_some)
        best = best_candidate(errors)
        weights, bias, predictions = weights[best], bias[best], y_some - left_out[:, best]
    else:
        solution = solve_eigh(Z_some @ Z_some.T, y_some, w_some, alphas)
        weights, bias, errors = Z_some.T @ solution.dual_coef, solution.intercept, solution.errors
        best, predictions = best_candidate(errors), solution.predictions
    if len(Z) > _LEFT_OUT:
        solved = solve_ridge(Z.numpy(), y.numpy(), w.numpy(), float(alphas[best]))
        weights, bias = torch.from_numpy(solved[0].T), torch.from_numpy(solved[1])
    return weights.T, bias, (predictions, y_some, w_some)


def _path(Z, y, w, alphas):
    """Ridge regression for every penalty, by the eigenvectors of fewer features than rows.

    Returns weights (n_alphas, width, n_outputs), biases (n_alphas, n_outputs) and the residuals of
    rows left out, (n, n_alphas, n_outputs): those of the fit over 1 - h, h the leverages.
    """
    share = w / w.sum()
    center, mean = share @ Z, share @ y
    A, s = (Z - center) * w.sqrt()[:, None], w.sqrt()[:, None]
    values, V = torch.linalg.eigh(A.T @ A)
    P = A @ V
    filters = 1 / (values.clamp_min(0) + torch.as_tensor(alphas)[:, None])  # (n_alphas, width)
    projected = P.T @ (s * (y - mean))
    weights = V @ (filters[:, :, None] * projected)
    bias = mean - center @ weights
    residuals = y[:, None] - (torch.einsum("np,apk->nak", Z, weights) + bias)
    leverages = share[:, None] + P.square() @ filters.T
    return weights, bias, residuals / (1 - leverages)[:, :, None]
