"""Latency of exported estimators in onnxruntime, beside scikit-learn's MLPClassifier.

    pip install 'sk-deq[onnx]'
    python examples/benchmarks/onnx_latency.py [--rows 2000] [--repeats 200]

All are behind a StandardScaler, exported to ONNX, and run by onnxruntime on one thread, in turns:
microseconds per row, one row at a time and in batches of 256; medians.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import onnxruntime
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_deq import DEQClassifier, DEQKernelRidgeClassifier, EquivalentExplicitClassifier
from sk_deq.export import to_onnx


def models(epochs):
    network = {"max_epochs": epochs, "random_state": 0}
    ridge = {"hyperparameters": None, "alpha": 0.1}
    return {
        "MLPClassifier(100)": MLPClassifier(100, max_iter=epochs, random_state=0),
        "MLPClassifier(512)": MLPClassifier(512, max_iter=epochs, random_state=0),
        "EquivalentExplicitClassifier(512)": EquivalentExplicitClassifier(512, **network),
        "DEQClassifier(512)": DEQClassifier(512, **network),
        "DEQKernelRidgeClassifier": DEQKernelRidgeClassifier(**ridge),
        "the same, 200 landmarks": DEQKernelRidgeClassifier(
            **ridge, solver="nystroem", n_components=200, random_state=0
        ),
    }


def session_of(model, X, path):
    to_onnx(model, path, X=X, residual=1e-4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1500, help="training rows of digits")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=200)
    args = parser.parse_args()
    X, y = load_digits(return_X_y=True)
    train, test = slice(args.rows), slice(args.rows, None)
    sides = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for name, estimator in models(args.epochs).items():
            model = make_pipeline(StandardScaler(), estimator).fit(X[train], y[train])
            path = Path(folder) / "model.onnx"
            sides[name] = session_of(model, X[train], path), model.score(X[test], y[test])
            sides[name] += (path.stat().st_size,)
    batches = {1: X[:1], 256: X[:256]}
    seconds = {(name, n): [] for name in sides for n in batches}
    for _ in range(args.repeats):
        for (name, n), times in seconds.items():
            begin = time.perf_counter()
            sides[name][0].run(None, {"X": batches[n]})
            times.append((time.perf_counter() - begin) / n)
    print(f"{'model':36}{'accuracy':>9}{'kB':>8}{'one row, us':>13}{'of 256, us':>12}")
    for name, (_, accuracy, size) in sides.items():
        one, many = (1e6 * statistics.median(seconds[name, n]) for n in batches)
        print(f"{name:36}{accuracy:9.3f}{size / 1000:8.0f}{one:13.1f}{many:12.2f}")


if __name__ == "__main__":
    main()
