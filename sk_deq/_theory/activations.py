"""The activations, each defined once. To add one, add a line to ``ACTIVATIONS``."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch

from .._state import refusal, storable
from . import duals, logistic


def _stored_name(activation):
    """The name that stands for an activation of the registry."""
    if ACTIVATIONS.get(activation.name) is not activation:
        raise refusal(activation.fn, "activation")
    return activation.name


@storable(write=_stored_name, read=lambda name: ACTIVATIONS[name])
@dataclass(frozen=True)
class Activation:
    """An elementwise activation phi and what the theory needs to know of it.

    Parameters
    ----------
    name : str
    fn : callable
        Elementwise, torch tensor to torch tensor, differentiable by autograd.
    parity : {"odd", "even", None}
    homogeneous : bool
        phi(a t) = a phi(t) for every a > 0.
    kinks : tuple of float
        Points at which phi or one of its first derivatives jumps.
    lipschitz : float
        The smallest L with |phi(t) - phi(t')| <= L |t - t'|.
    dual : callable or None
        Closed form of its dual activation, see ``duals``.
    moments : callable or None
        Closed form of ``expectations.moments``, for what oscillates too fast for quadrature.
    """

    name: str
    fn: Callable
    parity: str | None = None
    homogeneous: bool = False
    kinks: tuple = ()
    lipschitz: float = 1.0
    dual: Callable | None = None
    moments: Callable | None = None

    def __call__(self, t):
        return self.fn(t)

    def __reduce__(self):
        if ACTIVATIONS.get(self.name) is self:  # closures do not pickle; a name does
            return get_activation, (self.name,)
        return super().__reduce__()

    def derivative(self, t):
        """phi'(t), by autograd."""
        return self.with_slope(t)[1]

    def with_slope(self, t):
        """phi(t) and phi'(t), by autograd."""
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            value = self.fn(t)
            return value.detach(), torch.autograd.grad(value.sum(), t)[0]


def _leaky_relu(t):
    return torch.nn.functional.leaky_relu(t, 0.01)


def _softplus(t):
    return torch.nn.functional.softplus(t, threshold=40)  # the default, 20, is wrong by 2e-9


_CLOSED = duals.piecewise_linear
_F = torch.nn.functional

ACTIVATIONS = {
    a.name: a
    for a in [
        Activation("relu", torch.relu, None, True, (0.0,), 1.0, _CLOSED(1.0, 0.0)),
        Activation("leaky_relu", _leaky_relu, None, True, (0.0,), 1.0, _CLOSED(1.0, 0.01)),
        Activation("abs", torch.abs, "even", True, (0.0,), 1.0, _CLOSED(1.0, -1.0)),
        Activation("tanh", torch.tanh, "odd", dual=logistic.tanh),
        Activation("erf", torch.erf, "odd", lipschitz=1.1283791670955126, dual=duals.erf),
        Activation("sin", torch.sin, "odd", dual=duals.sin, moments=duals.sin_moments),
        Activation("sigmoid", torch.sigmoid, lipschitz=0.25, dual=logistic.sigmoid),
        Activation("hard_tanh", _F.hardtanh, "odd", kinks=(-1.0, 1.0), dual=duals.clip(1.0)),
        Activation("elu", _F.elu, kinks=(0.0,), dual=duals.elu),
        Activation("gelu", _F.gelu, lipschitz=1.1289041451469777, dual=duals.gelu),
        Activation("silu", _F.silu, lipschitz=1.0998393200748, dual=logistic.silu),
        Activation("softplus", _softplus, dual=logistic.softplus),
        Activation("identity", lambda t: t, "odd", True, (), 1.0, _CLOSED(1.0, 1.0)),
    ]
}


def _softplus_rise(t):
    """softplus(t) - log 2 = t / 2 + log cosh(t / 2)."""
    a = t.abs() / 2
    small = torch.log1p(2 * torch.sinh(a.clamp_max(1) / 2) ** 2)
    large = a + torch.log1p(torch.exp(-2 * a)) - math.log(2)
    return t / 2 + torch.where(a < 1, small, large)


_RISES = {
    "sigmoid": Activation(
        "sigmoid", lambda t: torch.tanh(t / 2) / 2, "odd", lipschitz=0.25, dual=logistic.half_tanh
    ),
    "softplus": Activation("softplus", _softplus_rise, dual=logistic.softplus_rise),
}


@dataclass(frozen=True)
class _Rise:
    """t -> fn(t) - origin; equal to another of the same, which a closure is not."""

    fn: Callable
    origin: float

    def __call__(self, t):
        return self.fn(t) - self.origin


def is_registered(activation):
    """Whether this is one of the ``ACTIVATIONS``."""
    return isinstance(activation, Activation) and ACTIVATIONS.get(activation.name) is activation


def rise(activation):
    """phi(t) - phi(0) as an Activation, to full relative precision for small t, and phi(0)."""
    if is_registered(activation) and activation.name not in _RISES:
        return activation, 0.0
    origin = float(activation(torch.zeros(1, dtype=torch.float64)))
    if origin == 0:
        return activation, 0.0
    if is_registered(activation):
        return _RISES[activation.name], origin
    fn = _Rise(activation.fn, origin)
    return replace(activation, fn=fn, parity=None, homogeneous=False, dual=None), origin


def get_activation(activation):
    """Return the Activation for a registry name, a torch callable or an Activation.

    Raises
    ------
    ValueError
        If a name is unknown, or a callable is not elementwise and differentiable.
    TypeError
        If it is neither a string nor callable, or a callable that cannot be hashed.
    """
    if isinstance(activation, Activation):
        return activation
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation={activation!r} is unknown; use one of {sorted(ACTIVATIONS)} "
                "or an elementwise torch callable."
            )
        return ACTIVATIONS[activation]
    if callable(activation):
        try:
            hash(activation)
        except TypeError as error:
            raise TypeError(
                f"activation={type(activation).__name__!r} cannot be hashed, and tables are kept "
                "by activation; pass a function, or give its class a __hash__."
            ) from error
        return _of_callable(activation)
    raise TypeError(
        f"activation must be a name or an elementwise torch callable, got {type(activation)}."
    )


def _of_callable(fn):
    """The Activation of a user's callable; what was found of it is kept as long as it lives."""
    try:
        known = _PROBED.get(fn)
    except TypeError:  # there are no weak references to objects of its type
        return _probe(fn)
    if known is None:
        known = replace(_probe(fn), fn=None)
        _PROBED[fn] = known
    return replace(known, fn=fn)


_PROBED = WeakKeyDictionary()


def _probe(fn):
    """Is it elementwise, where are its kinks, how steep is it? As an Activation."""
    name = getattr(fn, "__name__", type(fn).__name__)
    raw = Activation(name, fn)
    # the irrational offset keeps grid points off kinks at round numbers
    grid = torch.linspace(-20, 20, 8001, dtype=torch.float64) + 0.0012345678
    try:
        value = fn(grid)
        part = fn(grid[::7])
        slope = raw.derivative(grid)
    except Exception as error:
        raise ValueError(
            f"activation={name!r} cannot be evaluated on a float64 tensor and differentiated by "
            f"autograd: {error}"
        ) from error
    if value.shape != grid.shape or not torch.allclose(value[::7], part, equal_nan=True):
        raise ValueError(f"activation={name!r} is not elementwise.")
    if not (torch.isfinite(value).all() and torch.isfinite(slope).all()):
        raise ValueError(f"activation={name!r} is not finite on [-20, 20].")
    jumps = _jumps(fn, value, grid)
    kinks = {0.0} | jumps | _jumps(raw.derivative, slope, grid)
    lipschitz = math.inf if jumps else float(slope.abs().max())
    return Activation(name, fn, kinks=tuple(sorted(kinks)), lipschitz=lipschitz)


def _jumps(fn, value, grid):
    """Points where `fn`, given as `value` on `grid`, is discontinuous, found by bisection."""
    step = value.diff().abs()
    beside = torch.maximum(_F.pad(step, (1, 0))[:-1], _F.pad(step, (0, 1))[1:])
    found = set()
    for i in torch.nonzero(step > 10 * beside + 1e-6).ravel().tolist():
        low, high = grid[i], grid[i + 1]
        for _ in range(60):
            middle = (low + high) / 2
            left, here, right = fn(torch.stack([low, middle, high]))
            to_the_right = (here - left).abs() < (right - here).abs()
            low, high = (middle, high) if to_the_right else (low, middle)
        found.add(round(float(middle), 12))
    return found
