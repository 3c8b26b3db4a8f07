"""Deep equilibrium models, their kernels and their equivalent explicit networks."""

__version__ = "0.1.0.dev0"
