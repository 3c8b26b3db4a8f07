"""Deep equilibrium models, their kernels and their equivalent explicit networks."""

from ._kernel_matcher import KernelMatcher

__all__ = ["KernelMatcher"]

__version__ = "0.1.0.dev0"
