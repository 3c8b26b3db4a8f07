r"""The fixed point of a pair of rows for phi(t) = a t + b |t|, with all digits near correlation 1.

There 1 - rho = h = 1 - cos(theta) is small, and would be rounding where rho itself is solved for.
With g = 1 - sigma_a^2 (a^2 + b^2) the equation is

    g h + (2 / pi) sigma_a^2 b^2 (sin(theta) - theta cos(theta)) = gap,

and the gap, h for a linear phi times g, is a sum of positive terms too: over s s' it is half of

    sigma_b^2 |x - x'|^2 - g (s - s')^2.
"""

import math

import torch

_SERIES = [(-1) ** (n + 1) * 2 * n / math.factorial(2 * n + 1) for n in range(1, 10)]


def slopes(phi):
    """a and b of phi(t) = a t + b |t|."""
    up, down = phi(torch.tensor([1.0, -1.0], dtype=torch.float64)).tolist()
    return (up - down) / 2, (up + down) / 2


def solve_angle(gap, g, k):
    """h, sin(theta) - theta cos(theta) and theta for g h + k (sin(theta) - theta cos(theta)) = gap.

    Newton's method from above: the left-hand side is a convex function of h.
    """
    h = (gap.clamp_min(0) / g).clamp_max(2)
    if k > 0:
        h = torch.minimum(h, (3 * gap.clamp_min(0) / k) ** (2 / 3) / 2)
    for _ in range(60):
        theta = 2 * torch.asin((h / 2).sqrt())
        step = (g * h + k * _arc(theta) - gap) / (g + k * theta)
        last, h = h, (h - step).clamp(0, 2)
        if bool((last - h <= 4e-15 * h).all()):  # rounding is less, and goes up, too
            break
    theta = 2 * torch.asin((h / 2).sqrt())
    return h, _arc(theta), theta


def _arc(theta):
    """sin(theta) - theta cos(theta), without cancellation."""
    square, series = theta * theta, 0.0
    for coefficient in reversed(_SERIES):
        series = series * square + coefficient
    series = series * square * theta
    return torch.where(theta < 1, series, torch.sin(theta) - theta * torch.cos(theta))


def solve_gap(spec, gap):
    """Correlations, and E phi phi' and its slope for deviations 1, of pairs by their gaps."""
    a, b = slopes(spec.phi)
    arc_share, total = 2 / math.pi * b * b, a * a + b * b
    g = 1 - spec.recurrent_var * total
    h, arc, theta = solve_angle(gap, g, spec.recurrent_var * arc_share)
    return 1 - h, total * (1 - h) + arc_share * arc, total - arc_share * theta


def solve_pair(spec, first, second, r, sine):
    """Correlations, G and D for the columns of `rows` of a DEQPairKernel, cosines and 1 - r^2."""
    (n1, s1, mean1, _), (n2, s2, mean2, _) = first, second
    s_a, s_b, m = spec.recurrent_var, spec.input_var, spec.offset
    a, b = slopes(spec.phi)
    g, mu = 1 - s_a * (a * a + b * b), b * math.sqrt(2 / math.pi)  # E phi = mu s
    apart = n1 * n2 * torch.where(r > 0, sine / (1 + r), 1 - r)
    # (g s + s_a m mu)^2 = g s_b n^2 + rest
    rest = g * (spec.bias_var + s_a * m * m) + (s_a * m * mu) ** 2
    if rest > 0:
        p1, p2 = ((g * s_b * n * n + rest).sqrt() for n in (n1, n2))
        more = (g * s_b * (n1 * n1 + n2 * n2) + rest) / (p1 * p2 + g * s_b * n1 * n2)
        apart = apart + rest * (1 + more) * ((n1 - n2) / (p1 + p2)) ** 2
    rho, kappa, D = solve_gap(spec, s_b * apart / (s1 * s2))
    return rho, s1 * s2 * (kappa - mu * mu) + (mean1 - m) * (mean2 - m), D
