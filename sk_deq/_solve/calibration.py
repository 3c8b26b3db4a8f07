"""Probabilities from the decision values of one-vs-rest least squares."""

import math

import torch

from .._torch import single_thread

_SMALLEST = 1e-3  # a positive temperature factor keeps the order of the decision values
_ROUNDING = 1e-9  # of the mean target of repeated rows


def class_probabilities(decision, factor):
    """softmax(factor * decision), for binary decisions (n,) of (-decision, decision) / 2.

    Parameters
    ----------
    decision : tensor of shape (n,) or (n, n_classes)
    factor : float

    Returns
    -------
    tensor of shape (n, n_classes)
    """
    return class_logits(decision, factor).softmax(1)


def class_logits(decision, factor):
    """The logits of `class_probabilities`, (n, n_classes)."""
    return factor * _per_class(decision)


@single_thread()
def fit_temperature(decision, targets, sample_weight):
    """The factor with the least cross-entropy on out-of-sample decision values.

    One number only, so that the most probable class is the one with the largest decision value.
    Targets are smoothed as Platt (1999) does, or the factor would be infinite where the classes
    are separated.

    Parameters
    ----------
    decision, targets : tensor of shape (n, 1) for two classes, else (n, n_classes)
        Out of sample, and what was to be predicted: between -1 and 1, by the share of a class.
    sample_weight : tensor of shape (n,)

    Returns
    -------
    float
    """
    shares = class_shares(targets)
    decision = decision[:, 0] if decision.shape[1] == 1 else decision
    scores = _per_class(decision)
    counts = sample_weight @ shares
    n_classes = len(counts)
    smoothing = (1 / (counts + 2) / (n_classes - 1)).repeat(n_classes, 1).T
    smoothing = smoothing.diagonal_scatter((counts + 1) / (counts + 2))  # rows sum to 1
    targets = shares @ smoothing
    factor, low, high = 1.0, 0.0, math.inf
    for _ in range(200):
        p = (factor * scores).softmax(1)
        mean = (p * scores).sum(1)
        slope = float(sample_weight @ (mean - (targets * scores).sum(1)))
        curvature = float(sample_weight @ ((p * scores**2).sum(1) - mean**2))
        low, high = (low, factor) if slope > 0 else (factor, high)  # convex: slope rises
        following = factor - slope / curvature if curvature > 0 else math.inf
        if not low < following < high:
            following = (low + high) / 2 if math.isfinite(high) else 2 * factor
        if abs(following - factor) <= 1e-14 * factor or not _SMALLEST < following < 1e6:
            break
        factor = following
    return min(max(following, _SMALLEST), 1e6)


def class_shares(targets):
    """The share of each class, (n, n_classes), for targets as in `fit_temperature`."""
    shares = (targets + 1) / 2
    return torch.hstack([1 - shares, shares]) if shares.shape[1] == 1 else shares


def learnable(targets, weight, left_out, at_once):
    """Which rows were left out of models that were fitted to others of their classes.

    How a model predicts a class that it has never seen does not tell how sure its predictions are.
    All rows, if there are no such.

    Parameters
    ----------
    targets : tensor of shape (n, 1) for two classes, else (n, n_classes)
        As for `fit_temperature`, of all rows.
    weight : tensor of shape (n,)
    left_out : tensor of shape (n_left_out,)
        Which rows were left out.
    at_once : bool
        Whether all of these were left out of one model, or each of a model of all others.

    Returns
    -------
    tensor of shape (n_left_out,), bool
    """
    shares = class_shares(targets).where(weight[:, None] > 0, 0)
    has, of = shares > _ROUNDING, shares[left_out]
    others = has.sum(0) - (has[left_out].sum(0) if at_once else has[left_out].long())
    return known_rows(of, others)


def known_rows(shares, others):
    """Which rows with shares (n, n_classes) are of classes that others have some of; or all."""
    known = ((others > _ROUNDING) | (shares <= _ROUNDING)).all(1)
    return known if known.any() else torch.ones_like(known)


def _per_class(decision):
    return torch.stack([-decision, decision], 1) / 2 if decision.ndim == 1 else decision
