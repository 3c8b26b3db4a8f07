r"""Plots of what the theory says, of how well it holds, and of what was fitted.

Every display is made by a ``from_...`` class method that computes what it shows, keeps it in
attributes, and draws it with ``plot``, again if you like. matplotlib is needed for drawing only:
``pip install 'sk-deq[plot]'``.
"""

from ._activation import ActivationDisplay
from ._convergence import ConvergenceDisplay
from ._equivalence import EquivalenceDisplay
from ._feature_weights import FeatureWeightsDisplay
from ._spectrum import SpectrumDisplay

__all__ = [
    "ActivationDisplay",
    "ConvergenceDisplay",
    "EquivalenceDisplay",
    "FeatureWeightsDisplay",
    "SpectrumDisplay",
]
