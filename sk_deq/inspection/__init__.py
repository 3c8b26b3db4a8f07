r"""Plots of what the theory says and of how well it holds, as scikit-learn displays.

Every display is made by a ``from_...`` class method that computes what it shows, keeps it in
attributes, and draws it with ``plot``, again if you like. matplotlib is needed for drawing only:
``pip install 'sk-deq[plot]'``.
"""

from ._activation import ActivationDisplay
from ._convergence import ConvergenceDisplay
from ._equivalence import EquivalenceDisplay
from ._spectrum import SpectrumDisplay

__all__ = ["ActivationDisplay", "ConvergenceDisplay", "EquivalenceDisplay", "SpectrumDisplay"]
