"""Networks that begin at the kernel ridge solution of the kernel that suits the table."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_deq import (
    DEQClassifier,
    DEQKernelRidge,
    DEQKernelRidgeClassifier,
    DEQRegressor,
    EquivalentExplicitClassifier,
    EquivalentExplicitRegressor,
    KernelMatcher,
)
from sk_deq._nets import training
from sk_deq._nets.lesson import keys_of, scaled_rows
from sk_deq._nets.pays import _held_out
from sk_deq._nets.readout import solve_left_out
from sk_deq._row_keys import row_keys
from sk_deq.kernels import deq_kernel
from sk_deq.modules import ExactNetwork

CLASSIFIERS = [DEQClassifier, EquivalentExplicitClassifier]
REGRESSORS = [DEQRegressor, EquivalentExplicitRegressor]


def _wine():
    X, y = load_wine(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def _diabetes(n=200):
    X, y = load_diabetes(return_X_y=True)
    return StandardScaler().fit_transform(X[:n]), y[:n]


def test_the_only_row_of_a_class_does_not_blur_probabilities():
    X = np.vstack([np.random.default_rng(0).normal(size=(60, 2)), [[5.0, 5.0]]])
    model = DEQClassifier(width=100, train="readout", class_weight="balanced", random_state=0)
    p = model.fit(X, np.repeat(["no", "yes"], [60, 1])).predict_proba(X)
    assert min(p[-1, 1], p[:60, 0].min()) > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("most", [10, 100])
def test_the_readout_is_ridge_regression_left_out_row_by_row(most, monkeypatch):
    monkeypatch.setattr("sk_deq._nets.readout._LEFT_OUT", most)
    rng = np.random.default_rng(0)
    Z, y = torch.tensor(rng.normal(size=(30, 8))), torch.tensor(rng.normal(size=(30, 2)))
    w = torch.tensor(rng.uniform(0.5, 2, 30))
    w /= w.mean()
    keys = row_keys(Z, torch.Generator().manual_seed(0))
    weights, bias, (predicted, targets, _) = solve_left_out(Z, y, w, keys)
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
    np.testing.assert_allclose(predicted, left_out, rtol=1e-6, atol=1e-9)
    ridge = Ridge(alpha=alpha).fit(Z, y, w)
    np.testing.assert_allclose(weights, ridge.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(bias, ridge.intercept_, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
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
    assert set(results["kernel"]) == {"ck"}
    fixed = {"activation": "tanh", "recurrent_var": 0.3, "bias_var": 0.2, "encoding": "bins"}
    model = clone(model).set_params(**fixed).fit(X, y)
    assert fixed == {name: getattr(model, f"{name}_") for name in fixed}
    plain = network(64, hyperparameters=None, max_epochs=1, random_state=0).fit(X, y)
    assert (plain.activation_, plain.recurrent_var_, plain.input_var_) == ("relu", 0.2, 0.8)
    assert not hasattr(plain, "search_results_") and not hasattr(plain, "encoding_")


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_wide_network_without_training_is_the_kernel_ridge():
    X, y = _wine()
    fixed = {"activation": "relu", "recurrent_var": 0.3, "input_var": 1.0, "bias_var": 0.1}
    fixed |= {"center": False, "input_scaling": "rms", "feature_weights": None}
    ridge = DEQKernelRidgeClassifier(encoding="bins", kernel="ck", **fixed, random_state=0)
    network = DEQClassifier(4096, train="readout", encoding="bins", **fixed, random_state=0)
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
    assert not any(m.training for model in (ridge, trained) for m in model.module_.modules())


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


def _rows_of_two_norms():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(12, 6))
    return torch.tensor(X / np.linalg.norm(X, axis=1)[:, None] * np.repeat([0.6, 1.4], 6)[:, None])


@pytest.mark.slow
@pytest.mark.parametrize(
    "activation, kernel, center",
    [("relu", "ck", False), ("relu", "ntk", False), ("tanh", "ck", True), ("abs", "ck", False)],
)
def test_a_wide_exact_network_has_the_kernel_of_the_deq(activation, kernel, center):
    x = _rows_of_two_norms()
    spec = {"recurrent_var": 0.3, "input_var": 0.8, "bias_var": 0.2, "center": center}
    model = EquivalentExplicitRegressor(
        8, activation=activation, kernel=kernel, matching="exact", input_scaling=None, **spec,
        train="readout", hyperparameters=None, random_state=0,
    ).fit(x.numpy(), x[:, 0].numpy())  # fmt: skip
    tau0 = float(x.square().sum(1).mean().sqrt())
    K = deq_kernel(x.numpy(), activation=activation, kernel=kernel, tau0=tau0, **spec)
    small = model.module_.features
    assert isinstance(small, ExactNetwork) and small.bias_var == pytest.approx(0.25)
    wide = ExactNetwork(
        6, 40_000, small.match, bias_var=small.bias_var, dtype=torch.float64,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    with torch.no_grad():
        Z = wide(x).numpy()
    assert np.abs(Z @ Z.T - K).max() < 0.03 * K.max()


def test_an_exact_network_is_differentiable():
    x = _rows_of_two_norms()
    match = KernelMatcher(activation="tanh", matching="exact", random_state=0).fit(x).match_
    network = ExactNetwork(6, 32, match, bias_var=0.1, dtype=torch.float64,
                           generator=torch.Generator().manual_seed(1))  # fmt: skip
    x.requires_grad_()
    loss = network(x).square().sum()
    loss.backward()
    with torch.no_grad():  # through the direction of a row and through its norm
        move = 1e-2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).double()
        values = [float(network(x + s * move).square().sum()) for s in (0.5, -0.5)]
    assert float((x.grad * move).sum()) == pytest.approx(values[0] - values[1], rel=1e-2)
    weight, step = network.input_weight, 1e-3  # the table is linear between points
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)).double()
    slope = float((weight.grad * direction).sum())
    values = []
    with torch.no_grad():
        for move in (step, -2 * step):
            weight += move * direction
            values.append(float(network(x).square().sum()))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("network", CLASSIFIERS + REGRESSORS)
def test_training_that_does_not_pay_leaves_the_start(network, monkeypatch):
    X, y = _wine() if network in CLASSIFIERS else _diabetes()
    model = network(64, random_state=0)
    start = clone(model).set_params(train="readout").fit(X, y)
    monkeypatch.setattr(network, "_fewest_trained", 0)
    harmful = clone(model).set_params(lr=3.0, max_epochs=5, weight_decay=0.0).fit(X, y)
    assert "train_loss" not in harmful.history_[0]
    np.testing.assert_array_equal(harmful.predict(X), start.predict(X))
    monkeypatch.setattr("sk_deq._nets.pays._FEWEST", 1000)
    few = clone(model).fit(X, y)
    np.testing.assert_array_equal(few.predict(X), start.predict(X))


@pytest.mark.parametrize("network", [*CLASSIFIERS, DEQRegressor])
def test_of_few_rows_the_readout_alone_is_trained(network):
    X, y = _diabetes()
    if network in CLASSIFIERS:
        y = np.digitize(y, np.quantile(y, [0.3, 0.6]))  # noisy, so that training pays
    start = network(64, train="readout", random_state=0).fit(X, y)
    model = network(64, random_state=0).fit(X, y)
    weights, before = model.module_.state_dict(), start.module_.state_dict()
    for name in weights:
        if name.startswith("features"):
            assert torch.equal(weights[name], before[name])
    assert not model.module_.training and not model.module_.features.training
    if network is DEQRegressor:  # its readout has the least squared error already
        np.testing.assert_array_equal(model.predict(X), start.predict(X))
        return
    assert not torch.equal(weights["readout.weight"], before["readout.weight"])
    losses = [log_loss(y, fitted.predict_proba(X)) for fitted in (start, model)]
    assert losses[1] < losses[0]
    assert model.history_[-1]["train_loss"] < model.history_[0]["train_loss"]
    if network is DEQClassifier:  # solved once, at the start
        assert model.fixed_point_n_iter_ == start.fixed_point_n_iter_
        assert model.fixed_point_residual_ <= model.tol


@pytest.mark.parametrize("network", CLASSIFIERS + REGRESSORS)
def test_a_warm_start_solves_for_the_readout_of_the_same_features(network):
    X, y = _wine() if network in CLASSIFIERS else _diabetes()
    model = network(32, train="readout", warm_start=True, random_state=0).fit(X[::2], y[::2])
    features = {k: v.clone() for k, v in model.module_.features.state_dict().items()}
    before = model.module_.readout.weight.clone()
    model.fit(X, y)
    assert all(torch.equal(v, features[k]) for k, v in model.module_.features.state_dict().items())
    rows, task = torch.as_tensor(X), model._task
    Z = model.module_.features(scaled_rows(model.module_, model._scaler, rows)).detach().double()
    target = task.to_network(task.encode(y))
    weights, bias = task.solve_left_out(Z, target, torch.ones(len(X)).double(), keys_of(rows))
    readout = model.module_.readout
    torch.testing.assert_close(readout.weight.double(), weights, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(readout.bias.double(), bias, rtol=1e-5, atol=1e-7)
    assert model.n_iter_ == 1 and not torch.allclose(readout.weight, before, rtol=1e-2)


def test_training_ends_with_the_epoch_that_is_best_on_rows_held_out(monkeypatch):
    X, y = _wine()
    lessons = []

    def pays(lesson, data, *rest):
        lessons.append(len(data[0]))
        return 3

    monkeypatch.setattr("sk_deq._nets.base.epochs_that_pay", pays)
    model = EquivalentExplicitClassifier(32, random_state=0).fit(X, y)
    assert lessons == [len(X)] and model.n_iter_ == 3
    assert [epoch["epoch"] for epoch in model.history_] == [1, 2, 3]
    model.set_params(train="readout").fit(X, y)  # has nothing to decide
    assert len(lessons) == 1


def test_a_deq_is_wider_where_the_readout_of_a_regression_learns_alone(monkeypatch):
    monkeypatch.setattr("sk_deq._nets.deq._WIDTH", 70)
    monkeypatch.setattr("sk_deq._nets.deq._WIDE", 80)
    X, y = _diabetes()
    wide = DEQRegressor(random_state=0).fit(X, y)
    assert wide.width_ == wide.module_.features.width == 80
    assert EquivalentExplicitRegressor.from_deq(wide).width == 80
    for parameters in ({"train": "all"}, {"early_stopping": True}, {"hyperparameters": None}):
        all_trained = DEQRegressor(max_epochs=1, random_state=0, **parameters)
        assert all_trained.fit(X, y).width_ == 70
    assert DEQClassifier(random_state=0).fit(*_wine()).width_ == 70


def test_training_for_fewer_epochs_is_gentler_and_comes_to_rest(monkeypatch):
    # half a cosine up to the peak over six of 20 epochs: half of the peak after three, of one step
    monkeypatch.setattr("sk_deq._nets.base.epochs_that_pay", lambda *args: 3)
    rates, set_rate = [], training.TrainingNet._set_rate

    def watched(net, n_steps):
        set_rate(net, n_steps)
        rates.append(net.optimizer_.param_groups[-1]["lr"])  # of the readout's bias

    monkeypatch.setattr(training.TrainingNet, "_set_rate", watched)
    EquivalentExplicitClassifier(32, lr=0.01, max_epochs=20, random_state=0).fit(*_wine())
    np.testing.assert_allclose(
        rates, [0.005 * share for share in (0.5868, 0.8117, 0.1335)], rtol=1e-3
    )


def test_held_out_rows_are_a_fifth_of_every_class_and_copies_stay_together():
    X = np.random.default_rng(0).normal(size=(200, 3))
    labels = torch.tensor(np.repeat([0, 1], [150, 50]))
    rows = torch.tensor(np.concatenate([X, X[:20]]))
    decides = _held_out(keys_of(rows), torch.cat([labels, labels[:20]]))
    assert torch.equal(decides[:20], decides[200:])
    assert int(decides[:150].sum()) == 30 and int(decides[150:200].sum()) == 10
    assert _held_out(keys_of(rows[:30]), None) is None


@pytest.mark.parametrize("classify", [True, False])
def test_a_wide_network_predicts_what_the_kernel_ridge_does(classify):
    X, y = _wine() if classify else _diabetes(300)
    kind = DEQKernelRidgeClassifier if classify else DEQKernelRidge
    ridge = kind(kernel="ck", random_state=0).fit(X[::2], y[::2])
    student = EquivalentExplicitClassifier if classify else EquivalentExplicitRegressor
    network = student.from_kernel_ridge(ridge, width=4096, random_state=0).fit(X[::2], y[::2])
    assert network.agreement_ > 0.99 and network.n_iter_ == 1
    assert network.activation_ == ridge.activation_ and network.kernel_ == "ck"
    if classify:
        assert np.abs(network.predict_proba(X) - ridge.predict_proba(X)).mean() < 0.03
    else:
        error = network.predict(X[1::2]) - ridge.predict(X[1::2])
        assert error.std() < 0.2 * ridge.predict(X[1::2]).std()
    trained = student.from_kernel_ridge(ridge, width=16, train="all", max_epochs=3, random_state=0)
    assert trained.fit(X, y).n_iter_ == 3
    with pytest.raises(TypeError, match="ridge must be a DEQKernelRidge"):
        student.from_kernel_ridge(DEQRegressor())
    with pytest.raises(NotFittedError):
        student.from_kernel_ridge(kind())


def test_from_a_fitted_deq_what_it_found_is_matched():
    X, y = _wine()
    deq = DEQClassifier(64, random_state=0).fit(X, y)
    explicit = EquivalentExplicitClassifier.from_deq(deq).fit(X, y)
    names = ("activation_", "recurrent_var_", "input_var_", "bias_var_", "center_")
    assert [getattr(explicit, n) for n in names] == [getattr(deq, n) for n in names]
    assert explicit.kernel_ == "ck" and explicit.input_scaling_ == deq.input_scaling_


def test_larger_tables_are_not_searched(monkeypatch):
    X, y = _diabetes()
    monkeypatch.setattr("sk_deq._nets.base._MOST_SEARCHED", 199)
    model = EquivalentExplicitRegressor(16, max_epochs=2, random_state=0).fit(X, y)
    assert not hasattr(model, "encoding_") and model.center_ and model.n_iter_ == 2
    assert hasattr(model.fit(X[:199], y[:199]), "encoding_")


def test_many_rows_of_many_columns_are_not_searched(monkeypatch):
    X, y = _diabetes()
    monkeypatch.setattr("sk_deq._nets.base._MOST_IMAGES", 199)
    model = EquivalentExplicitRegressor(16, max_epochs=2, random_state=0)
    assert hasattr(model.fit(X, y), "encoding_")
    monkeypatch.setattr("sk_deq._nets.base._MANY_COLUMNS", 9)
    assert not hasattr(model.fit(X, y), "encoding_")


@pytest.mark.parametrize("cls", [DEQRegressor, EquivalentExplicitRegressor])
def test_where_nothing_is_searched_columns_are_centered(cls):
    X, y = _diabetes()
    X = X[:, :4]
    model = cls(16, hyperparameters=None, max_epochs=2, dtype="float64", random_state=0)
    assert model.fit(X, y).input_scaling_ == "centered"
    there = model.predict(X)
    far = X + np.array([100.0, 0.0, -3.0, 5.0])
    np.testing.assert_allclose(model.fit(far, y).predict(far), there, rtol=1e-6)
    model.set_params(input_scaling="rms").fit(X, y)
    assert model.input_scaling_ == "rms"
    assert abs(model.predict(X) - model.fit(far, y).predict(far)).max() > 1


@pytest.mark.parametrize("cls", [DEQRegressor, EquivalentExplicitRegressor])
def test_centered_columns_can_be_asked_for_where_kernels_are_searched(cls):
    X, y = _diabetes()
    X = X[:, :4]
    model = cls(16, input_scaling="centered", train="readout", dtype="float64", random_state=0)
    there, found = model.fit(X, y).predict(X), model.search_results_["criterion"]
    far = X + np.array([100.0, 0.0, -3.0, 5.0])
    np.testing.assert_allclose(model.fit(far, y).predict(far), there, rtol=1e-4)
    np.testing.assert_allclose(model.search_results_["criterion"], found, rtol=1e-4)


def test_many_bins_of_a_column_count_as_four_for_the_rate_of_the_input_weights(monkeypatch):
    X, y = _diabetes()
    nets, make = [], training.make_net
    monkeypatch.setattr(
        training, "make_net", lambda *args, **k: nets.append(make(*args, **k)) or nets[-1]
    )
    for encoding, n in (("bins", 4), ("quantile", 1), (None, 0)):
        model = EquivalentExplicitRegressor(16, encoding=encoding, max_epochs=1, train="all")
        model.fit(X, y)
        numbers = sum(len(np.unique(column)) > 4 for column in X.T)
        weight = nets[-1].module_.features.input_weight
        groups = nets[-1].optimizer_.param_groups
        (peak,) = (group["peak"] for group in groups if group["params"][0] is weight)
        if encoding == "bins":  # some have two edges at one value
            assert weight.shape[1] > X.shape[1] + 12 * numbers
        else:
            assert weight.shape[1] == X.shape[1] + n * numbers
        assert peak == pytest.approx(nets[-1].lr * (X.shape[1] + numbers * n) ** 0.5)


def test_many_rows_are_trained_on_at_a_higher_rate_and_tried_to_the_end(monkeypatch):
    X, y = _diabetes()
    monkeypatch.setattr(EquivalentExplicitRegressor, "_many_rows", 199)
    every = EquivalentExplicitRegressor(16, max_epochs=4, train="all", random_state=0)
    higher = clone(every).set_params(lr=0.003, weight_decay=1.0)
    np.testing.assert_array_equal(every.fit(X, y).predict(X), higher.fit(X, y).predict(X))
    patience, make = [], training.make_net
    monkeypatch.setattr(
        training, "make_net", lambda *args, **k: patience.append(k["patience"]) or make(*args, **k)
    )
    every.set_params(train="auto").fit(X, y)  # at such a rate the last epochs bring most
    every.fit(X[:199], y[:199])
    assert patience[0] is None and 2 in patience
