"""Prediction intervals and sets: quantiles of what was predicted out of sample (conformal)."""

import math
from dataclasses import dataclass
from numbers import Real

import torch

from .._array_api import take
from .._row_keys import smallest_keys
from .._solve.calibration import class_probabilities, class_shares
from .._solve.leave_one_out import eigh_path
from .._state import storable
from .kernel import FittedRows

_ROUNDING = 1e-9  # of sums of weights
_MOST_LOCAL = 1000  # distinct rows that tell how the size of residuals varies
_LEAST = 0.2  # residuals count as no smaller than this, in units of their median
_PENALTIES = 10.0 ** torch.arange(-3, 3.1, 0.5, dtype=torch.float64)  # of the mean diagonal


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
    row_of : tensor of shape (n_scores,), default=None
        Which of these a score is of, in the order of their keys.
    index : tensor of shape (at most 1000,), default=None
        Which of the rows that predictions compare with are the first in that order,
    X : ndarray or tensor of shape (at most 1000, n_features), default=None
        or, where they are not among those, the first themselves.
    """

    scores: torch.Tensor
    weights: torch.Tensor
    n_distinct: int
    row_of: torch.Tensor | None = None
    index: torch.Tensor | None = None
    X: object = None

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


@dataclass(frozen=True)
class LocalScale:
    """How large residuals are at x: exp(k(x, rows) coef + constant).

    Parameters
    ----------
    rows : FittedRows
    coef : tensor of shape (n_rows, n_outputs)
    constant : tensor of shape (n_outputs,)
    """

    rows: FittedRows
    coef: torch.Tensor
    constant: torch.Tensor


def local_scale(out, fitted):
    """The LocalScale of an OutOfSample of residuals, and that of residuals in units of it.

    A kernel ridge of log |residual|, with the kernel and, out of sample, by closed-form
    leave-one-out: so the units of a row do not depend on its own residual (Lei et al., JASA 113,
    2018, arXiv 1604.04173, section 5.2).

    Parameters
    ----------
    out : OutOfSample
    fitted : FittedRows
        What predictions compare with.
    """
    X = take(fitted.X, out.index) if out.X is None else out.X
    rows, n = FittedRows(fitted.kernel, X), len(X)
    known = out.row_of < n
    scores, weights, row_of = out.scores[known], out.weights[known], out.row_of[known]
    middle = scores.quantile(0.5, 0)
    middle = middle.where(middle > 0, scores.mean(0))
    logs = scores.clamp_min(_LEAST * middle.where(middle > 0, 1)).log()
    w = weights.new_zeros(n).index_add_(0, row_of, weights)
    logs = logs.new_zeros(n, logs.shape[1]).index_add_(0, row_of, weights[:, None] * logs)
    logs /= w[:, None]
    K = fitted.kernel.matrix(rows.scaled).double().cpu()
    penalties = _PENALTIES * K.diagonal().mean() * w.mean()
    r, constants, left_out = eigh_path(K, logs, w, penalties)
    best = torch.einsum("n,nak->ak", w, left_out.square()).argmin(0)
    r, left_out = (x.gather(1, best.expand(n, 1, -1))[:, 0] for x in (r, left_out))
    scores = scores / (logs - left_out).exp()[row_of]
    constant = constants.gather(0, best[None])[0]
    return LocalScale(rows, w.sqrt()[:, None] * r, constant), OutOfSample(scores, weights, n)


def residuals_out_of_sample(solution, rows, fitted, original, scale):
    """The OutOfSample of a regression: absolute residuals, one for each copy of a row.

    Parameters
    ----------
    solution : Solution
        With predictions for rows that were left out; without, None is returned.
    rows, fitted, original : TrainingRows, FittedRows, TrainingRows
        What was fitted, what predictions compare with, and rows before repeated ones were merged.
    scale : tensor of shape (n_outputs,)
        The unit of the targets.
    """
    if solution.predictions is None:
        return None
    predictions, index = solution.predictions.to(original.y), solution.rows
    if index is None:
        index = torch.arange(len(rows.keys))
    index = index.to(rows.keys.device)
    keys, at = smallest_keys(rows.keys[index], len(index))
    place = torch.searchsorted(keys, original.keys).clamp_max(len(keys) - 1)
    left_out = (keys[place] == original.keys) & (original.w > 0)
    place = place[left_out]
    residuals = (original.y[left_out] - predictions[at[place]]) * scale
    first = index[at[:_MOST_LOCAL]]
    local = {"index": first.cpu()} if fitted.X is rows.X else {"X": take(rows.X, first)}
    weights = original.w[left_out].cpu()
    return OutOfSample(residuals.abs().cpu(), weights, len(keys), place.cpu(), **local)


def class_scores(decision, targets, weight, temperature):
    """The OutOfSample of a classification: 1 - p of the true class.

    Parameters
    ----------
    decision, targets, weight
        As for `fit_temperature`.
    temperature : float
        What that gave.
    """
    decision = decision[:, 0] if decision.shape[1] == 1 else decision
    scores = 1 - class_probabilities(decision, temperature)
    weights = weight[:, None] * class_shares(targets)
    present = weights > 0
    return OutOfSample(scores[present][:, None].cpu(), weights[present].cpu(), len(weight))
