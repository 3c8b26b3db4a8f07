r"""The kernel of a table, chosen by closed-form leave-one-out: nothing is fitted twice.

A few candidate kernels are compared by the predictions for every row of the model fitted without
it, at one eigendecomposition each. Then the features get weights, x_j -> v_j^(1/2) x_j, by gradient
descent on the same criterion; they are kept only if they pay.

The candidates depend on dot products and norms only, so that all share one Gram matrix X X^T: on
the sphere, or where the activation is positively homogeneous, a kernel is a function kappa of the
angle of two rows (c, x), c^2 = bias_var / input_var, in the latter case times the product of their
norms.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.utils import check_random_state

from .._array_api import take
from .._row_keys import merge_repeated_rows, row_keys, smallest_keys
from .._scaling import InputScaler, root_mean_square_norm
from .._solve.exact import leave_one_out
from .._theory.engine import kernel_matrix
from .._theory.pair import DEQPairKernel
from .._theory.spec import deq_spec, resolve_input_var
from .._theory.univariate import angular_kernel
from .._torch import make_generator, single_thread, to_tensor

DEQ_PARAMETERS = (
    "kernel", "activation", "recurrent_var", "input_var", "bias_var", "center", "input_scaling",
)  # fmt: skip
# What "auto" stands for where nothing is searched: the kernel that is best on average.
DEFAULT = {
    "kernel": "ck",
    "activation": "relu",
    "recurrent_var": 0.9,
    "input_var": 1.0,
    "bias_var": 0.1,
    "center": False,
    "input_scaling": "rms",
}
# What it stands for with method="high_dim", a theory of centred networks without bias.
HIGH_DIM = {
    "kernel": "ck",
    "activation": "relu",
    "recurrent_var": 0.2,
    "bias_var": 0.0,
    "center": True,
    "input_scaling": "rms",
}
# docs/tabular.rst shows why these: smooth to rough, global to local.
CANDIDATES = (
    DEFAULT,
    {**DEFAULT, "activation": "abs", "recurrent_var": 0.5},
    {**DEFAULT, "kernel": "ntk", "recurrent_var": 1.5},
    {**DEFAULT, "kernel": "ntk", "recurrent_var": 1.9, "input_scaling": "sphere"},
)
BIASES = (0.1,)  # c^2 in units of the mean squared norm of the rows
ALPHAS = 10.0 ** np.arange(-4, 1.1, 0.5)  # in units of the mean diagonal of the kernel
MAX_ROWS = 1000  # rows that are searched on; more do not change the choice, but cost
_FACTORS = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)  # of the decision values in the softmax
_STEP, _MOMENTA = 0.2, (0.7, 0.95)
_STEPS = {"classification": 12, "regression": 24}
# pulls the logarithms of the weights to their mean, as strongly as so many rows
_PRIOR = {"classification": 0.5, "regression": 0.1}
_PROMISE = 0.97  # if two fifths of the steps do not lower it below this, the others are left out
_GAIN = 0.9  # the criterion with weights is divided by this: they must pay
_PRECISION = 1e-11  # relative, of the tables of kappa


@dataclass
class Choice:
    """The kernel chosen.

    Parameters
    ----------
    parameters : dict
        The DEQ parameters.
    relative_alpha : float
        The best penalty, in units of the mean diagonal of the kernel.
    feature_weights : tensor of shape (n_features,) or None
        Weights v, which keep the mean squared norm of the rows; None for equal ones.
    results : dict of ndarray of shape (n_candidates,)
        What was compared; the last entry is the one with feature weights, where they were tried.
    """

    parameters: dict
    relative_alpha: float = 1.0
    feature_weights: torch.Tensor | None = None
    results: dict = field(default_factory=dict)


def resolve(given, alternatives=(DEFAULT,), biases=None):
    """Complete the parameters given by each alternative; a list of distinct dicts.

    Parameters
    ----------
    given : dict
        DEQ parameters of the user. With a recurrent_var and no input_var the latter is
        1 - recurrent_var, whatever the alternative says.
    alternatives : sequence of dict
        Values of the others.
    biases : sequence of float, default=None
        Alternatives for bias_var / input_var.
    """
    found = []
    for alternative, bias in product(alternatives, biases or (None,)):
        parameters = {**alternative, **given}
        if "input_var" not in given and (
            "recurrent_var" in given or "input_var" not in alternative
        ):
            parameters["input_var"] = resolve_input_var(parameters["recurrent_var"], None)
        if bias is not None and "bias_var" not in given:
            parameters["bias_var"] = bias * parameters["input_var"]
        if parameters not in found:
            found.append(parameters)
    return found


def search_kernel(X, y, w, given, *, classify, alphas, feature_weights, random_state):
    """Choose the DEQ parameters that are not given, and feature weights, by leave-one-out.

    Parameters
    ----------
    X : ndarray or tensor of shape (n, n_features)
        Rows.
    y : tensor of shape (n, n_outputs)
        Targets: of unit variance, or +1 and -1 with one column for two classes.
    w : tensor of shape (n,)
        Weights, not negative.
    given : dict
        The DEQ parameters to keep.
    classify : bool
        Whether the log-loss counts as much as the squared error.
    alphas : sequence of float or None
        Penalties to compare; None means `ALPHAS` times the mean diagonal of the kernel.
    feature_weights : bool
        Whether to learn them.
    random_state : int, RandomState instance or None
        Seed of the choice of `MAX_ROWS` rows from more.

    Returns
    -------
    Choice

    Raises
    ------
    ValueError
        If no candidate has a stable fixed point.
    """
    X, y, w = _some_rows(X, y, w, classify, random_state)
    if len(X) < 3 or torch.equal(y.amin(0), y.amax(0)):
        return Choice(resolve(given)[0])  # nothing tells candidates apart
    as_is = given.get("input_scaling", "rms") is None
    X = X / (1.0 if as_is else root_mean_square_norm(X, w) or 1.0)
    unit = root_mean_square_norm(X, w) ** 2 or 1.0  # 1 but where rows are taken as they are
    data = _Data(X, X @ X.T, y, w, classify, alphas)
    candidates = _stable(resolve(given, CANDIDATES, [bias * unit for bias in BIASES]))
    scores = [data.score(parameters) for parameters in candidates]
    criteria, at = _compare(scores)
    best = int(np.argmin(criteria))
    weights = []
    for start in _starts(candidates, best, classify) if feature_weights and X.shape[1] > 1 else ():
        v, bias_var = _learn_weights(
            data, candidates[start], scores[start], at[start], "bias_var" in given
        )
        candidates.append({**candidates[start], "bias_var": bias_var})
        scores.append(data.weighted(v).score(candidates[-1]))
        gain = scores[-1].relative_to(scores[best].errors[:, at[best]])
        criteria.append(criteria[best] * float(gain.min()) / _GAIN)
        at.append(int(gain.argmin()))
        weights.append(v)
    results = _results(candidates, scores, criteria, at, len(weights))
    weights = [None] * (len(candidates) - len(weights)) + weights
    best = int(np.argmin(criteria))
    relative_alpha = float(scores[best].relative_alphas[at[best]])
    return Choice(candidates[best], relative_alpha, weights[best], results)


def _starts(candidates, best, classify):
    """Candidates to learn weights with: the best, and for regression the first NTK too.

    Smooth and rough kernels may do equally well without weights and the rough one better with them.
    """
    starts = [best]
    if not classify:
        ntk = [i for i, parameters in enumerate(candidates) if parameters["kernel"] == "ntk"]
        starts += [i for i in ntk[:1] if i != best]
    return [i for i in starts if _angular(candidates[i])]


def _some_rows(X, y, w, classify, random_state):
    """At most MAX_ROWS distinct rows, drawn by their content, in proportion to the classes."""
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    keys = row_keys(X, make_generator(seed))
    rows = torch.nonzero(w > 0)[:, 0]
    distinct, first = smallest_keys(keys[rows], len(rows))
    if len(distinct) > MAX_ROWS:
        order = torch.arange(len(distinct), device=w.device)  # by key: at random
        if classify:
            label = torch.cat([torch.zeros_like(y[:, :1]), y], 1).argmax(1)
            order = torch.argsort(label[rows][first], stable=True)
        picked = order[torch.arange(MAX_ROWS, device=w.device) * len(order) // MAX_ROWS]
        rows = rows[torch.isin(keys[rows], distinct[picked])]
    X, y, w = to_tensor(take(X, rows), dtype=torch.float64), y[rows], w[rows]
    first, y, w = merge_repeated_rows(X, y, w, make_generator(seed))
    return X if first is None else X[first], y, w


def _stable(candidates):
    """The candidates with a stable fixed point."""
    errors = [_instability(*_specification(parameters)) for parameters in candidates]
    stable = [p for p, error in zip(candidates, errors, strict=True) if error is None]
    if not stable:
        raise ValueError(errors[0])
    return stable


@lru_cache(maxsize=64)
def _instability(*specification):
    """The message of the error that the pair kernel raises, or None; finding it takes a while."""
    try:
        _cached_pair(*specification)
    except ValueError as error:
        return str(error)
    return None


@dataclass
class _Data:
    """The rows that candidates are compared on, and their Gram matrix."""

    X: torch.Tensor
    gram: torch.Tensor
    y: torch.Tensor
    w: torch.Tensor
    classify: bool
    alphas: list | None

    @property
    def task(self):
        return "classification" if self.classify else "regression"

    def weighted(self, v):
        """The same rows with features x_j v_j^(1/2)."""
        Z = self.X * v.sqrt()
        return replace(self, X=Z, gram=Z @ Z.T)

    def kernel(self, parameters):
        """The kernel matrix of a candidate."""
        if _angular(parameters):
            square = parameters["bias_var"] / parameters["input_var"]
            return _angle_kernel(parameters, self.gram + square)
        mode = "sphere" if parameters["input_scaling"] == "sphere" else None  # X is scaled already
        scaler = InputScaler(
            mode, input_var=parameters["input_var"], bias_var=parameters["bias_var"]
        ).fit(self.X, self.w)
        return kernel_matrix(_pair(parameters, scaler.tau0_), scaler.transform(self.X))

    def score(self, parameters):
        """Leave-one-out errors of a candidate for every alpha."""
        K = self.kernel(parameters)
        level = float(_mean_diagonal(K, self.w))
        alphas = ALPHAS * level if self.alphas is None else np.asarray(self.alphas)
        predictions = leave_one_out(K, self.y, self.w, alphas, _PRECISION)
        errors = [_squared_error(predictions, self.y, self.w)]
        factors = torch.ones_like(errors[0])
        if self.classify:
            losses = [_log_loss(f * predictions, self.y, self.w) for f in _FACTORS]
            least = torch.stack(losses).min(0)
            errors.append(least.values)
            factors = predictions.new_tensor(_FACTORS)[least.indices]
        return _Score(alphas, alphas / level, torch.stack(errors), factors)


@dataclass
class _Score:
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


def _mean_diagonal(K, w):
    return w @ K.diagonal() / w.sum()


def _squared_error(predictions, y, w):
    """Weighted mean over the rows, summed over the outputs; (n, .., n_outputs) to (..)."""
    y = y.reshape(len(y), *[1] * (predictions.ndim - 2), -1)
    return torch.einsum("n,n...k->...", w, (predictions - y).square()) / w.sum()


def _log_loss(scores, y, w):
    """Cross-entropy of softmax(scores), or of (-scores, scores) for two classes: (...)."""
    shares = (1 + y) / 2
    if y.shape[1] == 1:
        scores, shares = (
            torch.cat([-scores, scores], -1),
            torch.cat([1 - shares, shares], -1),
        )
    shares = shares.reshape(len(y), *[1] * (scores.ndim - 2), -1)
    losses = (shares * torch.log_softmax(scores, -1)).sum(-1)
    return -torch.einsum("n,n...->...", w, losses) / w.sum()


def _pair(parameters, tau0=1.0, **changes):
    """The kernel as a function of norms and angle."""
    return _cached_pair(*_specification({**parameters, **changes}, tau0))


def _specification(parameters, tau0=1.0):
    return *(parameters[name] for name in DEQ_PARAMETERS[:-1]), tau0


@lru_cache(maxsize=64)
def _cached_pair(kernel, activation, recurrent_var, input_var, bias_var, center, tau0):
    with single_thread():
        spec = deq_spec(activation, recurrent_var, input_var, bias_var, center, tau0)
    return DEQPairKernel(spec, kernel)


def _homogeneous(parameters):
    return _pair(parameters, bias_var=0.0).homogeneous


def _angular(parameters):
    """Whether the kernel is a function of an angle, times norms perhaps."""
    return parameters["input_scaling"] == "sphere" or _homogeneous(parameters)


def _cosines(gram):
    """Cosines of rows with this Gram matrix, and the products of their norms, 1 where that is 0."""
    norms = gram.diagonal().sqrt()
    products = norms[:, None] * norms
    r = (gram / (products + (products == 0))).clamp_(-1, 1)
    r.fill_diagonal_(1)  # exactly: kappa may have a cusp there
    return r, products


def _angle_kernel(parameters, gram):
    """kappa(cos), or its product with the norms, of rows (c, x) with this Gram matrix."""
    r, products = _cosines(gram)
    K = next(_table_of(parameters)(r))
    return K if parameters["input_scaling"] == "sphere" else K.mul_(products)


def _table_of(parameters):
    return angular_kernel(_pair(parameters, bias_var=0.0))


class _WeightedKernel(torch.autograd.Function):
    """The kernel of rows (c, x_j v_j^(1/2)) as a function of v and c^2; see `_angle_kernel`."""

    @staticmethod
    def forward(ctx, v, square, X, table, sphere):
        r, products = _cosines(torch.addmm(square, X * v, X.T))
        kappa, slope = table.with_slope(r)
        ctx.save_for_backward(X, r, products, kappa, slope)
        ctx.sphere = sphere
        return kappa.clone() if sphere else kappa * products

    @staticmethod
    def backward(ctx, gradient):
        X, r, products, kappa, slope = ctx.saved_tensors
        to_gram = gradient * slope
        if ctx.sphere:
            to_gram /= products + (products == 0)
            to_products = -r * to_gram
        else:
            to_products = gradient * (kappa - r * slope)
        norms = products.diagonal().sqrt()
        to_norms = to_products @ norms + to_products.T @ norms
        to_squares = torch.where(norms > 0, to_norms / (2 * norms), 0)
        to_v = (X * (to_gram @ X)).sum(0) + to_squares @ X.square()
        return to_v, to_gram.sum() + to_squares.sum(), None, None, None


class _LeftOut(torch.autograd.Function):
    """Leave-one-out residuals e = M S y / (diag(M) s) of `_solvers`, K over its mean diagonal."""

    @staticmethod
    def forward(ctx, K, alpha, y, s):
        share = s * s / (s @ s)
        level = share @ K.diagonal()
        A = K * (s / level) * s[:, None]
        A.diagonal().add_(alpha)
        M = torch.cholesky_inverse(torch.linalg.cholesky(A))
        t = M @ s
        M -= t[:, None] * (t / (s @ t))
        solved = M @ (s[:, None] * y)
        diagonal = M.diagonal().clone()
        ctx.save_for_backward(K, M, solved, diagonal, s, share, level)
        return solved / (diagonal * s)[:, None]

    @staticmethod
    def backward(ctx, gradient):
        K, M, solved, diagonal, s, share, level = ctx.saved_tensors
        gradient = gradient / (diagonal * s)[:, None]
        weight = (gradient * solved).sum(1) / diagonal
        outer = (M @ gradient) @ solved.T
        to_A = ((M * weight) @ M).sub_(outer, alpha=0.5).sub_(outer.T, alpha=0.5)  # dM = -M dA M
        to_alpha = to_A.trace()
        to_K = to_A.mul_(s / level).mul_(s[:, None])
        to_level = -torch.dot(to_K.ravel(), K.ravel()) / level
        to_K.diagonal().add_(to_level * share)
        return to_K, to_alpha, None, None


def _objective(data, parameters, log_v, others):
    """The criterion for weights exp(log_v) and (relative alpha, bias, factor) = exp(others).

    The bias is c^2 for rows whose mean squared norm is that of data.X.
    """
    X, y, w = data.X, data.y, data.w
    total = w.sum()
    moments = w @ X.square() / total
    v = log_v.exp()
    alpha, bias, factor = others.exp()
    bias = bias * (moments @ v) / moments.sum()
    table = _table_of(parameters)
    sphere = parameters["input_scaling"] == "sphere"
    K = _WeightedKernel.apply(v, bias, X, table, sphere)
    predictions = y - _LeftOut.apply(K, alpha, y, w.sqrt())
    variance = _squared_error((w @ y / total).expand_as(y), y, w)
    objective = _squared_error(predictions, y, w) / variance
    if data.classify:
        log_loss = _log_loss(factor * predictions, y, w)
        objective = objective + log_loss / np.log(max(2, y.shape[1]))
    return objective + _PRIOR[data.task] * (log_v - log_v.mean()).square().sum() / total


def _learn_weights(data, parameters, score, at, bias_given):
    """Descend the criterion by Adam from equal weights; return them and bias_var."""
    X, input_var = data.X, parameters["input_var"]
    moments = data.w @ X.square() / data.w.sum()
    bias = parameters["bias_var"] / input_var
    alphas = score.relative_alphas.clip(1e-8)
    least, most = (bias, bias) if bias_given else (1e-3 * moments.sum(), 30 * moments.sum())
    low = X.new_tensor([alphas.min(), least, 1e-3]).log()
    high = X.new_tensor([alphas.max(), most, 1e3]).log()
    others = X.new_tensor([alphas[at], bias, score.factors[at]]).log()
    x = torch.cat([X.new_zeros(X.shape[1]), others])
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, _STEPS[data.task] + 1):  # Adam
        x.requires_grad_()
        objective = _objective(data, parameters, x[:-3], x[-3:])
        if step == 1:
            first = objective.detach()
        elif step == _STEPS[data.task] * 2 // 5 and objective > _PROMISE * first:
            break
        (gradient,) = torch.autograd.grad(objective, x)
        mean = _MOMENTA[0] * mean + (1 - _MOMENTA[0]) * gradient
        square = _MOMENTA[1] * square + (1 - _MOMENTA[1]) * gradient**2
        unbiased = [
            m / (1 - decay**step) for m, decay in zip((mean, square), _MOMENTA, strict=True)
        ]
        x = x.detach() - _STEP * unbiased[0] / (unbiased[1].sqrt() + 1e-10)
        x[-3:] = x[-3:].clamp(low, high)
    x = x.detach()
    v = x[:-3].exp()
    return v * moments.sum() / (moments @ v), float(x[-2].exp()) * input_var


def _compare(scores):
    """Criterion of every candidate, and index of the alpha that it is for.

    The criterion is the mean of both errors, each in units of the least of the whole grid.
    """
    least = torch.stack([score.errors.amin(1) for score in scores]).amin(0)
    relative = [score.relative_to(least) for score in scores]
    return [float(r.min()) for r in relative], [int(r.argmin()) for r in relative]


def _results(candidates, scores, criteria, at, weighted):
    """The comparison as a dict of arrays."""
    names = (*DEQ_PARAMETERS, "alpha", "squared_error", "log_loss", "criterion")
    rows = []
    for parameters, score, criterion, a in zip(candidates, scores, criteria, at, strict=True):
        errors = [*score.errors[:, a].tolist(), np.nan]
        rows.append(
            [
                *map(parameters.get, DEQ_PARAMETERS),
                score.alphas[a],
                *errors[:2],
                criterion,
            ]
        )
    columns = {
        name: _column(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    columns["feature_weights"] = np.arange(len(rows)) >= len(rows) - weighted
    columns["rank"] = rankdata(criteria, "min")
    return columns


def _column(values):
    """An array of values, of objects where they are not all numbers or all strings."""
    if any(value is None or callable(value) for value in values):
        out = np.empty(len(values), dtype=object)
        out[:] = values
        return out
    return np.array(values)
