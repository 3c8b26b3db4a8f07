"""Tables of numbers and text through make_column_transformer: adult and titanic.

    python examples/benchmarks/mixed_tables.py [--data-dir DIR] [--rows 4000]

Prints the test accuracy of the three classifiers, of a linear model on matched features and of
HistGradientBoosting, all behind the same transformer. DIR holds adult.csv.gz and titanic.csv.gz,
the target in the last column; without it they come from OpenML.
"""

import argparse
import time
from pathlib import Path

import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import fetch_openml
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sk_deq import (
    DEQClassifier,
    DEQKernelRidgeClassifier,
    EquivalentExplicitClassifier,
    KernelMatcher,
)

MODELS = {
    "DEQKernelRidgeClassifier": DEQKernelRidgeClassifier(random_state=0),
    "DEQClassifier": DEQClassifier(random_state=0),
    "EquivalentExplicitClassifier": EquivalentExplicitClassifier(random_state=0),
    "KernelMatcher": make_pipeline(
        KernelMatcher(random_state=0), LogisticRegression(max_iter=1000)
    ),
    "HistGradientBoosting": HistGradientBoostingClassifier(random_state=0),
}


def load(name, data_dir):
    if data_dir is None:
        versions = {"adult": 2, "titanic": 1}
        X, y = fetch_openml(name, version=versions[name], return_X_y=True, as_frame=True)
        leaks = [column for column in ("boat", "body", "name", "ticket") if column in X]
        return X.drop(columns=leaks), y.astype(str)
    frame = pd.read_csv(Path(data_dir) / f"{name}.csv.gz")
    return frame.iloc[:, :-1], frame.iloc[:, -1].astype(str)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--rows", type=int, default=4000, help="most training and test rows")
    options = parser.parse_args()
    for name in ("titanic", "adult"):
        X, y = load(name, options.data_dir)
        size = min(options.rows, int(0.75 * len(y)))
        X, X_test, y, y_test = train_test_split(
            X, y, train_size=size, test_size=min(options.rows, len(y) - size), random_state=0,
            stratify=y,
        )  # fmt: skip
        numbers = make_column_selector(dtype_include="number")
        others = make_column_selector(dtype_exclude="number")
        print(f"{name}: {len(X)} training rows, {X.isna().any(axis=1).mean():.0%} with gaps")
        for model_name, model in MODELS.items():
            transformer = make_column_transformer(
                (make_pipeline(SimpleImputer(), StandardScaler()), numbers),
                (OneHotEncoder(handle_unknown="ignore", sparse_output=False), others),
            )
            start = time.perf_counter()
            accuracy = make_pipeline(transformer, model).fit(X, y).score(X_test, y_test)
            print(f"  {model_name:30}{accuracy:.4f} {time.perf_counter() - start:7.1f} s")


if __name__ == "__main__":
    main()
