"""Rows that come in chunks: the same as all at once, and errors that name the chunk."""

import pickle
from itertools import pairwise

import numpy as np
import pytest

from sk_deq import (
    DEQKernelRidge,
    DEQKernelRidgeClassifier,
    EquivalentExplicitRegressor,
    KernelMatcher,
)

RANDOM = np.random.RandomState(0)
X = RANDOM.normal(size=(600, 4)) * [1, 2, 1, 1]
Y = np.sin(X[:, 0]) + X[:, 1] ** 2 + 0.1 * RANDOM.normal(size=600)
LABELS = np.array(["low", "middle", "high"])[np.digitize(Y, [0, 3])]
W = RANDOM.uniform(0.5, 2, size=600)
FIXED = {
    "activation": "relu", "recurrent_var": 0.5, "input_var": 1.0, "bias_var": 0.1, "center": False,
    "kernel": "ck", "input_scaling": "rms", "hyperparameters": None, "solver": "nystroem",
    "landmarks": X[::20], "alpha": 0.1, "random_state": 0,
}  # fmt: skip
CUTS = {"four": [150, 300, 450], "uneven": [1, 7, 590], "one": []}


def chunks(cuts, *arrays):
    """The arrays cut before these rows."""
    edges = [0, *cuts, len(arrays[0])]
    return [[array[start:end] for array in arrays] for start, end in pairwise(edges)]


def fitted_by_chunks(model, cuts, *arrays, **parameters):
    for x, y, *w in chunks(cuts, *arrays):
        model.partial_fit(x, y, sample_weight=w[0] if w else None, **parameters)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [{}, {"input_scaling": "sphere"}, {"input_scaling": None}])
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_chunks_are_one_fit(cuts, parameters):
    y = np.column_stack([Y, 3 - X[:, 0]])
    for targets in (Y, y):
        one = DEQKernelRidge(**{**FIXED, **parameters}).fit(X, targets, W)
        many = DEQKernelRidge(**{**FIXED, **parameters})
        fitted_by_chunks(many, cuts, X, targets, W)
        np.testing.assert_allclose(many.predict(X), one.predict(X), atol=1e-9)
        assert many.dual_coef_.shape == one.dual_coef_.shape
        assert many.alpha_ == 0.1 and many.n_features_in_ == 4


@pytest.mark.slow
@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("classes", [["low", "middle", "high"], ["middle", "high"]])
def test_chunks_of_labels_are_one_fit(cuts, classes):
    kept = np.isin(LABELS, classes)
    one = DEQKernelRidgeClassifier(**FIXED).fit(X[kept], LABELS[kept])
    many = DEQKernelRidgeClassifier(**FIXED)
    cuts = [min(cut, kept.sum() - 1) for cut in cuts]
    fitted_by_chunks(many, cuts, X[kept], LABELS[kept], classes=classes)
    np.testing.assert_array_equal(many.classes_, one.classes_)
    np.testing.assert_allclose(many.decision_function(X), one.decision_function(X), atol=1e-9)
    # calibrated on other held-out rows
    assert many.temperature_ == pytest.approx(one.temperature_, rel=0.3)
    assert many.score(X[kept], LABELS[kept]) > 0.8


def test_predictions_can_be_had_after_each_chunk():
    model, scores = DEQKernelRidge(**FIXED), []
    for x, y in chunks([20, 60, 200], X, Y):
        model.partial_fit(x, y)
        scores.append(model.score(X, Y))
    assert scores == sorted(scores) and scores[-1] > 0.9


def test_the_first_chunk_chooses_what_is_not_given():
    model = DEQKernelRidge(solver="nystroem", n_components=50, random_state=0)
    fitted_by_chunks(model, [300], X, Y)
    assert len(model.X_fit_) == 50 and model.score(X, Y) > 0.95
    assert len(model.alphas_) == len(model.validation_errors_) > 1
    kernel = model.kernel_, model.activation_, model.input_scaling_
    model.partial_fit(X[:100], Y[:100])
    assert (model.kernel_, model.activation_, model.input_scaling_) == kernel


def test_the_penalty_is_chosen_from_all_chunks():
    alphas = [1e-3, 1e-1, 1e3]
    model = DEQKernelRidge(**{**FIXED, "alpha": alphas})
    fitted_by_chunks(model, [300], X, Y)
    errors = model.validation_errors_
    assert model.alpha_ == alphas[errors.argmin()] and errors[2] > 2 * errors.min()


def test_fit_forgets_the_stream_and_pickles_keep_it():
    one = fitted_by_chunks(DEQKernelRidge(**FIXED), [300], X, Y)
    two = pickle.loads(pickle.dumps(one))
    for model in (one, two):
        model.partial_fit(X[:50], Y[:50])
    np.testing.assert_array_equal(one.predict(X), two.predict(X))
    one.fit(X[:300], Y[:300]).partial_fit(X[300:], Y[300:])
    anew = DEQKernelRidge(**FIXED).partial_fit(X[300:], Y[300:])
    np.testing.assert_array_equal(one.predict(X), anew.predict(X))


BAD = {
    "NaN": (np.full((3, 4), np.nan), Y[:3], "contains NaN"),
    "wide": (np.ones((3, 5)), Y[:3], "X has 5 features"),
    "empty": (X[:0], Y[:0], r"0 sample\(s\)"),
    "outputs": (X[:3], np.ones((3, 2)), "y has 2 outputs"),
    "target": (X[:3], [1, 2, np.inf], "infinity"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("x", "y", "message"), BAD.values(), ids=BAD)
def test_what_is_wrong_with_a_chunk_is_told_with_its_number(x, y, message):
    number = 400 if message == "contains NaN" else 3
    model = DEQKernelRidge(**{**FIXED, "landmarks": X[:5]})
    for k in range(1, number):
        model.partial_fit(X[k : k + 1], Y[k : k + 1])
    before = model.predict(X)
    with pytest.raises(ValueError, match=rf"(?s)Chunk {number} of partial_fit: .*{message}"):
        model.partial_fit(x, y)
    np.testing.assert_array_equal(model.predict(X), before)
    model.partial_fit(X[number : number + 1], Y[number : number + 1])  # and goes on
    one = DEQKernelRidge(**{**FIXED, "landmarks": X[:5]}).fit(X[1 : number + 1], Y[1 : number + 1])
    np.testing.assert_allclose(model.predict(X), one.predict(X), atol=1e-8)


def test_what_cannot_be_done_in_chunks():
    with pytest.raises(AttributeError):
        DEQKernelRidge().partial_fit  # noqa: B018
    assert not hasattr(DEQKernelRidgeClassifier(solver="eigh"), "partial_fit")
    with pytest.raises(ValueError, match="among the classes"):
        DEQKernelRidgeClassifier(**FIXED).partial_fit(X, LABELS, classes=["low", "high"])
    with pytest.raises(ValueError, match="balanced"):
        DEQKernelRidgeClassifier(**FIXED, class_weight="balanced").partial_fit(X, LABELS)


def test_landmarks_of_ones_own():
    given = {**FIXED, "solver": "auto"}
    model = DEQKernelRidge(**given).fit(X, Y)
    assert model.solver_ == "nystroem"
    np.testing.assert_array_equal(model.X_fit_, X[::20])
    with pytest.raises(ValueError, match="landmarks need solver='nystroem'"):
        DEQKernelRidge(**{**FIXED, "solver": "eigh"}).fit(X, Y)
    with pytest.raises(ValueError, match="3 features"):
        DEQKernelRidge(**{**FIXED, "landmarks": X[:9, :3]}).fit(X, Y)
    exact = DEQKernelRidge(**{**FIXED, "landmarks": X}).fit(X, Y)  # all rows: no approximation
    plain = DEQKernelRidge(**{**FIXED, "landmarks": None, "solver": "cholesky"}).fit(X, Y)
    np.testing.assert_allclose(exact.predict(X), plain.predict(X), atol=1e-3)


def test_rows_mapped_from_a_file(tmp_path):
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    one = DEQKernelRidge(**FIXED).fit(X, Y)
    many = fitted_by_chunks(DEQKernelRidge(**FIXED), [100, 300], mapped, Y)
    np.testing.assert_allclose(many.predict(mapped), one.predict(X), atol=1e-9)
    features = KernelMatcher(8, center=False, random_state=0)
    np.testing.assert_array_equal(features.fit(mapped).transform(mapped), features.transform(X))
    network = EquivalentExplicitRegressor(hyperparameters=None, width=8, random_state=0)
    fitted_by_chunks(network, [100, 300], mapped, Y)
    assert network.predict(mapped).shape == (600,)
