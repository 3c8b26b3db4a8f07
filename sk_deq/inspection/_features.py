"""Features of fitted estimators, their kernel, and the DEQ that they stand for."""

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from .._array_api import to_numpy
from .._kernel_matcher import KernelMatcher
from .._nets.base import BaseNetwork, scaled_rows
from .._nets.evaluation import forward_in_passes
from .._theory.matching import MatchResult
from .._torch import to_tensor
from ..kernels import deq_kernel


def deq_parameters(estimator):
    """The DEQ that a fitted estimator stands for, on its scaled rows."""
    names = ("activation", "recurrent_var", "input_var", "center")
    network = isinstance(estimator, BaseNetwork)
    scaler = estimator._scaler.scaler if network else estimator._scaler
    spec = {name: getattr(estimator, f"{name}_" if network else name) for name in names}
    return {**spec, "bias_var": scaler.bias_var_, "tau0": scaler.tau0_ or 1.0}


def network_of(estimator, X):
    """The estimator, or step of a pipeline, that has features, and the rows that it is given."""
    if isinstance(estimator, Pipeline):
        for _, step in estimator.steps:
            if isinstance(step, KernelMatcher | BaseNetwork):
                return step, X
            if not hasattr(step, "transform"):
                return None, X
            X = step.transform(X)
        return None, X
    return (estimator, X) if isinstance(estimator, KernelMatcher | BaseNetwork) else (None, X)


def is_ntk_of_training_all(network):
    """Whether a network was matched to an NTK that is not the kernel of its features."""
    matched = isinstance(getattr(network, "match_", None), MatchResult)
    if not isinstance(network, BaseNetwork) or not matched:
        return False
    return network.kernel_ == "ntk" and not (
        network._solves_readout or hasattr(network, "encoding_")
    )


def kernels_of(estimator, X):
    """The exact kernel of the DEQ that an estimator stands for, and that of its features."""
    network, X = network_of(estimator, X)
    if network is None:
        raise TypeError(
            "estimator must have features: a KernelMatcher, a DEQ or EquivalentExplicit estimator, "
            f"or a Pipeline with one, got {type(estimator).__name__}."
        )
    check_is_fitted(network)
    X = check_array(X, dtype=np.float64)
    kernel = getattr(network, "kernel_", getattr(network, "kernel", "ck"))
    if isinstance(network, KernelMatcher):
        Z = network.transform(X)
    else:
        if is_ntk_of_training_all(network):
            raise ValueError(
                "kernel='ntk' with train='all' matches the NTK of training every layer, which is "
                "not the kernel of the features; use kernel='ck' or train='readout'."
            )
        Z = (
            forward_in_passes(
                network.module_.features, scaled_rows(network.module_, network._scaler, X)
            )
            .cpu()
            .numpy()
        )
    Z = Z.astype(np.float64)
    rows = to_numpy(network._scaler.transform(to_tensor(X)))
    exact = deq_kernel(rows, kernel=kernel, **deq_parameters(network))
    return exact, Z @ Z.T
