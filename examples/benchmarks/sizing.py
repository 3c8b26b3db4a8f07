"""Seconds of one processor for each row, by landmarks, rows and width; memory for each row.

    OMP_NUM_THREADS=1 python examples/benchmarks/sizing.py [--columns 20]

The constants of the page on sizes. Seconds are those that the processor worked, not the clock's,
so that whatever runs beside matters little. Of sums and predictions: the difference between two
numbers of rows, so that what is done once does not count.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from sk_deq import DEQKernelRidge, DEQRegressor, EquivalentExplicitRegressor

ONE_KERNEL = {"hyperparameters": None, "alpha": 1.0, "device": "cpu", "random_state": 0}


def rows_of(n, n_columns):
    X = np.random.default_rng(0).normal(size=(n, n_columns)).astype(np.float32)
    return X, np.sin(X[:, 0]) + X[:, 1]


def seconds(function):
    """Of the processor, for a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def by_landmarks(m, n_columns, small=2048, large=8192):
    X, y = rows_of(large, n_columns)
    model = DEQKernelRidge(**ONE_KERNEL, solver="nystroem", landmarks=X[:m])
    model.partial_fit(X[:small], y[:small])
    times = [seconds(lambda n=n: model.partial_fit(X[:n], y[:n])) for n in (small, large)]
    again = [seconds(lambda n=n: model.predict(X[:n])) for n in (small, large)]
    per_row = [1e6 * (two - one) / (large - small) for one, two in (times, again)]
    print(f"{m} landmarks: {per_row[0]:.0f} us for each row of a fit, {per_row[1]:.0f} of predict")


def by_rows(n, n_columns):
    X, y = rows_of(n, n_columns)
    model = DEQKernelRidge(**ONE_KERNEL, solver="cholesky")
    model.fit(X[:200], y[:200])
    print(f"{n} rows, cholesky: {seconds(lambda: model.fit(X, y)):.1f} s")


def by_width(cls, width, n_columns, n=2048):
    X, y = rows_of(n, n_columns)
    model = cls(width=width, device="cpu", random_state=0).partial_fit(X, y)
    fit = seconds(lambda: model.partial_fit(X, y))
    predict = seconds(lambda: model.predict(X))
    print(
        f"{cls.__name__}({width}): {1e6 * fit / n:.0f} us for each row and epoch, "
        f"{1e6 * predict / n:.0f} of predict"
    )


def searched(n_columns):
    X, y = rows_of(2000, n_columns)
    model = DEQKernelRidge(solver="nystroem", n_components=10, random_state=0)
    print(f"search of the kernel: {seconds(lambda: model.fit(X, y)):.0f} s, once")


def memory(n):
    """Bytes for each row beside X, in a fit by landmarks: those of keys, targets and weights."""
    import resource

    X = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    model = DEQKernelRidge(**ONE_KERNEL, solver="nystroem", n_components=10)
    model.fit(X[:10_000], X[:10_000, 0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model.fit(X, X[:, 0])
    rose = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{1024 * rose / n:.0f} bytes for each row in memory, beside X")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--columns", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    memory(2_000_000)
    for m in (500, 1000, 2000):
        by_landmarks(m, args.columns)
    for n in (1000, 2000, 4000):
        by_rows(n, args.columns)
    for cls in (DEQRegressor, EquivalentExplicitRegressor):
        for width in (128, 512):
            by_width(cls, width, args.columns)
    searched(args.columns)


if __name__ == "__main__":
    main()
