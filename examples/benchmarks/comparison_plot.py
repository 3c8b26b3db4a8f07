"""Accuracy against seconds, a point per model, of what tabular.py measured.

    python examples/benchmarks/comparison_plot.py docs/tabular/uci_ten.csv \\
        docs/_static/accuracy_seconds.png

The table needs every model on the same sets; those that lack a model are left out. Beside
NAME.png there is NAME_dark.png, for pages with a dark ground.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

OURS = {
    "deq": "DEQ kernel ridge",
    "explicit_net": "matched network",
    "deq_net": "DEQ, trained",
    "deq_plain": "without search",
}
PEERS = {
    "lr": "logistic regression",
    "knn": "5 neighbours",
    "rf": "random forest",
    "hgb": "HistGradientBoosting",
    "lgbm": "LightGBM",
    "svc": "SVM, grid search",
    "mlp": "MLPClassifier",
    "xrfm": "xRFM",
}
LIGHT = {"ink": "#222222", "ground": "white", "ours": "#D55E00", "peers": "#0072B2"}
DARK = {"ink": "#E6E6E6", "ground": "#14181E", "ours": "#E69F00", "peers": "#56B4E9"}


def mean_and_seconds(table, models):
    """Mean score and median seconds per fold of each model, over the sets that have all models."""
    rows = table[table.model.isin(models)]
    scores = rows.pivot(index="set", columns="model", values="score").dropna()
    seconds = rows.pivot(index="set", columns="model", values="seconds").loc[scores.index]
    summary = pd.DataFrame({"score": scores.mean(), "seconds": seconds.median()})
    return summary, len(scores)


def headline(summary):
    """What one should see, from the numbers themselves."""
    best, second = summary.score.nlargest(2)
    winner = summary.score.idxmax()
    if winner in OURS and best - second > 5e-4:
        return f"{OURS[winner]}: most accurate of {len(summary)}"
    return "Higher is more accurate, further left is faster"


def place_labels(ax, points, names):
    """Write each name beside its point, on the first side where nothing is in the way."""
    figure = ax.figure
    figure.canvas.draw()
    renderer, frame = figure.canvas.get_renderer(), ax.get_window_extent()
    marks = [ax.transData.transform(point) for point in points]
    radius = 5 * figure.dpi / 72
    taken = []
    sides = [(9, 0, "left", "center"), (-9, 0, "right", "center"), (0, 9, "center", "bottom"),
             (0, -9, "center", "top"), (7, 7, "left", "bottom"), (-7, 7, "right", "bottom"),
             (7, -7, "left", "top"), (-7, -7, "right", "top")]  # fmt: skip
    for name, point, own in zip(names, points, marks, strict=True):
        text, style = name
        choices = []
        for dx, dy, ha, va in sides:
            label = ax.annotate(
                text, point, (dx, dy), textcoords="offset points", ha=ha, va=va, **style
            )
            box = label.get_window_extent(renderer).padded(2)
            others = [m for m in marks if m is not own]
            hit = sum(box.padded(radius).contains(*m) for m in others)
            hit += sum(box.overlaps(other) for other in taken)
            outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0
            hit += 2 * (outside or box.y1 > frame.y1)
            choices.append((hit, len(choices), label, box))
        best = min(choices, key=lambda choice: choice[:2])
        for choice in choices:
            if choice is not best:
                choice[2].remove()
        taken.append(best[3])


def plot_comparison(table, *, models=None, colors=LIGHT):
    """Draw mean accuracy against seconds, ours marked by shape, colour and weight.

    Parameters
    ----------
    table : DataFrame
        With columns set, model, score and seconds, as tabular.py writes it.
    models : list of str, default=None
        Which of its models, "deq" and "svc" for instance; None means all that have a name here.
    colors : dict
        Of ink, ground, ours and peers.

    Returns
    -------
    figure : Figure
    """
    known = OURS | PEERS
    present = set(table.model)
    models = [m for m in known if m in present] if models is None else models
    summary, n_sets = mean_and_seconds(table, models)
    summary = summary.loc[models]
    ours = summary.index.isin(list(OURS))
    settings = {"font.size": 13, "text.color": colors["ink"], "axes.labelcolor": colors["ink"]}
    settings |= {"axes.edgecolor": colors["ink"], "axes.facecolor": colors["ground"]}
    settings |= {"xtick.color": colors["ink"], "ytick.color": colors["ink"]}
    with plt.rc_context(settings):
        figure, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
        figure.set_facecolor(colors["ground"])
        for mask, marker, size, kind in [(~ours, "o", 60, "peers"), (ours, "D", 110, "ours")]:
            part = summary[mask]
            ax.scatter(part.seconds, part.score, size, colors[kind], marker=marker, zorder=3)
        ax.set(xscale="log", xlabel="seconds to fit and predict, one core (log scale)")
        ax.set_ylabel(f"mean accuracy,\n{n_sets} UCI data sets")
        ax.set_title(headline(summary), loc="left", fontsize=14, fontweight="bold", wrap=True)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_major_formatter("{x:.2f}")
        ax.margins(x=0.12, y=0.12)
        ax.set_xlim(right=3 * summary.seconds.max())  # room for names
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        points = list(zip(summary.seconds, summary.score, strict=True))
        names = [
            (
                known[m],
                {"color": colors["ours" if o else "ink"], "weight": "bold" if o else "normal"},
            )
            for m, o in zip(summary.index, ours, strict=True)
        ]
        place_labels(ax, points, names)
        handles = [
            plt.Line2D([], [], ls="", marker=m, ms=s, color=colors[kind], label=label)
            for m, s, kind, label in [("D", 9, "ours", "sk_deq"), ("o", 8, "peers", "others")]
        ]
        ax.legend(handles=handles, loc="lower right", frameon=False)
    return figure


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, help="CSV by tabular.py")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--models", nargs="+", help="only these")
    options = parser.parse_args()
    table = pd.read_csv(options.table)
    dark = options.picture.with_stem(options.picture.stem + "_dark")
    for colors, path in ((LIGHT, options.picture), (DARK, dark)):
        plot_comparison(table, models=options.models, colors=colors).savefig(path, dpi=150)
    summary, n_sets = mean_and_seconds(table, options.models or [*OURS, *PEERS])
    print(f"{n_sets} sets")
    print(summary.sort_values("score", ascending=False).to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
