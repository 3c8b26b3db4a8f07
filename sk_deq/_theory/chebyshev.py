"""Chebyshev series in one variable, and in the logarithm of a scale."""

import math

import numpy as np
import torch


def chebyshev_nodes(n):
    """The n zeros of the Chebyshev polynomial T_n on (-1, 1), falling, as a float64 tensor."""
    return torch.cos((torch.arange(n, dtype=torch.float64) + 0.5) * (math.pi / n))


def chebyshev_coefficients(values, axis=-1):
    """Coefficients, along an axis, of the interpolant through values at chebyshev_nodes."""
    values = values.movedim(axis, -1)
    n = values.shape[-1]
    k = torch.arange(n, dtype=torch.float64)
    transform = torch.cos(k[:, None] * (k + 0.5) * (math.pi / n)) * (2 / n)
    transform[0] /= 2
    return (values @ transform.T).movedim(-1, axis)


def series_length(coefficients, tolerance):
    """How many coefficients along the last axis matter: exceed tolerance times the largest."""
    size = coefficients.abs().flatten(0, -2).amax(0)
    return 1 + max(torch.nonzero(size > tolerance * size.max())[:, 0].tolist(), default=0)


def shortened(series, tolerance):
    """Series (.., n_terms) without the terms below tolerance times the largest of their own."""
    largest = series.abs().amax(-1, keepdim=True).clamp_min(1e-300)
    return series[..., : series_length(series / largest, tolerance)]


def clenshaw(coefficients, x):
    """Evaluate sum_k coefficients[..., k] T_k(x[..., :]) by Clenshaw's recurrence."""
    terms = coefficients.movedim(-1, 0).contiguous()[..., None]
    shape = np.broadcast_shapes(terms.shape[1:], x.shape)  # torch's would import sympy
    x = x.to(terms)
    first, second, twice = x.new_zeros(shape), x.new_zeros(shape), 2 * x
    for term in terms[1:].flip(0):
        second.neg_().add_(term).addcmul_(twice, first)  # not out=: dual numbers pass
        first, second = second, first
    return torch.addcmul(terms[0] - second, x, first)


def scale_ranges(scales, octaves=2, digits=12):
    """Intervals that cover all scales: a point if all are equal, else so many octaves each.

    Scales that agree in so many digits are equal. The ends of an interval do not depend on the
    scales, so that tables serve again; scales around 1 share one. One interval covers all if
    octaves is None.
    """
    scales = scales.cpu()
    positive = scales[scales > 0]
    ranges = [(0.0, 0.0)] if len(positive) < len(scales) else []
    if len(positive) == 0:
        return ranges
    low, high = float(positive.min()), float(positive.max())
    if high <= low * (1 + 10.0**-digits):
        scale = float(f"{high:.{digits}g}")
        return [*ranges, (scale, scale)]
    octave = torch.log2(positive).floor()
    if octaves is None:
        return [*ranges, (2.0 ** float(octave.min()), 2.0 ** (float(octave.max()) + 1))]
    starts = ((octave + 1) / octaves).floor().unique() * octaves - 1
    return ranges + [(2.0**start, 2.0 ** (start + octaves)) for start in starts.tolist()]


def scale_nodes(scale_range, n_nodes):
    low, high = scale_range
    if n_nodes == 1:
        return torch.tensor([low], dtype=torch.float64)
    middle, half = (math.log(low) + math.log(high)) / 2, math.log(high / low) / 2
    return torch.exp(middle + half * chebyshev_nodes(n_nodes))


def scale_basis(scale_range, scales, n_terms):
    """T_a of the log-scales mapped to [-1, 1], (n, n_terms)."""
    if n_terms == 1:
        return torch.ones_like(scales)[:, None]
    low, high = scale_range
    x = (torch.log(scales / low) * (2 / math.log(high / low)) - 1).clamp(-1, 1)
    return torch.cos(torch.acos(x)[:, None] * torch.arange(n_terms, device=x.device))
