"""Explicit networks of infinite width: their layers, and their kernels as functions of a pair."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from .._state import storable
from . import duals
from .activations import Activation, get_activation, rise
from .duality import dual_function
from .expectations import FLOOR, centring_shift, moments, require_in_range, slope_square
from .pair import PairKernel


def _stored(layer):
    """What a Layer is made from: closures are not stored, parameters are."""
    return {**vars(layer), "activation": None if _is_made(layer) else layer.activation}


def _restored(state):
    if state["activation"] is None:
        return _LAYERS[state["family"]](*state["parameters"], state["scale"])
    return Layer(**state)


def _is_made(layer):
    return layer.family in _LAYERS and bool(layer.parameters)


@storable(write=_stored, read=_restored)
@dataclass(frozen=True)
class Layer:
    """An activation of an explicit network, centred: t -> activation(t) - offset.

    Parameters
    ----------
    activation : Activation
        The activation before centring.
    offset : float
        Its mean at the input scale.
    scale : float
        The input scale: root-mean-square norm of the layer's input.
    family : str
        "leaky_relu", "hard_tanh", "hermite", or the name of another activation.
    parameters : tuple of float
        (a, b) of max(a t, b t); (a, c) of a clip(t, -c, c); (c1, c2, c3) of
        c1 h1(t / scale) + c2 h2(t / scale) + c3 h3(t / scale).

    Examples
    --------
    >>> from sk_deq.theory import match_explicit
    >>> match_explicit("tanh", recurrent_var=0.5).layers[0]
    Layer('hard_tanh', 0.699, 1.236, offset=0, scale=1)
    """

    activation: Activation
    offset: float
    scale: float
    family: str
    parameters: tuple = ()

    def __reduce__(self):
        if _is_made(self):  # closures do not pickle; parameters do
            return _LAYERS[self.family], (*self.parameters, self.scale)
        return super().__reduce__()

    def __repr__(self):
        numbers = "".join(f", {float(value):.4g}" for value in self.parameters)
        return f"Layer({self.family!r}{numbers}, offset={self.offset:.4g}, scale={self.scale:.4g})"

    def __call__(self, t):
        """Apply the centred activation to a tensor, elementwise."""
        return self.activation(t) - self.offset


def leaky_relu_layer(a, b, scale):
    """sigma(t) = max(a t, b t) - (a - b) scale / sqrt(2 pi), for a >= b."""

    def fn(t):
        if a == 0:
            return b * t.clamp_max(0)
        return a * torch.nn.functional.leaky_relu(t, b / a)

    activation = Activation(
        "leaky_relu", fn, None, True, (0.0,), max(abs(a), abs(b)), duals.piecewise_linear(a, b)
    )
    offset = (a - b) * scale / math.sqrt(2 * math.pi)
    return Layer(activation, offset, scale, "leaky_relu", (a, b))


def hard_tanh_layer(a, c, scale):
    """sigma(t) = a min(max(t, -c), c)."""
    clip = duals.clip(c)

    def dual(s1, s2, r, w=None):
        G, D = clip(s1, s2, r, w)
        return a * a * G, a * a * D

    activation = Activation(
        "hard_tanh", lambda t: a * t.clamp(-c, c), "odd", False, (-c, c), abs(a), dual
    )
    return Layer(activation, 0.0, scale, "hard_tanh", (a, c))


def hermite_layer(c1, c2, c3, scale):
    """sigma(t) = c1 h1(t / scale) + c2 h2(t / scale) + c3 h3(t / scale)."""

    def fn(t):
        x = t / scale
        return c1 * x + c2 / math.sqrt(2) * (x * x - 1) + c3 / math.sqrt(6) * (x * x - 3) * x

    parity = "odd" if c2 == 0 else None
    activation = Activation("hermite", fn, parity, lipschitz=math.inf)
    return Layer(activation, 0.0, scale, "hermite", (c1, c2, c3))


_ROUNDING = 1e-14  # of correlations after a layer
_LAYERS = {"leaky_relu": leaky_relu_layer, "hard_tanh": hard_tanh_layer, "hermite": hermite_layer}


def resolve_layers(layers, tau0):
    """Turn names and callables into Layers, each centred at the scale of its own input.

    Raises
    ------
    ValueError, TypeError
        If there is no layer, one is not an activation, or tau0 is not positive.
    """
    if not 0 < tau0 < math.inf:
        raise ValueError(f"tau0 must be finite and > 0, got {tau0}.")
    require_in_range(tau0, name="tau0 =")
    if isinstance(layers, str) or callable(layers):
        layers = [layers]
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers must be a sequence of activations, got {layers!r}.")
    layers = list(layers)
    if not layers:
        raise ValueError("layers must hold at least one activation.")
    resolved, scale = [], float(tau0)
    for layer in layers:
        at = torch.tensor([scale], dtype=torch.float64)
        if not isinstance(layer, Layer):
            activation = get_activation(layer)
            mean = 0.0 if activation.parity == "odd" else float(moments(activation, at).mean)
            layer = Layer(activation, mean, scale, activation.name)
        resolved.append(layer)
        scale = math.sqrt(float(moments(layer.activation, at).centred_square(layer.offset)))
    return tuple(resolved)


@dataclass(frozen=True)
class ExplicitPairKernel(PairKernel):
    """A kernel of an infinitely wide explicit network as a PairKernel.

    x^(l) = sigma_l(W_l x^(l-1)) / sqrt(m), W_l standard normal.
    """

    layers: tuple
    kernel: str = "ck"
    train_first_layer: bool = False

    homogeneous = False
    limits = None  # no cosines are singular for all norms alike
    has_entries = False

    @property
    def smooth(self):
        """Whether the kernel is smooth also where rows of different norms are nearly parallel."""
        return not any(layer.activation.kinks for layer in self.layers)

    @property
    def _centred(self):
        """Of each layer phi = sigma - sigma(0), which small rows need, and what centres it."""
        risen = [rise(layer.activation) for layer in self.layers]
        return [
            (phi, layer.offset - origin)
            for layer, (phi, origin) in zip(self.layers, risen, strict=True)
        ]

    def rows(self, norms):
        """Norm, then deviation and E phi of every layer's pre-activations: (n, 1 + 2 L)."""
        require_in_range(float(norms.max()))
        values, deviation = [norms], norms.clamp_min(FLOOR)
        for phi, offset in self._centred:
            m = moments(phi, deviation)
            values += [deviation, 0 * deviation if phi.parity == "odd" else m.mean]
            deviation = _activity(m, offset, deviation).sqrt().clamp_min(FLOOR)
        return torch.stack(values, dim=1)

    def pairs(self, rows1, rows2, r, sine=None):
        """Kernel values (m1, m2, m) for `rows` (m1, ..), (m2, ..) and cosines (.., .., m)."""
        some = ((rows1[:, 0, None] > 0) & (rows2[:, 0] > 0))[:, :, None]  # others have no direction
        rho = torch.where(some, r, 0)
        w = torch.where(some, (1 - r) * (1 + r) if sine is None else sine, 1)
        covariance = (rows1[:, 0, None] * rows2[:, 0])[:, :, None] * rho
        ntk = covariance if self.train_first_layer else torch.zeros_like(covariance)
        for k, (phi, offset) in enumerate(self._centred):
            (s1, mean1), (s2, mean2) = (x[:, 1 + 2 * k : 3 + 2 * k].T for x in (rows1, rows2))
            if k > 0:
                rho, w = _correlations(covariance / (s1[:, None] * s2)[:, :, None])
            G, D = dual_function(phi, s1, s2)(rho, w)
            covariance = G - centring_shift(offset, mean1[:, None], mean2)[:, :, None]
            ntk = covariance + ntk * D
        return covariance if self.kernel == "ck" else ntk

    def diagonal(self, rows):
        """Kernel values (m,) of rows (m, ..) with themselves."""
        variance = rows[:, 0] ** 2
        ntk = variance if self.train_first_layer else torch.zeros_like(variance)
        for k, (phi, offset) in enumerate(self._centred):
            deviation = rows[:, 1 + 2 * k]
            variance = _activity(moments(phi, deviation), offset, deviation)
            ntk = variance + ntk * slope_square(phi, deviation)
        return variance if self.kernel == "ck" else ntk


def _activity(moments, offset, deviation):
    """E (phi - offset)^2; a deviation that is FLOOR is 0, and so is phi."""
    return torch.where(deviation > FLOOR, moments.centred_square(offset), offset**2)


def _correlations(rho):
    """rho and 1 - rho^2, without rounding of -1 and 1, of which an NTK would show the root."""
    rho = torch.where(rho.abs() > 1 - _ROUNDING, rho.sign(), rho)
    return rho, (1 - rho) * (1 + rho)
