"""7. Other distributions: covariance structures, classes, heavy tails, images; and one law.

    python examples/paper/covariance_structures.py --data-dir DIR --output DIR [--quick]

covariance_structures.csv: the relative spectral error of the four-number conjugate kernel
(recurrent_var = 0.2, 400 rows, two seeds) by kind of data and dimension, beside two effective
dimensions: d_cov = (tr C)^2 / tr C^2 of the covariance C of the rows, and d_norm = 2 / Var(|x|^2 /
E|x|^2), which for Gaussian rows without a mean is the same number; and the error of the exact
one-layer match.
covariance_law.csv: the line log(error) = a + b log(d) fitted to each, over all data of one
activation, with the scatter around it.
"""

from functools import cache
from itertools import product
from types import SimpleNamespace

import numpy as np
from _common import (
    arguments,
    load_images,
    new_figure,
    resume,
    spectral_error,
    unit_scale,
    write_table,
)
from scipy.linalg import toeplitz

from sk_deq import KernelMatcher
from sk_deq.kernels import deq_kernel

RECURRENT_VAR = 0.2


def gaussian(rng, n, C):
    return rng.standard_normal((n, len(C))) @ np.linalg.cholesky(C).T


def spiked(rng, n, p):
    """Identity with five directions of variance up to p / 10."""
    X = rng.standard_normal((n, p))
    X[:, :5] *= np.sqrt(1 + p / 10 * np.arange(1, 6) / 5)
    return X


def low_rank(rng, n, p):
    """Ten factors and as much variance again as noise."""
    factors = rng.standard_normal((n, 10)) @ rng.standard_normal((10, p)) / np.sqrt(10)
    return factors + rng.standard_normal((n, p))


def power_law(rng, n, p):
    """Variances 1 / k."""
    return rng.standard_normal((n, p)) / np.sqrt(np.arange(1, p + 1))


def classes(rng, n, p, n_classes=10):
    """Ten classes, the k-th of weight 1 / k, with means and covariances of their own."""
    weight = 1 / np.arange(1, n_classes + 1)
    y = rng.choice(n_classes, n, p=weight / weight.sum())
    means = 2 * rng.standard_normal((n_classes, p)) / np.sqrt(p) * np.sqrt(n_classes)
    scale = rng.uniform(0.9, 1.1, (n_classes, p))
    return means[y] + scale[y] * rng.standard_normal((n, p))


def student(degrees):
    """Independent coordinates with heavy tails."""
    return lambda rng, n, p: rng.standard_t(degrees, (n, p))


def elliptic(rng, n, p):
    """Gaussian rows times a random length: multivariate Student with 8 degrees of freedom."""
    return rng.standard_normal((n, p)) / np.sqrt(rng.chisquare(8, (n, 1)) / 8)


SIMULATED = {
    "identity": lambda rng, n, p: rng.standard_normal((n, p)),
    "Toeplitz 0.5": lambda rng, n, p: gaussian(rng, n, toeplitz(0.5 ** np.arange(p))),
    "Toeplitz 0.9": lambda rng, n, p: gaussian(rng, n, toeplitz(0.9 ** np.arange(p))),
    "spiked": spiked,
    "low rank + noise": low_rank,
    "power law": power_law,
    "ten classes": classes,
    "Student, 5 degrees": student(5),
    "Student, 2.5 degrees": student(2.5),
    "elliptic, 8 degrees": elliptic,
}
# the theory's assumption holds: Gaussian, whatever the covariance
GAUSSIAN = list(SIMULATED)[:6]
IMAGES = ["mnist", "fashion_mnist", "cifar10"]


def images(args, name, treatment, n, p, seed):
    """Principal components of images, raw, centred or whitened; the basis is of other rows."""
    X, mean, sizes, basis = principal(args.data_dir, name, treatment != "raw", n, seed)
    X = (X - mean) @ basis[:p].T
    return X / sizes[:p] if treatment == "whitened" else X


@cache
def principal(data_dir, name, center, n, seed):
    other, _, X, _ = load_images(SimpleNamespace(data_dir=data_dir), name, 1000, n, seed)
    mean = other.mean(axis=0) if center else 0.0
    _, sizes, basis = np.linalg.svd(other - mean, full_matrices=False)
    return X, mean, sizes, basis


def effective_dimensions(X):
    """(tr C)^2 / tr C^2 without the bias of few rows, and 2 / Var(|x|^2 / E|x|^2)."""
    n = len(X)
    squares = (X**2).sum(axis=1)
    G = (X @ X.T) ** 2
    alike = (G.sum() - np.trace(G)) / (n * (n - 1))  # E (x.x')^2 = tr M^2, of the second moments M
    return squares.mean() ** 2 / alike, 2 / (squares / squares.mean()).var(ddof=1)


def measure(args, n, activation, data, p, seed):
    rng = np.random.default_rng(seed)
    name, _, treatment = data.partition(", ")
    simulated = SIMULATED.get(data)
    X = simulated(rng, n, p) if simulated else images(args, name, treatment, n, p, seed)
    X = unit_scale(X)
    d_cov, d_norm = effective_dimensions(X)
    spec = {"activation": activation, "recurrent_var": RECURRENT_VAR}
    exact = deq_kernel(X, **spec)
    row = {"d_cov": float(d_cov), "d_norm": float(d_norm)}
    row["four_numbers"] = spectral_error(deq_kernel(X, **spec, method="high_dim"), exact)
    match = KernelMatcher(1, input_scaling=None, random_state=0, **spec).fit(X)
    return row | {"one_layer": float(match.residual_)}


def fit_law(rows, dimension):
    """Slope, its standard error, and the scatter (a factor) around the line."""
    x, y = (np.log([row[k] for row in rows]) for k in (dimension, "four_numbers"))
    (slope, start), covariance = np.polyfit(x, y, 1, cov=True)
    scatter = np.exp(np.std(y - start - slope * x))
    return float(slope), float(np.sqrt(covariance[0, 0])), float(scatter), float(np.exp(start))


def main():
    args = arguments(__doc__, data=True)
    n, dimensions = (100, [50]) if args.quick else (400, [30, 100, 300, 1000])
    names = IMAGES if args.data_dir else ["digits"]
    pictures = [f"{name}, {how}" for name in names for how in ("raw", "centred", "whitened")]
    kinds = [*SIMULATED, *pictures]
    if args.quick:
        kinds = ["identity", "Toeplitz 0.9", "elliptic, 8 degrees", "digits, whitened"]
    points = [
        {"activation": activation, "data": data, "p": p, "seed": seed}
        for activation in ("relu", "tanh")
        for data, p, seed in product(kinds, dimensions, range(2))
        if data in SIMULATED or p <= (60 if not args.data_dir else 400)
    ]
    rows = resume(
        args.output / "covariance_structures.csv", points, lambda **point: measure(args, n, **point)
    )
    laws = []
    for activation in ("relu", "tanh"):
        own = [row for row in rows if row["activation"] == activation]
        groups = {"Gaussian": [row for row in own if row["data"] in GAUSSIAN], "all": own}
        for (kind, some), dimension in product(groups.items(), ("d_cov", "d_norm")):
            slope, error, scatter, at_one = fit_law(some, dimension)
            law = {"activation": activation, "data": kind, "against": dimension}
            law |= {"slope": slope, "standard_error": error, "scatter_factor": scatter}
            laws.append(law | {"error_at_one": at_one})
    write_table(args.output / "covariance_law.csv", laws)
    draw(rows, args.output / "covariance_structures.png")


def group(data):
    if data in GAUSSIAN:
        return "Gaussian"
    if data in SIMULATED:
        return "ten classes" if data == "ten classes" else "heavy tails"
    return "images, whitened" if data.endswith("whitened") else "images"


STYLES = {
    "Gaussian": ("#000000", "o"),
    "ten classes": ("#009e73", "D"),
    "heavy tails": ("#d55e00", "^"),
    "images": ("#0072b2", "s"),
    "images, whitened": ("#e69f00", "v"),
}


def draw(rows, path):
    figure, axes = new_figure(2, 2, width=2.7, height=2.6, sharex="col", sharey=True)
    for (i, activation), (j, dimension) in product(
        enumerate(("relu", "tanh")), enumerate(("d_cov", "d_norm"))
    ):
        axis = axes[i, j]
        for name, (color, marker) in STYLES.items():
            own = [row for row in rows if row["activation"] == activation]
            own = [row for row in own if group(row["data"]) == name]
            d, error = ([row[k] for row in own] for k in (dimension, "four_numbers"))
            axis.scatter(d, error, s=22, color=color, marker=marker, label=name, linewidths=0)
        title = {"d_cov": "dimension of C", "d_norm": "dimension of norms"}[dimension]
        axis.set(xscale="log", yscale="log", title=f"{activation}, {title}")
    axes[1, 0].set_xlabel(r"$(tr\,C)^2 / tr\,C^2$")
    axes[1, 1].set_xlabel(r"$2 / Var(|x|^2 / E|x|^2)$")
    figure.supylabel("error of the four numbers")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.suptitle("Norms that vary make the error:\nfor tanh, all data fall on one line")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
