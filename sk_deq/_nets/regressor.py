"""Networks for regression: what DEQRegressor and EquivalentExplicitRegressor share."""

from sklearn.base import RegressorMixin, _fit_context
from sklearn.utils.validation import _num_samples

from .._array_api import to_namespace_of
from .._validation import warn_of_one_row
from .base import BaseNetwork
from .tasks import Regression


class NetworkRegressor(RegressorMixin, BaseNetwork):
    """A network whose outputs are standardised targets."""

    _numeric = True
    _many_rows = 3000

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None):
        """Fit the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets. Standardised inside.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows. None means 1.
        X_val, y_val : array-like, default=None
            Rows and targets to stop early on, instead of a fraction of X: training ends after
            `n_iter_no_change` epochs in which their loss did not fall, and the best weights are
            restored.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter is out of range or all weights are zero.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If fixed points did not converge, or the loss was not finite.
        """
        return self._fit(X, y, sample_weight, X_val, y_val)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None):
        """Train for one epoch on a part of the data, at the constant rate `lr`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. The scales of input and targets are those of the first call.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows. None means 1.

        Returns
        -------
        self : object
        """
        if not hasattr(self, "module_"):
            warn_of_one_row(_num_samples(X))
        return self._fit(X, y, sample_weight, partial=True)

    def predict(self, X):
        """Return the predicted targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        X, origin = self._rows_like_fit(X, "predict")
        return to_namespace_of(origin, self._task.from_network(self._outputs_of(X)))

    def _new_task(self, y, classes):
        return Regression(1 if y.ndim == 1 else y.shape[1], y.ndim == 1)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
