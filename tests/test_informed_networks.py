"""Networks that begin at the kernel ridge solution of the kernel that suits the table."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_deq import (
    DEQClassifier,
    DEQKernelRidgeClassifier,
    DEQRegressor,
    EquivalentExplicitClassifier,
    EquivalentExplicitRegressor,
)
from sk_deq._nets.readout import solve_left_out
from sk_deq._row_keys import row_keys

CLASSIFIERS = [DEQClassifier, EquivalentExplicitClassifier]
REGRESSORS = [DEQRegressor, EquivalentExplicitRegressor]


def _wine():
    X, y = load_wine(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def _diabetes(n=200):
    X, y = load_diabetes(return_X_y=True)
    return StandardScaler().fit_transform(X[:n]), y[:n]


@pytest.mark.parametrize("most", [10, 100])
def test_the_readout_is_ridge_regression_left_out_row_by_row(most, monkeypatch):
    monkeypatch.setattr("sk_deq._nets.readout._LEFT_OUT", most)
    rng = np.random.default_rng(0)
    Z, y = torch.tensor(rng.normal(size=(30, 8))), torch.tensor(rng.normal(size=(30, 2)))
    w = torch.tensor(rng.uniform(0.5, 2, 30))
    w /= w.mean()
    keys = row_keys(Z, torch.Generator().manual_seed(0))
    weights, bias, (predicted, targets, _), least = solve_left_out(Z, y, w, keys)
    rows = np.arange(30) if most > 30 else keys.argsort()[:most].numpy()
    Z, y, w = Z.numpy(), y.numpy(), w.numpy()
    np.testing.assert_array_equal(targets, y[rows])
    level = w[rows] @ (Z[rows] ** 2).sum(1) / w[rows].sum()
    errors = []
    for alpha in 10.0 ** np.arange(-4, 1.1, 0.5) * level:
        left_out = []
        for i in rows:
            rest = np.setdiff1d(rows, i)
            ridge = Ridge(alpha=alpha).fit(Z[rest], y[rest], w[rest])
            left_out.append(ridge.predict(Z[i : i + 1])[0])
        error = w[rows] @ ((y[rows] - np.array(left_out)) ** 2).sum(1)
        errors.append((error, alpha, left_out))
    error, alpha, left_out = min(errors, key=lambda found: found[0])
    np.testing.assert_allclose(least, error / w[rows].sum(), rtol=1e-6)
    np.testing.assert_allclose(predicted, left_out, rtol=1e-6, atol=1e-9)
    ridge = Ridge(alpha=alpha).fit(Z, y, w)
    np.testing.assert_allclose(weights, ridge.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(bias, ridge.intercept_, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("network", CLASSIFIERS + REGRESSORS)
def test_what_is_found_stands_in_attributes_and_what_is_given_stays(network):
    X, y = _wine() if network in CLASSIFIERS else _diabetes()
    model = network(64, random_state=0).fit(X, y)
    results = model.search_results_
    assert (model.activation_, model.recurrent_var_) in zip(
        results["activation"], results["recurrent_var"], strict=True
    )
    assert model.encoding_ in ("quantile", "bins", None) and model.feature_weights_.shape == (
        X.shape[1],
    )
    assert set(results["kernel"]) == ({"ck"} if "DEQ" in network.__name__ else {"ck", "ntk"})
    fixed = {"activation": "tanh", "recurrent_var": 0.3, "bias_var": 0.2, "encoding": "bins"}
    model = clone(model).set_params(**fixed).fit(X, y)
    assert fixed == {name: getattr(model, f"{name}_") for name in fixed}
    plain = network(64, hyperparameters=None, max_epochs=1, random_state=0).fit(X, y)
    assert (plain.activation_, plain.recurrent_var_, plain.input_var_) == ("relu", 0.2, 0.8)
    assert not hasattr(plain, "search_results_") and not hasattr(plain, "encoding_")


@pytest.mark.parametrize("network", CLASSIFIERS)
def test_classes_are_found_without_training(network):
    X, y = _wine()
    model = network(256, random_state=0)
    assert cross_val_score(make_pipeline(StandardScaler(), model), X, y).mean() > 0.96
    model.fit(X[::2], y[::2])
    p = model.predict_proba(X[1::2])
    assert -np.log(p[np.arange(len(p)), y[1::2]]).mean() < 0.25  # calibrated
    two = y < 2
    model.fit(X[two], np.where(y[two] > 0, "b", "a"))
    assert model.score(X[two], np.where(y[two] > 0, "b", "a")) > 0.95


def test_a_wide_network_without_training_is_the_kernel_ridge():
    X, y = _wine()
    fixed = {"activation": "relu", "recurrent_var": 0.3, "input_var": 1.0, "bias_var": 0.1}
    fixed |= {"center": False, "input_scaling": "rms", "feature_weights": None}
    ridge = DEQKernelRidgeClassifier(encoding="bins", kernel="ck", **fixed, random_state=0)
    network = DEQClassifier(4096, encoding="bins", **fixed, random_state=0)
    expected = ridge.fit(X[::2], y[::2]).predict_proba(X[1::2])
    found = network.fit(X[::2], y[::2]).predict_proba(X[1::2])
    assert np.abs(found - expected).mean() < 0.03


@pytest.mark.parametrize("network", REGRESSORS)
def test_training_begins_at_the_ridge_solution(network):
    X, y = _diabetes()
    ridge = network(64, train="readout", recurrent_var=0.2, random_state=0).fit(X, y)
    trained = clone(ridge).set_params(train="all", lr=1e-12, max_epochs=1).fit(X, y)
    np.testing.assert_allclose(trained.predict(X), ridge.predict(X), rtol=1e-3)
    assert "train_loss" in trained.history_[0] and "train_loss" not in ridge.history_[0]


def test_a_student_takes_the_encoding_and_weights_of_its_teacher():
    X, y = _wine()
    teacher = DEQClassifier(64, recurrent_var=0.2, center=True,
                            random_state=0).fit(X, y)  # fmt: skip
    student = EquivalentExplicitClassifier.from_deq(teacher, teacher=teacher, max_epochs=5)
    student.fit(X, y)
    assert student.activation_ == teacher.activation_ and student.agreement_ > 0.95
    shapes = [m.module_.features.input_weight.shape for m in (teacher, student)]
    assert shapes[0] == shapes[1] and shapes[0][1] > X.shape[1]


def test_partial_fit_goes_on_from_the_ridge_solution():
    X, y = _wine()
    model = DEQClassifier(32, train="all", recurrent_var=0.2, random_state=0)
    model.partial_fit(X, y, classes=np.unique(y)).partial_fit(X, y)
    assert model.n_iter_ == 2 and model.score(X, y) > 0.95
    with pytest.raises(ValueError, match="partial_fit needs train='all'"):
        clone(model).set_params(train="readout").partial_fit(X, y, classes=np.unique(y))
