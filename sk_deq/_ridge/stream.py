"""Kernel ridge regression on rows that come in chunks: `partial_fit` by the normal equations.

A first chunk settles what the sums are of: kernel, landmarks, candidates for alpha. Later ones add
to the sums, so that the order of the chunks and their sizes do not matter.
"""

from dataclasses import dataclass, replace

import torch

from .._array_api import take
from .._row_keys import another_order, smallest_rows
from .._solve.calibration import class_shares, known_rows
from .._solve.nystroem import (
    MOST_PREDICTED,
    Features,
    accumulate,
    first_held_out,
    is_held_out,
    landmarks_of,
    solve_sums,
)
from .._state import storable
from .fit import FittedRidge, n_landmarks
from .kernel import FittedRows
from .rows import TrainingRows
from .settle import Settled, settle, settling_rows


@storable
@dataclass(frozen=True)
class Stream:
    """What is known after some chunks.

    Parameters
    ----------
    n_chunks : int
    seed : int
        Of the keys of rows.
    settled : Settled
        By the first chunk.
    landmarks : FittedRows
    first_held_out : int or None
        See `is_held_out`; None where no rows are held out.
    center : tensor of shape (n_outputs,)
        What is subtracted from the targets.
    sums : list of Sums
        Of the rows, or of those not held out and those that are.
    kept : tuple of tensors
        Keys, rows, targets and weights of held-out rows, to calibrate on, of a classifier.
    """

    n_chunks: int
    seed: int
    settled: Settled
    landmarks: FittedRows
    first_held_out: int | None
    center: torch.Tensor
    sums: list
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
        kept = tuple(torch.cat(pair) for pair in zip(self.kept, other.kept, strict=True))
        return Part(sums, smallest_rows(*kept, MOST_PREDICTED) if kept else ())


def begin_stream(X, y, w, config):
    """The Stream that rows begin, which may be those of the smallest keys of all only.

    They are not in its sums yet.
    """
    rows = TrainingRows(X, y, w, config.seed)
    n = n_landmarks("nystroem", config)
    distinct = settling_rows(rows, "nystroem", n)
    settled = settle(distinct, config, "nystroem")
    landmarks = config.landmarks
    if landmarks is None:
        landmarks = take(X, landmarks_of(rows.keys, w > 0, n))
    validate = len(settled.alphas) > 1 or config.classify
    distinct = distinct.in_units(settled.scale, settled.unit)
    return Stream(
        n_chunks=0, seed=config.seed, settled=settled,
        landmarks=FittedRows(settled.kernel, landmarks),
        first_held_out=first_held_out(distinct.keys) if validate else None,
        center=distinct.w @ distinct.y / distinct.w.sum(), sums=[], kept=(),
    )  # fmt: skip


def part_of(stream, X, y, w, classify):
    """The Part of rows X (n, n_features), targets y (n, n_outputs) and weights w (n,)."""
    settled, held_out, kept = stream.settled, None, ()
    rows = TrainingRows(X, y, w, stream.seed).in_units(settled.scale, settled.unit)
    if stream.first_held_out is not None:
        held_out = is_held_out(rows.keys, w > 0, stream.first_held_out)
    if classify:
        order = another_order(rows.keys)
        kept = smallest_rows(order, X, rows.y, rows.w * held_out, MOST_PREDICTED)
    features = Features(settled.kernel.matrix, stream.landmarks.scaled)
    y = rows.y - stream.center
    sums = accumulate(features, lambda at: settled.kernel.rows(X[at]), y, rows.w, held_out)
    return Part(sums, kept)


def _known(stream, y):
    """Which rows with targets y are of classes that rows which are not held out have; or all."""
    rest = stream.sums[0]
    mean = (rest.targets / rest.weight).to(y) + stream.center.to(y)
    return known_rows(class_shares(y), class_shares(mean[None])[0])


def solved(stream, classify):
    """The FittedRidge of all rows so far."""
    settled, rows = stream.settled, stream.landmarks
    features = Features(settled.kernel.matrix, rows.scaled)
    solution, (beta, constant) = solve_sums(features, stream.sums, settled.alphas, stream.center)
    out_of_sample = None
    if classify:
        _, X, y, w = stream.kept
        coef = features.dual_coef(beta).to(features.landmarks)
        predictions = (rows.matrix(X) @ coef).double() + constant
        out_of_sample = predictions.to(y) + stream.center.to(y), y, w, _known(stream, y)
    return FittedRidge.of(settled, rows, solution, "nystroem", out_of_sample)
