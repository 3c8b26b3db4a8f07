"""GridSearchCV over 20 candidates with one process and with two, in turns.

    python examples/benchmarks/grid_search_jobs.py

Data are 600 of the digits that scikit-learn ships, three folds, on the CPU.

    python examples/benchmarks/grid_search_jobs.py --networks

fits twelve networks of each kind to 1,500 digits in four folds, by two processes.
"""

import argparse
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from sk_deq import DEQClassifier, DEQKernelRidgeClassifier, EquivalentExplicitClassifier

SEARCHES = {
    "kernel ridge, alphas, no search of the kernel": (
        DEQKernelRidgeClassifier(hyperparameters=None, device="cpu"),
        {"alpha": np.logspace(-4, 1, 20).tolist()},
    ),
    "kernel ridge, recurrent variances": (
        DEQKernelRidgeClassifier(device="cpu"),
        {"recurrent_var": np.linspace(0.1, 0.9, 20).tolist()},
    ),
    "DEQ of width 128, 5 epochs, learning rates": (
        DEQClassifier(width=128, max_epochs=5, random_state=0, device="cpu"),
        {"lr": np.logspace(-4, -2, 20).tolist()},
    ),
}


NETWORKS = {
    "DEQ": DEQClassifier(random_state=0),
    "DEQ, train='readout'": DEQClassifier(train="readout", random_state=0),
    "explicit": EquivalentExplicitClassifier(random_state=0),
}
TWELVE = {"activation": ["relu", "abs", "tanh"], "recurrent_var": [0.1, 0.3, 0.5, 0.7]}


def seconds(estimator, grid, n_jobs, X, y, cv=3):
    start = time.perf_counter()
    search = GridSearchCV(estimator, grid, cv=cv, n_jobs=n_jobs, refit=False).fit(X, y)
    return time.perf_counter() - start, search.best_score_


def main(repeats=2):
    X, y = (array[:600] for array in load_digits(return_X_y=True))
    for name, (estimator, grid) in SEARCHES.items():
        times = [
            [seconds(estimator, grid, n_jobs, X, y)[0] for n_jobs in (1, 2)] for _ in range(repeats)
        ]
        one, two = np.min(times, axis=0)
        print(f"{name}: n_jobs=1 {one:.1f} s, n_jobs=2 {two:.1f} s, ratio {one / two:.2f}")


def networks():
    X, y = (array[:1500] for array in load_digits(return_X_y=True))
    for name, network in NETWORKS.items():
        taken, score = seconds(network, TWELVE, 2, X, y, cv=4)
        print(f"{name}: {taken:.0f} s, best mean accuracy {score:.4f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", action="store_true")
    networks() if parser.parse_args().networks else main()
