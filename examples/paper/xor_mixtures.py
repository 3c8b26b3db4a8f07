"""9. Where linear equivalents fail: XOR mixtures, whose labels no linear kernel can see.

    python examples/paper/xor_mixtures.py --output DIR [--quick]

Four Gaussian clusters at (+1, +1), (-1, -1), label 1, and (+1, -1), (-1, +1), label -1, times
strength / sqrt(2) in the plane of two of p = 200 coordinates, noise of variance 1 / p, 400 rows.
xor_mixtures.csv, three seeds: for the exact conjugate kernel (recurrent_var = 0.2), the four
numbers, the matched network, four numbers without the quadratic one, and as many layers of the
DEQ's own activation: how much of the label vector lies in the ten leading eigenvectors
("alignment", a squared cosine; 10 / 400 is chance), the place of the one that holds most, and the
test accuracy of kernel ridge regression on 200 other rows. ReLU and GELU have a quadratic number,
tanh has none.
"""

from functools import cache
from itertools import product

import numpy as np
from _common import arguments, new_figure, unit_scale, write_table
from scipy.sparse.linalg import eigsh

from sk_deq.kernels import deq_kernel, explicit_kernel
from sk_deq.theory import deq_coefficients, match_explicit

RECURRENT_VAR = 0.2
ACTIVATIONS = ["relu", "gelu", "tanh"]


def xor_mixture(rng, n, p, strength):
    """Rows at root-mean-square norm 1, and labels -1 and 1."""
    signs = rng.choice([-1.0, 1.0], (n, 2))
    X = rng.standard_normal((n, p)) / np.sqrt(p)
    X[:, :2] += strength / np.sqrt(2) * signs
    return unit_scale(X), signs.prod(axis=1)


@cache
def matched(activation):
    return match_explicit(activation, recurrent_var=RECURRENT_VAR)


def kernels(X, activation):
    """{name: kernel matrix}."""
    spec = {"activation": activation, "recurrent_var": RECURRENT_VAR}
    exact = deq_kernel(X, **spec)
    four = deq_kernel(X, **spec, method="high_dim")
    quadratic = deq_coefficients(**spec).quadratic * (X @ X.T) ** 2
    np.fill_diagonal(quadratic, 0.0)
    match = matched(activation)
    plain = explicit_kernel(X, layers=[activation] * match.n_layers)
    return {
        "exact": exact,
        "four numbers": four,
        "matched": explicit_kernel(X, layers=match.layers),
        "no quadratic": four - quadratic,
        "unmatched": plain * np.trace(exact) / np.trace(plain),
    }


def measure(K, y, n):
    """Share of the labels in ten eigenvectors, place of the best of these, accuracy of ridge."""
    start = np.random.default_rng(0).standard_normal(n)
    values, vectors = eigsh(K[:n, :n], k=10, v0=start, tol=1e-6)
    cosines = (vectors[:, np.argsort(-values)].T @ y[:n]) ** 2 / n
    coefficients = np.linalg.solve(K[:n, :n] + 0.01 * np.trace(K[:n, :n]) / n * np.eye(n), y[:n])
    accuracy = np.mean(np.sign(K[n:, :n] @ coefficients) == y[n:])
    return float(cosines.sum()), int(cosines.argmax()) + 1, float(accuracy)


def main():
    args = arguments(__doc__)
    n, n_test, p = (200, 200, 100) if args.quick else (400, 200, 200)
    activations = ["relu", "tanh"] if args.quick else ACTIVATIONS
    strengths = [1.5] if args.quick else [0.0, 0.5, 1.0, 1.5]
    rows = []
    for name, strength in product(activations, strengths):
        found = {}
        for seed in range(2 if args.quick else 3):
            X, y = xor_mixture(np.random.default_rng(seed), n + n_test, p, strength)
            for kernel, K in kernels(X, name).items():
                found.setdefault(kernel, []).append(measure(K, y, n))
        for kernel, measured in found.items():
            alignment, place, accuracy = np.transpose(measured)
            row = {"activation": name, "strength": strength, "kernel": kernel}
            row |= {"alignment": float(alignment.mean()), "std": float(alignment.std(ddof=1))}
            row |= {"place": float(np.median(place)), "accuracy": float(accuracy.mean())}
            rows.append(row)
    write_table(args.output / "xor_mixtures.csv", rows)
    draw(rows, activations, strengths, args.output / "xor_mixtures.png")


def draw(rows, activations, strengths, path):
    figure, axes = new_figure(len(activations), width=2, height=3.3, sharey=True)
    kinds = list(dict.fromkeys(row["kernel"] for row in rows))
    colors = ["#000000", "#0072b2", "#e69f00", "#d55e00", "#009e73"]
    lines = ["-", "--", ":", "-.", (0, (1, 1))]
    for axis, name in zip(axes[0], activations, strict=True):
        for kernel, color, line, marker in zip(kinds, colors, lines, "osv^D", strict=True):
            own = [row for row in rows if (row["activation"], row["kernel"]) == (name, kernel)]
            style = {"color": color, "linestyle": line, "marker": marker, "label": kernel}
            axis.plot(strengths, [row["alignment"] for row in own], **style)
        axis.set(title=name, xlabel="strength", ylim=(-0.05, 1.05))
    axes[0, 0].set_ylabel("labels in ten eigenvectors")
    axes[0, -1].legend(fontsize="x-small")
    figure.suptitle("The quadratic number carries the labels of an XOR mixture")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
