"""ConvergenceDisplay."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from .._nets.base import scaled_rows
from .._nets.fixed_point import SOLVERS
from .._nets.modules import DEQ
from ._display import Display


class ConvergenceDisplay(Display):
    """How a DEQ's fixed points, or its training, converge.

    Parameters
    ----------
    residuals : dict of {str: ndarray of shape (n_iter,)}
        For each solver, the largest relative residual over the rows by iteration.
    tol : float
        Tolerance of the estimator.
    history : list of dict
        One entry per epoch.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D

    See Also
    --------
    ConvergenceDisplay.from_estimator : Look at a fitted DEQ.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import scale
    >>> from sk_deq import DEQClassifier
    >>> from sk_deq.inspection import ConvergenceDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> X = scale(X)
    >>> deq = DEQClassifier(width=64, hyperparameters=None, max_epochs=5, random_state=0).fit(X, y)
    >>> display = ConvergenceDisplay.from_estimator(deq, X[:50], n_iter=12)
    >>> bool(display.residuals["picard"][-1] < 0.01)
    True
    """

    def __init__(self, *, residuals: Any, tol: float, history: Any):
        self.residuals = residuals
        self.tol = tol
        self.history = history

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: ArrayLike, *, n_iter: int = 30, kind: str = "fixed_point",
        ax: Any = None, **kwargs: Any,
    ) -> Self:  # fmt: skip
        """Look at a fitted DEQ.

        Parameters
        ----------
        estimator : DEQClassifier or DEQRegressor
            Fitted.
        X : array-like of shape (n_samples, n_features)
            Rows whose fixed points are iterated; a hundred or so are enough.
        n_iter : int, default=30
            Number of iterations.
        kind : {"fixed_point", "training"}, default="fixed_point"
            What to draw; both are computed.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **kwargs
            For ``Axes.plot``.

        Returns
        -------
        display : ConvergenceDisplay

        Raises
        ------
        TypeError
            If the estimator is not a DEQ.
        """
        check_is_fitted(estimator)
        features = getattr(getattr(estimator, "module_", None), "features", None)
        if not isinstance(features, DEQ):
            raise TypeError(
                "estimator must be a DEQClassifier or DEQRegressor, got "
                f"{type(estimator).__name__}."
            )
        X = check_array(X, dtype=np.float64)
        rows = scaled_rows(estimator.module_, estimator._scaler, X)
        residuals = {
            solver: features.residual_curve(rows, solver, n_iter).numpy() for solver in SOLVERS[1:]
        }
        display = cls(residuals=residuals, tol=features.tol, history=estimator.history_)
        return display.plot(ax=ax, kind=kind, **kwargs)

    def plot(self, ax: Any = None, *, kind: str = "fixed_point", **kwargs: Any) -> Self:
        """Draw the residuals by iteration, or the losses by epoch.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        kind : {"fixed_point", "training"}, default="fixed_point"
            Largest relative residual of a fixed point by iteration, for each solver; or loss by
            epoch, on training and, where there was early stopping, held-out rows.
        **kwargs
            For ``Axes.plot``.

        Returns
        -------
        display : ConvergenceDisplay

        Raises
        ------
        ValueError
            If `kind` is unknown, or "training" for an estimator with train="readout".
        """
        if kind not in ("fixed_point", "training"):
            raise ValueError(f"kind={kind!r} is unknown; use 'fixed_point' or 'training'.")
        if kind == "training" and "train_loss" not in self.history[0]:
            raise ValueError("kind='training' needs train='all': a readout is solved for at once.")
        ax = self._axes(ax)
        if kind == "fixed_point":
            steps = {name: (np.arange(1, len(c) + 1), c) for name, c in self.residuals.items()}
            self._lines(steps, kwargs)
            ax.axhline(self.tol, color="0.6", linewidth=1)
            ax.annotate("tol", (1, self.tol), color="0.4", va="bottom")
            ax.set(yscale="log", xlabel="iteration", ylabel="largest relative residual")
        else:
            epochs = [epoch["epoch"] for epoch in self.history]
            names = {"train_loss": "training rows", "valid_loss": "held-out rows"}
            losses = {
                label: (epochs, [epoch[key] for epoch in self.history])
                for key, label in names.items()
                if key in self.history[0]
            }
            self._lines(losses, kwargs)
            ax.set(yscale="log", xlabel="epoch", ylabel="loss")
        return self
