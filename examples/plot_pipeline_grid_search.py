r"""
A pipeline and a grid search
============================

The estimators are scikit-learn estimators: they take data frames, stand at the end of pipelines,
and are searched over. Here the progression of diabetes is predicted from ten measurements, one of
which, the sex, is a category and the others are numbers.
"""

# %%
# The pipeline
# ------------
# Numbers are standardised, the category is one-hot encoded; then comes the ridge regression with
# the kernel of an infinitely wide DEQ. As it comes it needs no search: inside every fit, kernel and
# penalty are chosen by leave-one-out errors, for which there is a closed form.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sk_deq import DEQKernelRidge

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=0)

columns = make_column_transformer(
    (OneHotEncoder(), ["sex"]), remainder=StandardScaler(), verbose_feature_names_out=False
)
line = Pipeline([("columns", columns), ("line", RidgeCV())]).fit(X_train, y_train)
print(f"linear ridge:                R2 = {line.score(X_test, y_test):.3f}")
model = Pipeline([("columns", columns), ("deq", DEQKernelRidge())]).fit(X_train, y_train)
print(f"DEQ kernel ridge, by itself: R2 = {model.score(X_test, y_test):.3f}")

# %%
# The search
# ----------
# You may want to search yourself, by another criterion or over other candidates. With
# ``hyperparameters=None`` and an array of penalties, ``fit`` chooses the penalty only.
# ``recurrent_var``, the variance of the recurrent weights, sets how deep the DEQ effectively is;
# the activation sets what it can express.

ridge = DEQKernelRidge(
    alpha=np.logspace(-4, 2, 13), hyperparameters=None, center=True, bias_var=0.0
)
grid = {
    "deq__activation": ["relu", "tanh", "gelu", "sin"],
    "deq__recurrent_var": [0.05, 0.2, 0.4, 0.6],
}
search = GridSearchCV(
    Pipeline([("columns", columns), ("deq", ridge)]),
    grid,
    cv=KFold(5, shuffle=True, random_state=0),
)
search.fit(X_train, y_train)
results = pd.DataFrame(search.cv_results_).pivot(
    index="param_deq__activation", columns="param_deq__recurrent_var", values="mean_test_score"
)
print(results.round(3))
print(f"chosen: {search.best_params_}")
print(f"DEQ kernel ridge, searched:  R2 = {search.score(X_test, y_test):.3f}")

# %%
# The whole grid, as a picture. Differences are small: a DEQ's kernel is a robust choice here.

figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
image = axis.imshow(results, cmap="viridis")
axis.set_xticks(range(results.shape[1]), results.columns)
axis.set_yticks(range(results.shape[0]), results.index)
axis.set(xlabel="recurrent_var", ylabel="activation", title="cross-validated R2, diabetes")
for row, column in np.ndindex(results.shape):
    value = results.iloc[row, column]
    axis.text(column, row, f"{value:.3f}", ha="center", va="center", color="w")
image.set_clim(vmax=float(results.max().max()) + 0.02)  # white figures stay legible
plt.show()
