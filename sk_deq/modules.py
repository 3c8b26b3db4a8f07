"""The deep equilibrium model and the explicit network as plain torch modules.

They give features; put a readout, any module, behind them. Neither knows of estimators.
"""

from ._nets.modules import DEQ, ExplicitNetwork

__all__ = ["DEQ", "ExplicitNetwork"]
