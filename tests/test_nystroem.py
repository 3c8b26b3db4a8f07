"""Nystroem and conjugate gradients against dense solutions, and what they promise about rows."""

import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.utils.estimator_checks import parametrize_with_checks

from sk_deq import DEQKernelRidge, DEQKernelRidgeClassifier
from sk_deq._ridge import base, fit
from sk_deq._row_keys import row_keys
from sk_deq._solve import nystroem
from sk_deq._solve.nystroem import first_held_out, is_held_out, landmarks_of, predicted_of
from sk_deq._torch import devices_like, make_generator
from sk_deq.kernels import deq_kernel

# the paper's DEQ: all of it is given, so that nothing is searched
PAPER = {
    "kernel": "ck",
    "activation": "relu",
    "recurrent_var": 0.2,
    "bias_var": 0.0,
    "center": True,
    "input_scaling": "rms",
}


def ridge(alpha=1.0, **options):
    return DEQKernelRidge(alpha, **{**PAPER, **options})


def classifier(alpha=1.0, **options):
    return DEQKernelRidgeClassifier(alpha, **{**PAPER, **options})


def _data(n=240, seed=0, n_outputs=2):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    y = np.column_stack([np.sin(2 * X[:, 0]) + 5, X[:, 1] * X[:, 2]])[:, :n_outputs]
    return X, y + 0.1 * rng.normal(size=y.shape), rng.integers(0, 4, n).astype(float)


def _dense(X, landmarks, y, w, alpha, tau0):
    """Minimise over coefficients of k(., landmarks) and a constant: the penalised least squares."""

    def kernel(Z, Y=None):
        return deq_kernel(Z, Y, tau0=tau0)

    A = np.hstack([kernel(X, landmarks), np.ones((len(X), 1))])
    penalty = np.zeros((len(landmarks) + 1, len(landmarks) + 1))
    penalty[:-1, :-1] = alpha * kernel(landmarks)
    solution = np.linalg.solve(A.T @ (w[:, None] * A) + penalty, A.T @ (w[:, None] * y))
    return lambda Z: kernel(Z, landmarks) @ solution[:-1] + solution[-1]


@pytest.mark.parametrize("tile", [300, 2**22])
def test_it_is_the_least_squares_solution_on_the_landmarks(tile, monkeypatch):
    monkeypatch.setattr("sk_deq._solve.nystroem.tile_rows", lambda n_columns: tile // n_columns)
    X, y, w = _data()
    model = ridge(0.3, input_scaling=None, solver="nystroem", n_components=30)
    model.fit(X, y, w)
    assert model.solver_ == "nystroem" and model.X_fit_.shape == (30, 4)
    expected = _dense(X, model.X_fit_, y, w, 0.3, model.tau0_)
    np.testing.assert_allclose(model.predict(X), expected(X), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("alpha", [0.3, [0.1, 1.0]])
@pytest.mark.parametrize("n_devices", [2, 7])
def test_several_devices_share_the_pass_over_rows(alpha, n_devices, monkeypatch):
    monkeypatch.setattr("sk_deq._solve.nystroem.tile_rows", lambda n_columns: 50)
    X, y, w = _data()
    one = ridge(alpha, solver="nystroem", n_components=30, random_state=0).fit(X, y, w)
    passes = []
    accumulate = nystroem.accumulate
    monkeypatch.setattr(
        nystroem, "accumulate", lambda *a, **k: passes.append(len(a[2])) or accumulate(*a, **k)
    )
    monkeypatch.setattr(fit, "devices_like", lambda device: [torch.device(device)] * n_devices)
    several = clone(one).fit(X, y, w)
    assert len(passes) == n_devices and sum(passes) == len(X)
    assert several.alpha_ == one.alpha_
    np.testing.assert_allclose(several.predict(X), one.predict(X), rtol=1e-9, atol=1e-9)


def test_all_gpus_share_what_is_meant_for_cuda_and_one_that_is_named_is_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [str(device) for device in devices_like("cuda")] == ["cuda:0", "cuda:1", "cuda:2"]
    assert [str(device) for device in devices_like("cuda:1")] == ["cuda:1"]
    assert [str(device) for device in devices_like("cpu")] == ["cpu"]


@pytest.mark.parametrize("solver", ["nystroem", "cg"])
@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_with_all_rows_as_landmarks_it_is_the_exact_model(solver, kernel):
    X, y, w = _data()
    exact = ridge(0.1, kernel=kernel, solver="cholesky").fit(X, y, w)
    model = clone(exact).set_params(solver=solver).fit(X, y, w)
    assert model.solver_ == solver
    np.testing.assert_allclose(model.predict(X), exact.predict(X), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_conjugate_gradients_equal_cholesky(activation, monkeypatch):
    monkeypatch.setattr("sk_deq._solve.cg._TILE", 100)
    X, y, w = _data()
    exact = ridge(0.01, activation=activation, solver="cholesky").fit(X, y, w)
    model = clone(exact).set_params(solver="cg", n_components=20, tol=1e-10).fit(X, y, w)
    # predictions near 0 too, in units of the targets
    np.testing.assert_allclose(model.predict(X), exact.predict(X), rtol=0, atol=1e-7)
    np.testing.assert_allclose(model.dual_coef_, exact.dual_coef_, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_conjugate_gradients_compare_penalties_side_by_side(kept, monkeypatch):
    monkeypatch.setattr("sk_deq._solve.cg._TILE", 100)
    monkeypatch.setattr(fit, "total_memory", lambda device: 1e12 if kept else 1.0)
    X, y, w = _data()
    alphas = [1e-3, 0.1, 3.0, 100.0]
    options = {"solver": "cg", "n_components": 20, "random_state": 3, "input_scaling": None}
    monkeypatch.setattr("sk_deq._solve.cg._ROUGHLY", 1e-9)
    monkeypatch.setattr("sk_deq._solve.cg._STEPS", 500)
    model = ridge(alphas, tol=1e-9, **options).fit(X, y, w)
    seed = np.random.RandomState(3).randint(np.iinfo(np.int32).max)
    keys, positive = row_keys(X, make_generator(seed)), torch.from_numpy(w > 0)
    out = is_held_out(keys, positive, first_held_out(keys[positive])).numpy()
    errors = []
    variances = np.cov(y.T, aweights=w, ddof=0).diagonal()
    for alpha in alphas:
        rest = _dense(X, X[w > 0], y, np.where(out, 0, w), alpha, model.tau0_)
        errors.append(w[out] @ ((rest(X[out]) - y[out]) ** 2 / variances).sum(1) / w[out].sum())
    np.testing.assert_allclose(model.validation_errors_, errors, rtol=1e-5)
    assert model.alpha_ == alphas[int(np.argmin(errors))]
    one = ridge(model.alpha_, input_scaling=None, solver="cholesky").fit(X, y, w)
    np.testing.assert_allclose(model.predict(X), one.predict(X), rtol=1e-6)


def test_penalties_that_take_too_many_steps_are_left_out(monkeypatch):
    X, y, w = _data()
    options = {"solver": "cg", "n_components": 5, "random_state": 3}
    monkeypatch.setattr("sk_deq._solve.cg._STEPS", 3)
    with pytest.warns(ConvergenceWarning, match=r"left out alpha=\[1e-06, 1e-05\], .*n_components"):
        model = ridge([1e-6, 1e-5, 10.0], **options).fit(X, y, w)
    errors = model.validation_errors_
    assert np.isinf(errors[:2]).all() and np.isfinite(errors[2]) and model.alpha_ == 10.0
    monkeypatch.setattr("sk_deq._solve.cg._STEPS", 1)
    with pytest.warns(ConvergenceWarning):
        assert ridge([1e-5, 1e-6], **options).fit(X, y, w).alpha_ == 1e-5


def test_a_penalty_that_is_nearly_solved_for_is_compared(monkeypatch):
    X, y, w = _data()
    options = {"solver": "cg", "n_components": 20, "random_state": 3, "tol": 1e-8}
    monkeypatch.setattr("sk_deq._solve.cg._STEPS", 6)
    with pytest.warns(ConvergenceWarning, match=r"left out alpha=\[1e-06\], "):
        model = ridge([1e-6, 0.01, 0.1, 1.0], **options).fit(X, y, w)
    assert np.isinf(model.validation_errors_[0]) and model.alpha_ == 0.01  # residual 0.08
    one = ridge(0.01, solver="cholesky").fit(X, y, w)
    np.testing.assert_allclose(model.predict(X), one.predict(X), rtol=1e-5)
    monkeypatch.setattr("sk_deq._solve.cg._LEFT_OUT", 0.05)
    with pytest.warns(ConvergenceWarning, match=r"left out alpha=\[1e-06, 0\.01\], "):
        assert ridge([1e-6, 0.01, 0.1, 1.0], **options).fit(X, y, w).alpha_ == 0.1


def test_conjugate_gradients_with_nothing_to_choose_by_take_the_largest_penalty(monkeypatch):
    X, y, _ = _data(n_outputs=1)
    monkeypatch.setattr(nystroem, "_HELD_OUT", 1.0 - 1e-12)
    model = ridge([0.1, 1.0], solver="cg", tol=1e-9).fit(X, y)
    one = ridge(1.0, solver="cholesky").fit(X, y)
    np.testing.assert_allclose(model.predict(X), one.predict(X), rtol=1e-6)


def test_conjugate_gradients_warn_with_the_residual():
    X, y, _ = _data()
    model = ridge(1e-4, solver="cg", n_components=5, max_iter=2)
    with pytest.warns(ConvergenceWarning, match=r"max_iter=2 .* residual of .* Raise max_iter"):
        model.fit(X, y)


def test_alpha_is_chosen_by_the_error_on_held_out_rows():
    X, y, w = _data()
    alphas = [1e-3, 0.1, 3.0, 100.0]
    model = ridge(
        alphas, input_scaling=None, solver="nystroem", n_components=40, random_state=3
    ).fit(X, y, w)
    seed = np.random.RandomState(3).randint(np.iinfo(np.int32).max)
    keys, positive = row_keys(X, make_generator(seed)), torch.from_numpy(w > 0)
    landmarks = X[landmarks_of(keys, positive, 40).numpy()]
    out = is_held_out(keys, positive, first_held_out(keys[positive])).numpy()
    np.testing.assert_array_equal(model.X_fit_, landmarks)
    errors = []
    variances = np.cov(y.T, aweights=w, ddof=0).diagonal()  # errors are in units of these
    for alpha in alphas:
        rest = _dense(X, landmarks, y, np.where(out, 0, w), alpha, model.tau0_)
        errors.append(w[out] @ ((rest(X[out]) - y[out]) ** 2 / variances).sum(1) / w[out].sum())
    np.testing.assert_allclose(model.validation_errors_, errors, rtol=1e-7)
    assert model.alpha_ == alphas[int(np.argmin(errors))]
    expected = _dense(X, landmarks, y, w, model.alpha_, model.tau0_)
    np.testing.assert_allclose(model.predict(X), expected(X), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("solver", ["nystroem", "cg"])
def test_weights_are_repetitions_and_order_does_not_matter(solver):
    X, y, w = _data(n_outputs=1)
    y = y[:, 0]
    model = ridge(0.1, solver=solver, n_components=40, tol=1e-10, random_state=0)
    if solver == "nystroem":
        model.set_params(alpha=[0.01, 0.1, 1.0])
    reference = clone(model).fit(X, y, w)
    repeated = np.repeat(np.arange(len(X)), w.astype(int))
    shuffled = np.random.default_rng(1).permutation(repeated)
    positive = w > 0
    for rows, weights in [(repeated, None), (shuffled, None), (positive, w[positive])]:
        other = clone(model).fit(X[rows], y[rows], weights)
        np.testing.assert_allclose(other.predict(X), reference.predict(X), rtol=1e-7)
        np.testing.assert_array_equal(np.sort(other.X_fit_, 0), np.sort(reference.X_fit_, 0))
        if solver == "nystroem":
            np.testing.assert_allclose(
                other.validation_errors_, reference.validation_errors_, rtol=1e-7
            )


def test_held_out_rows_are_a_tenth_of_the_distinct_rows(monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 2))[rng.integers(0, 500, 3000)]
    keys = row_keys(X, torch.Generator().manual_seed(0))
    positive = torch.from_numpy(rng.random(3000) < 0.8)
    landmarks = landmarks_of(keys, positive, 50)
    held_out = is_held_out(keys, positive, first_held_out(keys[positive]))
    n_distinct = len(np.unique(X[positive.numpy()], axis=0))
    assert len(np.unique(X[landmarks.numpy()], axis=0)) == 50 and positive[landmarks].all()
    n_out = len(np.unique(X[held_out.numpy()], axis=0))
    assert abs(n_out - n_distinct / 10) < 3 * (0.09 * n_distinct) ** 0.5
    assert not (held_out & ~positive).any()
    apart = set(keys[positive & held_out].tolist()) & set(keys[positive & ~held_out].tolist())
    assert not apart
    assert 0 < len(set(keys[landmarks].tolist()) & set(keys[held_out].tolist())) < 15
    monkeypatch.setattr(nystroem, "MOST_PREDICTED", 20)
    predicted = predicted_of(keys, held_out)
    chosen = torch.isin(keys, keys[predicted]) & positive
    assert torch.equal(torch.nonzero(chosen)[:, 0], predicted) and held_out[predicted].all()
    assert len(keys[predicted].unique()) == 20


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_of_few_rows_some_are_held_out(n):
    for seed in range(100):
        keys = torch.randint(-(2**62), 2**62, (n,), generator=make_generator(seed)) * 2 + 1
        assert is_held_out(keys, torch.ones(n, dtype=torch.bool), first_held_out(keys)).any()


def test_where_all_rows_are_held_out_all_are_fitted(monkeypatch):
    X, y, _ = _data(n_outputs=1)
    monkeypatch.setattr(nystroem, "_HELD_OUT", 1.0 - 1e-12)
    model = ridge([0.1, 1.0], solver="nystroem", n_components=40, random_state=0).fit(X, y)
    one = ridge(1.0, solver="nystroem", n_components=40, random_state=0).fit(X, y)
    np.testing.assert_allclose(model.predict(X), one.predict(X), rtol=1e-9)


@pytest.mark.slow
def test_a_memory_mapped_array_is_not_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("sk_deq._solve.nystroem._TILE", 2**18)
    monkeypatch.setattr(base, "_BATCH", 2**18)
    rng = np.random.default_rng(0)
    np.save(tmp_path / "X.npy", rng.normal(size=(100_000, 30)))
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    y = X[:, 0] ** 2
    model = ridge([0.1, 1.0], solver="nystroem", n_components=20, random_state=0)
    tracemalloc.start()
    model.fit(X, y)
    predictions = model.predict(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.nbytes / 2
    inside = clone(model).fit(np.array(X), y)
    np.testing.assert_allclose(predictions, inside.predict(X), rtol=1e-9)


@pytest.mark.parametrize("solver", ["nystroem", "cg"])
def test_float32_is_close_to_float64(solver):
    X, y, _ = _data()
    model = ridge(0.1, solver=solver, n_components=50, tol=1e-5, random_state=0)
    single = clone(model).set_params(dtype="float32").fit(X, y).predict(X)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, model.fit(X, y).predict(X), rtol=0, atol=5e-3)


def test_auto_takes_cg_or_nystroem_where_direct_solvers_are_too_slow_or_too_large(monkeypatch):
    X, y, _ = _data(60)
    monkeypatch.setattr(fit, "_MOST_ROWS", {"eigh": 50, "cholesky": 70, "cg": 65})
    assert ridge(0.1).fit(X, y).solver_ == "cholesky"
    assert ridge([0.1, 1.0]).fit(X, y).solver_ == "cg"
    monkeypatch.setattr(fit, "_MOST_ROWS", {"eigh": 50, "cholesky": 70, "cg": 40})
    assert ridge([0.1, 1.0]).fit(X, y).solver_ == "nystroem"
    model = ridge([0.1, 1.0], method="high_dim")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an indefinite matrix
        assert model.fit(X, y).solver_ == "eigh"
    monkeypatch.setattr(fit, "total_memory", lambda device: 100_000)
    assert ridge(0.1).fit(X, y).solver_ == "nystroem"


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["nystroem", "cg"])
def test_classifier_is_calibrated(solver):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 2))
    y = np.where(rng.random(3000) < 1 / (1 + np.exp(-2 * X[:, 0])), "yes", "no")
    models = [
        classifier(0.3, bias_var=0.5, solver=s, n_components=100, random_state=0)
        for s in ("cholesky", solver)
    ]
    exact, other = (
        log_loss(y[1500:], model.fit(X[:1500], y[:1500]).predict_proba(X[1500:]))
        for model in models
    )
    assert other < 1.03 * exact  # a tenth of the rows calibrates, instead of all
    three = np.digitize(X[:500, 0], [-0.5, 0.5])
    model = clone(models[1]).set_params(class_weight="balanced").fit(X[:500], three)
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
    assert model.score(X[:500], three) > 0.9


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"solver": "cholesky", "alpha": [0.1, 1.0]},
            "solver='cholesky' takes a single alpha; use",
        ),
        ({"solver": "cg", "alpha": 0.0}, "solver='cg' needs alpha > 0; use"),
        ({"solver": "cg", "alpha": [0.0, 1.0]}, "solver='cg' needs alpha > 0; use"),
        ({"solver": "nystroem", "method": "high_dim"}, "needs method='exact'.* Use"),
        ({"solver": "nystroem", "n_components": 0}, "'n_components' parameter"),
        ({"solver": "cg", "tol": 0.0}, "'tol' parameter"),
        ({"solver": "cg", "max_iter": 0}, "'max_iter' parameter"),
    ],
)
def test_errors_name_the_parameter(parameters, message):
    X, y, _ = _data(40)
    with pytest.raises(ValueError, match=message):
        ridge().set_params(**parameters).fit(X, y)


def test_memory_is_asked_for_first(monkeypatch):
    monkeypatch.setattr("sk_deq._memory.total_memory", lambda device: 1000)
    X, y, _ = _data(40)
    with pytest.raises(MemoryError, match=r"40 rows .*n_components < 20"):
        ridge(solver="nystroem", n_components=20).fit(X, y)


def test_a_singular_problem_is_solved_without_penalty():
    """The linear kernel of 3 features has rank 3: more landmarks add nothing."""
    X, _, _ = _data(50)
    y = X @ [1.0, -2.0, 0.5, 3.0] + 7
    model = ridge(1e-9, activation="identity", solver="nystroem", n_components=20)
    np.testing.assert_allclose(model.fit(X, y).predict(X), y, rtol=0, atol=1e-5)


@pytest.mark.slow
@parametrize_with_checks(
    [
        ridge([0.1, 1.0], solver="nystroem"),
        classifier(solver="nystroem", n_components=50),
        ridge(solver="cg"),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
