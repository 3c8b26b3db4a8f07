import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import scale

from sk_deq import (
    DEQClassifier,
    DEQRegressor,
    EquivalentExplicitClassifier,
    EquivalentExplicitRegressor,
)
from sk_deq.kernels import deq_kernel, explicit_kernel
from sk_deq.theory import match_explicit


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], y[order]
    return X[:1000], y[:1000], X[1000:], y[1000:]


@pytest.fixture(scope="module")
def teacher(digits):
    X, y, _, _ = digits
    return DEQClassifier(hyperparameters=None, width=64, max_epochs=20, random_state=0).fit(X, y)


def test_from_deq_copies_the_specification():
    deq = DEQClassifier(
        hyperparameters=None,
        width=33,
        activation="tanh",
        recurrent_var=0.1,
        bias_var=0.3,
        lr=0.01,
        random_state=7,
    )
    explicit = EquivalentExplicitClassifier.from_deq(deq, kernel="ntk", lr=0.02)
    ours, theirs = explicit.get_params(), deq.get_params()
    same = [k for k in ours if k in theirs and k != "lr"]
    assert {k: ours[k] for k in same} == {k: theirs[k] for k in same}
    assert ours["kernel"] == "ntk" and ours["lr"] == 0.02
    with pytest.raises(TypeError, match="must be a DEQClassifier, got DEQRegressor"):
        EquivalentExplicitClassifier.from_deq(DEQRegressor())


@pytest.mark.slow
@pytest.mark.parametrize("name, depth", [("relu", 2), ("tanh", 1), ("gelu", 2)])
@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_the_network_starts_from_the_match(name, depth, kernel):
    X, y = load_diabetes(return_X_y=True)
    model = EquivalentExplicitRegressor(
        hyperparameters=None, width=16, activation=name, kernel=kernel, max_epochs=1, random_state=0
    ).fit(X, y)
    match = match_explicit(name, recurrent_var=0.2, kernel=kernel)
    assert model.match_.n_layers == match.n_layers
    assert_allclose(model.match_.achieved, match.achieved, rtol=1e-6)
    assert len(model.module_.features.hidden) == model.match_.n_layers - 1
    if kernel == "ck":
        assert model.match_.n_layers == depth


@pytest.mark.slow
@pytest.mark.parametrize("input_scaling", ["rms", "sphere"])
def test_in_high_dimension_the_matched_kernel_is_that_of_the_deq(input_scaling):
    errors = []
    for p in (100, 1600):
        X = np.random.default_rng(0).normal(size=(p // 2, p))
        model = EquivalentExplicitRegressor(
            hyperparameters=None,
            width=4,
            train="readout",
            input_scaling=input_scaling,
            random_state=0,
        ).fit(X, X[:, 0])
        rows = model._scaler.transform(X)
        K = deq_kernel(rows, recurrent_var=0.2, tau0=1.0)
        matched = explicit_kernel(rows, layers=model.module_.features.layers, tau0=1.0)
        errors.append(np.linalg.norm(matched - K, 2) / np.linalg.norm(K, 2))
    assert errors[1] < 0.01
    assert errors[1] < errors[0] / 2


@pytest.mark.slow
def test_a_bias_enters_the_match_as_a_coordinate_of_the_input():
    X, y = load_diabetes(return_X_y=True)
    model = EquivalentExplicitRegressor(
        hyperparameters=None,
        width=4000,
        bias_var=0.4,
        train="readout",
        random_state=0,
        dtype="float64",
    ).fit(X, y)
    match = match_explicit("relu", recurrent_var=0.2, tau0=np.sqrt(1 + 0.4 / 0.8))
    assert_allclose(model.match_.achieved, match.achieved, rtol=1e-6)
    assert float(model.module_.features.bias.detach().var()) == pytest.approx(0.5, rel=0.1)


@pytest.mark.slow
def test_readout_with_the_ntk_gives_features_of_its_four_numbers():
    X, y = load_diabetes(return_X_y=True)
    model = EquivalentExplicitRegressor(
        hyperparameters=None, width=16, kernel="ntk", train="readout", random_state=0
    )
    model.fit(X, y)
    target = match_explicit("relu", recurrent_var=0.2, kernel="ntk").target
    assert_allclose(model.match_.target, target, rtol=1e-10)
    assert_allclose(model.match_.achieved, target, rtol=1e-6, atol=1e-8)


@pytest.mark.long
def test_distillation_follows_the_teacher_and_not_the_labels(digits, teacher):
    X, y, X_test, y_test = digits
    shuffled = np.random.default_rng(1).permutation(y)
    student = EquivalentExplicitClassifier.from_deq(teacher, teacher=teacher, max_epochs=200)
    student.fit(X, shuffled)
    assert student.agreement_ == np.mean(student.predict(X) == teacher.predict(X)) > 0.98
    assert np.mean(student.predict(X_test) == teacher.predict(X_test)) > 0.95
    student.fit(X, y, X_val=X_test, y_val=y_test)
    assert student.agreement_ == np.mean(student.predict(X_test) == teacher.predict(X_test))


@pytest.mark.slow
def test_a_student_of_the_same_width_begins_where_the_teacher_is(digits, teacher):
    X, y, X_test, _ = digits
    one_step = {"teacher": teacher, "max_epochs": 1, "batch_size": len(X), "lr": 1e-9}
    student = EquivalentExplicitClassifier.from_deq(teacher, **one_step).fit(X, y)
    assert np.mean(student.predict(X_test) == teacher.predict(X_test)) > 0.8
    other = EquivalentExplicitClassifier.from_deq(teacher, width=65, **one_step).fit(X, y)
    assert other.predict_proba(X_test).max() < 0.11 < student.predict_proba(X_test).max(1).mean()


@pytest.mark.slow
def test_partial_fit_checks_the_teacher_and_says_how_near_it_is(digits, teacher):
    X, y, _, _ = digits
    for wrong, error in ((DEQRegressor(), TypeError), (DEQClassifier(), NotFittedError)):
        student = EquivalentExplicitClassifier(hyperparameters=None, width=64, teacher=wrong)
        with pytest.raises(error, match=type(wrong).__name__):
            student.partial_fit(X, y)
    student = EquivalentExplicitClassifier(
        hyperparameters=None, width=64, teacher=teacher, random_state=0
    )
    student.partial_fit(X, y)
    assert student.agreement_ == np.mean(student.predict(X) == teacher.predict(X))
    student.set_params(teacher=None).fit(X, y)
    assert not hasattr(student, "agreement_")


@pytest.mark.slow
def test_unlabelled_rows_bring_the_student_closer(digits, teacher):
    X, y, X_test, _ = digits
    agreement = []
    for X_unlabeled in (None, X[100:]):
        # of another width: it cannot begin with the teacher's weights, which are close already
        student = EquivalentExplicitClassifier.from_deq(
            teacher, teacher=teacher, width=100, max_epochs=60, random_state=0
        )
        student.fit(X[:100], y[:100], X_unlabeled=X_unlabeled)
        agreement.append(np.mean(student.predict(X_test) == teacher.predict(X_test)))
    assert agreement[1] > agreement[0] + 0.02


@pytest.mark.slow
def test_regression_distils_too():
    X, y = load_diabetes(return_X_y=True)
    X = scale(X)
    deq = DEQRegressor(hyperparameters=None, width=32, max_epochs=40, random_state=0).fit(X, y)
    student = EquivalentExplicitRegressor.from_deq(deq, teacher=deq, max_epochs=200)
    assert student.fit(X, y).agreement_ > 0.95


@pytest.mark.slow
def test_a_frozen_teacher_survives_cloning(digits, teacher):
    X, y, _, _ = digits
    student = EquivalentExplicitClassifier.from_deq(
        teacher, teacher=FrozenEstimator(teacher), max_epochs=60
    )
    assert cross_val_score(student, X, y, cv=2).min() > 0.8
    with pytest.raises(NotFittedError):
        clone(student.set_params(teacher=teacher)).fit(X, y)


@pytest.mark.slow
def test_errors_name_the_parameter(digits, teacher):
    X, y, _, _ = digits
    small = {"width": 8, "max_epochs": 1}
    kinds = "DEQClassifier or DEQKernelRidgeClassifier"
    with pytest.raises(TypeError, match=f"teacher must be a fitted {kinds}, got DEQRegressor"):
        EquivalentExplicitClassifier(teacher=DEQRegressor(), **small).fit(X, y)
    with pytest.raises(ValueError, match="teacher needs train='all'"):
        EquivalentExplicitClassifier(teacher=teacher, train="readout").fit(X, y)
    with pytest.raises(ValueError, match="X_unlabeled needs a teacher"):
        EquivalentExplicitClassifier(**small).fit(X, y, X_unlabeled=X)
    with pytest.raises(ValueError, match="the teacher"):
        EquivalentExplicitClassifier(teacher=teacher, **small).fit(X, y % 3)
    with pytest.raises(ValueError, match="center=False cannot be matched"):
        EquivalentExplicitClassifier(center=False, matching="high_dim", **small).fit(X, y)
    with pytest.raises(ValueError, match="matching='exact' has one layer, got n_layers=2"):
        EquivalentExplicitClassifier(matching="exact", n_layers=2, **small).fit(X, y)
