"""Slow, independent evaluation of Gaussian expectations and DEQ kernels; numpy and scipy only.

Activations and their derivatives are written out again here; expectations are composite
Gauss-Legendre rules split at the kinks, in one or two dimensions; fixed points are found by
bracketing. Nothing is shared with the package.
"""

import functools

import numpy as np
from scipy.optimize import brentq
from scipy.special import erf, expit, ndtr

TAIL = 13.0


def _normal(t):
    return np.exp(-t * t / 2) / np.sqrt(2 * np.pi)


def _step(t):
    return (t > 0).astype(float)


def _mish(t):
    return t * np.tanh(np.logaddexp(0, t))


def _mish_slope(t):
    inside = np.tanh(np.logaddexp(0, t))
    return inside + t * (1 - inside**2) * expit(t)


# name: (phi, phi', kinks)
ACTIVATIONS = {
    "relu": (lambda t: np.maximum(t, 0), _step, (0.0,)),
    "leaky_relu": (
        lambda t: np.where(t > 0, t, 0.01 * t),
        lambda t: np.where(t > 0, 1.0, 0.01),
        (0.0,),
    ),
    "abs": (np.abs, np.sign, (0.0,)),
    "tanh": (np.tanh, lambda t: 1 - np.tanh(t) ** 2, ()),
    "erf": (erf, lambda t: 2 / np.sqrt(np.pi) * np.exp(-t * t), ()),
    "sin": (np.sin, np.cos, ()),
    "sigmoid": (expit, lambda t: expit(t) * expit(-t), ()),
    "hard_tanh": (
        lambda t: np.clip(t, -1, 1),
        lambda t: (np.abs(t) < 1).astype(float),
        (-1.0, 1.0),
    ),
    "elu": (
        lambda t: np.where(t > 0, t, np.expm1(np.minimum(t, 0))),
        lambda t: np.where(t > 0, 1.0, np.exp(np.minimum(t, 0))),
        (0.0,),
    ),
    "gelu": (lambda t: t * ndtr(t), lambda t: ndtr(t) + t * _normal(t), ()),
    "silu": (lambda t: t * expit(t), lambda t: expit(t) * (1 + t * expit(-t)), ()),
    "softplus": (lambda t: np.logaddexp(0, t), expit, ()),
    "identity": (lambda t: t, np.ones_like, ()),
    # not in the registry: users' own
    "mish": (_mish, _mish_slope, ()),
    "clamp": (
        lambda t: np.clip(t, -2, 3.3),
        lambda t: ((t > -2) & (t < 3.3)).astype(float),
        (-2.0, 3.3),
    ),
    "steep_leaky": (
        lambda t: np.where(t > 0, 1.3 * t, -0.4 * t),
        lambda t: np.where(t > 0, 1.3, -0.4),
        (0.0,),
    ),
}


@functools.lru_cache
def _legendre(n):
    x, weight = np.polynomial.legendre.leggauss(n)
    return (x + 1) / 2, weight / 2


def _rule(centres, n_nodes):
    """Nodes and weights of E f(xi) for every row of `centres` (m, k), where f may have kinks."""
    grade = 2.0 ** -np.arange(1, 26)
    grade = np.concatenate([-grade, [0.0], grade])
    breaks = np.broadcast_to(np.arange(-TAIL, TAIL + 0.5), (len(centres), int(2 * TAIL) + 1))
    graded = (centres[:, :, None] + grade).reshape(len(centres), -1)
    breaks = np.sort(np.clip(np.concatenate([breaks, graded], axis=1), -TAIL, TAIL), axis=1)
    x, weight = _legendre(n_nodes)
    width = np.diff(breaks, axis=1)[:, :, None]
    xi = (breaks[:, :-1, None] + width * x).reshape(len(centres), -1)
    return xi, (width * weight).reshape(len(centres), -1) * _normal(xi)


def expectation(f, kinks, s):
    """E f(s xi)."""
    centres = np.array([[kink / s for kink in {0.0, *kinks}]])
    xi, weight = _rule(centres, 20)
    return float(np.sum(weight * f(s * xi)))


def dual(f, kinks, s1, s2, r):
    """E f(u) f(w), (u, w) centred normal of deviations s1, s2 and correlation r, |r| < 1."""
    root = np.sqrt((1 - r) * (1 + r))
    kinks = sorted({0.0, *kinks})
    # the inner integral, a function of x, bends where r x passes a kink, on a scale of `root`
    centres = [kink / s1 for kink in kinks]
    if abs(r) > 0.1:
        centres += [kink / (s2 * r) for kink in kinks]
    x, weight = _rule(np.array([sorted(set(centres))]), 10)
    keep = weight[0] > 1e-22
    x, weight = x[0][keep], weight[0][keep]
    total = 0.0
    for part in np.array_split(np.arange(len(x)), 8):
        centres = np.stack([(kink / s2 - r * x[part]) / root for kink in kinks], axis=1)
        y, inner = _rule(np.clip(centres, -TAIL, TAIL), 8)
        mean = np.sum(inner * f(s2 * (r * x[part, None] + root * y)), axis=1)
        total += np.sum(weight[part] * f(s1 * x[part]) * mean)
    return float(total)


class SlowDEQ:
    """The kernels of a DEQ between two rows, by bracketing of the scalar fixed points."""

    def __init__(self, name, s_a, s_b, s_c=0.0, center=True, tau0=1.0):
        self.phi, self.slope, self.kinks = ACTIVATIONS[name]
        self.s_a, self.s_b, self.s_c = s_a, s_b, s_c
        self.mean = 0.0
        if center:
            variance = self._variance(
                s_b * tau0**2 + s_c,
                lambda s: self._one(lambda t: self.phi(t) ** 2, s) - self._one(self.phi, s) ** 2,
            )
            self.mean = self._one(self.phi, np.sqrt(variance))

    def _one(self, f, s):
        return expectation(f, self.kinks, s)

    def _centred(self, t):
        return self.phi(t) - self.mean

    def _variance(self, base, square):
        def excess(q):
            return self.s_a * square(np.sqrt(q)) + base - q

        if self.s_a == 0:
            return base
        high = 2 * base + 1.0
        while excess(high) > 0:
            high *= 2
        return brentq(excess, base / 2, high, xtol=1e-15, rtol=1e-15)

    def deviation(self, norm):
        """Standard deviation of the pre-activations of a row of this norm."""
        base = self.s_b * norm**2 + self.s_c
        return np.sqrt(
            self._variance(base, lambda s: self._one(lambda t: self._centred(t) ** 2, s))
        )

    def kernels(self, n1, n2, cosine):
        """(CK, NTK, full NTK) of two rows of these norms and cosine, |cosine| < 1."""
        s1, s2 = self.deviation(n1), self.deviation(n2)
        base = self.s_b * n1 * n2 * cosine + self.s_c

        def excess(r):
            return self.s_a * dual(self._centred, self.kinks, s1, s2, r) + base - s1 * s2 * r

        edge = 1 - 1e-9
        r = base / (s1 * s2)
        if self.s_a > 0:
            r = brentq(excess, -edge, edge, xtol=1e-13, rtol=1e-14)
        G = dual(self._centred, self.kinks, s1, s2, r)
        D = dual(self.slope, self.kinks, s1, s2, r)
        ntk = G / (1 - self.s_a * D)
        return G, ntk, G + s1 * s2 * r * D / (1 - self.s_a * D)

    def diagonal(self, norm):
        """(CK, NTK, full NTK) of a row with itself."""
        s = self.deviation(norm)
        G = self._one(lambda t: self._centred(t) ** 2, s)
        D = self._one(lambda t: self.slope(t) ** 2, s)
        ntk = G / (1 - self.s_a * D)
        return G, ntk, G + s * s * D / (1 - self.s_a * D)
