"""Whatever modes of torch a caller is in, estimators and kernels give the same."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from test_inputs import data_for
from tiny import SETTINGS, tiny

from sk_deq.kernels import DEQKernel, deq_kernel, explicit_kernel
from sk_deq.theory import deq_scale


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "another default device": lambda: torch.device("meta"),
    "another default dtype": lambda: default_dtype(torch.bfloat16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def outputs(name):
    X, y = data_for(name)
    model = tiny(name, max_epochs=3).fit(X, y)
    methods = "predict", "predict_proba", "decision_function", "transform"
    return [getattr(model, method)(X) for method in methods if hasattr(model, method)]


@pytest.fixture(scope="module")
def expected():
    return {name: outputs(name) for name in SETTINGS}


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SETTINGS)
def test_estimators(name, mode, expected):
    with MODES[mode]():
        found = outputs(name)
    for one, other in zip(found, expected[name], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_kernels_and_the_tables_they_keep(mode):
    X = np.random.default_rng(0).normal(size=(5, 3))
    variance = 0.3 + 1e-3 * list(MODES).index(mode)  # whose tables no other test has made

    def work():
        return [
            deq_kernel(X, activation="silu", kernel="ntk", recurrent_var=variance),
            explicit_kernel(X, layers=["tanh"]),
            DEQKernel(variance, 1.0, activation="tanh")(X, eval_gradient=True)[1],
            deq_scale("gelu", recurrent_var=variance),
        ]

    with MODES[mode]():
        found = work()
    for one, other in zip(found, work(), strict=True):
        np.testing.assert_array_equal(one, other)
