"""Probabilities from the decision values of one-vs-rest least squares."""

import numpy as np
from scipy.special import softmax

_SMALLEST = 1e-3  # a positive temperature factor keeps the order of the decision values


def class_probabilities(decision, factor):
    """softmax(factor * decision), for binary decisions (n,) of (-decision, decision) / 2.

    Parameters
    ----------
    decision : ndarray of shape (n,) or (n, n_classes)
    factor : float

    Returns
    -------
    ndarray of shape (n, n_classes)
    """
    return softmax(factor * _per_class(decision), axis=1)


def fit_temperature(decision, shares, sample_weight):
    """The factor with the least cross-entropy on out-of-sample decision values.

    One number only, so that the most probable class is the one with the largest decision value.
    Targets are smoothed as Platt (1999) does, or the factor would be infinite where the classes
    are separated.

    Parameters
    ----------
    decision : ndarray of shape (n,) or (n, n_classes)
    shares : ndarray of shape (n, n_classes)
        Share of each class in each row; rows sum to 1.
    sample_weight : ndarray of shape (n,)

    Returns
    -------
    float
    """
    scores = _per_class(decision)
    counts = sample_weight @ shares
    n_classes = len(counts)
    smoothing = np.outer(1 / (counts + 2), np.ones(n_classes) / (n_classes - 1))
    np.fill_diagonal(smoothing, (counts + 1) / (counts + 2))  # rows sum to 1
    targets = shares @ smoothing
    factor, low, high = 1.0, 0.0, np.inf
    for _ in range(200):
        p = softmax(factor * scores, axis=1)
        mean = (p * scores).sum(1)
        slope = sample_weight @ (mean - (targets * scores).sum(1))
        curvature = sample_weight @ ((p * scores**2).sum(1) - mean**2)
        low, high = (low, factor) if slope > 0 else (factor, high)  # convex: slope rises
        following = factor - slope / curvature if curvature > 0 else np.inf
        if not low < following < high:
            following = (low + high) / 2 if np.isfinite(high) else 2 * factor
        if abs(following - factor) <= 1e-14 * factor or not _SMALLEST < following < 1e6:
            break
        factor = following
    return float(np.clip(following, _SMALLEST, 1e6))


def _per_class(decision):
    return np.stack([-decision, decision], 1) / 2 if decision.ndim == 1 else decision
