"""Which DEQ a network is to be: found by the shared search, or the paper's."""

from .._row_keys import merge_repeated_rows, row_keys
from .._search.candidates import DEQ_PARAMETERS, HIGH_DIM, OF_NETWORKS, resolve
from .._search.encodings import kinds_of
from .._search.search import Choice, search_kernel
from .._torch import make_generator

# of a DEQ, but for its kernel: a network's is the conjugate kernel until it is trained
NETWORK_PARAMETERS = tuple(name for name in DEQ_PARAMETERS if name != "kernel")
# Steps of training are slow along the mean of the rows, which is large in images, say.
_TRAINED = {**HIGH_DIM, "input_scaling": "centered"}


def choose(X, target, w, given, *, searched, classify, encoding, feature_weights, seed):
    """The Choice of DEQ parameters, encoding and feature weights for a network.

    Parameters
    ----------
    X : tensor of shape (n, n_features)
    target : tensor of shape (n, n_outputs)
        Of unit variance, or +1 and -1.
    w : tensor of shape (n,)
    given : dict
        The DEQ parameters to keep.
    searched : bool
        Whether the others are; else they are the paper's.
    classify : bool
    encoding : {"auto", "quantile", "bins", "both", None}
    feature_weights : bool
        Whether to learn them.
    seed : int
    """
    if not searched:
        return Choice(resolve(given, [_TRAINED])[0])
    keys = row_keys(X, make_generator(seed))
    w = (w / w.min()).float().double()  # a weight of two is the same as two rows, to the last bit
    first, target, w = merge_repeated_rows(X, target, w, keys)
    if first is not None:
        X, keys = X[first], keys[first]
    return search_kernel(
        X, target, w / w.mean(), keys, given, classify=classify, alphas=None,
        feature_weights=feature_weights, candidates=OF_NETWORKS,
        encodings=kinds_of(encoding),
    )[0]  # fmt: skip
