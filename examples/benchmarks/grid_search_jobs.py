"""GridSearchCV over 20 candidates with one process and with two, in turns.

    python examples/benchmarks/grid_search_jobs.py

Data are 600 of the digits that scikit-learn ships, three folds, on the CPU.
"""

import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from sk_deq import DEQClassifier, DEQKernelRidgeClassifier

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


def seconds(estimator, grid, n_jobs, X, y):
    start = time.perf_counter()
    GridSearchCV(estimator, grid, cv=3, n_jobs=n_jobs, refit=False).fit(X, y)
    return time.perf_counter() - start


def main(repeats=2):
    X, y = (array[:600] for array in load_digits(return_X_y=True))
    for name, (estimator, grid) in SEARCHES.items():
        times = [
            [seconds(estimator, grid, n_jobs, X, y) for n_jobs in (1, 2)] for _ in range(repeats)
        ]
        one, two = np.min(times, axis=0)
        print(f"{name}: n_jobs=1 {one:.1f} s, n_jobs=2 {two:.1f} s, ratio {one / two:.2f}")


if __name__ == "__main__":
    main()
