r"""
Quickstart: DEQ kernels beside scikit-learn's own models
========================================================

Four real data sets, five models, one table. Then a grid search over a pipeline, and a look at why a
shallow network can stand in for an infinitely deep one: the two have the same kernel.

Every model chooses its penalty on the training folds: the kernel and linear ridges by closed-form
leave-one-out, the support vector machine by a grid search, which its fit time includes.
"""

# %%
# Five models
# -----------
# ``DEQKernelRidge`` and ``DEQKernelRidgeClassifier`` use the exact kernel of an infinitely wide
# DEQ: ``"ck"`` is that of a DEQ whose readout alone is trained, ``"ntk"`` that of one whose
# recurrent weights are trained too. ``KernelMatcher`` gives features of the explicit network with
# that kernel; a linear model does the rest.

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

from sk_deq import DEQKernelRidge, DEQKernelRidgeClassifier, KernelMatcher
from sk_deq.kernels import deq_kernel

start = time.perf_counter()
alphas = np.logspace(-5, 1, 13)
C = [1, 10, 100]


def make_models(ridge, linear_ridge, svm, forest):
    matched = make_pipeline(KernelMatcher(random_state=0), linear_ridge(alphas))
    return {
        "DEQ kernel ridge, CK": ridge(alpha=alphas, kernel="ck", random_state=0),
        "DEQ kernel ridge, NTK": ridge(alpha=alphas, kernel="ntk", random_state=0),
        "KernelMatcher + ridge": matched,
        "SVM, RBF kernel": GridSearchCV(svm(), {"C": C}, cv=3),
        "random forest": forest(random_state=0),
    }


classifiers = make_models(DEQKernelRidgeClassifier, RidgeClassifierCV, SVC, RandomForestClassifier)
regressors = make_models(DEQKernelRidge, RidgeCV, SVR, RandomForestRegressor)

# %%
# Four data sets
# --------------
# Accuracy on three, R2 on diabetes, by 5-fold cross-validation, two folds at a time; beside it the
# mean time of a fit.

data = {
    "breast cancer": (load_breast_cancer, classifiers),
    "digits": (load_digits, classifiers),
    "wine": (load_wine, classifiers),
    "diabetes (R2)": (load_diabetes, regressors),
}
folds = KFold(5, shuffle=True, random_state=0)
print(f"{'score / seconds per fit':24}" + "".join(f"{name:>18}" for name in data))
for model in classifiers:
    row = f"{model:24}"
    for load, models in data.values():
        X, y = load(return_X_y=True)
        pipeline = make_pipeline(StandardScaler(), models[model])
        result = cross_validate(pipeline, X, y, cv=folds, n_jobs=2)
        row += f"{result['test_score'].mean():10.3f} /{result['fit_time'].mean():6.2f}"
    print(row)

# %%
# A grid search
# -------------
# The estimators are scikit-learn estimators, so whatever takes one takes these: here a search over
# the variance of the recurrent weights, which sets how deep the DEQ effectively is, and over the
# activation.

X, y = load_diabetes(return_X_y=True)
search = GridSearchCV(
    make_pipeline(StandardScaler(), DEQKernelRidge(alpha=alphas)),
    {
        "deqkernelridge__recurrent_var": [0.1, 0.3, 0.5],
        "deqkernelridge__activation": ["relu", "tanh", "sin"],
    },
    cv=folds,
    n_jobs=2,
).fit(X, y)
chosen = {name.split("__")[1]: value for name, value in search.best_params_.items()}
print(f"\ndiabetes, grid search: R2 = {search.best_score_:.3f} with {chosen}")

# %%
# Why it works
# ------------
# On the digits, the eigenvalues of the exact kernel of a tanh DEQ and those of the features that
# ``KernelMatcher`` draws from its one-layer equivalent, at three widths. As the width grows they
# agree from the largest to ever smaller ones.

X = StandardScaler().fit_transform(load_digits().data[:500])
X /= np.sqrt((X**2).sum(axis=1).mean())  # the scale at which the estimators work
spec = {"activation": "tanh", "recurrent_var": 0.5}
K = deq_kernel(X, **spec)
spectra = {"exact DEQ kernel": np.linalg.eigvalsh(K)[::-1]}
print("\ndigits, 500 rows, relative spectral error of the features' kernel")
for width in (256, 1024, 4096):
    matcher = KernelMatcher(width, **spec, random_state=0).fit(X)
    Z = matcher.transform(X)
    spectra[f"matched network, {width} neurons"] = np.linalg.eigvalsh(Z @ Z.T)[::-1]
    print(f"  {width:5} features: {matcher.kernel_error(X):.3f}")

try:
    import matplotlib.pyplot as plt
except ImportError:
    print("(no figure: pip install matplotlib)")
else:
    fig, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    rank = np.arange(1, 101)
    for (name, values), style in zip(spectra.items(), ("k-", "C1:", "C2-.", "C0--"), strict=True):
        ax.loglog(rank, values[:100], style, label=name)
    ax.set(xlabel="rank", ylabel="eigenvalue", title="DEQ and matched explicit network, digits")
    ax.legend()
    if "__file__" in globals():  # run as a script; the gallery takes the figure itself
        path = Path(__file__).parent / "output" / "quickstart.png"
        path.parent.mkdir(exist_ok=True)
        fig.savefig(path, dpi=150)
        print(f"\nfigure: {path}")

print(f"total: {time.perf_counter() - start:.0f} s")
