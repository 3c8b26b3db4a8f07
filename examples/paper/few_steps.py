"""10. Few steps or few layers: a DEQ stopped early, against matched and distilled networks.

    python examples/paper/few_steps.py --data-dir DIR --output DIR [--quick]

A ReLU DEQ of width 128 trained on 5,000 rows of MNIST and of Fashion-MNIST, one seed; 5,000 test
rows. few_steps.csv: accuracy, agreement with the DEQ's labels and processor ms per 1,000 rows of
the DEQ solved to its tolerance; of the same weights after 1, 2, 4 and 8 Picard steps; and of
networks of the same width with one and with two hidden layers, matched and trained on the labels,
or distilled from the DEQ. The question is that of arXiv 2602.03024, which distils a DEQ into few
steps. Times are of one core; compare those of one run. The script can be stopped and run again.
"""

import warnings
from functools import cache
from itertools import product
from types import SimpleNamespace

import numpy as np
from _common import arguments, load_images, new_figure, resume, unit_scale
from _networks import cost, outputs
from sklearn.exceptions import ConvergenceWarning

from sk_deq import DEQClassifier, EquivalentExplicitClassifier

STEPS = {f"DEQ, {k} step{'s' * (k > 1)}": k for k in (1, 2, 4, 8)}
EXPLICIT = {
    f"{how}, {n} layer{'s' * (n > 1)}": (how, n)
    for how, n in product(("matched", "distilled"), (1, 2))
}
MODELS = ["DEQ", *STEPS, *EXPLICIT]


@cache
def rows_of(data_dir, data, n, n_test):
    args = SimpleNamespace(data_dir=data_dir)
    X, y, X_test, y_test = load_images(args, data, n, n_test)
    mean = X.mean(axis=0)
    scale = np.sqrt(((X - mean) ** 2).sum(axis=1).mean())
    return unit_scale(X - mean).astype("f4"), y, ((X_test - mean) / scale).astype("f4"), y_test


@cache
def trained_deq(data, seed, width, *sizes):
    X, y, X_test, _ = rows_of(*sizes)
    spec = {"width": width, "input_scaling": None, "dtype": "float32", "random_state": seed}
    spec |= {"hyperparameters": None, "input_dropout": 0, "weight_decay": 0.1}
    deq = DEQClassifier(**spec).fit(X, y)
    return deq, outputs(deq.module_, X_test).argmax(1)


def measure(args, n, n_test, width, data, seed, model):
    sizes = (args.data_dir, data, n, n_test)
    X, y, X_test, y_test = rows_of(*sizes)
    deq, labels = trained_deq(data, seed, width, *sizes)
    features = deq.module_.features
    usual = features.solver, features.max_iter
    module = deq.module_
    if model in EXPLICIT:
        how, n_layers = EXPLICIT[model]
        teacher = deq if how == "distilled" else None
        with warnings.catch_warnings():  # one layer has not all the four numbers
            warnings.simplefilter("ignore", ConvergenceWarning)
            network = EquivalentExplicitClassifier.from_deq(
                deq, teacher=teacher, weight_decay="auto"
            )
            module = network.set_params(n_layers=n_layers).fit(X, y).module_
    elif model in STEPS:
        features.solver, features.max_iter = "picard", STEPS[model]
    features.report = lambda solved, stage: None  # that it is not solved is the point
    try:
        found = outputs(module, X_test).argmax(1)
        milliseconds = cost(module, X_test[:1000])
    finally:
        features.report, (features.solver, features.max_iter) = None, usual
    row = {"accuracy": float((found.numpy() == y_test).mean())}
    row["agreement"] = float((found == labels).float().mean())
    return row | {"ms_per_1000_rows": milliseconds}


def draw(rows, path):
    sets = list(dict.fromkeys(row["data"] for row in rows))
    figure, axes = new_figure(len(sets), width=2.8, height=3.8)
    styles = {"DEQ": ("#000000", "o"), "matched": ("#e69f00", "s"), "distilled": ("#0072b2", "^")}
    for axis, data in zip(axes[0], sets, strict=True):
        for model in MODELS[1:]:
            own = [row for row in rows if (row["data"], row["model"]) == (data, model)]
            x, y = ([row[k] for row in own] for k in ("ms_per_1000_rows", "agreement"))
            kind, number = model.split(", ")
            color, marker = styles[kind]
            x, y = np.median(x), 1 - np.mean(y)
            fill = "none" if number == "1 layer" else color
            style = {"color": color, "markerfacecolor": fill, "markersize": 8}
            label = kind if number.startswith("2") else None
            axis.plot(x, max(y, 1e-4), marker, **style, label=label)
            if kind == "DEQ":
                style = {"xytext": (7, -4), "textcoords": "offset points"}
                axis.annotate(number, (x, max(y, 1e-4)), **style)
        axis.set(xscale="log", yscale="log", title=data, xlabel="ms per 1,000 rows")
        axis.set_xticks([3, 5, 10, 20], ["3", "5", "10", "20"])
        axis.set_xticks([], minor=True)
        axis.margins(x=0.3, y=0.15)
    axes[0, 0].set_ylabel("labels that differ from the DEQ's")
    axes[0, 0].legend()
    figure.suptitle(
        "Left and low is better: a DEQ stopped early\nor networks (hollow: one layer, filled: two)"
    )
    figure.savefig(path, dpi=110)


def main():
    args = arguments(__doc__, data=True)
    n, n_test, width = (300, 200, 32) if args.quick else (5000, 5000, 128)
    sets = ["mnist", "fashion_mnist"] if args.data_dir else ["digits"]
    points = [
        {"data": data, "seed": seed, "model": model}
        for seed, data, model in product([0], sets, MODELS)
    ]
    rows = resume(
        args.output / "few_steps.csv",
        points,
        lambda **point: measure(args, n, n_test, width, **point),
    )
    draw(rows, args.output / "few_steps.png")


if __name__ == "__main__":
    main()
