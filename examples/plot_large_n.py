r"""
Many rows: a kernel on landmarks
================================

A kernel matrix of 40,000 rows has 1.6 thousand million entries, 13 GB. ``solver="nystroem"`` keeps
a few hundred rows as landmarks, and passes once over the others: time grows with the number of rows
and memory does not.

The task: give a photograph its colours back. Every pixel is a row; its features are the grey values
around it and where it is, its targets red, green and blue. Learning from some of the pixels, the
models colour the others.
"""

# %%
# A photograph as a table
# -----------------------

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_deq import DEQKernelRidge

photo = load_sample_image("flower.jpg") / 255.0
height, width, _ = photo.shape
grey = photo.mean(axis=2)
border = 3
patches = np.lib.stride_tricks.sliding_window_view(np.pad(grey, border, "edge"), (7, 7))[
    ..., ::2, ::2
]
row, column = np.mgrid[:height, :width]
features = [patches.reshape(-1, 16), row.reshape(-1, 1), column.reshape(-1, 1)]
X, Y = np.concatenate(features, axis=1).astype(np.float32), photo.reshape(-1, 3)
X_train, X_test, Y_train, Y_test = train_test_split(
    X, Y, train_size=40_000, test_size=5_000, random_state=0
)
print(f"{len(X_train)} rows to learn from, {X.shape[1]} features")

# %%
# More landmarks, more detail
# ---------------------------
# The kernel is given; ``hyperparameters=None`` leaves out its search.

models = {"linear": RidgeCV()}
for n in (50, 150, 450):
    models[f"{n} landmarks"] = DEQKernelRidge(
        solver="nystroem",
        n_components=n,
        recurrent_var=0.5,
        hyperparameters=None,
        dtype="float32",
        random_state=0,
    )
for name, model in models.items():
    models[name] = make_pipeline(StandardScaler(), model)
    start = time.perf_counter()
    models[name].fit(X_train, Y_train)
    seconds = time.perf_counter() - start
    print(f"{name:>15}: R2 = {models[name].score(X_test, Y_test):.4f}, fit in {seconds:.1f} s")

# %%
# The picture
# -----------

best = models["450 landmarks"]
shown = {
    "grey": np.repeat(grey[..., None], 3, axis=2),
    "linear": models["linear"].predict(X).reshape(photo.shape),
    "DEQ kernel, 450 landmarks": best.predict(X).reshape(photo.shape),
    "photograph": photo,
}
figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
for axis, (title, image) in zip(axes.flat, shown.items(), strict=True):
    axis.imshow(np.clip(image, 0, 1))
    axis.set_title(title)
    axis.set_axis_off()
plt.show()
