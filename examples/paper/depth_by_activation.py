"""6. How many layers: the map over activations, and what four numbers leave open.

    python examples/paper/depth_by_activation.py --data-dir DIR --output DIR [--parts ab] [--quick]

(a) depth.csv: the least number of layers whose four numbers are those of the DEQ's conjugate
kernel, for families of activations (the slope of leaky ReLU, the temperature of softplus and of
SiLU, the gain and the shift of tanh) and recurrent_var up to the limit of stability, found by the
solver; beside it "excess", how far one layer is from being enough by the criterion of the theory
page. depth_boundary.csv: curved activations for which one layer is enough nevertheless. (b)
beyond_four.csv: odd activations, for which one layer is enough. Relative spectral distance to the
exact kernel on data of several layers: three that have the four numbers (a clipped line; the
Hermite polynomials h1 and h3; the DEQ's own activation, with gain and amplitude chosen) and one
that has not (the DEQ's own activation scaled to the trace), beside the first coefficients of their
power series on the sphere. The script can be stopped: rows that are in depth.csv stay.
"""

import math
import warnings
from functools import cache, partial

import numpy as np
import torch
from _common import (
    arguments,
    load_images,
    mixture,
    new_figure,
    resume,
    spectral_error,
    unit_scale,
    write_table,
)
from scipy.optimize import brentq
from sklearn.exceptions import ConvergenceWarning

from sk_deq.kernels import deq_kernel, explicit_kernel
from sk_deq.theory import deq_coefficients, deq_scale, match_explicit, sphere_series

FAMILIES = {
    "leaky ReLU, slope": [-1, -0.5, 0, 0.5, 1],
    "softplus, temperature": [0.5, 1, 4],
    "SiLU, temperature": [0.5, 1, 4],
    "tanh, gain": [0.5, 1, 2],
    "tanh, shift": [0, 0.3, 0.8],
}
# families between whose ends the excess changes its sign, for one kernel each
BOUNDARIES = {"ELU, alpha": (0.05, 1.0), "leaky ReLU, slope": (-0.9, -0.02)}
ODD = ["tanh", "erf"]
RECURRENT_VAR = 0.2
_F = torch.nn.functional


@cache
def member(family, value):
    """The activation of a family."""
    return {
        "ELU, alpha": lambda t: _F.elu(t, value),
        "leaky ReLU, slope": lambda t: _F.leaky_relu(t, value),
        "softplus, temperature": lambda t: _F.softplus(value * t, threshold=40) / value,
        "SiLU, temperature": lambda t: t * torch.sigmoid(value * t),
        "tanh, gain": lambda t: torch.tanh(value * t),
        "tanh, shift": lambda t: torch.tanh(t + value),
    }[family]


@cache
def limit(activation):
    """The largest recurrent_var, up to 1, with a stable fixed point."""

    def stable(s):
        try:
            deq_scale(activation, recurrent_var=s)
        except ValueError:
            return False
        return True

    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if stable(middle) else (low, middle)
    return low


def depth(family, value, share):
    activation = member(family, value)
    s = share * limit(activation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = match_explicit(activation, recurrent_var=s)
    row = {"recurrent_var": s, "n_layers": found.n_layers, "family_found": found.layers[0].family}
    return row | {"residual": found.residual, "excess": excess("ck", family, value, s)}


def excess(kernel, family, value, s):
    """Of one layer, norm is half of quadratic; 0 where that is so of the DEQ."""
    target = deq_coefficients(member(family, value), recurrent_var=s, kernel=kernel)
    return (target.norm - target.quadratic / 2) / target.diagonal


def boundary(kernel, family, recurrent_var):
    """Where the excess changes its sign between curved activations, one layer is enough."""
    value = brentq(lambda v: excess(kernel, family, v, recurrent_var), *BOUNDARIES[family])
    found = match_explicit(member(family, value), recurrent_var=recurrent_var, kernel=kernel)
    row = {"value": value, "quadratic": found.target.quadratic, "n_layers": found.n_layers}
    return row | {"residual": found.residual}


def draw_depth(rows, path):
    shares = sorted({row["share"] for row in rows})
    families = list(dict.fromkeys(row["family"] for row in rows))
    figure, axes = new_figure(1, len(families), width=4.6, height=1.2, sharey=True)
    colors = {1: "#f0e442", 2: "#56b4e9", 3: "#0b3d63"}
    for axis, family in zip(axes[:, 0], families, strict=True):
        own = [row for row in rows if row["family"] == family]
        values = sorted({row["value"] for row in own})
        for row in own:
            x, y, n = values.index(row["value"]), shares.index(row["share"]), row["n_layers"]
            axis.fill_between([x - 0.5, x + 0.5], y - 0.5, y + 0.5, color=colors[n], lw=0)
            sign = "" if n == 1 else "+" if row["excess"] > 0 else "−"
            axis.text(x, y, f"{n:.0f}{sign}", ha="center", va="center", fontsize=13)
        axis.set_xticks(range(len(values)), [f"{v:g}" for v in values])
        axis.set_yticks(range(len(shares)), [f"{v:g}" for v in shares])
        axis.set_title(family, fontsize=11)
    figure.supylabel("recurrent_var / its limit")
    figure.suptitle(
        "Layers needed: one without mean curvature,\nelse two (and the sign of the excess)"
    )
    figure.savefig(path, dpi=110)


def hermite_squares(fn, n_terms):
    """Squared Hermite coefficients of a function of a standard normal variable."""
    edges = np.linspace(-10, 10, 2001)  # panels that a kink can only spoil one of
    x, w = np.polynomial.legendre.leggauss(8)
    t = (edges[:-1, None] + np.diff(edges)[:, None] * (x + 1) / 2).ravel()
    weight = np.tile(w / 2, 2000) * 0.01 * np.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    values = fn(torch.as_tensor(t)).numpy() * weight
    h = [np.ones_like(t), t]
    for k in range(1, n_terms):
        h.append((t * h[k] - math.sqrt(k) * h[k - 1]) / math.sqrt(k + 1))
    return np.array([(values @ h[k]) ** 2 for k in range(n_terms)])


@cache
def odd_part(name):
    plain = {"hard_tanh": _F.hardtanh, "sigmoid": lambda t: torch.sigmoid(t) - 0.5}
    return plain.get(name) or getattr(torch, name)


def amplified(name, amplitude, gain):
    return partial(_amplified, odd_part(name), amplitude, gain)


def _amplified(fn, amplitude, gain, t):
    return amplitude * fn(gain * t)


def own_layer(name, target):
    """a phi(g t) with the linear and the diagonal number of an odd DEQ; the others are 0."""

    def ratio(log_gain):
        b = hermite_squares(amplified(name, 1.0, math.exp(log_gain)), 2)
        return b[1] / square(name, math.exp(log_gain)) - target.linear / target.diagonal

    gain = math.exp(brentq(ratio, -3, 0.5 if name == "sin" else 4))
    amplitude = math.sqrt(target.diagonal / square(name, gain))
    return amplified(name, amplitude, gain)


def square(name, gain):
    """E phi(gain xi)^2."""
    fn = amplified(name, 1.0, gain)
    return math.sqrt(hermite_squares(lambda t: fn(t) ** 2, 1)[0])


def beyond_four(args):
    n = 100 if args.quick else 200
    sets = {"mixture, p = 1000": mixture(200 if args.quick else 1000, 0)[0][:n]}
    for name in ["mnist", "fashion_mnist"] if args.data_dir else ["digits"]:
        X = load_images(args, name, n, 1)[0]
        sets[f"{name}, raw"] = unit_scale(X)
        sets[f"{name}, centred"] = unit_scale(X - X.mean(axis=0))
    if args.quick:
        sets = {name: sets[name] for name in list(sets)[-1:]}
    rows = []
    for name in ODD[:1] if args.quick else ODD:
        spec = {"activation": name, "recurrent_var": RECURRENT_VAR}
        target = deq_coefficients(**spec)
        plain = amplified(name, math.sqrt(target.diagonal / square(name, 1.0)), 1.0)
        layers = {
            "clipped line": match_explicit(**spec).layers[0],
            "h1 and h3": match_explicit(**spec, family="hermite", n_layers=1).layers[0],
            "own, two parameters": own_layer(name, target),
            "own, scaled": plain,
        }
        series = {layer: hermite_squares(fn, 6) for layer, fn in layers.items()}
        series["DEQ"] = sphere_series(**spec, n_terms=6)
        exact = {data: deq_kernel(X, **spec) for data, X in sets.items()}
        for layer, b in series.items():
            row = {"activation": name, "layer": layer}
            row |= {f"b{k}": float(b[k]) for k in (1, 3, 5)}
            for data, X in sets.items():
                K = exact[data]
                if layer != "DEQ":
                    K = explicit_kernel(X, layers=[layers[layer]])
                row[data] = spectral_error(K, exact[data])
            rows.append(row)
    write_table(args.output / "beyond_four.csv", rows)
    draw_beyond(rows, list(sets), args.output / "beyond_four.png")


def draw_beyond(rows, sets, path):
    names = list(dict.fromkeys(row["activation"] for row in rows))
    layers = [name for name in dict.fromkeys(row["layer"] for row in rows) if name != "DEQ"]
    figure, axes = new_figure(1, width=5.2)
    styles = zip(layers, "s^ox", ("#d55e00", "#cc79a7", "#0072b2", "#000000"), strict=True)
    for layer, marker, color in styles:
        own = [row for row in rows if row["layer"] == layer]
        at = [names.index(row["activation"]) for row in own]
        error = [np.median([row[data] for data in sets]) for row in own]
        style = {"color": color, "marker": marker, "linestyle": "", "markersize": 7}
        axes[0, 0].plot(at, error, **style, label=layer)
    axes[0, 0].set(yscale="log", ylabel="median distance over the data")
    axes[0, 0].set_xticks(range(len(names)), names)
    axes[0, 0].margins(x=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    figure.suptitle("One layer with the DEQ's own activation comes closest")
    figure.savefig(path, dpi=110)


def main():
    args = arguments(__doc__, data=True, parts="ab")
    if "a" in args.parts:
        shares = [0.2] if args.quick else [0.2, 0.8]
        some = {"leaky ReLU, slope": [-1, 0, 1]} if args.quick else FAMILIES
        points = [
            {"family": family, "value": value, "share": share}
            for family, values in some.items()
            for value in values
            for share in shares
        ]
        rows = resume(args.output / "depth.csv", points, depth)
        draw_depth(rows, args.output / "depth.png")
        points = [
            {"kernel": kernel, "family": family, "recurrent_var": s}
            for kernel, family in zip(("ck", "ntk"), BOUNDARIES, strict=True)
            for s in ((0.5,) if args.quick else (0.2, 0.5, 0.8))
        ]
        resume(args.output / "depth_boundary.csv", points, boundary)
    if "b" in args.parts:
        beyond_four(args)


if __name__ == "__main__":
    main()
