"""Faults at any point of a fit, many threads, other processes: nothing is left half done."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import torch
from test_inputs import data_for
from tiny import SETTINGS, tiny
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.long

SMALL = {"max_epochs": 2, "hyperparameters": None}
METHODS = "predict", "predict_proba", "decision_function", "transform"


def outputs(model, X):
    return [getattr(model, method)(X) for method in METHODS if hasattr(model, method)]


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


class Fault(TorchDispatchMode):
    """Counts what torch is asked for; raises an error at one of these."""

    def __init__(self, at=None, error=None):
        super().__init__()
        self.at, self.error, self.n_calls = at, error, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n_calls += 1
        if self.n_calls == self.at:
            raise self.error
        return func(*args, **(kwargs or {}))


SHARES = 0.003, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("name", SETTINGS)
def test_an_error_at_any_point_leaves_the_estimator_as_it_was(name, method):
    """MemoryError and Ctrl-C at seven points of a refit, or of one more chunk.

    Of one epoch: after the first, Ctrl-C ends the training, with a warning.
    """
    X, y = data_for(name)
    options = {**SMALL, "max_epochs": 1}
    if method == "partial_fit":
        options |= {"solver": "nystroem", "n_components": 8}
    model = tiny(name, **options).fit(X[::2], y[::2])
    if method == "partial_fit":
        if not hasattr(model, "partial_fit"):
            pytest.skip("has no partial_fit")
        model.partial_fit(X[::2], y[::2])
    before, attributes = outputs(model, X), dict(vars(model))
    for _ in range(2):  # first without tables, then with
        again = deepcopy(model)
        with Fault() as counter:
            getattr(again, method)(X[1::2], y[1::2])
    for share in SHARES:
        for error in (MemoryError(), KeyboardInterrupt()):
            at = max(1, int(share * counter.n_calls))
            with pytest.raises(type(error)), Fault(at, error):
                getattr(model, method)(X[1::2], y[1::2])
            assert vars(model).keys() == attributes.keys()
            assert_same(outputs(model, X), before)
    getattr(model, method)(X[1::2], y[1::2])  # and can be fitted


@pytest.mark.parametrize("name", SETTINGS)
def test_threads_give_what_one_gives(name, unchanged_globals):
    """Predictions in eight threads and fits in four, bit for bit."""
    X, y = data_for(name)
    models = [tiny(name, **SMALL, random_state=seed).fit(X, y) for seed in range(4)]
    expected = [outputs(model, X) for model in models]
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: outputs(models[0], X), range(8)):
            assert_same(found, expected[0])
    with ThreadPoolExecutor(4) as pool:
        fits = [pool.submit(tiny(name, **SMALL, random_state=seed).fit, X, y) for seed in range(4)]
        for fit, one in zip(fits, expected, strict=True):
            assert_same(outputs(fit.result(), X), one)


IN_ANOTHER_PROCESS = """
import json, os, sys
seen = []
def hook(event, args):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "subprocess.Popen")):
        seen.append(repr((event, args)))
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        if args[0] != os.devnull:
            seen.append(repr((event, args)))
sys.addaudithook(hook)
import sk_deq, sk_deq.kernels, sk_deq.modules, sk_deq.pipelines, sk_deq.theory
of_import = list(seen)
from test_faults import SMALL, outputs
from test_inputs import data_for
from tiny import SETTINGS, tiny
seen[:] = of_import
found = {}
for name in SETTINGS:
    X, y = data_for(name)
    found[name] = [part.tolist() for part in outputs(tiny(name, **SMALL).fit(X, y), X)]
print(json.dumps({"seen": seen, "found": found}))
"""


def test_another_process_gives_the_same_bits_writes_nothing_and_asks_nobody():
    environment = {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "7",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONPATH": os.pathsep.join([p for p in sys.path if p]),
    }
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["seen"] == []
    for name in SETTINGS:
        X, y = data_for(name)
        assert_same([np.array(part) for part in told["found"][name]],
                    outputs(tiny(name, **SMALL).fit(X, y), X))  # fmt: skip
