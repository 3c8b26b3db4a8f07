import builtins
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler, scale

from sk_deq import (
    DEQClassifier,
    DEQKernelRidge,
    DEQKernelRidgeClassifier,
    DEQRegressor,
    EquivalentExplicitClassifier,
    EquivalentExplicitRegressor,
    KernelMatcher,
)
from sk_deq.inspection import (
    ActivationDisplay,
    ConvergenceDisplay,
    EquivalenceDisplay,
    FeatureWeightsDisplay,
    SpectrumDisplay,
)
from sk_deq.kernels import deq_kernel
from sk_deq.pipelines import make_tabular_pipeline
from sk_deq.theory import deq_scale, match_explicit

matplotlib.use("Agg")

X, y = load_wine(return_X_y=True)
X = scale(X)
X.setflags(write=False)
y.setflags(write=False)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="module")
def matcher():
    return KernelMatcher(512, activation="tanh", recurrent_var=0.5, random_state=0).fit(X)


@pytest.fixture(scope="module")
def trained():
    return DEQClassifier(
        hyperparameters=None,
        width=32,
        max_epochs=5,
        early_stopping=True,
        dtype="float64",
        random_state=0,
    ).fit(X, y)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rank", "histogram"])
def test_spectrum_shows_the_eigenvalues(kind):
    K = np.diag([1.0, 3.0, 2.0, 1e-20])
    display = SpectrumDisplay.from_kernels({"a": K, "b": 2 * K}, kind=kind)
    assert isinstance(display, SpectrumDisplay)
    np.testing.assert_allclose(display.eigenvalues["b"], [6, 4, 2, 2e-20])
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["a", "b"]
    if kind == "rank":  # the eigenvalue that is 0 to rounding is not drawn
        np.testing.assert_allclose(display.lines_[0].get_ydata(), [3, 2, 1])
    else:
        assert sum(patch.get_data().values.sum() for patch in display.ax_.patches) == 6


@pytest.mark.slow
def test_spectrum_of_features_is_that_of_the_kernels(matcher):
    display = SpectrumDisplay.from_estimator(matcher, X)
    exact, features = display.eigenvalues.values()
    K = deq_kernel(X / matcher._scaler.scale_, activation="tanh", recurrent_var=0.5, tau0=1.0)
    np.testing.assert_allclose(exact, np.linalg.eigvalsh(K)[::-1], atol=1e-12)
    Z = matcher.transform(X)
    np.testing.assert_allclose(features, np.linalg.eigvalsh(Z @ Z.T)[::-1], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: DEQClassifier(
            1000, hyperparameters=None, train="readout", bias_var=0.5, random_state=0
        ),
        lambda: EquivalentExplicitClassifier(
            1000, hyperparameters=None, train="readout", random_state=0
        ),
        lambda: EquivalentExplicitClassifier(
            1000, train="readout", kernel="ntk", activation="erf", random_state=0
        ),
        lambda: make_pipeline(
            StandardScaler(),
            KernelMatcher(
                1000,
                activation="tanh",
                input_scaling="sphere",
                bias_var=0.5,
                kernel="ntk",
                random_state=0,
            ),
            RidgeClassifier(),
        ),
    ],
)
def test_untrained_features_of_any_estimator_have_the_kernel(make):
    # widths of 1000: the largest eigenvalue within a few times 1 / sqrt(1000), plus the error of
    # the four numbers at 13 columns
    display = SpectrumDisplay.from_estimator(make().fit(X, y), X)
    exact, features = display.eigenvalues.values()
    assert features[0] == pytest.approx(exact[0], rel=0.25)


def test_drawing_again_uses_the_axes_given(matcher):
    display = SpectrumDisplay.from_estimator(matcher, X)
    first = display.figure_
    _, ax = sys.modules["matplotlib.pyplot"].subplots()
    assert display.plot(ax=ax, linewidth=3) is display
    assert display.ax_ is ax and display.figure_ is ax.figure and display.figure_ is not first
    assert all(line.get_linewidth() == 3 for line in ax.lines)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_activations_are_those_of_the_match(activation):
    match = match_explicit(activation, recurrent_var=0.5)
    display = ActivationDisplay.from_layers(activation, match.layers, recurrent_var=0.5)
    assert len(display.lines_) == 1 + match.n_layers
    tau, mean = deq_scale(activation, recurrent_var=0.5)
    phi = {"relu": lambda t: np.maximum(t, 0), "tanh": np.tanh}[activation]
    deq = next(iter(display.activations.values()))
    np.testing.assert_allclose(deq, phi(tau * display.t) - mean, atol=1e-12)
    # every layer is centred: its mean over a standard normal is 0
    density = np.exp(-(display.t**2) / 2)
    for values in display.activations.values():
        assert abs(np.average(values, weights=density)) < 2e-3


def test_activation_of_an_exact_match_has_the_kernel_on_the_sphere():
    matcher = KernelMatcher(8, activation="gelu", input_scaling="sphere", random_state=0).fit(X)
    display = ActivationDisplay.from_estimator(matcher)
    deq, matched = display.activations.values()
    density = np.exp(-(display.t**2) / 2)
    # E sigma^2 is the kernel's diagonal, which is E phi^2
    assert np.average(matched**2, weights=density) == pytest.approx(
        np.average(deq**2, weights=density), rel=1e-3
    )


def test_activations_of_a_network_estimator():
    network = EquivalentExplicitRegressor(
        8, hyperparameters=None, activation="tanh", max_epochs=1, random_state=0
    )
    display = ActivationDisplay.from_estimator(network.fit(*load_diabetes(return_X_y=True)))
    assert list(display.activations) == ["DEQ, tanh", "layer 1, hard_tanh"]


def test_equivalence_measures_the_models(matcher, trained):
    model = make_pipeline(matcher, RidgeClassifier()).fit(X, y)
    display = EquivalenceDisplay.from_estimators(
        {"DEQ": trained, "matched": model, "linear": RidgeClassifier().fit(X, y)}, X, y, n_repeats=2
    )
    matched = display.results["matched"]
    assert matched["score"] == model.score(X, y)
    assert matched["agreement"] == np.mean(model.predict(X) == trained.predict(X))
    assert matched["kernel_error"] == pytest.approx(matcher.kernel_error(X), rel=1e-6)
    assert display.results["DEQ"]["agreement"] == 1
    assert "kernel_error" not in display.results["linear"]
    assert all(r["latency"] > 0 for r in display.results.values())
    assert len(display.ax_) == 4
    widths = [bar.get_width() for bar in display.ax_[0].patches]
    assert widths == [r["score"] for r in display.results.values()]


def test_equivalence_of_regressors_agrees_by_r2():
    data = load_diabetes(return_X_y=True)
    deq = DEQRegressor(16, hyperparameters=None, max_epochs=2, random_state=0).fit(*data)
    explicit = EquivalentExplicitRegressor(
        16, hyperparameters=None, max_epochs=2, random_state=0
    ).fit(*data)
    display = EquivalenceDisplay.from_estimators({"a": deq, "b": explicit}, *data, n_repeats=1)
    residual = explicit.predict(data[0]) - deq.predict(data[0])
    expected = 1 - residual.var() / deq.predict(data[0]).var()
    assert display.results["b"]["agreement"] == pytest.approx(expected, abs=0.05)


def test_a_network_matched_to_an_ntk_has_no_kernel_of_features():
    explicit = EquivalentExplicitClassifier(
        16, hyperparameters=None, kernel="ntk", max_epochs=2, random_state=0
    )
    explicit.fit(X, y)
    display = EquivalenceDisplay.from_estimators({"a": explicit}, X, y, n_repeats=1)
    assert "kernel_error" not in display.results["a"]
    with pytest.raises(ValueError, match="kernel='ntk' with train='all'"):
        SpectrumDisplay.from_estimator(explicit, X)


def test_convergence_shows_the_residuals_of_the_solver(trained):
    display = ConvergenceDisplay.from_estimator(trained, X, n_iter=15)
    assert list(display.residuals) == ["picard", "anderson"]
    # by hand: iterate z = W phi(z) + u from u
    features = trained.module_.features
    W = features.effective_recurrent_weight().detach().numpy()
    rows = trained._scaler.transform(X)
    u = rows @ features.input_weight.detach().numpy().T + features.bias.detach().numpy()
    a, expected = u, []
    for _ in range(15):
        image = (np.maximum(a, 0) - float(features.mean)) @ W.T + u
        size = np.linalg.norm(image, axis=1)
        expected.append((np.linalg.norm(image - a, axis=1) / size).max())
        a = image
    np.testing.assert_allclose(display.residuals["picard"], expected, rtol=1e-6)
    assert trained.module_.features.tol == trained.tol  # the estimator is left as it was
    assert display.residuals["anderson"][-1] < 1e-4


def test_convergence_shows_the_training_curves(trained):
    display = ConvergenceDisplay.from_estimator(trained, X, n_iter=1, kind="training")
    losses = [epoch["train_loss"] for epoch in trained.history_]
    np.testing.assert_allclose(display.lines_[0].get_ydata(), losses)
    assert len(display.lines_) == 2  # early stopping held rows out


def test_errors_name_the_parameter(matcher, trained):
    with pytest.raises(ValueError, match="kind='pie' is unknown"):
        SpectrumDisplay(eigenvalues={}).plot(kind="pie")
    with pytest.raises(ValueError, match=r"kernels\['a'\] must be a symmetric matrix"):
        SpectrumDisplay.from_kernels({"a": np.ones((2, 3))})
    with pytest.raises(TypeError, match="estimator must have features"):
        SpectrumDisplay.from_estimator(RidgeClassifier().fit(X, y), X)
    with pytest.raises(TypeError, match="estimator must be matched"):
        ActivationDisplay.from_estimator(trained)
    with pytest.raises(TypeError, match="estimator must be a DEQClassifier"):
        ConvergenceDisplay.from_estimator(matcher, X)
    with pytest.raises(ValueError, match="kind='loss' is unknown"):
        ConvergenceDisplay.from_estimator(trained, X, n_iter=1, kind="loss")
    readout = DEQClassifier(8, hyperparameters=None, train="readout", random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="needs train='all'"):
        ConvergenceDisplay.from_estimator(readout, X, n_iter=1, kind="training")
    ntk = EquivalentExplicitClassifier(
        8, hyperparameters=None, activation="erf", kernel="ntk", max_epochs=1
    )
    with pytest.raises(ValueError, match="kernel='ntk' with train='all'"):
        SpectrumDisplay.from_estimator(ntk.fit(X, y), X)
    with pytest.raises(ValueError, match="ax must hold 1 axes"):
        EquivalenceDisplay(results={"a": {"score": 1.0}}).plot(ax=[1, 2])


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    original = builtins.__import__

    def no_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    with pytest.raises(ImportError, match=r"SpectrumDisplay.plot needs matplotlib.*sk-deq\[plot\]"):
        SpectrumDisplay.from_kernels({"a": np.eye(2)})


@pytest.mark.slow
def test_importing_does_not_import_matplotlib():
    code = "import sys, sk_deq.inspection; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def _table():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"u": rng.normal(size=60), "kind": ["a", "b", "c"] * 20})
    frame["v"] = rng.normal(size=60)
    return frame, 3 * frame["v"] + (frame["kind"] == "a")


def _with_weights(model, weights):
    """The same with other weights, whatever the search would find."""
    ridge = model[-1] if isinstance(model, Pipeline) else model
    ridge.feature_weights_ = np.array(weights)
    return model


@pytest.mark.parametrize("make", [lambda ridge: ridge, make_tabular_pipeline])
def test_feature_weights_have_the_names_of_columns(make):
    X, y = _table()
    ridge = DEQKernelRidge(0.1, hyperparameters=None)
    if make is make_tabular_pipeline:
        weights, names = [1.0, 2.0, 0.5, 0.5, 0.5], ["v", "u", "kind_a", "kind_b", "kind_c"]
    else:
        X, weights, names = X[["u", "v"]], [1.0, 2.0], ["v", "u"]
    model = _with_weights(make(ridge).fit(X, y), weights)
    display = FeatureWeightsDisplay.from_estimator(model)
    assert display.names == names
    np.testing.assert_array_equal(display.weights, sorted(weights, reverse=True))
    assert [label.get_text() for label in display.ax_.get_yticklabels()] == names
    assert [bar.get_width() for bar in display.bars_] == sorted(weights, reverse=True)
    first = FeatureWeightsDisplay.from_estimator(model, top=1, color="red")
    assert first.names == ["v"] and first.n_features == len(weights)
    assert first.ax_.get_title() == f"the largest 1 of {len(weights)}"
    assert first.bars_[0].get_facecolor() == (1, 0, 0, 1)
    again = first.plot(display.ax_)
    assert again is first and again.ax_ is display.ax_


def test_feature_weights_of_columns_without_names():
    X, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    ridge = DEQKernelRidgeClassifier(0.1, hyperparameters=None)
    nameless = FunctionTransformer(np.cbrt)
    for model in (ridge, make_pipeline(nameless, ridge), make_pipeline(StandardScaler(), ridge)):
        _with_weights(model.fit(X, y), [1.0, 1.0, 3.0])
        assert FeatureWeightsDisplay.from_estimator(model).names == ["x2", "x0", "x1"]
    names = np.array(["a", "b", "c"])
    assert FeatureWeightsDisplay.from_estimator(model, names).names == ["c", "a", "b"]
    with pytest.raises(ValueError, match=r"feature_names has 2 names, .* 3 features"):
        FeatureWeightsDisplay.from_estimator(model, names[:2])
    for top in (0, 1.5):
        with pytest.raises(ValueError, match="top must be an integer >= 1"):
            FeatureWeightsDisplay.from_estimator(model, top=top)
    with pytest.raises(NotFittedError):
        FeatureWeightsDisplay.from_estimator(DEQKernelRidge())
    with pytest.raises(TypeError, match=r"must be a DEQKernelRidge.* got RidgeClassifier"):
        FeatureWeightsDisplay.from_estimator(RidgeClassifier().fit(X, y))
