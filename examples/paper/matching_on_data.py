"""3. Kernels of matched and unmatched networks against the DEQ's, on simulated and real data.

    python examples/paper/matching_on_data.py --data-dir DIR --output DIR [--quick]

Relative spectral distance to the exact conjugate kernel of the DEQ (recurrent_var = 0.2), of: the
DEQ of finite width; the network with the same four numbers; a network of the same depth whose
activation is the DEQ's own, scaled to the same trace; and the exact one-layer match. "centred" data
have the mean row subtracted, "raw" are pixels as they are, "convolution" are CIFAR images through
64 fixed random 5 x 5 filters, rectified and averaged over an 8 x 8 grid. All are scaled to tau0 =
1. Writes matching_infinite.csv, matching_finite.csv and a figure.
"""

from itertools import product

import numpy as np
import torch
from _common import (
    arguments,
    load_images,
    mixture,
    new_figure,
    spectral_error,
    unit_scale,
    write_table,
)

from sk_deq import KernelMatcher
from sk_deq.kernels import deq_kernel, explicit_kernel
from sk_deq.modules import DEQ, ExplicitNetwork
from sk_deq.theory import match_explicit

RECURRENT_VAR = 0.2


def random_convolution(X):
    """64 random filters of 5 x 5 x 3, rectified, averaged over blocks of 4 x 4 pixels."""
    images = torch.as_tensor(X).reshape(-1, 3, 32, 32)
    generator = torch.Generator().manual_seed(0)
    filters = torch.randn(64, 3, 5, 5, generator=generator, dtype=images.dtype)
    maps = torch.nn.functional.conv2d(images - images.mean(), filters, padding=2).relu()
    return torch.nn.functional.avg_pool2d(maps, 4).flatten(1).numpy()


def data_sets(args, n):
    """{name: rows at tau0 = 1}."""
    sets = {"mixture, p = 1000": mixture(1000 if not args.quick else 200, 0)[0][:n]}
    names = ["mnist", "fashion_mnist", "cifar10"] if args.data_dir else ["digits"]
    for name in names:
        X = load_images(args, name, n, 1)[0]
        sets[f"{name}, raw"] = unit_scale(X)
        sets[f"{name}, centred"] = unit_scale(X - X.mean(axis=0))
        if name == "cifar10":
            X = random_convolution(X)
            sets[f"{name}, convolution"] = unit_scale(X - X.mean(axis=0))
    return sets


def features(module, X):
    with torch.no_grad():
        return module(torch.as_tensor(X, dtype=torch.float32)).double().numpy()


def main():
    args = arguments(__doc__, data=True)
    n = 100 if args.quick else 500
    widths = [32, 128] if args.quick else [32, 128, 512, 2048]
    seeds = range(1 if args.quick else 3)
    infinite, finite = [], []
    for (name, X), activation in product(data_sets(args, n).items(), ("relu", "tanh")):
        spec = {"activation": activation, "recurrent_var": RECURRENT_VAR}
        exact = deq_kernel(X, **spec)
        match = match_explicit(**spec)
        plain = explicit_kernel(X, layers=[activation] * match.n_layers)
        gain = np.sqrt(np.trace(exact) / np.trace(plain))
        row = {"data": name, "activation": activation, "n_layers": match.n_layers}
        infinite.append(
            row
            | {
                "four_numbers": spectral_error(deq_kernel(X, **spec, method="high_dim"), exact),
                "matched": spectral_error(explicit_kernel(X, layers=match.layers), exact),
                "unmatched": spectral_error(gain**2 * plain, exact),
                "exact_match": KernelMatcher(1, input_scaling=None, **spec).fit(X).residual_,
            }
        )
        for width, seed in product(widths, seeds):
            generator = torch.Generator().manual_seed(seed)
            p = X.shape[1]
            deq = DEQ(p, width, **spec, generator=generator)
            matched = ExplicitNetwork(p, width, match.layers, generator=generator)
            unmatched = ExplicitNetwork(
                p, width, [activation] * match.n_layers, generator=generator
            )
            one_layer = KernelMatcher(width, input_scaling=None, random_state=seed, **spec).fit(X)
            for model, Z in {
                "DEQ": features(deq, X),
                "matched": features(matched, X),
                "unmatched": gain * features(unmatched, X),
                "exact match, orthogonal": one_layer.transform(X),
            }.items():
                error = spectral_error(Z @ Z.T, exact)
                row = {"data": name, "activation": activation, "width": width, "seed": seed}
                finite.append(row | {"model": model, "error": error})
    write_table(args.output / "matching_infinite.csv", infinite)
    keys = list(dict.fromkeys(tuple(row[k] for k in ("data", "activation", "width", "model"))
                              for row in finite))  # fmt: skip
    table = []
    for key in keys:
        own = dict(zip(("data", "activation", "width", "model"), key, strict=True))
        errors = [row["error"] for row in finite if own.items() <= row.items()]
        table.append({**own, "error": float(np.mean(errors)), "std": float(np.std(errors))})
    write_table(args.output / "matching_finite.csv", table)

    names = list(dict.fromkeys(row["data"] for row in table))
    figure, axes = new_figure(len(names), 2, width=3.2, height=3, sharex=True, sharey=True)
    for (i, activation), (j, name) in product(enumerate(("relu", "tanh")), enumerate(names)):
        axis = axes[i, j]
        for model in dict.fromkeys(row["model"] for row in table):
            key = {"data": name, "activation": activation, "model": model}
            error = [row["error"] for row in table if key.items() <= row.items()]
            axis.plot(widths, error, marker=".", label=model)
        axis.set(xscale="log", yscale="log", title=f"{name}, {activation}")
    axes[0, 0].legend(fontsize="small")
    figure.supxlabel("width")
    figure.supylabel("relative spectral error")
    figure.savefig(args.output / "matching_finite.png", dpi=90)


if __name__ == "__main__":
    main()
