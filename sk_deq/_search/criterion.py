"""The criterion of the search: errors of every row by the model fitted without it."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import rankdata

from .._scaling import InputScaler, root_mean_square_norm
from .._solve.leave_one_out import leave_one_out
from .._theory.engine import kernel_matrix
from .angles import angle_kernel
from .candidates import DEQ_PARAMETERS, is_angular, pair_kernel
from .encodings import Encoding

ALPHAS = 10.0 ** np.arange(-4, 1.1, 0.5)  # in units of the mean diagonal of the kernel
FACTORS = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)  # of the decision values in the softmax
_PRECISION = 1e-11  # relative, of kernels that are looked up in tables


@dataclass(eq=False)
class Data:
    """The encoded rows that candidates are compared on, and their Gram matrix."""

    encoding: Encoding
    X: torch.Tensor
    gram: torch.Tensor
    y: torch.Tensor
    w: torch.Tensor
    classify: bool
    alphas: list | None

    @classmethod
    def encoded(cls, encoding, X, y, w, classify, alphas, scale=True):
        """Of rows X (n, n_features), which are encoded and then scaled to mean squared norm 1."""
        X = encoding.transform(X)
        X = X / (root_mean_square_norm(X, w) or 1.0) if scale else X
        return cls(encoding, X, X @ X.T, y, w, classify, alphas)

    @property
    def moments(self):
        """Weighted mean squares of the columns."""
        return self.w @ self.X.square() / self.w.sum()

    @property
    def task(self):
        return "classification" if self.classify else "regression"

    def weighted(self, v):
        """The same rows with features x_j v_j^(1/2)."""
        Z = self.X * v.sqrt()
        return replace(self, X=Z, gram=Z @ Z.T)

    def to(self, dtype):
        """The same in another precision; without a Gram matrix."""
        X, y, w = (part.to(dtype) for part in (self.X, self.y, self.w))
        return replace(self, X=X, y=y, w=w, gram=None)

    def kernel(self, parameters):
        """The kernel matrix of a candidate."""
        if is_angular(parameters):
            square = parameters["bias_var"] / parameters["input_var"]
            return angle_kernel(parameters, self.gram + square)
        mode = "sphere" if parameters["input_scaling"] == "sphere" else None  # X is scaled already
        scaler = InputScaler(
            mode, input_var=parameters["input_var"], bias_var=parameters["bias_var"]
        ).fit(self.X, self.w)
        return kernel_matrix(pair_kernel(parameters, scaler.tau0_), scaler.transform(self.X))

    def score(self, parameters):
        """Leave-one-out errors of a candidate for every alpha."""
        K = self.kernel(parameters)
        level = float(self.w @ K.diagonal() / self.w.sum())
        alphas = ALPHAS * level if self.alphas is None else np.asarray(self.alphas)
        predictions = leave_one_out(K, self.y, self.w, alphas, _PRECISION)
        errors, factors = errors_of(predictions, self.y, self.w, self.classify)
        return Score(alphas, alphas / level, errors, factors)


@dataclass
class Score:
    """Errors of one candidate: (1 or 2, n_alphas), the squared error and the log-loss.

    `factors` (n_alphas,) are those of the decision values that the log-loss is least for.
    """

    alphas: np.ndarray
    relative_alphas: np.ndarray
    errors: torch.Tensor
    factors: torch.Tensor

    def relative_to(self, reference):
        """Mean of the errors in units of reference (1 or 2,), for every alpha: (n_alphas,)."""
        ratio = (self.errors / reference[:, None]).mean(0)
        return torch.where(torch.isfinite(ratio), ratio, torch.inf)


def errors_of(predictions, y, w, classify):
    """Errors (1 or 2, ..) of predictions (n, .., n_outputs) as in a Score, and the factors (..)."""
    errors = [squared_error(predictions, y, w)]
    factors = torch.ones_like(errors[0])
    if classify:
        losses = [log_loss(factor * predictions, y, w) for factor in FACTORS]
        least = torch.stack(losses).min(0)
        errors.append(least.values)
        factors = predictions.new_tensor(FACTORS)[least.indices]
    return torch.stack(errors), factors


def squared_error(predictions, y, w):
    """Weighted mean over the rows, summed over the outputs; (n, .., n_outputs) to (..)."""
    y = y.reshape(len(y), *[1] * (predictions.ndim - 2), -1)
    return torch.einsum("n,n...k->...", w, (predictions - y).square()) / w.sum()


def log_loss(scores, y, w):
    """Cross-entropy of softmax(scores), or of (-scores, scores) for two classes: (...)."""
    shares = (1 + y) / 2
    if y.shape[1] == 1:
        scores, shares = (torch.cat([-scores, scores], -1), torch.cat([1 - shares, shares], -1))
    shares = shares.reshape(len(y), *[1] * (scores.ndim - 2), -1)
    losses = (shares * torch.log_softmax(scores, -1)).sum(-1)
    return -torch.einsum("n,n...->...", w, losses) / w.sum()


@dataclass
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
