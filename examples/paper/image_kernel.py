"""13. Images as images: a convolutional DEQ kernel, by random features of patches.

    python examples/paper/image_kernel.py --data-dir DIR --output DIR [--parts abc] [--quick]

a: image_settings.csv. One setting of the patches changed at a time: error on 3,000 training images
   of a fit to 5,000 others, 32 features and 1,000 landmarks.
b: image_features.csv. 5,000 training and 5,000 test images: accuracy against the number of random
   features, and the distance of their kernel to the exact one on 12 images.
c: image_kernel.csv. All training images, all test images: kernel ridge on pixels; ridge regression
   on 128 features, that is with the convolutional DEQ's kernel; and kernel ridge on these with a
   DEQ's kernel once more. Seconds of one processor; gigabytes are the most of the process so far.

The script can be stopped and run again.
"""

from functools import lru_cache
from itertools import product
from types import SimpleNamespace

from _common import (
    arguments,
    load_images,
    new_figure,
    peak_memory,
    resume,
    spectral_error,
    timed,
)  # fmt: skip
from _patches import PatchFeatures
from sklearn.linear_model import RidgeClassifier

from sk_deq import DEQKernelRidgeClassifier

CHANGES = {
    "none": {},
    "grid 3": {"grid": 3},
    "size 3": {"size": 3},
    "size 7": {"size": 7},
    "grid 6": {"grid": 6},
    "contrast 0.03": {"contrast": 0.03},
    "contrast 0.3": {"contrast": 0.3},
    "shrinkage 0.1": {"shrinkage": 0.1},
    "shrinkage 10": {"shrinkage": 10.0},
    "recurrent_var 0.8": {"recurrent_var": 0.8},
    "abs": {"activation": "abs"},
    "ntk": {"kernel": "ntk"},
}
TOP = {"activation": "sin", "recurrent_var": 0.5, "input_var": 3.0, "kernel": "ck"}
N_EXACT = 12


def kernel_ridge(n_landmarks):
    """On rows of unit norm, by landmarks; the penalty is chosen on a tenth of the rows."""
    spec = {"input_scaling": "sphere", "hyperparameters": None, "encoding": None}
    spec |= {"solver": "nystroem", "n_components": n_landmarks, "dtype": "float32"}
    return DEQKernelRidgeClassifier(random_state=0, **spec, **TOP)


def linear():
    return RidgeClassifier(1.0, solver="cholesky")


@lru_cache(maxsize=1)
def images(data_dir, data, n, n_test):
    arrays = load_images(SimpleNamespace(data_dir=data_dir), data, n, n_test)
    return [part.astype("f4") if part.ndim == 2 else part for part in arrays]


def training_images(data_dir, data, n, n_held_out):
    """The same, with training images in place of the test images."""
    X, y, *_ = images(data_dir, data, n + n_held_out, 1)
    return X[:n], y[:n], X[n:], y[n:]


@lru_cache(maxsize=1)
def encoded(source, sizes, settings):
    """PatchFeatures, the features of both parts of the images, and the seconds of the first."""
    X, _, X_test, _ = source(*sizes)
    features = PatchFeatures(**dict(settings))
    F, seconds = timed(lambda: features.fit(X).transform(X))
    return features, F, features.transform(X_test), seconds


def setting(args, sizes, settings, n_landmarks, data, change):
    sizes, settings = (args.data_dir, data, *sizes), settings | CHANGES[change]
    _, y, _, y_test = training_images(*sizes)
    _, F, F_test, seconds = encoded(training_images, sizes, tuple(settings.items()))
    model = kernel_ridge(n_landmarks).fit(F, y)
    return {"error": 1 - model.score(F_test, y_test), "ms_per_image": 1000 * seconds / len(F)}


def number(args, sizes, settings, n_landmarks, data, n_components):
    sizes = args.data_dir, data, *sizes
    settings = settings | {"n_components": n_components, "random_state": 0}
    X, y, _, y_test = images(*sizes)
    features, F, F_test, seconds = encoded(images, sizes, tuple(settings.items()))
    Z = F[:N_EXACT].astype(float)
    row = {"kernel_error": spectral_error(Z @ Z.T, features.kernel_matrix(X[:N_EXACT]))}
    row["linear"] = float(linear().fit(F, y).score(F_test, y_test))
    row["DEQ_kernel"] = float(kernel_ridge(n_landmarks).fit(F, y).score(F_test, y_test))
    return row | {"ms_per_image": 1000 * seconds / len(F)}


def full(args, sizes, settings, data, model, n_landmarks):
    sizes = args.data_dir, data, *sizes
    X, y, X_test, y_test = images(*sizes)
    seconds = 0.0
    if model != "pixels":
        _, X, X_test, seconds = encoded(images, sizes, tuple(settings.items()))
    if model == "patches, linear":
        ridge = linear()
    else:
        ridge = kernel_ridge(n_landmarks)
    _, fit_seconds = timed(ridge.fit, X, y)
    score, predict_seconds = timed(ridge.score, X_test, y_test)
    row = {"accuracy": float(score), "patches_seconds": seconds, "fit_seconds": fit_seconds}
    row["ms_per_prediction"] = 1000 * (seconds / len(X) + predict_seconds / len(X_test))
    return row | {"gigabytes": peak_memory()}


def draw(rows, path):
    sets = list(dict.fromkeys(row["data"] for row in rows))
    figure, axes = new_figure(len(sets), width=2.8, height=3.4)
    curves = {"linear": ("s", "linear"), "DEQ_kernel": ("o", "DEQ kernel")}
    for axis, data in zip(axes[0], sets, strict=True):
        own = [row for row in rows if row["data"] == data]
        numbers = [row["n_components"] for row in own]
        for key, (marker, label) in curves.items():
            error = [100 * (1 - row[key]) for row in own]
            axis.plot(numbers, error, marker + "-", label=label)
        axis.set(xscale="log", ylim=(0, None), title=data, xlabel="features of a patch")
        axis.set_xticks(numbers, [f"{n:g}" for n in numbers])
        axis.set_xticks([], minor=True)
    axes[0, 0].set_ylabel("test error in %")
    axes[0, 0].legend()
    figure.savefig(path, dpi=110)


def main():
    args = arguments(__doc__, data=True, parts="abc")
    sets = ["mnist", "fashion_mnist"] if args.data_dir else ["digits"]
    small = {"size": 3, "grid": 2} if args.data_dir is None else {}  # digits have 8 x 8 pixels
    numbers = [8, 32] if args.quick else [8, 16, 32, 64, 128]
    changes = list(CHANGES)[:2] if args.quick else CHANGES
    landmarks = [100, 300] if args.quick else [1000, 4000]

    if "a" in args.parts:
        points = [{"data": d, "change": c} for d, c in product(sets, changes)]
        sizes = (400, 200) if args.quick else (5000, 3000)
        settings = {"n_components": 32, "random_state": 0} | small

        def measure(**point):
            return setting(args, sizes, settings, landmarks[0], **point)

        resume(args.output / "image_settings.csv", points, measure)
    if "b" in args.parts:
        sizes = (600, 300) if args.quick else (5000, 5000)
        points = [{"data": d, "n_components": m} for d, m in product(sets, numbers)]

        def measure(**point):
            return number(args, sizes, small, landmarks[0], **point)

        rows = resume(args.output / "image_features.csv", points, measure)
        draw(rows, args.output / "image_features.png")
    if "c" in args.parts:
        sizes = (900, 300) if args.quick else (60_000, 10_000)
        settings = {"n_components": 32 if args.quick else 128, "random_state": 0} | small
        points = [
            {"data": data, "model": model, "n_landmarks": m}
            for data in sets
            for model, m in (
                ("pixels", landmarks[1]),
                ("patches, linear", 0),
                *(("patches, DEQ kernel", m) for m in landmarks),
            )
        ]

        def measure(**point):
            return full(args, sizes, settings, **point)

        resume(args.output / "image_kernel.csv", points, measure)


if __name__ == "__main__":
    main()
