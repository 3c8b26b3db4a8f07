r"""
Compare models on tabular data
==============================

A score from one split says little. Here six classifiers meet on the same ten splits of a table, and
are judged by accuracy, by the quality of their probabilities (log loss), and by time. Then one of
them is looked at by scikit-learn's displays of confusion and calibration.
"""

# %%
# Six classifiers
# ---------------
# Wisconsin breast cancer: 569 rows, 30 measurements of cell nuclei. The first three models are of
# this package: the infinitely wide DEQ as a kernel, its matched features under a linear model, and
# a DEQ of finite width trained by implicit differentiation. All see standardised columns.

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.calibration import CalibrationDisplay
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import RepeatedStratifiedKFold, cross_validate, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_deq import DEQClassifier, DEQKernelRidgeClassifier, KernelMatcher

models = {
    "DEQ kernel ridge": DEQKernelRidgeClassifier(),
    "matched features,\nlogistic regression": make_pipeline(
        KernelMatcher(512, random_state=0), LogisticRegression(C=10, max_iter=1000)
    ),
    "DEQ network": DEQClassifier(width=64, max_epochs=30, random_state=0),
    "logistic regression": LogisticRegression(max_iter=1000),
    "random forest": RandomForestClassifier(random_state=0),
    "nearest neighbours": KNeighborsClassifier(10),
}

# %%
# Ten splits
# ----------

X, y = load_breast_cancer(return_X_y=True)
splits = RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=0)
scores = {}
for name, model in models.items():
    pipeline = make_pipeline(StandardScaler(), model)
    scores[name] = cross_validate(pipeline, X, y, cv=splits, scoring=("accuracy", "neg_log_loss"))
    del scores[name]["score_time"]
table = pd.DataFrame({name: pd.DataFrame(result).mean() for name, result in scores.items()}).T
table.index = table.index.str.replace("\n", " ")
print(table.rename(columns={"test_neg_log_loss": "test_log_loss"}).abs().round(3))

# %%
# The spread over the splits beside the mean: models whose boxes overlap this much are not told
# apart by this table.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
for axis, key, sign, label in zip(
    axes, ("test_accuracy", "test_neg_log_loss"), (1, -1), ("accuracy", "log loss"), strict=True
):
    axis.boxplot([sign * result[key] for result in scores.values()], orientation="horizontal")
    axis.set(xlabel=label)
axes[0].set_yticks(range(1, len(models) + 1), models)
axes[0].set_title("further right is better")
axes[1].set_title("further left is better")
axes[0].invert_yaxis()
plt.show()

# %%
# Which rows it gets wrong, and how far to trust it
# -------------------------------------------------
# scikit-learn's own displays take these estimators. On the left, the classes that are mistaken for
# each other; on the right, the share of benign rows among those of about the same probability: the
# closer to the diagonal, the better the probabilities are to be trusted.

X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.5, random_state=0)
model = make_pipeline(StandardScaler(), DEQKernelRidgeClassifier(random_state=0))
model.fit(X_train, y_train)
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
names = load_breast_cancer().target_names
ConfusionMatrixDisplay.from_estimator(
    model, X_test, y_test, display_labels=names, ax=axes[0], colorbar=False, cmap="Blues"
)
CalibrationDisplay.from_estimator(
    model, X_test, y_test, n_bins=5, strategy="quantile", ax=axes[1], name="DEQ kernel ridge"
)
axes[1].set(xlabel="mean probability of benign, in a fifth of the rows", ylabel="share benign")
axes[0].set_title("Few rows are mistaken")
axes[1].set_title("Probabilities are near the shares")
plt.show()
