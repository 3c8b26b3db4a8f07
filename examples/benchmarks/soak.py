"""Fit and predict for a long time in one process: does its memory grow, do high rates stay finite?

    python examples/benchmarks/soak.py --fits 200 --predictions 2000
    python examples/benchmarks/soak.py --training 1800

The first fits every estimator in turn, on rows and variances drawn anew, and predicts ten
times with each; it prints the resident memory, in MiB, ten times on the way. The second trains a
DEQClassifier at a high learning rate for so many seconds, and prints the largest loss, weight and
fixed-point residual it saw.
"""

import argparse
import gc
import os
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning

import sk_deq

NETWORK = {"width": 32, "max_epochs": 5, "hyperparameters": None, "train": "all"}
RIDGE = {"hyperparameters": None, "alpha": 0.1}
ESTIMATORS = {
    "DEQClassifier": NETWORK,
    "DEQRegressor": NETWORK,
    "EquivalentExplicitClassifier": NETWORK,
    "EquivalentExplicitRegressor": NETWORK,
    "DEQKernelRidge": RIDGE,
    "DEQKernelRidgeClassifier": RIDGE,
    "KernelMatcher": {"n_components": 32},
}


def resident_memory():
    """MiB of this process, by Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(n_fits, n_predictions, seed):
    rng = np.random.default_rng(seed)
    found, start = [], time.process_time()
    for k in range(n_fits):
        name = list(ESTIMATORS)[k % len(ESTIMATORS)]
        X = rng.normal(size=(100, 6))
        y = (X[:, 0] > 0) * 1 if name.endswith("Classifier") else X[:, 0]
        activation = str(rng.choice(["relu", "tanh", "gelu"]))
        variance = float(rng.uniform(0.05, 0.3))
        model = getattr(sk_deq, name)(
            activation=activation, recurrent_var=variance, random_state=k, **ESTIMATORS[name]
        )
        model.fit(X, y)
        method = model.transform if name == "KernelMatcher" else model.predict
        for _ in range(n_predictions // n_fits):
            if not np.isfinite(method(rng.normal(size=(50, 6)))).all():
                raise SystemExit(f"{name} predicts what is not finite")
        if (k + 1) % max(1, n_fits // 10) == 0:
            del model, method
            gc.collect()
            found.append(resident_memory())
            seconds = time.process_time() - start
            print(f"{k + 1:6} fits {found[-1]:9.1f} MiB {seconds:8.0f} s", flush=True)
    half = found[len(found) // 2 :]
    print(f"second half: {100 * (max(half) / min(half) - 1):.1f} % between least and most")


def train(seconds, lr, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(500, 10))
    y = (np.sin(2 * X[:, 0]) + X[:, 1] > 0) * 1
    options = {**NETWORK, "width": 64, "max_epochs": 20, "warm_start": True}
    model = sk_deq.DEQClassifier(**options, lr=lr, random_state=seed)
    end, n_epochs, loss, largest, residual = time.time() + seconds, 0, 0.0, 0.0, 0.0
    while time.time() < end:
        model.fit(X, y)
        n_epochs += model.n_iter_
        loss = max(loss, *(epoch["train_loss"] for epoch in model.history_))
        weights = [p.detach().abs().max().item() for p in model.module_.parameters()]
        largest, residual = max(largest, *weights), max(residual, model.fixed_point_residual_)
    numbers = loss, largest, residual, model.score(X, y)
    print(
        f"{n_epochs} epochs at lr={lr:g}: loss <= {loss:.3g}, weights <= {largest:.3g}, "
        f"residual <= {residual:.1e}, accuracy {numbers[-1]:.3f}"
    )
    if not np.isfinite(numbers).all():
        raise SystemExit("not finite")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fits", type=int, default=200)
    parser.add_argument("--predictions", type=int, default=2000)
    parser.add_argument("--training", type=float, default=0.0, help="seconds, instead")
    parser.add_argument("--lr", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    if options.training:
        train(options.training, options.lr, options.seed)
    else:
        soak(options.fits, options.predictions, options.seed)


if __name__ == "__main__":
    main()
