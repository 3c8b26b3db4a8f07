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

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sk_deq import DEQClassifier, EquivalentExplicitClassifier

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

try:
    import matplotlib.pyplot as plt
except ImportError:
    print("matplotlib is not installed: no figure")
else:
    figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
    for axis, column, title in zip(
        axes, range(3), ["test accuracy", "agreement with the DEQ", "milliseconds"], strict=True
    ):
        axis.bar(list(report), [values[column] for values in report.values()])
        axis.set_title(title)
        if column < 2:
            axis.set_ylim(0.9, 1)
    figure.savefig("plot_convert_deq.png", dpi=150)
