"""The estimators as formulas on a graph: from rows as they come to what the estimator predicts."""

import math

import numpy as np
import torch

from .._nets.exact import ExactNetwork
from .._nets.fixed_point import solve
from .._nets.modules import DEQ
from .._theory.matching import MatchResult
from .graph import DOUBLE, FLOAT
from .lookup import gated_features, kernel_times

MAX_STEPS = 500  # of an unrolled fixed point


def prepared_rows(x, preparation):
    """Rows (n, n_features), double, after a Preparation: `Preparation.transform` on a graph."""
    encoding, feature_scale = preparation.encoding, preparation.feature_scale
    if encoding is not None and encoding.scores:
        x = x.beside(
            *(_interpolated(x.columns([j]), *function) for j, *function in encoding.scores)
        )
    if feature_scale is not None:
        x = x * feature_scale
    return scaled_rows(x, preparation.scaler)


def scaled_rows(x, scaler):
    """Rows, double, after an InputScaler: `InputScaler.transform` on a graph."""
    if scaler.mode is None:
        return x
    if scaler.mean_ is not None:
        x = x - scaler.mean_
    x = x / scaler.scale_
    if scaler.mode != "sphere":
        return x
    if scaler.constant_ is not None:
        x = x.with_constant(scaler.constant_)
    norms = x.norms()
    return x / norms.where(norms > 0.0, 1.0)


def _interpolated(x, knots, values):
    """Piecewise linear functions of a column (n, 1): sums of steps from knot to knot."""
    knots, values = knots.double().cpu().numpy(), values.double().cpu().numpy()
    reached = ((x - knots[:-1]) / np.diff(knots)).clip(0.0, 1.0)
    return reached @ np.diff(values, axis=0) + values[0]


def ridge_decision(estimator, x):
    """Decision values or targets of a kernel ridge, (n, n_outputs)."""
    fitted = estimator._fitted_rows
    kernel = fitted.kernel
    coef = torch.as_tensor(estimator.dual_coef_).double().cpu().reshape(len(fitted.X), -1)
    intercept = torch.as_tensor(estimator.intercept_).double().cpu().reshape(-1)
    rows = prepared_rows(x, kernel.preparation)
    return kernel_times(rows, kernel, fitted.scaled.double().cpu(), coef) + intercept


def network_outputs(estimator, x, n_steps=None):
    """What the network gives for rows, (n, n_outputs), and the residual of a DEQ, (n, 1), or None.

    `n_steps` is that of a DEQ's unrolled fixed point.
    """
    features, readout = estimator.module_.features, estimator.module_.readout
    rows = prepared_rows(x, estimator._scaler)
    dtype = DOUBLE if readout.weight.dtype == torch.float64 else FLOAT
    residual = None
    if isinstance(features, ExactNetwork):
        h = gated_features(
            rows, features.match, features.input_weight.detach(), dtype,
            features.bias.detach(), features.bias_var**0.5,
        )  # fmt: skip
        return h @ readout.weight.T + readout.bias, residual
    rows = rows.to(dtype)
    if isinstance(features, DEQ):
        if n_steps is None:
            raise ValueError(
                "A DEQ is exported by itself or as the last step of a pipeline, where the number "
                "of its iterations can be chosen; elsewhere use "
                "EquivalentExplicitClassifier.from_deq(deq, teacher=deq)."
            )
        h, residual = _unrolled(features, rows, n_steps)
    else:
        h = _activated(features.layers[0], rows @ features.input_weight.T + features.bias)
        for layer, hidden in zip(features.layers[1:], features.hidden, strict=True):
            h = _activated(layer, h @ hidden.weight.T + hidden.bias)
        h = h / math.sqrt(features.width)
    return h @ readout.weight.T + readout.bias, residual


def matcher_features(estimator, x):
    """Features of a KernelMatcher, (n, n_components)."""
    weights, match = estimator.weights_, estimator.match_
    dtype = DOUBLE if weights[0].dtype == torch.float64 else FLOAT
    rows = scaled_rows(x, estimator._scaler)
    if isinstance(match, MatchResult):
        z = rows.to(dtype)
        for layer, W in zip(match.layers, weights, strict=True):
            z = _activated(layer, z @ W.T) / math.sqrt(len(W))
        return z
    return gated_features(rows, match, weights[0], dtype)


def n_steps_for(estimator, rows, residual):
    """How many Picard iterations bring every row of a fitted DEQ estimator below a residual.

    Raises
    ------
    ValueError
        If `MAX_STEPS` are not enough, or the activation is not one of the registry.
    """
    deq, name = estimator.module_.features, type(estimator).__name__
    explicit = name.replace("DEQ", "EquivalentExplicit")
    remedy = f"{explicit}.from_deq(deq, teacher=deq) makes an explicit network that can be exported"
    if deq.activation.name not in _ACTIVATIONS or callable(estimator.activation):
        raise ValueError(
            f"activation={deq.activation.name!r} is a callable, which a file cannot hold; use one "
            f"of {sorted(_ACTIVATIONS)}. Or: {remedy}."
        )
    weight = deq.input_weight
    x = estimator._scaler.transform(torch.as_tensor(rows)).to(weight)
    with torch.no_grad():
        W = deq.effective_recurrent_weight()
        drive = x @ weight.T + deq.bias
        shifted = drive - deq.mean * W.sum(1)
        solved = solve(
            lambda a, u: u + deq.activation(a) @ W.T, (shifted,), drive,
            method="picard", tol=residual, max_iter=MAX_STEPS,
        )  # fmt: skip
    if not solved.converged.all():
        raise ValueError(
            f"{name}: {MAX_STEPS} unrolled steps leave a residual of "
            f"{float(solved.residual.max()):.1e} on these rows, more than residual={residual:g}. "
            f"Raise residual. Or: {remedy}."
        )
    return int(solved.n_iter.max())


def _unrolled(deq, rows, n_steps):
    """Features of a DEQ after so many Picard iterations, and the residual of each row, (n, 1)."""
    activation = _ACTIVATIONS[deq.activation.name]
    W = deq.effective_recurrent_weight()
    a = rows @ deq.input_weight.T + deq.bias
    drive = a - deq.mean * W.sum(1)
    W = rows.graph.constant(W.T, rows.dtype)
    for _ in range(n_steps):
        last, a = a, drive + activation(a) @ W
    tiny = float(np.finfo(rows.dtype).tiny)
    residual = (a - last).norms() / a.norms().maximum(tiny)
    return (activation(a) - deq.mean) / math.sqrt(deq.width), residual


def _activated(layer, t):
    """A Layer of an explicit network at t."""
    return _FAMILIES[layer.family](t, layer) - layer.offset


def _hermite(t, layer):
    x = t / layer.scale
    c1, c2, c3 = layer.parameters
    square = x * x
    cubic = (square - 3.0) * x * (c3 / math.sqrt(6))
    return x * c1 + (square - 1.0) * (c2 / math.sqrt(2)) + cubic


_FAMILIES = {
    "leaky_relu": lambda t, layer: (t * layer.parameters[0]).maximum(t * layer.parameters[1]),
    "hard_tanh": lambda t, layer: (
        t.clip(-layer.parameters[1], layer.parameters[1]) * layer.parameters[0]
    ),
    "hermite": _hermite,
}


def _erf(t):
    return t.to(FLOAT).erf().to(t.dtype)  # onnxruntime has it in single precision only


_ACTIVATIONS = {
    "relu": lambda t: t.relu(),
    "leaky_relu": lambda t: t.maximum(t * 0.01),
    "abs": lambda t: t.abs(),
    "tanh": lambda t: t.tanh(),
    "erf": _erf,
    "sin": lambda t: t.sin(),
    "sigmoid": lambda t: t.sigmoid(),
    "hard_tanh": lambda t: t.clip(-1.0, 1.0),
    "elu": lambda t: t.relu() + t.minimum(0.0).exp() - 1.0,
    "gelu": lambda t: t * 0.5 * (_erf(t / math.sqrt(2)) + 1.0),
    "silu": lambda t: t * t.sigmoid(),
    "softplus": lambda t: t.softplus(),
    "identity": lambda t: t,
}
