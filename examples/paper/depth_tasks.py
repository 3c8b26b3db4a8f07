"""12. Where depth should matter: parities, and a memory of growing lag.

    python examples/paper/depth_tasks.py --output DIR [--quick]

Two tasks whose answer is a composition. "parity": the product of the first k of 16 signs. "memory":
a sequence of k permutations of four places, one-hot and flattened, says where the object that
starts at place one is at the end; every part matters, and k is the lag of the first. 2,000 training
rows of parities, 10,000 of memories, 2,000 test rows, three seeds, width 64, all weights trained: a
ReLU DEQ, the networks matched to it with two layers, which has as many weights, and with one,
trained on the labels (also at the DEQ's learning rate and weight decay) or distilled.
depth_tasks.csv has the test accuracy. The script can be stopped and run again.
"""

import warnings
from functools import cache
from itertools import product

import numpy as np
from _common import arguments, new_figure, resume
from sklearn.exceptions import ConvergenceWarning

from sk_deq import DEQClassifier, EquivalentExplicitClassifier

MODELS = {  # number of layers
    "DEQ": None,
    "matched, 2 layers": 2,
    "matched, 2 layers, DEQ's rate": 2,
    "matched, 1 layer": 1,
    "distilled, 2 layers": 2,
}


@cache
def data(task, k, n, seed):
    rng = np.random.default_rng(seed)
    if task == "parity":
        X = rng.choice([-1.0, 1.0], (n, 16))
        return X, (X[:, :k].prod(axis=1) > 0).astype(int)
    moves = np.array([[rng.permutation(4) for _ in range(k)] for _ in range(n)])
    place = np.zeros(n, dtype=int)
    for j in range(k):
        place = moves[np.arange(n), j, place]
    return np.eye(4)[moves].reshape(n, -1) - 0.25, place


@cache
def fitted_deq(task, k, seed, n, width):
    spec = {"hyperparameters": None, "input_dropout": 0, "input_scaling": "rms"}
    deq = DEQClassifier(width, **spec, weight_decay=0.1, random_state=seed)
    return deq.fit(*data(task, k, n, seed))


def measure(n, width, task, k, seed, model):
    network = deq = fitted_deq(task, k, seed, n, width)
    if model != "DEQ":
        teacher = deq if model.startswith("distilled") else None
        with warnings.catch_warnings():  # one layer has not all the four numbers
            warnings.simplefilter("ignore", ConvergenceWarning)
            network = EquivalentExplicitClassifier.from_deq(
                deq, teacher=teacher, weight_decay="auto"
            )
            network.set_params(n_layers=MODELS[model])
            if model.endswith("rate"):  # the defaults of the two kinds of network differ
                network.set_params(lr=0.005, weight_decay=0.1)
            network.fit(*data(task, k, n, seed))
    return {"accuracy": float(network.score(*data(task, k, 2000, seed + 1000)))}


def main():
    args = arguments(__doc__)
    width = 32 if args.quick else 64
    rows_of = {"parity": 300} if args.quick else {"parity": 2000, "memory": 10_000}
    lags = {"parity": [2]}
    if not args.quick:
        lags = {"parity": [2, 3, 4], "memory": [1, 2, 3, 4]}
    points = [
        {"task": task, "k": k, "seed": seed, "model": model}
        for task in lags
        for k, seed, model in product(lags[task], range(1 if args.quick else 3), MODELS)
    ]
    rows = resume(
        args.output / "depth_tasks.csv",
        points,
        lambda **point: measure(rows_of[point["task"]], width, **point),
    )
    figure, axes = new_figure(len(lags), width=2.8, height=3.4, sharey=True)
    styles = ["o-", "s--", "v--", "^:", "D-."]
    colors = ["#000000", "#e69f00", "#d55e00", "#009e73", "#0072b2"]
    for axis, task in zip(axes[0], lags, strict=True):
        for model, style, color in zip(MODELS, styles, colors, strict=True):
            own = [row for row in rows if (row["task"], row["model"]) == (task, model)]
            mean = [np.mean([row["accuracy"] for row in own if row["k"] == k]) for k in lags[task]]
            axis.plot(lags[task], mean, style, color=color, label=model)
        axis.axhline({"parity": 1 / 2, "memory": 1 / 4}[task], color="0.6", linewidth=1)
        axis.set(title=task, xlabel="parts that matter, k", xticks=lags[task])
    axes[0, 0].set_ylabel("test accuracy")
    axes[0, -1].legend(fontsize="x-small", loc="lower left")
    figure.suptitle(
        "Compositions: two matched layers keep up\nif trained alike, one does not (grey: chance)"
    )
    figure.savefig(args.output / "depth_tasks.png", dpi=110)


if __name__ == "__main__":
    main()
