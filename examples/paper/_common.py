"""What the experiments share: arguments, data, distances between kernels, tables, figures."""

import argparse
import csv
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.sparse.linalg import eigsh
from sklearn.datasets import load_digits

from sk_deq.datasets import make_gaussian_mixture

EIGHT_ACTIVATIONS = ["relu", "leaky_relu", "elu", "silu", "tanh", "gelu", "softplus", "abs"]


def arguments(description, data=False, parts=None):
    """The command line that every script has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for CSV and PNG files")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    if data:
        text = "folder with mnist.npz, fashion_mnist.npz and cifar10.npz; without it: digits"
        parser.add_argument("--data-dir", type=Path, help=text)
    if parts:
        parser.add_argument("--parts", default=parts, help="letters of the parts to run")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    return args


def write_table(path, rows):
    """Write a list of dicts with equal keys as CSV, floats to four digits, and print it."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            shown = {k: _shown(v) for k, v in row.items()}
            writer.writerow(shown)
            print("  ".join(f"{k}={v}" for k, v in shown.items()))
    print(f"-> {path}", flush=True)


def resume(path, points, measure):
    """Table of measure(**point) for every point (a dict), written to a CSV point by point.

    Points whose row the file has are not measured again, so that a run may be stopped at any time.
    Returns the rows as dicts, point and measurements, numbers as floats.
    """
    rows = read_table(path) if path.exists() else []
    done = {tuple(map(_plain, list(row.values())[: len(points[0])])) for row in rows}
    for point in points:
        if tuple(_plain(_shown(value)) for value in point.values()) in done:
            continue
        row = {key: _shown(value) for key, value in (point | measure(**point)).items()}
        begun = path.exists()
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, row, lineterminator="\n")
            if not begun:
                writer.writeheader()
            writer.writerow(row)
        print("  ".join(f"{k}={v}" for k, v in row.items()), flush=True)
    print(f"-> {path}", flush=True)
    return read_table(path)


def read_table(path):
    """The rows of a CSV as dicts, numbers as floats."""
    with open(path, newline="") as file:
        return [{k: _plain(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _shown(value):
    return f"{value:.4g}" if isinstance(value, float) else value


def _plain(value):
    try:
        return float(value)
    except ValueError:
        return value


def new_figure(n_columns=1, n_rows=1, width=4.5, height=3.6, **kwargs):
    """A figure that needs no display, and its axes as a matrix."""
    figure = Figure(figsize=(width * n_columns, height * n_rows), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **kwargs)


def spectral_norm(matrix):
    """Largest absolute eigenvalue of a symmetric matrix."""
    if len(matrix) <= 200:
        return float(np.abs(np.linalg.eigvalsh(matrix)).max())
    if not matrix.any():
        return 0.0
    start = np.random.default_rng(0).uniform(-1, 1, len(matrix))
    return float(abs(eigsh(matrix, k=1, v0=start, tol=1e-4, return_eigenvectors=False)[0]))


def spectral_error(kernel, exact):
    """Spectral norm of the difference over that of the exact kernel."""
    return spectral_norm(kernel - exact) / spectral_norm(exact)


def unit_scale(X):
    """Divide by the root-mean-square norm of the rows: tau0 = 1."""
    return X / np.sqrt((X**2).sum(axis=1).mean())


def mixture(p, seed, ratio=0.8):
    """The paper's two classes, ratio * p rows, at tau0 = 1."""
    X, y = make_gaussian_mixture(int(ratio * p), p, random_state=seed)
    return unit_scale(X), y


def load_images(args, name, n_train, n_test, seed=0):
    """Random training and test rows of an image set in [0, 1]; of digits without --data-dir."""
    rng = np.random.default_rng(seed)
    if args.data_dir is None:
        X, y = load_digits(return_X_y=True)
        order = rng.permutation(len(X))
        n_test = min(n_test, len(X) // 3)
        train, test = order[n_test : n_test + n_train], order[:n_test]
        return X[train] / 16, y[train], X[test] / 16, y[test]
    arrays = []
    with np.load(args.data_dir / f"{name}.npz") as data:
        for part, n in (("train", n_train), ("test", n_test)):
            X, y = data[f"X_{part}"], data[f"y_{part}"]
            chosen = rng.permutation(len(X))[:n]
            arrays += [X[chosen].reshape(len(chosen), -1) / 255, y[chosen].ravel()]
    return tuple(arrays)


def load_table(args, name, seed=0):
    """Three quarters of a table's rows to train, and the others, categories as one-hot code."""
    frame = pd.read_csv(args.data_dir / "tabular" / f"{name}.csv.gz")
    X = pd.get_dummies(frame.drop(columns="target"), dtype=float).to_numpy()
    y = pd.factorize(frame["target"], sort=True)[0]
    order = np.random.default_rng(seed).permutation(len(X))
    test, train = np.split(order, [len(X) // 4])
    return X[train], y[train], X[test], y[test]


def timed(function, *args):
    """What a function returns, and the seconds of the processor that it took."""
    begin = time.process_time()
    found = function(*args)
    return found, time.process_time() - begin


def peak_memory():
    """Gigabytes that the process has had at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


class Clock:
    """``with Clock() as clock: ...`` and then ``clock.seconds``."""

    def __enter__(self):
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self._start
