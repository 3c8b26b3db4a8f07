"""scikit-learn's meta-estimators around the estimators."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, f1_score
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_validate,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from tiny import CLASSIFIERS, REGRESSORS, tiny

IRIS = scale(load_iris().data), load_iris().target
CANCER = scale(load_breast_cancer().data)[::3], load_breast_cancer().target[::3]
DIABETES = scale(load_diabetes().data)[::3], load_diabetes().target[::3]
classifiers = pytest.mark.parametrize("name", CLASSIFIERS)
regressors = pytest.mark.parametrize("name", REGRESSORS)


def small(name):
    """Quick to learn iris, and without a search of its own."""
    params = {"width": 8, "lr": 0.1, "max_epochs": 40, "alpha": 0.1, "hyperparameters": None}
    return tiny(name, recurrent_var=0.2, **params)


@pytest.mark.slow
@classifiers
def test_searches(name):
    X, y = IRIS
    pipe = make_pipeline(StandardScaler(), small(name))
    grid = {f"{name.lower()}__activation": ["relu", "tanh"]}
    for search in (
        GridSearchCV(pipe, grid, cv=2),
        RandomizedSearchCV(pipe, grid, n_iter=2, cv=2, random_state=0),
        HalvingGridSearchCV(pipe, grid, cv=2, min_resources=60, random_state=0),
    ):
        search.fit(X, y)
        assert search.best_score_ > 0.85
        assert search.score(X, y) == search.best_estimator_.score(X, y) > 0.85


@pytest.mark.slow
@classifiers
def test_cross_validate_and_learning_curve(name):
    scores = cross_validate(small(name), *IRIS, cv=3, return_train_score=True)
    assert scores["test_score"].mean() > 0.85
    sizes, train, test = learning_curve(
        small(name), *IRIS, train_sizes=[0.2, 1.0], cv=3, shuffle=True, random_state=0
    )
    assert_array_equal(sizes, [20, 100])
    assert test[1].mean() > 0.85 and train.shape == test.shape == (2, 3)


@pytest.mark.slow
@classifiers
def test_calibration_threshold_and_frozen(name):
    X, y = CANCER
    calibrated = CalibratedClassifierCV(small(name), cv=3).fit(X, y)
    assert brier_score_loss(y, calibrated.predict_proba(X)[:, 1]) < 0.1
    fitted = small(name).fit(X[::2], y[::2])
    frozen = CalibratedClassifierCV(FrozenEstimator(fitted)).fit(X[1::2], y[1::2])
    inner = frozen.calibrated_classifiers_[0].estimator
    assert_array_equal(inner.predict_proba(X), fitted.predict_proba(X))
    tuned = TunedThresholdClassifierCV(small(name), scoring="f1", cv=3).fit(X, y)
    assert 0 < tuned.best_threshold_ < 1
    assert f1_score(y, tuned.predict(X)) > 0.9


@pytest.mark.slow
@classifiers
def test_ensembles(name):
    X, y = IRIS
    members = [("net", small(name)), ("linear", LogisticRegression())]
    voting = VotingClassifier(members, voting="soft").fit(X, y)
    mean = (voting.estimators_[0].predict_proba(X) + voting.estimators_[1].predict_proba(X)) / 2
    assert_allclose(voting.predict_proba(X), mean, rtol=1e-6)
    assert StackingClassifier(members, cv=2).fit(X, y).score(X, y) > 0.9
    bagging = BaggingClassifier(small(name), n_estimators=3, random_state=0).fit(X, y)
    assert bagging.score(X, y) > 0.85
    assert OneVsRestClassifier(small(name)).fit(X, y).score(X, y) > 0.85


@pytest.mark.slow
@classifiers
def test_adaboost_weights_matter(name):
    X, y = IRIS
    X, y = X[50:, :2], y[50:].copy()
    y[::9] = 3 - y[::9]  # not to be learned without an error, or boosting ends with the first
    boosted = AdaBoostClassifier(small(name), n_estimators=3, random_state=0).fit(X, y)
    assert boosted.score(X, y) > 0.6
    assert len(boosted.estimators_) == 3  # the second one saw other weights, not other rows
    first, second = (e.predict_proba(X) for e in boosted.estimators_[:2])
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.slow
@regressors
def test_targets(name):
    X, y = DIABETES
    two = np.column_stack([y, y[::-1] ** 2])
    each = MultiOutputRegressor(small(name)).fit(X, two)
    assert_allclose(each.predict(X)[:, 0], small(name).fit(X, y).predict(X), rtol=1e-6)
    logged = TransformedTargetRegressor(small(name), func=np.log, inverse_func=np.exp).fit(X, y)
    direct = small(name).fit(X, np.log(y))
    assert_allclose(logged.predict(X), np.exp(direct.predict(X)), rtol=1e-6)


@pytest.mark.slow
@regressors
def test_inspection(name):
    X, y = DIABETES
    rng = np.random.default_rng(0)
    X = np.column_stack([X[:, 2], rng.normal(size=len(X))])  # one feature matters, one does not
    model = small(name).fit(X, y)
    importance = permutation_importance(model, X, y, n_repeats=5, random_state=0).importances_mean
    assert importance[0] > max(0.1, 4 * importance[1])
    curve = partial_dependence(model, X, [0], grid_resolution=5)["average"][0]
    assert curve.shape == (5,) and curve[-1] > curve[0]


@pytest.mark.slow
def test_union_of_features():
    X, y = IRIS
    union = FeatureUnion([("deq", tiny("KernelMatcher")), ("scaled", StandardScaler())])
    Z = union.fit_transform(X)
    assert Z.shape == (150, 12)
    assert_allclose(Z[:, :8], clone(tiny("KernelMatcher")).fit_transform(X))
    assert list(union.get_feature_names_out())[::11] == ["deq__kernelmatcher0", "scaled__x3"]
    assert make_pipeline(union, LogisticRegression()).fit(X, y).score(X, y) > 0.9
