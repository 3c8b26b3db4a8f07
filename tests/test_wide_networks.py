"""The kernels against sampled networks: they are what wide DEQs and explicit networks have."""

import math

import numpy as np
import pytest
import torch

from sk_deq._theory.activations import get_activation
from sk_deq.kernels import deq_kernel, explicit_kernel
from sk_deq.theory import deq_scale, match_explicit

SPEC = {"recurrent_var": 0.3, "input_var": 0.9, "bias_var": 0.2}


def _rows(n=4, p=6):
    X = np.random.default_rng(0).normal(size=(n, p))
    return X / np.sqrt((X**2).sum(axis=1).mean())


def _weights(width, p, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(width, m, generator=generator, dtype=torch.float64) for m in (width, p, 1)]
    return draw


def _features(activation, mean, X, A, B, b):
    phi = get_activation(activation)
    width = len(A)
    A = A * math.sqrt(SPEC["recurrent_var"])
    U = math.sqrt(SPEC["input_var"]) * X @ B.T + math.sqrt(SPEC["bias_var"]) * b.T
    z = torch.zeros(len(X), width, dtype=X.dtype)
    for _ in range(60):
        z = (phi(z @ A.T + U) - mean) / math.sqrt(width)
    return z


@pytest.mark.long
@pytest.mark.parametrize("activation", ["relu", "tanh", "elu", "hard_tanh"])
def test_conjugate_kernel_of_a_wide_deq(activation):
    X = _rows()
    _, mean = deq_scale(activation, **SPEC)
    samples = []
    for seed in range(6):
        A, B, b = _weights(2000, X.shape[1], seed)
        z = _features(activation, mean, torch.from_numpy(X), A, B, b)
        samples.append((z @ z.T).numpy())
    K = deq_kernel(X, activation=activation, tau0=1.0, **SPEC)
    error = np.std(samples, axis=0, ddof=1) / math.sqrt(len(samples))
    assert (np.abs(np.mean(samples, axis=0) - K) < 5 * error + 2 / 2000).all()
    assert error.max() < 0.05 * K.max()


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["ntk", "ntk_full"])
def test_neural_tangent_kernel_of_a_deq_by_autograd(kernel):
    X, width = torch.from_numpy(_rows(3)), 1000
    _, mean = deq_scale("tanh", **SPEC)
    total = 0
    for seed in range(3):
        A, B, b = _weights(width, X.shape[1], seed)
        v = torch.randn(width, generator=torch.Generator().manual_seed(99 + seed)).double()
        trained = [A, v] if kernel == "ntk" else [A, B, b, v]
        for parameter in trained:
            parameter.requires_grad_()
        gradients = []
        for x in X:
            value = _features("tanh", mean, x[None], A, B, b) @ v
            found = torch.autograd.grad(value.sum(), trained)
            gradients.append(torch.cat([g.ravel() for g in found]))
        J = torch.stack(gradients)
        total = total + (J @ J.T) / 3
    K = deq_kernel(X.numpy(), kernel=kernel, activation="tanh", tau0=1.0, **SPEC)
    assert np.abs(total.numpy() - K).max() < 0.05 * K.max()


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "first"), [("ck", False), ("ntk", False), ("ntk", True)])
def test_kernels_of_a_wide_explicit_network(kernel, first):
    X, width = torch.from_numpy(_rows(3)), 1500
    layers = match_explicit("relu", recurrent_var=0.3).layers
    total = 0
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        W1, W2, v = (
            torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
            for shape in ((width, X.shape[1]), (width, width), (width,))
        )
        h = layers[0](X @ W1.T) / math.sqrt(width)
        h = layers[1](h @ W2.T) / math.sqrt(width)
        if kernel == "ck":
            total = total + (h @ h.T).detach() / 3
            continue
        trained = [W1, W2, v] if first else [W2, v]
        gradients = [
            torch.cat([g.ravel() for g in torch.autograd.grad(f, trained, retain_graph=True)])
            for f in h @ v
        ]
        J = torch.stack(gradients)
        total = total + J @ J.T / 3
    K = explicit_kernel(X.numpy(), layers=layers, kernel=kernel, train_first_layer=first)
    assert np.abs(total.numpy() - K).max() < 0.05 * K.max()
