r"""The fixed point of nearly parallel rows for phi(t) = min(max(t, -1), 1), with all its digits.

With V = E (u - w)^2 and W = E (phi(u) - phi(w))^2 of the pre-activations of a pair, the equations
of the pair and of both rows by themselves give

    V - sigma_a^2 W = sigma_b^2 |x - x'|^2,     V = (s - s')^2 + 2 s s' h,     h = 1 - rho,

where nothing is a difference of large numbers while s - s' is small: dW/dh = 2 s s' D. The NTK
divides by 1 - sigma_a^2 D, and D has a cusp at h = 0.
"""

import math

import torch

from .duals import legendre

_NEAR = 0.1  # h up to which it is solved for


def refined(spec, first, second, r, sine, solved):
    """The solution (rho, G, D) of `solve_correlation`, more precise for nearly parallel rows.

    And for nearly opposite ones where there is no bias: phi is odd.
    """
    sign = solved[0].sign() if spec.bias_var == 0 else torch.ones_like(solved[0])
    h, (s1, s2) = 1 - sign * solved[0], (first[1], second[1])
    near = (h >= 0) & (h < _NEAR) & ((s1 - s2) ** 2 <= 2 * s1 * s2 * h)
    near = torch.nonzero(near, as_tuple=True)
    if len(near[0]) == 0:
        return solved
    parts = torch.broadcast_tensors(*first[:2], *second[:2], sign * r, sine, sign * solved[0], sign)
    n1, s1, n2, s2, r, sine, rho, sign = (part[near] for part in parts)
    s_a, scale = spec.recurrent_var, 2 * s1 * s2
    chord = torch.where(r > 0, sine / (1 + r), 1 - r)  # 1 - r
    apart = spec.input_var * ((n1 - n2) ** 2 + 2 * n1 * n2 * chord)
    rest = apart + s_a * _least(s1, s2) - (s1 - s2) ** 2
    h = torch.where(rest > 0, 1 - rho, 0)
    for _ in range(8):
        _, D = spec.phi.dual(s1, s2, 1 - h, h * (2 - h))
        J = h * D + _moment(s1, s2, h)  # the integral of D from 0 to h
        step = (scale * (h - s_a * J) - rest) / (scale * (1 - s_a * D))
        last, h = h, (h - step).clamp(0, 2 * _NEAR)
        if bool(((h - last).abs() <= 1e-9 * h).all()):  # convergence is quadratic
            break
    G, D = spec.phi.dual(s1, s2, 1 - h, h * (2 - h))
    values = sign * (1 - h), sign * G, D
    return tuple(
        old.expand(solved[1].shape).index_put(near, new)
        for old, new in zip(solved, values, strict=True)
    )


def _least(s1, s2):
    """W for correlation 1: E (phi(s1 xi) - phi(s2 xi))^2."""
    low, high = torch.minimum(s1, s2), torch.maximum(s1, s2)
    a, width = 1 / high, (high - low) / (high * low)  # between a and 1 / low one of them is clipped
    density = math.sqrt(2 / math.pi) * torch.exp(-a * a / 2)
    inner = (high - low) ** 2 * (torch.erf(a / math.sqrt(2)) - a * density)
    nodes, weights = legendre(16)
    xi = a[:, None] + width[:, None] * nodes
    outer = (1 - low[:, None] * xi) ** 2 * torch.exp(-xi * xi / 2) * math.sqrt(2 / math.pi)
    return inner + width * (outer @ weights)


def _moment(s1, s2, h):
    """The integral of (1 - t) D'(t) from correlation 1 - h to 1."""
    a, b = (1 / s1)[:, None], (1 / s2)[:, None]
    end = 2 * torch.asin((h / 2).sqrt())
    nodes, weights = legendre(96)
    t = (end[:, None] * nodes).clamp_min(1e-150)
    apart, square = 2 * torch.sin(t / 2) ** 2, torch.sin(t) ** 2  # 1 - cos(t)
    equal = torch.exp(-((a - b) ** 2 + 2 * a * b * apart) / (2 * square))
    opposite = torch.exp(-((a + b) ** 2 - 2 * a * b * apart) / (2 * square))
    return end * ((apart * (equal - opposite)) @ weights) / math.pi
