"""1. The exact kernels of a DEQ against their four numbers: spectra and error by dimension.

    python examples/paper/spectra.py --output DIR [--quick]

The Gaussian mixture of the paper, n = 0.8 p rows, recurrent_var = 0.2. Writes spectra_error.csv
(the relative spectral error of the four-number kernel by dimension, mean and standard deviation
over the seeds), spectra_exponent.csv (slope of its logarithm against that of p), and a figure of
each.
"""

from itertools import product

import numpy as np
from _common import (
    EIGHT_ACTIVATIONS,
    arguments,
    mixture,
    new_figure,
    spectral_error,
    write_table,
)

from sk_deq.kernels import deq_kernel

RECURRENT_VAR = 0.2


def main():
    args = arguments(__doc__)
    dimensions = [50, 100, 200] if args.quick else [100, 200, 400, 800, 1600, 3200]
    seeds = range(2 if args.quick else 5)
    errors = {}
    for p, seed in product(dimensions, seeds):
        X, _ = mixture(p, seed)
        for activation, kernel in product(EIGHT_ACTIVATIONS, ("ck", "ntk")):
            spec = {"activation": activation, "kernel": kernel, "recurrent_var": RECURRENT_VAR}
            spec["tau0"] = None  # of the rows
            exact = deq_kernel(X, **spec)
            error = spectral_error(deq_kernel(X, **spec, method="high_dim"), exact)
            errors.setdefault((activation, kernel, p), []).append(error)
    rows = [
        {
            "activation": activation,
            "kernel": kernel,
            "p": p,
            "n": int(0.8 * p),
            "error": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)),
            "seeds": len(values),
        }
        for (activation, kernel, p), values in sorted(errors.items())
    ]
    write_table(args.output / "spectra_error.csv", rows)

    slopes = []
    figure, axes = new_figure(2, sharey=True)
    for kernel, axis in zip(("ck", "ntk"), axes[0], strict=True):
        for activation in EIGHT_ACTIVATIONS:
            mean = np.array([np.mean(errors[activation, kernel, p]) for p in dimensions])
            spread = np.array([np.std(errors[activation, kernel, p], ddof=1) for p in dimensions])
            logs = np.log([[p] * len(seeds) for p in dimensions]).ravel()
            values = np.log([errors[activation, kernel, p] for p in dimensions]).ravel()
            (slope, _), covariance = np.polyfit(logs, values, 1, cov=True)
            slopes.append(
                {
                    "activation": activation,
                    "kernel": kernel,
                    "exponent": float(slope),
                    "standard_error": float(np.sqrt(covariance[0, 0])),
                }
            )
            axis.errorbar(dimensions, mean, spread, marker=".", capsize=2, label=activation)
        guide = 0.5 * np.array(dimensions, dtype=float) ** -0.5
        axis.plot(dimensions, guide, "k:", label=r"$p^{-1/2}$")
        axis.set(xscale="log", yscale="log", xlabel="dimension p", title=kernel.upper())
    axes[0, 0].set_ylabel("relative spectral error")
    axes[0, 1].legend(fontsize="small", ncols=2)
    figure.savefig(args.output / "spectra_error.png", dpi=120)
    write_table(args.output / "spectra_exponent.csv", slopes)

    X, y = mixture(dimensions[-3], 0)
    X = X[np.argsort(y, kind="stable")]
    figure, axes = new_figure(2, 2)
    for activation, (left, right) in zip(("relu", "tanh"), axes, strict=True):
        for method, color, line in (("exact", "k", "-"), ("high_dim", "C1", "--")):
            spec = {"activation": activation, "recurrent_var": RECURRENT_VAR, "tau0": None}
            K = deq_kernel(X, **spec, method=method)
            values, vectors = np.linalg.eigh(K)
            if method == "exact":
                bins = np.geomspace(0.8 * values[0], 1.3 * values[-1], 40)
            style = {"color": color, "linestyle": line, "label": method}
            left.hist(values, bins, histtype="step", **style)
            vector = vectors[:, -1] * np.sign(vectors[0, -1])
            right.plot(vector, linewidth=0.7, **style)
        left.set(xscale="log", yscale="log", xlabel="eigenvalue", title=f"{activation}, CK")
        right.set(xlabel="row, ordered by class", title="leading eigenvector")
        left.legend()
    figure.savefig(args.output / "spectra.png", dpi=120)


if __name__ == "__main__":
    main()
