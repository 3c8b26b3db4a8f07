r"""
An activation of your own
=========================

An activation is a name, or any elementwise torch function. Everything else follows from it: the
fixed point, the exact kernel, the four numbers, the matched network. Here it is :math:`\phi(t) = t
+ \sin^2 t`, known as *snake*, a line with waves on it.
"""

# %%
# From the function to the theory
# -------------------------------

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_deq import DEQKernelRidge, DEQRegressor, KernelMatcher
from sk_deq.inspection import ActivationDisplay
from sk_deq.theory import match_explicit


def snake(t):
    return t + torch.sin(t) ** 2


match = match_explicit(snake, recurrent_var=0.2)
print("the DEQ's four numbers:    ", np.round(match.target, 4))
print("the matched network's four:", np.round(match.achieved, 4))
print(f"{match.n_layers} layers, {match.layers[0].family}; residual {match.residual:.0e}")

# %%
# The DEQ's activation, and those of the explicit network with the same four numbers:

ActivationDisplay.from_layers(snake, match.layers, recurrent_var=0.2)
plt.show()

# %%
# From the function to models
# ---------------------------
# The same function goes into every estimator: the infinitely wide DEQ, its matched features, and a
# DEQ network of finite width. Rows are put on the sphere, with a constant coordinate that keeps
# their norm: the kernel is then a function of the angle, and cheap for any function. The network's
# recurrent variance is small because the slope of *snake* goes up to 2, and the layer has to
# contract.

X, y = load_diabetes(return_X_y=True)
alphas = np.logspace(-4, 2, 13)
sphere = {"input_scaling": "sphere", "bias_var": 0.5, "recurrent_var": 0.2}
folds = KFold(5, shuffle=True, random_state=0)
for name in ("relu", "tanh", snake):
    model = make_pipeline(
        StandardScaler(), DEQKernelRidge(alphas, activation=name, hyperparameters=None, **sphere)
    )
    label = getattr(name, "__name__", name)
    print(f"DEQKernelRidge, {label:>5}: R2 = {cross_val_score(model, X, y, cv=folds).mean():.3f}")

Z = StandardScaler().fit_transform(X)
matcher = KernelMatcher(4096, activation=snake, random_state=0, **sphere).fit(Z)
print(f"KernelMatcher, 4096 features: kernel_error = {matcher.kernel_error(Z):.3f}")

network = DEQRegressor(64, activation=snake, recurrent_var=0.05, max_epochs=20, random_state=0)
r2 = cross_val_score(make_pipeline(StandardScaler(), network), X, y, cv=folds).mean()
print(f"DEQRegressor, width 64: R2 = {r2:.3f}")
