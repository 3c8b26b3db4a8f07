"""
Uncertainty from a prior over deep equilibrium networks
=======================================================

An infinitely wide random deep equilibrium network is a Gaussian process, and
:class:`~sk_deq.kernels.DEQKernel` is its covariance: scikit-learn's
``GaussianProcessRegressor`` then predicts with error bars, and learns the variances of the network
by marginal likelihood.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_iris
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel
from sklearn.preprocessing import scale

from sk_deq.kernels import DEQKernel

# %%
# One dimension
# -------------
#
# A function seen at a few places. Where there are no observations the error bars grow; the network
# extrapolates along lines, not back to a mean. Two of its variances are kept: so few observations
# say little about them.

rng = np.random.default_rng(0)
x = np.sort(np.r_[rng.uniform(-2, -0.5, 12), rng.uniform(0.7, 2, 12)])
y = np.sin(2 * x) + 0.1 * rng.normal(size=len(x))
grid = np.linspace(-4, 4, 200)

fig, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True, constrained_layout=True)
for ax, activation in zip(axes, ["relu", "tanh"], strict=True):
    network = DEQKernel(
        activation=activation, recurrent_var_bounds="fixed", bias_var_bounds="fixed"
    )
    prior = ConstantKernel(5.0) * network + WhiteKernel(0.01)
    model = GaussianProcessRegressor(prior, normalize_y=True).fit(x[:, None], y)
    mean, std = model.predict(grid[:, None], return_std=True)
    ax.fill_between(grid, mean - 2 * std, mean + 2 * std, alpha=0.3, label="two std. deviations")
    ax.plot(grid, mean, label="mean")
    ax.plot(x, y, "k.", label="observed")
    ax.set(title=f"{activation}: sure where there are observations", xlabel="x")
    print(f"learnt, {activation}: {model.kernel_}")
axes[0].set_ylabel("y")
axes[0].legend(loc="lower left")

# %%
# A table
# -------
#
# The length of an iris's petals from its other measurements. Rows are scaled to norms of about 1.
# The learnt variances say what the data want: the larger ``recurrent_var``, the deeper the network
# seems.

iris = scale(load_iris().data)[rng.permutation(150)]
X, target = iris[:, [0, 1, 3]] / np.sqrt(3), iris[:, 2]
train, test = slice(0, 100), slice(100, None)

prior = ConstantKernel() * DEQKernel() + WhiteKernel(0.5)
model = GaussianProcessRegressor(prior).fit(X[train], target[train])
mean, std = model.predict(X[test], return_std=True)
print("learnt:", model.kernel_)
print("R^2 on other rows:", round(model.score(X[test], target[test]), 3))
within = np.abs(mean - target[test]) < 2 * std
print("rows within two standard deviations:", f"{within.mean():.0%}")
