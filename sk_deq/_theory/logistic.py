r"""Dual activations of the logistic family: sigmoid, tanh, softplus, SiLU.

A logistic variable is a normal of random deviation nu (Andrews and Mallows, 1974), so that

    sigmoid(t) = E_nu Phi(t / nu),

and each of the family is the mean of a step, a rectifier or a gate, smoothed by so much noise.
Their duals are elementary functions of the shares p = s / sqrt(s^2 + nu^2) of the deviations,

    G = sum_ij a_i(s1) a_j(s2) F(p_i, p_j, r),      D = sum_ij b_i(s1) b_j(s2) F'(p_i, p_j, r),

over the nodes of a rule for nu. F and F' are smooth in t = artanh p = asinh(s / nu): their
Chebyshev series in both t serve all scales, and the sums are products of matrices.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from .cache import kept
from .chebyshev import chebyshev_coefficients, chebyshev_nodes, shortened
from .duals import sine_square

# scales up to which so many nodes in t and in the angle are enough, to 1e-14
_ENOUGH = {1: (28, 32), 2: (32, 44), 4: (36, 60), 8: (41, 84), 16: (46, 112), 32: (52, 152),
           64: (58, 208), 128: (65, 290)}  # fmt: skip
_SMALL = 1e-15  # relative size of coefficients in the angle that are left out


def _sine_and_angle(p1, p2, v1, v2, r, w):
    """Of the correlation p1 p2 r, whose sine is its root of 1 - square."""
    sine = (w + r * r * (v1 + v2 - v1 * v2)).sqrt()
    return sine, torch.atan2(p1 * p2 * r, sine) / (2 * math.pi)


def _step(p1, p2, v1, v2, r, w):
    """Of Phi(t / nu) - 1/2, over the shares and times the deviations with noise."""
    sine, angle = _sine_and_angle(p1, p2, v1, v2, r, w)
    return angle / (p1 * p2), 1 / (2 * math.pi * sine)


def _relu(p1, p2, v1, v2, r, w):
    """Of E relu(t + nu * normal), over the deviations with noise."""
    sine, angle = _sine_and_angle(p1, p2, v1, v2, r, w)
    half = 0.25 + angle
    return sine / (2 * math.pi) + p1 * p2 * r * half, half


def _gate(p1, p2, v1, v2, r, w):
    """Of t Phi(t / nu), over the deviations (``duals.gelu``)."""
    sine, angle = _sine_and_angle(p1, p2, v1, v2, r, w)
    half, p, u = 0.25 + angle, p1 * p2, v1 * v2
    G = r * half + p * (sine + r * r * u / sine) / (2 * math.pi)
    slope = p * r / (2 * math.pi * sine)
    return G, half + slope * (1 + 2 * u - p * p + p * p * r * r * u / (sine * sine))


# how a and b follow from s and the deviation with noise, hypot(s, nu)
_SIDES = {
    _step: lambda s, total: (s / total, 1 / total),
    _relu: lambda s, total: (total, torch.ones_like(total)),
    _gate: lambda s, total: (s.expand(total.shape), torch.ones_like(total)),
}


@lru_cache
def _rule(n_nodes=20):
    """Gauss rule (nu, weight) with sigmoid(t) = sum weight * Phi(t / nu) to 1e-13.

    nu is 2 K, K of Kolmogorov's distribution. The rule is Gaussian quadrature in log K, from the
    Lanczos process on a grid.
    """
    x = np.linspace(math.log(0.15), math.log(4.5), 4001)
    k = np.exp(x)
    n, m = np.arange(1, 60)[:, None], np.arange(1, 80, 2)[:, None]
    with np.errstate(under="ignore"):
        above = 8 * k * ((-1.0) ** (n + 1) * n**2 * np.exp(-2 * (n * k) ** 2)).sum(axis=0)
        decay = (m * math.pi / (2 * k)) ** 2
        below = math.sqrt(2 * math.pi) / k**2 * ((decay - 1) * np.exp(-decay / 2)).sum(axis=0)
    density = np.where(k < 1, below, above) * k  # Kolmogorov's density, in log k
    basis = np.zeros((n_nodes + 1, x.size))
    basis[0] = np.sqrt(density / density.sum())
    diagonal, off = np.zeros(n_nodes), np.zeros(n_nodes)
    for j in range(n_nodes):
        y = x * basis[j]
        diagonal[j] = basis[j] @ y
        for _ in range(2):  # orthogonalised twice, or rounding spoils the rule
            y -= basis[: j + 1].T @ (basis[: j + 1] @ y)
        off[j] = np.linalg.norm(y)
        basis[j + 1] = y / off[j]
    nodes, vectors = np.linalg.eigh(
        np.diag(diagonal) + np.diag(off[:-1], 1) + np.diag(off[:-1], -1)
    )
    return torch.from_numpy(2 * np.exp(nodes)), torch.from_numpy(vectors[0] ** 2)


@dataclass(frozen=True)
class Mixture:
    """The dual of constant + factor * sum weight * base(stretch * t; nu), as a function.

    Parameters
    ----------
    base : callable
        F and F' of shares p1, p2, their 1 - p^2, correlation r and w = 1 - r^2.
    stretch, factor : float
    rest : callable, default=None
        Deviations s1, s2 to what the constant adds to G.
    """

    base: Callable
    stretch: float = 1.0
    factor: float = 1.0
    rest: Callable | None = None

    def __call__(self, s1, s2, r, w=None):
        """G and D: all terms for every entry."""
        nu, _ = _rule()
        w = sine_square(r) if w is None else w
        one, two = ((self.stretch * s)[..., None] for s in (s1, s2))
        total1, total2 = torch.hypot(one, nu), torch.hypot(two, nu)
        (p1, p2), (v1, v2) = (one / total1, two / total2), ((nu / total1) ** 2, (nu / total2) ** 2)
        first, second = self._sides(one, total1), self._sides(two, total2)
        sums = [0.0, 0.0]
        for k in range(len(nu)):
            k = slice(k, k + 1)
            values = self.base(p1[..., k], p2, v1[..., k], v2, r[..., None], w[..., None])
            for m, (value, a, b) in enumerate(zip(values, first, second, strict=True)):
                sums[m] = sums[m] + a[..., k].squeeze(-1) * (value * b).sum(-1)
        G, D = sums
        return (G if self.rest is None else G + self.rest(s1, s2)), D

    def in_angle(self, s1, s2):
        """Chebyshev coefficients of G and D in the angle, (2, n1, n2, n_terms); s1 and s2 1-d.

        None where scales are too large for a short series.
        """
        largest = self.stretch * max(float(s1.max()), float(s2.max()))
        enough = next((bound for bound in _ENOUGH if largest <= bound), None)
        if enough is None:
            return None
        first, second = (self._sums(self.stretch * s, enough) for s in (s1, s2))
        sums = [
            torch.einsum("ia,abk,jb->ijk", a, C, b)
            for a, C, b in zip(first, _series(self.base, enough), second, strict=True)
        ]
        C = shortened(torch.stack(sums), _SMALL)
        if self.rest is not None:
            C[0, :, :, 0] += self.rest(s1[:, None], s2)
        return C

    def _sides(self, s, total):
        """weight * a and weight * b, for stretched s and sqrt(s^2 + nu^2)."""
        a, b = _SIDES[self.base](s, total)
        weight = self.factor * _rule()[1]
        return weight * a, self.stretch * weight * b

    def _sums(self, s, largest):
        """sum_i a_i(s) T_k(t_i), and of b_i, (n, n_terms), for stretched scales (n,)."""
        nu, _ = _rule()
        x = 2 * torch.asinh(s[:, None] / nu) / _end(largest) - 1
        basis = torch.cos(torch.acos(x.clamp(-1, 1))[..., None] * torch.arange(_ENOUGH[largest][0]))
        sides = self._sides(s[:, None], torch.hypot(s[:, None], nu))
        return [(side[:, None] @ basis)[:, 0] for side in sides]


def _end(largest):
    """The largest t for scales up to this."""
    return math.asinh(largest / float(_rule()[0].min()))


@kept(max_bytes=2**25)
def _series(base, largest):
    """Chebyshev coefficients in both t and the angle of F and F', (n, n, n_angles) each."""
    n, n_angles = _ENOUGH[largest]
    t = (1 + chebyshev_nodes(n)) * (_end(largest) / 2)
    p, v = torch.tanh(t)[:, None], torch.cosh(t)[:, None] ** -2
    angle = chebyshev_nodes(n_angles) * (math.pi / 2)
    values = base(p[:, None], p, v[:, None], v, torch.sin(angle), torch.cos(angle) ** 2)
    for axis in range(3):
        values = [chebyshev_coefficients(F, axis) for F in values]
    return values


def _mean_of_softplus(s):
    nu, weight = _rule()
    return torch.hypot(s[..., None], nu) @ weight / math.sqrt(2 * math.pi)


def _without_origin(s1, s2):
    means = _mean_of_softplus(s1) + _mean_of_softplus(s2)
    return math.log(2) ** 2 - math.log(2) * means


def _of_half(s1, s2):
    return 0.25


half_tanh = Mixture(_step)  # of tanh(t / 2) / 2 = sigmoid(t) - 1/2
sigmoid = Mixture(_step, rest=_of_half)
tanh = Mixture(_step, 2.0, 2.0)  # 2 (sigmoid(2 t) - 1/2)
silu = Mixture(_gate)
softplus = Mixture(_relu)
softplus_rise = Mixture(_relu, rest=_without_origin)  # digits cancel for deviations below 1
