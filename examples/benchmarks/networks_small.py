"""The networks beside scikit-learn's MLPClassifier on small tables, all at their defaults.

    python examples/benchmarks/networks_small.py [--data-dir DIR] [--only DEQ]

Accuracy, mean of 5 folds, of StandardScaler + estimator with nothing but random_state set. Three
data sets come with scikit-learn. With --data-dir, ten more: DIR holds NAME.csv.gz with categories
as strings, missing values empty and the class in the last column; categories are one-hot encoded
and missing numbers replaced by the mean, in front of the StandardScaler.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sk_deq import DEQClassifier, EquivalentExplicitClassifier

ESTIMATORS = {
    "MLP": MLPClassifier,
    "DEQ": DEQClassifier,
    "explicit": EquivalentExplicitClassifier,
}
SHIPPED = {"digits": load_digits, "breast cancer": load_breast_cancer, "wine": load_wine}
TEN = [
    "banknote-authentication",
    "blood-transfusion-service",
    "car-evaluation",
    "cardiotocography-3class",
    "glass",
    "mfeat-fourier",
    "statlog-australian-credit",
    "statlog-vehicle-silhouettes",
    "user-knowledge",
    "vertebra-column-3c",
]


def tables(data_dir):
    """Yield the name, rows and labels of each data set and what turns its rows into numbers."""
    for name, load in SHIPPED.items():
        yield name, *load(return_X_y=True), []
    if data_dir is None:
        return
    import pandas as pd

    for name in TEN:
        table = pd.read_csv(data_dir / f"{name}.csv.gz")
        numbers = make_column_selector(dtype_include=np.number)
        categories = make_column_selector(dtype_exclude=np.number)
        encode = make_column_transformer(
            (SimpleImputer(), numbers),
            (OneHotEncoder(sparse_output=False, handle_unknown="ignore"), categories),
        )
        yield name, table.iloc[:, :-1], table.iloc[:, -1].astype(str).to_numpy(), [encode]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--only", choices=list(ESTIMATORS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    names = [args.only] if args.only else list(ESTIMATORS)
    # MLPClassifier's default of 200 epochs is too short for some sets: that is its default
    warnings.filterwarnings("ignore", category=ConvergenceWarning, module="sklearn")
    folds = StratifiedKFold(5, shuffle=True, random_state=args.seed)
    accuracies, seconds = [], []
    print(f"{'':<30}{'rows':>6}" + "".join(f"{name:>10}" for name in names))
    for name, X, y, encode in tables(args.data_dir):
        scores = []
        for estimator in names:
            model = ESTIMATORS[estimator](random_state=args.seed)
            begin = time.perf_counter()
            pipeline = make_pipeline(*encode, StandardScaler(), model)
            result = cross_validate(pipeline, X, y, cv=folds, error_score="raise")
            scores.append(result["test_score"].mean())
            seconds.append(time.perf_counter() - begin)
        accuracies.append(scores)
        line = f"{name:<30}{len(X):6d}" + "".join(f"{score:10.4f}" for score in scores)
        print(line, flush=True)
    means = np.mean(accuracies, axis=0)
    print(f"{'mean':<36}" + "".join(f"{mean:10.4f}" for mean in means))
    totals = np.reshape(seconds, (-1, len(names))).sum(0)
    print(f"{'seconds, all folds':<36}" + "".join(f"{total:10.0f}" for total in totals))


if __name__ == "__main__":
    main()
