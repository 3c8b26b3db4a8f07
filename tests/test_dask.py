"""Dask: the same result however the rows are cut, and whatever workers are lost."""

import os
import signal
import threading
import time

import numpy as np
import pandas as pd
import pytest

import sk_deq
from sk_deq.dask import DEQKernelRidge, DEQKernelRidgeClassifier, KernelMatcher

REASON = "needs pip install 'sk-deq[dask]'"
da = pytest.importorskip("dask.array", reason=REASON)
dd = pytest.importorskip("dask.dataframe", reason=REASON)
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


def test_the_cuts_do_not_matter():
    found, probabilities = [], []
    for chunks in CUTS:
        model = DEQKernelRidge(n_components=60, random_state=0)
        found.append(model.fit(cut(X, chunks), cut(Y, chunks)).predict(X))
        np.testing.assert_allclose(found[-1], found[0], atol=1e-8)
        classifier = DEQKernelRidgeClassifier(n_components=60, random_state=0)
        p = classifier.fit(cut(X, chunks), cut(LABELS, chunks)).predict_proba(X)
        probabilities.append(p)
        np.testing.assert_allclose(p, probabilities[0], atol=1e-8)
    assert model.score(X, Y) > 0.9 and classifier.score(X, LABELS) > 0.8


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


def test_what_is_wrong_is_told_with_its_chunk():
    bad = X.copy()
    bad[260] = np.nan
    with pytest.raises(ValueError, match=r"Chunk 3: .*contains NaN"):
        DEQKernelRidge(**FIXED).fit(cut(bad, (100,) * 5), cut(Y, (100,) * 5))
    with pytest.raises(ValueError, match=r"500 rows.* 499"):
        DEQKernelRidge(**FIXED).fit(cut(X, (500,)), Y[1:])
    with pytest.raises(ValueError, match="solver='nystroem'"):
        DEQKernelRidge(**FIXED, solver="eigh").fit(cut(X, (500,)), Y)
    with pytest.raises(ValueError, match="balanced"):
        DEQKernelRidgeClassifier(class_weight="balanced").fit(cut(X, (500,)), LABELS)


@pytest.mark.filterwarnings("ignore")  # distributed's own, of a worker that is gone
def test_a_worker_that_is_killed_does_not_matter():
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
    np.testing.assert_allclose(found, expected, atol=1e-8)


def slowly(block):
    """The block, after a while."""
    time.sleep(0.3)
    return block
