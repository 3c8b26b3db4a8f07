"""15. Sequences: archive sets, and the order of the rows of a digit.

    pip install aeon  # for part a; aeon 1.6 wants a NumPy below 2.4
    python examples/paper/sequences.py --data-dir DIR --output DIR [--parts ab] [--quick]

(a) sequences.csv: the ten classification sets that are inside aeon's wheel, standard split, shorter
series filled with zeros. A DEQ, the network matched to it and kernel ridge with a DEQ's kernel, all
by defaults, of the series flattened and of their windows (`WindowFeatures`), beside aeon's ROCKET
and MiniRocket and the nearest neighbour by dynamic time warping; accuracy, processor seconds of fit
and predict after compilation; three seeds where there is chance. sequences_sets.csv: means over the
seeds, by set, and of all; ranks; seconds of all sets.
(b) sequence_order.csv: MNIST as sequence of 28 rows of 28 pixels, 2,000 to train, 2,000 to test: in
order, with the rows shuffled, all images alike, and with all pixels shuffled; three seeds, each
with orders of its own. Both parts can be stopped and run again.
"""

import warnings
from functools import cache, lru_cache
from itertools import product
from types import SimpleNamespace

import numpy as np
from _common import arguments, load_images, new_figure, resume, timed, write_table
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sk_deq import (
    DEQClassifier,
    DEQKernelRidgeClassifier,
    EquivalentExplicitClassifier,
    KernelMatcher,
)

SETS = (
    *("ACSF1", "ArrowHead", "BasicMotions", "Covid3Month_disc", "GunPoint", "ItalyPowerDemand"),
    *("JapaneseVowels", "OSULeaf", "PickupGestureWiimoteZ", "UnitTest"),
)
ESTIMATORS = {"DEQ": DEQClassifier, "kernel ridge": DEQKernelRidgeClassifier}
MODELS = ("DEQ", "matched", "kernel ridge")
INPUTS = ("flattened", "windows")
COLORS = dict(zip(MODELS, ("#000000", "#d55e00", "#0072b2"), strict=True))
NEAREST, GIVEN = "nearest, DTW", "kernel ridge, kernel given"
ORDERS = ("in order", "rows shuffled", "pixels shuffled")


class WindowFeatures(TransformerMixin, BaseEstimator):
    """Pooled features of windows of sequences (n, n_channels, length), as `PatchFeatures` are.

    The state of a DEQ whose weights are shared by all times, `size` of which, `dilation` apart, it
    is given at each: one DEQ's random features for each of the dilations 1, 2, 4, ... that fit,
    pooled over all times. Windows are less their mean, divided by their deviation, with that of the
    channel added in quadrature, and whitened.
    """

    def __init__(self, n_components=64, *, size=9, random_state=None):
        self.n_components, self.size, self.random_state = n_components, size, random_state

    def fit(self, X, y=None):
        """Whiten the windows of every dilation, and draw the weights."""
        self.scale_ = X.std(axis=(0, 2), keepdims=True) + 1e-12
        self.size_ = min(self.size, X.shape[2])
        longest = max(1, (X.shape[2] - 1) // max(1, self.size_ - 1))
        self.dilations_ = 2 ** np.arange(int(np.log2(longest)) + 1)
        self.whitening_, self.matchers_ = [], []
        for dilation in self.dilations_:
            rows = self._windows(X, dilation).reshape(-1, X.shape[1] * self.size_)
            values, U = np.linalg.eigh(rows.T @ rows / len(rows))
            W = (U / np.sqrt(np.clip(values, 0, None) + values.mean())) @ U.T
            W /= np.sqrt(((rows @ W) ** 2).sum(axis=1).mean())
            spec = {"input_scaling": None, "center": False, "random_state": self.random_state}
            matcher = KernelMatcher(self.n_components, dtype="float32", **spec)
            self.whitening_.append(W)
            self.matchers_.append(matcher.fit((rows[:50_000] @ W).astype("f4")))
        return self

    def transform(self, X):
        """Features (n, n_dilations * n_components)."""
        blocks = []
        for dilation, W, matcher in zip(
            self.dilations_, self.whitening_, self.matchers_, strict=True
        ):
            rows = (self._windows(X, dilation) @ W).astype("f4")
            n, n_times, d = rows.shape
            Z = matcher.transform(rows.reshape(-1, d)).reshape(n, n_times, -1)
            blocks.append(Z.sum(axis=1) / np.sqrt(n_times))
        return np.hstack(blocks)

    def _windows(self, X, dilation):
        """(n, n_times, n_channels * size)."""
        span = (self.size_ - 1) * dilation + 1
        views = np.lib.stride_tricks.sliding_window_view(X / self.scale_, span, axis=2)
        views = views[..., ::dilation]
        views = views - views.mean(axis=-1, keepdims=True)
        views /= np.sqrt((views**2).mean(axis=-1, keepdims=True) + 1)
        return views.transpose(0, 2, 1, 3).reshape(len(X), views.shape[2], -1)


@cache
def archive(name):
    """Train and test part of a set in aeon's wheel, (n, n_channels, length) and labels."""
    from aeon.datasets import load_classification

    parts = [load_classification(name, split=part) for part in ("train", "test")]
    length = max(x.shape[1] for X, _ in parts for x in X)
    found = []
    for X, y in parts:
        found += [np.stack([np.pad(x, ((0, 0), (0, length - x.shape[1]))) for x in X]), y]
    return dict(zip(("X", "y", "X_test", "y_test"), found, strict=True))


def make_model(model, input, seed):
    if model == NEAREST:
        from aeon.classification.distance_based import KNeighborsTimeSeriesClassifier

        return KNeighborsTimeSeriesClassifier(distance="dtw")
    if model.endswith(("ROCKET", "Rocket")):
        from aeon.classification import convolution_based

        kind = {"ROCKET": "Rocket"}.get(model, model)
        return getattr(convolution_based, f"{kind}Classifier")(random_state=seed)
    flat = FunctionTransformer(lambda X: X.reshape(len(X), -1))
    steps = flat if input == "flattened" else WindowFeatures(random_state=seed)
    if model == GIVEN:
        return make_pipeline(steps, DEQKernelRidgeClassifier(hyperparameters=None))
    return make_pipeline(steps, ESTIMATORS[model](random_state=seed))


def matched_to(deq):
    """Features of the same kind, and the network matched to a fitted pipeline's DEQ."""
    steps, network = deq
    return make_pipeline(clone(steps), EquivalentExplicitClassifier.from_deq(network))


def fit_and_score(model, input, seed, X, y, X_test, y_test):
    estimator = make_model("DEQ" if model == "matched" else model, input, seed)
    if model == "matched":
        estimator = matched_to(estimator.fit(X, y))
    if estimator.__module__.startswith("aeon"):
        with warnings.catch_warnings():  # the compiler's
            warnings.simplefilter("ignore")
            make_model(model, input, seed).fit(X[::8], y[::8]).predict(X[:2])
    score, seconds = timed(lambda: estimator.fit(X, y).score(X_test, y_test))
    return {"accuracy": float(score), "seconds": seconds}


def summary(rows):
    """A row for each set, and for their mean, ranks and seconds; a column for each model."""
    sets, models = (list(dict.fromkeys(map(key, rows))) for key in (lambda r: r["data"], label))

    def mean(key, data, model):
        return np.mean([r[key] for r in rows if (r["data"], label(r)) == (data, model)])

    scores, seconds = (
        np.array([[mean(key, data, model) for model in models] for data in sets])
        for key in ("accuracy", "seconds")
    )
    ends = {"mean": scores.mean(0), "rank": rankdata(-scores, axis=1).mean(0)}
    ends["seconds"] = seconds.sum(0)
    found = dict(zip(sets, scores, strict=True)) | ends
    return [
        {"set": name, **{m: float(v) for m, v in zip(models, values, strict=True)}}
        for name, values in found.items()
    ]


def label(row):
    return f"{row['model']}, {row['input']}" if row["input"] else row["model"]


def archives(args):
    sets, seeds = (["UnitTest"], 1) if args.quick else (SETS, 3)
    models = [*product(MODELS, INPUTS), ("MiniRocket", ""), ("ROCKET", "")]
    points = [
        {"data": data, "model": model, "input": input, "seed": seed}
        for data, (model, input), seed in product(sets, models, range(seeds))
    ]
    points += [{"data": data, "model": NEAREST, "input": "", "seed": 0} for data in sets]
    rows = resume(
        args.output / "sequences.csv",
        points,
        lambda data, **point: fit_and_score(**point, **archive(data)),
    )
    table = {row.pop("set"): row for row in summary(rows)}
    write_table(args.output / "sequences_sets.csv", [{"set": k} | v for k, v in table.items()])
    figure, axes = new_figure(width=5.5, height=3.6)
    axis = axes[0, 0]
    for model in table["mean"]:
        kind = model.split(",")[0]
        filled = COLORS.get(kind, "0.5") if model.endswith("windows") else "white"
        spot = table["seconds"][model], 100 * (1 - table["mean"][model])
        axis.plot(*spot, "o", color=COLORS.get(kind, "0.5"), markerfacecolor=filled)
        shift = (0, 6 if kind not in MODELS[1:] else -14)
        axis.annotate(model, spot, shift, textcoords="offset points", ha="center", fontsize=9)
    axis.set(xscale="log", xlabel="processor seconds, all sets", ylabel="mean test error in %")
    axis.margins(0.15)
    figure.savefig(args.output / "sequences.png", dpi=110)


def in_order(X, order, seed):
    """Images as sequences of their rows, (n, n_columns, n_rows), in some order."""
    side = round(X.shape[1] ** 0.5)
    rng = np.random.default_rng(seed)
    if order.startswith("pixels"):
        X = X[:, rng.permutation(side * side)]
    X = X.reshape(-1, side, side).transpose(0, 2, 1)
    return X[:, :, rng.permutation(side)] if order.startswith("rows") else X


@lru_cache(maxsize=1)
def digits(data_dir, n):
    return load_images(SimpleNamespace(data_dir=data_dir), "mnist", n, n)


def orders(args):
    n, seeds = (300, 1) if args.quick else (2000, 3)

    def measure(order, seed, model, input):
        X, y, X_test, y_test = digits(args.data_dir, n)
        X, X_test = in_order(X, order, seed), in_order(X_test, order, seed)
        return fit_and_score(model, input, seed, X, y, X_test, y_test)

    models = [*product(MODELS, INPUTS), (GIVEN, "flattened")]
    points = [
        {"order": order, "seed": seed, "model": model, "input": input}
        for seed, order, (model, input) in product(range(seeds), ORDERS, models)
    ]
    rows = resume(args.output / "sequence_order.csv", points, measure)
    figure, axes = new_figure(2, width=2.75, height=3.4, sharey=True)
    for axis, input in zip(axes[0], INPUTS, strict=True):
        for offset, (model, color) in enumerate(COLORS.items()):
            errors = [
                [100 - 100 * r["accuracy"] for r in rows if select(r, order, model, input)]
                for order in ORDERS
            ]
            at = np.arange(len(ORDERS)) + 0.27 * (offset - 1)
            axis.bar(at, np.mean(errors, 1), 0.25, yerr=np.std(errors, 1), color=color, label=model)
        axis.set_xticks(range(len(ORDERS)), [o.replace(" ", "\n") for o in ORDERS])
        axis.set_title(input)
    axes[0, 0].set_ylabel("test error in %")
    axes[0, 1].legend(fontsize="small")
    figure.savefig(args.output / "sequence_order.png", dpi=110)


def select(row, order, model, input):
    return (row["order"], row["model"], row["input"]) == (order, model, input)


def main():
    args = arguments(__doc__, data=True, parts="ab")
    if "a" in args.parts:
        archives(args)
    if "b" in args.parts:
        orders(args)


if __name__ == "__main__":
    main()
