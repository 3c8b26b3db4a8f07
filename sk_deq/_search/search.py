r"""The kernel of a table, chosen by closed-form leave-one-out: nothing is fitted twice.

A few candidate kernels are compared by the predictions for every row of the model fitted without
it. Then the features get weights, x_j -> v_j^(1/2) x_j, by gradient descent on the same criterion;
they are kept only if they pay: on rows that the descent did not see, where there are enough. The
more a step costs, the fewer rows it looks at.
"""

from dataclasses import dataclass, field, replace

import torch

from .._progress import out_of_time, stage
from .._row_keys import below, smallest_rows
from .._scaling import root_mean_square_norm
from .._torch import single_thread
from .candidates import BIASES, CANDIDATES, is_angular, resolve, stable
from .criterion import Data, Trial, compare, results_table
from .encodings import Encoding, fit_encodings
from .feature_weights import learn_weights

MAX_ROWS = 2000  # rows that are searched on, by the descent of weights and in the final round ...
_SHARE = 1 / 4  # ... or this share, if that is more,
MOST_ROWS = 2 * MAX_ROWS  # but no more than these
_ROWS = 1000  # of them, on which weights are compared; with more rows there is a final round
_FEW_ROWS = 500  # of these, on which kernels and encodings are compared
_ROUGH = 0.98  # the errors of a rough kernel are multiplied by this there: more rows help it most
_DECIDE = 4  # one in so many decides the final round
_MOST_OF_ALL = 1 - 1e-12  # of the weight; errors of a row that has more are rounding
_OTHER_ENCODING = 0.95  # likewise for an encoding that is not the first
_GAIN = 0.1  # by how much weights must lower the criterion if it is of rows they were learnt from


@dataclass
class Choice:
    """The kernel chosen.

    Parameters
    ----------
    parameters : dict
        The DEQ parameters.
    relative_alpha : float
        The best penalty, in units of the mean diagonal of the kernel.
    encoding : Encoding or None
        Of the columns; None leaves them as they are.
    feature_weights : tensor of shape (n_encoded,) or None
        Weights v of encoded columns, which keep the mean squared norm of the rows; None for equal
        ones.
    moments : tensor of shape (n_encoded,) or None
        Mean squares of the encoded columns.
    path : tuple of ndarray and tensor, or None
        Penalties in units of the mean diagonal, and their squared errors.
    results : dict of ndarray of shape (n_candidates,)
        What was compared; the last entry is the one with feature weights, where they were tried.
    """

    parameters: dict
    relative_alpha: float = 1.0
    encoding: Encoding | None = None
    feature_weights: torch.Tensor | None = None
    moments: torch.Tensor | None = None
    path: tuple | None = None
    results: dict = field(default_factory=dict)

    @property
    def encoding_name(self):
        """The kind of the encoding, None for plain columns."""
        plain = self.encoding is None or self.encoding.kind == "plain"
        return None if plain else self.encoding.kind

    def weights_of_sources(self, n_features):
        """Feature weights (n_features,) of the columns as they came."""
        if self.feature_weights is None:
            return torch.ones(n_features, dtype=torch.float64)
        return self.encoding.per_source(self.feature_weights, self.moments)


def search_kernel(
    X, y, w, keys, given, *, classify, alphas, feature_weights, encodings, candidates=CANDIDATES
):  # fmt: skip
    """Choose the DEQ parameters that are not given, and feature weights, by leave-one-out.

    Parameters
    ----------
    X : ndarray or tensor of shape (n, n_features)
        Rows.
    y : tensor of shape (n, n_outputs)
        Targets: of unit variance, or +1 and -1 with one column for two classes.
    w : tensor of shape (n,)
        Weights, not negative.
    keys : tensor of shape (n,)
        Of the rows, see `row_keys`; of more than `MAX_ROWS` distinct ones those of the smallest
        keys are searched on.
    given : dict
        The DEQ parameters to keep.
    classify : bool
        Whether the log-loss counts as much as the squared error.
    alphas : sequence of float or None
        Penalties to compare; None means `ALPHAS` times the mean diagonal of the kernel.
    feature_weights : bool
        Whether to learn them.
    encodings : sequence of {"plain", "quantile", "bins", "both"}
        Those to compare.
    candidates : sequence of dict
        Kernels to compare.

    Returns
    -------
    list of Choice
        The best, and the best of the rough kernels, or of the others, where that is rough: more
        rows may change their order.

    Raises
    ------
    ValueError
        If no candidate has a stable fixed point.
    """
    X, y, w = _some_rows(X, y, w, keys)
    lonely = w.max() > _MOST_OF_ALL * w.sum()  # a row that cannot be predicted from the others
    if len(X) < 3 or lonely or torch.equal(y.amin(0), y.amax(0)):
        return [Choice(resolve(given)[0])]  # nothing tells candidates apart
    scaling = given.get("input_scaling", "rms")
    as_is, centered = scaling is None, scaling == "centered"
    tables = [
        Data.encoded(encoding, X, y, w, classify, alphas, scale=not as_is, center=centered)
        for encoding in fit_encodings(X, w, ("plain",) if as_is else encodings)
    ]
    unit = root_mean_square_norm(X, w) ** 2 or 1.0 if as_is else 1.0
    candidates = stable(resolve(given, candidates, [bias * unit for bias in BIASES]))
    few = [data.part(slice(_FEW_ROWS)) for data in tables]
    weigh = feature_weights and X.shape[1] > 1
    n_steps = len(candidates) + len(few) - 1 + 2 * weigh
    with single_thread(), stage("search", n_steps) as step:
        scored = _scored([(few[0], parameters) for parameters in candidates], step)
        n_first = len(scored)
        best = min(compare(scored), key=lambda trial: trial.criterion)
        others = [(data, best.parameters) for data in few[1:]]
        scored += _scored(others, step, near=best.relative_alpha)
        trials = compare(scored)
        for trial in trials[n_first:]:
            trial.criterion /= _OTHER_ENCODING
        best = min(trials, key=lambda trial: trial.criterion)
        trials.remove(best)
        n_deciding = _n_deciding(len(X))
        data = _of(best, tables).part(slice(len(X) - n_deciding))
        best = _on(best, data.part(slice(_ROWS)))
        trials.append(best)
        weighted = None
        for start in _starts(trials, best) if weigh else ():
            if out_of_time("the search"):
                break
            weighted = _weighted(start, best, data, given, n_deciding > 0, weighted)
            trials.append(weighted)
            step()
    trials.sort(key=lambda trial: trial.criterion)
    table = results_table(trials)
    finalists = _final_round(trials, tables, n_deciding)
    return [
        Choice(
            trial.parameters, trial.relative_alpha, trial.data.encoding, trial.feature_weights,
            trial.data.moments, (trial.score.relative_alphas, trial.score.errors[0]), table,
        )
        for trial in finalists
    ]  # fmt: skip


def _n_deciding(n_rows):
    """How many of the rows, the last ones, decide the final round, if there is one."""
    return n_rows // _DECIDE if n_rows > _ROWS else 0


def _final_round(trials, tables, n_deciding):
    """The best of the rough and of the other kernels, of trials in the order of the criterion.

    The last rows, which weights were not learnt from, decide if there are any: between these, and
    between each that has weights and the best without, unless that is worse by a tenth.
    """
    decides = n_deciding > 0 and not out_of_time("the search")
    finalists = []
    for rough in (_is_rough(trials[0]), not _is_rough(trials[0])):
        found = [trial for trial in trials if _is_rough(trial) == rough]
        finalists += found[:1]
        plain = [trial for trial in found[1:] if trial.feature_weights is None]
        weighted = decides and plain and found[0].feature_weights is not None
        if weighted and found[0].criterion > (1 - _GAIN) * plain[0].criterion:
            finalists.append(plain[0])
    if decides and len(finalists) > 1:
        errors = []
        for trial in finalists:
            data = _of(trial, tables).part(slice(None), n_deciding)
            K, level = data.weighted(trial.feature_weights).kernel(trial.parameters)
            error = data.errors_at(K, level, trial.relative_alpha)[0]
            errors.append(error * (_ROUGH if _is_rough(trial) else 1))
        errors = torch.stack(errors)
        order = (errors / errors.amin(0)).mean(1).argsort(stable=True)
        finalists = [finalists[i] for i in order]
    best, *others = finalists
    others = [trial for trial in others if _is_rough(trial) != _is_rough(best)][:1]
    seen = slice(min(_ROWS, len(tables[0].X) - n_deciding))
    return [_on(trial, _of(trial, tables).part(seen)) for trial in (best, *others)]


def _scored(pairs, step, near=None):
    """Triples for `compare` of pairs of Data and parameters; if in a hurry, of the first of them.

    `near` is a penalty near the best; where it is given there are others, and none need be scored.
    """
    scored, others = [], near is not None
    for data, parameters in pairs:
        if (scored or others) and out_of_time("the search"):
            break
        scored.append((data, parameters, data.score(parameters, near)))
        near = near if others else scored[-1][2].best_alpha
        step()
    return scored


def _is_rough(trial):
    """Whether the kernel is nearly as local as a Laplace kernel, which gains most by more rows."""
    return trial.parameters["kernel"] != "ck" and trial.parameters["input_scaling"] == "sphere"


def _of(trial, tables):
    """The table encoded as a Trial's."""
    return next(data for data in tables if data.encoding is trial.data.encoding)


def _on(trial, data):
    """A Trial on other rows, with the same criterion."""
    if len(data.X) == len(trial.data.X):
        return trial
    weighted = data.weighted(trial.feature_weights)
    score = weighted.score(trial.parameters, trial.relative_alpha)
    at = int(score.relative_to(score.errors.amin(1)).argmin())
    return replace(trial, data=data, score=score, at=at)


def _starts(trials, best):
    """Trials to learn weights from: the best, and the roughest kernel if that is another.

    Smooth and rough kernels may do equally well without weights and the rough one better with them.
    """
    rough = [replace(trial, data=best.data) for trial in trials if _is_rough(trial)]
    starts = [best] if _is_rough(best) else [best, *rough[:1]]
    return [trial for trial in starts if is_angular(trial.parameters)]


def _weighted(start, best, table, given, judged, other):
    """The Trial of a candidate with feature weights, learnt on a table, beside the best without.

    They are learnt from those of the `other` Trial, if there is one, which too few rows to judge
    them take over. Unless other rows will judge them, they have to lower its criterion by a tenth.
    """
    v = None if other is None else other.feature_weights
    bias_var, alpha = start.parameters["bias_var"], start.relative_alpha
    if v is None or judged:
        v, bias_var, alpha = learn_weights(start, table, "bias_var" in given, judged, v)
    parameters = {**start.parameters, "bias_var": bias_var}
    score = best.data.weighted(v).score(parameters, alpha)
    gain = score.relative_to(best.score.errors[:, best.at])
    criterion = best.criterion * float(gain.min()) / (1 if judged else 1 - _GAIN)
    return Trial(best.data, parameters, score, criterion, int(gain.argmin()), v)


def _some_rows(X, y, w, keys):
    """MAX_ROWS or more distinct rows, of the smallest keys: in their order, any part is random."""
    smallest, X, y, w = smallest_rows(keys, X, y, w, MOST_ROWS)
    n = max(MAX_ROWS, int((smallest < below(_SHARE)).sum()))
    return X[:n].double(), y[:n], w[:n]
