"""EquivalenceDisplay."""

import time
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import r2_score

from ._display import COLORS, Display
from ._features import is_ntk_of_training_all, kernels_of, network_of


class EquivalenceDisplay(Display):
    """Score, latency and kernel error of models that ought to be equivalent.

    Parameters
    ----------
    results : dict of {str: dict of {str: float}}
        For each model by name: "score"; "agreement" with the first model; "latency", seconds per
        1000 rows; and, where it has features, "kernel_error".

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes
        One per quantity.
    figure_ : matplotlib Figure

    See Also
    --------
    EquivalenceDisplay.from_estimators : Measure fitted models.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.linear_model import RidgeClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import scale
    >>> from sk_deq import DEQClassifier, KernelMatcher
    >>> from sk_deq.inspection import EquivalenceDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> X = scale(X)
    >>> deq = DEQClassifier(500, train="readout", random_state=0).fit(X, y)
    >>> explicit = make_pipeline(KernelMatcher(500, random_state=0), RidgeClassifier(0.01))
    >>> models = {"DEQ": deq, "explicit": explicit.fit(X, y)}
    >>> display = EquivalenceDisplay.from_estimators(models, X, y)
    >>> display.results["explicit"]["agreement"] > 0.95
    True
    """

    _LABELS = {
        "score": "score",
        "agreement": "agreement with the first",
        "latency": "seconds per 1000 rows",
        "kernel_error": "distance from the DEQ's kernel at initialisation: small before training, "
        "large after",
    }

    def __init__(self, *, results: dict[str, dict[str, float]]):
        self.results = results

    @classmethod
    def from_estimators(
        cls, estimators: dict[str, Any], X: ArrayLike, y: ArrayLike, *, n_repeats: int = 5,
        ax: Any = None, **kwargs: Any,
    ) -> Self:  # fmt: skip
        """Measure fitted models on the same rows.

        Parameters
        ----------
        estimators : dict of {str: estimator}
            Fitted classifiers, or fitted regressors, by name; the first is what the others ought to
            be equivalent to.
        X : array-like of shape (n_samples, n_features)
            Rows to predict.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        n_repeats : int, default=5
            Predictions timed per model, in turns; the latency is their median.
        ax : array-like of matplotlib Axes, default=None
            One per quantity; None makes a new figure.
        **kwargs
            For ``Axes.barh``.

        Returns
        -------
        display : EquivalenceDisplay
            ``results["..."]["agreement"]`` is the share of equal predictions, for regressors their
            R^2. A "kernel_error" is that of the features against the kernel of the infinitely wide
            DEQ they stand for, at its initialisation; models without features have none. Expect a
            small one of random features and a large one, often above 1, of whatever was trained, a
            DEQ or a good distillation alike: training moves the features, and agreement judges it.
        """
        if not estimators:
            raise ValueError("estimators must hold at least one fitted model, by name.")
        seconds = {name: [] for name in estimators}
        for _ in range(n_repeats):
            for name, estimator in estimators.items():
                start = time.perf_counter()
                estimator.predict(X)
                seconds[name].append(time.perf_counter() - start)
        reference = None
        results = {}
        for name, estimator in estimators.items():
            predicted = np.asarray(estimator.predict(X))
            reference = predicted if reference is None else reference
            if hasattr(estimator, "classes_"):
                agreement = (predicted == reference).mean()
            else:
                agreement = r2_score(reference, predicted)
            results[name] = {
                "score": float(estimator.score(X, y)),
                "agreement": float(agreement),
                "latency": float(np.median(seconds[name])) * 1000 / len(predicted),
            }
            network, _ = network_of(estimator, X)
            if network is not None and not is_ntk_of_training_all(network):
                exact, features = kernels_of(estimator, X)
                error = np.linalg.norm(features - exact, 2) / np.linalg.norm(exact, 2)
                results[name]["kernel_error"] = float(error)
        return cls(results=results).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw one panel of bars per quantity.

        Parameters
        ----------
        ax : array-like of matplotlib Axes, default=None
            One per quantity; None makes a new figure.
        **kwargs
            For ``Axes.barh``.

        Returns
        -------
        display : EquivalenceDisplay
        """
        names = list(self.results)
        shown = [key for key in self._LABELS if any(key in r for r in self.results.values())]
        if ax is None:
            ax = self._new_axes(len(shown), figsize=(7, (0.7 + 0.4 * len(names)) * len(shown)))
        axes = np.atleast_1d(ax).ravel()
        if len(axes) != len(shown):
            raise ValueError(f"ax must hold {len(shown)} axes, one per quantity, got {len(axes)}.")
        self.ax_, self.figure_ = axes, axes[0].figure
        for panel, key in zip(axes, shown, strict=True):
            values = [self.results[name].get(key, np.nan) for name in names]
            bars = panel.barh(names, values, **{"color": COLORS, "alpha": 0.7, **kwargs})
            labels = ["" if np.isnan(value) else f" {value:.3g}" for value in values]
            panel.bar_label(bars, labels)
            panel.set_title(self._LABELS[key], loc="left", fontsize="medium")
            panel.margins(x=0.15)
            panel.invert_yaxis()
        return self
