"""The readout of random features, a convex problem, by scikit-learn's solvers."""

import numpy as np


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
