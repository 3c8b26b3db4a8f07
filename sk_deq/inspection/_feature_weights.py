"""FeatureWeightsDisplay."""

from numbers import Integral

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .._array_api import to_numpy
from .._ridge.classifier import DEQKernelRidgeClassifier
from .._ridge.regressor import DEQKernelRidge
from ._display import COLORS, Display


class FeatureWeightsDisplay(Display):
    """The weights that a kernel ridge has given to the features, largest first.

    Parameters
    ----------
    weights : ndarray of shape (n_shown,)
        Weights, descending.
    names : list of str
        Of these features.
    n_features : int
        Number of all features.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bars_ : matplotlib BarContainer

    See Also
    --------
    FeatureWeightsDisplay.from_estimator : Look at a fitted kernel ridge.

    Notes
    -----
    A weight multiplies the squared distance between two rows along a feature. It is 1 for all
    features where weights did not lower the leave-one-out errors, which does not make all of them
    equally important: `sklearn.inspection.permutation_importance` measures that.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sk_deq import DEQKernelRidge
    >>> from sk_deq.inspection import FeatureWeightsDisplay
    >>> from sk_deq.pipelines import make_tabular_pipeline
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> model = make_tabular_pipeline(DEQKernelRidge(random_state=0)).fit(X[:100], y[:100])
    >>> display = FeatureWeightsDisplay.from_estimator(model, top=3)
    >>> len(display.names), display.n_features
    (3, 10)
    """

    def __init__(self, *, weights, names, n_features):
        self.weights = weights
        self.names = names
        self.n_features = n_features

    @classmethod
    def from_estimator(cls, estimator, feature_names=None, *, top=20, ax=None, **kwargs):
        """Look at a fitted kernel ridge.

        Parameters
        ----------
        estimator : DEQKernelRidge, DEQKernelRidgeClassifier or Pipeline that ends with one
            Fitted.
        feature_names : array-like of shape (n_features,), default=None
            Names of the columns that the kernel ridge was fitted to. None: those that the steps
            before it give, or those of its frame, or "x0", "x1", ...
        top : int, default=20
            How many features are shown at most.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **kwargs
            For ``Axes.barh``.

        Returns
        -------
        display : FeatureWeightsDisplay

        Raises
        ------
        TypeError
            If the estimator has no feature weights.
        ValueError
            If there are not as many names as features, or `top` is not a positive integer.
        """
        ridge = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        if not isinstance(ridge, DEQKernelRidge | DEQKernelRidgeClassifier):
            raise TypeError(
                "estimator must be a DEQKernelRidge, a DEQKernelRidgeClassifier or a Pipeline that "
                f"ends with one, got {type(ridge).__name__}."
            )
        if not isinstance(top, Integral) or top < 1:
            raise ValueError(f"top must be an integer >= 1, got {top!r}.")
        check_is_fitted(ridge)
        weights = to_numpy(ridge.feature_weights_)
        names = _names(estimator, ridge) if feature_names is None else feature_names
        if len(names) != len(weights):
            raise ValueError(
                f"feature_names has {len(names)} names, but the kernel ridge was fitted to "
                f"{len(weights)} features."
            )
        order = np.argsort(-weights, kind="stable")[:top]
        display = cls(
            weights=weights[order],
            names=[str(names[j]) for j in order],
            n_features=len(weights),
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw a bar for each weight.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **kwargs
            For ``Axes.barh``.

        Returns
        -------
        display : FeatureWeightsDisplay
        """
        ax = self._axes(ax)
        places = np.arange(len(self.weights))
        self.bars_ = ax.barh(places, self.weights, **{"color": COLORS[1], **kwargs})
        ax.set_yticks(places, self.names)
        ax.invert_yaxis()
        ax.axvline(1, color="0.6", linewidth=1)  # no weight
        ax.set_xlabel("feature weight")
        if len(self.weights) < self.n_features:
            ax.set_title(f"the largest {len(self.weights)} of {self.n_features}")
        return self


def _names(estimator, ridge):
    """Names of the columns that a kernel ridge was fitted to."""
    if hasattr(ridge, "feature_names_in_"):
        return ridge.feature_names_in_
    if isinstance(estimator, Pipeline) and len(estimator) > 1:
        try:
            return estimator[:-1].get_feature_names_out()
        except (AttributeError, ValueError):  # a step has no names to give
            pass
    return [f"x{j}" for j in range(ridge.n_features_in_)]
