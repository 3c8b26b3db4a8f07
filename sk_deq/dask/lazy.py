"""Dask collections as chunks of rows, and predictions that wait until they are asked for."""

import inspect
from functools import partial

import numpy as np


def documented_like(local):
    """Decorate an estimator: its docstring gets the parameters and attributes of a local one."""

    def decorate(cls):
        head, example = inspect.cleandoc(cls.__doc__).split("Examples\n")
        shared = inspect.cleandoc(local.__doc__)
        shared = shared[shared.index("Parameters\n---") : shared.index("See Also\n---")]
        link = f"See Also\n--------\nsk_deq.{local.__name__} : The local estimator.\n\n"
        cls.__doc__ = f"{head}{shared}{link}Examples\n{example}"
        return cls

    return decorate


class Lazy:
    """Predictions of dask collections, computed when they are asked for."""

    def _lazily(self, method, X):
        """A method of the local estimator on every chunk of X; on other rows, at once."""
        local = getattr(super(), method)
        if not hasattr(X, "dask"):
            return local(X)
        X = as_array(X)
        like = local(np.zeros((1, X.shape[1]), dtype=X.dtype))
        chunks = (X.chunks[0], *((n,) for n in like.shape[1:]))
        drop = 1 if like.ndim == 1 else None
        of_chunk = partial(_of_chunk, local, like[:0])
        return X.map_blocks(
            of_chunk, dtype=like.dtype, chunks=chunks, drop_axis=drop, meta=like[:0]
        )


def _of_chunk(method, nothing, chunk):
    """A method of a chunk, which may have no rows."""
    return method(chunk) if len(chunk) else nothing


def as_array(X):
    """Rows as a dask array of known chunks, which cut rows only, of float32 or float64."""
    import dask.array as da

    if hasattr(X, "to_dask_array"):
        X = X.to_dask_array(lengths=True)
    X = X if isinstance(X, da.Array) else da.from_array(np.asarray(X))
    if any(np.isnan(n) for n in X.chunks[0]):
        X = X.compute_chunk_sizes()
    X = X.rechunk({1: -1})
    return X if X.dtype in (np.float32, np.float64) else X.astype(np.float64)


def chunks_of(X, *columns):
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
    chunks = [chunk for chunk, n in zip(numbered, X.chunks[0], strict=True) if n]
    if not chunks:
        raise ValueError("X has no rows; a fit needs at least one row.")
    return chunks
