"""A DEQ, its matched explicit network and distilled ones on MNIST or Fashion-MNIST.

    python examples/benchmarks/mnist_networks.py --data-dir DIR [--dataset fashion_mnist]

DIR holds mnist.npz and fashion_mnist.npz with X_train, y_train, X_test, y_test (or x_...). Prints
test accuracy, agreement with the DEQ on the test rows, training seconds and the time of a forward
pass over the test rows. All estimators run at their default settings, of width --width; "one layer"
is distilled too, with n_layers=1, where a DEQ with ReLU asks for two.

With --model-dir fitted models are kept there, and --only fits one of them: three short runs instead
of a long one. A run without --only then compares them all.
"""

import argparse
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sk_deq import DEQClassifier, EquivalentExplicitClassifier

NAMES = ["DEQ", "explicit", "distilled", "one layer"]


def load(data_dir, name):
    with np.load(Path(data_dir) / f"{name}.npz") as data:
        arrays = {key.lower(): data[key] for key in data.files}
    X = [arrays[f"x_{part}"].reshape(len(arrays[f"x_{part}"]), -1) for part in ("train", "test")]
    y = [arrays[f"y_{part}"].ravel() for part in ("train", "test")]
    return X[0].astype(np.float32), y[0], X[1].astype(np.float32), y[1]


def latencies(models, X, repeats=15):
    """Seconds of predict_proba of each model, (models, repeats), the models taking turns."""
    seconds = np.empty((len(models), repeats + 1))
    for repeat in range(repeats + 1):
        for i, model in enumerate(models):
            begin = time.perf_counter()
            model.predict_proba(X)
            seconds[i, repeat] = time.perf_counter() - begin
    return seconds[:, 1:]  # without the warm-up


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--dataset", default="mnist", choices=["mnist", "fashion_mnist"])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", type=int, default=0)
    parser.add_argument("--model-dir", type=Path)
    parser.add_argument("--only", choices=NAMES)
    args = parser.parse_args()
    X, y, X_test, y_test = load(args.data_dir, args.dataset)
    shared = {"width": args.width, "device": args.device, "random_state": args.seed}
    shared["verbose"] = args.verbose

    # one layer has not all the four numbers of a DEQ with ReLU
    warnings.filterwarnings("ignore", "The matching equations", ConvergenceWarning)

    def fitted(name):
        """The model and the seconds that its fit took, from --model-dir if it is there."""
        path = args.model_dir and (
            args.model_dir / f"{args.dataset}-{name}-{args.width}-{args.seed}.joblib"
        )
        if path and path.exists():
            return joblib.load(path)
        if name == "DEQ":
            model = DEQClassifier(**shared)
        else:
            teacher = None if name == "explicit" else fitted("DEQ")[0]
            n_layers = 1 if name == "one layer" else "auto"
            model = EquivalentExplicitClassifier(**shared, teacher=teacher, n_layers=n_layers)
        begin = time.perf_counter()
        model.fit(X, y)
        seconds = time.perf_counter() - begin
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            joblib.dump((model, seconds), path)
        return model, seconds

    if args.only:
        model, seconds = fitted(args.only)
        accuracy = (model.predict(X_test) == y_test).mean()
        print(f"{args.only}: {accuracy:.4f} after {model.n_iter_} epochs in {seconds:.0f} s")
        return
    models, seconds = zip(*map(fitted, NAMES), strict=True)
    predictions = [model.predict(X_test) for model in models]
    passes = latencies(models, X_test)
    print(f"{args.dataset}, {len(X)} rows, width {args.width}, seed {args.seed}")
    print("model       test acc   as DEQ  epochs   fit s  predict ms  DEQ / this")
    for i, name in enumerate(NAMES):
        accuracy = (predictions[i] == y_test).mean()
        agreement = (predictions[i] == predictions[0]).mean()
        ratio = np.median(passes[0] / passes[i])
        print(
            f"{name:<10} {accuracy:9.4f} {agreement:8.4f} {models[i].n_iter_:7d} "
            f"{seconds[i]:7.1f} {1000 * np.median(passes[i]):11.1f} {ratio:11.1f}"
        )
    deq = models[0]
    print(
        f"the DEQ's last epoch: {deq.fixed_point_n_iter_:.1f} iterations per row and solve, "
        f"largest residual {deq.fixed_point_residual_:.1e}"
    )


if __name__ == "__main__":
    main()
