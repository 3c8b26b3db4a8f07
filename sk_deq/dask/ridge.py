"""Kernel ridges on dask collections."""

from dataclasses import replace

import numpy as np

from .._array_api import prototype, to_numpy
from .._base import all_or_nothing
from .._ridge.checkpoints import require_no_checkpoint
from .._ridge.classifier import DEQKernelRidgeClassifier as LocalDEQKernelRidgeClassifier
from .._ridge.fit import n_landmarks
from .._ridge.regressor import DEQKernelRidge as LocalDEQKernelRidge
from .._ridge.settle import MOST_ROWS
from .._ridge.stream import begin_stream, solved
from .chunks import (
    Indicators,
    labels_of,
    part_of_chunk,
    sample_of,
    smallest_of,
    sum_of,
    targets_of,
    tree,
    union_of,
)
from .lazy import Lazy, as_array, chunks_of, documented_like


class LazyRidge(Lazy):
    """A kernel ridge that is fitted to the chunks of dask collections."""

    def _fit_chunks(self, X, y, sample_weight, encode):
        """The FittedRidge of all chunks, with attributes set but for classes.

        `encode` turns targets and weights of a chunk into tensors (n, n_outputs) and (n,).
        """
        from dask import delayed

        self._validate_params()
        require_no_checkpoint(self, "dask computes again what workers that are lost had.")
        if self.solver not in ("auto", "nystroem"):
            raise ValueError(f"Chunks need solver='nystroem', got solver={self.solver!r}.")
        X = as_array(X)
        self.n_features_in_ = X.shape[1]
        like = prototype(np.empty((1, X.shape[1])))
        config = self._config(like, classify=hasattr(self, "class_weight"))
        chunks = chunks_of(X, y, sample_weight)
        chunks = [(*chunk, encode, X.shape[1]) for chunk in chunks]
        config = replace(config, solver="nystroem")
        n = max(MOST_ROWS, n_landmarks("nystroem", config))
        samples = [delayed(sample_of)(chunk, config.seed, n) for chunk in chunks]
        _, rows, targets, weight = tree(delayed(smallest_of), samples, n).compute()
        if not len(weight):
            raise ValueError("All sample_weight are zero; at least one must be positive.")
        stream = begin_stream(to_numpy(rows), targets, weight, config)
        begun = delayed(stream)
        parts = [delayed(part_of_chunk)(begun, chunk, config.classify) for chunk in chunks]
        fitted = solved(stream.plus(tree(delayed(sum_of), parts).compute()), config.classify)
        self._keep(fitted, like, config.device, flat=np.ndim(y) == 1 and targets.shape[1] == 1)
        return fitted


@documented_like(LocalDEQKernelRidge)
class DEQKernelRidge(LazyRidge, LocalDEQKernelRidge):
    """Ridge regression with the kernel of a DEQ, on dask arrays and data frames.

    As `sk_deq.DEQKernelRidge` with ``solver="nystroem"``, parameters and attributes included, and
    with the same result, however the rows are cut into chunks: rows with the smallest hashes choose
    the kernel and are the landmarks, and the rest is sums over rows. Residuals of held-out rows are
    not kept, so that `predict_interval` raises.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from sk_deq.dask import DEQKernelRidge
    >>> X = np.random.default_rng(0).normal(size=(1000, 3))
    >>> X = da.from_array(X, chunks=(250, 3))
    >>> model = DEQKernelRidge(n_components=100).fit(X, da.sin(X[:, 0]))
    >>> model.predict(X)
    dask.array<..., shape=(1000,), dtype=float64, chunksize=(250,), ...>
    """

    @all_or_nothing
    def fit(self, X, y, sample_weight=None):
        """Fit.

        Parameters
        ----------
        X : dask array or data frame of shape (n_samples, n_features)
            Training rows.
        y : dask array, series or data frame, or array-like, of shape (n_samples,) or \
(n_samples, n_outputs)
            Targets.
        sample_weight : dask array or series, or array-like, of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        self : DEQKernelRidge
        """
        self._fit_chunks(X, y, sample_weight, targets_of)
        return self

    def predict(self, X):
        """Predict targets.

        Parameters
        ----------
        X : dask array or data frame, or array-like, of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        y : array of shape (n_samples,) or (n_samples, n_outputs)
            A dask array, not yet computed, where X is a dask collection.
        """
        return self._lazily("predict", X)


@documented_like(LocalDEQKernelRidgeClassifier)
class DEQKernelRidgeClassifier(LazyRidge, LocalDEQKernelRidgeClassifier):
    """Classification with the kernel of a DEQ, on dask arrays and data frames.

    As `sk_deq.DEQKernelRidgeClassifier` with ``solver="nystroem"``, parameters and attributes
    included; see `sk_deq.dask.DEQKernelRidge` for what is different.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from sk_deq.dask import DEQKernelRidgeClassifier
    >>> X = np.random.default_rng(0).normal(size=(1000, 3))
    >>> y = np.where(X[:, 0] > X[:, 1], "more", "less")
    >>> X, y = da.from_array(X, chunks=(250, 3)), da.from_array(y, chunks=250)
    >>> model = DEQKernelRidgeClassifier(n_components=100).fit(X, y)
    >>> bool((model.predict(X) == y).mean().compute() > 0.9)
    True
    """

    @all_or_nothing
    def fit(self, X, y, sample_weight=None):
        """Fit.

        Parameters
        ----------
        X : dask array or data frame of shape (n_samples, n_features)
            Training rows.
        y : dask array or series, or array-like, of shape (n_samples,)
            Labels: numbers or strings.
        sample_weight : dask array or series, or array-like, of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        self : DEQKernelRidgeClassifier
        """
        from dask import delayed

        if self.class_weight == "balanced":
            raise ValueError("class_weight='balanced' needs all rows; give a dict of weights.")
        labels = [delayed(labels_of)(chunk) for chunk in chunks_of(as_array(X), y, sample_weight)]
        classes = tree(delayed(union_of), labels).compute()
        fitted = self._fit_chunks(X, y, sample_weight, Indicators(self.class_weight, classes))
        self._calibrate(classes, fitted)
        return self

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : dask array or data frame, or array-like, of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        y : array of shape (n_samples,)
            A dask array, not yet computed, where X is a dask collection.
        """
        return self._lazily("predict", X)

    def predict_proba(self, X):
        """Predict probabilities of the classes.

        Parameters
        ----------
        X : dask array or data frame, or array-like, of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        p : array of shape (n_samples, n_classes)
            A dask array, not yet computed, where X is a dask collection.
        """
        return self._lazily("predict_proba", X)

    def predict_log_proba(self, X):
        """Predict the logarithms of the probabilities of the classes.

        Parameters
        ----------
        X : dask array or data frame, or array-like, of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_p : array of shape (n_samples, n_classes)
            A dask array, not yet computed, where X is a dask collection.
        """
        return self._lazily("predict_log_proba", X)

    def decision_function(self, X):
        """Predict the targets +1 and -1 of each class against the rest.

        Parameters
        ----------
        X : dask array or data frame, or array-like, of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        decision : array of shape (n_samples,) or (n_samples, n_classes)
            A dask array, not yet computed, where X is a dask collection.
        """
        return self._lazily("decision_function", X)
