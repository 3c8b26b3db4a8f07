r"""
Quickstart: DEQ kernels beside scikit-learn's own models
========================================================

Four real data sets, five models, one table. Then a grid search over a pipeline, and a look at why a
shallow network can stand in for an infinitely deep one: the two have the same kernel.
"""

# %%
# Five models
# -----------
# ``DEQKernelRidge`` and ``DEQKernelRidgeClassifier`` are ridge regression with the exact kernel of
# an infinitely wide DEQ. They choose kernel and penalty themselves, by closed-form leave-one-out on
# the training rows. ``KernelMatcher`` gives features of an explicit network that has a DEQ's
# kernel, here that of a ReLU as it is, not centred; a linear model does the rest. The others are
# scikit-learn's.

import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from threadpoolctl import threadpool_limits

from sk_deq import DEQKernelRidge, DEQKernelRidgeClassifier, KernelMatcher
from sk_deq.kernels import deq_kernel

start = time.perf_counter()
threadpool_limits(1)  # for tables of a few hundred rows, and where others use the machine too
alphas = np.logspace(-5, 1, 13)


def make_models(deq_ridge, linear_ridge, svm, forest):
    return {
        "linear ridge": linear_ridge(alphas),
        "random forest": forest(random_state=0),
        "SVM, grid search": GridSearchCV(svm(), {"C": [1, 10, 100]}, cv=3),
        "KernelMatcher + ridge": make_pipeline(
            KernelMatcher(center=False, random_state=0), linear_ridge(alphas)
        ),
        "DEQ kernel ridge": deq_ridge(random_state=0),
    }


classifiers = make_models(DEQKernelRidgeClassifier, RidgeClassifierCV, SVC, RandomForestClassifier)
regressors = make_models(DEQKernelRidge, RidgeCV, SVR, RandomForestRegressor)

# %%
# Four data sets
# --------------
# Accuracy on three, of which the digits are the first 500 rows, and R2 on diabetes, by
# cross-validation with three folds; beside it the mean seconds of a fit, whatever it chooses
# included.

data = {
    "breast cancer": (*load_breast_cancer(return_X_y=True), classifiers),
    "wine": (*load_wine(return_X_y=True), classifiers),
    "digits, 500": (*(part[:500] for part in load_digits(return_X_y=True)), classifiers),
    "diabetes (R2)": (*load_diabetes(return_X_y=True), regressors),
}
folds = KFold(3, shuffle=True, random_state=0)
scores = {model: [] for model in classifiers}
print(f"{'score, seconds per fit':24}" + "".join(f"{name:>18}" for name in data), flush=True)
for model, results in scores.items():
    print(f"{model:24}", end="", flush=True)
    for X, y, models in data.values():
        pipeline = make_pipeline(StandardScaler(), models[model])
        result = cross_validate(pipeline, X, y, cv=folds)
        results.append(result["test_score"].mean())
        print(f"{results[-1]:9.3f} {result['fit_time'].mean():6.2f} s", end="", flush=True)
    print()

# %%
# A grid search
# -------------
# The estimators are scikit-learn estimators, so whatever takes one takes these: here a search over
# the variance of the recurrent weights, which sets how deep the DEQ effectively is, and over the
# activation. With ``hyperparameters=None`` a fit does not search by itself as well: what the grid
# does not name stays at its default.

X, y, _ = data["diabetes (R2)"]
search = GridSearchCV(
    make_pipeline(StandardScaler(), DEQKernelRidge(alpha=alphas, hyperparameters=None)),
    {
        "deqkernelridge__recurrent_var": [0.1, 0.5],
        "deqkernelridge__activation": ["relu", "abs"],
    },
    cv=folds,
).fit(X, y)
chosen = {name.split("__")[1]: value for name, value in search.best_params_.items()}
print(f"\ndiabetes, grid search: R2 = {search.best_score_:.3f} with {chosen}", flush=True)

# %%
# Why it works
# ------------
# On the digits, the eigenvalues of the exact kernel of the ReLU DEQ above and those of the features
# that ``KernelMatcher`` draws from its one-layer equivalent, at three widths. As the width grows
# they agree from the largest to ever smaller ones.

X = StandardScaler().fit_transform(data["digits, 500"][0])
X /= np.sqrt((X**2).sum(axis=1).mean())  # the scale at which the estimators work
spec = {"activation": "relu", "recurrent_var": 0.5, "center": False}
K = deq_kernel(X, **spec)
spectra = {"exact DEQ kernel": np.linalg.eigvalsh(K)[::-1]}
print("\ndigits, 500 rows, relative spectral error of the features' kernel")
for width in (256, 1024, 2048):
    matcher = KernelMatcher(width, **spec, random_state=0).fit(X)
    Z = matcher.transform(X)
    spectra[f"matched network, {width} neurons"] = np.linalg.eigvalsh(Z @ Z.T)[::-1]
    print(f"  {width:5} features: {matcher.kernel_error(X):.3f}", flush=True)

# %%
# The scores, each measured from the best model of its set, and the eigenvalues.

try:
    import matplotlib.pyplot as plt
except ImportError:
    print("(no figure: pip install matplotlib)")
else:
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    table = np.array(list(scores.values()))
    for j, (name, marker) in enumerate(zip(data, "osD^", strict=True)):
        left.plot(table[:, j] - table[:, j].max(), range(len(scores)), marker, label=name)
    left.set_yticks(range(len(scores)), list(scores))
    left.set(xlabel="score less the best model's", title="The DEQ kernel is at or near the best")
    left.legend()
    left.grid(axis="y", alpha=0.3)

    rank = np.arange(1, 101)
    for (name, values), style in zip(spectra.items(), ("k-", "C1:", "C2-.", "C0--"), strict=True):
        right.loglog(rank, values[:100], style, label=name)
    right.set(xlabel="rank", ylabel="eigenvalue", title="Wider matched networks have its spectrum")
    right.legend()
    if "__file__" in globals():  # run as a script; the gallery takes the figure itself
        path = Path(__file__).parent / "output" / "quickstart.png"
        path.parent.mkdir(exist_ok=True)
        fig.savefig(path, dpi=150)
        print(f"\nfigure: {path}")

print(f"total: {time.perf_counter() - start:.0f} s")

# %%
# What to try next
# ----------------
#
# * Your own table: ``make_tabular_pipeline(DEQKernelRidgeClassifier()).fit(frame, labels)`` takes
#   categories and missing values as they are (the page on tables).
# * A network of finite width, trained, and its explicit equivalent:
#   :ref:`sphx_glr_auto_examples_plot_convert_deq.py`.
# * What the kernel's parameters do: :ref:`sphx_glr_auto_examples_plot_choose_kernel.py`.

print("\nNext: plot_compare_models.py, for your own tables; plot_convert_deq.py, for networks")
