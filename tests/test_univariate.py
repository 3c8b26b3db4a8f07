"""Kernels of homogeneous activations by one variable, against solving every pair by itself."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sk_deq._theory.engine import kernel_matrix
from sk_deq._theory.pair import DEQPairKernel
from sk_deq._theory.spec import KERNELS, deq_spec
from sk_deq._theory.univariate import univariate_kernel


def _rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(14, 4)) * np.exp(rng.normal(size=(14, 1))) / 2
    X[3], X[5], X[7] = X[2], -X[4], 0.0  # a copy, an opposite, no direction
    X[9] = X[8] * (1 + 1e-9)
    return torch.from_numpy(X)


def _solved(pair, X):
    """Every pair by itself."""
    norms = torch.linalg.vector_norm(X, dim=1)
    unit = X / torch.where(norms > 0, norms, 1)[:, None]
    r = (unit @ unit.T).clamp(-1, 1)
    rows = pair.rows(norms)
    K = torch.empty_like(r)
    for i in range(len(X)):
        for j in range(len(X)):
            K[i, j] = pair.pairs(rows[i : i + 1], rows[j : j + 1], r[i, j].view(1, 1, 1)).item()
    K[2, 3] = K[3, 2] = K[2, 2] = K[3, 3] = pair.diagonal(rows[2:3])[0]
    return K.diagonal_scatter(pair.diagonal(rows)), rows


@pytest.mark.long
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "abs"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "recurrent_var, bias_var, center",
    [(0.5, 0.0, True), (0.5, 0.3, True), (0.8, 0.1, True), (0.5, 0.3, False), (0.0, 0.2, True)],
)
def test_it_is_the_kernel(activation, kernel, recurrent_var, bias_var, center):
    X = _rows()
    spec = deq_spec(activation, recurrent_var, bias_var=bias_var, center=center)
    pair = DEQPairKernel(spec, kernel)
    assert univariate_kernel(pair) is not None
    exact, rows = _solved(pair, X)
    # next to equal rows the NTKs have a cusp, and the pair is known to the root of the rounding
    tolerance = 1e-11 if kernel == "ck" else 1e-7
    for Y in (None, X.clone()):
        K = kernel_matrix(pair, X, Y)
        assert_allclose(K, exact, rtol=0, atol=tolerance * float(exact.max()))
    assert_allclose(univariate_kernel(pair).deviations(rows[:, 0]), rows[:, 1], rtol=1e-12)


def test_only_where_there_is_one():
    assert univariate_kernel(DEQPairKernel(deq_spec("relu", 0.5, center=False))) is None
    assert univariate_kernel(DEQPairKernel(deq_spec("tanh", 0.5))) is None
