"""Formulas that the other tests do not tell from nearby ones, against slow or exact truths."""

import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import LinAlgWarning
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.base import clone

from sk_deq import DEQKernelRidge, DEQKernelRidgeClassifier
from sk_deq._nets.fixed_point import solve
from sk_deq._row_keys import row_keys
from sk_deq._scaling import InputScaler
from sk_deq._search.candidates import DEQ_PARAMETERS
from sk_deq._search.criterion import FACTORS
from sk_deq._solve.exact import solve_eigh
from sk_deq._solve.nystroem import Sums, first_held_out, is_held_out
from sk_deq._torch import make_generator


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_anderson_mixes_parallel_changes(dtype):
    """In one dimension all changes are parallel, and the normal equations singular."""
    rate = torch.linspace(-0.9, 0.99, 12, dtype=dtype)[:, None]
    solved = solve(
        lambda z, rate: torch.tanh(rate * z) + 1, (rate,), 0 * rate, method="anderson", tol=1e-5
    )
    assert solved.converged.all() and solved.n_iter.max() <= 12
    residual = torch.tanh(rate * solved.value) + 1 - solved.value
    assert residual.abs().max() < 1e-4


def _left_out(model, X, y):
    """Predictions or decision values for every row by models fitted without it."""
    rest = ~np.eye(len(X), dtype=bool)
    output = "decision_function" if hasattr(model, "decision_function") else "predict"
    return np.array([getattr(clone(model).fit(X[r], y[r]), output)(X[~r])[0] for r in rest])


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [DEQKernelRidge, DEQKernelRidgeClassifier])
def test_search_results_are_errors_of_models_refitted_without_each_row(estimator):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(18, 3))
    y = X[:, 0] ** 2 + X[:, 1]
    y = (y > np.median(y) + 0.3) if estimator is DEQKernelRidgeClassifier else 5 * y
    options = {"input_scaling": None, "feature_weights": None}
    results = estimator(0.3, **options).fit(X, y).search_results_
    for i in range(len(results["rank"])):
        given = {name: results[name][i] for name in DEQ_PARAMETERS}
        left_out = _left_out(estimator(0.3, feature_weights=None, **given), X, y)
        if estimator is DEQKernelRidge:
            expected = np.mean((left_out - y) ** 2) / y.var()
            assert np.isnan(results["log_loss"][i])
        else:
            sign = np.where(y, 1, -1)
            expected = np.mean((left_out - sign) ** 2)
            losses = [np.logaddexp(0, -2 * factor * sign * left_out).mean() for factor in FACTORS]
            assert results["log_loss"][i] == pytest.approx(min(losses), rel=1e-6)
        assert results["squared_error"][i] == pytest.approx(expected, rel=1e-6)
    assert results["rank"][results["criterion"].argmin()] == 1


def _held_out(solver, X, seed):
    """Masks of the rows that are left out of one model each."""
    if solver in ("eigh", "cholesky"):
        return np.eye(len(X), dtype=bool)
    seed = np.random.RandomState(seed).randint(np.iinfo(np.int32).max)
    keys = row_keys(X, make_generator(seed))
    positive = torch.ones(len(X), dtype=torch.bool)
    return is_held_out(keys, positive, first_held_out(keys)).numpy()[None]


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["eigh", "cholesky", "cg", "nystroem"])
@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_what_is_found_out_of_sample_is_what_refitted_models_give(solver, n_classes):
    """Errors and, of a classifier, the factor that calibrates it, from scipy."""
    rng = np.random.default_rng(1)
    X, w = rng.normal(size=(60, 3)), rng.uniform(0.5, 3, 60)
    signal = X[:, 0] + 0.7 * rng.normal(size=60)
    y = np.digitize(signal, [0.0, 0.8][: n_classes - 1]) if n_classes else 20 * signal + 100
    options = {"activation": "relu", "kernel": "ck", "recurrent_var": 0.3, "center": True}
    options |= {"input_scaling": "sphere", "bias_var": 0.0}  # nothing else is measured on the rows
    estimator = DEQKernelRidgeClassifier if n_classes else DEQKernelRidge
    model = estimator([0.2], solver=solver, random_state=3, n_components=60, tol=1e-12, **options)
    model.fit(X, y, w)
    refit = estimator(0.2, solver="cholesky", **options)
    output = "decision_function" if n_classes else "predict"
    values, rows = [], []
    for out in _held_out(solver, X, 3):
        values.append(getattr(refit.fit(X[~out], y[~out], w[~out]), output)(X[out]))
        rows.append(np.flatnonzero(out))
    rows = np.concatenate(rows)
    values = np.concatenate(values).reshape(len(rows), -1)
    y, share = y[rows], w[rows] / w[rows].sum()
    if n_classes == 0:
        mean = w @ (20 * signal + 100) / w.sum()
        errors = (values[:, 0] - y) ** 2 / (w @ (20 * signal + 100 - mean) ** 2 / w.sum())
    else:
        signs = 2.0 * (y[:, None] == np.arange(n_classes)) - 1
        errors = ((values - signs[:, -values.shape[1] :]) ** 2).sum(1)
    assert model.validation_errors_ == pytest.approx([share @ errors], rel=1e-6)
    if n_classes == 0:
        return
    scores = values if n_classes == 3 else np.hstack([-values, values]) / 2
    counts = w[rows] @ (signs == 1)
    target = np.where(signs == 1, counts + 1, 1 / (n_classes - 1)) / (counts[y] + 2)[:, None]

    def loss(log_factor):
        return -share @ (target * log_softmax(np.exp(log_factor) * scores, axis=1)).sum(1)

    best = minimize_scalar(loss, bounds=(-4, 6), method="bounded", options={"xatol": 1e-10})
    assert model.temperature_ == pytest.approx(np.exp(best.x), rel=1e-5)


@pytest.mark.parametrize("solver", ["eigh", "cholesky", "cg", "nystroem"])
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_of_the_kernel_do_not_matter(solver, unit):
    """Nor is anything warned of, for rounding is relative."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3))
    y = np.sin(X[:, 0]) + 3
    X[1] = X[0]  # a repeated row
    options = {"activation": "relu", "kernel": "ck", "recurrent_var": 0.3, "center": False}
    options |= {"input_scaling": None, "bias_var": 0.0, "solver": solver, "random_state": 0}
    options |= {"n_components": 50, "tol": 1e-10}
    expected = DEQKernelRidge(0.1, **options).fit(X, y).predict(X)
    model = DEQKernelRidge(0.1 * unit**2, **options).fit(unit * X, y)
    np.testing.assert_allclose(model.predict(unit * X), expected, rtol=1e-6)


@pytest.mark.parametrize("unit", [2.0**-30, 1.0, 2.0**30])
def test_singular_normal_equations_are_solved_by_the_least_coefficients(unit):
    rng = np.random.default_rng(0)
    first, second = rng.integers(-9, 9, (2, 40)).astype(float)
    # so that the second pivot is 0 exactly, and the smallest eigenvalues are rounding
    phi = unit * torch.tensor(np.stack([first, first, second, second, first + second]))
    y, w = torch.tensor(rng.normal(size=(40, 2))), torch.ones(40, dtype=torch.float64)
    sums = Sums(5, 2, "cpu")
    sums.add(phi, y, w)
    with pytest.warns(LinAlgWarning, match="numerically singular"):
        beta, constant = sums.ridge(0.0)
    centred = (phi - phi.mean(1, keepdim=True)).numpy().T
    expected = np.linalg.lstsq(centred, y - y.mean(0), rcond=1e-10)[0]
    np.testing.assert_allclose(beta, expected, rtol=1e-8, atol=1e-10 / unit)
    np.testing.assert_allclose(constant, y.mean(0) - phi.mean(1) @ beta, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("solver", ["eigh", "cholesky", "auto"])
def test_rows_of_zero_without_penalty(solver):
    """Kernel and penalty are 0: what is left is the constant."""
    model = DEQKernelRidge(
        0.0, activation="relu", kernel="ck", recurrent_var=0.2, bias_var=0.0, center=False,
        solver=solver,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)
        model.fit(np.zeros((3, 2)), [1.0, 2.0, 6.0])
    assert model.predict([[0.0, 0.0]]) == pytest.approx([3.0])


@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e20])
def test_an_indefinite_matrix_is_told_in_any_units(unit):
    K = unit * torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)  # eigenvalues 3, -1
    one = torch.ones(2, 1, dtype=torch.float64)
    with pytest.warns(LinAlgWarning, match="indefinite"):
        solve_eigh(K, one, one[:, 0], [unit])


@pytest.mark.parametrize("size", [0.0, 1e-200, 1e200])
def test_tau0_of_rows_as_they_are(size):
    assert InputScaler(None).fit(size * np.eye(3)).tau0_ == pytest.approx(size, rel=1e-12, abs=0)
