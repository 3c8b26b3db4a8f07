r"""Closed-form dual activations.

For (u, w) centred Gaussian with standard deviations s1, s2 and correlation r, each function returns

    G = E[phi(u) phi(w)]    and    D = E[phi'(u) phi'(w)] = dG / d(s1 s2 r)    (Price's theorem).

All take and return torch tensors, broadcast, and accept complex r (|r| < 1) for power-series work.
They are written in standard deviations and ratios so that s from 1e-150 to 1e150 neither overflows
nor cancels. Sources: Cho and Saul (2009) for piecewise-linear phi, Williams (1997) for erf,
Tsuchida et al. (2021) for GELU; ``_gaussian.dual_function`` serves every other activation.
"""

import math

import torch


def _arcsin(r, cosine):
    """asin(r) given cosine = sqrt(1 - r^2), which keeps its precision at |r| = 1."""
    return torch.asin(r) if r.is_complex() else torch.atan2(r, cosine)


def _cosine(r):
    product = (1 - r) * (1 + r)
    return torch.sqrt(product if r.is_complex() else product.clamp_min(0))


def piecewise_linear(positive, negative):
    """Return the dual of phi(t) = positive * t for t > 0, negative * t for t < 0."""
    odd, even = ((positive + negative) / 2) ** 2, ((positive - negative) / 2) ** 2

    def dual(s1, s2, r):
        # odd part (a+b)/2 t, even part (a-b)/2 |t|; the two do not mix
        cosine = _cosine(r)
        angle = _arcsin(r, cosine)
        G = s1 * s2 * (odd * r + even * (2 / math.pi) * (cosine + r * angle))
        return G, (odd + even * (2 / math.pi) * angle).expand_as(G)

    return dual


def _saturations(s1, s2, r, weight):
    """t = s sqrt(weight / (1 + weight s^2)), u = 1 - t^2, z = t1 t2 r and w = 1 - z^2."""
    u1, u2 = 1 / (1 + weight * s1 * s1), 1 / (1 + weight * s2 * s2)
    t1, t2 = math.sqrt(weight) * s1 * u1.sqrt(), math.sqrt(weight) * s2 * u2.sqrt()
    w = (1 - r) * (1 + r) + r * r * (u1 + u2 - u1 * u2)
    return t1, t2, u1, u2, t1 * t2 * r, w


def erf(s1, s2, r):
    """Dual of erf(t)."""
    _, _, u1, u2, z, w = _saturations(s1, s2, r, 2.0)
    root = w.sqrt()
    return (2 / math.pi) * _arcsin(z, root), (4 / math.pi) * (u1 * u2).sqrt() / root


def sin(s1, s2, r):
    """Dual of sin(t)."""
    c = s1 * s2 * r
    if r.is_complex():
        scale = torch.exp(-(s1 * s1 + s2 * s2) / 2)
        return scale * torch.sinh(c), scale * torch.cosh(c)
    # exp(-(q1 + q2)/2 + |c|), written so that nothing overflows; then sinh and cosh of |c| over it
    scale = torch.exp(-((s1 - s2) ** 2) / 2 - s1 * s2 * (1 - r.abs())) / 2
    decay = torch.expm1(-2 * c.abs())
    return -scale * decay * torch.sign(c), scale * (2 + decay)


def gelu(s1, s2, r):
    """Dual of t Phi(t), Phi the standard normal distribution function."""
    t1, t2, u1, u2, z, w = _saturations(s1, s2, r, 1.0)
    root, u = w.sqrt(), u1 * u2
    half = 0.25 + _arcsin(z, root) / (2 * math.pi)  # E[Phi(u) Phi(w)]
    G = s1 * s2 * (r * half + t1 * t2 * (root + r * r * u / root) / (2 * math.pi))
    t = (t1 * t2) ** 2
    return G, half + z / (2 * math.pi * root) * (1 + 2 * u - t + t * r * r * u / w)
