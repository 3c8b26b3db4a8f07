"""The kernel estimators on dask arrays and data frames, whose rows stay where they are.

Every chunk gives its part of sums over rows, and the parts are added up as a tree. Workers that are
lost on the way do not matter: dask computes their parts again.
"""

from dataclasses import replace
from functools import reduce

import numpy as np
import torch
from sklearn.utils.validation import check_array

from ._array_api import prototype, to_numpy, unique_labels
from ._base import all_or_nothing
from ._kernel_matcher import KernelMatcher as LocalKernelMatcher
from ._ridge.classifier import DEQKernelRidgeClassifier as LocalDEQKernelRidgeClassifier
from ._ridge.regressor import DEQKernelRidge as LocalDEQKernelRidge
from ._ridge.stream import Part, begin_stream, part_of, solved
from ._row_keys import merge_repeated_rows, row_keys, smallest_keys
from ._scaling import row_norms
from ._torch import make_generator, to_tensor

__all__ = ["DEQKernelRidge", "DEQKernelRidgeClassifier", "KernelMatcher"]

_SAMPLE = 2000  # rows that choose the kernel; and landmarks, unless another number is asked for
_FAN = 8  # parts that are put together at once


class _Lazy:
    """Predictions of dask collections, computed when they are asked for."""

    def _lazily(self, method, X):
        """A method of the local estimator on every chunk of X; on other rows, at once."""
        local = getattr(super(), method)
        if not hasattr(X, "dask"):
            return local(X)
        X = _as_array(X)
        like = local(np.zeros((1, X.shape[1]), dtype=X.dtype))
        chunks = (X.chunks[0], *((n,) for n in like.shape[1:]))
        drop = 1 if like.ndim == 1 else None
        return X.map_blocks(local, dtype=like.dtype, chunks=chunks, drop_axis=drop, meta=like[:0])


class _LazyRidge(_Lazy):
    """A kernel ridge that is fitted to the chunks of dask collections."""

    def _fit_chunks(self, X, y, sample_weight, encode):
        """The FittedRidge of all chunks, with attributes set but for classes.

        `encode` turns targets and weights of a chunk into tensors (n, n_outputs) and (n,).
        """
        from dask import delayed

        self._validate_params()
        if self.solver not in ("auto", "nystroem"):
            raise ValueError(f"Chunks need solver='nystroem', got solver={self.solver!r}.")
        X = _as_array(X)
        self.n_features_in_ = X.shape[1]
        like = prototype(np.empty((1, X.shape[1])))
        config = self._config(like, classify=hasattr(self, "class_weight"))
        chunks = [(*chunk, encode) for chunk in _chunks(X, y, sample_weight)]
        n = max(_SAMPLE, config.n_components or 0)
        samples = [delayed(_sample)(chunk, n) for chunk in chunks]
        _, rows, targets, weight = _tree(delayed(_smallest), samples, n).compute()
        if not len(weight):
            raise ValueError("All sample_weight are zero; at least one must be positive.")
        rows = to_numpy(rows)
        if config.landmarks is None:
            config = replace(config, landmarks=rows[: config.n_components or _SAMPLE])
        config = replace(config, solver="nystroem")
        stream = begin_stream(rows, targets, weight, config)
        begun = delayed(stream)
        parts = [delayed(_part)(begun, chunk, config.classify) for chunk in chunks]
        fitted = solved(stream.plus(_tree(delayed(_sum), parts).compute()), config.classify)
        self._keep(fitted, like, config.device, flat=y.ndim == 1 and targets.shape[1] == 1)
        return fitted


class DEQKernelRidge(_LazyRidge, LocalDEQKernelRidge):
    """Ridge regression with the kernel of a DEQ, on dask arrays and data frames.

    As `sk_deq.DEQKernelRidge` with ``solver="nystroem"``, parameters and attributes included. The
    2,000 rows with the smallest hashes choose the kernel and are the landmarks, unless
    `n_components` or `landmarks` say otherwise: the result does not depend on how the rows are cut
    into chunks. Given `landmarks` and DEQ parameters, it is that of the local estimator.

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
        self._fit_chunks(X, y, sample_weight, _as_targets)
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


class DEQKernelRidgeClassifier(_LazyRidge, LocalDEQKernelRidgeClassifier):
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
        labels = [delayed(_labels)(chunk) for chunk in _chunks(_as_array(X), y, sample_weight)]
        classes = _tree(delayed(_union), labels).compute()
        fitted = self._fit_chunks(X, y, sample_weight, _Indicators(self.class_weight, classes))
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


class KernelMatcher(_Lazy, LocalKernelMatcher):
    """Features of a network whose kernel is that of a DEQ, on dask arrays and data frames.

    As `sk_deq.KernelMatcher`, parameters and attributes included, and with the same result.

    Examples
    --------
    >>> import dask.array as da
    >>> from sk_deq.dask import KernelMatcher
    >>> X = da.random.default_rng(0).normal(size=(1000, 3), chunks=(250, 3))
    >>> KernelMatcher(16, center=False).fit(X).transform(X)
    dask.array<..., shape=(1000, 16), dtype=float64, chunksize=(250, 16), ...>
    """

    @all_or_nothing
    def fit(self, X, y=None):
        """Solve the matching for the scale of X and draw the weights.

        Parameters
        ----------
        X : dask array or data frame of shape (n_samples, n_features)
            Training rows; only their norms matter, which are brought here.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        self : KernelMatcher
        """
        self._validate_params()
        X = _as_array(X)
        norms = X.map_blocks(_norms, drop_axis=1, dtype=X.dtype, meta=np.empty(0, X.dtype))
        norms = norms.compute()
        self.n_features_in_ = X.shape[1]
        self._fit_rows(norms[:, None], X.shape[1], X.dtype, prototype(norms[:, None]))
        return self

    def transform(self, X):
        """Compute the features.

        Parameters
        ----------
        X : dask array or data frame, or array-like, of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        Z : array of shape (n_samples, n_components)
            A dask array, not yet computed, where X is a dask collection.
        """
        return self._lazily("transform", X)


def _as_array(X):
    """Rows as a dask array of known chunks, which cut rows only, of float32 or float64."""
    import dask.array as da

    if hasattr(X, "to_dask_array"):
        X = X.to_dask_array(lengths=True)
    X = X if isinstance(X, da.Array) else da.from_array(np.asarray(X))
    if any(np.isnan(n) for n in X.chunks[0]):
        X = X.compute_chunk_sizes()
    X = X.rechunk({1: -1})
    return X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)


def _chunks(X, *columns):
    """Number, rows and columns (y and weights) of every chunk that has rows; to be delayed."""
    import dask.array as da

    parts = [X.to_delayed().ravel()]
    for column in columns:
        if column is None:
            parts.append([None] * len(parts[0]))
            continue
        if hasattr(column, "to_dask_array"):
            column = column.to_dask_array(lengths=True)
        column = column if isinstance(column, da.Array) else da.from_array(np.asarray(column))
        if column.shape[0] != X.shape[0]:
            raise ValueError(f"X has {X.shape[0]} rows, y or sample_weight {column.shape[0]}.")
        column = column.rechunk((X.chunks[0], *column.shape[1:]))
        parts.append(column.to_delayed().ravel())
    numbered = zip(range(1, len(parts[0]) + 1), *parts, strict=True)
    return [chunk for chunk, n in zip(numbered, X.chunks[0], strict=True) if n]


def _tree(function, parts, *arguments):
    """What a function of a list of parts makes of all, a few at a time."""
    while True:
        parts = [
            function(parts[start : start + _FAN], *arguments)
            for start in range(0, len(parts), _FAN)
        ]
        if len(parts) == 1:
            return parts[0]


def _rows(chunk):
    """Validated rows, targets and weights of a chunk."""
    number, X, y, w, encode = chunk
    try:
        X = check_array(X, dtype=[np.float64, np.float32])
        w = np.ones(len(X)) if w is None else check_array(w, ensure_2d=False, dtype=np.float64)
        if (w < 0).any():
            raise ValueError("sample_weight has negative values.")
        return X, *encode(y, to_tensor(w))
    except ValueError as error:
        raise ValueError(f"Chunk {number}: {error}") from error


def _as_targets(y, w):
    y = check_array(y, ensure_2d=False, dtype=np.float64)
    return to_tensor(y).reshape(len(w), -1), w


class _Indicators:
    """Targets +1 and -1, and weights with those of the classes."""

    def __init__(self, class_weight, classes):
        self.model = LocalDEQKernelRidgeClassifier(class_weight=class_weight)
        self.classes = classes

    def __call__(self, y, w):
        return self.model._targets(np.asarray(y), w, self.classes)[1:]


def _labels(chunk):
    _, _, y, w = chunk
    y = np.asarray(y)
    return unique_labels(y if w is None else y[np.asarray(w) > 0])


def _union(labels):
    return np.unique(np.concatenate(labels))


def _sample(chunk, n):
    """Keys, rows, targets and weights of the n distinct rows with the smallest keys."""
    X, y, w = _rows(chunk)
    keys = row_keys(X, make_generator(0))
    kept = w > 0
    return _smallest([(keys[kept], to_tensor(X)[kept], y[kept], w[kept])], n)


def _smallest(samples, n):
    """The n distinct rows with the smallest keys of samples, by key; repeated ones are merged."""
    keys, X, y, w = (torch.cat(parts) for parts in zip(*samples, strict=True))
    distinct, _ = smallest_keys(keys, n)
    if not len(distinct):
        return keys, X, y, w
    kept = keys <= distinct[-1]
    keys, X, y, w = keys[kept], X[kept], y[kept], w[kept]
    first, y, w = merge_repeated_rows(X, y, w, keys)
    if first is not None:
        keys, X = keys[first], X[first]
    order = torch.argsort(keys)
    return keys[order], X[order], y[order], w[order]


def _part(stream, chunk, classify):
    """The Part of a chunk."""
    return part_of(stream, *_rows(chunk), classify)


def _sum(parts):
    return reduce(Part.plus, parts)


def _norms(X):
    return row_norms(check_array(X, dtype=[np.float64, np.float32], ensure_min_samples=0))
