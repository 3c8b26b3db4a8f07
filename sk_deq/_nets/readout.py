"""The readout of random features, a convex problem: by scikit-learn's solvers or in closed form."""

import numpy as np
import torch

from .._row_keys import merge_repeated_rows
from .._search.criterion import ALPHAS
from .._solve.exact import solve_eigh

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
    some = slice(None) if len(Z) <= _LEFT_OUT else keys.argsort()[:_LEFT_OUT]
    Z_some, y_some, w_some = Z[some], y[some], w[some]
    level = float(w_some @ Z_some.square().sum(1) / w_some.sum())
    solution = solve_eigh(Z_some @ Z_some.T, y_some, w_some, ALPHAS * level)
    weights, bias = Z_some.T @ solution.dual_coef, solution.intercept
    if len(Z) > _LEFT_OUT:
        solved = solve_ridge(Z.numpy(), y.numpy(), w.numpy(), solution.alpha)
        weights, bias = torch.from_numpy(solved[0].T), torch.from_numpy(solved[1])
    return weights.T, bias, (solution.predictions, y_some, w_some)
