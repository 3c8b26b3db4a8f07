"""ActivationDisplay."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from .._theory.activations import get_activation
from .._theory.layers import resolve_layers
from ..theory import deq_scale
from ._display import Display
from ._features import deq_parameters


class ActivationDisplay(Display):
    r"""A DEQ's activation, and those of the explicit network matched to it.

    All are drawn against the pre-activation in units of its own standard deviation, so that the
    horizontal axis is a standard normal variable for each.

    Parameters
    ----------
    t : ndarray of shape (n_points,)
        Pre-activations, in standard deviations.
    activations : dict of {str: ndarray of shape (n_points,)}
        Values of each activation, centred.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        One per activation.

    See Also
    --------
    ActivationDisplay.from_layers : Compare a DEQ's activation with given layers.
    ActivationDisplay.from_estimator : Compare those of a fitted estimator.

    Examples
    --------
    >>> from sk_deq.inspection import ActivationDisplay
    >>> from sk_deq.theory import match_explicit
    >>> match = match_explicit("relu", recurrent_var=0.2)
    >>> display = ActivationDisplay.from_layers("relu", match.layers, recurrent_var=0.2)
    >>> list(display.activations)
    ['DEQ, relu', 'layer 1, leaky_relu', 'layer 2, leaky_relu']
    """

    def __init__(self, *, t: np.ndarray, activations: dict[str, np.ndarray]):
        self.t = t
        self.activations = activations

    @classmethod
    def from_layers(
        cls, activation: str | Callable, layers: Sequence[Any], *, recurrent_var: float,
        input_var: float | None = None, bias_var: float = 0.0, center: bool = True,
        tau0: float = 1.0, ax: Any = None, **kwargs: Any,
    ) -> Self:  # fmt: skip
        """Compare a DEQ's activation with the layers of an explicit network.

        Parameters
        ----------
        activation : str or callable
            The DEQ's activation.
        layers : sequence of Layer, str or callable
            For instance ``match_explicit(...).layers``.
        recurrent_var, input_var, bias_var : float
            As in :func:`sk_deq.theory.deq_scale`.
        center : bool, default=True
            As in :func:`sk_deq.theory.deq_scale`.
        tau0 : float, default=1.0
            As in :func:`sk_deq.theory.deq_scale`.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **kwargs
            For ``Axes.plot``.

        Returns
        -------
        display : ActivationDisplay
        """
        spec = {"recurrent_var": recurrent_var, "input_var": input_var, "bias_var": bias_var}
        t, curves = _deq_activation(activation, **spec, center=center, tau0=tau0)
        for number, layer in enumerate(resolve_layers(layers, np.hypot(tau0, bias_var**0.5)), 1):
            curves[f"layer {number}, {layer.family}"] = layer(layer.scale * t).numpy()
        return cls(t=t.numpy(), activations=curves).plot(ax=ax, **kwargs)

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kwargs: Any) -> Self:
        """Compare the activations that a fitted estimator was matched to and has.

        Parameters
        ----------
        estimator : KernelMatcher or EquivalentExplicit estimator
            Fitted. The activations of an exact match are those for a row of norm ``tau0_``.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **kwargs
            For ``Axes.plot``.

        Returns
        -------
        display : ActivationDisplay

        Raises
        ------
        TypeError
            If the estimator was not matched to a DEQ.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "match_"):
            raise TypeError(
                "estimator must be matched to a DEQ: a KernelMatcher or an EquivalentExplicit "
                f"estimator, got {type(estimator).__name__}."
            )
        spec = deq_parameters(estimator)
        if hasattr(estimator.match_, "layers"):
            layers = estimator.match_.layers
            return cls.from_layers(spec.pop("activation"), layers, **spec, ax=ax, **kwargs)
        t, curves = _deq_activation(**spec)
        norm = torch.tensor([spec["tau0"]], dtype=torch.float64)
        for number, gates in enumerate(estimator.match_.gates(norm)[:, 0], 1):
            values = estimator.match_.apply(t, gates)
            curves[f"matched, group {number}"] = values.numpy()
        return cls(t=t.numpy(), activations=curves).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the activations.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **kwargs
            For ``Axes.plot``.

        Returns
        -------
        display : ActivationDisplay
        """
        ax = self._axes(ax)
        self._lines({name: (self.t, values) for name, values in self.activations.items()}, kwargs)
        ax.set(xlabel="pre-activation / its standard deviation", ylabel="activation, centred")
        return self


def _deq_activation(activation, *, center, **spec):
    """A grid of standard pre-activations, and on it the DEQ's activation as a dict of one curve."""
    tau, mean = deq_scale(activation, center=center, **spec)
    t = torch.linspace(-4, 4, 401, dtype=torch.float64)
    activation = get_activation(activation)
    return t, {f"DEQ, {activation.name}": (activation(tau * t) - mean).numpy()}
