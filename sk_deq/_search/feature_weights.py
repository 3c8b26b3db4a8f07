"""Weights of the features, x_j -> v_j^(1/2) x_j, by gradient descent on the criterion."""

import numpy as np
import torch

from .._progress import out_of_time
from .._solve.leave_one_out import LeftOut
from .._theory.univariate import angular_kernel
from .angles import WeightedKernel
from .candidates import without_bias
from .criterion import log_loss, squared_error

_STEP, _MOMENTA = 0.2, (0.7, 0.95)
_STEPS = {"classification": 12, "regression": 24}
# pulls the logarithms of the weights to their mean, as strongly as so many rows
_PRIOR = {"classification": 0.5, "regression": 0.1}
_PROMISE = 0.97  # if two fifths of the steps do not lower it below this, the others are left out


def _objective(data, parameters, log_v, others):
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
    return objective + _PRIOR[data.task] * (log_v - log_v.mean()).square().sum() / len(X)


def learn_weights(trial, bias_given):
    """Descend the criterion by Adam from a Trial's equal weights; return weights and bias_var.

    In single precision, which is enough for a direction; in double where K + alpha is singular to
    the former.
    """
    data, parameters = trial.data, trial.parameters
    moments, input_var = data.moments, parameters["input_var"]
    bias = parameters["bias_var"] / input_var
    alphas = trial.score.relative_alphas.clip(1e-8)
    least, most = (bias, bias) if bias_given else (1e-3 * moments.sum(), 30 * moments.sum())
    low = moments.new_tensor([alphas.min(), least, 1e-3]).log()
    high = moments.new_tensor([alphas.max(), most, 1e3]).log()
    others = moments.new_tensor([alphas[trial.at], bias, trial.score.factors[trial.at]]).log()
    try:
        x = _descend(data.to(torch.float32), parameters, others, low, high)
    except torch.linalg.LinAlgError:
        x = _descend(data, parameters, others, low, high)
    v = x[:-3].exp()[data.encoding.blocks]
    bias_var = parameters["bias_var"] if bias_given else float(x[-2].exp()) * input_var
    return v * moments.sum() / (moments @ v), bias_var


def _descend(data, parameters, others, low, high):
    """Adam from log v = 0 and `others`, which stay between low and high; in the dtype of data."""
    others, low, high = (bound.to(data.X) for bound in (others, low, high))
    x = torch.cat([others.new_zeros(int(data.encoding.blocks.max()) + 1), others])
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, _STEPS[data.task] + 1):
        x.requires_grad_()
        objective = _objective(data, parameters, x[:-3], x[-3:])
        if step == 1:
            first = objective.detach()
        elif step == _STEPS[data.task] * 2 // 5 and objective > _PROMISE * first:
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
