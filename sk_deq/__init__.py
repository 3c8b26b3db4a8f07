"""Deep equilibrium models, their kernels and their equivalent explicit networks."""

from ._kernel_matcher import KernelMatcher
from ._nets.deq_classifier import DEQClassifier
from ._nets.deq_regressor import DEQRegressor
from ._nets.explicit_classifier import EquivalentExplicitClassifier
from ._nets.explicit_regressor import EquivalentExplicitRegressor
from ._ridge.classifier import DEQKernelRidgeClassifier
from ._ridge.regressor import DEQKernelRidge

__all__ = [
    "DEQClassifier",
    "DEQKernelRidge",
    "DEQKernelRidgeClassifier",
    "DEQRegressor",
    "EquivalentExplicitClassifier",
    "EquivalentExplicitRegressor",
    "KernelMatcher",
]

__version__ = "0.1.0"
