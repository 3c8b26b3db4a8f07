"""A DEQ, its matched explicit network and the distilled one on MNIST or Fashion-MNIST.

    python examples/benchmarks/mnist_networks.py --data-dir DIR [--dataset fashion_mnist]

DIR holds mnist.npz and fashion_mnist.npz with X_train, y_train, X_test, y_test (or x_...). Prints
test accuracy, agreement, training seconds and the time of a forward pass over the test rows. All
estimators run at their default settings, of width --width.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from sk_deq import DEQClassifier, EquivalentExplicitClassifier


def load(data_dir, name):
    with np.load(Path(data_dir) / f"{name}.npz") as data:
        arrays = {key.lower(): data[key] for key in data.files}
    X = [arrays[f"x_{part}"].reshape(len(arrays[f"x_{part}"]), -1) for part in ("train", "test")]
    y = [arrays[f"y_{part}"].ravel() for part in ("train", "test")]
    return X[0].astype(np.float32), y[0], X[1].astype(np.float32), y[1]


def latencies(models, X, repeats=7):
    """Median seconds of predict_proba of each model, the models taking turns."""
    seconds = [[] for _ in models]
    for _ in range(repeats):
        for model, times in zip(models, seconds, strict=True):
            begin = time.perf_counter()
            model.predict_proba(X)
            times.append(time.perf_counter() - begin)
    return np.median(seconds, axis=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--dataset", default="mnist", choices=["mnist", "fashion_mnist"])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", type=int, default=0)
    args = parser.parse_args()
    X, y, X_test, y_test = load(args.data_dir, args.dataset)
    shared = {"width": args.width, "device": args.device, "random_state": args.seed}
    shared["verbose"] = args.verbose

    deq = DEQClassifier(**shared)
    explicit = EquivalentExplicitClassifier(**shared)
    distilled = EquivalentExplicitClassifier(**shared, teacher=deq)
    models = {"DEQ": deq, "explicit": explicit, "distilled": distilled}
    seconds = {}
    for name, model in models.items():
        begin = time.perf_counter()
        model.fit(X, y)
        seconds[name] = time.perf_counter() - begin
    predictions = {name: model.predict(X_test) for name, model in models.items()}
    passes = latencies(list(models.values()), X_test)
    print(f"{args.dataset}, {len(X)} rows, width {args.width}, seed {args.seed}")
    print("model       test acc   as DEQ  epochs   fit s  predict ms")
    for (name, model), latency in zip(models.items(), passes, strict=True):
        accuracy = (predictions[name] == y_test).mean()
        agreement = (predictions[name] == predictions["DEQ"]).mean()
        print(
            f"{name:<10} {accuracy:9.4f} {agreement:8.4f} {model.n_iter_:7d} {seconds[name]:7.1f} "
            f"{1000 * latency:11.1f}"
        )
    print(
        f"forward pass: the distilled one is {passes[0] / passes[2]:.1f} times as fast as the DEQ, "
        f"with {deq.fixed_point_n_iter_:.1f} iterations per solve in the last epoch, residual "
        f"{deq.fixed_point_residual_:.1e}"
    )


if __name__ == "__main__":
    main()
