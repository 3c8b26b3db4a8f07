r"""Columns as the kernel sees them, and which of them share a feature weight.

"plain" leaves them as they are. "quantile" adds to every number its normal score, the quantile of
the normal distribution at its rank, so that the tails of a skewed column are pulled in and its
crowded middle is spread. "bins" adds the piecewise-linear encoding, clip((x - a) / (b - a), 0, 1)
for each of 16 bins [a, b] of as many rows, so that one range of a number can matter more than
another (Gorishniy, Rubachev and Babenko, NeurIPS 2022). "both" adds both, which many rows can tell
apart.
"""

from dataclasses import dataclass

import torch

from .._scaling import standard_deviations
from .._state import storable
from .._torch import single_thread

ENCODINGS = ("both", "quantile", "bins", "plain")  # in this order
MAX_NUMBERS = 100  # numeric columns that are encoded; more are pixels or spectra
_N_BINS = 16
_FEW_VALUES = 4  # a column of so many distinct values has no ranks to speak of
_MAX_KNOTS = 256  # of a normal score
_MANY_ROWS, _PER_NUMBER = 700, 50  # rows from which, in all and for every number, "both" is best
_RARE = 5  # rows in which a column leaves its most frequent value, to have a weight of its own


@storable
@dataclass(frozen=True)
class Encoding:
    """Columns that are added to those of a table; made by `fit_encodings`.

    Parameters
    ----------
    kind : {"plain", "quantile", "bins", "both"}
    scores : tuple of (column, knots, values)
        Columns that get a piecewise linear function of themselves.
    blocks : tensor of shape (n_encoded,)
        Which weight an encoded column has.
    sources : tensor of shape (n_encoded,)
        The column that an encoded one comes from.
    """

    kind: str
    scores: tuple
    blocks: torch.Tensor
    sources: torch.Tensor

    @single_thread()
    def transform(self, X):
        """Encode a tensor (n, n_features) as (n, n_encoded), the plain columns first."""
        if not self.scores:
            return X
        return torch.cat([X, *(_interpolate(X[:, j], x, y) for j, x, y in self.scores)], 1)

    def per_source(self, weights, moments):
        """Weights (n_encoded,) of columns of mean squares `moments` as weights of the sources.

        What a source and its encodings add to the mean squared norm, over what it would alone; in
        such units that the norm of plain columns is kept.
        """
        share = torch.zeros_like(moments[: self.n_features])
        share = share.index_add(0, self.sources.to(share.device), weights * moments)
        plain = moments[: self.n_features]
        share = share * (plain.sum() / share.sum())
        return torch.where(plain > 0, share / plain.where(plain > 0, 1), 1.0)

    @property
    def n_features(self):
        """Number of columns before they are encoded."""
        return int(self.sources.max()) + 1


def kinds_of(encoding):
    """The kinds that an estimator's parameter `encoding` leaves to choose from.

    `fit_encodings` leaves out "both" or its parts, by the number of rows.
    """
    return ENCODINGS if encoding == "auto" else (encoding or "plain",)


def plain_encoding(X):
    """The Encoding that adds nothing, for a tensor X (n, n_features)."""
    return Encoding("plain", (), _blocks(X), torch.arange(X.shape[1]))


@single_thread()
def fit_encodings(X, w, kinds=ENCODINGS):
    """The Encodings of these kinds that suit rows X (n, n_features) of weights w (n,)."""
    plain = plain_encoding(X)
    found = {"plain": plain}
    numbers = [j for j in range(X.shape[1]) if len(torch.unique(X[:, j])) > _FEW_VALUES]
    if not 0 < len(numbers) <= MAX_NUMBERS:
        return [plain]
    if len(kinds) > 1:
        many = len(X) >= max(_MANY_ROWS, _PER_NUMBER * len(numbers))
        needless = {"quantile", "bins"} if many else {"both"}
        kinds = [kind for kind in kinds if kind not in needless]
    for kind, functions in _FUNCTIONS.items():
        if kind not in kinds:
            continue
        parts = [(j, *knots(X[:, j], w)) for knots in functions for j in numbers]
        widths = torch.tensor([y.shape[1] for _, _, y in parts])
        first = int(plain.blocks.max()) + 1
        blocks = torch.arange(first, first + len(parts)).repeat_interleave(widths)
        sources = torch.tensor([j for j, _, _ in parts]).repeat_interleave(widths)
        found[kind] = Encoding(
            kind, tuple(parts),
            torch.cat([plain.blocks, blocks]), torch.cat([plain.sources, sources]),
        )  # fmt: skip
    return [found[kind] for kind in kinds]


def _interpolate(x, knots, values):
    """Piecewise linear functions (n_knots, k) of x (n,), constant outside the knots: (n, k)."""
    knots, values = knots.to(x), values.to(x)
    x = x.clamp(knots[0], knots[-1])
    right = torch.searchsorted(knots, x.contiguous()).clamp_(1, len(knots) - 1)
    left = right - 1
    share = ((x - knots[left]) / (knots[right] - knots[left]))[:, None]
    return torch.lerp(values[left], values[right], share)


def _ranks(x, w):
    """Distinct values of x, ascending, and the share of the weight below the middle of each."""
    values, index = torch.unique(x, return_inverse=True)
    weight = w.new_zeros(len(values)).index_add_(0, index, w)
    total = weight.cumsum(0)
    return values, (total - weight / 2) / total[-1], weight


def _normal_scores(x, w):
    """Knots (m,) and normal scores (m, 1) of the variance of x."""
    values, ranks, weight = _ranks(x, w)
    scores = torch.special.ndtri(ranks)
    mean, square = (weight @ scores) / weight.sum(), (weight @ scores.square()) / weight.sum()
    scores = (scores - mean) * (standard_deviations(values, weight) / (square - mean**2).sqrt())
    if len(values) > _MAX_KNOTS:
        kept = torch.searchsorted(ranks, torch.linspace(0, 1, _MAX_KNOTS).to(ranks))
        kept = torch.unique(kept.clamp_(0, len(values) - 1))
        values, scores = values[kept], scores[kept]
    return values, scores[:, None]


def _bins(x, w):
    """Edges (m,) of the bins and the encoding (m, n_bins) at them, of the size of x."""
    values, ranks, weight = _ranks(x, w)
    inner = torch.arange(1, _N_BINS, dtype=ranks.dtype) / _N_BINS
    at = torch.searchsorted(ranks, inner.to(ranks)).clamp_(0, len(values) - 1)
    edges = torch.unique(torch.cat([values[:1], values[at], values[-1:]]))
    encoded = torch.ones(len(edges), len(edges) - 1).to(x).tril(-1)
    mean = torch.stack([weight @ row for row in _interpolate(values, edges, encoded).T])
    return edges, (encoded - mean / weight.sum()) * standard_deviations(values, weight)


_FUNCTIONS = {
    "quantile": (_normal_scores,),
    "bins": (_bins,),
    "both": (_normal_scores, _bins),
}


def _blocks(X):
    """The weight that each column of X has: its own, or that of a block.

    Indicators side by side of which every row has one, as one-hot encoding makes them, are one
    block; columns that leave their most frequent value in a few rows only are another, for a weight
    of their own would be learnt from these rows.
    """
    low, high = X.amin(0), X.amax(0)
    indicator = ((low == X) | (high == X)).all(0) & (low < high)
    owner, blocks, start = (X == high) & indicator, [], 0
    n_features = X.shape[1]
    while start < n_features:
        stop = _end_of_one_hot(owner, indicator, start)
        blocks += [start] * (stop - start)
        start = stop
    blocks = torch.tensor(blocks)
    alone = torch.bincount(blocks, minlength=n_features)[blocks] == 1
    rare = torch.tensor([len(X) - int(_most_frequent(column)) < _RARE for column in X.T])
    blocks[rare & alone] = n_features
    return torch.unique(blocks, return_inverse=True)[1]


def _end_of_one_hot(owner, indicator, start):
    """One after the last column of the block that starts here, which may be a single column."""
    covered = owner.new_zeros(len(owner))
    for stop in range(start, owner.shape[1]):
        if not indicator[stop] or bool((covered & owner[:, stop]).any()):
            break
        covered = covered | owner[:, stop]
        if bool(covered.all()):
            return stop + 1
    return start + 1


def _most_frequent(column):
    return torch.unique(column, return_counts=True)[1].max()
