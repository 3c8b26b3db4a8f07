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
        Keys, rows, targets and weights of held-out rows, to calibrate on, of a classifier.
    """

    n_chunks: int
    first: FittedRidge
    alphas: list
    sums: list
    center: torch.Tensor
    kept: tuple

    def plus(self, part):
        """The Stream with the Part of one more chunk."""
        both = Part(self.sums, self.kept).plus(part)
        return replace(self, n_chunks=self.n_chunks + 1, sums=both.sums, kept=both.kept)


@dataclass(frozen=True)
class Part:
    """What a chunk, or several, add to a Stream: see there."""

    sums: list
    kept: tuple

    def plus(self, other):
        """The Part of both."""
        if not self.sums:
            return other
        sums = [one.merged(two) for one, two in zip(self.sums, other.sums, strict=True)]
        kept = [torch.cat(pair) for pair in zip(self.kept, other.kept, strict=True)]
        return Part(sums, _fewest(*kept))


def begin_stream(X, y, w, config):
    """The Stream that rows begin, as for `fit_ridge`; they are not in its sums yet."""
    first = fit_ridge(X, y, w, config)
    return Stream(
        0, first, first.path[0] if first.path else [first.solution.alpha], [], w @ y / w.sum(), ()
    )


def part_of(stream, X, y, w, classify):
    """The Part of rows X (n, n_features), targets y (n, n_outputs) and weights w (n,)."""
    kernel = stream.first.rows.kernel
    held_out, kept = None, ()
    if len(stream.alphas) > 1 or classify:
        keys = row_keys(X, make_generator(0)) * _MIX
        held_out = (keys % _HELD_OUT == 0) & (w > 0)
        if classify:
            rows = to_tensor(X)
            rows = rows[held_out.to(rows.device)]
            kept = _fewest(keys[held_out], rows, y[held_out], w[held_out])
    features = Features(kernel.matrix, stream.first.rows.scaled)
    sums = accumulate(features, lambda part: kernel.rows(X[part]), y - stream.center, w, held_out)
    return Part(sums, kept)


def _fewest(*kept):
    """Of keys, rows, targets and weights those of the smallest keys."""
    if not kept:
        return ()
    _, first = smallest_keys(kept[0], _MOST_KEPT)
    return tuple(part[first.to(part.device)] for part in kept)


def solved(stream, classify):
    """The FittedRidge of all rows so far."""
    first, sums, alphas = stream.first, stream.sums, stream.alphas
    features = Features(first.rows.kernel.matrix, first.rows.scaled)
    if len(sums) > 1 and not all(bool(part.weight > 0) for part in sums):
        sums, alphas = [sums[0].merged(sums[1])], [first.solution.alpha]  # nothing to choose by
    solution, (beta, constant) = solve_sums(features, sums, alphas, stream.center)
    out_of_sample = first.out_of_sample if classify else None  # of the first chunk alone
    if classify and len(sums) > 1:
        _, X, y, w = stream.kept
        coef = features.dual_coef(beta).to(features.landmarks)
        predictions = (first.rows.matrix(X) @ coef).double() + constant
        out_of_sample = predictions.to(y) + stream.center.to(y), y, w
    return replace(
        first, solution=solution, out_of_sample=out_of_sample,
        path=None if solution.errors is None else (alphas, solution.errors),
    )  # fmt: skip
