"""4. Accuracy against width: the DEQ, the network matched to it, and an unmatched one.

    python examples/paper/accuracy_against_width.py --data-dir DIR --output DIR [--parts ab]

a: a ReLU DEQ with recurrent_var = 0.2; centred MNIST, 2,000 training and 2,000 test rows, three
   seeds. width_readout.csv: random features, the readout trained by ridge regression with penalty
   0.01, as in the paper, up to width 4,096. width_full.csv: all weights trained, eight epochs of
   AdamW at rate 0.001, up to width 1,024. Beside the accuracy: seconds of training, milliseconds of
   predicting 1,000 rows, number of weights. Times depend on the machine; compare those of one run.
b: width_all_rows.csv. Random features with that readout on all rows of MNIST, Fashion-MNIST and
   CIFAR-10 (its first 256 principal components), centred; a ReLU DEQ against two layers, a tanh DEQ
   against one; three seeds. Seconds and milliseconds are those of the processor. This part can be
   stopped and run again.
"""

from functools import lru_cache
from itertools import product
from types import SimpleNamespace

import numpy as np
from _common import (
    Clock,
    arguments,
    load_images,
    new_figure,
    resume,
    timed,
    unit_scale,
    write_table,
)
from _networks import MODELS, Network, accuracy, cost, latency, make_features, outputs, train
from sklearn.linear_model import RidgeClassifier

N_COMPONENTS = 256  # of CIFAR-10


def readout_only(features, X, y, X_test, y_test):
    with Clock() as clock:
        ridge = RidgeClassifier(0.01).fit(outputs(features, X).numpy(), y)
    score = ridge.score(outputs(features, X_test).numpy(), y_test)
    return score, clock.seconds, latency(features, X_test[:500])


def full(features, X, y, X_test, y_test, epochs, seed):
    network = Network(features, 10, seed=seed)
    seconds = train(network, X, y, epochs, seed=seed)[1][-1]
    return accuracy(network, X_test, y_test), seconds, latency(network, X_test[:500])


@lru_cache(maxsize=1)
def all_rows(data_dir, data, quick):
    """Centred rows of unit mean square norm, those of CIFAR-10 by their principal components."""
    n, n_test = (300, 200) if quick else (60_000, 10_000)
    X, y, X_test, y_test = load_images(SimpleNamespace(data_dir=data_dir), data, n, n_test)
    X, X_test = X.astype("f4"), X_test.astype("f4")
    mean = X.mean(axis=0)
    X, X_test = X - mean, X_test - mean
    if data == "cifar10":
        V = np.linalg.eigh(X.T @ X)[1][:, -N_COMPONENTS:]
        X, X_test = X @ V, X_test @ V
    scale = np.sqrt((X**2).sum(axis=1).mean())
    return X / scale, y, X_test / scale, y_test


def measure(args, data, activation, width, seed, model):
    X, y, X_test, y_test = all_rows(args.data_dir, data, args.quick)
    features = make_features(model, X.shape[1], width, seed, activation)

    def fit():
        return RidgeClassifier(0.01).fit(outputs(features, X).numpy(), y)

    ridge, seconds = timed(fit)
    row = {"accuracy": float(ridge.score(outputs(features, X_test).numpy(), y_test))}
    row |= {"fit_seconds": seconds, "ms_per_1000_rows": cost(features, X_test[:1000], 3)}
    return row | {"weights": sum(parameter.numel() for parameter in features.parameters())}


def with_all_rows(args):
    sets = ["mnist", "fashion_mnist", "cifar10"] if args.data_dir else ["digits"]
    widths, seeds = ([32, 64], [0]) if args.quick else ([64, 256, 1024], range(3))
    points = [
        {"data": data, "activation": activation, "width": width, "seed": seed, "model": model}
        for seed in seeds
        for data, activation, width, model in product(sets, ("relu", "tanh"), widths, MODELS)
    ]
    path = args.output / "width_all_rows.csv"
    rows = resume(path, points, lambda **point: measure(args, **point))
    figure, axes = new_figure(len(sets), 2, width=2.4, height=2.8, sharex=True)
    for (i, activation), (j, data) in product(enumerate(("relu", "tanh")), enumerate(sets)):
        for model in MODELS:
            key = {"data": data, "activation": activation, "model": model}
            own = [row for row in rows if key.items() <= row.items()]
            error = [
                [100 * (1 - row["accuracy"]) for row in own if row["width"] == m] for m in widths
            ]
            mean, std = [np.mean(e) for e in error], [np.std(e) for e in error]
            axes[i, j].errorbar(widths, mean, std, marker=".", capsize=2, label=model)
        axes[i, j].set(xscale="log", title=f"{data}, {activation}")
        axes[i, j].set_xticks(widths, [str(m) for m in widths])
        axes[i, j].set_xticks([], minor=True)
    axes[0, 0].legend()
    figure.supxlabel("width")
    figure.supylabel("test error in %")
    figure.savefig(args.output / "width_all_rows.png", dpi=110)


def with_few_rows(args):
    names = ["mnist"] if args.data_dir else ["digits"]
    n, n_test = (300, 200) if args.quick else (2000, 2000)
    seeds = range(2 if args.quick else 3)
    widths = {"readout": [32, 128, 256, 1024, 4096], "full": [32, 128, 256, 1024]}
    if args.quick:
        names, widths = names[:1], {"readout": [32, 64], "full": [32]}
    results = {}
    for name, training in product(names, widths):
        X, y, X_test, y_test = load_images(args, name, n, n_test)
        mean = X.mean(axis=0)
        scale = np.sqrt(((X - mean) ** 2).sum(axis=1).mean())
        X, X_test = unit_scale(X - mean), (X_test - mean) / scale
        rows = []
        for width, model in product(widths[training], MODELS):
            measured = []
            for seed in seeds:
                features = make_features(model, X.shape[1], width, seed)
                data = (features, X, y, X_test, y_test)
                if training == "readout":
                    measured.append(readout_only(*data))
                else:
                    measured.append(full(*data, epochs=2 if args.quick else 8, seed=seed))
            score, seconds, milliseconds = np.transpose(measured)
            weights = sum(parameter.numel() for parameter in features.parameters())
            row = {"data": name, "training": training, "width": width, "model": model}
            row |= {"accuracy": float(score.mean()), "std": float(score.std(ddof=1))}
            row |= {"fit_seconds": float(np.median(seconds)), "weights": weights}
            rows.append(row | {"ms_per_1000_rows": float(np.median(milliseconds))})
            print(rows[-1], flush=True)
        results.setdefault(training, []).extend(rows)
    for training, rows in results.items():
        write_table(args.output / f"width_{training}.csv", rows)

    figure, axes = new_figure(len(names), 2, sharex=True)
    for (i, training), (j, name), model in product(enumerate(widths), enumerate(names), MODELS):
        key = {"data": name, "model": model}
        own = [row for row in results[training] if key.items() <= row.items()]
        score, std = ([row[k] for row in own] for k in ("accuracy", "std"))
        axes[i, j].errorbar(widths[training], score, std, marker=".", capsize=2, label=model)
        axes[i, j].set(xscale="log", title=f"{name}, {training}", xlabel="width")
        axes[i, j].legend()
    figure.supylabel("test accuracy")
    figure.savefig(args.output / "accuracy_against_width.png", dpi=110)


def main():
    args = arguments(__doc__, data=True, parts="ab")
    if "a" in args.parts:
        with_few_rows(args)
    if "b" in args.parts:
        with_all_rows(args)


if __name__ == "__main__":
    main()
