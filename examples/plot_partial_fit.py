r"""
Matched features and data that arrive in pieces
===============================================

Rows may come as a stream, and never all be in memory. :class:`~sk_deq.KernelMatcher` needs rows
only to learn their typical norm; after that its features of the network that is equivalent to an
infinitely wide DEQ can be computed piece by piece, and any linear model with ``partial_fit`` learns
from them.
"""

# %%
# A stream
# --------
# Handwritten digits, a hundred at a time. The range of a pixel is known, so that scaling needs no
# data, and the first piece is enough for the norm.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

from sk_deq import KernelMatcher

X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=0)
pieces = [slice(start, start + 100) for start in range(0, len(X_train), 100)]

matcher = KernelMatcher(1024, activation="abs", recurrent_var=0.5, random_state=0)
matcher.fit(X_train[pieces[0]])
print(f"kernel_error on the test rows: {matcher.kernel_error(X_test):.3f}")

# %%
# Learning from it
# ----------------
# Two linear models see each piece once: one on the pixels, one on the features. The size of the
# features is what the theory gives them, of norm below 1; stochastic gradients take larger steps on
# larger rows, so the features are multiplied to the norm of the pixels.


def norm(Z):
    """Root-mean-square norm of the rows."""
    return np.sqrt((Z**2).sum(axis=1).mean())


first = X_train[pieces[0]]
scale = norm(first) / norm(matcher.transform(first))
inputs = {"pixels": lambda X: X, "matched features": lambda X: scale * matcher.transform(X)}
models = {name: SGDClassifier(loss="log_loss", alpha=1e-5, average=True) for name in inputs}
accuracy = {name: [] for name in inputs}
for name, model in models.items():
    model.set_params(random_state=0)
    Z_test = inputs[name](X_test)
    for piece in pieces:
        model.partial_fit(inputs[name](X_train[piece]), y_train[piece], classes=np.arange(10))
        accuracy[name].append(model.score(Z_test, y_test))
    print(f"{name:>17}: test accuracy {accuracy[name][-1]:.3f} after one pass")

# %%
# Test accuracy as rows arrive:

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for name, values in accuracy.items():
    axis.plot([piece.stop for piece in pieces], values, label=name)
axis.set(xlabel="rows seen", ylabel="test accuracy", ylim=(0.6, 1))
axis.set_title("Matched features learn more from the same rows")
axis.legend()
plt.show()
