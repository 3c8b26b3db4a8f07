r"""Closed-form dual activations.

For (u, w) centred Gaussian with standard deviations s1, s2 and correlation r, each function returns

    G = E[phi(u) phi(w)]    and    D = E[phi'(u) phi'(w)] = dG / d(s1 s2 r)    (Price's theorem).

All take and return float64 tensors and broadcast; `piecewise_linear` also takes complex r. They are
written in standard deviations and ratios so that s from 1e-150 to 1e150 neither overflows nor
cancels; w = 1 - r^2 can be given, where it would be rounding. Sources: Cho and Saul (2009) for
piecewise-linear phi, Williams (1997) for erf, Tsuchida et al. (2021) for GELU. ``logistic`` reduces
its family to these; the dual of a clipped line is an integral over the correlation; that of ELU is
a quadrature in polar coordinates. ``duality.dual_function`` serves every other activation.
"""

import math
from functools import lru_cache

import numpy as np
import torch


@lru_cache
def legendre(n):
    """Gauss-Legendre rule on [0, 1], as float64 tensors."""
    x, weight = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(weight / 2)


def sine_square(r):
    """1 - r^2."""
    return ((1 - r) * (1 + r)).clamp_min(0)


def piecewise_linear(positive, negative):
    """Return the dual of phi(t) = positive * t for t > 0, negative * t for t < 0."""
    odd, even = ((positive + negative) / 2) ** 2, ((positive - negative) / 2) ** 2

    def dual(s1, s2, r, w=None):
        # odd part (a+b)/2 t, even part (a-b)/2 |t|; the two do not mix
        if r.is_complex():
            cosine, angle = ((1 - r) * (1 + r)).sqrt(), torch.asin(r)
        else:
            cosine = (sine_square(r) if w is None else w).sqrt()
            angle = torch.atan2(r, cosine)  # asin(r), to full precision at |r| = 1
        G = s1 * s2 * (odd * r + even * (2 / math.pi) * (cosine + r * angle))
        return G, (odd + even * (2 / math.pi) * angle).expand_as(G)

    return dual


def _saturations(s1, s2, r, w, weight):
    """t = s sqrt(weight / (1 + weight s^2)), u = 1 - t^2, z = t1 t2 r and w = 1 - z^2."""
    u1, u2 = 1 / (1 + weight * s1 * s1), 1 / (1 + weight * s2 * s2)
    t1, t2 = math.sqrt(weight) * s1 * u1.sqrt(), math.sqrt(weight) * s2 * u2.sqrt()
    w = (sine_square(r) if w is None else w) + r * r * (u1 + u2 - u1 * u2)
    return t1, t2, u1, u2, t1 * t2 * r, w


def erf(s1, s2, r, w=None):
    """Dual of erf(t)."""
    _, _, u1, u2, z, w = _saturations(s1, s2, r, w, 2.0)
    root = w.sqrt()
    return (2 / math.pi) * torch.atan2(z, root), (4 / math.pi) * (u1 * u2).sqrt() / root


def sin(s1, s2, r, w=None):
    """Dual of sin(t)."""
    c = s1 * s2 * r
    apart = (sine_square(r) if w is None else w) / (1 + r.abs())  # 1 - |r|
    # exp(-(q1 + q2)/2 + |c|), written so that nothing overflows; then sinh and cosh of |c| over it
    scale = torch.exp(-((s1 - s2) ** 2) / 2 - s1 * s2 * apart) / 2
    decay = torch.expm1(-2 * c.abs())
    return -scale * decay * torch.sign(c), scale * (2 + decay)


def sin_moments(s):
    """E[f], E[xi f], E[(xi^2 - 1) f], E[f^2] and E[(xi^2 - 1) f^2] for f = sin(s xi)."""
    zero, decay = torch.zeros_like(s), torch.exp(-2 * s * s)
    return zero, s * torch.exp(-s * s / 2), zero, -torch.expm1(-2 * s * s) / 2, 2 * s * s * decay


def gelu(s1, s2, r, w=None):
    """Dual of t Phi(t), Phi the standard normal distribution function."""
    t1, t2, u1, u2, z, w = _saturations(s1, s2, r, w, 1.0)
    root, u = w.sqrt(), u1 * u2
    half = 0.25 + torch.atan2(z, root) / (2 * math.pi)  # E[Phi(u) Phi(w)]
    G = s1 * s2 * (r * half + t1 * t2 * (root + r * r * u / root) / (2 * math.pi))
    t = (t1 * t2) ** 2
    return G, half + z / (2 * math.pi * root) * (u1 + u2 + u + t * r * r * u / w)


SHORT = {erf, sin, gelu}  # closed forms that take no longer than a few terms of a series


def elu(s1, s2, r, w=None):
    r"""Dual of t for t > 0, exp(t) - 1 for t < 0: of t + k(t), k(t) = exp(t) - 1 - t for t < 0.

    With E u k(w) = s1 s2 r E k'(w) (Stein's lemma) and E k'(w) = (erfcx(s2 / sqrt 2) - 1) / 2,

        G = s1 s2 r (1 + E k'(u) + E k'(w)) + E k(u) k(w),    D = 1 + E k'(u) + E k'(w) + E k'k',

    where nothing cancels.
    """
    s1, s2, r, w = torch.broadcast_tensors(s1, s2, r, sine_square(r) if w is None else w)
    linear = (torch.special.erfcx(s1 / math.sqrt(2)) + torch.special.erfcx(s2 / math.sqrt(2))) / 2
    small, large = torch.minimum(s1, s2), torch.maximum(s1, s2)
    polar_better = (small * large < 0.1) & (large <= 12)
    where = [polar_better, large <= 2, large <= 12, large > 12]  # the first of them
    rules = [None, legendre(24), legendre(40), _double_exponential(90, 3.2)]
    G, D, rest = torch.empty_like(r), torch.empty_like(r), torch.ones_like(r, dtype=torch.bool)
    for within, rule in zip(where, rules, strict=True):
        here = rest & within
        if here.any():
            pairs = (x[here] for x in (small, large, r, w))
            G[here], D[here] = _elu_polar(*pairs) if rule is None else _elu_arc(*pairs, rule)
        rest &= ~within
    return s1 * s2 * r * linear + G, linear + D


def _elu_rest(t):
    """k(t) = exp(t) - 1 - t and its derivative, for t < 0."""
    slope = torch.expm1(t)
    series = t / 8 + 1
    for k in (7, 6, 5, 4, 3):
        series = series * t / k + 1
    return torch.where(t > -0.05, t * t / 2 * series, slope - t), slope


def _elu_polar(s1, s2, r, w):
    """E k(u) k(w) and E k'(u) k'(w)."""
    return polar(_elu_rest, s1, s2, r, w, [(-1, -1)])


def _elu_arc(s1, s2, r, w, rule):
    r"""The same for s1 <= s2, the radial integral in closed form, and a rule on the arc.

    With I_n(a) the integral of R^n exp(-R^2 / 2 - a R), which Mills' ratio I_0 gives. That of
    R k(-a R) k(-b R) loses its digits for small a: there k(-a R) is a^2 R^2 / 2 - a^3 R^3 / 6 + ..
    """
    half = math.sqrt(math.pi / 2)  # I_2(0)

    def integrals(a):
        mills = half * torch.special.erfcx(a / math.sqrt(2))
        one = 1 - a * mills
        return one, mills - a * one

    arc, weight = rule
    omega = torch.atan2(w.sqrt(), -r)[..., None]
    a, b = s1[..., None] * torch.sin(omega * arc), s2[..., None] * torch.sin(omega * arc.flip(0))
    (a1, a2), (b1, b2), (ab1, _) = integrals(a), integrals(b), integrals(a + b)
    D = ab1 - a1 - b1 + 1
    G = D + b * a2 + a * b2 - (a + b) * half + 2 * a * b
    small = s1 < 1e-3
    if small.any():
        moments = [2.0, 3 * half, 8.0, 15 * half]  # I_3(0) to I_6(0)
        a, b, low, high = a[small], b[small], b1[small], b2[small]
        term, total = a * a / 2, 0.0
        for n in (3, 4, 5):  # what is left out is a^5 / 120
            low, high = high, (n - 1) * low - b * high
            rest = torch.where(b < 1e3, high, 0)  # rounding, and less than b^-4, beyond
            total = total + term * (rest - moments[n - 3] + b * moments[n - 2])
            term = term * -a / n
        G[small] = total
    weight = omega * weight / (2 * math.pi)
    return (G * weight).sum(-1), (D * weight).sum(-1)


_ALL_SIGNS = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
POLAR = {0.5: (40, 24), 2: (56, 40), 5: (72, 48), 12: (96, 64)}  # sizes of rules up to a scale
_ENTRIES = 2**16  # nodes of quadrature at once, which stay in cache


def polar(values_and_slopes, s1, s2, r, w=None, signs=_ALL_SIGNS, finer=1.0):
    r"""E[f(u) f(w)] and E[f'(u) f'(w)] for f smooth but at 0, over so many pairs of signs of u, w.

    In polar coordinates u = s1 R sin a, w = s2 R sin(omega - a) are positive for a in (0, omega),
    cos(omega) = -r, and f(u) f(w) is smooth there: a product of two rules is exact.
    """
    # numpy's: torch's imports a computer algebra system first, for a second
    shape = np.broadcast_shapes(s1.shape, s2.shape, r.shape)
    sine = (sine_square(r) if w is None else w).sqrt()
    s1, s2, r, sine = (x.expand(shape).reshape(-1, 1, 1) for x in (s1, s2, r, sine))
    largest = max(float(s1.max()), float(s2.max()))
    (radius, radial_weight), (arc, arc_weight) = polar_rules(largest, finer=finer)
    out = []
    for part in torch.arange(len(r)).split(max(1, _ENTRIES // (len(radius) * len(arc)))):
        total = [0, 0]
        for sign1, sign2 in signs:
            omega = torch.atan2(sine[part], -sign1 * sign2 * r[part])
            a, b = (omega * x[:, None] for x in (arc, arc.flip(0)))  # b = omega - a
            u, v = sign1 * s1[part] * torch.sin(a), sign2 * s2[part] * torch.sin(b)
            weight = omega * arc_weight[:, None] * radial_weight
            first, second = values_and_slopes(u * radius), values_and_slopes(v * radius)
            for k in range(2):
                total[k] = total[k] + (first[k] * second[k] * weight).sum((1, 2))
        out.append(torch.stack(total))
    return torch.cat(out, 1).unflatten(1, shape)


def polar_rules(largest, omega=math.pi, finer=1.0):
    """Rules for the radius, of density R exp(-R^2 / 2) / (2 pi), and for an arc, on [0, 1].

    For scales up to `largest`: up to 12 right to rounding if phi is as smooth as mish, to 2e-9 if
    as softsign; beyond, where layers are thin, to 1e-11 in G and 1e-10 in D. The arc's is
    symmetric, and has fewer nodes for arcs of width `omega`: a rule of n nodes is n^-2 fine at its
    ends, where phi may bend. `finer` times as many serve up to 12 a phi that oscillates.
    """
    for bound, (n_radii, n_angles) in POLAR.items():
        if largest <= bound:
            n_angles = max(8, math.ceil(finer * n_angles * math.sqrt(omega / math.pi)))
            return _radial(*legendre(math.ceil(finer * n_radii))), legendre(n_angles)
    rule = _double_exponential(96, 3.0)
    return _radial(*rule), rule


def _radial(x, weight):
    """A rule on [0, 1] as one for the radius, without the nodes that are lost in rounding."""
    radius = 12 * x
    weight = 12 * weight * radius * torch.exp(-radius * radius / 2) / (2 * math.pi)
    matter = weight * (1 + radius * radius) > 1e-18
    return radius[matter], weight[matter]


@lru_cache
def _double_exponential(n, end):
    """Tanh-sinh rule on [0, 1]: resolves singularities and layers at both ends."""
    t = torch.linspace(-end, end, n, dtype=torch.float64)
    e = torch.exp(-math.pi * torch.sinh(t.abs()))
    nodes = torch.where(t < 0, e / (1 + e), 1 / (1 + e))
    return nodes, (t[1] - t[0]) * math.pi * torch.cosh(t) * e / (1 + e) ** 2


def clip(bound):
    r"""Return the dual of phi(t) = min(max(t, -bound), bound).

    phi'' is a pair of point masses, so G'' is elementary (a signed sum of normal densities at the
    corners) and G, D are single integrals over the correlation sin t = tanh y from 0 to r. The
    integrand is 2 a b sinh(y) / pi up to about `peak`, where a and b are small, and decays beyond.
    """

    def dual(s1, s2, r, w=None):
        a, b = bound / s1, bound / s2
        w = sine_square(r) if w is None else w
        sine = w.sqrt()
        sign, r = torch.where(r < 0, -1.0, 1.0), r.abs()  # phi is odd: so is G, and D is even
        apart = w / (1 + r)  # 1 - r
        peak = torch.log(2 / torch.maximum(a, b)).clamp_min(0)
        end = torch.asinh(r / sine)
        top = torch.minimum(end, peak.clamp_min(8) + 8)
        low = torch.minimum((peak - 14).clamp_min(0), top)
        slope, sinh, cosh = 2 * a * b / math.pi, torch.sinh(low), torch.cosh(low)
        D = torch.erf(a / math.sqrt(2)) * torch.erf(b / math.sqrt(2)) + 0 * r
        # G is far smaller than D where a and b are small: no difference of large numbers
        rise = torch.where(low > 1, torch.exp(-low) - apart * cosh, cosh * r - sinh)
        G = D * r + slope * torch.where(low > 0, rise - r + torch.atan(sinh), 0)
        D = D + slope * (cosh - 1)
        length = top - low
        enough = {3: 32, 5: 48, 7: 96}  # nodes, for lengths up to
        longest = float(length.max())
        n_nodes = next((n for bound, n in enough.items() if longest < bound), 192)
        start, width, q = low[..., None], length[..., None], apart[..., None]
        a, b = a[..., None], b[..., None]
        together = max(1, _ENTRIES // D.numel())
        for x, weight in zip(*(rule.split(together) for rule in legendre(n_nodes)), strict=True):
            y = start + x * width
            correlation, cosh = torch.tanh(y), torch.cosh(y)
            # densities at equal and at opposite corners; their difference by expm1
            equal = torch.exp(-(((a - b) * cosh) ** 2) / 2 - a * b / (1 + correlation))
            term = -equal * torch.expm1(-2 * (a * cosh) * (b * cosh) * correlation) / cosh
            D = D + length / math.pi * (term @ weight)
            G = G + length / math.pi * ((term * (torch.exp(-y) / cosh - q)) @ weight)
        D = D + 2 / math.pi * _clip_tail((a - b)[..., 0], (a * b)[..., 0], top, end)
        return s1 * s2 * sign * G, D

    return dual


def _clip_tail(difference, product, top, end):
    """The rest of D's integral, from `top` to `end`: where 1 / cosh y is 2 exp(-y)."""
    scale = difference.abs() / math.sqrt(8)

    def below(v):  # the integral of exp(-(scale / v)^2) from 0 to v
        ratio = torch.where(v > 0, scale / v, math.inf)
        gone = math.sqrt(math.pi) * scale * torch.special.erfc(ratio)
        return v * torch.exp(-ratio * ratio) - gone

    rest = torch.exp(-product / 2) * (below(torch.exp(-top)) - below(torch.exp(-end)))
    return torch.where(end > top, rest, 0)
