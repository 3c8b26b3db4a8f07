"""Networks that classify: what DEQClassifier and EquivalentExplicitClassifier share."""

from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _num_samples, column_or_1d

from .._array_api import decode_labels, to_namespace_of, unique_labels
from .._base import Probabilities
from .._validation import warn_of_one_row
from .base import BaseNetwork
from .tasks import Classification


class NetworkClassifier(ClassifierMixin, Probabilities, BaseNetwork):
    """A network whose outputs are logits of the classes."""

    _parameter_constraints = {
        **BaseNetwork._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }
    _numeric = False

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None):
        """Fit the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows. None means 1.
        X_val, y_val : array-like of shape (n_val, n_features) and (n_val,), default=None
            Rows to stop early on, instead of a fraction of X: training ends after
            `n_iter_no_change` epochs in which their loss did not fall, and the best weights are
            restored.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter is out of range, all weights are zero, or a later call
            (``warm_start=True``) brings new classes.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If fixed points did not converge, or the loss was not finite.
        """
        return self._fit(X, y, sample_weight, X_val, y_val)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Train for one epoch on a part of the data, at the constant rate `lr`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. The scale of the input is that of the first call.
        y : array-like of shape (n_samples,)
            Class labels.
        classes : array-like of shape (n_classes,), default=None
            All the classes of all the calls; needed in the first call if y lacks any.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows. None means 1.

        Returns
        -------
        self : object
        """
        if not hasattr(self, "module_"):
            warn_of_one_row(_num_samples(X))
        return self._fit(X, y, sample_weight, partial=True, classes=classes)

    def predict(self, X):
        """Return the most probable class of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        X, origin = self._rows_like_fit(X, "predict")
        return decode_labels(self._outputs_of(X).argmax(1), self.classes_, origin)

    def _logits(self, X, method):
        X, origin = self._rows_like_fit(X, method)
        return self._outputs_of(X), origin

    def decision_function(self, X):
        """Return the logit of each class, or for two classes the log-odds of the second.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
        """
        X, origin = self._rows_like_fit(X, "decision_function")
        logits = self._outputs_of(X)
        binary = logits.shape[1] == 2
        return to_namespace_of(origin, logits[:, 1] - logits[:, 0] if binary else logits)

    def _validate(self, X, y, *, reset):
        X, y = super()._validate(X, y, reset=reset)
        check_classification_targets(y)
        return X, column_or_1d(y, warn=True)

    def _new_task(self, y, classes):
        return Classification(unique_labels(y if classes is None else column_or_1d(classes)))
