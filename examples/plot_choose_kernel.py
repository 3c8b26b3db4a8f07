r"""
Choose a kernel
===============

On rows of unit length a DEQ's kernel is a function of the angle between two rows, and three numbers
shape it: ``recurrent_var``, which sets how deep the network effectively is; ``bias_var``, the
variance of the input bias; and the choice between the conjugate kernel (``"ck"``, a trained
readout) and the neural tangent kernels. Looking at that function, and at what each choice does to
the leave-one-out error of real data, is the quickest way to know them.
"""

# %%
# The kernel as a function of the angle
# -------------------------------------

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from sk_deq import DEQKernelRidgeClassifier
from sk_deq.kernels import deq_kernel

angle = np.linspace(0, np.pi, 200)
rows = np.column_stack([np.cos(angle), np.sin(angle)])


def profile(**parameters):
    """Correlation of the DEQ's features for two rows at each angle."""
    kernel = deq_kernel(rows, rows[:1], **parameters)[:, 0]
    return kernel / kernel[0]


# In the conjugate kernel of a centred ReLU DEQ recurrent_var changes little: the curves would lie
# upon each other. In the NTK of one that is not centred it sharpens the cusp at angle 0.
deep = {"kernel": "ntk", "center": False, "input_var": 1.0}
panels = {
    "activation": [{"activation": name} for name in ("relu", "tanh", "abs")],
    "recurrent_var": [{"recurrent_var": value, **deep} for value in (0.0, 0.9, 1.5, 1.9)],
    "bias_var": [{"bias_var": value} for value in (0.0, 0.3, 1.0, 3.0)],
    "kernel": [{"kernel": name} for name in ("ck", "ntk", "ntk_full")],
}
figure, axes = plt.subplots(1, 4, figsize=(11, 3), sharey=True, layout="constrained")
for axis, (name, choices) in zip(axes, panels.items(), strict=True):
    styles = iter(["-", "--", "-.", ":"])
    for choice in choices:
        label = str(choice[name])
        values = profile(**{"recurrent_var": 0.5, **choice})
        axis.plot(np.degrees(angle), values, next(styles), label=label)
    axis.set(
        title=name + (" (NTK)" if name == "recurrent_var" else ""),
        xlabel="angle, degrees",
        xticks=[0, 90, 180],
    )
    axis.legend()
axes[0].set_ylabel("correlation of the features")
plt.show()

# %%
# What the data say
# -----------------
# With an array of penalties, ``fit`` computes the closed-form leave-one-out error of each:
# ``validation_errors_``. Its minimum compares kernels without any splitting. Five hundred
# handwritten digits, one choice changed at a time; ``hyperparameters=None`` turns off the search
# that ``fit`` would make by itself:

X, y = load_digits(return_X_y=True)
X, y = X[:500], y[:500]
alphas = np.logspace(-6, 0, 7)
fixed = {"activation": "relu", "kernel": "ck", "recurrent_var": 0.5, "bias_var": 0.0}
fixed |= {"center": True, "input_scaling": "sphere", "hyperparameters": None}


def leave_one_out(**parameters):
    model = DEQKernelRidgeClassifier(alphas, **{**fixed, **parameters}).fit(X, y)
    return model.validation_errors_.min(), model.alpha_


errors = {}
for name, choices in panels.items():
    print(name)
    for choice in choices:
        error, alpha = leave_one_out(**choice)
        errors[f"{name} = {choice[name]}"] = error
        print(f"  {choice[name]!s:>10}  squared error {error:.4f}  at alpha = {alpha:.1e}")

# %%
# The same as a picture: what is worth a search is what moves the bar. On these rows it is a
# ``recurrent_var`` near 2, whose cusp is too local for them, then the activation and the kernel;
# ``bias_var`` moves it least.

figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
colors = [f"C{i}" for i, choices in enumerate(panels.values()) for _ in choices]
axis.barh(list(errors), list(errors.values()), color=colors)
axis.set(xlabel="leave-one-out squared error, digits", title="Few choices matter, some much")
axis.invert_yaxis()
plt.show()
