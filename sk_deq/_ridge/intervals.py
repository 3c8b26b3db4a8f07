"""Prediction intervals and sets: quantiles of what was predicted out of sample (conformal)."""

import math
from dataclasses import dataclass
from numbers import Real

import torch

from .._solve.calibration import class_probabilities
from .._state import storable

_ROUNDING = 1e-9  # of sums of weights


@storable
@dataclass(frozen=True)
class OutOfSample:
    """How badly rows were predicted by models that were fitted without them.

    Parameters
    ----------
    scores : tensor of shape (n_scores, n_outputs), float64
        Larger is worse; several for a row with several targets.
    weights : tensor of shape (n_scores,)
    n_distinct : int
        Number of distinct rows that were left out.
    """

    scores: torch.Tensor
    weights: torch.Tensor
    n_distinct: int

    def quantile(self, coverage):
        """What a new row's scores (n_outputs,) stay below, with probability `coverage`.

        The new row counts as one more distinct row of mean weight, of infinite score.

        Raises
        ------
        ValueError
            If coverage is not in (0, 1), or so large that only infinity would do.
        """
        level = coverage * (self.n_distinct + 1)
        if level > self.n_distinct + _ROUNDING:
            needed = math.ceil(coverage / (1 - coverage) - _ROUNDING)
            raise ValueError(
                f"coverage={coverage} needs at least {needed} distinct rows that were predicted "
                f"out of sample, and fit had {self.n_distinct}: with fewer only an infinite "
                "interval, or the set of all classes, is sure to cover. Lower coverage, or fit "
                "more rows."
            )
        scores, order = self.scores.sort(0)
        weights = self.weights * (self.n_distinct / self.weights.sum())
        reached = weights[order].cumsum(0) >= level - _ROUNDING * self.n_distinct
        reached[-1] = True
        return scores.gather(0, reached.long().argmax(0, keepdim=True))[0]


def check_coverage(coverage):
    """Raise ValueError unless coverage is a number between 0 and 1."""
    if not isinstance(coverage, Real) or not 0 < coverage < 1:
        raise ValueError(f"coverage must be a number in (0, 1), got {coverage!r}.")


def residuals_out_of_sample(solution, rows, original, scale):
    """The OutOfSample of a regression: absolute residuals, one for each copy of a row.

    Parameters
    ----------
    solution : Solution
        With predictions for rows that were left out; without, None is returned.
    rows, original : TrainingRows
        What was fitted, and the same before repeated rows were merged.
    scale : tensor of shape (n_outputs,)
        The unit of the targets.
    """
    if solution.predictions is None:
        return None
    keys, predictions = rows.keys, solution.predictions.to(original.y)
    if solution.rows is not None:
        keys = keys[solution.rows.to(keys.device)]
    keys, order = keys.sort()
    place = torch.searchsorted(keys, original.keys).clamp_max(len(keys) - 1)
    left_out = (keys[place] == original.keys) & (original.w > 0)
    residuals = (original.y[left_out] - predictions[order[place[left_out]]]) * scale
    return OutOfSample(residuals.abs().cpu(), original.w[left_out].cpu(), len(torch.unique(keys)))


def class_scores(decision, targets, weight, temperature):
    """The OutOfSample of a classification: 1 - p of the true class.

    Parameters
    ----------
    decision, targets, weight
        As for `fit_temperature`.
    temperature : float
        What that gave.
    """
    shares = (targets + 1) / 2
    if shares.shape[1] == 1:
        decision, shares = decision[:, 0], torch.hstack([1 - shares, shares])
    scores = 1 - class_probabilities(decision, temperature)
    weights = weight[:, None] * shares
    present = weights > 0
    return OutOfSample(scores[present][:, None].cpu(), weights[present].cpu(), len(weight))
