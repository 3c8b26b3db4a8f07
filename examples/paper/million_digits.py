"""14. A million digits: deformed MNIST, streamed through a kernel machine chunk by chunk.

    python examples/paper/million_digits.py --data-dir DIR --output DIR [--quick]

The 60,000 digits of MNIST come first, in random order; then deformed ones, drawn anew from them:
turned, scaled, sheared, shifted and bent (`deformed`). `DEQKernelRidgeClassifier` with
solver="nystroem" takes the stream by `partial_fit`, and is asked about all test digits on the way.
million_digits.csv: test accuracy of each model after so many rows; seconds of the processor so far,
of encoding and of fitting; gigabytes that the process had at most so far. Models: pixels, smoothed
a little, for 100,000 rows, and pooled features of patches (image_kernel.py), 16 of a patch.
Landmarks are deformed digits. The script can be stopped and run again: it goes on from the last row
of the table.
"""

import math

import joblib
import numpy as np
import torch
from _common import (
    arguments,
    load_images,
    new_figure,
    peak_memory,
    timed,
    write_table,
)  # fmt: skip
from _patches import PatchFeatures
from scipy.ndimage import gaussian_filter

from sk_deq import DEQKernelRidgeClassifier

CHUNK = 20_000
MOST = {"pixels": 100_000, "patches": 1_000_000}  # rows
ALPHAS = [1e-4, 1e-3, 1e-2, 1e-1]  # in units of the kernel's diagonal
COLORS = ["#0072b2", "#e69f00", "#009e73"]
BLUR = 0.7  # pixels
KERNEL = {"activation": "sin", "recurrent_var": 0.5, "input_var": 3.0, "kernel": "ck"}


def deformed(X, seed, turn=4.0, scale=0.04, shear=0.04, shift=0.016, bend=0.013):
    """Square images (n, n_pixels), each turned by up to so many degrees, and so on; float32.

    `shift` and `bend` are shares of a side; the latter is the deviation of a smooth field.
    """
    generator = torch.Generator().manual_seed(seed)
    n, side = len(X), round(X.shape[1] ** 0.5)

    def between(limit, *shape):
        return limit * (2 * torch.rand(n, *shape, generator=generator) - 1)

    angle, size = math.radians(1) * between(turn), torch.exp(between(scale))
    slant, c, s = between(shear), torch.cos(angle), torch.sin(angle)
    matrix = torch.stack([c, slant * c - s, s, slant * s + c], 1).reshape(n, 2, 2)
    matrix = torch.cat([matrix * size[:, None, None], between(2 * shift, 2, 1)], 2)
    grid = torch.nn.functional.affine_grid(matrix, (n, 1, side, side), align_corners=False)
    field = torch.randn(n, 2, 5, 5, generator=generator) * (2 * bend)
    field = torch.nn.functional.interpolate(field, (side, side), mode="bicubic")
    images = torch.as_tensor(X, dtype=torch.float32).reshape(n, 1, side, side)
    grid = grid + field.permute(0, 2, 3, 1)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False).reshape(n, -1).numpy()


def smoothed(X):
    side = round(X.shape[1] ** 0.5)
    return gaussian_filter(X.reshape(-1, side, side), (0, BLUR, BLUR)).reshape(len(X), -1)


def chunk(X, y, start, size):
    """Rows `start` to `start + size` of the stream: the digits, then deformed ones."""
    if start < len(X):
        return X[start : start + size], y[start : start + size]
    drawn = np.random.default_rng(start).integers(len(X), size=size)
    return deformed(X[drawn], seed=start), y[drawn]


def models_of(X, encoders, landmarks):
    """A kernel ridge for each encoder and number of landmarks, (name, number) -> ridge."""
    drawn, _ = chunk(X, np.zeros(len(X)), len(X), max(landmarks))
    spec = {"input_scaling": "sphere", "hyperparameters": None, "encoding": None}
    spec |= {"alpha": ALPHAS, "solver": "nystroem", "dtype": "float32", "random_state": 0}
    return {
        (name, m): DEQKernelRidgeClassifier(**spec, **KERNEL, landmarks=rows[:m])
        for name, encode in encoders.items()
        for rows in [encode(drawn)]
        for m in landmarks
    }


def run(state, data, ends, kept, table):
    """Go through the stream from where `state` is; a row for each model at each of `ends`."""
    X, y, X_test, y_test = data
    seconds = state["seconds"]
    for end in ends:
        encoders = {k: encode for k, encode in state["encoders"].items() if end <= MOST[k]}
        if end <= state["start"]:
            continue
        while state["start"] < end:
            size = min(CHUNK, end - state["start"])
            rows, labels = chunk(X, y, state["start"], size)
            for name, encode in encoders.items():
                encoded, took = timed(encode, rows)
                seconds[name] = seconds.get(name, 0.0) + took
                for key in [key for key in state["models"] if key[0] == name]:
                    fit = state["models"][key].partial_fit
                    _, took = timed(fit, encoded, labels, np.arange(10))
                    seconds[key] = seconds.get(key, 0.0) + took
            state["start"] += size
        for name, encode in encoders.items():
            encoded = encode(X_test)
            for key in [key for key in state["models"] if key[0] == name]:
                row = {"features": name, "landmarks": key[1], "rows": end}
                row["accuracy"] = float(state["models"][key].score(encoded, y_test))
                row["encoding_seconds"] = seconds[name]
                state["rows"].append(
                    row | {"fit_seconds": seconds[key], "gigabytes": peak_memory()}
                )
        joblib.dump(state, kept)
        write_table(table, state["rows"])


def draw(rows, path):
    figure, axes = new_figure(height=4)
    numbers = sorted({row["landmarks"] for row in rows})
    for name, style in (("pixels", "s--"), ("patches", "o-")):
        for m, color in zip(numbers, COLORS, strict=False):
            own = [row for row in rows if (row["features"], row["landmarks"]) == (name, m)]
            x, error = [row["rows"] for row in own], [100 * (1 - row["accuracy"]) for row in own]
            axes[0, 0].plot(x, error, style, color=color, label=f"{name}, {m:,.0f}")
    axes[0, 0].set(xscale="log", yscale="log", xlabel="rows", ylabel="test error in %")
    ticks = [0.7, 1, 1.5, 2, 3, 4]
    axes[0, 0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[0, 0].set_yticks([], minor=True)
    figure.legend(loc="outside upper center", ncols=2, title="features, landmarks")
    figure.savefig(path, dpi=110)


def main():
    args = arguments(__doc__, data=True)
    X, y, X_test, y_test = load_images(args, "mnist", 60_000, 10_000)
    data = X.astype("f4"), y, X_test.astype("f4"), y_test
    ends, landmarks = [10_000, 30_000, 60_000, 100_000, 200_000], [1000, 2000]
    ends += [400_000, 700_000, 1_000_000]
    patches = PatchFeatures(16, random_state=0)
    if args.quick:
        ends, landmarks = [600, len(X), 3000], [100, 200]
        patches.set_params(size=3, grid=2)
    kept = args.output / "million_digits.joblib"
    if kept.exists():
        state = joblib.load(kept)
    else:
        encoders = {"pixels": smoothed, "patches": patches.fit(data[0]).transform}
        models = models_of(data[0], encoders, landmarks)
        state = {"start": 0, "encoders": encoders, "models": models, "seconds": {}, "rows": []}
    run(state, data, ends, kept, args.output / "million_digits.csv")
    draw(state["rows"], args.output / "million_digits.png")


if __name__ == "__main__":
    main()
