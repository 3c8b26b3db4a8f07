"""``python -m sk_deq``: versions, device and threads, and a self test of a few seconds."""

import platform
import sys
import time
from importlib.metadata import version

import torch
from sklearn.datasets import load_iris
from threadpoolctl import threadpool_info

from ._kernel_matcher import KernelMatcher
from ._nets.deq_classifier import DEQClassifier
from ._ridge.classifier import DEQKernelRidgeClassifier
from ._torch import resolve_device
from .theory import match_explicit

PACKAGES = ("scikit-learn", "numpy", "scipy", "torch", "skorch")


def describe():
    """Lines on what runs here: versions, the device that "auto" means, threads."""
    package = sys.modules[__package__]
    yield f"sk_deq        {package.__version__}"
    yield f"python        {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield from (f"{name:14}{version(name)}" for name in PACKAGES)
    device = resolve_device("auto")
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    yield f"device        {device}{name}"
    yield f"threads       torch {torch.get_num_threads()}, " + ", ".join(
        f"{pool['internal_api']} {pool['num_threads']}" for pool in threadpool_info()
    )


def checks():
    """(what, value, whether it is as it should be) of small calls into every part."""
    X, y = load_iris(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    residual = match_explicit("relu", recurrent_var=0.2).residual
    yield "residual of the matching equations", residual, residual < 1e-8
    error = KernelMatcher(2048, random_state=0).fit(X).kernel_error(X)
    yield "kernel error of 2,048 features", error, error < 0.1
    score = DEQKernelRidgeClassifier(random_state=0).fit(X[::2], y[::2]).score(X[1::2], y[1::2])
    yield "accuracy of a kernel ridge, iris", score, score > 0.9
    deq = DEQClassifier(32, max_epochs=20, random_state=0).fit(X[::2], y[::2])
    score = deq.score(X[1::2], y[1::2])
    yield "accuracy of a DEQ, iris", score, score > 0.85
    yield (
        "residual of its fixed points",
        deq.fixed_point_residual_,
        deq.fixed_point_residual_ < 1e-2,
    )


def main():
    """Print all of it; return 1 if a check failed, else 0."""
    for line in describe():
        print(line, flush=True)
    print()
    start, failed = time.perf_counter(), 0
    for what, value, good in checks():
        print(f"{what:38}{value:10.2g}  {'ok' if good else 'FAILED'}", flush=True)
        failed += not good
    print(f"self test: {'passed' if not failed else f'{failed} failed'}, ", end="")
    print(f"{time.perf_counter() - start:.1f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
