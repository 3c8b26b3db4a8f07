"""The criterion of the search: errors of every row by the model fitted without it."""

from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from scipy.stats import rankdata

from .._scaling import InputScaler, column_means, root_mean_square_norm
from .._solve.exact import solve_cholesky
from .._solve.leave_one_out import leave_one_out
from .._theory.engine import kernel_matrix
from .angles import angle_kernel
from .candidates import DEQ_PARAMETERS, is_angular, pair_kernel
from .encodings import Encoding

ALPHAS = 10.0 ** np.arange(-4, 1.1, 0.5)  # in units of the mean diagonal of the kernel
_NEAR = ALPHAS[4]  # where the best is looked for first
_SINGLE = 1e-3  # the alpha from which on single precision tells candidates apart
_SMALL = 200  # rows up to which an eigendecomposition is as fast as a few Cholesky factors
FACTORS = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)  # of the decision values in the softmax
_PRECISION = 1e-11  # relative, of kernels that are looked up in tables


@dataclass(eq=False)
class Data:
    """The encoded rows that candidates are compared on.

    Of them the last `n_left_out` are left out, one at a time.
    """

    encoding: Encoding
    X: torch.Tensor
    y: torch.Tensor
    w: torch.Tensor
    classify: bool
    alphas: list | None
    n_left_out: int

    @classmethod
    def encoded(cls, encoding, X, y, w, classify, alphas, scale=True, center=False):
        """Of rows X (n, n_features), encoded, centred if so wanted, of mean squared norm 1."""
        X = encoding.transform(X)
        X = X - column_means(X, w) if center else X
        X = X / (root_mean_square_norm(X, w) or 1.0) if scale else X
        return cls(encoding, X, y, w, classify, alphas, len(X))

    @cached_property
    def gram(self):
        """Dot products of the rows."""
        return self.X @ self.X.T

    @property
    def moments(self):
        """Weighted mean squares of the columns."""
        return self.w @ self.X.square() / self.w.sum()

    @property
    def task(self):
        return "classification" if self.classify else "regression"

    def weighted(self, v):
        """The same rows with features x_j v_j^(1/2)."""
        return self if v is None else replace(self, X=self.X * v.sqrt())

    def to(self, dtype):
        """The same in another precision."""
        X, y, w = (part.to(dtype) for part in (self.X, self.y, self.w))
        return replace(self, X=X, y=y, w=w)

    def part(self, rows, n_left_out=None):
        """Some of the rows, of which all are left out, or so many of the last."""
        X, y, w = self.X[rows], self.y[rows], self.w[rows]
        n = len(X) if n_left_out is None else min(n_left_out, len(X))
        return replace(self, X=X, y=y, w=w, n_left_out=n)

    def kernel(self, parameters):
        """The kernel matrix of a candidate, and its mean diagonal."""
        if is_angular(parameters):
            square = parameters["bias_var"] / parameters["input_var"]
            K = angle_kernel(parameters, self.gram + square)
        else:
            mode = "sphere" if parameters["input_scaling"] == "sphere" else None  # X is scaled
            scaler = InputScaler(
                mode, input_var=parameters["input_var"], bias_var=parameters["bias_var"]
            ).fit(self.X, self.w)
            K = kernel_matrix(pair_kernel(parameters, scaler.tau0_), scaler.transform(self.X))
        return K, float(self.w @ K.diagonal() / self.w.sum())

    def errors_at(self, K, level, relative_alpha):
        """Errors (1 or 2,) as in a Score for one alpha in units of `level`, and the factor."""
        dtype = torch.float32 if relative_alpha >= _SINGLE else torch.float64
        K = K.to(dtype, copy=True)  # which is overwritten
        y, w = self.y.to(dtype), self.w.to(dtype)
        solution = solve_cholesky(K, y, w, level * relative_alpha, self.n_left_out)
        last = slice(-self.n_left_out, None)
        predictions = solution.predictions[last].double()
        return errors_of(predictions, self.y[last], self.w[last], self.classify)

    def score(self, parameters, near=None):
        """The Score of a candidate for the alphas that were given.

        For some of `ALPHAS`, if none were: downhill from the one next to `near`, a relative alpha.
        """
        K, level = self.kernel(parameters)
        if self.alphas is None and len(K) > _SMALL:
            relative, *found = _around(near or _NEAR, partial(self.errors_at, K, level))
            return Score(level * relative, relative, *found)
        alphas = level * ALPHAS if self.alphas is None else np.asarray(self.alphas)
        predictions = leave_one_out(K, self.y, self.w, alphas, _PRECISION)
        errors = errors_of(predictions, self.y, self.w, self.classify)
        return Score(alphas, alphas / level, *errors)


def _around(near, errors_at):
    """Some of `ALPHAS`, and what `errors_at` gives for each: downhill from the one next to `near`.

    That is to the least mean of the errors in units of the first.
    """
    best = first = int(np.abs(np.log(ALPHAS / near)).argmin())
    found = {first: errors_at(ALPHAS[first])}

    def criterion(i):
        if not 0 <= i < len(ALPHAS):
            return np.inf
        if i not in found:
            found[i] = errors_at(ALPHAS[i])
        return float((found[i][0] / found[first][0]).mean())

    for step in (1, -1):
        while criterion(best + step) < criterion(best):
            best += step
    index = sorted(found)
    errors, factors = (torch.stack([found[i][k] for i in index], -1) for k in (0, 1))
    return ALPHAS[index], errors, factors


@dataclass
class Score:
    """Errors of one candidate: (1 or 2, n_alphas), the squared error and the log-loss.

    `relative_alphas` are in units of the mean diagonal of the kernel. `factors` (n_alphas,) are
    those of the decision values that the log-loss is least for.
    """

    alphas: np.ndarray
    relative_alphas: np.ndarray
    errors: torch.Tensor
    factors: torch.Tensor

    @property
    def best_alpha(self):
        """The relative alpha with the least errors, each in units of its own least."""
        return float(self.relative_alphas[self.relative_to(self.errors.amin(1)).argmin()])

    def relative_to(self, reference):
        """Mean of the errors in units of reference (1 or 2,), for every alpha: (n_alphas,)."""
        ratio = (self.errors / reference[:, None]).mean(0)
        return torch.where(torch.isfinite(ratio), ratio, torch.inf)


def errors_of(predictions, y, w, classify):
    """Errors (1 or 2, ..) of predictions (n, .., n_outputs) as in a Score, and the factors (..)."""
    errors = [squared_error(predictions, y, w)]
    factors = torch.ones_like(errors[0])
    if classify:
        factors = predictions.new_tensor(FACTORS)
        least = log_loss(predictions.unsqueeze(-2) * factors[:, None], y, w).min(-1)
        errors.append(least.values)
        factors = factors[least.indices]
    return torch.stack(errors), factors


def squared_error(predictions, y, w):
    """Weighted mean over the rows, summed over the outputs; (n, .., n_outputs) to (..)."""
    y = y.reshape(len(y), *[1] * (predictions.ndim - 2), -1)
    return torch.einsum("n,n...k->...", w, (predictions - y).square()) / w.sum()


def log_loss(scores, y, w):
    """Cross-entropy of softmax(scores), or of (-scores, scores) for two classes: (...)."""
    shares = ((1 + y) / 2).reshape(len(y), *[1] * (scores.ndim - 2), -1)
    if y.shape[1] == 1:
        losses = torch.nn.functional.softplus(2 * scores) - 2 * shares * scores
    else:
        losses = scores.logsumexp(-1, keepdim=True) - scores
        losses = losses * shares
    return torch.einsum("n,n...k->...", w, losses) / w.sum()


@dataclass(eq=False)
class Trial:
    """A candidate as it was compared: its Score, the criterion, and the alpha it is for."""

    data: Data
    parameters: dict
    score: Score
    criterion: float
    at: int
    feature_weights: torch.Tensor | None = None

    @property
    def relative_alpha(self):
        """The best penalty, in units of the mean diagonal of the kernel."""
        return float(self.score.relative_alphas[self.at])


def compare(scored):
    """Trials of triples of Data, parameters and Score.

    The criterion is the mean of both errors, each in units of the least of the whole grid.
    """
    least = torch.stack([score.errors.amin(1) for _, _, score in scored]).amin(0)
    relative = [score.relative_to(least) for _, _, score in scored]
    return [
        Trial(*candidate, float(ratio.min()), int(ratio.argmin()))
        for candidate, ratio in zip(scored, relative, strict=True)
    ]


def results_table(trials):
    """The comparison as a dict of arrays."""
    errors = [[*trial.score.errors[:, trial.at].tolist(), np.nan] for trial in trials]
    criteria = [trial.criterion for trial in trials]
    columns = {name: [trial.parameters[name] for trial in trials] for name in DEQ_PARAMETERS}
    columns |= {
        "encoding": [trial.data.encoding.kind for trial in trials],
        "alpha": [trial.score.alphas[trial.at] for trial in trials],
        "squared_error": [error[0] for error in errors],
        "log_loss": [error[1] for error in errors],
        "criterion": criteria,
        "feature_weights": [trial.feature_weights is not None for trial in trials],
        "rank": rankdata(criteria, "min"),
    }
    return {name: _column(values) for name, values in columns.items()}


def _column(values):
    """An array of values, of objects where they are not all numbers or all strings."""
    if any(value is None or callable(value) for value in values):
        out = np.empty(len(values), dtype=object)
        out[:] = values
        return out
    return np.array(values)
