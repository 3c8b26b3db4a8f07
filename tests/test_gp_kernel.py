"""The kernels as guests of scikit-learn's Gaussian processes, SVC, KernelRidge and Nystroem."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import scale
from sklearn.svm import SVC

from sk_deq.kernels import DEQKernel, deq_kernel


@pytest.fixture
def rows():
    X = np.random.default_rng(0).normal(size=(20, 4)) / 2
    X[3], X[5], X[7] = X[2], 0.0, 2 * X[6]  # a repeated, a zero and a parallel row
    X.flags.writeable = False
    return X


@pytest.mark.long
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "abs", "hard_tanh", "tanh", "gelu", "silu", "sin", "elu"]
)
def test_gradients_equal_finite_differences(activation, center, rows):
    kernel = DEQKernel(0.4, 0.7, 0.2, activation=activation, center=center)
    K, gradient = kernel(rows, eval_gradient=True)
    assert_allclose(K, kernel(rows), rtol=1e-9, atol=1e-12)
    assert gradient.shape == (20, 20, 3)
    h = 1e-4
    for i, step in enumerate(np.eye(3) * h):
        forward, backward = (kernel.clone_with_theta(kernel.theta + s) for s in (step, -step))
        difference = (forward(rows) - backward(rows)) / (2 * h)
        assert_allclose(gradient[:, :, i], difference, rtol=1e-5, atol=1e-7)


def test_it_is_the_conjugate_kernel(rows):
    kernel = DEQKernel(0.4, 0.7, 0.2, activation="tanh", tau0=0.9)
    expected = deq_kernel(
        rows, rows[:5], activation="tanh", recurrent_var=0.4, input_var=0.7, bias_var=0.2, tau0=0.9
    )
    assert_allclose(kernel(rows, rows[:5]), expected, rtol=1e-12)
    assert_allclose(kernel.diag(rows), np.diag(kernel(rows)), rtol=1e-9)
    assert np.linalg.eigvalsh(kernel(rows)).min() > -1e-12


def test_it_behaves_like_a_kernel_of_scikit_learn(rows):
    kernel = DEQKernel(bias_var_bounds="fixed")
    assert not kernel.is_stationary()
    assert kernel.n_dims == 2
    assert_allclose(np.exp(kernel.theta), [0.8, 0.2])  # in the order of the names
    assert kernel(rows, eval_gradient=True)[1].shape == (20, 20, 2)
    assert clone(kernel) == kernel == pickle.loads(pickle.dumps(kernel))
    assert DEQKernel(0.3) != kernel and DEQKernel() != kernel
    sum_ = ConstantKernel(2.0) * kernel + WhiteKernel(0.1)
    assert_allclose(sum_(rows), 2 * kernel(rows) + 0.1 * np.eye(20))
    with pytest.raises(ValueError, match="only be evaluated when Y is None"):
        kernel(rows, rows, eval_gradient=True)
    with pytest.raises(ValueError, match=r"no stable fixed point.*use recurrent_var <"):
        DEQKernel(1.5, activation="identity")(rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The optimal value found for dimension")  # a bound may be best
def test_a_gaussian_process_learns_the_variances():
    petals = scale(load_iris().data)[np.random.RandomState(0).permutation(150)]
    X, y = petals[:, [0, 1, 3]] / np.sqrt(3), petals[:, 2]
    train, test = slice(0, 100), slice(100, 150)
    prior = ConstantKernel(1.0) * DEQKernel() + WhiteKernel(0.5)
    fixed = GaussianProcessRegressor(prior, optimizer=None).fit(X[train], y[train])
    model = GaussianProcessRegressor(prior).fit(X[train], y[train])
    assert model.log_marginal_likelihood_value_ > fixed.log_marginal_likelihood(prior.theta) + 1
    learnt = model.kernel_.k1.k2
    assert isinstance(learnt, DEQKernel) and learnt.recurrent_var != 0.2
    mean, std = model.predict(X[test], return_std=True)
    assert 1 - np.mean((mean - y[test]) ** 2) / y[test].var() > 0.95
    # the standardised errors of a calibrated model have mean square 1
    assert 0.7 < np.mean(((mean - y[test]) / std) ** 2) < 1.4
    far = model.predict(10 * X[:1], return_std=True)[1]
    assert far > 1.2 * std.max()


IRIS = scale(load_iris().data) / 2, load_iris().target


@pytest.mark.parametrize("kernel", [deq_kernel, DEQKernel()])
def test_guest_of_svc(kernel):
    X, y = IRIS
    model = SVC(C=100, kernel=kernel).fit(X[::2], y[::2])
    K, K_test = kernel(X[::2]), kernel(X[1::2], X[::2])
    expected = SVC(C=100, kernel="precomputed").fit(K, y[::2]).decision_function(K_test)
    assert_allclose(model.decision_function(X[1::2]), expected, rtol=1e-6)
    assert model.score(X[1::2], y[1::2]) > 0.9


def test_guest_of_kernel_ridge():
    X, _ = IRIS
    y = np.sin(2 * X[:, 0])
    model = KernelRidge(alpha=1e-3, kernel=DEQKernel()).fit(X[::2], y[::2])
    K = DEQKernel()(X[::2])
    assert_allclose(K @ model.dual_coef_ + 1e-3 * model.dual_coef_, y[::2], rtol=1e-6)
    assert model.score(X[1::2], y[1::2]) > 0.9


def test_guest_of_nystroem():
    X, y = IRIS
    Z = Nystroem(DEQKernel(), n_components=150, random_state=0).fit_transform(X)
    assert_allclose(Z @ Z.T, DEQKernel()(X), atol=1e-6)  # all rows are landmarks
    features = Nystroem(DEQKernel(), n_components=40, random_state=0)
    model = make_pipeline(features, LogisticRegression(C=1000)).fit(X[::2], y[::2])
    assert model.score(X[1::2], y[1::2]) > 0.9


def test_what_is_not_at_its_default_is_shown():
    assert repr(DEQKernel()) == "DEQKernel(recurrent_var=0.2, input_var=0.8, bias_var=0.1)"
    shown = repr(DEQKernel(0.3, activation="tanh", center=False, bias_var_bounds="fixed"))
    for part in ("recurrent_var=0.3", "activation='tanh'", "center=False", "'fixed'"):
        assert part in shown
    assert "bias_var_bounds=array([0.1, 2. ])" in repr(
        DEQKernel(bias_var_bounds=np.array([0.1, 2]))
    )


@pytest.mark.long
def test_gradients_in_several_threads(rows):
    kernel = DEQKernel(0.4, 0.7, 0.2, activation="tanh")
    expected = kernel(rows, eval_gradient=True)[1]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: kernel(rows, eval_gradient=True)[1], range(8)))
    for gradient in found:
        assert_allclose(gradient, expected, rtol=1e-12)
