r"""
What a model of a table has learnt
==================================

A prediction is worth more with reasons: which columns it rests on, how it changes with each of
them, and how wrong it may be. Here the progression of diabetes in 442 patients is predicted from
ten measurements.
"""

# %%
# A model
# -------
# The pipeline standardises numbers and encodes categories; the kernel ridge chooses its kernel, its
# penalty and weights of the features by leave-one-out errors. What it has compared is a table:

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes, make_friedman1
from sklearn.inspection import PartialDependenceDisplay, permutation_importance
from sklearn.model_selection import train_test_split

from sk_deq import DEQKernelRidge
from sk_deq.inspection import FeatureWeightsDisplay
from sk_deq.pipelines import make_tabular_pipeline

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
X["sex"] = X["sex"].map({1.0: "a", 2.0: "b"})
X, X_test, y, y_test = train_test_split(X, y, test_size=0.5, random_state=0)
model = make_tabular_pipeline(DEQKernelRidge(random_state=0)).fit(X, y)
print(f"R2 on new patients: {model.score(X_test, y_test):.3f}")
compared = pd.DataFrame(model[-1].search_results_)
print(compared[["kernel", "recurrent_var", "encoding", "feature_weights", "rank"]].head())

# %%
# Which columns
# -------------
# ``permutation_importance`` tells how much the score on new rows falls when a column is shuffled.
# The weights of the features tell how finely the model resolves a column: one of weight 0 is not
# seen. For these patients all are 1, since others did not lower the errors by more than a tenth.
# On the right they are for a table whose target bends most in the first two columns.

importance = permutation_importance(model, X_test, y_test, n_repeats=3, random_state=0)
order = np.argsort(-importance.importances_mean)
print("weights:", model[-1].feature_weights_)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
axes[0].barh(
    X.columns[order], importance.importances_mean[order], xerr=importance.importances_std[order]
)
axes[0].invert_yaxis()
axes[0].set(xlabel="loss of R2 when shuffled", title="bmi and s5 matter most")

table, values = make_friedman1(400, n_features=10, noise=1.0, random_state=0)
other = make_tabular_pipeline(DEQKernelRidge(random_state=0)).fit(table, values)
FeatureWeightsDisplay.from_estimator(other, ax=axes[1])
axes[1].set_title("x0 and x1 are resolved finely")
plt.show()

# %%
# How the prediction changes
# --------------------------
# The mean prediction when one column takes a value in all rows, for the three numbers that matter
# most, with the curves of thirty patients.

numbers = [name for name in X.columns[order] if name != "sex"]
figure, axes = plt.subplots(1, 3, figsize=(9, 3), sharey=True, layout="constrained")
PartialDependenceDisplay.from_estimator(
    model, X_test, numbers[:3], kind="both", subsample=30, random_state=0,
    grid_resolution=12, ax=axes,
)  # fmt: skip
plt.show()

# %%
# How wrong it may be
# -------------------
# ``predict_interval`` takes the errors of the training rows when left out, which ``fit`` knows in
# closed form: no rows are set aside for it.

vectorizer, ridge = model[:-1], model[-1]
lower, upper = ridge.predict_interval(vectorizer.transform(X_test), coverage=0.9)
inside = (lower <= y_test) & (y_test <= upper)
print(f"{inside.mean():.1%} of new patients lie within their interval of nominal coverage 90 %")

rank = np.argsort(lower)
figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
axis.fill_between(np.arange(len(rank)), lower[rank], upper[rank], color="0.85", label="interval")
for color, label, part in [("C0", "within", inside), ("C3", "outside", ~inside)]:
    shown = part.to_numpy()[rank]
    axis.plot(np.flatnonzero(shown), y_test.to_numpy()[rank][shown], ".", color=color, label=label)
axis.set(xlabel="new patients, by prediction", ylabel="progression of diabetes")
axis.set_title("Nine in ten lie within their interval")
axis.legend()
plt.show()
