"""Metadata routing, names, tables out, representations, clones and grids."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr
from tiny import CLASSIFIERS, NETWORKS, REGRESSORS, SETTINGS, tiny

IRIS, DIABETES = load_iris(return_X_y=True), load_diabetes(return_X_y=True)
PREDICTORS = [*CLASSIFIERS, *REGRESSORS]


def data_for(name):
    X, y = IRIS if name in CLASSIFIERS else DIABETES
    return X[::2], y[::2]


@pytest.mark.slow
@pytest.mark.parametrize("name", PREDICTORS)
def test_sample_weight_is_routed_through_pipeline_and_search(name):
    X, y = data_for(name)
    weight = np.random.default_rng(0).integers(0, 4, len(X)).astype(float)
    with config_context(enable_metadata_routing=True):
        model = tiny(name).set_fit_request(sample_weight=True)
        scorer = get_scorer("accuracy" if name in CLASSIFIERS else "r2")
        scorer = scorer.set_score_request(sample_weight=True)
        pipe = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model)
        grid = {f"{name.lower()}__recurrent_var": [0.1, 0.2]}
        search = GridSearchCV(pipe, grid, cv=2, scoring=scorer).fit(X, y, sample_weight=weight)
    best = clone(search.best_estimator_[-1]).fit(StandardScaler().fit_transform(X), y, weight)
    assert_array_equal(search.predict(X), best.predict(StandardScaler().fit_transform(X)))
    unweighted = clone(best).fit(StandardScaler().fit_transform(X), y)
    assert not np.array_equal(
        outputs(unweighted, StandardScaler().fit_transform(X)),
        outputs(best, StandardScaler().fit_transform(X)),
    )


def outputs(model, X):
    return (model.predict_proba if hasattr(model, "predict_proba") else model.predict)(X)


@pytest.mark.parametrize("name", PREDICTORS)
def test_unrequested_weights_are_an_error(name):
    X, y = data_for(name)
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(tiny(name), {"recurrent_var": [0.1]}, cv=2)
        with pytest.raises(ValueError, match=r"sample_weight.* are passed but are not explicitly"):
            search.fit(X, y, sample_weight=np.ones(len(X)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_validation_rows_go_through_a_pipeline(name):
    X, y = IRIS if name in CLASSIFIERS else DIABETES
    train, valid = slice(0, None, 2), slice(1, None, 2)
    model = tiny(name, n_iter_no_change=3, max_epochs=100)
    with config_context(enable_metadata_routing=True):
        pipe = Pipeline(
            [("scale", StandardScaler()), ("net", model.set_fit_request(X_val=True, y_val=True))],
            transform_input=["X_val"],
        )
        pipe.fit(X[train], y[train], X_val=X[valid], y_val=y[valid])
    scaler = StandardScaler().fit(X[train])
    direct = clone(model).fit(
        scaler.transform(X[train]), y[train], X_val=scaler.transform(X[valid]), y_val=y[valid]
    )
    assert pipe[-1].n_iter_ == direct.n_iter_ == len(direct.history_)
    assert_array_equal(pipe.predict(X), direct.predict(scaler.transform(X)))


@pytest.mark.parametrize("name", NETWORKS)
def test_early_stopping_restores_the_best_weights(name):
    X, y = IRIS if name in CLASSIFIERS else DIABETES
    X = StandardScaler().fit_transform(X)
    model = tiny(name, lr=0.3, max_epochs=60, n_iter_no_change=4, weight_decay=0.0)
    model.fit(X[::4], y[::4], X_val=X[1::4], y_val=y[1::4])
    losses = [epoch["valid_loss"] for epoch in model.history_]
    assert len(losses) == int(np.argmin(losses)) + 1 + 4
    if name in CLASSIFIERS:
        p = model.predict_proba(X[1::4])
        loss = -np.log(p[np.arange(len(p)), y[1::4]]).mean()
    else:
        spread = y[::4].var()
        loss = ((model.predict(X[1::4]) - y[1::4]) ** 2).mean() / spread
    assert_allclose(loss, min(losses), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("library, kind", [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
def test_set_output(library, kind):
    X, _ = IRIS
    frame = kind({f"x{i}": X[:, i] for i in range(4)})
    matcher = tiny("KernelMatcher").set_output(transform=library)
    Z = matcher.fit_transform(frame)
    assert isinstance(Z, kind)
    assert list(Z.columns) == [f"kernelmatcher{i}" for i in range(8)]
    assert list(matcher.get_feature_names_out()) == list(Z.columns)
    assert_allclose(Z.to_numpy(), tiny("KernelMatcher").fit_transform(X))
    columns = make_column_transformer(
        (tiny("KernelMatcher"), ["x0", "x1"]), remainder="passthrough"
    )
    names = list(columns.set_output(transform=library).fit_transform(frame).columns)
    assert names[0] == "kernelmatcher__kernelmatcher0" and names[-1] == "remainder__x3"


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_feature_names_are_kept_and_checked(name):
    X, y = data_for(name)
    frame = pd.DataFrame(X).add_prefix("x")
    model = tiny(name).fit(frame, y)
    assert_array_equal(model.feature_names_in_, frame.columns)
    assert model.n_features_in_ == X.shape[1]
    method = "predict" if hasattr(model, "predict") else "transform"
    with pytest.raises(ValueError, match="feature names should match"):
        getattr(model, method)(frame.rename(columns={"x0": "other"}))


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_html_links_to_the_documentation(name):
    model = tiny(name)
    link = model._get_doc_link()
    assert link.startswith("https://") and link.endswith(f"sk_deq.{name}.html")
    for fitted in (model, model.fit(*data_for(name))):
        html = estimator_html_repr(make_pipeline(StandardScaler(), fitted))
        assert link in html and name in html


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_clone_has_the_parameters_and_no_fit(name):
    model = tiny(name, recurrent_var=0.1, bias_var=0.3).fit(*data_for(name))
    other = clone(model)
    assert other.get_params() == model.get_params()
    assert not [key for key in vars(other) if key.endswith("_") and not key.startswith("__")]


@pytest.mark.long
def test_nested_grids():
    X, y = IRIS
    pipe = Pipeline([("features", tiny("KernelMatcher")), ("model", LogisticRegression(C=100))])
    grid = [
        {"features__activation": ["relu", "tanh"], "features__n_components": [4, 32]},
        {"features": ["passthrough"], "model": [tiny("DEQKernelRidgeClassifier")],
         "model__alpha": [0.1, 1.0]},
    ]  # fmt: skip
    search = GridSearchCV(pipe, grid, cv=3).fit(X, y)
    assert len(search.cv_results_["params"]) == 6
    assert search.best_score_ > 0.9


@pytest.mark.parametrize("name", SETTINGS)
def test_misspelt_parameters_raise(name):
    with pytest.raises(TypeError, match="recurent_var"):
        type(tiny(name))(recurent_var=0.1)
    with pytest.raises(ValueError, match="Invalid parameter 'recurent_var'"):
        tiny(name).set_params(recurent_var=0.1)
