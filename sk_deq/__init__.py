"""Deep equilibrium models, their kernels and their equivalent explicit networks."""

from ._deq import DEQClassifier, DEQRegressor
from ._explicit import EquivalentExplicitClassifier, EquivalentExplicitRegressor
from ._kernel_matcher import KernelMatcher
from ._kernel_ridge import DEQKernelRidge, DEQKernelRidgeClassifier

__all__ = [
    "DEQClassifier",
    "DEQKernelRidge",
    "DEQKernelRidgeClassifier",
    "DEQRegressor",
    "EquivalentExplicitClassifier",
    "EquivalentExplicitRegressor",
    "KernelMatcher",
]

__version__ = "0.1.0.dev0"
