"""Weights of the features, x_j -> v_j^(1/2) x_j, by gradient descent on the criterion."""

from functools import partial

import numpy as np
import torch

from .._progress import out_of_time
from .._solve.leave_one_out import LeftOut
from .._theory.univariate import angular_kernel
from .angles import WeightedKernel
from .candidates import without_bias
from .criterion import ALPHAS, log_loss, squared_error

_STEP, _MOMENTA = 0.2, (0.7, 0.95)
_STEPS = {"classification": 12, "regression": 24}
_JUDGED_STEPS, _OF_ROWS = 24, 1500  # steps if others judge, for so many rows
# pulls the logarithms of the weights to their mean, as strongly as so many rows
_PRIOR = {"classification": 0.5, "regression": 0.1}
_ROWS = 500  # that a step looks at
_PROMISE = 0.97  # if two fifths of the steps do not lower it below this, the others are left out;
# if others judge, below 1


def _objective(data, parameters, log_v, others, prior):
    """The criterion for weights exp(log_v) and (relative alpha, bias, factor) = exp(others).

    The bias is c^2 for rows whose mean squared norm is that of data.X.
    """
    X, y, w = data.X, data.y, data.w
    total = w.sum()
    moments = w @ X.square()
    v = log_v.exp()[data.encoding.blocks]
    alpha, bias, factor = others.exp()
    bias = bias * (moments @ v) / moments.sum()
    table = angular_kernel(without_bias(parameters))
    sphere = parameters["input_scaling"] == "sphere"
    K = WeightedKernel.apply(v, bias, X, table, sphere)
    predictions = y - LeftOut.apply(K, alpha, y, w.sqrt())
    variance = squared_error((w @ y / total).expand_as(y), y, w)
    objective = squared_error(predictions, y, w) / variance
    if data.classify:
        chance = np.log(max(2, y.shape[1]))
        objective = objective + log_loss(factor * predictions, y, w) / chance
    return objective + prior * (log_v - log_v.mean()).square().sum()


def learn_weights(trial, data, bias_given, judged, begin=None):
    """Descend the criterion by Adam from a Trial's equal weights, or from others.

    In single precision, which is enough for a direction; in double where K + alpha is singular to
    the former.

    Parameters
    ----------
    trial : Trial
    data : Data
        The rows, encoded as those of the trial; each step looks at some.
    bias_given : bool
        Whether bias_var stays as it is.
    judged : bool
        Whether other rows will judge the weights, so that more steps can do no harm.
    begin : tensor of shape (n_encoded,), default=None
        Weights of another kernel, from where half of the steps are enough.

    Returns
    -------
    tensor of shape (n_encoded,), float, float
        Weights, bias_var and the relative alpha.
    """
    parameters, moments, blocks = trial.parameters, data.moments, data.encoding.blocks
    input_var = parameters["input_var"]
    bias = parameters["bias_var"] / input_var
    alphas = ALPHAS if data.alphas is None else trial.score.relative_alphas
    alphas = np.maximum([min(alphas), trial.relative_alpha, max(alphas)], 1e-8)
    least, most = (bias, bias) if bias_given else (1e-3 * moments.sum(), 30 * moments.sum())
    low, others, high = (
        moments.new_tensor(bounds).log()
        for bounds in (
            [alphas[0], least, 1e-3],
            [alphas[1], bias, trial.score.factors[trial.at]],
            [alphas[2], most, 1e3],
        )
    )
    x = torch.cat([moments.new_zeros(int(blocks.max()) + 1), others])
    if begin is not None:
        x[blocks] = begin.log()
    descend = partial(_descend, x, low=low, high=high, judged=judged, begun=begin is not None)
    try:
        x = descend(data.to(torch.float32), parameters)
    except torch.linalg.LinAlgError:
        x = descend(data, parameters)
    v = x[:-3].exp()[blocks]
    bias_var = parameters["bias_var"] if bias_given else float(x[-2].exp()) * input_var
    return v * moments.sum() / (moments @ v), bias_var, float(x[-3].exp())


def _descend(x, data, parameters, low, high, judged, begun):
    """Adam from x, log v and three others, which stay between low and high; in data's dtype."""
    x, low, high = (bound.to(data.X) for bound in (x, low, high))
    blocks = _blocks(data)
    prior = _PRIOR[data.task] / len(data.X)
    last = _JUDGED_STEPS * max(1, round(len(data.X) / _OF_ROWS)) if judged else _STEPS[data.task]
    check, promise = last * 2 // 5, 1 if judged else _PROMISE
    if begun:  # there is no step at which it has to have gained
        last, check = last // 2, None
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, last + 1):
        x.requires_grad_()
        block = blocks[0 if step == check else (step - 1) % len(blocks)]
        objective = _objective(block, parameters, x[:-3], x[-3:], prior)
        if step == 1:
            first = objective.detach()
        elif step == check and objective > promise * first:
            break
        if out_of_time("the search"):
            break
        (gradient,) = torch.autograd.grad(objective, x)
        mean = _MOMENTA[0] * mean + (1 - _MOMENTA[0]) * gradient
        square = _MOMENTA[1] * square + (1 - _MOMENTA[1]) * gradient**2
        unbiased = [
            m / (1 - decay**step) for m, decay in zip((mean, square), _MOMENTA, strict=True)
        ]
        x = x.detach() - _STEP * unbiased[0] / (unbiased[1].sqrt() + 1e-10)
        x[-3:] = x[-3:].clamp(low, high)
    return x.detach().double()


def _blocks(data):
    """Its rows in parts of equal size, which differ from step to step."""
    n = len(data.X)
    count = max(1, round(n / _ROWS))
    return [data.part(slice(k * n // count, (k + 1) * n // count)) for k in range(count)]
