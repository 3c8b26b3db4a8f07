"""Bad input, a table: what is called, the exact type of the error, and a pattern of its message.

Every message names what is wrong; most say what to do instead.
"""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.utils._param_validation import InvalidParameterError
from tiny import NETWORKS, SETTINGS, tiny

import sk_deq
from sk_deq import modules
from sk_deq._theory.spec import NoFixedPointError
from sk_deq.datasets import make_gaussian_mixture
from sk_deq.inspection import (
    ActivationDisplay,
    ConvergenceDisplay,
    EquivalenceDisplay,
    FeatureWeightsDisplay,
    SpectrumDisplay,
)
from sk_deq.kernels import DEQKernel, deq_kernel, explicit_kernel
from sk_deq.pipelines import make_tabular_pipeline
from sk_deq.theory import (
    deq_coefficients,
    deq_scale,
    explicit_coefficients,
    match_explicit,
    sphere_series,
)

X = np.random.default_rng(0).normal(size=(24, 3))
LABELS, TARGET = np.arange(24) % 2, X @ [1.0, 2.0, 3.0]
NAN, INFINITE = (np.where(np.arange(72).reshape(24, 3) == 7, bad, X) for bad in (np.nan, np.inf))
T = torch.from_numpy(X)
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])


def target_of(name):
    return LABELS if name.endswith("Classifier") else TARGET


def fit(name, X=X, y=None, fit_params=None, **params):
    """A call that fits an estimator of this name."""

    def call():
        target = target_of(name) if y is None else y
        return tiny(name, **params).fit(X, target, **(fit_params or {}))

    return call


def then(name, method, *args, **params):
    """A call of a method of the fitted estimator, which is to be what raises."""

    def call():
        quick = {"hyperparameters": None, "max_epochs": 1}
        model = tiny(name, **{**quick, **params}).fit(X, target_of(name))
        with pytest.raises(Exception) as raised:
            getattr(model, method)(*args)
        raise Raised(raised.value)

    return call


class Raised(Exception):
    """Carries the error of a method, so that one of fit cannot be taken for it."""


def student(name):
    """A call that fits one to rows of other features than its teacher knows."""
    quick = {"hyperparameters": None, "max_epochs": 1}

    def call():
        teacher = tiny(name.replace("EquivalentExplicit", "DEQ"), **quick).fit(X, target_of(name))
        tiny(name, teacher=teacher, **quick).fit(X[:, :2], target_of(name))

    return call


def kernel(*args, **params):
    return lambda: deq_kernel(*(args or (X,)), **params)


RIDGES = "DEQKernelRidge", "DEQKernelRidgeClassifier"
ROWS = []


def row(call, error, pattern):
    ROWS.append((call, error, pattern))


# every estimator: rows that cannot be rows, and being asked before fit
for name in SETTINGS:
    row(fit(name, NAN), ValueError, "contains NaN")
    row(fit(name, INFINITE), ValueError, "contains infinity")
    row(fit(name, X[:, 0]), ValueError, "Expected 2D array, got 1D array")
    row(fit(name, X[:0], target_of(name)[:0]), ValueError, r"0 sample\(s\)")
    row(fit(name, X[:, :0]), ValueError, r"0 feature\(s\)")
    row(fit(name, X + 1j), ValueError, "Complex data not supported")
    row(fit(name, np.full((24, 3), "a")), ValueError, "could not convert string|dtype")
    row(fit(name, csr_matrix(X)), TypeError, "[Ss]parse")
    row(fit(name, activation="swishh"), ValueError, "activation='swishh' is unknown; use one of")
    row(fit(name, activation=3), InvalidParameterError, "'activation' parameter .* Got 3")
    row(fit(name, recurrent_var=-0.1), InvalidParameterError, "'recurrent_var' parameter")
    row(fit(name, recurrent_var=np.nan), InvalidParameterError, "'recurrent_var' parameter")
    row(fit(name, input_var=0.0), InvalidParameterError, "'input_var' parameter")
    row(fit(name, input_scaling="max"), InvalidParameterError, "'input_scaling' parameter")
    row(fit(name, device="cuda:7"), ValueError, "device")
    row(fit(name, device="gpu"), ValueError, "device='gpu' is not .*use 'auto', 'cpu' or 'cuda'")
    row(fit(name, dtype="float16"), InvalidParameterError, "'dtype' parameter")
    row(fit(name, random_state="seed"), InvalidParameterError, "'random_state' parameter")
    method = "transform" if name == "KernelMatcher" else "predict"
    row(lambda name=name, m=method: getattr(tiny(name), m)(X), NotFittedError, f"{name} instance")
    row(then(name, method, X[:, :2]), ValueError, "X has 2 features, but .* is expecting 3")
    row(then(name, method, NAN), ValueError, "contains NaN")
    row(then(name, method, csr_matrix(X)), TypeError, "[Ss]parse")
    if name != "KernelMatcher":
        weight = {"sample_weight": np.ones(23)}
        row(fit(name, fit_params=weight), ValueError, r"sample_weight.shape == \(23,\), expected")
        weight = {"sample_weight": -np.ones(24)}
        row(fit(name, fit_params=weight), ValueError, "[Nn]egative values in .*sample_weight")
        row(fit(name, fit_params={"sample_weight": np.zeros(24)}), ValueError, "non-zero number")
        row(fit(name, y=target_of(name)[:23]), ValueError, "inconsistent numbers of samples")
    if name.endswith("Classifier"):
        row(fit(name, y=TARGET), ValueError, "Unknown label type: continuous")
        row(fit(name, y=np.full(24, np.nan)), ValueError, "NaN")
        row(fit(name, class_weight="equal"), InvalidParameterError, "'class_weight' parameter")
    elif name != "KernelMatcher":
        row(fit(name, y=np.full(24, np.inf)), ValueError, "contains infinity")
        row(
            fit(name, y=np.full(24, "a")),
            ValueError,
            "Numbers are needed, not an array of dtype <U1",
        )

# kernel ridges
for name in RIDGES:
    row(fit(name, alpha=-1.0), InvalidParameterError, "'alpha' parameter")
    row(fit(name, alpha=[]), ValueError, "alpha must be a number >= 0 or a 1-D array")
    row(fit(name, alpha=[0.1, np.nan]), ValueError, "alpha must be a number >= 0")
    row(fit(name, alpha=[[0.1]]), ValueError, "alpha must be a number >= 0 or a 1-D array")
    row(fit(name, kernel="rbf"), InvalidParameterError, "'kernel' parameter")
    row(fit(name, solver="svd"), InvalidParameterError, "'solver' parameter")
    row(fit(name, encoding="plain"), InvalidParameterError, "'encoding' parameter")
    row(fit(name, solver="cholesky", alpha=[0.1, 1.0]), ValueError, "single alpha; use solver=")
    row(fit(name, solver="cg", alpha=0.0), ValueError, "alpha > 0; use solver='cholesky'")
    row(fit(name, solver="cg", method="high_dim"), ValueError, "needs method='exact'")
    row(fit(name, solver="eigh", landmarks=X[:3]), ValueError, "landmarks need solver=")
    row(fit(name, solver="cg", landmarks=X[:3, :2]), ValueError, "X has 2 features")
    row(fit(name, hyperparameters=None, recurrent_var=3.0), ValueError,
        "recurrent_var=3 .*input_var")  # fmt: skip
    row(fit(name, hyperparameters=None, recurrent_var=3.0, input_var=1.0), ValueError,
        "no stable fixed point .* use recurrent_var < 2")  # fmt: skip
    row(fit(name, method="high_dim", center=False), ValueError, "use method='exact'|center")
    row(fit(name, n_components=0), InvalidParameterError, "'n_components' parameter")
    row(lambda name=name: tiny(name).partial_fit, AttributeError, "partial_fit")
    row(fit(name, tol=0.0), InvalidParameterError, "'tol' parameter")
    row(fit(name, predict_batch_size=0), InvalidParameterError, "'predict_batch_size'")
row(then("DEQKernelRidge", "predict_interval", X, 1.5), ValueError, "coverage")
row(then("DEQKernelRidgeClassifier", "predict_set", X, 0.0), ValueError, "coverage")

# networks
for name in NETWORKS:
    row(fit(name, width=0), InvalidParameterError, "'width' parameter")
    row(fit(name, lr=0.0), InvalidParameterError, "'lr' parameter")
    row(fit(name, max_epochs=0), InvalidParameterError, "'max_epochs' parameter")
    row(fit(name, batch_size=-1), InvalidParameterError, "'batch_size' parameter")
    row(fit(name, weight_decay=-1e-3), InvalidParameterError, "'weight_decay' parameter")
    row(fit(name, input_dropout=1.0), InvalidParameterError, "'input_dropout' parameter")
    row(fit(name, train="some"), InvalidParameterError, "'train' parameter")
    row(fit(name, validation_fraction=1.0), InvalidParameterError, "'validation_fraction'")
    row(fit(name, callbacks=["stop"]), TypeError, "callback")
    row(fit(name, train="readout", early_stopping=True), ValueError, "needs train='all'")
    row(fit(name, train="readout", input_dropout=0.1), ValueError, "input_dropout needs")
    row(fit(name, fit_params={"X_val": X}), ValueError, "X_val and y_val must be given together")
    val = {"X_val": X[:, :2], "y_val": target_of(name)}
    row(fit(name, fit_params=val), ValueError, "X has 2 features")
    row(fit(name, recurrent_var=1.0), ValueError, "leaves no input variance")
val = {"X_val": X, "y_val": LABELS + 5}
row(fit("DEQClassifier", fit_params=val), ValueError, "y_val does not fit y")
for name in ("DEQClassifier", "DEQRegressor"):
    row(fit(name, tol=-1.0), InvalidParameterError, "'tol' parameter")
for name in ("EquivalentExplicitClassifier", "EquivalentExplicitRegressor"):
    row(fit(name, teacher=LinearRegression()), (TypeError, ValueError), "teacher")
    row(student(name), ValueError,
        "X has 2 features, the teacher was fitted on 3")  # fmt: skip
    row(lambda name=name: getattr(sk_deq, name).from_deq(LinearRegression()), TypeError,
        "got LinearRegression")  # fmt: skip

# KernelMatcher
row(fit("KernelMatcher", n_components=0), InvalidParameterError, "'n_components' parameter")
row(fit("KernelMatcher", n_components=2.5), InvalidParameterError, "'n_components' parameter")
row(fit("KernelMatcher", weights="sparse"), InvalidParameterError, "'weights' parameter")
row(fit("KernelMatcher", matching="exact", n_layers=2), ValueError, "one layer, got n_layers=2")
row(fit("KernelMatcher", matching="high_dim", bias_var=0.1), ValueError, "bias_var.*matching=")
row(fit("KernelMatcher", matching="high_dim", kernel="ntk_full"), ValueError, "kernel")

# functions
row(kernel(X[0]), ValueError, "Expected 2D array, got 1D array")
row(kernel(NAN), ValueError, "contains NaN")
row(kernel(X, X[:, :2]), ValueError, "Incompatible dimension|features")
row(kernel(T, X), ValueError, "X is a tensor, so Y must be a tensor")
row(kernel(T[0]), ValueError, r"X must be finite and of shape \(n_samples, n_features\)")
row(kernel(T / 0), ValueError, "X must be finite")
row(kernel(T.clone().requires_grad_()), ValueError, r"pass X\.detach\(\)")
row(kernel(T[:0]), ValueError, "X has no rows")
row(kernel(1e160 * X), ValueError, "too large: its square is beyond")
row(kernel(kernel="rbf"), ValueError, r"kernel='rbf' is unknown; use one of")
row(kernel(method="fast"), ValueError, "method='fast' is unknown")
row(kernel(activation="swishh"), ValueError, "activation='swishh' is unknown")
row(kernel(activation=None), TypeError, "activation must be a name or")
row(kernel(activation=torch.sign), ValueError, "discontinuous|fixed point")
row(kernel(activation=lambda t: t.sum()), ValueError, "not elementwise")
row(kernel(activation=torch.log), ValueError, "not finite on")
row(kernel(activation=np.tanh), ValueError, "cannot be evaluated on a float64 tensor")
row(kernel(recurrent_var=1.0), ValueError, "leaves no input variance")
row(kernel(recurrent_var=-0.5), ValueError, "recurrent_var must be finite and >= 0")
row(kernel(recurrent_var="much"), TypeError, "recurrent_var must be a real number")
row(kernel(recurrent_var=True), TypeError, "recurrent_var must be a real number")
row(kernel(recurrent_var=2.5, input_var=1.0), ValueError, "no stable fixed point .* use recurrent")
row(kernel(1e-3 * X, activation="tanh", recurrent_var=1.2, input_var=1.0), NoFixedPointError,
    "no stable fixed point .* for a row of norm 0.00.* use recurrent_var < ")  # fmt: skip
row(kernel(input_var=0.0), ValueError, "input_var must be finite and > 0")
row(kernel(bias_var=np.inf), ValueError, "bias_var must be finite and >= 0")
row(kernel(center=1), TypeError, "center must be True or False")
row(kernel(tau0=0.0), ValueError, "tau0 must be finite and > 0")
row(kernel(method="high_dim", bias_var=0.1), ValueError, "bias_var.*method='exact'")
row(kernel(dtype="float16"), ValueError, "dtype='float16' is not supported")
row(kernel(device="tpu"), ValueError, "device='tpu' is not")
row(kernel(np.broadcast_to(0.0, (10**6, 1))), MemoryError, "1000000 x 1000000 kernel matrix")
row(lambda: explicit_kernel(X, layers=[]), ValueError, "layers")
row(lambda: explicit_kernel(X, layers=3), TypeError, "layers must be a sequence")
row(lambda: explicit_kernel(X, layers=[3]), TypeError, "layer|activation")
row(lambda: explicit_kernel(X, layers=["relu"], kernel="ntk_full"), ValueError, "'ntk_full'")
row(lambda: DEQKernel()(X, X, eval_gradient=True), ValueError, "Gradient can only be evaluated")
row(lambda: DEQKernel(recurrent_var=-1.0)(X), ValueError, "recurrent_var must be finite")
row(lambda: DEQKernel(activation="no")(X), ValueError, "activation='no' is unknown")
row(lambda: DEQKernel()(NAN), ValueError, "contains NaN")
row(lambda: deq_scale("relu", recurrent_var=2.5, input_var=1.0), ValueError, "no stable fixed")
row(lambda: deq_scale("relu", recurrent_var=0.2, tau0=1e200), ValueError, "tau0 = 1e.200 is too")
row(lambda: deq_coefficients("relu", recurrent_var=0.2, kernel="ntk_full"), ValueError,
    "kernel='ntk_full' is unknown here")  # fmt: skip
row(lambda: explicit_coefficients([]), ValueError, "layers")
row(lambda: explicit_coefficients(["relu"], tau0=-1.0), ValueError, "tau0")
row(lambda: match_explicit("relu", recurrent_var=0.2, tol=np.nan), ValueError, "tol must be >= 0")
row(lambda: match_explicit("relu", recurrent_var=0.2, n_layers=0), ValueError, "n_layers")
row(lambda: match_explicit("relu", recurrent_var=0.2, family="no"), ValueError, "family='no'")
row(lambda: sphere_series("relu", recurrent_var=0.2, n_terms=0), ValueError, "n_terms must be")
row(lambda: sphere_series("relu", recurrent_var=0.2, n_terms=2.0), ValueError, "n_terms must be")
row(lambda: make_gaussian_mixture(0, 3), ValueError, "n_samples must be a positive integer")
row(lambda: make_gaussian_mixture(10, 1), ValueError, "n_features=1 must be at least n_classes=2")
row(lambda: make_gaussian_mixture(9, 3, covariance_scale=-1.0), ValueError, "covariance_scale")
row(lambda: make_gaussian_mixture(9, 3, mean_shift=np.nan), ValueError, "mean_shift")

# modules
row(lambda: modules.DEQ(0, 4), InvalidParameterError, "'in_features' parameter of DEQ")
row(lambda: modules.DEQ(3, 4, solver="newton"), InvalidParameterError, "'solver' parameter")
row(lambda: modules.ExactNetwork(3, 4, "relu"), TypeError, "match must be a GatedNetwork, got str")
row(lambda: modules.DEQ(3, 4, tol=0.0), InvalidParameterError, "'tol' parameter")
row(lambda: modules.DEQ(3, 4, tol=np.nan), InvalidParameterError, "'tol' parameter")
row(lambda: modules.DEQ(3, 4, max_iter=0), InvalidParameterError, "'max_iter' parameter")
row(lambda: modules.DEQ(3, 4, dtype=torch.float16), InvalidParameterError, "'dtype' parameter")
row(lambda: modules.DEQ(3, 4, generator=0), InvalidParameterError, "'generator' parameter")
row(lambda: modules.DEQ(3, 4, activation=torch.zeros_like), ValueError, "constant|differentiated")
row(lambda: modules.DEQ(3, 4, recurrent_var=2.5), ValueError, "leaves no input variance")
row(lambda: modules.DEQ(3, 4).residual_curve(T.float(), "auto", 5), InvalidParameterError,
    "'solver' parameter of residual_curve")  # fmt: skip
row(lambda: modules.DEQ(3, 4).load_state_dict(modules.DEQ(3, 4, activation="tanh").state_dict()),
    ValueError, "activation='tanh', this one has 'relu'")  # fmt: skip
row(lambda: modules.ExplicitNetwork(3, 4, []), ValueError, "layers")
row(lambda: modules.ExplicitNetwork(3, 4, ["no"]), ValueError, "activation='no' is unknown")
row(lambda: modules.ExplicitNetwork(3, 0, ["relu"]), InvalidParameterError, "'width' parameter")

# displays
row(lambda: SpectrumDisplay.from_estimator(LinearRegression().fit(X, TARGET), X), TypeError,
    "got LinearRegression")  # fmt: skip
row(lambda: ActivationDisplay.from_estimator(LinearRegression().fit(X, TARGET)), TypeError,
    "got LinearRegression")  # fmt: skip
row(lambda: ConvergenceDisplay.from_estimator(LinearRegression().fit(X, TARGET), X), TypeError,
    "got LinearRegression")  # fmt: skip
row(lambda: ActivationDisplay.from_estimator(LinearRegression()), NotFittedError, "not fitted")
row(lambda: FeatureWeightsDisplay.from_estimator(LinearRegression().fit(X, TARGET)), TypeError,
    "LinearRegression")  # fmt: skip
row(lambda: EquivalenceDisplay.from_estimators({}, X, TARGET), ValueError, "estimators")
row(lambda: ConvergenceDisplay(residuals={}, tol=0.1, history=[]).plot(kind="loss"), ValueError,
    "kind='loss' is unknown; use 'fixed_point' or 'training'")  # fmt: skip


# pipelines
def table(X, y=TARGET, then=None):
    def call():
        model = make_tabular_pipeline(LinearRegression()).fit(X, y)
        return model.predict(then)

    return call


row(lambda: make_tabular_pipeline(LinearRegression(), vectorizer="rows"), ValueError,
    "vectorizer='rows' is unknown; use one of")  # fmt: skip
row(table(csr_matrix(X)), TypeError, r"X is sparse: pass X\.toarray\(\)")
row(table(FRAME["a"]), ValueError, r"X is a Series: pass a data frame")
row(table(X[:, 0]), ValueError, r"reshape it: X\.reshape\(-1, 1\)")
row(table(FRAME, then=FRAME[["a", "b"]]), ValueError, r"X lacks the columns \['c'\]")
row(table(X, then=X[:, :2]), ValueError, "X has 2 columns, but had 3 in fit")
row(table(FRAME, then=FRAME.assign(b="much")), ValueError, "Column 'b' held numbers in fit")
row(table(FRAME.assign(b=pd.Timestamp("2020-01-01"))), ValueError, "Column 'b' holds times")
row(table(FRAME.assign(b=[[1]] * 24)), ValueError, "Column 'b' holds values of type list")
row(table(FRAME.iloc[:, :0]), ValueError, "no columns")


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_bad_input(number):
    call, error, pattern = ROWS[number]
    with pytest.raises(Exception) as raised:
        call()
    found = raised.value.args[0] if isinstance(raised.value, Raised) else raised.value
    assert type(found) is error or (isinstance(error, tuple) and type(found) in error), found
    assert re.search(pattern, str(found), re.DOTALL), found


def test_the_table_is_long():
    assert len(ROWS) >= 80
