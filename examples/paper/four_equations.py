"""2. The four equations: who can be matched by what, for every activation and kernel.

    python examples/paper/four_equations.py --output DIR [--quick]

Writes four_equations.csv (the numbers of the DEQ and of the network found, its family and depth,
the residual), four_equations_leaky_relu.csv (the residual that two layers of max(a t, b t) reach,
over recurrent_var) and a figure of the latter.
"""

import warnings
from itertools import product

from _common import arguments, new_figure, write_table
from sklearn.exceptions import ConvergenceWarning

from sk_deq.theory import match_explicit

ACTIVATIONS = ["relu", "leaky_relu", "abs", "tanh", "erf", "sin", "sigmoid", "hard_tanh", "elu"]
ACTIVATIONS += ["gelu", "silu", "softplus"]


def match(*args, **kwargs):
    """The best match, solved or not: what is left is in its residual, which the tables show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return match_explicit(*args, **kwargs)


def main():
    args = arguments(__doc__)
    activations = ["relu", "tanh", "gelu"] if args.quick else ACTIVATIONS
    recurrent_vars = [0.2] if args.quick else [0.1, 0.2, 0.5, 0.8]
    rows = []
    for kernel, activation, s in product(("ck", "ntk"), activations, recurrent_vars):
        found = match(activation, recurrent_var=s, kernel=kernel)
        row = {"kernel": kernel, "activation": activation, "recurrent_var": s}
        for name in found.target._fields:
            row[f"deq_{name}"] = getattr(found.target, name)
            row[f"net_{name}"] = getattr(found.achieved, name)
        family, depth = found.layers[0].family, found.n_layers
        row |= {"family": family, "n_layers": depth, "residual": found.residual}
        # E phi'' = 0 is seen in the number that it alone makes
        row["zero_curvature"] = int(found.target.quadratic < 1e-12 * found.target.linear)
        rows.append(row)
    write_table(args.output / "four_equations.csv", rows)

    grid = [0.1, 0.5] if args.quick else [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    rows = []
    for kernel, activation, s in product(("ck", "ntk"), activations, grid):
        found = match(activation, recurrent_var=s, kernel=kernel, family="leaky_relu", n_layers=2)
        row = {"kernel": kernel, "activation": activation, "recurrent_var": s}
        rows.append({**row, "residual": found.residual})
    write_table(args.output / "four_equations_leaky_relu.csv", rows)
    figure, axes = new_figure(2, sharey=True)
    for axis, kernel in zip(axes[0], ("ck", "ntk"), strict=True):
        for number, activation in enumerate(activations):
            residual = [
                max(row["residual"], 1e-16)
                for row in rows
                if row["kernel"] == kernel and row["activation"] == activation
            ]
            line = "-" if number < 7 else "--"
            axis.plot(grid, residual, line, marker=".", label=activation)
        title = f"two layers of max(at, bt), {kernel.upper()}"
        axis.set(yscale="log", xlabel="recurrent_var", title=title)
    axes[0, 0].set_ylabel("largest relative residual")
    axes[0, 1].legend(fontsize="small", ncols=2)
    figure.savefig(args.output / "four_equations_leaky_relu.png", dpi=120)


if __name__ == "__main__":
    main()
