"""deq_kernel and explicit_kernel: every entry, every kind of input, extreme rows, errors."""

import itertools
import re
import warnings

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from slow_truth import SlowDEQ

from sk_deq import DEQKernelRidge
from sk_deq._theory import engine
from sk_deq._theory.activations import ACTIVATIONS as REGISTRY
from sk_deq._theory.duality import dual_function
from sk_deq._theory.layers import resolve_layers
from sk_deq._theory.pair import DEQPairKernel, solve_correlation
from sk_deq._theory.spec import KERNELS, deq_spec
from sk_deq.kernels import deq_kernel, explicit_kernel
from sk_deq.theory import match_explicit

USERS = {
    "mish": torch.nn.functional.mish,
    "clamp": lambda t: t.clamp(-2, 3.3),
    "steep_leaky": lambda t: torch.where(t > 0, 1.3 * t, -0.4 * t),
}


def rows_with_norms(rng, norms, p=4):
    X = rng.normal(size=(len(norms), p))
    return X / np.linalg.norm(X, axis=1, keepdims=True) * np.array(norms)[:, None]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*REGISTRY, *USERS])
def test_random_cases_against_slow_quadrature(name):
    """X against Y, unequal norms, with and without centring and bias, all three kernels."""
    rng = np.random.default_rng(sorted([*REGISTRY, *USERS]).index(name))
    for center in (True, False):
        s_a, s_b, s_c = rng.uniform(0.1, 0.45), rng.uniform(0.3, 1.2), rng.uniform(0, 0.5)
        if not center:
            s_c = 0.0
        norms1, norms2 = rng.uniform(0.3, 2.5, 2), rng.uniform(0.3, 2.5, 1)
        X, Y = rows_with_norms(rng, norms1), rows_with_norms(rng, norms2)
        slow = SlowDEQ(name, s_a, s_b, s_c, center, tau0=1.2)
        cosines = (X @ Y.T) / (norms1[:, None] * norms2)
        expected = [slow.kernels(norms1[i], norms2[0], cosines[i, 0]) for i in range(2)]
        ends = slow.diagonal(norms1[0]), slow.diagonal(norms2[0])
        scale = np.sqrt(np.prod(ends, axis=0))
        for k, kernel in enumerate(KERNELS):
            K = deq_kernel(
                X,
                Y,
                kernel=kernel,
                activation=USERS.get(name, name),
                recurrent_var=s_a,
                input_var=s_b,
                bias_var=s_c,
                center=center,
                tau0=1.2,
            )
            np.testing.assert_allclose(
                K[:, 0], [e[k] for e in expected], rtol=0, atol=1e-8 * scale[k], err_msg=kernel
            )


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", REGISTRY)
def test_tables_equal_direct_evaluation(name, kernel):
    """Many norms over four octaves, cosines up to nearly 1, against the pair function itself."""
    rng = np.random.default_rng(5)
    X = rows_with_norms(rng, np.exp(rng.uniform(np.log(0.25), np.log(4), 25)), p=3)
    X[1] = X[0] + 1e-2 * rng.normal(size=3)
    spec = deq_spec(name, 0.4, 0.6, 0.1, True, 1.0)
    pair = DEQPairKernel(spec, kernel)
    K = engine.kernel_matrix(pair, torch.from_numpy(X)).numpy()
    norms = torch.from_numpy(np.linalg.norm(X, axis=1))
    cosine = torch.from_numpy(X) / norms[:, None]
    cosine = (cosine @ cosine.T).clamp(-1, 1)[:, :, None]
    direct = pair.pairs(pair.rows(norms), pair.rows(norms), cosine)[:, :, 0].numpy()
    off = ~np.eye(25, dtype=bool)
    assert np.abs(K - direct)[off].max() < 2e-10 * np.abs(direct).max()
    diagonal = engine.kernel_diagonal(pair, torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(np.diag(K), diagonal, rtol=1e-14)
    slow = SlowDEQ(name, 0.4, 0.6, 0.1, True, 1.0)
    expected = [slow.diagonal(float(n))[KERNELS.index(kernel)] for n in norms[:3]]
    np.testing.assert_allclose(diagonal[:3], expected, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "first"), [("ck", False), ("ntk", False), ("ntk", True)])
@pytest.mark.parametrize(
    "layers", [["relu"], ["tanh", "gelu"], ["elu", "hard_tanh"], "match", "hermite"]
)
def test_explicit_kernel_is_the_recursion_over_layers(layers, kernel, first):
    if layers == "match":
        layers = match_explicit("relu", recurrent_var=0.4).layers
    elif layers == "hermite":
        layers = match_explicit("gelu", recurrent_var=0.4).layers
    rng = np.random.default_rng(0)
    X = rows_with_norms(rng, rng.uniform(0.5, 2, 4))
    tau0 = np.sqrt((X**2).sum(axis=1).mean())
    K = explicit_kernel(X, layers=layers, kernel=kernel, train_first_layer=first, tau0=None)
    assert np.array_equal(K, K.T)
    resolved = resolve_layers(layers, tau0)
    for i, j in itertools.combinations(range(4), 2):
        S = X[[i, j]] @ X[[i, j]].T
        ntk = S if first else np.zeros((2, 2))
        for layer in resolved:
            s = np.sqrt(np.diag(S))
            new, slope = np.empty((2, 2)), np.empty((2, 2))
            for a, b in itertools.product(range(2), repeat=2):
                s1, s2 = torch.tensor(s[[a]]), torch.tensor(s[[b]])
                r = torch.tensor([[[min(1.0, S[a, b] / (s[a] * s[b]))]]])
                means = [dual_mean(layer.activation, s[c]) for c in (a, b)]
                G, D = dual_function(layer.activation, s1, s2)(r)
                new[a, b] = float(G) - layer.offset * sum(means) + layer.offset**2
                slope[a, b] = float(D)
            S, ntk = new, new + ntk * slope
        expected = S if kernel == "ck" else ntk
        assert K[i, j] == pytest.approx(expected[0, 1], abs=1e-9 * abs(expected[0, 0]))
        assert K[i, i] == pytest.approx(expected[0, 0], rel=2e-8)


def dual_mean(activation, s):
    """E phi(s xi), by a Riemann sum: spectral accuracy for the smooth, 1e-10 for the kinked."""
    xi = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    weight = torch.exp(-xi * xi / 2)
    return float((activation(s * xi) * weight).sum() / weight.sum())


EXTREME = [0.0, 1e-150, 1e-150, 1e-3, 1.0, 1.0, 1.0, 2.5, 1e3, 1e150]
SLOW_GROWTH = ["tanh", "erf", "sin", "sigmoid", "hard_tanh"]


EVERYWHERE = [*REGISTRY, "mish", "clamp"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "center", "kernel"),
    [
        *itertools.product(EVERYWHERE, [True], ["ntk_full"]),
        *itertools.product(["relu", "gelu", "sigmoid", "hard_tanh"], [False], ["ntk_full"]),
        *itertools.product(["relu", "elu", "tanh", "sigmoid"], [True], ["ck", "ntk"]),
    ],
)
def test_extreme_rows_in_one_matrix(name, kernel, center):
    """Zero rows, duplicates, norms 1e-150 and 1e150, mixed: finite, symmetric, semidefinite."""
    rng = np.random.default_rng(1)
    bounded = name in (*SLOW_GROWTH, "clamp")
    norms = np.array(EXTREME)
    X = rows_with_norms(rng, np.where(norms > 0, norms, 1))
    X[0] = 0
    X[5] = X[4]
    X[6] = -X[4]
    spec = dict(activation=USERS.get(name, name), kernel=kernel, recurrent_var=0.3, tau0=1.0)
    K = deq_kernel(X, center=center, **spec)
    assert np.array_equal(K, K.T)
    # products of two norms of 1e150 are within range, so nothing may overflow
    assert np.isfinite(K).all()
    if bounded and kernel != "ntk_full":
        assert np.abs(K).max() < 30
    diagonal = np.sqrt(np.diag(K))
    # for the centred sigmoid 1/4 - 1/4 is left of a tiny row, to rounding: it has no correlation
    seen = diagonal > (1e-7 if name == "sigmoid" and center else 1e-290)
    correlation = K[np.ix_(seen, seen)] / (diagonal[seen][:, None] * diagonal[seen])
    eigenvalues = np.linalg.eigvalsh(correlation)
    assert eigenvalues[0] > -1e-7 * eigenvalues[-1]
    assert K[4, 5] == pytest.approx(K[4, 4], rel=1e-10)
    np.testing.assert_allclose(correlation[seen.sum() - 6], correlation[seen.sum() - 5], atol=1e-12)
    # X against X takes another path, and must agree where numbers are ordinary
    ordinary = X[3:9]
    again = deq_kernel(ordinary, ordinary, center=center, **spec)
    scale = diagonal[3:9, None] * diagonal[3:9]
    np.testing.assert_allclose(again / scale, K[3:9, 3:9] / scale, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["relu", "tanh", "elu", "hard_tanh", "silu"])
def test_symmetric_and_positive_semidefinite(name, kernel):
    rng = np.random.default_rng(2)
    X = rows_with_norms(rng, np.exp(rng.normal(size=300) / 3), p=3)
    K = deq_kernel(X, activation=name, kernel=kernel, recurrent_var=0.6)
    assert np.array_equal(K, K.T)
    eigenvalues = np.linalg.eigvalsh(K)
    assert eigenvalues[0] > -1e-10 * eigenvalues[-1]


def test_all_rows_zero_or_none():
    for name in REGISTRY:
        K = deq_kernel(np.zeros((3, 2)), activation=name, recurrent_var=0.3)
        assert K.shape == (3, 3) and np.isfinite(K).all() and np.ptp(K) <= 1e-15
    assert deq_kernel(np.ones((2, 3)), np.ones((1, 3))).shape == (2, 1)
    assert deq_kernel(torch.ones(2, 3), torch.ones(0, 3)).shape == (2, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "tanh", "elu", "hard_tanh"])
def test_a_row_depends_on_no_other_row(name):
    """Blocks equal the whole, whatever the tiles, and rows far larger do not blur small ones."""
    rng = np.random.default_rng(3)
    X = rows_with_norms(rng, rng.uniform(0.3, 3, 300))
    spec = dict(activation=name, recurrent_var=0.5, tau0=1.0)
    K = deq_kernel(X, **spec)
    np.testing.assert_allclose(deq_kernel(X[:9], X[290:], **spec), K[:9, 290:], rtol=0, atol=1e-10)
    order = rng.permutation(300)
    np.testing.assert_allclose(
        deq_kernel(X[order], **spec), K[np.ix_(order, order)], rtol=0, atol=1e-10
    )
    large = np.concatenate([X[:5], 1e6 * X[5:8]])
    np.testing.assert_allclose(deq_kernel(large, **spec)[:5, :5], K[:5, :5], rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["relu", "gelu", "hard_tanh"])
def test_tables_give_what_single_entries_give(name, kernel, monkeypatch):
    """In few dimensions many rows are nearly parallel, where tables are hardest."""
    rng = np.random.default_rng(6)
    X = rows_with_norms(rng, rng.uniform(0.3, 3, 60), p=2)
    spec = dict(activation=name, kernel=kernel, recurrent_var=0.4, tau0=1.0)
    K = deq_kernel(X, **spec)
    monkeypatch.setattr(engine, "_table", lambda *arguments: None)
    np.testing.assert_allclose(K, deq_kernel(X, **spec), rtol=0, atol=1e-9 * K.max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "tanh", "elu"])
def test_threads_change_nothing(name):
    X = np.random.default_rng(5).normal(size=(600, 4))
    n_threads, K = torch.get_num_threads(), {}
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        try:
            K[n] = deq_kernel(X, activation=name, recurrent_var=0.4)
            assert torch.get_num_threads() == n
        finally:
            torch.set_num_threads(n_threads)
    assert np.array_equal(K[1], K[2]) and np.array_equal(K[1], K[3])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "tanh", "hard_tanh"])
def test_numpy_and_torch_in_the_same_out(name):
    rng = np.random.default_rng(4)
    X, Y = rows_with_norms(rng, [0.5, 1, 2]), rows_with_norms(rng, [1.5, 0.7])
    spec = dict(activation=name, recurrent_var=0.3, tau0=1.0)
    K = deq_kernel(X, Y, **spec)
    assert isinstance(K, np.ndarray) and K.dtype == np.float64
    T = deq_kernel(torch.from_numpy(X), torch.from_numpy(Y), **spec)
    assert isinstance(T, torch.Tensor) and T.dtype == torch.float64
    assert np.array_equal(T.numpy(), K)
    frozen = X.copy()
    frozen.setflags(write=False)
    strided = np.repeat(X, 2, axis=1)[:, ::2]
    backwards = X[::-1].copy()[::-1]
    for variant in (np.asfortranarray(X), frozen, strided, backwards, X.tolist()):
        np.testing.assert_allclose(deq_kernel(variant, Y, **spec), K, rtol=1e-14)
    transposed = torch.from_numpy(np.ascontiguousarray(X.T)).T
    np.testing.assert_allclose(deq_kernel(transposed, torch.from_numpy(Y), **spec), K, rtol=1e-14)
    integers = np.array([[1, 2], [3, -1]])
    assert deq_kernel(integers, **spec).dtype == np.float64
    np.testing.assert_array_equal(deq_kernel(integers, **spec), deq_kernel(integers * 1.0, **spec))
    before = X.copy()
    deq_kernel(X, Y, **spec)
    assert np.array_equal(X, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("kernel", KERNELS)
def test_float32(name, kernel):
    rng = np.random.default_rng(6)
    X = rows_with_norms(rng, rng.uniform(0.4, 2, 30), p=8)
    X[3] = X[4]
    spec = dict(activation=name, kernel=kernel, recurrent_var=0.3, tau0=1.0)
    K, single = deq_kernel(X, **spec), deq_kernel(X.astype(np.float32), **spec)
    assert single.dtype == np.float32 and np.array_equal(single, single.T)
    assert np.abs(single - K).max() < 1e-4 * np.abs(K).max()
    assert deq_kernel(X, dtype="float32", **spec).dtype == np.float32
    assert deq_kernel(X.astype(np.float32), dtype="float64", **spec).dtype == np.float64
    tensor = torch.from_numpy(X.astype(np.float32))
    assert deq_kernel(tensor, **spec).dtype == torch.float32


@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_high_dim_is_the_formula(kernel):
    from sk_deq.theory import deq_coefficients

    rng = np.random.default_rng(7)
    X, Y = rows_with_norms(rng, [0.9, 1.1, 1.0]), rows_with_norms(rng, [1.0, 1.2])
    spec = dict(recurrent_var=0.3, tau0=1.0, kernel=kernel)
    a1, a2, a3, diagonal = deq_coefficients("gelu", **spec)
    inner, chi, other = X @ Y.T, (X**2).sum(1) - 1, (Y**2).sum(1) - 1
    K = deq_kernel(X, Y, activation="gelu", method="high_dim", **spec)
    np.testing.assert_allclose(K, a1 * inner + a2 * np.outer(chi, other) + a3 * inner**2)
    K = deq_kernel(X, activation="gelu", method="high_dim", **spec)
    np.testing.assert_allclose(np.diag(K), diagonal)
    for bad in (dict(center=False), dict(bias_var=0.1)):
        with pytest.raises(ValueError, match="method='high_dim' is a theory of centred"):
            deq_kernel(X, method="high_dim", **bad)


GOOD = np.eye(3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.array([[np.nan, 1.0]]),), {}, "X contains NaN"),
        ((np.array([[np.inf, 1.0]]),), {}, "X contains infinity"),
        ((torch.tensor([[float("nan"), 1.0]]),), {}, "X must be finite"),
        ((torch.eye(2), torch.tensor([[1.0, float("inf")]])), {}, "Y must be finite"),
        ((GOOD, np.eye(2)), {}, "dimension|features"),
        ((torch.eye(3), torch.eye(2)), {}, "X has 3 features, but Y has 2"),
        ((torch.eye(3), GOOD), {}, "Y must be a tensor"),
        ((GOOD, torch.tensor([[1.0, 2.0, np.nan]])), {}, "NaN"),
        ((np.ones(3),), {}, "2D array"),
        ((torch.ones(3),), {}, "shape"),
        ((GOOD,), {"activation": "rely"}, "activation='rely' is unknown; use one of"),
        ((GOOD,), {"kernel": "nngp"}, "kernel='nngp' is unknown; use one of"),
        ((GOOD,), {"method": "fast"}, "method='fast' is unknown; use"),
        ((GOOD,), {"dtype": "float16"}, "dtype='float16' is not supported"),
        ((GOOD,), {"device": "abacus"}, "device='abacus' is not a torch device"),
        ((GOOD,), {"recurrent_var": -0.1}, "recurrent_var must be finite and >= 0"),
        ((GOOD,), {"recurrent_var": 1.0}, "recurrent_var=1 leaves no input variance"),
        ((GOOD,), {"input_var": 0.0}, "input_var must be finite and > 0"),
        ((GOOD,), {"bias_var": np.inf}, "bias_var must be finite"),
        ((GOOD,), {"tau0": -1.0}, "tau0 must be finite and > 0"),
        ((GOOD,), {"device": "meta"}, "device='meta' is not supported"),
        ((torch.ones(0, 2),), {}, "X has no rows"),
        ((torch.ones(2, 0),), {}, "with a column"),
        ((torch.eye(2, requires_grad=True),), {}, r"X requires a gradient.*X.detach"),
        ((GOOD,), {"activation": torch.sign}, "activation='sign' is discontinuous"),
    ],
)
def test_errors_name_the_parameter(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        deq_kernel(*arguments, **options)


def test_more_errors():
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        deq_kernel(csr_array(GOOD), GOOD)
    with pytest.raises(TypeError, match="recurrent_var must be a real number"):
        deq_kernel(GOOD, recurrent_var="0.2")
    with pytest.raises(TypeError, match="activation must be"):
        deq_kernel(GOOD, activation=None)
    with pytest.raises(ValueError, match="kernel='ntk_full' is unknown"):
        explicit_kernel(GOOD, layers=["relu"], kernel="ntk_full")
    with pytest.raises(ValueError, match="layers must hold"):
        explicit_kernel(GOOD, layers=[])
    with pytest.raises(MemoryError, match="GiB"):
        deq_kernel(np.broadcast_to(np.ones(1), (10**7, 1)), dtype="float64")


@pytest.mark.parametrize("name", ["relu", "abs", "gelu"])
def test_largest_admissible_recurrent_var_is_named(name):
    spec = dict(activation=name, input_var=1.0, tau0=1.0)
    with pytest.raises(ValueError, match=r"recurrent_var=9 .* use recurrent_var <") as error:
        deq_kernel(GOOD, recurrent_var=9.0, **spec)
    border = float(str(error.value).split("recurrent_var < ")[1].rstrip("."))
    assert np.isfinite(deq_kernel(GOOD, recurrent_var=0.99 * border, **spec)).all()


def test_a_row_without_a_fixed_point_is_named():
    """sin is stable at the typical norm, not at 0, where its slope is 1."""
    X = np.array([[3.0, 0.0], [0.0, 1e-3]])
    with pytest.raises(ValueError, match=r"for a row of norm 0\.001; use recurrent_var < "):
        deq_kernel(X, activation="sin", recurrent_var=1.2, input_var=1.0, tau0=3.0)


def test_nothing_global_changes(unchanged_globals):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deq_kernel(GOOD, activation="silu", recurrent_var=0.31)
        deq_kernel(GOOD, activation="elu", kernel="ntk", recurrent_var=0.31)
        explicit_kernel(GOOD, layers=["relu", "gelu"], kernel="ntk")
    with pytest.raises(ValueError):
        deq_kernel(GOOD, recurrent_var=9.0, input_var=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "high_dim"])
@pytest.mark.parametrize("kernel", ["ck", "ntk"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "elu"])
def test_a_kernel_is_a_function_of_two_rows(activation, kernel, method):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(6, 4)) / 2, rng.normal(size=(5, 4)) / 4
    Y[3] = X[2]  # a row that both have
    spec = {"activation": activation, "kernel": kernel, "recurrent_var": 0.3, "method": method}
    K = deq_kernel(X, Y, **spec)
    np.testing.assert_allclose(K, deq_kernel(Y, X, **spec).T, rtol=1e-12, atol=1e-15)
    whole = deq_kernel(np.vstack([X, Y]), **spec)
    np.testing.assert_allclose(K, whole[:6, 6:], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(K[2, 3], whole[2, 2], rtol=1e-10)  # tables are right to 1e-11
    np.testing.assert_allclose(deq_kernel(X[:1], Y, **spec), K[:1], rtol=1e-9, atol=1e-12)


def test_an_explicit_kernel_is_a_function_of_two_rows():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(6, 4)) / 2, rng.normal(size=(5, 4)) / 4
    K = explicit_kernel(X, Y, layers=["relu", "tanh"])
    np.testing.assert_allclose(K, explicit_kernel(Y, X, layers=["relu", "tanh"]).T, rtol=1e-10)


def test_tau0_may_be_taken_from_the_rows():
    X = np.random.default_rng(0).normal(size=(6, 4))
    tau0 = np.sqrt((X**2).sum(1).mean())
    spec = {"activation": "gelu", "recurrent_var": 0.3}
    expected = deq_kernel(X, tau0=tau0, **spec)
    np.testing.assert_array_equal(deq_kernel(X, tau0=None, **spec), expected)
    assert np.abs(deq_kernel(X, **spec) - expected).max() > 1e-3
    layers = ["relu", "gelu"]
    np.testing.assert_array_equal(
        explicit_kernel(X, layers=layers, tau0=None), explicit_kernel(X, layers=layers, tau0=tau0)
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", [2e153, 2e155, 2e300])  # of the last ones the square is infinite
def test_only_the_row_that_is_too_large_is_named(size):
    for rows in ([[1.0, 0.0], [size, 0.0]], [[size, 0.0], [1e-3, 0.0]]):
        named = re.escape(f"row of norm {size:.3g} is too large")
        with pytest.raises(ValueError, match=named) as error:
            deq_kernel(rows, activation="tanh")
        assert "norm 1" not in str(error.value)
    spec = {"activation": "tanh", "recurrent_var": 1.15, "input_var": 1.0, "center": False}
    with pytest.raises(ValueError, match=r"no stable fixed point .* row of norm 0;"):
        deq_kernel([[1.0, 0.0], [0.0, 0.0]], **spec)  # that of norm 1 has one
    assert np.isfinite(deq_kernel([[1.0, 0.0]], **spec)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTRY)
def test_correlations_near_the_limit_are_those_of_bisection(name):
    phi = REGISTRY[name]
    one = torch.ones(1, dtype=torch.float64)
    limit = 100.0
    if name != "sigmoid":  # which is so flat that it has one at any variance
        with pytest.raises(ValueError, match="no stable fixed point") as error:
            deq_spec(name, limit, 1.0, 0.1, False)
        limit = float(re.search(r"recurrent_var < ([\d.]*\d)", str(error.value))[1])
    spec = deq_spec(name, 0.999 * limit, 1.0, 0.1, False)
    s = spec.deviation(one)
    dual = dual_function(phi, s, s)
    r = torch.tensor([-1.0, -0.5, 0.0, 0.7, 0.99, 0.9999], dtype=torch.float64)[None, None]
    base = spec.input_var * r + spec.bias_var
    scale = (s * s)[:, None, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rho, _, _ = solve_correlation(dual, 0.0, spec.recurrent_var, base, scale)
    below, above = -torch.ones_like(rho), torch.ones_like(rho)
    for _ in range(60):
        middle = (below + above) / 2
        more = spec.recurrent_var * dual(middle)[0] + base > scale * middle
        below, above = torch.where(more, middle, below), torch.where(more, above, middle)
    # an error of rounding in the equation moves its solution by 1 / (1 - recurrent_var D) as much
    torch.testing.assert_close(rho, (below + above) / 2, rtol=0, atol=1e-11)


def test_a_fixed_point_that_is_not_found_is_told():
    def dual(rho):  # its slope is not the one that it says
        return -3 * rho, torch.zeros_like(rho)

    base = torch.full((1, 1, 1), 0.3 + 0.1j, dtype=torch.complex128)
    with pytest.warns(ConvergenceWarning, match="did not converge: its last step"):
        solve_correlation(dual, 0.0, 0.5, base, torch.ones(1, 1, 1, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "center"), [("gelu", False), ("tanh", True), ("elu", False)])
def test_tables_that_do_not_depend_on_tau0_are_made_once(name, center, monkeypatch):
    made = []
    tabulate = engine.tabulate
    monkeypatch.setattr(engine, "tabulate", lambda *a: made.append(1) or tabulate(*a))
    X = rows_with_norms(np.random.default_rng(0), np.full(40, 1.0))  # of few no table is made
    spec = {"activation": name, "recurrent_var": 0.123, "center": center}
    first = deq_kernel(X, tau0=0.9, **spec)
    np.testing.assert_array_equal(deq_kernel(X, tau0=1.1, **spec), first)
    assert len(made) == 1
    deq_kernel(X, tau0=1.1, **{**spec, "recurrent_var": 0.124})
    assert len(made) == 2


def test_a_callable_that_cannot_be_hashed_is_refused():
    class Unhashable:
        __hash__ = None

        def __call__(self, t):
            return torch.tanh(t)

    with pytest.raises(TypeError, match=r"activation='Unhashable' cannot be hashed"):
        deq_kernel(GOOD, activation=Unhashable())
    with pytest.raises(TypeError, match=r"activation='Unhashable' cannot be hashed"):
        DEQKernelRidge(activation=Unhashable()).fit(GOOD, [0.0, 1.0, 2.0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "recurrent_var"), [("tanh", 3.4), ("hard_tanh", 2.05), ("elu", 1.72), ("gelu", 1.97)]
)
def test_rows_with_a_fixed_point_need_none_at_other_norms(name, recurrent_var):
    """Tables are for whole octaves of norms, and in parts of these the DEQ is not stable."""
    X = rows_with_norms(np.random.default_rng(0), [1.0, 1.07, 1.15])
    K = deq_kernel(X, activation=name, recurrent_var=recurrent_var, input_var=1.0)
    pair = DEQPairKernel(deq_spec(name, recurrent_var, 1.0))
    norms = torch.from_numpy(np.linalg.norm(X, axis=1))
    with pytest.raises(ValueError, match="no stable fixed point"):
        pair.rows(torch.linspace(0.5, 2, 31, dtype=torch.float64))
    rows, cosine = pair.rows(norms), X @ X.T / np.outer(norms, norms)
    exact = pair.pairs(rows, rows, torch.from_numpy(cosine).clamp(-1, 1)[:, :, None])[:, :, 0]
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(K[off], exact.numpy()[off], rtol=1e-8)
    np.testing.assert_allclose(np.diag(K), pair.diagonal(rows), rtol=1e-8)


@pytest.mark.parametrize(("name", "limit"), [("relu", 2.0), ("identity", 1.0), ("abs", 1.0)])
def test_homogeneous_activations_are_stable_up_to_their_limit(name, limit):
    """q = s_a E phi(sqrt(q) xi)^2 + 1 is linear, with the solution 1 / (1 - s_a / limit)."""
    for share in (0.9, 0.999):
        s_a = share * limit
        spec = {"recurrent_var": s_a, "input_var": 1.0, "center": False}
        K = deq_kernel(np.array([[1.0]]), activation=name, **spec)
        np.testing.assert_allclose(K, 1 / limit / (1 - share), rtol=1e-9)
    with pytest.raises(ValueError, match="no stable fixed point") as error:
        deq_kernel(GOOD, activation=name, **{**spec, "recurrent_var": 1.01 * limit})
    border = float(str(error.value).split("recurrent_var < ")[1].rstrip("."))
    assert border == pytest.approx(limit, rel=1e-5)


@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_an_explicit_kernel_names_what_is_too_large(kernel):
    for layers in (["relu"], ["tanh", "gelu"]):
        with pytest.raises(ValueError, match=r"row of norm 2e\+160 is too large"):
            explicit_kernel([[1.0, 0.0], [2e160, 0.0]], layers=layers, kernel=kernel)
        with pytest.raises(ValueError, match=r"tau0 = 1e\+160 is too large"):
            explicit_kernel(GOOD, layers=layers, kernel=kernel, tau0=1e160)
    with pytest.raises(ValueError, match=r"tau0 = 1e\+160 is too large"):
        deq_kernel(GOOD, tau0=1e160)
    with pytest.raises(ValueError, match=r"row of norm 1e\+150 is too large"):
        deq_kernel([[1.0, 0.0], [1e150, 0.0]], input_var=1e10)


def test_explicit_kernels_of_rows_of_norm_0_and_others():
    K = explicit_kernel([[1.0], [0.0], [1e-12]], layers=["tanh", "sigmoid"], kernel="ntk")
    norms = np.sqrt(K.diagonal())
    assert (np.abs(K) <= np.outer(norms, norms) * (1 + 1e-12)).all()
    slope = 1 / 4  # of the sigmoid at 0; of tanh it is 1
    np.testing.assert_allclose(K[2, 2], 2 * slope**2 * 1e-24, rtol=1e-6)
