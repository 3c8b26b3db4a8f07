"""The deep equilibrium model and explicit networks as plain torch modules.

They give features; put a readout, any module, behind them. None knows of estimators.
"""

from ._nets.exact import ExactNetwork
from ._nets.modules import DEQ, ExplicitNetwork

__all__ = ["DEQ", "ExactNetwork", "ExplicitNetwork"]
