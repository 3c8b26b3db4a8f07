"""Dask: the same result however the rows are cut, and whatever workers are lost."""

import os
import signal
import threading
import time

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import sk_deq
from sk_deq._row_keys import row_keys
from sk_deq._solve.nystroem import first_held_out, is_held_out
from sk_deq._torch import make_generator
from sk_deq.dask import DEQKernelRidge, DEQKernelRidgeClassifier, KernelMatcher

REASON = "needs pip install 'sk-deq[dask]'"
da = pytest.importorskip("dask.array", reason=REASON)
dd = pytest.importorskip("dask.dataframe", reason=REASON)
delayed = pytest.importorskip("dask", reason=REASON).delayed
distributed = pytest.importorskip("distributed", reason=REASON)

RANDOM = np.random.RandomState(0)
X = RANDOM.normal(size=(500, 3))
X[400:420] = X[:20]  # repeated rows
Y = np.sin(2 * X[:, 0]) + X[:, 1] ** 2
LABELS = np.array(["low", "middle", "high"])[np.digitize(Y, [0.3, 1])]
W = RANDOM.randint(0, 3, 500).astype(float)
FIXED = {
    "activation": "relu", "recurrent_var": 0.5, "input_var": 1.0, "bias_var": 0.1, "center": False,
    "kernel": "ck", "input_scaling": "rms", "hyperparameters": None, "alpha": 0.1,
}  # fmt: skip
CUTS = [(500,), (250, 250), (1, 99, 7, 393), (50,) * 10]


def cut(array, chunks):
    return da.from_array(array, chunks=(chunks, *array.shape[1:]))


@pytest.mark.slow
@pytest.mark.parametrize("chunks", CUTS, ids=len)
def test_given_landmarks_it_is_the_local_fit(chunks):
    given = {**FIXED, "solver": "nystroem", "landmarks": X[::10]}
    local = sk_deq.DEQKernelRidge(**given).fit(X, Y, W)
    model = DEQKernelRidge(**given).fit(cut(X, chunks), cut(Y, chunks), cut(W, chunks))
    found = model.predict(cut(X, chunks))
    assert isinstance(found, da.Array) and found.chunks == (chunks,)
    np.testing.assert_allclose(found.compute(), local.predict(X), atol=1e-8)
    np.testing.assert_allclose(model.predict(X), local.predict(X), atol=1e-8)
    local = sk_deq.DEQKernelRidgeClassifier(**given).fit(X, LABELS, W)
    model = DEQKernelRidgeClassifier(**given)
    model.fit(cut(X, chunks), cut(LABELS, chunks), cut(W, chunks))
    decision = model.decision_function(cut(X, chunks))
    np.testing.assert_allclose(decision.compute(), local.decision_function(X), atol=1e-8)
    assert (model.predict(cut(X, chunks)).compute() == local.predict(X)).all()
    p = model.predict_proba(cut(X, chunks)).compute()
    np.testing.assert_allclose(p.sum(1), 1)
    log_p = model.predict_log_proba(cut(X, chunks))
    assert isinstance(log_p, da.Array)
    np.testing.assert_allclose(np.exp(log_p.compute()), p, rtol=1e-9, atol=1e-300)


def smallest_hashes(n):
    """The n distinct rows with the smallest hashes, found by a plain loop over all rows."""
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    keys = row_keys(X, make_generator(seed)).tolist()
    first = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    return X[[first[key] for key in sorted(first)[:n]]]


@pytest.mark.parametrize("chunks", CUTS, ids=len)
def test_landmarks_are_the_rows_of_the_smallest_hashes(chunks):
    given = {**FIXED, "random_state": 0}
    local = sk_deq.DEQKernelRidge(**given, solver="nystroem", n_components=60)
    model = DEQKernelRidge(**given, n_components=60).fit(
        cut(X, chunks), cut(Y, chunks), cut(np.ones(500), chunks)
    )
    np.testing.assert_array_equal(model.X_fit_, smallest_hashes(60))
    model.fit(cut(X, chunks), cut(Y, chunks), cut(W + 1.0, chunks))
    local.fit(X, Y, W + 1.0)
    np.testing.assert_allclose(model.predict(X), local.predict(X), atol=1e-8)


def many_rows(n=9000):
    """Rows of which some are searched on and some repeated, targets, labels and weights."""
    random = np.random.RandomState(1)
    X = random.normal(size=(n, 3)) * [1, 2, 3]
    X[::7] = X[1::7][: len(X[::7])]
    y = np.sin(X[:, 0]) + X[:, 1] ** 2 + 0.1 * random.normal(size=n)
    labels = np.array(["low", "middle", "high"])[np.digitize(y, [0.3, 6])]
    return X, y, labels, random.randint(0, 3, n).astype(float)


def test_the_only_row_of_a_class_does_not_calibrate_either():
    X, _, labels, _ = many_rows(600)
    seed = np.random.RandomState(3).randint(np.iinfo(np.int32).max)
    keys = row_keys(X, make_generator(seed))
    out = is_held_out(keys, torch.ones(600, dtype=torch.bool), first_held_out(keys)).numpy()
    _, first, counts = np.unique(keys.numpy(), return_index=True, return_counts=True)
    labels[next(i for i, n in zip(first, counts, strict=True) if out[i] and n == 1)] = "only"
    given = {**FIXED, "n_components": 60, "random_state": 3, "class_weight": {"only": 300.0}}
    local = sk_deq.DEQKernelRidgeClassifier(**given, solver="nystroem").fit(X, labels)
    model = DEQKernelRidgeClassifier(**given).fit(cut(X, (200, 400)), cut(labels, (200, 400)))
    assert model.temperature_ == pytest.approx(local.temperature_, rel=1e-8)
    assert model.temperature_ > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
def test_by_default_it_is_the_local_fit(weighted):
    X, y, labels, w = many_rows()
    y = np.column_stack([y, 1e3 * X[:, 2]])
    given = {"n_components": 60, "random_state": 3}
    for chunks in [(9000,), (1, 2999, 7, 4000, 1993)]:
        lazy = cut(X, chunks), cut(y, chunks), cut(labels, chunks)
        weights = (w, cut(w, chunks)) if weighted else (None, None)
        local = sk_deq.DEQKernelRidge(**given, solver="nystroem").fit(X, y, weights[0])
        model = DEQKernelRidge(**given).fit(*lazy[:2], weights[1])
        assert model.get_params() == {**local.get_params(), "solver": "auto"}
        np.testing.assert_array_equal(model.X_fit_, local.X_fit_)
        np.testing.assert_allclose(model.validation_errors_, local.validation_errors_, rtol=1e-8)
        scale = np.abs(y).max(0)
        np.testing.assert_allclose(model.predict(X) / scale, local.predict(X) / scale, atol=1e-8)
        local = sk_deq.DEQKernelRidgeClassifier(**given, solver="nystroem")
        local.fit(X, labels, weights[0])
        model = DEQKernelRidgeClassifier(**given).fit(lazy[0], lazy[2], weights[1])
        p = model.predict_proba(lazy[0]).compute()
        np.testing.assert_allclose(p, local.predict_proba(X), atol=1e-8)
        sets = model.predict_set(X, 0.8)
        assert (sets == local.predict_set(X, 0.8)).mean() > 0.9999
    assert local.score(X, labels) > 0.9


@pytest.mark.parametrize("scaling", ["rms", "sphere", None])
def test_features_are_the_local_ones(scaling):
    parameters = {"center": False, "input_scaling": scaling, "random_state": 0}
    local = sk_deq.KernelMatcher(8, **parameters).fit(X)
    model = KernelMatcher(8, **parameters).fit(cut(X, CUTS[2]))
    found = model.transform(cut(X, CUTS[2]))
    assert found.shape == (500, 8)
    np.testing.assert_allclose(found.compute(), local.transform(X), atol=1e-8)


def test_data_frames():
    frame = pd.DataFrame(X, columns=list("abc")).assign(y=Y)
    lazy = dd.from_pandas(frame, npartitions=3)
    given = {**FIXED, "landmarks": X[::10]}
    model = DEQKernelRidge(**given).fit(lazy[list("abc")], lazy["y"])
    local = sk_deq.DEQKernelRidge(**given, solver="nystroem").fit(X, Y)
    found = model.predict(lazy[list("abc")]).compute()
    np.testing.assert_allclose(found, local.predict(X), atol=1e-8)


def test_chunks_without_rows_and_of_another_dtype():
    given = {**FIXED, "landmarks": X[::10]}
    local = sk_deq.DEQKernelRidge(**given, solver="nystroem").fit(X, Y)
    chunks = (0, 100, 0, 400, 0)
    model = DEQKernelRidge(**given).fit(cut(X, chunks), cut(Y, chunks))
    np.testing.assert_allclose(model.predict(X), local.predict(X), atol=1e-8)
    assert model.predict(cut(X, chunks)).compute().shape == (500,)
    whole = np.round(10 * X)
    local.set_params(landmarks=whole[::10]).fit(whole, Y)
    for dtype in (np.float32, np.int64):
        model = DEQKernelRidge(**{**given, "landmarks": whole[::10]})
        model.fit(cut(whole.astype(dtype), CUTS[1]), cut(Y, CUTS[1]))
        np.testing.assert_allclose(model.predict(whole), local.predict(whole), atol=1e-8)


@pytest.mark.slow
def test_what_is_wrong_is_told_with_its_chunk():
    bad = X.copy()
    bad[260] = np.nan
    with pytest.raises(ValueError, match=r"Chunk 3: .*contains NaN"):
        DEQKernelRidge(**FIXED).fit(cut(bad, (100,) * 5), cut(Y, (100,) * 5))
    many, chunks = np.tile(X[:1], (500, 1)), (1,) * 500
    many[399] = np.nan
    with pytest.raises(ValueError, match=r"Chunk 400: .*contains NaN"):
        DEQKernelRidge(**FIXED).fit(cut(many, chunks), cut(Y, chunks))
    pieces = [da.from_array(X[:100]), da.from_delayed(delayed(np.ones)((50, 5)), (50, 3), float)]
    pieces += [da.from_delayed(delayed(np.array)([["a", "b", "c"]] * 20), (20, 3), float)]
    for n, message in (2, "Chunk 2: .* 5 features, not 3"), (3, "Chunk 2: .*could not convert"):
        rows = da.concatenate([pieces[0], pieces[n - 1]])
        with pytest.raises(ValueError, match=f"(?s){message}"):
            DEQKernelRidge(**FIXED).fit(rows, np.ones(len(rows)))
    with pytest.raises(ValueError, match="at least one row"):
        DEQKernelRidge(**FIXED).fit(cut(X[:0], (0,)), cut(Y[:0], (0,)))
    with pytest.raises(ValueError, match="checkpoint_dir must be None"):
        DEQKernelRidge(**FIXED, checkpoint_dir="here").fit(cut(X, (500,)), Y)
    with pytest.raises(ValueError, match=r"500 rows.* 499"):
        DEQKernelRidge(**FIXED).fit(cut(X, (500,)), Y[1:])
    with pytest.raises(ValueError, match="solver='nystroem'"):
        DEQKernelRidge(**FIXED, solver="eigh").fit(cut(X, (500,)), Y)
    with pytest.raises(ValueError, match="balanced"):
        DEQKernelRidgeClassifier(class_weight="balanced").fit(cut(X, (500,)), LABELS)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # distributed's own, of a worker that is gone
def test_a_cluster_whose_worker_is_killed_and_a_search_on_it():
    chunks = (25,) * 20
    model = DEQKernelRidge(n_components=60, random_state=0)
    expected = model.fit(cut(X, chunks), cut(Y, chunks)).predict(X)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        pids = list(client.run(os.getpid).values())
        slow = cut(X, chunks).map_blocks(slowly, dtype=X.dtype, meta=X[:0])

        def kill():
            time.sleep(2)
            os.kill(pids[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        found = model.fit(slow, cut(Y, chunks)).predict(X)
        killer.join()
        assert pids[0] not in client.run(os.getpid).values()
        search = GridSearchCV(sk_deq.DEQKernelRidge(**FIXED), {"alpha": [0.1, 10.0]}, cv=2)
        with joblib.parallel_backend("dask"):
            search.fit(X[:200], Y[:200])
    local = clone(search).fit(X[:200], Y[:200])
    assert search.best_params_ == local.best_params_
    scores = [grid.cv_results_["mean_test_score"] for grid in (search, local)]
    np.testing.assert_allclose(*scores, rtol=1e-12)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def slowly(block):
    """The block, after a while."""
    time.sleep(0.3)
    return block
