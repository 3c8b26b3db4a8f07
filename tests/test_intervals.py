"""Prediction intervals and sets, against models that are refitted without a row."""

import pickle

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.exceptions import NotFittedError

from sk_deq import DEQKernelRidge, DEQKernelRidgeClassifier
from sk_deq._array_api import ARRAY_API_SUPPORT
from sk_deq._ridge.intervals import local_scale

# nothing but the penalty is measured on the rows
FIXED = {"activation": "relu", "kernel": "ck", "recurrent_var": 0.3, "center": True}
FIXED |= {"input_scaling": "sphere", "bias_var": 0.0}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = np.column_stack([X[:, 0] + RNG.normal(size=60), 100 * RNG.normal(size=60)])
LABELS = np.digitize(Y[:, 0], [-0.4, 0.6])


def quantile(scores, coverage):
    """The ceil(coverage (n + 1))-th smallest."""
    return np.sort(scores)[int(np.ceil(coverage * (len(scores) + 1) - 1e-9)) - 1]


def residuals(X, y, **options):
    """Absolute residuals of every row by the model of all rows that differ from it."""
    out = []
    for row, target in zip(X, y, strict=True):
        others = (X != row).any(1)
        model = DEQKernelRidge(solver="cholesky", **FIXED, **options).fit(X[others], y[others])
        out.append(np.abs(model.predict(row[None])[0] - target))
    return np.array(out)


@pytest.mark.slow
@pytest.mark.parametrize("coverage", [0.3, 0.8, 0.95])
@pytest.mark.parametrize("solver", ["eigh", "cholesky"])
def test_half_width_is_a_quantile_of_the_residuals_left_out(solver, coverage):
    model = DEQKernelRidge(0.2, solver=solver, **FIXED).fit(X, Y)
    lower, upper = model.predict_interval(X, coverage)
    expected = residuals(X, Y, alpha=0.2)
    for k in range(2):
        assert (upper - lower)[:, k] / 2 == pytest.approx(quantile(expected[:, k], coverage))
    np.testing.assert_allclose((lower + upper) / 2, model.predict(X))
    flat = DEQKernelRidge(0.2, solver=solver, **FIXED).fit(X, Y[:, 1])
    lower_, upper_ = flat.predict_interval(X, coverage)
    np.testing.assert_allclose([lower_, upper_], [lower[:, 1], upper[:, 1]])


@pytest.mark.parametrize("solver", ["cg", "nystroem"])
def test_held_out_rows_give_the_half_width(solver):
    options = {"solver": solver, "n_components": 50, "random_state": 0}
    X = np.random.default_rng(1).normal(size=(300, 3))
    y = 5 * X[:, 0] + np.random.default_rng(2).normal(size=300)
    model = DEQKernelRidge([0.2], **FIXED, **options).fit(X, y)
    lower, upper = model.predict_interval(X)
    np.testing.assert_allclose(upper - lower, 2 * quantile(model._out_of_sample.scores[:, 0], 0.9))
    assert 15 < model._out_of_sample.n_distinct < 45  # a tenth, by their hashes
    assert ((lower <= y) & (y <= upper)).mean() > 0.8
    alone = DEQKernelRidge(0.2, **FIXED, **options).fit(X, y)
    with pytest.raises(ValueError, match=r"predicted no rows out of sample.*list of one"):
        alone.predict_interval(X)


@pytest.mark.slow
def test_each_copy_of_a_row_has_its_own_residual():
    """Or noise in the targets of repeated rows would be averaged away."""
    X2, y2 = np.repeat(X[:20], 3, axis=0), RNG.normal(size=60)
    model = DEQKernelRidge(0.2, solver="cholesky", **FIXED).fit(X2, y2)
    lower, upper = model.predict_interval(X2[:5], 0.9)
    # 20 distinct rows: 18.9 of them, that is 56.7 of 60 residuals
    expected = np.sort(residuals(X2, y2, alpha=0.2))[56]
    np.testing.assert_allclose((upper - lower) / 2, expected)
    solver = {"solver": "nystroem", "random_state": 0}
    model = DEQKernelRidge([0.2], **FIXED, **solver).fit(np.repeat(X2, 2, 0), np.repeat(y2, 2))
    out = model._out_of_sample
    assert out.n_distinct >= 1 and len(out.scores) == 6 * out.n_distinct


@pytest.mark.parametrize("solver", ["eigh", "nystroem"])
def test_an_integer_weight_is_repetition_and_units_do_not_matter(solver):
    w = np.arange(60) % 3
    options = {"alpha": [0.2], "solver": solver, "random_state": 0, **FIXED}
    model = DEQKernelRidge(**options).fit(X, Y, sample_weight=w)
    repeated = DEQKernelRidge(**options).fit(np.repeat(X, w, axis=0), np.repeat(Y, w, axis=0))
    expected = model.predict_interval(X, 0.7)
    np.testing.assert_allclose(repeated.predict_interval(X, 0.7), expected)
    scaled = DEQKernelRidge(**{**options, "alpha": [2.0]}).fit(X, Y, sample_weight=10 * w)
    np.testing.assert_allclose(scaled.predict_interval(X, 0.7), expected)


def test_of_many_rows_some_are_left_out():
    X = np.random.default_rng(1).normal(size=(1100, 2))
    y = np.random.default_rng(2).normal(size=1100)
    model = DEQKernelRidge(10.0, dtype="float32", **FIXED).fit(X, y)
    assert model.solver_ == "cholesky" and model._out_of_sample.n_distinct == 500
    lower, upper = model.predict_interval(X)
    assert lower.dtype == np.float32
    assert ((lower <= y) & (y <= upper)).mean() == pytest.approx(0.9, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("coverage", [0.5, 0.9])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_sets_are_classes_whose_probability_reaches_a_quantile(n_classes, coverage):
    y = np.minimum(LABELS, n_classes - 1)
    model = DEQKernelRidgeClassifier(0.2, solver="cholesky", **FIXED).fit(X, y)
    scores = []
    for i in range(len(X)):
        others = np.arange(len(X)) != i
        refit = DEQKernelRidgeClassifier(0.2, solver="cholesky", **FIXED).fit(X[others], y[others])
        refit.temperature_ = model.temperature_
        scores.append(1 - refit.predict_proba(X[i : i + 1])[0, y[i]])
    sets = model.predict_set(X, coverage)
    assert sets.dtype == bool and sets.shape == (60, n_classes)
    np.testing.assert_array_equal(
        sets, 1 - model.predict_proba(X) <= quantile(scores, coverage) + 1e-12
    )
    assert (model.predict_set(X, 0.95) >= sets).all()


def test_sets_of_repeated_rows_count_every_label():
    """A row of two labels has a score for each."""
    X2 = np.repeat(X[:20], 4, axis=0)
    y2 = np.tile([0, 1, 1, 1], 20)
    model = DEQKernelRidgeClassifier(0.2, solver="eigh", **FIXED).fit(X2, y2)
    assert len(model._out_of_sample.scores) == 40
    assert model._out_of_sample.n_distinct == 20
    p = model.predict_proba(X2[:1])[0, 1]
    assert model._out_of_sample.quantile(0.7) == pytest.approx(1 - p)  # 14.7 of 20, 15 of them 1
    assert model._out_of_sample.quantile(0.72) == pytest.approx(p)


def test_one_class_is_the_set():
    model = DEQKernelRidgeClassifier(0.2).fit(X[:5], np.full(5, "a"))
    assert model.predict_set(X).shape == (60, 1) and model.predict_set(X).all()


def _fitted(name):
    if name == "predict_interval":
        return DEQKernelRidge(0.2, **FIXED).fit(X[:19], Y[:19])
    return DEQKernelRidgeClassifier(0.2, **FIXED).fit(X[:19], LABELS[:19])


@pytest.mark.parametrize("name", ["predict_interval", "predict_set"])
def test_bad_input(name):
    model = _fitted(name)
    predict = getattr(model, name)
    for coverage in (0, 1, -0.1, 90, np.nan, "0.9", None, [0.9]):
        with pytest.raises(ValueError, match=r"coverage must be a number in \(0, 1\)"):
            predict(X, coverage)
    predict(X, 0.95)  # 19 of 19 rows
    with pytest.raises(
        ValueError, match=r"coverage=0\.96 needs at least 24 distinct rows.* had 19"
    ):
        predict(X, 0.96)
    with pytest.raises(ValueError, match="features"):
        predict(X[:, :2])
    with pytest.raises(NotFittedError):
        getattr(type(model)(), name)(X)


def test_one_distinct_row_has_no_interval():
    model = DEQKernelRidge(0.2).fit(np.ones((5, 2)), np.arange(5.0))
    with pytest.raises(ValueError, match="one distinct row cannot"):
        model.predict_interval(X[:, :2])


@pytest.mark.parametrize("name", ["predict_interval", "predict_set"])
def test_pickles_and_torch_modes(name):
    model = _fitted(name)
    expected = getattr(model, name)(X)
    with torch.inference_mode():
        np.testing.assert_array_equal(getattr(pickle.loads(pickle.dumps(model)), name)(X), expected)


@pytest.mark.skipif(not ARRAY_API_SUPPORT, reason="needs scikit-learn >= 1.9")
@pytest.mark.parametrize("name", ["predict_interval", "predict_set"])
def test_tensors_go_in_and_come_out(name, device):
    cls = DEQKernelRidge if name == "predict_interval" else DEQKernelRidgeClassifier
    y = Y if name == "predict_interval" else LABELS
    expected = getattr(cls(0.2, **FIXED).fit(X, y), name)(X)
    with config_context(array_api_dispatch=True):
        Xt = torch.asarray(X, device=device)
        model = cls(0.2, **FIXED).fit(Xt, torch.asarray(y, device=device))
        out = getattr(model, name)(Xt)
        with pytest.raises(ValueError, match=name):
            getattr(model, name)(X)
    for tensor in out if isinstance(out, tuple) else (out,):
        assert isinstance(tensor, torch.Tensor) and tensor.device == Xt.device
    out = [t.cpu() for t in out] if isinstance(out, tuple) else out.cpu()
    np.testing.assert_allclose(out, expected)


@pytest.mark.slow
def test_coverage_is_nominal_on_average():
    """Over 20 training sets, with noise that a fixed kernel cannot see."""
    rng = np.random.default_rng(3)
    intervals, sets = [], []
    for _ in range(20):
        X, X_test = rng.normal(size=(150, 4)), rng.normal(size=(500, 4))
        y, y_test = (np.sin(2 * A[:, 0]) + rng.standard_t(4, size=len(A)) for A in (X, X_test))
        lower, upper = DEQKernelRidge(3.0, **FIXED).fit(X, y).predict_interval(X_test)
        intervals.append(((lower <= y_test) & (y_test <= upper)).mean())
        model = DEQKernelRidgeClassifier(3.0, **FIXED).fit(X, y > 0)
        sets.append(model.predict_set(X_test)[range(500), (y_test > 0).astype(int)].mean())
    assert np.mean(intervals) == pytest.approx(0.9, abs=0.02)
    assert np.mean(sets) == pytest.approx(0.9, abs=0.02)


def local_widths_by_hand(X, y, X_test, coverage):
    """Of one output and distinct rows: models of log |residual|, each fitted without a row."""
    R = residuals(X, y, alpha=0.2)
    logs = np.log(np.maximum(R, 0.2 * np.median(R)))
    given = {**FIXED, "solver": "cholesky"}
    level = DEQKernelRidge(1.0, **given).fit(X, logs)._fitted_rows.kernel
    level = level.mean_diagonal(X, torch.ones(len(X), dtype=torch.float64))
    found = {}
    for alpha in 10.0 ** np.arange(-3, 3.1, 0.5) * level:
        others = [np.delete(np.arange(len(X)), i) for i in range(len(X))]
        spread = DEQKernelRidge(alpha, **given)
        left_out = [
            spread.fit(X[o], logs[o]).predict(X[i : i + 1])[0] for i, o in enumerate(others)
        ]
        found[np.square(left_out - logs).mean()] = alpha, np.array(left_out)
    alpha, left_out = found[min(found)]
    bound = quantile(R / np.exp(left_out), coverage)
    return bound * np.exp(DEQKernelRidge(alpha, **given).fit(X, logs).predict(X_test))


@pytest.mark.slow
def test_local_intervals_are_those_of_refitted_models():
    rows, y = X[:30], Y[:30] * (1 + 3 * (X[:30, :1] > 0))
    X_test = RNG.normal(size=(20, 3))
    model = DEQKernelRidge(0.2, solver="cholesky", **FIXED).fit(rows, y)
    lower, upper = model.predict_interval(X_test, 0.8, local=True)
    np.testing.assert_allclose((lower + upper) / 2, model.predict(X_test))
    for k in range(2):
        expected = local_widths_by_hand(rows, y[:, k], X_test, 0.8)
        np.testing.assert_allclose((upper - lower)[:, k] / 2, expected, rtol=1e-6)
    flat = DEQKernelRidge(0.2, solver="cholesky", **FIXED).fit(rows, y[:, 1])
    lower_, upper_ = flat.predict_interval(X_test, 0.8, local=True)
    np.testing.assert_allclose([lower_, upper_], [lower[:, 1], upper[:, 1]])


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["cholesky", "nystroem", "cg"])
def test_local_intervals_are_wide_where_targets_are_noisy(solver):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(4000, 2))
    y = X[:, 1] + np.exp(1.5 * X[:, 0]) * rng.normal(size=4000)
    train, test = slice(900 if solver == "cholesky" else 2000), slice(2000, None)
    options = {**FIXED, "solver": solver, "input_scaling": "rms", "bias_var": 0.1}
    options |= {"center": False, "kernel": "ntk"}
    if solver != "cholesky":
        options |= {"n_components": 50, "random_state": 0}
    model = DEQKernelRidge([1.0], **options).fit(X[train], y[train])
    lower, upper = model.predict_interval(X[test], local=True)
    again = pickle.loads(pickle.dumps(model)).predict_interval(X[test], local=True)
    np.testing.assert_array_equal(again, (lower, upper))
    thirds = np.digitize(X[test][:, 0], [-1 / 3, 1 / 3])
    inside = (lower <= y[test]) & (y[test] <= upper)
    assert all(0.8 < inside[thirds == k].mean() < 0.99 for k in range(3))
    width = upper - lower
    assert 4 < width[thirds == 2].mean() / width[thirds == 0].mean() < 12  # exp(2) = 7.4
    lower, upper = model.predict_interval(X[test])
    inside = (lower <= y[test]) & (y[test] <= upper)
    assert inside[thirds == 0].mean() > 0.99 and inside[thirds == 2].mean() < 0.82


def test_each_copy_has_the_same_scale_and_perfect_fits_none():
    X2, y2 = np.repeat(X[:20], 3, axis=0), RNG.normal(size=60)
    model = DEQKernelRidge(0.2, solver="cholesky", **FIXED).fit(X2, y2)
    scale, out = local_scale(model._out_of_sample, model._fitted_rows)
    assert len(scale.rows.X) == out.n_distinct == 20 and len(out.scores) == 60
    model.fit(X[:20], np.zeros(20))
    lower, upper = model.predict_interval(X[:5], local=True)
    np.testing.assert_array_equal(lower, upper)
