"""Weights of the features, x_j -> v_j^(1/2) x_j, by gradient descent on the criterion."""

import numpy as np
import torch

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
    v = log_v.exp()
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
    return objective + _PRIOR[data.task] * (log_v - log_v.mean()).square().sum() / total


def learn_weights(data, trial, bias_given):
    """Descend the criterion by Adam from a Trial's equal weights; return weights and bias_var."""
    parameters, score, at = trial.parameters, trial.score, trial.at
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
