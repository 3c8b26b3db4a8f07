"""Labels as targets of a kernel ridge, all at once or in chunks, and what probabilities need."""

import torch
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from .._array_api import (
    class_weights,
    encode_labels,
    float_dtypes,
    prototype,
    take,
    unique_labels,
)
from .._base import Probabilities, all_or_nothing, forget
from .._solve.calibration import class_logits, fit_temperature
from .._validation import validate_data
from .base import BaseKernelRidge, takes_chunks
from .intervals import class_scores


class LearnsClasses(ClassifierMixin, Probabilities, BaseKernelRidge):
    """Kernel ridge regression of labels, +1 and -1."""

    def _logits(self, X, method):
        """Decision values times a temperature that was calibrated out of sample."""
        decision, origin = self._decision(X, method)
        if self.classes_.shape[0] == 1:
            return decision.new_zeros(len(decision), 1), origin
        return class_logits(decision, self.temperature_), origin

    @available_if(takes_chunks)
    @_fit_context(prefer_skip_nested_validation=True)
    @all_or_nothing
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Account for a chunk of rows, by sums over rows that do not depend on the chunks.

        Only with ``solver="nystroem"``. The first call settles the kernel, by its search, and the
        landmarks, if none are given; given `landmarks` and DEQ parameters, the result is that of
        one fit. Each call chooses alpha anew where there are several candidates.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of this chunk; dense.
        y : array-like of shape (n_samples,)
            Labels: numbers or strings.
        classes : array-like of shape (n_classes,), default=None
            All the classes of all the calls; needed in the first call if y lacks any.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; an integer weight is the same as repeating the row.

        Returns
        -------
        self : DEQKernelRidgeClassifier

        Raises
        ------
        ValueError
            If the chunk cannot be used; the message says which one it was, and the estimator is as
            it was before it.
        """
        with self._chunk():
            first = not hasattr(self, "_stream")
            X, y = validate_data(self, X, y, dtype=float_dtypes(X), reset=first)
            check_classification_targets(y)
            y = column_or_1d(y, warn=True)
            if self.class_weight == "balanced":
                raise ValueError(
                    "class_weight='balanced' needs all rows at once; give a dict of weights."
                )
            if not first:
                classes = self.classes_
            elif classes is not None:
                classes = unique_labels(column_or_1d(classes))
            like, weight = prototype(X), self._weights(sample_weight, X)
            classes, targets, weight = self._targets(y, weight, classes)
            flat = targets.shape[1] == 1
            fitted = self._add_chunk(X, targets, weight, like, flat)
            self._calibrate(classes, fitted)
        return self

    def _calibrate(self, classes, fitted):
        """Set the classes, and what the probabilities need."""
        self.classes_ = classes
        forget(self, "temperature_", "_out_of_sample")
        if classes.shape[0] > 1:
            predictions, targets, weight, known = fitted.out_of_sample
            self.temperature_ = fit_temperature(predictions, targets, weight * known)
            self._out_of_sample = class_scores(predictions, targets, weight, self.temperature_)

    def _targets(self, y, weight, classes=None):
        """Classes; +1 and -1, one column for two classes; weights times those of the classes."""
        positive = weight > 0
        y = take(y, positive)
        classes = unique_labels(y) if classes is None else classes
        labels = encode_labels(y, classes).to(weight.device)
        n_classes = classes.shape[0]
        indicators = weight.new_zeros(len(weight), n_classes)
        indicators[positive] = torch.nn.functional.one_hot(labels, n_classes).to(weight)
        factors = class_weights(self.class_weight, classes, labels, weight[positive])
        targets = 2 * (indicators[:, -1:] if n_classes <= 2 else indicators) - 1
        return classes, targets, weight * (indicators @ factors)
