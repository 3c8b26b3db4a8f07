"""What comes before a network: which kernel suits the table; rows encoded, weighted, scaled."""

from dataclasses import dataclass

import torch

from .._row_keys import row_keys
from .._scaling import InputScaler
from .._search.candidates import DEQ_PARAMETERS, HIGH_DIM, OF_NETWORKS, resolve
from .._search.encodings import ENCODINGS, Encoding, weighted
from .._search.search import Choice, search_kernel
from .._state import storable
from .._torch import make_generator

# of a DEQ, but for its kernel: a network's is the conjugate kernel until it is trained
NETWORK_PARAMETERS = tuple(name for name in DEQ_PARAMETERS if name != "kernel")


@storable
@dataclass(frozen=True)
class Preparation:
    """Rows as a network takes them.

    Parameters
    ----------
    encoding : Encoding or None
        Of the columns.
    feature_scale : tensor of shape (n_encoded,) or None
        What encoded columns are multiplied by.
    scaler : InputScaler
        Of the rows that come out.
    """

    encoding: Encoding | None
    feature_scale: torch.Tensor | None
    scaler: InputScaler

    def transform(self, X):
        """A tensor (n, n_features) as the network's rows."""
        return self.scaler.transform(weighted(X, self.encoding, self.feature_scale))


def prepare(X, w, choice):
    """The Preparation of a Choice, for training rows X (n, n_features) of weights w (n,)."""
    p, weights = choice.parameters, choice.feature_weights
    scale = None if weights is None else weights.sqrt()
    scaler = InputScaler(p["input_scaling"], input_var=p["input_var"], bias_var=p["bias_var"])
    return Preparation(choice.encoding, scale, scaler.fit(weighted(X, choice.encoding, scale), w))


def choose(X, target, w, given, *, search, classify, encoding, feature_weights, seed):
    """The Choice of DEQ parameters, encoding and feature weights for a network.

    Parameters
    ----------
    X : tensor of shape (n, n_features)
    target : tensor of shape (n, n_outputs)
        Of unit variance, or +1 and -1.
    w : tensor of shape (n,)
    given : dict
        The DEQ parameters to keep.
    search : bool
        Whether the others are searched; else they are the paper's.
    classify : bool
    encoding : {"auto", "quantile", "bins", None}
    feature_weights : bool
        Whether to learn them.
    seed : int
    """
    if not search:
        return Choice(resolve(given, [HIGH_DIM])[0])
    keys = row_keys(X, make_generator(seed))
    return search_kernel(
        X, target, w, keys, {"kernel": "ck", **given}, classify=classify, alphas=None,
        feature_weights=feature_weights, candidates=OF_NETWORKS,
        encodings=ENCODINGS if encoding == "auto" else (encoding or "plain",),
    )[0]  # fmt: skip
