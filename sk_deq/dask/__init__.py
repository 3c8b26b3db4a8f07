"""The kernel estimators on dask arrays and data frames, whose rows stay where they are.

Every chunk gives its part of sums over rows, and the parts are added up as a tree. Workers that are
lost on the way do not matter: dask computes their parts again.
"""

from .matcher import KernelMatcher
from .ridge import DEQKernelRidge, DEQKernelRidgeClassifier

__all__ = ["DEQKernelRidge", "DEQKernelRidgeClassifier", "KernelMatcher"]
