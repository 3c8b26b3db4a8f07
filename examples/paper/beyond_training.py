"""5c, d, e. Beyond the theory: training, regularisation, DEQs that have left their kernel.

    python examples/paper/beyond_training.py --data-dir DIR --output DIR [--parts cde] [--quick]

A ReLU DEQ (recurrent_var = 0.2), the network with two layers matched to it and two unmatched layers
of ReLU, width 128, all weights trained by AdamW, three seeds. Data: all 60,000 rows of centred
MNIST, 2,000 of them, and three quarters of the tables letter and covertype, standardised
(tabular/NAME.csv.gz in the folder of the data). (c) training_speed.csv, five learning rates: after
how many epochs and processor seconds the mean loss of 50 steps is down to a target, and where it
and the test accuracy end. (d) regularisation.csv, at the rate 0.003: how far the predictions of a
trained DEQ and a trained match are apart on test rows, by weight decay, dropout on the readout and
number of epochs; beside it the distance of two DEQs of different seeds, below which nothing can be
asked, and of two matches. (e) trained_deq.csv: size and direction (the cosine of the matrices) of
the kernel of the DEQ's features against the exact kernel by epoch, and how often a network trained
on labels, or distilled from this DEQ, agrees with it; 2,000 rows, one seed. Parts c and d can be
stopped and run again.
"""

from itertools import combinations, product

import numpy as np
import torch
from _common import arguments, load_images, load_table, new_figure, resume, write_table
from _networks import MODELS, Network, accuracy, make_features, outputs, train
from sklearn.preprocessing import StandardScaler

from sk_deq import DEQClassifier, EquivalentExplicitClassifier
from sk_deq.kernels import deq_kernel

SETS = {  # epochs, where training stops early, loss that is aimed at
    "MNIST, 2,000 rows": (12, (3, 6), 0.1),
    "MNIST": (4, (1, 2), 0.1),
    "letter": (12, (3, 6), 0.3),
    "covertype": (12, (3, 6), 0.6),
}
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
STRENGTHS = {"none": (0.0,), "weight_decay": (0.3, 3.0), "dropout": (0.5, 0.9)}
STYLES = dict(zip(MODELS, (("#000000", "o-"), ("#d55e00", "s--"), ("#0072b2", "^:")), strict=True))


def load(args, name):
    """Rows of a set, scaled for networks."""
    if name in ("letter", "covertype"):
        X, y, X_test, y_test = load_table(args, name)
        scaler = StandardScaler().fit(X)
    else:
        some = 300 if args.quick else 2000
        X, y, X_test, y_test = load_images(
            args, "mnist", *((some, some) if "," in name else (60_000, 10_000))
        )
        scaler = StandardScaler(with_std=False).fit(X)
    X, X_test = scaler.transform(X), scaler.transform(X_test)
    scale = np.sqrt((X**2).sum(axis=1).mean())
    return (X / scale).astype("f4"), y, (X_test / scale).astype("f4"), y_test


def new_network(X, y, width, model, seed, dropout=0.0):
    features = make_features(model, X.shape[1], width, seed)
    return Network(features, int(y.max()) + 1, dropout, seed)


def speed(sets, width, data, lr, seed, model):
    X, y, X_test, y_test = sets[data]
    epochs, _, target = SETS[data]
    network = new_network(X, y, width, model, seed)
    losses, seconds = train(network, X, y, epochs, lr=lr, seed=seed)
    window = min(50, len(losses))
    means = np.convolve(losses, np.ones(window) / window, "valid")
    reached = np.flatnonzero(means <= target) + window - 1
    row = {"target": target, "epochs": "", "seconds": "", "seconds_in_all": float(seconds[-1])}
    if len(reached):
        row["epochs"] = float((reached[0] + 1) * epochs / len(losses))
        row["seconds"] = float(seconds[reached[0]])
    row["last_loss"] = float(means[-1])
    return row | {"accuracy": accuracy(network, X_test, y_test)}


def draw_speed(rows, sets, path):
    figure, axes = new_figure(2, -(-len(sets) // 2), width=2.75, height=2.6, sharex=True)
    for (axis, data), model in product(zip(axes.flat, sets, strict=False), MODELS):
        own = [row for row in rows if (row["data"], row["model"]) == (data, model)]
        rates = sorted({row["lr"] for row in own})
        errors = [[100 - 100 * row["accuracy"] for row in own if row["lr"] == lr] for lr in rates]
        color, style = STYLES[model]
        axis.errorbar(
            rates, np.mean(errors, 1), np.std(errors, 1), fmt=style, color=color, label=model
        )
        axis.set(xscale="log", title=data)
    axes[0, 0].legend(fontsize="small")
    figure.supylabel("test error in %")
    figure.supxlabel("learning rate")
    figure.savefig(path, dpi=110)


def training_speed(args, sets, width, seeds):
    rates = RATES[1:4:2] if args.quick else RATES
    points = [
        {"data": data, "lr": lr, "seed": seed, "model": model}
        for data, lr, seed, model in product(sets, rates, range(seeds), MODELS)
    ]
    rows = resume(
        args.output / "training_speed.csv", points, lambda **point: speed(sets, width, **point)
    )
    draw_speed(rows, sets, args.output / "training_speed.png")


def distance(first, second, X):
    """Mean total variation between predicted distributions, and share of different labels."""
    p, q = (torch.softmax(outputs(network, X), 1) for network in (first, second))
    different = (p.argmax(1) != q.argmax(1)).float().mean()
    return float((p - q).abs().sum(1).mean() / 2), float(different)


def apart(sets, width, seeds, data, setting, value):
    X, y, X_test, y_test = sets[data]
    strength = {"weight_decay": 0.0, "dropout": 0.0, "epochs": SETS[data][0], setting: value}
    trained = {"DEQ": [], "matched": []}
    for model, seed in product(trained, range(seeds)):
        own = seed + 100 * (model == "matched")
        torch.manual_seed(own)  # for dropout
        network = new_network(X, y, width, model, own, strength["dropout"])
        options = {"lr": 3e-3, "weight_decay": strength["weight_decay"], "seed": own}
        train(network, X, y, strength["epochs"], **options)
        trained[model].append(network)
    pairs = {"": product(*trained.values())}
    pairs |= {f"_two_{model}": combinations(own, 2) for model, own in trained.items()}
    row = {}
    for name, some in pairs.items():
        found = np.array([distance(*pair, X_test) for pair in some])
        row[f"distance{name}"], row[f"disagreement{name}"] = map(float, found.mean(axis=0))
        row[f"deviation{name}"] = float(found[:, 0].std())
    for model, own in trained.items():
        row[f"{model}_accuracy"] = float(np.mean([accuracy(n, X_test, y_test) for n in own]))
    return row


def draw_regularisation(rows, sets, path):
    """The distance relative to that of two DEQs, for each strength."""
    figure, axes = new_figure(width=5.5, height=3.8)
    axis = axes[0, 0]
    colors, markers = ("#000000", "#d55e00", "#0072b2", "#009e73"), "os^D"
    for offset, (data, color, marker) in enumerate(zip(sets, colors, markers, strict=False)):
        own = [row for row in rows if row["data"] == data]
        ratio = [row["distance"] / row["distance_two_DEQ"] for row in own]
        error = [row["deviation"] / row["distance_two_DEQ"] for row in own]
        at = np.arange(len(own)) + 0.18 * (offset - 1.5)
        axis.errorbar(ratio, at, xerr=error, fmt=marker, color=color, label=data, markersize=5)
    labels = [_named(row) for row in own]
    axis.set_yticks(range(len(own)), labels)
    axis.invert_yaxis()
    axis.axvline(1, color="0.6", linewidth=1)
    axis.set_xlim(0.55, 1.75)
    axis.legend(fontsize="small", loc="upper right")
    axis.set_xlabel("distance of DEQ and match / distance of two DEQs")
    figure.savefig(path, dpi=110)


def _named(row):
    if row["setting"] == "epochs":
        return f"{row['value'] / SETS[row['data']][0]:g} of the epochs"
    strength = f" {row['value']:g}" if row["value"] else ""
    return row["setting"].replace("_", " ") + strength


def regularisation(args, sets, width, seeds):
    points = []
    for data in sets:
        settings = STRENGTHS | {"epochs": SETS[data][1]}
        if args.quick:
            settings = {"weight_decay": (0.3,), "dropout": (0.5,)}
        for setting, values in settings.items():
            for value in values:
                points.append({"data": data, "setting": setting, "value": value})
    rows = resume(
        args.output / "regularisation.csv",
        points,
        lambda **point: apart(sets, width, seeds, **point),
    )
    draw_regularisation(rows, sets, args.output / "regularisation.png")


def trained_deq(args, X, y, X_test, y_test, width):
    spec = {"width": width, "input_scaling": None, "random_state": 0, "dtype": "float32"}
    some = X[: 100 if args.quick else 500]
    exact = deq_kernel(some, recurrent_var=0.2, tau0=1.0)
    rows = []
    for epochs in [1, 3] if args.quick else [1, 3, 10, 30]:
        deq = DEQClassifier(
            hyperparameters=None, input_dropout=0, weight_decay=0.1, **spec, max_epochs=epochs
        ).fit(X, y)
        Z = outputs(deq.module_.features, some).double().numpy()
        row = {"epochs": epochs, "deq_accuracy": float(deq.score(X_test, y_test))}
        K = Z @ Z.T
        row["kernel_norm"] = float(np.linalg.norm(K) / np.linalg.norm(exact))
        row["kernel_cosine"] = float((K * exact).sum() / np.linalg.norm(K) / np.linalg.norm(exact))
        for name, teacher in (("labels", None), ("distilled", deq)):
            explicit = EquivalentExplicitClassifier.from_deq(
                deq, teacher=teacher, weight_decay="auto"
            )
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
    width, seeds = (32, 2) if args.quick else (128, 3)
    sets = {name: load(args, name) for name in list(SETS)[: 1 if args.quick else None]}
    if "c" in args.parts:
        training_speed(args, sets, width, seeds)
    if "d" in args.parts:
        regularisation(args, sets, width, seeds)
    if "e" in args.parts:
        trained_deq(args, *sets["MNIST, 2,000 rows"], width)


if __name__ == "__main__":
    main()
