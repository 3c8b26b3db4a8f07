"""8. Trained and wide: how fast a trained DEQ returns to its kernel as its width grows.

    python examples/paper/trained_wide.py --data-dir DIR --output DIR [--quick]

A DEQ of width m (recurrent_var = 0.2), f(x) = v . z(x), learns whether a digit is below five: 40
rows of centred MNIST, 40 steps of gradient descent on half the mean square, recurrent weights and
readout trained in the parametrisation of the theory (entries of variance 1, one rate for all).
trained_wide.csv, three seeds: "function", the distance of what it has learnt on 200 other rows to
what the exact NTK learns in as many steps, relative; "features", how far the kernel of the features
has moved, relative to that at the start; "start", the distance of the kernel at the start to the
exact one. trained_wide_exponent.csv: the exponents fitted.
"""

import math
from functools import cache
from itertools import product

import numpy as np
import torch
from _common import arguments, load_images, new_figure, resume, unit_scale, write_table

from sk_deq.kernels import deq_kernel
from sk_deq.modules import DEQ

RECURRENT_VAR = 0.2
DISTANCES = ("function", "features", "start")


def data(args, n, n_test):
    X, y, X_test, _ = load_images(args, "mnist", n, n_test)
    X = unit_scale(np.concatenate([X, X_test]) - X.mean(axis=0))
    return X[:n], np.where(y < 5, 1.0, -1.0), X[n:]


@cache
def limit(activation, n_steps, read):
    """The rate, and what the exact NTK has learnt on the test rows after n_steps."""
    X, y, X_test = read()
    spec = {"activation": activation, "recurrent_var": RECURRENT_VAR, "kernel": "ntk"}
    K = deq_kernel(X, **spec) / len(X)
    values, vectors = np.linalg.eigh(K)
    rate = 1 / values[-1]
    learnt = vectors * ((1 - (1 - rate * values) ** n_steps) / values) @ vectors.T @ y
    return rate, deq_kernel(X_test, X, **spec) @ learnt / len(X)


def measure(read, n_steps, activation, width, seed):
    X, y, X_test = read()
    rate, wanted = limit(activation, n_steps, read)
    generator = torch.Generator().manual_seed(seed)
    spec = {"activation": activation, "recurrent_var": RECURRENT_VAR}
    deq = DEQ(X.shape[1], width, **spec, tol=1e-6, generator=generator).eval()
    v = torch.randn(width, generator=generator).requires_grad_()
    rows, other = (torch.as_tensor(Z, dtype=torch.float32) for Z in (X, X_test))
    target = torch.as_tensor(y, dtype=torch.float32)
    with torch.no_grad():
        first, first_other = deq(rows), deq(other)
        f0, f0_other = first @ v, first_other @ v
    trained = [deq.recurrent_weight, v]
    # a weight of variance recurrent_var / m is so many times an entry of variance 1
    rates = [rate * RECURRENT_VAR / width, rate]
    for _ in range(n_steps):
        loss = (deq(rows) @ v - f0 - target).square().mean() / 2
        with torch.no_grad():
            gradients = torch.autograd.grad(loss, trained)
            for weight, gradient, step in zip(trained, gradients, rates, strict=True):
                weight -= step * gradient
    with torch.no_grad():
        last = deq(rows)
        f = (deq(other) @ v - f0_other).numpy()
        start, end = (z @ z.T for z in (first.double(), last.double()))
    exact = torch.as_tensor(deq_kernel(X, **spec))
    row = {"loss": float(loss.detach()), "function": float(np.linalg.norm(f - wanted))}
    row["function"] /= float(np.linalg.norm(wanted))
    row["features"] = float((end - start).norm() / start.norm())
    return row | {"start": float((start - exact).norm() / exact.norm())}


def main():
    args = arguments(__doc__, data=True)
    widths = [32, 64, 256] if args.quick else [128, 256, 512, 1024, 2048, 4096]
    activations = ["relu", "tanh"]
    points = [
        {"activation": activation, "width": width, "seed": seed}
        for width, activation, seed in product(widths, activations, range(3))
    ]
    sets = data(args, 40, 200)

    def read():
        return sets

    path = args.output / "trained_wide.csv"
    rows = resume(path, points, lambda **point: measure(read, 40, **point))
    fitted = []
    figure, axes = new_figure(2, width=2.7, height=3.4, sharey=True)
    styles = dict(
        zip(DISTANCES, (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^")), strict=True)
    )
    for axis, activation in zip(axes[0], activations, strict=True):
        own = [row for row in rows if row["activation"] == activation]
        for name in DISTANCES:
            x, y = np.log([[row["width"], row[name]] for row in own]).T
            (slope, start), covariance = np.polyfit(x, y, 1, cov=True)
            row = {"activation": activation, "distance": name, "exponent": float(slope)}
            fitted.append(row | {"standard_error": float(math.sqrt(covariance[0, 0]))})
            color, marker = styles[name]
            axis.scatter(np.exp(x), np.exp(y), color=color, marker=marker, s=25)
            line = np.array([x.min(), x.max()])
            label = f"{name}: {slope:.2f}"
            axis.plot(np.exp(line), np.exp(start + slope * line), color=color, label=label)
        axis.set(xscale="log", yscale="log", xlabel="width", title=activation, ylim=(2e-5, 1.5))
        axis.set_xticks(widths[::2], [str(m) for m in widths[::2]], minor=False)
        axis.set_xticks([], minor=True)
        axis.legend(title="exponent", loc="lower left", fontsize="small")
    axes[0, 0].set_ylabel("relative distance")
    figure.suptitle("A wide trained DEQ is near its kernel:\ndistance like a power of the width")
    figure.savefig(args.output / "trained_wide.png", dpi=110)
    write_table(args.output / "trained_wide_exponent.csv", fitted)


if __name__ == "__main__":
    main()
