"""Kernels at their edges: near the largest recurrent_var, at extreme norms, few rows and many."""

import importlib.util
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from sk_deq._theory import engine
from sk_deq._theory.activations import ACTIVATIONS as REGISTRY
from sk_deq._theory.pair import DEQPairKernel
from sk_deq._theory.rows import row_values
from sk_deq._theory.spec import KERNELS, deq_spec
from sk_deq._theory.univariate import angular_kernel
from sk_deq.kernels import deq_kernel, explicit_kernel

SCRIPT = Path(__file__).parents[1] / "examples" / "benchmarks" / "kernel_edges.py"
SPEC = importlib.util.spec_from_file_location("kernel_edges", SCRIPT)
edges = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(edges)

SMOOTH = ["tanh", "erf", "sin", "sigmoid", "gelu", "silu", "softplus", "elu"]


def rows(norms, p=3, seed=0):
    X = np.random.default_rng(seed).normal(size=(len(norms), p))
    return X / np.linalg.norm(X, axis=1, keepdims=True) * np.array(norms)[:, None]


def scaled_error(K, expected):
    """Largest difference over the root of both rows' diagonal entries."""
    scale = np.sqrt(np.diag(expected))
    return np.abs((K - expected) / scale[:, None] / scale).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTRY)
def test_random_calls_against_slow_quadrature(name):
    """A call of `kernel_edges.py` for each activation."""
    rng = np.random.default_rng(list(REGISTRY).index(name))
    X, spec = edges.draw(rng, [name])
    assert edges.check(X, spec, deq_kernel(X, **spec), rng) < 1e-9, spec


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTRY)
def test_few_rows_take_no_time(name):
    """Near the largest recurrent_var, and for rows of very different norms."""
    X = rows([1e-6, 0.0, 1.0, 1e3, 1e6])
    bounds = {"activation": name, "input_var": 0.7, "bias_var": 0.2}
    spec = {**bounds, "recurrent_var": 0.9987 * edges.limit(X, bounds)}
    for kernel in KERNELS:
        start = time.process_time()
        K = deq_kernel(X, kernel=kernel, **spec)
        assert time.process_time() - start < 1
        assert np.isfinite(K).all() and np.array_equal(K, K.T)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "erf", "sin", "hard_tanh", "elu", "gelu", "softplus"])
def test_rows_with_a_fixed_point_alone_have_one_together(name):
    X = np.array([[1.9, 0.0], [0.0, 1.7]])
    spec = {"activation": name, "tau0": 1.8, "input_var": 1.0}
    v = (1 - 1e-4) * edges.limit(X, spec)
    for kernel in KERNELS:
        K = deq_kernel(X, kernel=kernel, recurrent_var=v, **spec)
        alone = [deq_kernel(X[[i]], kernel=kernel, recurrent_var=v, **spec)[0, 0] for i in (0, 1)]
        np.testing.assert_allclose(np.diag(K), alone, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["ck", "ntk"])
@pytest.mark.parametrize("name", ["tanh", "silu", "sin"])
def test_many_rows_near_the_limit_are_as_right_as_few(name, kernel):
    norms = np.random.default_rng(1).uniform(1.0, 1.8, 90)
    X = rows(norms)
    spec = {"activation": name, "tau0": 1.3, "input_var": 1.0}
    v = 0.995 * edges.limit(X[[norms.argmin(), norms.argmax()]], spec)
    K = deq_kernel(X, kernel=kernel, recurrent_var=v, **spec)
    few = deq_kernel(X[:10], kernel=kernel, recurrent_var=v, **spec)
    assert scaled_error(K[:10, :10], few) < 2e-10


def test_rows_without_a_direction_among_many():
    X = rows(np.random.default_rng(2).uniform(0.5, 3.0, 40))
    X[[3, 7]] = 0
    K = deq_kernel(X, activation="gelu", bias_var=0.2)
    assert scaled_error(K[:8, :8], deq_kernel(X[:8], activation="gelu", bias_var=0.2)) < 2e-10


def test_tables_of_rows_tell_where_they_are_not_right():
    spec = deq_spec("tanh", 1.15, input_var=1.0, center=False)  # not stable below a norm of 0.23
    pair = DEQPairKernel(spec, "ntk")
    norms = torch.linspace(0.3, 4.0, 200, dtype=torch.float64)
    found = row_values(pair, norms)
    exact = pair.rows(norms)
    np.testing.assert_allclose(found[:, :-1], exact, rtol=1e-12)
    np.testing.assert_allclose(found[:, -1], pair.diagonal(exact), rtol=1e-11)
    with pytest.raises(ValueError, match=r"row of norm 0\.01;"):
        row_values(pair, torch.cat([norms, torch.tensor([0.01], dtype=torch.float64)]))


@pytest.mark.parametrize("name", ["tanh", "softplus"])
def test_rows_of_one_norm_next_to_the_limit_need_no_search_for_it(name, monkeypatch):
    """A table of the angle is right there; nodes beyond the limit are not told of."""
    X = rows(np.ones(90))
    spec = {"activation": name, "input_var": 0.7, "kernel": "ntk"}
    v = 0.995 * edges.limit(X[:2], spec)
    expected = deq_kernel(X[:20], recurrent_var=v, **spec)
    monkeypatch.setattr("sk_deq._theory.spec._largest_stable", None)
    K = deq_kernel(X, recurrent_var=v, **spec)
    assert scaled_error(K[:20, :20], expected) < 2e-10


@pytest.mark.slow
def test_an_error_takes_no_time():
    """Where the variances of rows run off, they are given up long before they overflow."""
    X = rows(np.linspace(0.5, 2.0, 8))
    for v in (2.753, 20.0):
        start = time.process_time()
        with pytest.raises(ValueError, match="use recurrent_var <"):
            deq_kernel(X, activation="softplus", recurrent_var=v, input_var=0.7, bias_var=0.2)
        assert time.process_time() - start < 3


@pytest.mark.parametrize(
    "range1", [(0.5, 2.0), (1.0, 1.0)], ids=["two octaves of norms", "one norm"]
)
def test_a_table_that_is_wrong_is_not_used(range1, monkeypatch):
    pair = DEQPairKernel(deq_spec("gelu", 0.3141), "ntk")
    monkeypatch.setattr(
        engine, "tabulate", lambda *a, make=engine.tabulate: tuple(map(_spoilt, make(*a)))
    )
    assert engine._table.__wrapped__(pair, range1, range1) is None
    monkeypatch.undo()
    assert engine._table.__wrapped__(pair, range1, range1) is not None


def _spoilt(table):
    class Spoilt:
        def __call__(self, *arguments):
            return table(*arguments) * (1 + 1e-9)

    return Spoilt()


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("name", SMOOTH)
def test_small_rows_have_the_linear_limit(name, center):
    """K = p^2 s_b x.y / (1 - s_a p^2), p = phi'(0), beside phi(0)^2 where it is not subtracted."""
    if name in ("sigmoid", "softplus") and not center:
        return
    X = rows([1.0, 0.3, 2.0, 5.0])
    t = torch.zeros(1, dtype=torch.float64)
    p = float(REGISTRY[name].derivative(t))
    s_a, s_b = 0.4, 0.6
    expected = p * p * s_b * X @ X.T / (1 - s_a * p * p)
    for size in (1e-6, 1e-60, 1e-140):
        K = deq_kernel(
            size * X, activation=name, recurrent_var=s_a, input_var=s_b, tau0=size, center=center
        )
        # elu and others have terms of third order
        assert scaled_error(K / size / size, expected) < 10 * size + 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["ck", "ntk_full"])
@pytest.mark.parametrize("name", REGISTRY)
def test_extreme_norms(name, kernel):
    """Blocks, rotations and orders change an entry by rounding; duplicates and multiples too."""
    X = rows([1e-150, 1e-150, 1e-9, 1e-3, 1.0, 1.0, 1e4, 1e8, 1e8, 1e15, 1e140, 1e150])
    X[5], X[1] = X[4], -X[0]
    X[8] = 3 * X[7]
    spec = {"activation": name, "kernel": kernel, "recurrent_var": 0.55, "bias_var": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        K = deq_kernel(X, **spec)
    assert np.isfinite(K).all() and np.array_equal(K, K.T)
    d = np.sqrt(np.diag(K))
    correlation = K / d[:, None] / d
    assert np.abs(correlation).max() < 1 + 1e-9
    assert np.linalg.eigvalsh(correlation)[0] > -1e-9
    assert correlation[4, 5] == pytest.approx(1, rel=1e-14)
    block = deq_kernel(X[:8], X[8:], **spec)
    np.testing.assert_allclose(block / d[:8, None] / d[8:], correlation[:8, 8:], atol=1e-9)
    Q = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    turned = deq_kernel(X @ Q, **spec) / d[:, None] / d
    np.testing.assert_allclose(turned, correlation, atol=1e-7)
    order = np.random.default_rng(4).permutation(len(X))
    np.testing.assert_allclose(
        deq_kernel(X[order], **spec) / d[order, None] / d[order],
        correlation[np.ix_(order, order)],
        atol=1e-12,
    )


@pytest.mark.parametrize("name", ["tanh", "erf", "sin", "sigmoid", "hard_tanh"])
def test_parallel_rows_of_large_norms(name):
    """1 - rho is of the size of 1 / n^2 here: the NTK against that of the difference of rows."""
    for n in (1e3, 1e6, 1e8):
        ratio = []
        for size in (n, 10 * n):
            K = deq_kernel(
                size * np.array([[1.0], [2.0]]), activation=name, kernel="ntk_full",
                recurrent_var=0.5, input_var=0.5,
            )  # fmt: skip
            ratio.append(K[0, 1] / np.sqrt(K[0, 0] * K[1, 1]))
        # the limit of large norms is approached like 1 / n
        assert ratio[0] == pytest.approx(ratio[1], abs=20 / n)


def test_float32_rows_are_taken_as_they_are():
    """Few entries are computed in float64 and rounded."""
    X = (rows([1e-3, 1.0, 30.0, 1e3, 1e5], p=4)).astype(np.float32)
    for name in ("tanh", "elu", "hard_tanh"):
        spec = {"activation": name, "kernel": "ntk_full", "recurrent_var": 0.5}
        expected = deq_kernel(X.astype(float), **spec)
        assert scaled_error(deq_kernel(X, **spec), expected) < 1e-6


def test_a_kernel_of_the_angle_next_to_its_limit():
    pair = DEQPairKernel(deq_spec("relu", 1.995, input_var=1.0, center=False), "ntk")
    table = angular_kernel(pair)
    r = torch.tensor([-0.9, -0.2, 0.4, 0.9, 0.99, 0.9999], dtype=torch.float64)
    one = pair.rows(torch.ones(1, dtype=torch.float64))
    exact = pair.pairs(one, one, r[None, None])[0, 0]
    scale = float(pair.diagonal(one))
    np.testing.assert_allclose(next(table(r.clone())), exact, atol=1e-8 * scale)


def test_explicit_kernels_do_not_depend_on_other_rows():
    X = rows([1e-3, 0.5, 1.0, 40.0, 1e5])
    layers = ["softplus", "relu", "tanh"]
    for kernel in ("ck", "ntk"):
        K = explicit_kernel(X, layers=layers, kernel=kernel)
        np.testing.assert_allclose(
            explicit_kernel(X[:2], X[2:], layers=layers, kernel=kernel), K[:2, 2:], rtol=1e-9
        )


@pytest.mark.parametrize("fn", [torch.nn.functional.mish, lambda t: t.clamp(-2, 3.3)])
def test_callables_take_no_time(fn):
    X = rows([1e-3, 1.0, 2.0, 30.0, 1e3])
    start = time.process_time()
    K = deq_kernel(X, activation=fn, recurrent_var=0.7, kernel="ntk")
    assert time.process_time() - start < 3
    assert np.isfinite(K).all()
