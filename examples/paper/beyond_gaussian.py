"""5a, b. What the theory does not assume, or should: any data on the sphere, and low dimension.

    python examples/paper/beyond_gaussian.py --output DIR [--quick]

(a) On the unit sphere the kernel of a DEQ is a power series in the cosine, which is the kernel of a
network with one hidden layer. sphere.csv has the largest error of the series, relative to the
largest entry of the kernel, for heavy-tailed, discrete and strongly correlated rows; beside it the
relative spectral error of the four-number kernel. (b) four_numbers.csv has that error off the
sphere by kind of data and dimension, for n = 400 rows; in one plot, where the theory of the four
numbers breaks.
"""

from itertools import product

import numpy as np
from _common import arguments, new_figure, spectral_error, unit_scale, write_table

from sk_deq.datasets import make_gaussian_mixture
from sk_deq.kernels import deq_kernel
from sk_deq.theory import sphere_series

RECURRENT_VAR = 0.5


def ar1(rng, n, p, correlation=0.95):
    """Gaussian rows whose neighbouring coordinates are correlated."""
    Z = rng.standard_normal((n, p))
    for j in range(1, p):
        Z[:, j] = correlation * Z[:, j - 1] + np.sqrt(1 - correlation**2) * Z[:, j]
    return Z


DATA = {
    "Gaussian": lambda rng, n, p: rng.standard_normal((n, p)),
    "mixture": lambda rng, n, p: make_gaussian_mixture(n, p, random_state=int(rng.integers(2**31)))[
        0
    ],
    "Student, 3 degrees": lambda rng, n, p: rng.standard_t(3, (n, p)),
    "Student, 1.5 degrees": lambda rng, n, p: rng.standard_t(1.5, (n, p)),
    "discrete, -1 or 1": lambda rng, n, p: rng.choice([-1.0, 1.0], (n, p)),
    "sparse counts": lambda rng, n, p: rng.poisson(0.1, (n, p)) + 0.01 * rng.random((n, p)),
    "correlated, AR(0.95)": ar1,
    "norms vary": lambda rng, n, p: rng.standard_normal((n, p)) * rng.uniform(0.2, 1.8, (n, 1)),
}


def main():
    args = arguments(__doc__)
    n = 100 if args.quick else 400
    seeds = range(2 if args.quick else 5)
    activations = ["relu", "tanh"] if args.quick else ["tanh", "gelu", "silu", "sin", "elu", "relu"]
    kernels = ["ck", "ntk"]
    rows = []
    for activation, kernel in product(activations, kernels):
        spec = {"activation": activation, "recurrent_var": RECURRENT_VAR, "kernel": kernel}
        series = sphere_series(**spec, n_terms=64)
        for p, name in product([5, 50] if args.quick else [5, 10, 20, 50], DATA):
            X = DATA[name](np.random.default_rng(0), n, p)
            X = X / np.linalg.norm(X, axis=1, keepdims=True)
            exact = deq_kernel(X, **spec, tau0=1.0)
            cosines = np.clip(X @ X.T, -1, 1)
            network = np.polynomial.polynomial.polyval(cosines, series)
            high_dim = deq_kernel(X, **spec, tau0=1.0, method="high_dim")
            rows.append(
                {
                    "activation": activation,
                    "kernel": kernel,
                    "data": name,
                    "p": p,
                    "one_layer": float(np.abs(network - exact).max() / exact.max()),
                    "four_numbers": spectral_error(high_dim, exact),
                }
            )
    write_table(args.output / "sphere.csv", rows)

    dimensions = [10, 100] if args.quick else [5, 10, 20, 50, 100, 200, 500, 1000, 2000]
    rows = []
    for activation, name, p in product(("relu", "tanh"), DATA, dimensions):
        errors = []
        for seed in seeds:
            X = unit_scale(DATA[name](np.random.default_rng(seed), n, p))
            spec = {"activation": activation, "recurrent_var": 0.2, "tau0": 1.0}
            exact = deq_kernel(X, **spec)
            errors.append(spectral_error(deq_kernel(X, **spec, method="high_dim"), exact))
        row = {"activation": activation, "data": name, "p": p, "error": float(np.mean(errors))}
        rows.append({**row, "std": float(np.std(errors, ddof=1))})
    write_table(args.output / "four_numbers.csv", rows)
    figure, axes = new_figure(2, sharey=True)
    for axis, activation in zip(axes[0], ("relu", "tanh"), strict=True):
        for name in DATA:
            key = {"activation": activation, "data": name}
            own = [row for row in rows if key.items() <= row.items()]
            error, std = ([row[k] for row in own] for k in ("error", "std"))
            axis.errorbar(dimensions, error, std, marker=".", capsize=2, label=name)
        axis.axhline(0.1, color="0.7", zorder=0)
        axis.set(xscale="log", yscale="log", xlabel="dimension p", title=activation)
    axes[0, 0].set_ylabel("relative spectral error of the four-number kernel")
    axes[0, 1].legend(fontsize="small")
    figure.savefig(args.output / "four_numbers.png", dpi=120)


if __name__ == "__main__":
    main()
