"""
Convert a DEQ to an explicit network
====================================

A deep equilibrium network is expensive to run: every prediction solves a fixed point. Here a fitted
:class:`~sk_deq.DEQClassifier` teaches a matched network of one hidden layer,
:class:`~sk_deq.EquivalentExplicitClassifier`, which then predicts the same at a fraction of the
time. The report at the end has what one should ask of such a conversion: agreement, the gap in
accuracy, the gap in latency.
"""

# %%
# Train the DEQ
# -------------
#
# Digits, 8 x 8 pixels; a third of the rows are kept for testing.

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sk_deq import DEQClassifier, EquivalentExplicitClassifier
from sk_deq.inspection import ConvergenceDisplay

X, y = load_digits(return_X_y=True)
X = X.astype(np.float32)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=1 / 3, random_state=0)

deq = DEQClassifier(width=256, random_state=0).fit(X_train, y_train)
print(f"DEQ: test accuracy {deq.score(X_test, y_test):.3f}, ", end="")
print(f"{deq.fixed_point_n_iter_:.1f} iterations per fixed point")

# %%
# Two ways to an explicit network
# -------------------------------
#
# ``from_deq`` copies the parameters of the DEQ, those that its search found. The network is
# initialised with the DEQ's kernel and trained on the labels. Or, with ``teacher``, it begins with
# the input weights of the trained DEQ and is trained on what that says. A DEQ that is not centred
# is matched by one hidden layer whose kernel is exactly that of the DEQ at infinite width.

explicit = EquivalentExplicitClassifier.from_deq(deq).fit(X_train, y_train)
distilled = EquivalentExplicitClassifier.from_deq(deq, teacher=deq).fit(X_train, y_train)
print(f"the DEQ found: {deq.activation_}, recurrent_var={deq.recurrent_var_}")
print(f"kernel of the matched layer, at infinite width: off by {distilled.match_.residual:.0e}")
print(f"agreement on the training rows: {distilled.agreement_:.3f}")

# %%
# The report
# ----------


def latency(model, repeats=20):
    """Median milliseconds of predicting the test rows."""
    milliseconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        model.predict(X_test)
        milliseconds.append(1000 * (time.perf_counter() - begin))
    return np.median(milliseconds)


print(f"{'':<12}{'accuracy':>10}{'as the DEQ':>12}{'ms':>8}")
models = {"DEQ": deq, "explicit": explicit, "distilled": distilled}
report = {}
for name, model in models.items():
    agreement = np.mean(model.predict(X_test) == deq.predict(X_test))
    report[name] = model.score(X_test, y_test), agreement, latency(model)
    print(f"{name:<12}{report[name][0]:10.3f}{report[name][1]:12.3f}{report[name][2]:8.1f}")

# %%
# The same as a picture.

accuracy, agreement, milliseconds = zip(*report.values(), strict=True)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained", sharey=True)
left.plot(accuracy, list(report), "o", label="test accuracy")
left.plot(agreement, list(report), "D", mfc="none", label="agreement with the DEQ")
left.set(xlim=(0.9, 1.005), xlabel="share of the test rows", title="Nearly the same predictions")
left.invert_yaxis()
left.grid(alpha=0.3)
left.legend(loc="lower left")
right.barh(list(report), milliseconds)
right.set(xlabel=f"milliseconds to predict {len(X_test)} rows", title="in a part of the time")
plt.show()

# %%
# Why a DEQ takes that time, and how it was trained
# -------------------------------------------------
# The residual of the fixed points of a hundred rows, of which the slowest takes nearly thirty
# iterations to the tolerance; and the loss by epoch.

figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for axis, kind in zip(axes, ["fixed_point", "training"], strict=True):
    ConvergenceDisplay.from_estimator(deq, X_test[:100], kind=kind, ax=axis)
axes[0].set_title("A digit gained in every seven iterations")
axes[1].set_title("The loss falls to the end")
plt.show()
