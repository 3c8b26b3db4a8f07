"""Kernel ridge regression with a DEQ kernel on MNIST or Fashion-MNIST.

    python examples/benchmarks/mnist_kernel.py --data-dir DIR --blur 0.7 --n-components 10000
    python examples/benchmarks/mnist_kernel.py --data-dir DIR --blur 0.7 --n 10000 --solver cholesky

DIR holds mnist.npz and fashion_mnist.npz with X_train, y_train, X_test, y_test. Images may be
smoothed by a Gaussian, of a width of ``--blur`` pixels, and are scaled to unit norm within the
estimator. Kernel and width were chosen on the training images alone, see ``--tune``: every
candidate, fitted to the first 6,000 images, is scored on the next 3,000.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from sk_deq import DEQKernelRidgeClassifier

CANDIDATES = [
    {"kernel": "ck", "activation": "relu", "recurrent_var": 0.2},
    {"kernel": "ntk", "activation": "relu", "recurrent_var": 0.5},
    {"kernel": "ntk", "activation": "relu", "recurrent_var": 1.5, "input_var": 1.0},
    {"kernel": "ck", "activation": "abs", "recurrent_var": 0.5, "center": False},
    {"kernel": "ck", "activation": "erf", "recurrent_var": 0.2, "input_var": 20.0},
    {"kernel": "ck", "activation": "sin", "recurrent_var": 0.0, "input_var": 3.0},
    {"kernel": "ck", "activation": "sin", "recurrent_var": 0.0, "input_var": 6.0},
    {"kernel": "ck", "activation": "sin", "recurrent_var": 0.5, "input_var": 6.0},
    {"kernel": "ck", "activation": "sin", "recurrent_var": 0.8, "input_var": 6.0},
]


def load(data_dir, dataset, blur=0.0):
    with np.load(Path(data_dir) / f"{dataset}.npz") as data:
        arrays = {key.lower(): data[key] for key in data.files}
    X = [arrays[f"x_{part}"].reshape(len(arrays[f"y_{part}"]), -1) for part in ("train", "test")]
    width = round(X[0].shape[1] ** 0.5)
    X = [
        gaussian_filter(part.reshape(-1, width, width) / np.float32(255), (0, blur, blur))
        for part in X
    ]
    X, X_test = (part.reshape(len(part), -1) for part in X)
    return X, arrays["y_train"], X_test, arrays["y_test"]


def tune(X, y, alphas):
    for candidate in CANDIDATES:
        scores = []
        for alpha in alphas:
            model = DEQKernelRidgeClassifier(
                alpha, input_scaling="sphere", solver="cholesky", **candidate
            )
            model.fit(X[:6000], y[:6000])
            scores.append(f"{model.score(X[6000:9000], y[6000:9000]):.4f}")
        print(candidate, dict(zip(alphas, scores, strict=True)), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--dataset", default="mnist", choices=["mnist", "fashion_mnist"])
    parser.add_argument("--blur", type=float, default=0.0, help="in pixels; 0: plain images")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--n", type=int, default=60_000)
    parser.add_argument("--solver", default="nystroem")
    parser.add_argument("--n-components", type=int, default=10_000)
    parser.add_argument("--tol", type=float, default=1e-3, help="of --solver cg")
    parser.add_argument("--activation", default="sin")
    parser.add_argument("--kernel", default="ck")
    parser.add_argument("--recurrent-var", type=float, default=0.5)
    parser.add_argument("--input-var", type=float, default=6.0)
    parser.add_argument("--alpha", type=float, nargs="+", default=[1e-2])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    X, y, X_test, y_test = load(options.data_dir, options.dataset, options.blur)
    if options.tune:
        tune(X, y, options.alpha)
        return
    model = DEQKernelRidgeClassifier(
        options.alpha if len(options.alpha) > 1 else options.alpha[0],
        kernel=options.kernel,
        activation=options.activation,
        recurrent_var=options.recurrent_var,
        input_var=options.input_var,
        input_scaling="sphere",
        solver=options.solver,
        tol=options.tol,
        n_components=options.n_components if options.solver in ("cg", "nystroem") else None,
        dtype=options.dtype,
        device=options.device,
        random_state=0,
    )
    start = time.perf_counter()
    model.fit(X[: options.n], y[: options.n])
    fitted = time.perf_counter()
    accuracy = model.score(X_test, y_test)
    print(
        f"{options.dataset}, {options.n} rows, blur {options.blur:g}, solver {options.solver}, "
        f"alpha {model.alpha_:g}: accuracy {accuracy:.4f}, fit {fitted - start:.0f} s, "
        f"{model.n_iter_} iterations, 10,000 predictions {time.perf_counter() - fitted:.0f} s"
    )


if __name__ == "__main__":
    main()
