import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, LRScheduler, ProgressBar

from sk_deq import (
    DEQClassifier,
    DEQRegressor,
    EquivalentExplicitClassifier,
    EquivalentExplicitRegressor,
)
from sk_deq._nets.starts import TRAINING_TOL
from sk_deq._nets.training import TrainingNet
from sk_deq._torch import present_device

ESTIMATORS = [
    DEQClassifier,
    EquivalentExplicitClassifier,
    DEQRegressor,
    EquivalentExplicitRegressor,
]
SMALL = {"hyperparameters": None, "width": 16, "max_epochs": 20, "random_state": 0}


def frozen(X, y):
    X = scale(X)
    for array in (X, y):
        array.setflags(write=False)
    return X, y


IRIS = frozen(*load_iris(return_X_y=True))
DIABETES = frozen(*load_diabetes(return_X_y=True))


def data_for(estimator):
    return IRIS if hasattr(estimator, "predict_proba") else DIABETES


def outputs(model, X):
    return model.predict_proba(X) if hasattr(model, "classes_") else model.predict(X)


@pytest.mark.slow
@pytest.mark.parametrize("Estimator", ESTIMATORS)
@pytest.mark.parametrize("train", ["all", "readout"])
def test_learns(Estimator, train):
    X, y = data_for(Estimator)
    model = Estimator(hyperparameters=None, width=64, train=train, random_state=0).fit(X, y)
    assert model.score(X, y) > (0.95 if hasattr(model, "classes_") else 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("Estimator", ESTIMATORS)
@pytest.mark.parametrize("batch_size", ["auto", 40])
def test_same_random_state_gives_the_same_bits_and_nothing_global_changes(
    Estimator, batch_size, unchanged_globals
):
    X, y = data_for(Estimator)
    models = [Estimator(**SMALL, batch_size=batch_size).fit(X, y) for _ in range(2)]
    other = Estimator(**{**SMALL, "random_state": 1}, batch_size=batch_size).fit(X, y)
    assert_array_equal(models[0].predict(X), models[1].predict(X))
    for one, two in zip(*(m.module_.parameters() for m in models), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(other.module_.readout.weight, models[0].module_.readout.weight)


@pytest.mark.slow
@pytest.mark.parametrize("Estimator", ESTIMATORS)
def test_integer_weights_equal_repeated_rows_in_full_batch(Estimator):
    X, y = data_for(Estimator)
    X, y = X[::3], y[::3]
    weight = np.random.RandomState(0).randint(0, 3, len(X))
    model = Estimator(**SMALL, batch_size=1000)
    weighted = clone(model).fit(X, y, sample_weight=weight)
    repeated = clone(model).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    assert_allclose(outputs(weighted, X), outputs(repeated, X), rtol=1e-6, atol=1e-9)


def test_class_weight_balanced_equals_the_equivalent_sample_weight():
    X, y = IRIS[0][:120], IRIS[1][:120]
    weight = len(y) / (3 * np.bincount(y))
    balanced = DEQClassifier(**SMALL, class_weight="balanced").fit(X, y)
    weighted = DEQClassifier(**SMALL).fit(X, y, sample_weight=weight[y])
    assert_allclose(balanced.predict_proba(X), weighted.predict_proba(X), rtol=1e-10)


def test_all_zero_weights_are_an_error():
    with pytest.raises(ValueError, match=r"sample_weight is zero|at least one non-zero"):
        DEQClassifier(**SMALL).fit(*IRIS, sample_weight=np.zeros(150))


def test_readout_is_optimal():
    X, y = IRIS
    model = DEQClassifier(
        hyperparameters=None, width=40, train="readout", weight_decay=1e-3, random_state=0
    ).fit(X, y)
    with torch.no_grad():
        Z = model.module_.features(torch.tensor(model._scaler.transform(X))).numpy()
    weights = model.module_.readout.weight.detach().numpy()
    residual = model.predict_proba(X) - np.eye(3)[y]
    assert np.abs(residual.T @ Z / len(X) + 1e-3 * weights).max() < 1e-6
    assert np.abs(residual.mean(0)).max() < 1e-6
    reference = LogisticRegression(C=1 / (1e-3 * 150), tol=1e-10, max_iter=10_000).fit(Z, y)
    assert_allclose(model.predict_proba(X), reference.predict_proba(Z), atol=1e-5)


def test_regression_readout_is_ridge():
    X, y = DIABETES
    model = DEQRegressor(
        hyperparameters=None, width=40, train="readout", weight_decay=1e-3, random_state=0
    ).fit(X, y)
    with torch.no_grad():
        rows = torch.tensor(model._scaler.transform(X), dtype=model.module_.readout.weight.dtype)
        Z = model.module_.features(rows).double().numpy()
    target = scale(y)
    Zc = Z - Z.mean(0)
    solution = np.linalg.solve(Zc.T @ Zc + 1e-3 * len(X) * np.eye(40), Zc.T @ target)
    expected = y.mean() + y.std() * Zc @ solution
    assert_allclose(model.predict(X), expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("Estimator", ESTIMATORS)
def test_partial_fit_adds_epochs_to_the_same_network(Estimator):
    X, y = data_for(Estimator)
    model = Estimator(hyperparameters=None, width=32, lr=0.02, random_state=0)
    scores = []
    for _ in range(15):
        model.partial_fit(X, y)
        scores.append(model.score(X, y))
    assert model.n_iter_ == len(model.history_) == 15
    assert scores[-1] > scores[0]
    with pytest.raises(ValueError, match="partial_fit needs train='all'"):
        Estimator(train="readout").partial_fit(X, y)


@pytest.mark.slow
@pytest.mark.parametrize("Estimator", ESTIMATORS)
def test_partial_fit_after_fit_adds_one_epoch_at_the_constant_rate(Estimator):
    rates = []

    class Watch(Callback):
        def on_batch_end(self, net, **kwargs):
            rates.append(net.optimizer_.param_groups[0]["lr"])

        def __deepcopy__(self, memo):
            return self

    X, y = data_for(Estimator)
    model = Estimator(**SMALL, batch_size=50, lr=0.004, callbacks=[Watch()]).fit(X, y)
    rates.clear()
    weights = model.module_.readout.weight.detach().clone()
    model.partial_fit(X, y)
    assert model.n_iter_ == len(model.history_) == 21
    assert [epoch["epoch"] for epoch in model.history_] == list(range(1, 22))
    assert len(set(rates)) == 1 and len(rates) == -(-len(X) // 50)
    assert not torch.equal(model.module_.readout.weight, weights)
    restored = pickle.loads(pickle.dumps(model.set_params(callbacks=None))).partial_fit(X, y)
    assert [epoch["epoch"] for epoch in restored.history_] == list(range(1, 23))


def test_partial_fit_shuffles_anew_in_every_call():
    orders = []

    class Watch(Callback):
        def on_batch_begin(self, net, batch, **kwargs):
            orders[-1].append(batch[0])

        def __deepcopy__(self, memo):
            return self

    X, y = IRIS
    model = DEQClassifier(**SMALL, batch_size=30, callbacks=[Watch()])
    for _ in range(3):
        orders.append([])
        model.partial_fit(X, y)
    first, second, third = (torch.cat(order) for order in orders)
    assert not torch.equal(first, second) and not torch.equal(second, third)
    assert_allclose(third.sort(0).values, first.sort(0).values)


def test_partial_fit_knows_classes_it_has_not_seen_and_refuses_others():
    X, y = IRIS
    model = DEQClassifier(**SMALL).partial_fit(X[:80], y[:80], classes=[0, 1, 2])
    assert model.predict_proba(X).shape == (150, 3)
    model.partial_fit(X, y)
    with pytest.raises(ValueError, match=r"not among the classes of the first call: \[7\]"):
        model.partial_fit(X, np.where(y == 0, 7, y))


def test_warm_start_continues_and_cold_start_does_not():
    X, y = IRIS
    model = DEQClassifier(
        hyperparameters=None, width=16, max_epochs=10, warm_start=True, random_state=0
    ).fit(X, y)
    module, loss = model.module_, model.history_[-1]["train_loss"]
    model.fit(X, y)
    assert model.module_ is module and model.history_[0]["train_loss"] < 1.1 * loss
    with pytest.raises(ValueError, match="not among the classes"):
        model.fit(X, y + 1)
    model.set_params(warm_start=False).fit(X, y + 1)
    assert model.module_ is not module


def test_a_warm_start_solves_as_the_parameters_say_now():
    X, y = DIABETES
    model = DEQRegressor(
        hyperparameters=None, width=16, train="all", max_epochs=2, warm_start=True, max_iter=40,
        random_state=0,
    ).fit(X, y)  # fmt: skip
    features = model.set_params(max_iter=77, tol=1e-3).fit(X, y).module_.features
    assert (features.max_iter, features.tol) == (77, 1e-3)
    with pytest.raises(ValueError, match="NaN"):
        model.set_params(max_iter=99).fit(X, np.full(len(X), np.nan))
    assert features.max_iter == 77


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (LRScheduler(), "LRScheduler is of no use here: the learning rate rises to lr"),
        (("accuracy", EpochScoring("accuracy")), "EpochScoring is of no use here: history_ has"),
        (ProgressBar(), "ProgressBar is of no use here: verbose=1"),
        (EarlyStopping(), "EarlyStopping monitors 'valid_loss', and no rows are held out: set"),
    ],
    ids=["rate", "score", "bar", "early stopping"],
)
def test_callbacks_without_an_effect_are_refused(callback, message):
    X, y = IRIS
    model = DEQClassifier(hyperparameters=None, width=8, train="all", callbacks=[callback])
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)


def test_early_stopping_of_skorch_with_rows_that_are_held_out():
    X, y = IRIS
    settings = {"hyperparameters": None, "width": 8, "train": "all", "max_epochs": 30}
    stop = EarlyStopping(patience=2, threshold=10)  # no loss falls by as much
    model = DEQClassifier(**settings, early_stopping=True, callbacks=[stop], random_state=0)
    assert model.fit(X, y).n_iter_ == 3


class Watch(Callback):
    def __init__(self):
        self.rows, self.events = 0, set()

    def on_batch_end(self, net, batch, training, **kwargs):
        self.rows += len(batch[0]) if training else 0
        self.events.add("valid" if not training else "train")

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.events.add("grad")

    def on_train_end(self, net, **kwargs):
        Watch.last = self


@pytest.mark.parametrize(("n", "sizes"), [(256, {256}), (257, {128, 129})])
def test_rows_of_a_training_step(n, sizes):
    seen = set()

    class Sizes(Callback):
        def on_batch_end(self, net, batch, training, **kwargs):
            seen.add(len(batch[0]))

    X = np.random.default_rng(0).normal(size=(n, 2)).astype("float32")
    model = DEQClassifier(hyperparameters=None, width=4, max_epochs=1, callbacks=[Sizes()])
    model.fit(X, X[:, 0] > 0)
    assert seen == sizes


def test_nothing_is_held_out_unless_asked_and_user_callbacks_are_copied():
    X, y = IRIS
    mine = Watch()
    DEQClassifier(hyperparameters=None, width=8, max_epochs=3, callbacks=[mine], batch_size=40).fit(
        X, y
    )
    assert mine.rows == 0 and not mine.events
    assert Watch.last.rows == 3 * 150 and Watch.last.events == {"train", "grad"}
    model = DEQClassifier(
        hyperparameters=None, width=8, max_epochs=3, callbacks=[mine], early_stopping=True
    )
    model.fit(X, y)
    assert Watch.last.rows == 3 * 135 and Watch.last.events == {"train", "grad", "valid"}
    assert "valid_accuracy" in model.history_[0]


def test_early_stopping_stops_and_restores_the_best_weights():
    X, y = load_breast_cancer(return_X_y=True)
    X = scale(X)
    model = DEQClassifier(
        hyperparameters=None, width=16, lr=0.05, n_iter_no_change=3, max_epochs=200, random_state=0
    )
    model.fit(X[:300], y[:300], X_val=X[300:], y_val=y[300:])
    losses = [epoch["valid_loss"] for epoch in model.history_]
    assert model.n_iter_ == len(losses) < 200
    assert np.argmin(losses) == len(losses) - 4
    probability = model.predict_proba(X[300:])[np.arange(269), y[300:]]
    assert_allclose(-np.log(probability).mean(), min(losses), rtol=1e-4)


def test_callbacks_see_the_end_of_the_last_epoch(capsys):
    class Count(Callback):
        begun = ended = 0

        def on_epoch_begin(self, net, **kwargs):
            Count.begun += 1

        def on_epoch_end(self, net, **kwargs):
            Count.ended += 1

    X, y = IRIS
    model = DEQClassifier(
        hyperparameters=None, width=16, lr=0.05, n_iter_no_change=3, max_epochs=200,
        early_stopping=True, random_state=0, callbacks=[Count()], verbose=2,
    ).fit(X, y)  # fmt: skip
    assert Count.begun == Count.ended == model.n_iter_ < 200
    assert len(capsys.readouterr().out.splitlines()) == model.n_iter_ + 1


@pytest.mark.parametrize("epochs", [0, 2])
def test_an_interrupt_by_the_user_is_not_taken_for_the_end(epochs, monkeypatch):
    whole, calls = TrainingNet.run_single_epoch, []

    def interrupted(self, iterator, training, **kwargs):
        calls.append(training)
        if len(calls) > 2 * epochs:  # twice an epoch: there is a validation too
            raise KeyboardInterrupt
        return whole(self, iterator, training, **kwargs)

    monkeypatch.setattr(TrainingNet, "run_single_epoch", interrupted)
    X, y = IRIS
    model = DEQClassifier(**SMALL)
    if not epochs:
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, y)
        return
    with pytest.warns(ConvergenceWarning, match="interrupted after 2 of 20 epochs"):
        model.fit(X, y)
    assert model.n_iter_ == 2 and np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize(
    "parameters, extra",
    [
        ({"early_stopping": True}, {}),
        ({"callbacks": [Callback()]}, {}),
        ({}, {"X_val": IRIS[0], "y_val": IRIS[1]}),
    ],
)
def test_a_readout_has_no_epochs(parameters, extra):
    model = DEQClassifier(hyperparameters=None, width=8, train="readout", **parameters)
    with pytest.raises(ValueError, match="needs train='all'"):
        model.fit(*IRIS, **extra)


def test_the_number_of_outputs_stays():
    X, y = DIABETES
    two = np.column_stack([y, y])
    model = DEQRegressor(**SMALL).partial_fit(X, y)
    with pytest.raises(ValueError, match="y has 2 outputs, but the network was begun with 1"):
        model.partial_fit(X, two)
    with pytest.raises(ValueError, match="y_val does not fit y"):
        DEQRegressor(**SMALL).fit(X, y, X_val=X, y_val=two)
    with pytest.raises(ValueError, match="y_val does not fit y: y has labels"):
        DEQClassifier(**SMALL).fit(*IRIS, X_val=IRIS[0], y_val=IRIS[1] + 1)
    model = DEQRegressor(**SMALL, warm_start=True).fit(X, two)
    with pytest.raises(ValueError, match="y has 1 outputs"):
        model.fit(X, y)


@pytest.mark.parametrize(
    "weights, message", [({0: -1.0}, "negative"), ({0: 0, 1: 0, 2: 0}, "leaves no")]
)
def test_class_weights_are_checked(weights, message):
    with pytest.raises(ValueError, match=f"class_weight.*{message}"):
        DEQClassifier(**SMALL, class_weight=weights).fit(*IRIS)


def test_warnings_point_at_the_caller():
    with pytest.warns(ConvergenceWarning) as caught:
        DEQRegressor(**{**SMALL, "max_epochs": 1}, max_iter=1).fit(*DIABETES)
    assert {Path(warning.filename) for warning in caught} == {Path(__file__)}


def test_validation_rows_need_their_labels():
    with pytest.raises(ValueError, match="X_val and y_val must be given together"):
        DEQClassifier(**SMALL).fit(*IRIS, X_val=IRIS[0])


def test_validation_rows_pass_through_a_pipeline():
    from sklearn import config_context

    X, y = IRIS
    with config_context(enable_metadata_routing=True):
        model = DEQClassifier(**SMALL).set_fit_request(X_val=True, y_val=True)
        pipeline = make_pipeline(StandardScaler(), model, transform_input=["X_val"])
        pipeline.fit(X[::2], y[::2], X_val=X[1::2], y_val=y[1::2])
        assert "valid_loss" in pipeline[-1].history_[0]


def test_history_and_progress(capsys):
    model = DEQClassifier(
        hyperparameters=None, width=8, max_epochs=2, verbose=2, random_state=0
    ).fit(*IRIS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "fixed-point iterations" in lines[0] and "2/2" in lines[1]
    assert {"epoch", "train_loss", "train_accuracy", "seconds", "fixed_point_n_iter"} <= set(
        model.history_[0]
    )
    assert 1 <= model.fixed_point_n_iter_ <= 100 and model.fixed_point_residual_ <= TRAINING_TOL
    DEQClassifier(hyperparameters=None, width=8, max_epochs=2).fit(*IRIS)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("train", ["all", "readout"])
def test_fixed_points_that_do_not_converge_are_told(train):
    model = DEQClassifier(
        hyperparameters=None, width=16, max_epochs=2, max_iter=2, train=train, random_state=0
    )
    with pytest.warns(ConvergenceWarning, match="did not converge.*Increase max_iter"):
        model.fit(*IRIS)
    assert model.fixed_point_residual_ > model.tol
    with pytest.warns(ConvergenceWarning, match="forward fixed point did not converge"):
        model.predict(IRIS[0])


@pytest.mark.parametrize("batch_size", ["auto", 50])
def test_a_loss_that_is_not_finite_ends_training_with_the_best_weights(batch_size):
    X, y = DIABETES[0][:200], DIABETES[1][:200]
    model = DEQRegressor(
        hyperparameters=None,
        width=16,
        max_epochs=50,
        lr=1e15,
        batch_size=batch_size,
        random_state=0,
    )
    with pytest.warns(ConvergenceWarning, match="not finite.*Lower lr"):
        model.fit(X, y)
    assert model.n_iter_ < 50
    # those that the best epoch began with, here the initial ones, whose readout is 0
    assert_allclose(model.predict(X), y.mean(), rtol=1e-6)


def test_a_loss_that_ends_higher_than_it_began_is_told_of_and_taken_back():
    X, y = load_wine(return_X_y=True)
    model = EquivalentExplicitClassifier(
        16, hyperparameters=None, lr=10, max_epochs=3, batch_size=8, random_state=0
    )
    with pytest.warns(ConvergenceWarning, match="twice that of the first in epoch 3.*Lower lr=10"):
        model.fit(scale(X), y)
    assert np.isfinite(model.history_[-1]["train_loss"])
    assert_allclose(model.predict_proba(scale(X)), 1 / 3)  # the initial weights, readout 0


@pytest.mark.slow
def test_a_long_training_at_a_high_learning_rate_stays_well_posed():
    X, y = IRIS
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a fixed point that is not found would be told
        model = DEQClassifier(
            hyperparameters=None, width=32, lr=0.2, max_epochs=200, random_state=0
        ).fit(X, y)
    assert max(epoch["fixed_point_residual"] for epoch in model.history_) <= TRAINING_TOL
    assert model.history_[-1]["train_loss"] < 0.1
    W = model.module_.features.effective_recurrent_weight().detach()
    assert torch.linalg.matrix_norm(W, 2) < 1


def test_a_recurrent_variance_that_cannot_be_kept_is_told():
    with pytest.warns(UserWarning, match="recurrent_var=0.5 .* train='readout'"):
        DEQClassifier(**SMALL, recurrent_var=0.5).fit(*IRIS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DEQClassifier(**SMALL, recurrent_var=0.5, train="readout").fit(*IRIS)


@pytest.mark.slow
@pytest.mark.parametrize("Estimator", ESTIMATORS)
def test_pickles_keep_predictions_and_do_not_grow_with_the_rows(Estimator):
    X, y = data_for(Estimator)
    few = Estimator(**SMALL).fit(X[::3], y[::3])
    many = Estimator(**SMALL).fit(X, y)
    assert_array_equal(pickle.loads(pickle.dumps(many)).predict(X), many.predict(X))
    if few.module_.readout.weight.dtype == many.module_.readout.weight.dtype:
        assert abs(len(pickle.dumps(many)) - len(pickle.dumps(few))) < 200
    again = pickle.loads(pickle.dumps(many)).partial_fit(X, y)
    assert again.n_iter_ == many.n_iter_ + 1


@pytest.mark.slow
def test_precision_follows_the_rows_that_fit_one_batch():
    X, y = IRIS

    def precision(X, **params):
        return DEQClassifier(**SMALL, **params).fit(X, y).module_.readout.weight.dtype

    assert precision(X) == torch.float64
    assert precision(X.astype(np.float32)) == torch.float32
    assert precision(X, batch_size=50) == torch.float32
    assert precision(X, dtype="float64", batch_size=50) == torch.float64
    exact = DEQClassifier(**SMALL, dtype="float64", batch_size=50).fit(X, y)
    assert exact.predict_proba(X).dtype == np.float64


def test_multi_output_regression():
    X, y = DIABETES
    both = np.column_stack([y, 1000 - 2 * y])
    for train in ("all", "readout"):
        model = DEQRegressor(
            hyperparameters=None, width=32, train=train, max_epochs=30, random_state=0
        ).fit(X, both)
        predicted = model.predict(X)
        assert predicted.shape == both.shape
        assert_allclose(predicted[:, 1], 1000 - 2 * predicted[:, 0], rtol=1e-3)
        assert model.score(X, both) > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("train", ["all", "readout"])
def test_one_class_two_classes_and_strings(train):
    X, y = IRIS
    model = DEQClassifier(**SMALL, train=train).fit(X, np.full(150, "only"))
    assert_array_equal(model.predict(X), np.full(150, "only"))
    assert_allclose(model.predict_proba(X), 1)
    names = np.array(["no", "yes"])[(y > 0).astype(int)]
    model = DEQClassifier(hyperparameters=None, width=16, train=train, random_state=0).fit(X, names)
    assert model.decision_function(X).shape == (150,)
    assert_array_equal(model.predict(X), np.where(model.decision_function(X) > 0, "yes", "no"))
    odds = model.predict_proba(X)
    assert_allclose(np.log(odds[:, 1] / odds[:, 0]), model.decision_function(X), rtol=1e-6)
    assert model.score(X, names) > 0.98


def test_errors_name_the_parameter():
    for params, match in [
        ({"recurrent_var": 1.5}, "recurrent_var=1.5 leaves no input variance"),
        ({"activation": "swoosh"}, "activation='swoosh'"),
        ({"device": "toaster"}, "device='toaster'"),
        ({"width": 0}, "'width' parameter"),
        ({"train": "some"}, "'train' parameter"),
        ({"dtype": "float16"}, "'dtype' parameter"),
    ]:
        with pytest.raises(ValueError, match=match):
            DEQClassifier(**{**SMALL, **params}).fit(*IRIS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["leaky_relu", "abs", "tanh", "erf", "sin", "elu", "gelu", "silu"])
def test_every_activation_trains(name):
    model = DEQClassifier(
        hyperparameters=None, width=32, activation=name, max_epochs=50, lr=0.02, random_state=0
    )
    model.fit(*IRIS)
    assert model.score(*IRIS) > 0.95


@pytest.mark.slow
def test_defaults_on_wine_and_digits():
    for load, floor in [(load_wine, 0.95), (load_digits, 0.95)]:
        X, y = load(return_X_y=True)
        order = np.random.RandomState(0).permutation(len(X))
        X, y = scale(X[order]), y[order]
        n = len(X) * 3 // 4
        model = DEQClassifier(hyperparameters=None, width=128, max_epochs=30, random_state=0).fit(
            X[:n], y[:n]
        )
        assert model.score(X[n:], y[n:]) > floor


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("Estimator", ESTIMATORS)
def test_a_gpu_gives_what_the_cpu_gives(Estimator):
    X, y = data_for(Estimator)
    here = Estimator(hyperparameters=None, width=32, random_state=0, device="cpu").fit(X, y)
    there = Estimator(hyperparameters=None, width=32, random_state=0, device="cuda").fit(X, y)
    assert abs(there.score(X, y) - here.score(X, y)) < 0.02
    loaded = pickle.loads(pickle.dumps(there))
    assert next(loaded.module_.parameters()).device.type == "cpu"
    assert_allclose(loaded.predict(X), there.predict(X), rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("train", ["all", "readout"])
@pytest.mark.parametrize("regress", [True, False])
def test_a_recurrent_variance_of_zero_is_a_network_of_one_layer(train, regress):
    (X, y), model = (DIABETES, DEQRegressor) if regress else (IRIS, DEQClassifier)
    model = model(width=32, recurrent_var=0.0, train=train, random_state=0).fit(X, y)
    assert model.score(X, y) > (0.4 if regress else 0.9)
    assert np.isfinite(model.history_[-1].get("train_loss", 0.0))


def test_no_two_fits_of_a_warm_start_shuffle_alike(monkeypatch):
    X, y = IRIS
    orders, randperm = [], torch.randperm
    monkeypatch.setattr(
        torch, "randperm", lambda *a, **k: orders.append(randperm(*a, **k)) or orders[-1]
    )

    def first_orders():
        del orders[:]
        model = DEQClassifier(
            hyperparameters=None,
            width=8,
            warm_start=True,
            batch_size=32,
            max_epochs=2,
            random_state=0,
        )
        for _ in range(4):
            model.fit(X, y)
        return [order.tolist() for order in orders[::2]]

    found = first_orders()
    assert len({tuple(order) for order in found}) == 4
    assert first_orders() == found


class Fails(Callback):
    """Raise in the second epoch."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            raise RuntimeError("no more")


@pytest.mark.parametrize("warm_start", [False, True])
def test_a_refit_that_raises_changes_nothing(warm_start):
    X, y = IRIS
    model = DEQClassifier(**SMALL, warm_start=warm_start).fit(X, y)
    before, attributes = model.predict_proba(X), set(vars(model))
    model.set_params(callbacks=[Fails()])
    with pytest.raises(RuntimeError, match="no more"):
        model.fit(X[::2] + 1, y[::2])
    np.testing.assert_array_equal(model.predict_proba(X), before)
    assert set(vars(model)) == attributes


def test_a_warm_start_whose_warning_is_an_error_changes_nothing():
    X, y = IRIS
    model = DEQClassifier(**SMALL, warm_start=True).fit(X, y)
    before, history = model.predict_proba(X), model.history_
    model.set_params(max_iter=1, max_epochs=1)  # of which the one begins at no last solutions
    with pytest.raises(ConvergenceWarning, match="did not converge"):
        model.fit(X, y)
    model.module_.features.max_iter = 100
    np.testing.assert_array_equal(model.predict_proba(X), before)
    assert model.history_ is history


class FailsInTheThird(Callback):
    """Raise at the end of the third epoch, once."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 3:
            raise RuntimeError("no more")


def test_a_partial_fit_that_raises_is_as_if_it_had_not_been():
    X, y = IRIS
    failing, expected = (
        DEQClassifier(**SMALL, callbacks=[FailsInTheThird()]),
        DEQClassifier(**SMALL),
    )
    for k in range(4):
        if k == 2:
            with pytest.raises(RuntimeError, match="no more"):
                failing.partial_fit(X, y)
        else:
            failing.partial_fit(X, y)
            expected.partial_fit(X, y)
    np.testing.assert_array_equal(failing.predict_proba(X), expected.predict_proba(X))
    assert [epoch["epoch"] for epoch in failing.history_] == [1, 2, 3]


def test_a_pickle_from_a_second_gpu_loads_where_there_is_one_or_none(monkeypatch):
    assert present_device("cuda:1") == "cpu" or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert present_device("cuda:1") == "cuda" and present_device("cuda:0") == "cuda:0"
    assert present_device("cuda") == "cuda" and present_device("cpu") == "cpu"
    monkeypatch.undo()
    X, y = IRIS
    model = DEQClassifier(**SMALL).fit(X, y)
    expected = model.predict_proba(X)
    state = model._state()
    state |= {"device_": "cuda:1", "_devices": {"module_": "cuda:1"}}  # as fitted on such a machine
    moved = []
    monkeypatch.setattr("sk_deq._base._moved", lambda value, to: moved.append(to) or value)
    other = DEQClassifier.__new__(DEQClassifier)
    other.__setstate__(state)
    present = "cuda" if torch.cuda.is_available() else "cpu"
    assert moved == [present] and other.device_ == present
    if present == "cpu":
        np.testing.assert_array_equal(other.predict_proba(X), expected)


def test_input_dropout_sets_a_share_to_zero_and_keeps_the_mean():
    net = TrainingNet(torch.nn.Identity, criterion=None, lr=0.1, input_dropout=0.2)
    net.generator = torch.Generator().manual_seed(0)
    X = torch.full((1000, 100), 3.0)
    thinned = net._thinned(X)
    assert_allclose(thinned.unique(), [0, 3 / 0.8], rtol=1e-6)
    assert abs(float((thinned == 0).double().mean()) - 0.2) < 5 * (0.16 / X.numel()) ** 0.5
    assert not torch.equal(thinned, net._thinned(X))


SMALL_BATCHES = {"hyperparameters": None, "batch_size": 50, "width": 16, "max_epochs": 3}


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_inputs_are_dropped_of_classifiers_of_many_columns_in_batches(cls, monkeypatch):
    X, y = load_wine(return_X_y=True)
    X = scale(X)

    def weights(input_dropout, **params):
        model = cls(**{**SMALL_BATCHES, **params}, random_state=0)
        return model.set_params(input_dropout=input_dropout).fit(X, y).module_.state_dict()

    def equal(one, two):
        return all(torch.equal(one[key], two[key]) for key in one)

    none, some = weights(0.0), weights(0.2)
    assert not equal(none, some) and equal(some, weights(0.2))
    assert equal(weights("auto"), none)  # wine has few columns
    monkeypatch.setattr("sk_deq._nets.base._MANY_COLUMNS", 12)
    assert equal(weights("auto"), some if hasattr(cls, "predict_proba") else none)
    others = [{"batch_size": 200}]  # one batch, in which order does not matter
    if cls is EquivalentExplicitClassifier:
        teacher = DEQClassifier(**SMALL_BATCHES, input_dropout=0, random_state=0).fit(X, y)
        others.append({"teacher": teacher, "width": 8})
    for params in others:
        assert equal(weights("auto", **params), weights(0.0, **params))


def test_predictions_drop_nothing():
    X, y = load_wine(return_X_y=True)
    model = DEQClassifier(**SMALL_BATCHES, input_dropout=0.5, random_state=0).fit(scale(X), y)
    once, again = (model.predict_proba(scale(X)) for _ in range(2))
    assert_array_equal(once, again)
    by_hand = model.module_(model._scaler.transform(torch.tensor(scale(X))).float())
    assert_allclose(by_hand.softmax(1).detach(), once, atol=1e-5)
