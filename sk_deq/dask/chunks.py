"""What workers compute of a chunk of rows, and how it is put together."""

from functools import reduce

import numpy as np
import torch
from sklearn.utils.validation import check_array

from .._array_api import unique_labels
from .._ridge.classifier import DEQKernelRidgeClassifier
from .._ridge.stream import Part, part_of
from .._row_keys import row_keys, smallest_rows
from .._torch import make_generator, to_tensor

_FAN = 8  # parts that are put together at once


def tree(function, parts, *arguments):
    """What a function of a list of parts makes of all, a few at a time."""
    while True:
        parts = [
            function(parts[start : start + _FAN], *arguments)
            for start in range(0, len(parts), _FAN)
        ]
        if len(parts) == 1:
            return parts[0]


def rows_of_chunk(chunk):
    """Validated rows, targets and weights of a chunk."""
    number, X, y, w, encode, n_features = chunk
    try:
        X = check_array(X, dtype=[np.float64, np.float32])
        if X.shape[1] != n_features:
            raise ValueError(
                f"X has {X.shape[1]} features, not {n_features} as the dask array says."
            )
        w = np.ones(len(X)) if w is None else check_array(w, ensure_2d=False, dtype=np.float64)
        if (w < 0).any():
            raise ValueError("sample_weight has negative values.")
        return X, *encode(y, to_tensor(w))
    except ValueError as error:
        raise ValueError(f"Chunk {number}: {error}") from error


def targets_of(y, w):
    y = check_array(y, ensure_2d=False, dtype=np.float64)
    return to_tensor(y).reshape(len(w), -1), w


class Indicators:
    """Targets +1 and -1, and weights with those of the classes."""

    def __init__(self, class_weight, classes):
        self.model = DEQKernelRidgeClassifier(class_weight=class_weight)
        self.classes = classes

    def __call__(self, y, w):
        return self.model._targets(np.asarray(y), w, self.classes)[1:]


def labels_of(chunk):
    _, _, y, w = chunk
    y = np.asarray(y)
    return unique_labels(y if w is None else y[np.asarray(w) > 0])


def union_of(labels):
    return np.unique(np.concatenate(labels))


def sample_of(chunk, seed, n):
    """Keys, rows, targets and weights of the n distinct rows with the smallest keys."""
    X, y, w = rows_of_chunk(chunk)
    return smallest_rows(row_keys(X, make_generator(seed)), X, y, w, n)


def smallest_of(samples, n):
    """The n distinct rows with the smallest keys of samples."""
    return smallest_rows(*(torch.cat(parts) for parts in zip(*samples, strict=True)), n)


def part_of_chunk(stream, chunk, classify):
    """The Part of a chunk."""
    return part_of(stream, *rows_of_chunk(chunk), classify)


def sum_of(parts):
    return reduce(Part.plus, parts)
