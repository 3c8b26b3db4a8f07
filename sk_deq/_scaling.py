"""The scaling of the input rows that every estimator shares."""

import numpy as np
import torch

from ._state import storable

INPUT_SCALINGS = ("rms", "sphere", None)
NETWORK_SCALINGS = ("centered", *INPUT_SCALINGS)
_TILE = 2**16  # rows whose norms are computed at once


def _namespace(X):
    return torch if isinstance(X, torch.Tensor) else np


def row_norms(X):
    """Euclidean norms of the rows, which neither overflow nor underflow."""
    xp = _namespace(X)
    if len(X) > _TILE:  # X may be mapped from a file
        tiles = [row_norms(X[start : start + _TILE]) for start in range(0, len(X), _TILE)]
        return xp.concatenate(tiles)
    peak = xp.amax(abs(X), 1)
    peak = xp.where(peak > 0, peak, xp.ones_like(peak))
    return peak * xp.linalg.norm(X / peak[:, None], None, 1)


def root_mean_square_norm(X, sample_weight=None):
    """(sum_i w_i |x_i|^2 / sum_i w_i)^(1/2) as a float: the tau0 of the theory."""
    norms = row_norms(X)
    peak = float(norms.max())
    if peak == 0:
        return 0.0
    squares = (norms / peak) ** 2
    if sample_weight is None:
        return peak * float(squares.mean()) ** 0.5
    return peak * float((sample_weight * squares).sum() / sample_weight.sum()) ** 0.5


def column_means(X, weight):
    """Of X (n, n_features), rows weighted, None for equally."""
    if weight is None:
        return X.mean(0)
    share = weight / weight.sum()
    return (share.to(X) if _namespace(X) is torch else share) @ X


def standard_deviations(values, weight):
    """Of the columns of a tensor (n, ..), rows weighted; they neither overflow nor underflow."""
    share = weight / weight.sum()
    centred = values - column_means(values, weight)
    peak = centred.abs().amax(0)
    peak = peak.where(peak > 0, 1.0)
    return peak * (share @ (centred / peak).square()).sqrt()


@storable
class InputScaler:
    """Bring rows to the scale at which the theory describes them.

    Takes numpy arrays and torch tensors alike and returns what it was given, in the same dtype.

    Parameters
    ----------
    mode : {"rms", "centered", "sphere", None}, default="rms"
        "rms": divide X by the root-mean-square row norm of the training rows, so that tau0 = 1.
        "centered": subtract the means of the columns first.
        "sphere": scale as "rms", append the constant coordinate sqrt(bias_var / input_var) if
        bias_var > 0, then scale every row to unit norm. The constant coordinate *is* the bias, so
        the bias is used up (``bias_var_`` is 0) and the norm of a row is not lost.
        None: leave X as it is.
    input_var : float, default=1.0
        Variance of the input weights, positive if bias_var is.
    bias_var : float, default=0.0
        Variance of the input bias.

    Attributes
    ----------
    mean_ : tensor of shape (n_features,) or None
        What is subtracted from X, by mode "centered".
    scale_ : float
        What X is divided by, before any constant coordinate; 1 for mode None and for all-zero X.
    tau0_ : float
        Root-mean-square norm of the scaled training rows; 1 for "rms" and "sphere".
    bias_var_ : float
        The bias variance that is left for the model to use.
    n_features_out_ : int
        Number of columns after ``transform``.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[3.0, 4.0], [0.0, 0.0]])
    >>> InputScaler("sphere", bias_var=1.0).fit(X).transform(X)
    array([[0.49, 0.65, 0.58],
           [0.  , 0.  , 1.  ]])
    """

    def __init__(self, mode="rms", *, input_var=1.0, bias_var=0.0):
        self.mode = mode
        self.input_var = input_var
        self.bias_var = bias_var

    def fit(self, X, sample_weight=None):
        """Measure the scale of the training rows, weighted by `sample_weight` (n,) if given."""
        if self.mode not in NETWORK_SCALINGS:
            raise ValueError(
                f"input_scaling={self.mode!r} is unknown; use one of {NETWORK_SCALINGS}."
            )
        appends = self.mode == "sphere" and self.bias_var > 0
        if appends and not self.input_var > 0:
            raise ValueError(
                "input_scaling='sphere' writes the bias as an input coordinate of size "
                "sqrt(bias_var / input_var), which needs input_var > 0; got "
                f"input_var={self.input_var}. Use input_scaling='rms' or bias_var=0."
            )
        self.mean_ = None
        if self.mode == "centered":
            self.mean_ = torch.as_tensor(column_means(X, sample_weight)).cpu()
            X = self._centered(X)
        tau0 = root_mean_square_norm(X, sample_weight)
        self.constant_ = (self.bias_var / self.input_var) ** 0.5 if appends else None
        self.bias_var_ = 0.0 if appends else self.bias_var
        self.scale_ = 1.0 if self.mode is None or tau0 == 0 else tau0
        self.tau0_ = tau0 if self.mode is None else 1.0
        self.n_features_out_ = X.shape[1] + appends
        return self

    def transform(self, X):
        """Scale the rows of X, shape (n, n_features) to (n, n_features_out_)."""
        if self.mode is None:
            return X
        xp = _namespace(X)
        X = self._centered(X) / self.scale_
        if self.mode != "sphere":
            return X
        if self.constant_ is not None:
            X = xp.concatenate([X, xp.full_like(X[:, :1], self.constant_)], 1)
        norms = row_norms(X)
        return X / xp.where(norms > 0, norms, xp.ones_like(norms))[:, None]

    def _centered(self, X):
        """Rows less the means of the columns, by mode "centered"; others as they are."""
        if self.mean_ is None:
            return X
        return X - (self.mean_.to(X) if _namespace(X) is torch else self.mean_.numpy())
