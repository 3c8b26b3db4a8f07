"""Our estimators and their peers on every table of a folder.

    python examples/benchmarks/tabular.py --data-dir DIR --models deq rf svc --folds 4 --jobs 2

DIR holds one NAME.csv.gz or NAME.csv per set, with the target in the last column. A row per set and
model is added to --output as soon as it is measured, and what is there already is not repeated.
With --folds 0 there is one split, of three quarters of the rows for training and the others to
test, of either at most 4,000, or --rows. Scores are accuracy or R2, losses log-loss or root mean
squared error, AUC is that of each class against the others; seconds are the processor's time of fit
and predict per fold, on one thread: what it would take on an idle core, whatever else runs beside.

--peers FILE adds the columns of a table of scores measured elsewhere; --summary only summarises.
Where bencheval is installed there is a column of Elo ratings: 400 more are ten wins for a loss.
"""

import argparse
import csv
import io
import time
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.stats import rankdata, studentized_range
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, roc_auc_score, root_mean_squared_error
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    RandomizedSearchCV,
    ShuffleSplit,
    StratifiedKFold,
    train_test_split,
)
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, StandardScaler
from sklearn.svm import SVC, SVR
from threadpoolctl import threadpool_limits

import sk_deq
from sk_deq.pipelines import make_tabular_pipeline

REGRESSION = ("abalone", "california_housing", "concrete", "protein", "wine_quality")
FIELDS = ("set", "task", "n", "p", "folds", "model", "score", "seconds", "loss", "auc")
WIDTHS = [2.0**k for k in (-5, -3, -1, 1)]  # gamma of the RBF kernel, times the number of columns


def ntk(X, Y, depth):
    """NTK of a fully connected ReLU network with `depth` hidden layers, rows of unit norm."""
    X, Y = (Z / np.maximum(np.linalg.norm(Z, axis=1, keepdims=True), 1e-12) for Z in (X, Y))
    r = np.clip(X @ Y.T, -1, 1)
    total = r.copy()
    for _ in range(depth):
        angle = np.arccos(r)
        slope = 1 - angle / np.pi
        r = np.clip((np.sqrt(1 - r**2) + (np.pi - angle) * r) / np.pi, -1, 1)
        total = total * slope + r
    return total


class NTKFeatures(TransformerMixin, BaseEstimator):
    """The NTK with every training row, for estimators of precomputed kernels."""

    def __init__(self, depth=3):
        self.depth = depth

    def fit(self, X, y=None):
        self.X_fit_ = X
        return self

    def transform(self, X):
        return ntk(X, self.X_fit_, self.depth) / (self.depth + 1)


class _RBF:
    """Grids that need to know the number of columns: gamma is a multiple of 1 / n_features."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, p):
        gamma = [width / p for width in WIDTHS]
        penalties = [1, 10, 100, 1000]
        if self.kind == "svc":
            return GridSearchCV(SVC(), {"C": penalties, "gamma": gamma}, cv=3)
        if self.kind == "svr":
            model = GridSearchCV(SVR(), {"C": penalties, "gamma": gamma}, cv=3)
        else:
            grid = {"alpha": [1e-3, 1e-2, 0.1, 1.0], "gamma": gamma}
            model = GridSearchCV(KernelRidge(kernel="rbf"), grid, cv=3)
        return _standardised(model)


def _standardised(regressor):
    return TransformedTargetRegressor(regressor, transformer=StandardScaler())


def _ntk_model(p, regression):
    depths = [1, 2, 3, 5]
    if regression:
        pipeline = make_pipeline(NTKFeatures(), KernelRidge(kernel="precomputed"))
        grid = {"ntkfeatures__depth": depths, "kernelridge__alpha": [1e-3, 1e-2, 0.1, 1.0]}
        return _standardised(GridSearchCV(pipeline, grid, cv=3))
    pipeline = make_pipeline(NTKFeatures(), SVC(kernel="precomputed"))
    grid = {"ntkfeatures__depth": depths, "svc__C": [1, 10, 100, 1000]}
    return GridSearchCV(pipeline, grid, cv=3)


class XRFM(BaseEstimator):
    """xRFM at its defaults, or those given of its kernel and penalty.

    A fifth of the training rows are the validation set that it asks for.
    """

    def __init__(self, kernel=None, bandwidth=10.0, exponent=1.0, norm_p=1.0, diag=True, reg=1e-3):
        self.kernel, self.bandwidth, self.exponent = kernel, bandwidth, exponent
        self.norm_p, self.diag, self.reg = norm_p, diag, reg

    def fit(self, X, y):
        from xrfm import xRFM

        labels = y if y.dtype.kind == "i" else None  # classes are label-encoded
        X, X_val, y, y_val = train_test_split(
            X.astype("float32"), y, test_size=0.2, random_state=0,
            stratify=labels if labels is not None and np.bincount(y).min() > 4 else None,
        )  # fmt: skip
        parameters = None
        if self.kernel is not None:
            model = {"kernel": self.kernel, "bandwidth": self.bandwidth, "diag": self.diag}
            model |= {"exponent": self.exponent, "bandwidth_mode": "constant"}
            if self.kernel == "lpq":
                model["norm_p"] = max(self.norm_p, self.exponent)
            parameters = {"model": model, "fit": {"reg": self.reg, "iters": 5, "verbose": False}}
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            self.model_ = xRFM(parameters, random_state=0, n_threads=1).fit(X, y, X_val, y_val)
        return self

    def predict(self, X):
        return np.asarray(self.model_.predict(X.astype("float32"))).ravel()


class XRFMClassifier(ClassifierMixin, XRFM):
    pass


class XRFMRegressor(RegressorMixin, XRFM):
    pass


def _searched(model, n_iter, **candidates):
    """A random search, judged by a fifth of the training rows."""
    one_split = ShuffleSplit(1, test_size=0.2, random_state=0)
    return RandomizedSearchCV(
        model, candidates, n_iter=n_iter, cv=one_split, random_state=0, error_score="raise"
    )


def _xrfm_tuned(p, regression):
    return _searched(
        _standardised(XRFMRegressor()) if regression else XRFMClassifier(), 12,
        **{
            f"regressor__{name}" if regression else name: values
            for name, values in {
                "kernel": ["l2", "lpq", "lpq"], "bandwidth": [2.0, 5.0, 10.0, 25.0],
                "exponent": [0.7, 1.0, 1.3], "norm_p": [1.0, 1.5, 2.0], "diag": [True, False],
                "reg": [1e-4, 1e-3, 1e-2, 0.1, 1.0],
            }.items()
        },
    )  # fmt: skip


def _lightgbm_tuned(p, regression):
    return _searched(
        _lightgbm(p, regression), 30,
        num_leaves=[7, 15, 31, 63], learning_rate=[0.02, 0.05, 0.1], n_estimators=[100, 300, 600],
        min_child_samples=[5, 20, 60], colsample_bytree=[0.5, 0.75, 1.0], subsample=[0.7, 1.0],
        subsample_freq=[1], reg_lambda=[0.0, 1.0, 10.0],
    )  # fmt: skip


def _lightgbm(p, regression):
    from lightgbm import LGBMClassifier, LGBMRegressor

    return (LGBMRegressor if regression else LGBMClassifier)(verbose=-1, n_jobs=1, random_state=0)


def _realmlp(p, regression):
    from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor

    cls = RealMLP_TD_Regressor if regression else RealMLP_TD_Classifier
    return cls(device="cpu", random_state=0)


def _catboost(p, regression):
    from catboost import CatBoostClassifier, CatBoostRegressor

    cls = CatBoostRegressor if regression else CatBoostClassifier
    return cls(verbose=False, thread_count=1, random_seed=0, allow_writing_files=False)


def _tabm(p, regression):
    from pytabkit import TabM_D_Classifier, TabM_D_Regressor

    return (TabM_D_Regressor if regression else TabM_D_Classifier)(device="cpu", random_state=0)


def _ebm(p, regression):
    from interpret.glassbox import ExplainableBoostingClassifier, ExplainableBoostingRegressor

    cls = ExplainableBoostingRegressor if regression else ExplainableBoostingClassifier
    return cls(n_jobs=1, random_state=0)


def _plain(classifier, regressor):
    return {False: lambda p: classifier, True: lambda p: regressor}


def _pair(function):
    return {False: lambda p: function(p, False), True: lambda p: function(p, True)}


# name: task is regression -> number of encoded columns -> estimator
MODELS = {
    "deq": _plain(
        sk_deq.DEQKernelRidgeClassifier(random_state=0), sk_deq.DEQKernelRidge(random_state=0)
    ),
    "deq_equal": _plain(
        sk_deq.DEQKernelRidgeClassifier(feature_weights=None, random_state=0),
        sk_deq.DEQKernelRidge(feature_weights=None, random_state=0),
    ),
    "deq_plain": _plain(
        sk_deq.DEQKernelRidgeClassifier(hyperparameters=None, random_state=0),
        sk_deq.DEQKernelRidge(hyperparameters=None, random_state=0),
    ),
    "deq_nystroem": _plain(
        sk_deq.DEQKernelRidgeClassifier(solver="nystroem", random_state=0),
        sk_deq.DEQKernelRidge(solver="nystroem", random_state=0),
    ),
    "deq_net": _plain(
        sk_deq.DEQClassifier(random_state=0), _standardised(sk_deq.DEQRegressor(random_state=0))
    ),
    "explicit_net": _plain(
        sk_deq.EquivalentExplicitClassifier(random_state=0),
        _standardised(sk_deq.EquivalentExplicitRegressor(random_state=0)),
    ),
    "deq_net_plain": _plain(
        sk_deq.DEQClassifier(hyperparameters=None, random_state=0),
        _standardised(sk_deq.DEQRegressor(hyperparameters=None, random_state=0)),
    ),
    "explicit_net_plain": _plain(
        sk_deq.EquivalentExplicitClassifier(hyperparameters=None, random_state=0),
        _standardised(sk_deq.EquivalentExplicitRegressor(hyperparameters=None, random_state=0)),
    ),
    "lr": _plain(LogisticRegression(max_iter=2000), Ridge()),
    "rf": _plain(
        RandomForestClassifier(500, random_state=0), RandomForestRegressor(500, random_state=0)
    ),
    "hgb": _plain(
        HistGradientBoostingClassifier(random_state=0),
        HistGradientBoostingRegressor(random_state=0),
    ),
    "svc": {False: _RBF("svc"), True: _RBF("svr")},
    "krr": {True: _RBF("krr")},
    "mlp": _plain(
        MLPClassifier((256,), max_iter=500, random_state=0),
        _standardised(MLPRegressor((256,), max_iter=500, random_state=0)),
    ),
    "mlp_300": {False: lambda p: MLPClassifier((256,), max_iter=300, random_state=0)},
    "knn": _plain(KNeighborsClassifier(), KNeighborsRegressor()),
    "ntk": _pair(_ntk_model),
    "lgbm": _pair(_lightgbm),
    "lgbm_tuned": _pair(_lightgbm_tuned),
    "xrfm_tuned": _pair(_xrfm_tuned),
    "xrfm": _plain(XRFMClassifier(), _standardised(XRFMRegressor())),
    "realmlp": _pair(_realmlp),
    "catboost": _pair(_catboost),
    "tabm": _pair(_tabm),
    "ebm": _pair(_ebm),
}


def tables(folder, min_rows, max_rows, chosen):
    """Names, features and targets of the sets of a folder, smallest first."""
    found = []
    for path in sorted(Path(folder).glob("*.csv*")):
        name = path.name.split(".")[0]
        if name in ("peers", "index") or (chosen and name not in chosen):
            continue
        frame = pd.read_csv(path)
        if min_rows <= len(frame) <= max_rows:
            target = frame.iloc[:, -1]
            y = (
                target.to_numpy(float)
                if name in REGRESSION
                else LabelEncoder().fit_transform(target)
            )
            found.append((name, frame.iloc[:, :-1], y))
    return sorted(found, key=lambda table: len(table[2]))


def splits(X, y, folds, regression, rows):
    if folds:
        kind = KFold if regression else StratifiedKFold
        return list(kind(folds, shuffle=True, random_state=0).split(X, y))
    n = len(y)
    size = min(rows, int(0.75 * n))
    return [
        train_test_split(
            np.arange(n), train_size=size, test_size=min(rows, n - size), random_state=0,
            stratify=None if regression else y,
        )
    ]  # fmt: skip


def measure(name, X, y, model, folds, rows):
    """Means over the folds, as a row of the output."""
    regression = name in REGRESSION
    scores, seconds, losses = [], [], []
    with threadpool_limits(1):
        for train, test in splits(X, y, folds, regression, rows):
            vectorizer = make_tabular_pipeline(None)[0].fit(X.iloc[train])
            estimator = MODELS[model][regression](vectorizer.transform(X.iloc[train]).shape[1])
            start = time.process_time()
            pipeline = make_tabular_pipeline(estimator).fit(X.iloc[train], y[train])
            scores.append(pipeline.score(X.iloc[test], y[test]))
            seconds.append(time.process_time() - start)
            losses.append(_losses(pipeline, X.iloc[test], y[test], regression))
    task = "regression" if regression else "classification"
    return dict(
        zip(
            FIELDS,
            [
                name,
                task,
                len(y),
                X.shape[1],
                folds,
                model,
                np.mean(scores),
                np.mean(seconds),
                *np.mean(losses, axis=0),
            ],
            strict=True,
        )
    )


def _losses(pipeline, X, y, regression):
    """Root mean squared error and nothing, or log-loss and AUC where there are probabilities."""
    if regression:
        return root_mean_squared_error(y, pipeline.predict(X)), np.nan
    if not hasattr(pipeline, "predict_proba") or len(np.unique(y)) < len(pipeline.classes_):
        return np.nan, np.nan
    probabilities = pipeline.predict_proba(X)
    loss = log_loss(y, probabilities, labels=pipeline.classes_)
    if probabilities.shape[1] == 2:
        return loss, roc_auc_score(y, probabilities[:, 1])
    return loss, roc_auc_score(y, probabilities, multi_class="ovr")


def run(options):
    """Measure what is missing in the output."""
    done = set()
    if options.output.exists():
        rows = pd.read_csv(options.output).reindex(columns=FIELDS)
        rows.to_csv(options.output, index=False)  # files of earlier versions have fewer columns
        done = set(rows[["set", "model", "folds"]].itertuples(index=False))
    else:
        options.output.write_text(",".join(FIELDS) + "\n")
    jobs = [
        delayed(measure)(name, X, y, model, options.folds, options.rows)
        for name, X, y in tables(options.data_dir, options.min_rows, options.max_rows, options.sets)
        for model in options.models
        if (name, model, options.folds) not in done and (name in REGRESSION) in MODELS[model]
    ]
    start = time.monotonic()
    with options.output.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        for row in Parallel(options.jobs, return_as="generator_unordered")(jobs):
            writer.writerow(row)
            file.flush()
            print("{set:36}{model:12}{score:8.4f}{seconds:9.2f} s".format(**row), flush=True)
            if time.monotonic() - start > options.limit:
                print("Stopped by --limit; the same command goes on.")
                return


def wide(options, task):
    """Scores (sets x models) of one task, with the peers', and seconds of what was run here."""
    rows = pd.read_csv(options.output).reindex(columns=FIELDS)
    rows = rows[(rows.task == task) & (rows.folds == options.folds)]
    scores = rows.pivot(index="set", columns="model", values="score")
    seconds, loss, auc = (
        rows.pivot(index="set", columns="model", values=values)
        for values in ("seconds", "loss", "auc")
    )
    if task == "regression":
        loss[:] = np.nan  # in the units of each target: no mean of them says anything
    if options.peers:
        peers = pd.read_csv(options.peers).set_index("ds")
        if "task" in peers:
            peers = peers[peers.task == {"classification": "clf", "regression": "reg"}[task]]
        peers = peers.drop(columns=["task", "k", "n", "p"], errors="ignore").dropna(axis=1)
        scores = scores.join(peers.add_suffix("*"), how="inner")
    if options.only:
        scores = scores[[m for m in options.only if m in scores]]
    return scores.dropna(), seconds, loss, auc


def summarise(scores, seconds, loss, auc):
    """A table with a row per model: how good it is, by several measures."""
    rounded = scores.round(4)
    ranks = pd.DataFrame(rankdata(-rounded, axis=1), scores.index, scores.columns)
    share = scores.div(scores.max(axis=1), axis=0)  # of the best score on each set
    table = pd.DataFrame(
        {
            "mean": scores.mean(),
            "mean rank": ranks.mean(),
            "Elo": elo(rounded),
            "PMA": 100 * share.mean(),
            "P90": 100 * (share >= 0.9).mean(),
            "P95": 100 * (share >= 0.95).mean(),
            "log-loss": loss.reindex(scores.index).mean(skipna=False),
            "AUC": auc.reindex(scores.index).mean(skipna=False),
            "median s": seconds.reindex(scores.index).median(),
        }
    ).dropna(axis=1, how="all")
    return table.loc[scores.columns].sort_values("mean rank")


def elo(scores):
    """Elo ratings by the wins of each model over each, of mean 1,000; NaN without bencheval."""
    if scores.shape[1] == 1 or find_spec("bencheval") is None:
        return np.nan
    from bencheval.evaluator import BenchmarkEvaluator

    errors = (1 - scores).rename_axis("task").reset_index()
    rows = errors.melt("task", var_name="method", value_name="metric_error")
    evaluator = BenchmarkEvaluator(columns_to_agg_extra=[])
    return evaluator.compute_elo(rows, include_quantiles=False)["elo"]


def critical_difference(n_models, n_sets):
    """Nemenyi's, at 5 %: mean ranks that differ by less are not told apart."""
    q = studentized_range.ppf(0.95, n_models, np.inf) / 2**0.5
    return q * (n_models * (n_models + 1) / (6 * n_sets)) ** 0.5


def plot_ranks(table, difference, path):
    """Mean ranks on a line; a bar joins models that are not told apart."""
    import matplotlib.pyplot as plt

    ranks = table["mean rank"].sort_values()
    figure, axes = plt.subplots(figsize=(7, 0.3 * len(ranks) + 1), layout="constrained")
    for level, (name, rank) in enumerate(ranks.items()):
        axes.plot([rank, rank], [0, -level - 1], color="0.7", lw=1)
        axes.text(rank, -level - 1, f" {name} {rank:.2f}", va="center")
    last = 0
    for i, rank in enumerate(ranks):
        together = int((ranks <= rank + difference).sum())
        if together > max(last, i + 1):
            axes.plot([rank, ranks.iloc[together - 1]], [0.3 + 0.25 * i] * 2, color="k", lw=3)
            last = together
    axes.set(xlabel=f"mean rank (critical difference {difference:.2f})", yticks=[])
    figure.savefig(path, dpi=150)


def plot_time(table, path):
    """Mean score against median seconds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    timed = table.dropna(subset="median s")
    axes.scatter(timed["median s"], timed["mean"])
    for name, row in timed.iterrows():
        axes.annotate(f" {name}", (row["median s"], row["mean"]))
    axes.set(xscale="log", xlabel="median seconds of fit and predict", ylabel="mean score")
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["deq"], choices=MODELS)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--rows", type=int, default=4000, help="of one split; see --folds 0")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--sets", nargs="+", default=[], help="only these")
    parser.add_argument("--min-rows", type=int, default=0)
    parser.add_argument("--max-rows", type=int, default=10**9)
    parser.add_argument("--output", type=Path, default=Path("tabular.csv"))
    parser.add_argument("--limit", type=float, default=np.inf, help="seconds after which to stop")
    parser.add_argument("--peers", type=Path, help="CSV with scores of other models, marked *")
    parser.add_argument("--only", nargs="+", default=[], help="models to rank")
    parser.add_argument("--summary", action="store_true", help="run nothing")
    options = parser.parse_args()
    if not options.summary:
        run(options)
    for task in ("classification", "regression"):
        scores, *others = wide(options, task)
        if scores.empty:
            continue
        table = summarise(scores, *others)
        print(f"\n{task}, {len(scores)} sets")
        print(table.to_string(float_format="{:.4f}".format))
        if scores.shape[1] > 1:
            difference = critical_difference(scores.shape[1], len(scores))
            print(f"critical difference of mean ranks at 5 %: {difference:.2f}")
            plot_ranks(table, difference, options.output.with_suffix(f".{task}.ranks.png"))
            plot_time(table, options.output.with_suffix(f".{task}.time.png"))


if __name__ == "__main__":
    main()
