"""What users of neighbouring packages ran into, tried here.

Gaps, kinds of frames and of dtypes: test_pipelines.py and test_inputs.py. Every parameter matters:
test_parameters.py. Memory is asked for first: test_kernel_ridge.py.
"""

import pickle
import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import scale
from skorch.callbacks import Callback
from test_inputs import data_for
from tiny import CLASSIFIERS, NETWORKS, SETTINGS, tiny, trained

import sk_deq._ridge.kernel as ridge_kernel
from sk_deq import DEQKernelRidge
from sk_deq._solve.leave_one_out import leave_one_out

RIDGES = "DEQKernelRidge", "DEQKernelRidgeClassifier"
QUICK = {"max_epochs": 2, "hyperparameters": None, "alpha": 0.1}
NYSTROEM = {"solver": "nystroem", "hyperparameters": None, "alpha": 0.1, "random_state": 0}


class Counts(Callback):
    def on_train_begin(self, net, **kwargs):
        self.n_epochs_ = 0

    def on_epoch_end(self, net, **kwargs):
        self.n_epochs_ += 1


def outputs(model, X):
    return model.transform(X) if hasattr(model, "transform") else model.predict(X)


@pytest.mark.parametrize("name", SETTINGS)
def test_one_row_gets_what_it_gets_among_many(name):
    X, y = data_for(name)
    model = tiny(name, **QUICK, dtype="float64").fit(X, y)
    many = outputs(model, X)
    for i in (0, 7):
        assert_allclose(outputs(model, X[[i]])[0], many[i], rtol=1e-9, atol=1e-9)


def test_many_rows_are_predicted_in_parts(monkeypatch):
    """So that memory does not depend on their number."""
    X, y = data_for("DEQKernelRidge")
    model = DEQKernelRidge(**NYSTROEM, n_components=4, predict_batch_size=5000).fit(X, y)
    sizes, matrix = [], ridge_kernel.kernel_matrix

    def counted(*args):
        K = matrix(*args)
        sizes.append(K.shape)
        return K

    monkeypatch.setattr(ridge_kernel, "kernel_matrix", counted)
    many = np.tile(X, (1000, 1))
    # kernels of few entries are computed directly, of many by tables right to 1e-10
    assert_allclose(model.predict(many)[-len(X) :], model.predict(X), rtol=1e-9)
    assert max(map(max, sizes)) == 5000


def test_pickles_hold_the_landmarks_and_no_other_row():
    rng = np.random.default_rng(0)
    sizes = []
    for n in (100, 2000):
        X = rng.normal(size=(n, 5))
        model = DEQKernelRidge(**NYSTROEM, n_components=20).fit(X, X[:, 0])
        sizes.append(len(pickle.dumps(model)))
    assert sizes[1] < sizes[0] + 200


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_searches_take_floats_of_32_bits_and_integers(name):
    X, y = data_for(name)
    model = trained(name, max_epochs=2, alpha=0.1, dtype="float64")
    scores = []
    for kind in (np.float64, np.float32, np.int64):
        search = GridSearchCV(model, {"activation": ["relu", "tanh"]}, cv=2)
        scores.append(search.fit(X.astype(kind), y).cv_results_["mean_test_score"])
    assert_allclose(scores[1], scores[0], atol=0.05)
    assert_array_equal(scores[2], scores[0])


def test_a_search_with_callbacks_can_be_copied_and_pickled():
    X, y = data_for("DEQRegressor")
    model = tiny("DEQRegressor", **QUICK, callbacks=[Counts()])
    search = GridSearchCV(model, {"lr": [0.01, 0.02]}, cv=2).fit(X, y)
    for other in (deepcopy(search), pickle.loads(pickle.dumps(search))):
        assert_array_equal(other.predict(X), search.predict(X))
        other.fit(X, y)
    assert not hasattr(model.callbacks[0], "n_epochs_")  # copies are what is called


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_logarithms_of_probabilities(name):
    X, y = data_for(name)
    model = trained(name, max_epochs=2).fit(X, y)
    assert_allclose(np.exp(model.predict_log_proba(X)), model.predict_proba(X), rtol=1e-5)
    far = model.predict_log_proba(1e4 * np.asarray(X))  # where probabilities may be 0
    assert np.isfinite(far).all()
    assert (trained(name, max_epochs=2).fit(X, 0 * y).predict_log_proba(X) == 0).all()


@pytest.mark.parametrize("name", [*NETWORKS, *RIDGES])
def test_a_first_chunk_of_one_row_is_told_of(name):
    X, y = data_for(name)
    chunks = {"solver": "nystroem"} if name in RIDGES else {}
    classes = {"classes": np.unique(y)} if name in CLASSIFIERS else {}
    model = trained(name, max_epochs=2, **chunks)
    with pytest.warns(UserWarning, match="brings one row, and it settles the scale"):
        model.partial_fit(X[:1], y[:1], **classes)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.partial_fit(X[1:2], y[1:2])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_class_of_one_in_a_hundred(name):
    X, y = make_blobs([396, 4], centers=[[0, 0], [4, 4]], random_state=0)
    for class_weight in (None, "balanced"):
        model = tiny(name, class_weight=class_weight, max_epochs=20).fit(scale(X), y)
        p = model.predict_proba(scale(X))
        assert np.isfinite(p).all() and p[y == 1, 1].min() > p[y == 0, 1].mean()
        assert_array_equal(model.classes_, [0, 1])


def test_landmarks_of_ones_own():
    """All rows as landmarks give what all rows give; other landmarks something else."""
    X, y = data_for("DEQKernelRidge")
    exact = DEQKernelRidge(**{**NYSTROEM, "solver": "cholesky"}).fit(X, y).predict(X)
    for given in (X, X.tolist(), X.astype(np.float32)):
        model = DEQKernelRidge(**NYSTROEM, landmarks=given).fit(X, y)
        assert_allclose(model.predict(X), exact, rtol=1e-6)
    fewer = DEQKernelRidge(**NYSTROEM, landmarks=X[:5]).fit(X, y).predict(X)
    assert np.abs(fewer - exact).max() > 1


@pytest.mark.parametrize("solver", ["nystroem", "cg"])
def test_more_components_than_rows(solver):
    X, y = data_for("DEQKernelRidge")
    given = {**NYSTROEM, "solver": solver}
    all_rows, more = (
        DEQKernelRidge(**given, n_components=n).fit(X, y).predict(X) for n in (len(X), 10_000)
    )
    assert_array_equal(more, all_rows)


@pytest.mark.parametrize("weighted", [False, True])
def test_leave_one_out_of_repeated_rows_at_all_penalties(weighted):
    """Against fits without each row, in a basis of the distinct rows; alpha 1e-12 to 1e6."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(7, 7))
    Z = np.linalg.qr(Z)[0] * np.geomspace(1, 0.1, 7)  # feature vectors: eigenvalues of 1 to .01
    F = Z[[0, 1, 1, 2, 3, 3, 3, 4, 5, 6]]
    y, w = rng.normal(size=(10, 2)), rng.uniform(0.5, 2, 10) if weighted else np.ones(10)
    alphas = np.array([1e-12, 1e-8, 1e-4, 1.0, 1e3, 1e6])
    found = leave_one_out(*(torch.from_numpy(a) for a in (F @ F.T, y, w)), alphas, 1e-16).numpy()
    for i in range(10):
        rest = np.arange(10) != i
        G = np.column_stack([F[rest], np.ones(9)])
        for a, alpha in enumerate(alphas):
            penalty = np.sqrt(alpha) * np.eye(8)[:7]  # none for the constant
            A = np.vstack([np.sqrt(w[rest])[:, None] * G, penalty])
            b = np.vstack([np.sqrt(w[rest])[:, None] * y[rest], np.zeros((7, 2))])
            expected = np.append(F[i], 1) @ np.linalg.lstsq(A, b, rcond=1e-15)[0]
            assert_allclose(found[i, a], expected, rtol=1e-6, atol=max(1e-9, 1e-15 / alpha))
