"""4. Accuracy against width: the DEQ, the network matched to it, and an unmatched one.

    python examples/paper/accuracy_against_width.py --data-dir DIR --output DIR [--quick]

A ReLU DEQ with recurrent_var = 0.2; centred MNIST, 2,000 training and 2,000 test rows, three seeds.
width_readout.csv: random features, the readout trained by ridge regression with penalty 0.01, as in
the paper, up to width 4,096. width_full.csv: all weights trained, eight epochs of AdamW at rate
0.001, up to width 1,024. Beside the accuracy: seconds of training, milliseconds of predicting 1,000
rows, number of weights. Times depend on the machine; compare those of one run.
"""

from itertools import product

import numpy as np
from _common import Clock, arguments, load_images, new_figure, unit_scale, write_table
from _networks import MODELS, Network, accuracy, latency, make_features, outputs, train
from sklearn.linear_model import RidgeClassifier


def readout_only(features, X, y, X_test, y_test):
    with Clock() as clock:
        ridge = RidgeClassifier(0.01).fit(outputs(features, X).numpy(), y)
    score = ridge.score(outputs(features, X_test).numpy(), y_test)
    return score, clock.seconds, latency(features, X_test[:500])


def full(features, X, y, X_test, y_test, epochs, seed):
    network = Network(features, 10, seed=seed)
    seconds = train(network, X, y, epochs, seed=seed)[-1][1]
    return accuracy(network, X_test, y_test), seconds, latency(network, X_test[:500])


def main():
    args = arguments(__doc__, data=True)
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


if __name__ == "__main__":
    main()
