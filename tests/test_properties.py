"""Properties, looked for by hypothesis: of kernels, of solvers against each other, of estimators.

    HYPOTHESIS_PROFILE=long python -m pytest tests/test_properties.py

tries 150 times as many examples as a run of all tests does.
"""

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tiny import CLASSIFIERS, NETWORKS, REGRESSORS, tiny

from sk_deq import DEQKernelRidge, KernelMatcher
from sk_deq._solve.cg import Tiles, solve_cg
from sk_deq._solve.exact import solve_cholesky, solve_eigh
from sk_deq._solve.nystroem import Features
from sk_deq._theory.activations import ACTIVATIONS
from sk_deq._theory.spec import KERNELS
from sk_deq.kernels import deq_kernel, explicit_kernel

COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("short", max_examples=8, derandomize=True, database=None, **COMMON)
settings.register_profile("long", max_examples=1200, print_blob=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


def few(share=0.5):
    """Settings with a share of the profile's examples, for what takes longer."""
    return settings(max_examples=max(3, int(share * settings().max_examples)))


def mish(t):
    return torch.nn.functional.mish(t)


def bend(t):
    return torch.where(t > 0, 0.9 * t, 0.3 * torch.tanh(t))


PHIS = st.sampled_from([*ACTIVATIONS, mish, bend])
SEEDS = st.integers(0, 2**31)


@st.composite
def rows(draw, low=-6.0, high=6.0, max_rows=8):
    """Rows of norms 10^low to 10^high; some are 0, repeated, or multiples of others."""
    n, p = draw(st.integers(2, max_rows)), draw(st.integers(1, 5))
    X = np.random.default_rng(draw(SEEDS)).normal(size=(n, p))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    exponents = st.floats(low, high).map(lambda e: 10.0**e)
    X *= np.array(draw(st.lists(exponents, min_size=n, max_size=n)))[:, None]
    kind = draw(st.sampled_from(["plain", "zero", "repeated", "opposite"]))
    if kind != "plain":
        X[-1] = {"zero": 0, "repeated": 1, "opposite": -1}[kind] * X[0]
    return X


@st.composite
def deqs(draw, activations=PHIS):
    """Arguments of a DEQ that is stable for all rows, whatever the activation."""
    return {
        "activation": draw(activations),
        "kernel": draw(st.sampled_from(KERNELS)),
        "recurrent_var": draw(st.floats(0, 0.74)),  # times the largest squared slope: below 1
        "input_var": draw(st.floats(0.05, 4.0)),
        "bias_var": draw(st.sampled_from([0.0, 0.3])),
        "center": draw(st.booleans()),
    }


def correlations(K, scale):
    """K over the size of its rows."""
    return K / scale[:, None] / scale


def size_of(K):
    d = np.sqrt(np.diag(K))
    return np.where(d > 0, d, 1)


@pytest.mark.slow
@given(rows(), deqs(), SEEDS)
def test_kernel_matrices(X, spec, seed):
    """Symmetric, positive semidefinite, blind to order, rotation and other rows."""
    K = deq_kernel(X, **spec)
    d = size_of(K)
    C = correlations(K, d)
    assert np.array_equal(K, K.T) and np.isfinite(K).all()
    assert np.linalg.eigvalsh(C)[0] > -1e-9
    assert np.abs(C).max() < 1 + 1e-9
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(X))
    again = correlations(deq_kernel(X[order], **spec), d[order])
    np.testing.assert_allclose(again, C[np.ix_(order, order)], rtol=0, atol=1e-12)
    block = deq_kernel(X[:1], X[1:], **spec) / d[0] / d[1:]
    np.testing.assert_allclose(block[0], C[0, 1:], rtol=0, atol=1e-9)
    turned = deq_kernel(X[1:], X[:1], **spec)[:, 0] / d[0] / d[1:]
    np.testing.assert_allclose(turned, block[0], rtol=0, atol=1e-13)
    Q = np.linalg.qr(rng.normal(size=(X.shape[1],) * 2))[0]
    turned = correlations(deq_kernel(X @ Q, **spec), d)
    # rounding of cosines moves an angle by 1e-8, and with it an NTK of parallel rows
    np.testing.assert_allclose(turned, C, rtol=0, atol=1e-6)


@given(rows(-150, 150), deqs())
def test_norms_of_any_size(X, spec):
    K = deq_kernel(X, **spec)
    assert np.array_equal(K, K.T) and np.isfinite(K).all() and (np.diag(K) >= 0).all()
    C = correlations(K, size_of(K))
    assert np.abs(C).max() < 1 + 1e-9
    assert np.linalg.eigvalsh(C)[0] > -1e-9


@pytest.mark.slow
@given(rows(-3, 3), deqs())
def test_float32_is_float64_rounded(X, spec):
    X = X.astype(np.float32)
    K = deq_kernel(X.astype(float), **spec)
    found = deq_kernel(X, **spec)
    assert found.dtype == np.float32
    d = size_of(K)
    np.testing.assert_allclose(correlations(found, d), correlations(K, d), rtol=0, atol=1e-6)


@few()
@given(rows(-2, 2), deqs(st.sampled_from(["relu", "abs", "leaky_relu", "identity"])))
def test_homogeneous_kernels_scale(X, spec):
    """k(a x, a y) = a^2 k(x, y) where phi(a t) = a phi(t), without centring or bias."""
    spec |= {"center": False, "bias_var": 0.0}
    K = deq_kernel(X, **spec)
    d = size_of(K)
    again = deq_kernel(1024 * X, **spec) / 1024**2
    np.testing.assert_allclose(correlations(again, d), correlations(K, d), rtol=0, atol=1e-12)


@few()
@given(
    rows(-3, 3),
    st.lists(PHIS, min_size=1, max_size=3),
    st.sampled_from(["ck", "ntk"]),
    st.booleans(),
)
def test_explicit_kernel_matrices(X, layers, kernel, first):
    options = {"layers": layers, "kernel": kernel, "train_first_layer": first and kernel == "ntk"}
    K = explicit_kernel(X, **options)
    C = correlations(K, size_of(K))
    assert np.array_equal(K, K.T)
    assert np.linalg.eigvalsh(C)[0] > -1e-9
    block = explicit_kernel(X[:1], X[1:], **options)[0] / size_of(K)[0] / size_of(K)[1:]
    np.testing.assert_allclose(block, C[0, 1:], rtol=0, atol=1e-9)


@st.composite
def problems(draw):
    """A kernel matrix of rows, some of them repeated, with targets, weights and a penalty."""
    n, repeated = draw(st.integers(4, 20)), draw(st.booleans())
    rng = np.random.default_rng(draw(SEEDS))
    X = torch.from_numpy(rng.normal(size=(n, 3)))
    if repeated:
        X[-1] = X[0]
    y = torch.from_numpy(rng.normal(size=(n, draw(st.integers(1, 3)))))
    w = torch.from_numpy(rng.uniform(0.2, 3.0, n) if draw(st.booleans()) else np.ones(n))
    alpha = 10.0 ** draw(st.sampled_from([-10, -6, -3, 0, 3]))
    # exp(-|x - x'|) is positive definite, and rough: solutions are well determined
    return X, lambda A, B=None: torch.exp(-torch.cdist(A, A if B is None else B)), y, w, alpha


@given(problems())
def test_solvers_agree(problem):
    X, kernel, y, w, alpha = problem
    K = kernel(X)
    eigh = solve_eigh(K.clone(), y, w, [alpha])
    cholesky = solve_cholesky(K.clone(), y, w, alpha)
    features = Features(kernel, X.unique(dim=0))
    cg = solve_cg(Tiles(kernel, X, kept=True), features, y, w, [alpha], 1e-13, 500)
    fitted = [K @ s.dual_coef + s.intercept for s in (eigh, cholesky, cg)]
    # rounding by this condition; all of it is felt where equal rows have unequal targets
    condition = float(w.max() * torch.linalg.eigvalsh(K)[-1]) / alpha
    atol = 1e-11 + 20 * torch.finfo(K.dtype).eps * condition * float(y.abs().max())
    for other in fitted[1:]:
        np.testing.assert_allclose(other, fitted[0], rtol=0, atol=atol)


@given(problems())
def test_leave_one_out_is_brute_force(problem):
    """Every row predicted by the model fitted without it, weights and outputs and all."""
    X, kernel, y, w, alpha = problem
    K, n = kernel(X), len(X)
    assume(alpha >= 1e-6)  # below, two equal rows predict each other to rounding only
    eigh = solve_eigh(K.clone(), y, w, [alpha]).predictions
    cholesky = solve_cholesky(K.clone(), y, w, alpha, n).predictions
    for i in range(n):
        others = torch.arange(n) != i
        A = K[others][:, others] + alpha * torch.diag(1 / w[others])
        ones = torch.ones(n - 1, 1, dtype=y.dtype)
        bordered = torch.cat([torch.cat([A, ones], 1), torch.cat([ones.T, torch.zeros(1, 1)], 1)])
        solved = torch.linalg.solve(bordered, torch.cat([y[others], torch.zeros(1, y.shape[1])]))
        expected = K[i, others] @ solved[:-1] + solved[-1]
        for found in (eigh, cholesky):
            np.testing.assert_allclose(found[i], expected, rtol=0, atol=1e-5)


@few()
@given(SEEDS, st.sampled_from([1e-10, 1e-4, 1.0]), st.booleans())
def test_solvers_of_the_estimator_agree(seed, alpha, repeated):
    """Nystroem on all rows too, which adds 8 eps of the trace to their kernel matrix."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(14, 2))
    if repeated:
        X = np.concatenate([X, X[:3]])
    y = rng.normal(size=len(X))
    options = {"hyperparameters": None, "kernel": "ntk", "recurrent_var": 1.5, "input_var": 1.0}
    found = [
        DEQKernelRidge(alpha, solver=solver, tol=1e-12, random_state=0, **options).fit(X, y)
        for solver in ("eigh", "cholesky", "cg", "nystroem")
    ]
    grid = rng.normal(size=(9, 2))
    for model in found[1:]:
        atol = 1e-3 if model.solver == "nystroem" and alpha < 1e-8 else 1e-6
        np.testing.assert_allclose(model.predict(grid), found[0].predict(grid), rtol=0, atol=atol)


LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "reversed": lambda X: np.ascontiguousarray(X[::-1])[::-1],
    "strided": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "float32": lambda X: X.astype(np.float32),
    "list": lambda X: X.tolist(),
}


@st.composite
def tables(draw):
    """Rows and targets: any shape, with constant columns, repeated rows, and extreme scales."""
    n, p = draw(st.sampled_from([(1, 3), (2, 1), (7, 1), (9, 40), (20, 3), (15, 2)]))
    rng = np.random.default_rng(draw(SEEDS))
    X = rng.normal(size=(n, p)).astype(np.float32).astype(float)
    kind = draw(st.sampled_from(["plain", "constant column", "repeated rows", "one value"]))
    if kind == "constant column":
        X[:, 0] = 3
    elif kind == "repeated rows":
        X[n // 2 :] = X[: n - n // 2]
    elif kind == "one value":
        X[:] = 1
    X *= draw(st.sampled_from([1.0, 2.0**-60, 2.0**60]))
    return X, draw(st.sampled_from(list(LAYOUTS)))


SMALL = {"max_epochs": 2, "width": 4, "hyperparameters": None}


def check_table(model, X, layout, y):
    """Predictions are finite, one for each row, and the same however the rows lie in memory."""
    model.fit(X, y)
    predicted = model.predict(X)
    assert predicted.shape == np.shape(y)
    if predicted.dtype.kind == "f":
        assert np.isfinite(predicted).all()
    again = model.fit(LAYOUTS[layout](X), y).predict(LAYOUTS[layout](X))
    # Adam makes steps of one length of whatever gradient, and so of float32's rounding
    if predicted.dtype.kind == "f" and not (layout == "float32" and hasattr(model, "module_")):
        scale = np.abs(predicted).max()
        np.testing.assert_allclose(again, predicted, rtol=0, atol=1e-3 * scale + 1e-12)


@few()
@given(st.sampled_from(REGRESSORS), tables(), st.sampled_from([1, 2]), SEEDS)
def test_regressors(name, table, n_outputs, seed):
    X, layout = table
    y = np.random.default_rng(seed).normal(size=(len(X), n_outputs))
    check_table(tiny(name, **SMALL), X, layout, y[:, 0] if n_outputs == 1 else y)


@pytest.mark.slow
@few()
@given(st.sampled_from(CLASSIFIERS), tables(), st.sampled_from([1, 2, 5]), SEEDS)
def test_classifiers(name, table, n_classes, seed):
    X, layout = table
    y = np.random.default_rng(seed).integers(n_classes, size=len(X))
    model = tiny(name, **SMALL)
    check_table(model, X, layout, y)
    proba = model.predict_proba(X)
    assert proba.shape == (len(X), len(np.unique(y)))
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_thousand_classes(name):
    X = np.random.default_rng(0).normal(size=(2000, 2))
    model = tiny(name, **SMALL, alpha=1.0).fit(X, np.arange(2000) % 1000)
    assert model.predict_proba(X[:3]).shape == (3, 1000)


@pytest.mark.slow
@few(0.25)
@given(tables())
def test_features(table):
    X, layout = table
    matcher = KernelMatcher(6, random_state=0).fit(X)
    Z = matcher.transform(X)
    assert Z.shape == (len(X), 6) and np.isfinite(Z).all()
    again = matcher.transform(LAYOUTS[layout](X))
    np.testing.assert_allclose(again, Z, rtol=0, atol=1e-5 * np.abs(Z).max() + 1e-30)


@few(0.25)
@given(st.sampled_from(sorted({*NETWORKS, *CLASSIFIERS, *REGRESSORS})), SEEDS)
def test_a_row_of_nan_is_reported_and_no_other_row_suffers(name, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(12, 3))
    y = np.arange(12) % 2
    model = tiny(name, **SMALL).fit(X, y)
    before = model.predict(X)
    bad = X.copy()
    bad[4, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.predict(bad)
    np.testing.assert_array_equal(model.predict(X), before)
