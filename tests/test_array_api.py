"""With array_api_dispatch tensors go in and tensors come out, on their device and uncopied."""

import pickle
import sys
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from tiny import CLASSIFIERS, SETTINGS, tiny

from sk_deq._array_api import ARRAY_API_SUPPORT
from sk_deq.kernels import deq_kernel, explicit_kernel

pytestmark = pytest.mark.skipif(not ARRAY_API_SUPPORT, reason="needs scikit-learn >= 1.9")
IRIS, DIABETES = load_iris(return_X_y=True), load_diabetes(return_X_y=True)
IRIS = scale(IRIS[0]), IRIS[1]


def data_for(name):
    X, y = IRIS if name in CLASSIFIERS else DIABETES
    return X[::3].copy(), y[::3].copy()


def methods_of(model):
    names = ("predict", "predict_proba", "decision_function", "transform")
    return [name for name in names if hasattr(model, name)]


@contextmanager
def no_copy_to_the_host():
    """Fail if a tensor of a training set's size becomes a numpy array."""
    convert = torch.Tensor.numpy

    def numpy(self, *args, **kwargs):
        # LAPACK works on the memory of a CPU tensor in place: that is no copy
        in_place = sys._getframe(1).f_globals["__name__"] == "sk_deq._solve.exact"
        small = self.ndim < 2 or len(self) < 40
        assert small or in_place, f"a tensor of shape {tuple(self.shape)} was copied"
        return convert(self, *args, **kwargs)

    def array(self, *args, **kwargs):
        raise AssertionError("a tensor was converted to an array")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "numpy", numpy)
        patch.setattr(torch.Tensor, "__array__", array)
        # on a CPU scipy's works in the tensor's own memory
        patch.setattr("sk_deq._solve.leave_one_out._eigh", torch.linalg.eigh)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SETTINGS)
def test_tensors_go_in_and_come_out(name, device, dtype):
    X, y = data_for(name)
    Xt, yt = torch.asarray(X, dtype=dtype, device=device), torch.asarray(y, device=device)
    expected = tiny(name, device=device).fit(X, y)
    expected = {m: torch.asarray(getattr(expected, m)(X)) for m in methods_of(expected)}
    with config_context(array_api_dispatch=True), no_copy_to_the_host():
        model = tiny(name).fit(Xt, yt)
        for method in methods_of(model):
            out = getattr(model, method)(Xt)
            assert isinstance(out, torch.Tensor) and out.device == Xt.device
            if dtype == torch.float64:
                torch.testing.assert_close(out.cpu().double(), expected[method].double())
    assert Xt.device.type == torch.device(model.device_).type


@pytest.mark.parametrize("name", SETTINGS)
def test_another_namespace_than_in_fit_raises(name):
    X, y = data_for(name)
    with config_context(array_api_dispatch=True):
        model = tiny(name).fit(torch.asarray(X), torch.asarray(y))
        for method in methods_of(model):
            with pytest.raises(ValueError, match=rf"{method}\(\) must use the same namespace"):
                getattr(model, method)(X)


@pytest.mark.parametrize("name", SETTINGS)
def test_without_dispatch_tensors_are_array_likes(name):
    X, y = data_for(name)
    model = tiny(name)
    expected = clone(model).fit(X, y)
    model.fit(torch.asarray(X), torch.asarray(y))
    for method in methods_of(model):
        out = getattr(model, method)(torch.asarray(X))
        assert isinstance(out, np.ndarray)
        assert_allclose(out, getattr(expected, method)(X))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", SETTINGS)
def test_without_dispatch_cuda_tensors_raise_the_usual_error(name):
    X, y = data_for(name)
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        tiny(name).fit(torch.asarray(X, device="cuda"), y)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_string_labels_with_tensor_rows(name):
    X, y = IRIS
    labels = np.array(["a", "b", "c"])[y]
    with config_context(array_api_dispatch=True):
        model = tiny(name, lr=0.1, max_epochs=40).fit(torch.asarray(X), labels)
        predictions = model.predict(torch.asarray(X))
    assert isinstance(predictions, np.ndarray)
    assert np.mean(predictions == labels) > 0.8


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_weights_and_class_weights_may_be_tensors(name):
    X, y = IRIS
    weight = np.random.default_rng(0).integers(0, 3, len(X)).astype(float)
    model = tiny(name, class_weight="balanced")
    expected = clone(model).fit(X, y, weight).predict_proba(X)
    with config_context(array_api_dispatch=True):
        model.fit(torch.asarray(X), torch.asarray(y), torch.asarray(weight))
        out = model.predict_proba(torch.asarray(X))
    assert_allclose(out.numpy(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_tensors_pass_through_model_selection(name):
    X, y = (torch.asarray(a) for a in IRIS)
    model = make_pipeline(StandardScaler(), tiny(name, lr=0.1, max_epochs=40, alpha=0.1))
    parameter = f"{name.lower()}__recurrent_var"
    with config_context(array_api_dispatch=True):
        X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
        assert cross_val_score(model, X_train, y_train, cv=2).mean() > 0.7
        search = GridSearchCV(model, {parameter: [0.1, 0.2]}, cv=2).fit(X_train, y_train)
        assert isinstance(search.predict(X_test), torch.Tensor)
        assert search.score(X_test, y_test) > 0.7


def test_kernel_matcher_feeds_a_linear_model():
    X, y = (torch.asarray(a) for a in IRIS)
    model = make_pipeline(tiny("KernelMatcher", n_components=64), LogisticRegression(C=100))
    with config_context(array_api_dispatch=True), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.fit(X, y).score(X, y) > 0.9
        assert isinstance(model.predict(X), torch.Tensor)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_a_model_fitted_to_tensors_can_be_pickled(name):
    X, y = (torch.asarray(a) for a in data_for(name))
    with config_context(array_api_dispatch=True):
        model = tiny(name).fit(X, y)
        loaded = pickle.loads(pickle.dumps(model))
        for method in methods_of(model):
            assert torch.equal(getattr(loaded, method)(X), getattr(model, method)(X))


@pytest.mark.parametrize("dispatch", [False, True])
def test_kernels_of_tensors_are_tensors(device, dispatch):
    X = np.random.default_rng(0).normal(size=(20, 5))
    Xt = torch.asarray(X, device=device)
    kernels = (deq_kernel, lambda *args: explicit_kernel(*args, layers=["relu"]))
    with config_context(array_api_dispatch=dispatch):
        for kernel in kernels:
            for arguments in ((Xt,), (Xt, Xt[:3])):
                K = kernel(*arguments)
                assert isinstance(K, torch.Tensor) and K.device == Xt.device
                expected = kernel(*(a.cpu().numpy() for a in arguments))
                assert_allclose(K.cpu().numpy(), expected, rtol=1e-12)
