"""Kernel ridge regression on rows that come in chunks: `partial_fit` by the normal equations.

A first chunk settles what the sums are of: kernel, landmarks, candidates for alpha. Later ones add
to the sums, so that the order of the chunks and their sizes do not matter.
"""

from dataclasses import dataclass, replace

import torch

from .._row_keys import row_keys, smallest_keys
from .._solve.nystroem import Features, accumulate, solve_sums
from .._state import storable
from .._torch import make_generator, to_tensor
from .fit import FittedRidge, fit_ridge

_HELD_OUT = 10  # one row in so many is held out to choose alpha and to calibrate
_MOST_KEPT = 2000  # rows of those, for calibration
_MIX = -0x61C8864680B583EB  # an order of its own, as in `landmarks_and_held_out`


@storable
@dataclass(frozen=True)
class Stream:
    """What is known after some chunks.

    Parameters
    ----------
    n_chunks : int
    first : FittedRidge
        Of the first chunk: its rows are the landmarks, its kernel and parameters stay.
    alphas : list of float
        The candidates.
    sums : list of Sums
        Of the rows, or of those not held out and those that are.
    center : tensor of shape (n_outputs,)
        What was subtracted from the targets.
    kept : tuple of tensors
        Keys, rows, targets and weights of held-out rows, to calibrate on.
    """

    n_chunks: int
    first: FittedRidge
    alphas: list
    sums: list
    center: torch.Tensor
    kept: tuple


def add_chunk(stream, X, y, w, config):
    """The FittedRidge of all chunks so far and the Stream to go on with.

    Parameters
    ----------
    stream : Stream or None
        After the chunks before; None for the first.
    X : ndarray or tensor of shape (n, n_features)
    y : tensor of shape (n, n_outputs), float64
    w : tensor of shape (n,), float64
        Weights >= 0, not all 0 in the first chunk.
    config : RidgeConfig
    """
    if stream is None:
        first = fit_ridge(X, y, w, config)
        alphas = first.alphas or [first.solution.alpha]
        stream = Stream(0, first, alphas, [], w @ y / w.sum(), ())
    landmarks, kernel = stream.first.rows, stream.first.rows.kernel
    features = Features(kernel.matrix, landmarks.scaled)
    held_out = keys = None
    if len(stream.alphas) > 1 or config.classify:
        keys = row_keys(X, make_generator(0)) * _MIX
        held_out = (keys % _HELD_OUT == 0) & (w > 0)
    sums = accumulate(features, lambda part: kernel.rows(X[part]), y - stream.center, w, held_out)
    if stream.sums:
        sums = [new.merged(old) for new, old in zip(sums, stream.sums, strict=True)]
    kept = _kept(stream.kept, keys, held_out, X, y, w) if config.classify else ()
    stream = replace(stream, n_chunks=stream.n_chunks + 1, sums=sums, kept=kept)
    return _solved(stream, features, config), stream


def _kept(before, *chunk):
    """Held-out rows with the smallest keys: those of before and those of a chunk."""
    keys, held_out, X, y, w = chunk
    X = to_tensor(X)
    index = held_out.to(X.device)
    parts = keys[held_out], X[index], y[held_out], w[held_out]
    if before:
        parts = [torch.cat(pair) for pair in zip(before, parts, strict=True)]
    _, first = smallest_keys(parts[0], _MOST_KEPT)
    return tuple(part[first.to(part.device)] for part in parts)


def _solved(stream, features, config):
    """The FittedRidge of all rows so far."""
    first, sums, alphas = stream.first, stream.sums, stream.alphas
    if len(sums) > 1 and not all(bool(part.weight > 0) for part in sums):
        sums, alphas = [sums[0].merged(sums[1])], [first.solution.alpha]  # nothing to choose by
    solution, (beta, constant) = solve_sums(features, sums, alphas, stream.center)
    out_of_sample = first.out_of_sample
    if config.classify and len(sums) > 1:
        _, X, y, w = stream.kept
        coef = features.dual_coef(beta).to(features.landmarks)
        predictions = (first.rows.matrix(X) @ coef).double() + constant
        out_of_sample = predictions.to(y) + stream.center.to(y), y, w
    return replace(
        first, solution=solution, out_of_sample=out_of_sample,
        alphas=alphas if solution.errors is not None else None,
    )  # fmt: skip
