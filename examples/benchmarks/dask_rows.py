"""Rows per second of a kernel ridge on a dask cluster of this machine, and its R2.

    pip install 'sk-deq[dask]'
    python examples/benchmarks/dask_rows.py [--rows 5000000] [--local 500000] [--landmarks 500]

The rows (20 columns of float32) are made in chunks where they are needed, and kept nowhere. First
one process fits some of them by the local estimator; then clusters of one and two workers, of one
thread and 1.5 GB each, fit all. R2 on 100,000 other rows, seconds by the clock and of the workers'
processors, and the largest memory of a worker.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

CHUNK, N_FEATURES = 50_000, 20


def rows_of(number):
    """X and y of a chunk: a smooth function of six columns, and noise a tenth as large."""
    random = np.random.default_rng(number)
    X = random.normal(size=(CHUNK, N_FEATURES)).astype(np.float32)
    y = np.sin(X[:, 0] + X[:, 1]) + 0.5 * X[:, 2] * X[:, 3] + np.tanh(2 * X[:, 4]) * X[:, 5]
    noise = 0.1 * y.std() * random.normal(size=CHUNK)
    return np.column_stack([X, y + noise]).astype(np.float32)


def collections(n_rows):
    """X and y as dask arrays, not computed yet."""
    import dask.array as da
    from dask import delayed

    made = delayed(rows_of)
    parts = [
        da.from_delayed(made(k), (CHUNK, N_FEATURES + 1), dtype=np.float32)
        for k in range(n_rows // CHUNK)
    ]
    rows = da.concatenate(parts)
    return rows[:, :-1], rows[:, -1]


def busy():
    """Seconds of the processor and largest memory in GB of this process.

    Not by `resource`: what that says counts what the parent had when it started this one.
    """
    status = Path("/proc/self/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return time.process_time(), 1024 * int(kilobytes) / 1e9


def on_cluster(n_workers, n_rows, parameters, test):
    import distributed

    from sk_deq.dask import DEQKernelRidge

    X, y = collections(n_rows)
    options = {"n_workers": n_workers, "threads_per_worker": 1, "memory_limit": "1.5GB"}
    with (
        distributed.LocalCluster(**options, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(lambda: __import__("torch").set_num_threads(1))
        before = sum(seconds for seconds, _ in client.run(busy).values())
        start = time.perf_counter()
        model = DEQKernelRidge(**parameters).fit(X, y)
        seconds = time.perf_counter() - start
        after = client.run(busy).values()
    print(
        f"{n_workers} worker(s): {n_rows} rows, R2 {model.score(*test):.4f}, {seconds:.0f} s, "
        f"{n_rows / seconds:.0f} rows per second, {sum(s for s, _ in after) - before:.0f} s of "
        f"processors, {max(gb for _, gb in after):.2f} GB",
        flush=True,
    )
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--local", type=int, default=500_000)
    parser.add_argument("--landmarks", type=int, default=500)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of the workers
    import torch

    from sk_deq import DEQKernelRidge

    torch.set_num_threads(1)
    parameters = {"solver": "nystroem", "n_components": args.landmarks, "random_state": 0}
    test = np.vstack([rows_of(10**6 + k) for k in range(2)])
    test = test[:, :-1], test[:, -1]
    rows = np.vstack([rows_of(k) for k in range(args.local // CHUNK)])
    start = time.perf_counter()
    model = DEQKernelRidge(**parameters).fit(rows[:, :-1], rows[:, -1])
    seconds = time.perf_counter() - start
    print(
        f"one process: {len(rows)} rows, R2 {model.score(*test):.4f}, {seconds:.0f} s, "
        f"{len(rows) / seconds:.0f} rows per second",
        flush=True,
    )
    one, two = (on_cluster(n, args.rows, parameters, test) for n in (1, 2))
    print(f"two workers are {one / two:.2f} times as fast as one")


if __name__ == "__main__":
    main()
