r"""
The paper's figure on one page
==============================

Ling et al. (ICML 2024) show that a deep equilibrium model and a not-so-deep explicit network have
the same kernel on high-dimensional data, if the network's activations are chosen right. Their
figure is repeated here: eigenvalues and the leading eigenvector of the exact DEQ kernel, of the
matched network's, and of a network of the same depth with plain ReLU, first on the Gaussian mixture
of the theory, then on handwritten digits.
"""

# %%
# Match
# -----
# A ReLU DEQ with ``recurrent_var=0.5``. Four equations determine two activations of the kind
# :math:`\max(at, bt)`.

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler

from sk_deq.datasets import make_gaussian_mixture
from sk_deq.inspection import SpectrumDisplay
from sk_deq.kernels import deq_kernel, explicit_kernel
from sk_deq.theory import match_explicit

spec = {"activation": "relu", "recurrent_var": 0.5}


def unit_scale(X):
    """Divide by the root-mean-square norm of the rows: tau0 = 1."""
    return X / np.sqrt((X**2).sum(axis=1).mean())


digits, digit = load_digits(return_X_y=True)
keep = np.isin(digit, (3, 8))  # two classes that look alike
mixture, label = make_gaussian_mixture(600, 800, random_state=0)
data = {
    "Gaussian mixture, p = 800": (unit_scale(mixture), label),
    "digits 3 and 8": (unit_scale(StandardScaler().fit_transform(digits[keep])), digit[keep]),
}
match = match_explicit(**spec)
for number, layer in enumerate(match.layers, 1):
    a, b = layer.parameters
    print(f"layer {number}: max({a:.4f} t, {b:.4f} t), centred")
print(f"residual of the four equations: {match.residual:.0e}")

# %%
# Compare
# -------
# The plain network has the same depth, and is scaled to the same trace.

figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
for (name, (X, y)), (left, right) in zip(data.items(), axes, strict=True):
    order = np.argsort(y, kind="stable")
    X = X[order]
    kernels = {
        "DEQ, exact": deq_kernel(X, **spec),
        "matched network": explicit_kernel(X, layers=match.layers),
        "plain ReLU network": explicit_kernel(X, layers=["relu", "relu"]),
    }
    kernels["plain ReLU network"] *= np.trace(kernels["DEQ, exact"]) / np.trace(
        kernels["plain ReLU network"]
    )
    SpectrumDisplay.from_kernels(kernels, ax=left, kind="histogram")
    left.set_title(name)
    left.set_yscale("log")
    reference = None
    print(name)
    for (label, K), style in zip(kernels.items(), ("k-", "C0--", "C1:"), strict=True):
        vector = np.linalg.eigh(K)[1][:, -1]
        reference = vector if reference is None else reference
        right.plot(vector * np.sign(vector @ reference), style, linewidth=1, label=label)
        error = np.linalg.norm(K - kernels["DEQ, exact"], 2)
        error /= np.linalg.norm(kernels["DEQ, exact"], 2)
        overlap = abs(vector @ reference)
        print(
            f"  {label:20} relative spectral error {error:.3f}, leading eigenvector {overlap:.3f}"
        )
    right.set(title="leading eigenvector, rows ordered by class", xlabel="row")
    right.legend()
if len(sys.argv) > 1:  # a file to keep the figure in
    figure.savefig(sys.argv[1], dpi=80)
plt.show()
