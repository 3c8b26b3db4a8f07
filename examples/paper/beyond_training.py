"""5c, d, e. Beyond the theory: training, regularisation, DEQs that have left their kernel.

    python examples/paper/beyond_training.py --data-dir DIR --output DIR [--parts cde] [--quick]

Centred MNIST, 2,000 training and 2,000 test rows; ReLU, recurrent_var = 0.2, width 128, AdamW.
(c) training_curves.csv: epochs and seconds to a mean loss of 0.1 of the DEQ, the matched and the
unmatched network at four learning rates. (d) regularisation.csv: how far the predictions of a
trained DEQ and a trained matched network are apart, by weight decay, dropout on the readout and
number of epochs; beside it the distance of two DEQs of different seeds, below which nothing can be
asked. (e) trained_deq.csv: size and direction (the cosine of the matrices) of the kernel of the
DEQ's features against the exact kernel by epoch, and how often a network trained on labels, or
distilled from this DEQ, agrees with it.
"""

from itertools import product

import numpy as np
import torch
from _common import arguments, load_images, new_figure, unit_scale, write_table
from _networks import MODELS, Network, accuracy, make_features, outputs, train

from sk_deq import DEQClassifier, EquivalentExplicitClassifier
from sk_deq.kernels import deq_kernel


def training_curves(args, X, y, X_test, y_test, width, epochs):
    rates = [1e-3, 1e-2] if args.quick else [3e-4, 1e-3, 3e-3, 1e-2]
    target = 1.0 if args.quick else 0.1
    rows = []
    figure, axes = new_figure(len(rates), 2, width=3.2, height=2.8, sharey=True)
    for (column, lr), model in product(enumerate(rates), MODELS):
        network = Network(make_features(model, X.shape[1], width, 0), 10)
        losses, seconds = np.transpose(train(network, X, y, epochs, lr=lr))
        reached = np.flatnonzero(losses <= target)
        row = {"model": model, "lr": lr, "target_loss": target}
        row["epochs_to_target"] = int(reached[0]) + 1 if len(reached) else ""
        row["seconds_to_target"] = float(seconds[reached[0]]) if len(reached) else ""
        row["last_loss"] = float(losses[-1])
        rows.append(row | {"test_accuracy": accuracy(network, X_test, y_test)})
        axes[0, column].plot(np.arange(1, epochs + 1), losses, label=model)
        axes[1, column].plot(seconds, losses, label=model)
        axes[0, column].set(title=f"rate {lr:g}", xlabel="epoch", yscale="log")
        axes[1, column].set(xlabel="seconds", yscale="log", xscale="log")
    axes[0, 0].legend()
    figure.supylabel("training loss")
    figure.savefig(args.output / "training_curves.png", dpi=110)
    write_table(args.output / "training_curves.csv", rows)


def distance(first, second, X):
    """Mean total variation between predicted distributions, and share of different labels."""
    p, q = (torch.softmax(outputs(network, X), 1) for network in (first, second))
    different = (p.argmax(1) != q.argmax(1)).float().mean()
    return float((p - q).abs().sum(1).mean() / 2), float(different)


def regularisation(args, X, y, X_test, width, epochs):
    settings = [("weight_decay", v) for v in (0.0, 0.1, 1.0, 3.0)]
    settings += [("dropout", v) for v in (0.3, 0.6, 0.9)]
    settings += [("epochs", v) for v in (1, 3, 6)]
    if args.quick:
        settings = settings[1:2] + settings[5:6]
    rows = []
    for name, value in settings:
        measured = []
        for seed in range(1 if args.quick else 3):
            options = {"weight_decay": 0.0, "dropout": 0.0, "epochs": epochs, name: value}
            dropout, n = options.pop("dropout"), options.pop("epochs")
            trained = []
            for model, own in (("DEQ", seed), ("matched", seed), ("DEQ", seed + 100)):
                torch.manual_seed(own)  # for dropout
                network = Network(make_features(model, X.shape[1], width, own), 10, dropout, own)
                train(network, X, y, n, **options, seed=own)
                trained.append(network)
            pairs = [distance(trained[0], other, X_test) for other in trained[1:]]
            measured.append([*pairs[0], *pairs[1]])
        mean = np.mean(measured, axis=0)
        row = {"setting": name, "value": value, "distance": float(mean[0])}
        row |= {"disagreement": float(mean[1]), "distance_two_deqs": float(mean[2])}
        rows.append(row | {"disagreement_two_deqs": float(mean[3])})
        print(rows[-1], flush=True)
    write_table(args.output / "regularisation.csv", rows)


def trained_deq(args, X, y, X_test, y_test, width):
    spec = {"width": width, "input_scaling": None, "random_state": 0, "dtype": "float32"}
    some = X[: 100 if args.quick else 500]
    exact = deq_kernel(some, recurrent_var=0.2, tau0=1.0)
    rows = []
    for epochs in [1, 3] if args.quick else [1, 3, 10, 30]:
        deq = DEQClassifier(hyperparameters=None, **spec, max_epochs=epochs).fit(X, y)
        Z = outputs(deq.module_.features, some).double().numpy()
        row = {"epochs": epochs, "deq_accuracy": float(deq.score(X_test, y_test))}
        K = Z @ Z.T
        row["kernel_norm"] = float(np.linalg.norm(K) / np.linalg.norm(exact))
        row["kernel_cosine"] = float((K * exact).sum() / np.linalg.norm(K) / np.linalg.norm(exact))
        for name, teacher in (("labels", None), ("distilled", deq)):
            explicit = EquivalentExplicitClassifier.from_deq(deq, teacher=teacher)
            explicit.set_params(max_epochs=max(epochs, 10)).fit(X, y)
            row[f"{name}_accuracy"] = float(explicit.score(X_test, y_test))
            row[f"{name}_agreement"] = float(
                np.mean(explicit.predict(X_test) == deq.predict(X_test))
            )
        rows.append(row)
        print(row, flush=True)
    write_table(args.output / "trained_deq.csv", rows)


def main():
    args = arguments(__doc__, data=True, parts="cde")
    n, width, epochs = (300, 32, 4) if args.quick else (2000, 128, 12)
    X, y, X_test, y_test = load_images(args, "mnist", n, n)
    mean = X.mean(axis=0)
    scale = np.sqrt(((X - mean) ** 2).sum(axis=1).mean())
    X, X_test = unit_scale(X - mean), (X_test - mean) / scale
    X, X_test = X.astype(np.float32), X_test.astype(np.float32)
    if "c" in args.parts:
        training_curves(args, X, y, X_test, y_test, width, epochs)
    if "d" in args.parts:
        regularisation(args, X, y, X_test, width, epochs)
    if "e" in args.parts:
        trained_deq(args, X, y, X_test, y_test, width)


if __name__ == "__main__":
    main()
