"""Coverage and width of predict_interval and predict_set on ten tables.

    python examples/benchmarks/intervals.py [--data-dir DIR] [--rows 500] [--splits 3]

For each table, averages over the splits: coverage of new rows at nominal 0.9, and of the fifth of
them whose local intervals are widest; mean width in standard deviations of the target, or number of
classes; seconds of fit and of prediction. Local intervals are those of ``local=True``. Beside them
split conformal prediction with the same estimator, which fits half of the rows and takes the
quantile on the other half, and MAPIE's jackknife+ over folds where it is installed. DIR holds
tabular/*.csv.gz and uci/*.csv.gz, the target in the last column; without it there are three tables
of scikit-learn.
"""

import argparse
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.model_selection import train_test_split

from sk_deq import DEQKernelRidge, DEQKernelRidgeClassifier
from sk_deq.pipelines import make_tabular_pipeline

REGRESSION = ["tabular/abalone", "tabular/california_housing", "tabular/concrete"]
REGRESSION += ["tabular/protein", "tabular/wine_quality", "uci/energy-efficiency-y2"]
CLASSIFICATION = ["tabular/credit_g", "tabular/telco_churn", "tabular/satimage", "tabular/magic"]
COVERAGE = 0.9


def tables(data_dir):
    """Name, rows, targets and estimator of each table."""
    if data_dir is None:
        yield "diabetes", *load_diabetes(return_X_y=True, as_frame=True), DEQKernelRidge()
        for load in (load_breast_cancer, load_digits):
            yield (
                load.__name__[5:],
                *load(return_X_y=True, as_frame=True),
                DEQKernelRidgeClassifier(),
            )
        return
    for name in REGRESSION + CLASSIFICATION:
        frame = pd.read_csv(data_dir / f"{name}.csv.gz")
        X, y = frame.iloc[:, :-1], frame.iloc[:, -1]
        if name in REGRESSION:
            yield name, X, y.astype(float), DEQKernelRidge()
        else:
            yield name, X, y.astype(str), DEQKernelRidgeClassifier()


def by_itself(model, X, y, X_test, **options):
    """Bounds, or sets, by the methods of the estimator."""
    model.fit(X, y)
    start = time.perf_counter()
    rows = model[:-1].transform(X_test)
    method = "predict_set" if is_classifier(model) else "predict_interval"
    out = getattr(model[-1], method)(rows, COVERAGE, **options)
    return out, time.perf_counter() - start


def local(model, X, y, X_test):
    """Bounds of intervals of their own width, for regression."""
    return by_itself(model, X, y, X_test, local=True)


def split_conformal(model, X, y, X_test):
    """The same, by half of the rows for the fit and the other half for the quantile."""
    stratify = y if is_classifier(model) else None
    X, X_other, y, y_other = train_test_split(
        X, y, test_size=0.5, random_state=0, stratify=stratify
    )
    model.fit(X, y)
    start = time.perf_counter()
    if is_classifier(model):
        place = np.searchsorted(model.classes_, y_other)
        scores = 1 - model.predict_proba(X_other)[np.arange(len(place)), place]
    else:
        scores = np.abs(y_other - model.predict(X_other))
    bound = np.sort(scores)[int(np.ceil(COVERAGE * (len(scores) + 1))) - 1]
    if is_classifier(model):
        out = 1 - model.predict_proba(X_test) <= bound
    else:
        center = model.predict(X_test)
        out = center - bound, center + bound
    return out, time.perf_counter() - start


def mapie(model, X, y, X_test):
    """MAPIE's jackknife+ over ten folds, for regression."""
    from mapie.regression import CrossConformalRegressor

    conformal = CrossConformalRegressor(model, confidence_level=COVERAGE, cv=10)
    conformal.fit_conformalize(X, y)
    start = time.perf_counter()
    bounds = conformal.predict_interval(X_test)[1][:, :, 0]
    return (bounds[:, 0], bounds[:, 1]), time.perf_counter() - start


def measure(way, model, X, y, X_test):
    """Bounds or sets, seconds of fit, seconds of prediction."""
    start = time.perf_counter()
    out, seconds = way(clone(model), X, y, X_test)
    return out, time.perf_counter() - start - seconds, seconds


def judged(out, hard, y, y_test):
    """Coverage of all and of hard rows, and width or size."""
    if isinstance(out, tuple):
        covered = ((out[0] <= y_test) & (y_test <= out[1])).to_numpy()
        return covered.mean(), covered[hard].mean(), np.mean(out[1] - out[0]) / np.std(y)
    place = np.searchsorted(np.unique(y), y_test)
    return out[np.arange(len(place)), place].mean(), np.nan, out.sum(1).mean()


def widest(bounds):
    """The fifth of the rows with the widest intervals."""
    width = bounds[1] - bounds[0]
    return width >= np.quantile(width, 0.8)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--rows", type=int, default=500, help="most training rows")
    parser.add_argument("--splits", type=int, default=3)
    options = parser.parse_args()
    ways = {"by itself": by_itself, "local": local, "split conformal": split_conformal}
    if find_spec("mapie"):
        ways["MAPIE, cv=10"] = mapie
    else:
        print("MAPIE is not installed")
    print(f"{'':28}{'':18}coverage  hardest   width or size      fit  predict")
    for name, X, y, estimator in tables(options.data_dir):
        model = make_tabular_pipeline(estimator.set_params(random_state=0))
        size = min(options.rows, 2 * len(y) // 3)
        figures = {way: [] for way in ways}
        for seed in range(options.splits):
            parts = train_test_split(
                X, y, train_size=size, test_size=min(1000, len(y) - size), random_state=seed,
                stratify=y if is_classifier(estimator) else None,
            )  # fmt: skip
            X_train, X_test, y_train, y_test = parts
            found = {
                label: measure(way, model, X_train, y_train, X_test)
                for label, way in ways.items()
                if not (is_classifier(estimator) and way in (mapie, local))
            }
            hard = widest(found["local"][0]) if "local" in found else None
            for label, (out, *seconds) in found.items():
                figures[label].append((*judged(out, hard, y_train, y_test), *seconds))
        for label, rows in figures.items():
            if rows:
                coverage, hardest, width, fit, predict = np.mean(rows, axis=0)
                line = f"{coverage:8.3f} {hardest:8.3f} {width:15.3f} {fit:7.1f} s {predict:6.2f} s"
                print(f"{name:28}{label:18}{line}", flush=True)


if __name__ == "__main__":
    main()
