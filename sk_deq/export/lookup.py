"""Kernels and gated activations as tables that a graph looks up.

onnxruntime has no arc sine in double precision. With w = sign(r) (1 - (1 - |r|)^(1/2)) a function
that is smooth in the angle is smooth in w on either side of 0, up to r = -1 and 1: piecewise cubics
in w, of which 0 is an edge, serve as well as those in the angle.
"""

import math

import numpy as np
import torch

from .._theory.chebyshev import chebyshev_coefficients, chebyshev_nodes
from .._theory.directions import grown, normalise
from .._theory.expectations import FLOOR
from .._theory.gated import OCTAVES
from .._theory.univariate import angular_kernel, univariate_kernel
from .graph import DOUBLE

_PRECISION = 1e-11  # of cubics, relative to the largest value
_MOST_CELLS = 2**15
_NORMS_BEYOND = 16  # how many times beyond those of fit the norms of rows may be
_N_POINTS = 2**14  # of gated activations, which are linear between them
_LEFT_OUT = 1e-6  # relative size of what is left out of them
_OFTEN = 3.0  # where their arguments mostly are
_N_POWERS = 12  # of the logarithm of a norm
_STEP = OCTAVES * math.log(2)  # in it


def kernel_times(rows, kernel, fitted, coef):
    """k(rows, fitted) @ coef for scaled rows (a Value), (n, n_outputs).

    Parameters
    ----------
    rows : Value
        Scaled rows, double.
    kernel : RowKernel
    fitted : tensor of shape (n_fit, n_columns), float64
        Scaled rows.
    coef : tensor of shape (n_fit, n_outputs), float64

    Raises
    ------
    ValueError
        If the kernel is not a function of an angle and factors of either row.
    """
    if kernel.numbers is not None:
        raise ValueError(
            "method='high_dim' has no table that ONNX could look up; use method='exact', or "
            "KernelMatcher with a linear model."
        )
    pair, constant = kernel.pair.reduced()
    if constant is not None:
        rows = rows.with_constant(constant)
        fitted = torch.nn.functional.pad(fitted, (0, 1), value=constant)
    norms, unit = normalise(fitted)
    n = rows.norms()
    here = rows / n.where(n > 0.0, 1.0)
    one = univariate_kernel(pair)
    if one is not None:
        return _univariate_times(one, n, here, norms, unit, coef)
    table, on_sphere = angular_kernel(pair), kernel.preparation.scaler.mode == "sphere"
    if not table.resolved or not (pair.homogeneous or on_sphere):
        raise ValueError(
            f"The kernel of activation={pair.spec.activation.name!r} is no function of an angle "
            "that ONNX could look up; use input_scaling='sphere', or activation 'relu', "
            "'leaky_relu', 'abs' or 'identity', or KernelMatcher with a linear model."
        )
    cosine = (here @ grown(unit).T).clip(-1.0, 1.0)
    (K,) = look_up(cosine, table)
    if pair.homogeneous:
        return (K @ (norms[:, None] * coef)) * n
    # on the sphere, but for rows of zeros, of which no cosine tells
    zero = torch.zeros(1, fitted.shape[1], dtype=torch.float64)
    among = norms == 0
    result = K @ torch.where(among[:, None], 0, coef) + kernel.matrix(unit[~among][:1], zero) * (
        coef[among].sum(0)
    )
    return result.where(n > 0.0, kernel.matrix(zero, fitted) @ coef)


def _univariate_times(one, n, here, norms, unit, coef):
    """The same for a UnivariateKernel, whose factors of fitted rows join the coefficients."""
    spec, mean, (a, b) = one.spec, one.spec.mean, one.quadratic
    c = n * n * spec.input_var + (spec.recurrent_var * mean**2 + spec.bias_var)
    s = (((c * a + b * b).sqrt() - b) / a).maximum(FLOOR)
    t = s * -one.mu + mean
    points = (here * n * spec.input_var**0.5).with_constant(spec.bias_var**0.5)
    points = points.beside(t * spec.recurrent_var**0.5) / s
    s_fit = one.deviations(norms)
    fitted = grown(one.coordinates(norms, s_fit, unit)) / one.half**0.5
    x = (points @ fitted.T + one.offset).clip(-1.0, 1.0)
    first, *second = look_up(x, one.table)
    s_coef, t_coef = (factor * coef for factor in one.factors(s_fit, coef))
    beside = second[0] @ t_coef if second else t_coef.sum(0)
    return (first @ s_coef) * s + t * beside


def look_up(r, table):
    """Functions of r, a Value between -1 and 1, given as an AngularTable: a list of Values."""
    cubics = _cubics(table)
    n_cells = cubics.shape[2]
    magnitude = r.abs()
    w = -((-magnitude + 1.0).sqrt()) + 1.0
    place = (w * r.sign() + 1.0) * (n_cells / 2)
    cell = place.floor().minimum(n_cells - 1.0)
    u = place - cell
    index = cell.to(np.int64)
    values = []
    for coefficients in cubics:
        c0, c1, c2, c3 = (r.graph.constant(c, r.dtype).take(index) for c in coefficients)
        values.append(((c3 * u + c2) * u + c1) * u + c0)
    return values


def _cubics(table):
    """Coefficients (n_functions, 4, n_cells) of an AngularTable in w of cells in [-1, 1]."""

    def values(w):
        r = torch.sign(w) * (1 - (1 - w.abs()) ** 2)
        return torch.stack([f.clone() for f in table(r)])

    u = (1 + chebyshev_nodes(4)) / 2
    to_monomials = torch.linalg.inv(u[:, None] ** torch.arange(4))
    between = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    n_cells = 512
    while True:
        edges = torch.arange(n_cells, dtype=torch.float64)[:, None]
        cubics = values((edges + u) * (2 / n_cells) - 1) @ to_monomials.T
        exact = values((edges + between) * (2 / n_cells) - 1)
        error = (cubics @ between ** torch.arange(4)[:, None] - exact).abs().max()
        if error <= _PRECISION * exact.abs().max() or n_cells == _MOST_CELLS:
            return cubics.mT.contiguous().numpy()
        n_cells *= 2


def gated_features(rows, match, weights, dtype, bias=None, constant=0.0):
    """Features of a GatedNetwork for scaled rows (a Value, double), (n, n_components).

    sigma_j(t; n) = sum_r U_jr(t) g_jr(n): of low rank over all the ranges of norms. NaN for norms
    far beyond those of fit. The norm n is that of rows with a `constant` as a further coordinate,
    whose weights are the `bias` (n_components,) divided by it.
    """
    n = (rows.with_constant(constant) if constant else rows).norms()
    divisor = n.where(n > 0.0, 1.0)
    unit = (rows / divisor).to(dtype)
    if bias is not None:
        unit = unit.beside(divisor.reciprocal().to(dtype))
        weights = torch.cat([weights, bias[:, None]], 1)
    pieces = match.pieces(_NORMS_BEYOND)
    gates_of = _gates(n, match, pieces)
    points = torch.linspace(-match.cut, match.cut, _N_POINTS, dtype=torch.float64)
    groups = []
    for j, W in enumerate(weights.tensor_split(match.n_groups)):
        tables, gates = _low_rank(match, points, [span.factors[j] for _, _, span in pieces])
        gates = gates_of(gates).to(dtype)
        t = (unit @ W.T).clip(-match.cut, match.cut) + match.cut
        place = t * ((_N_POINTS - 1) / (2 * match.cut))
        cell = place.floor().minimum(_N_POINTS - 2.0)
        u, cell, following = place - cell, cell.to(np.int64), (cell + 1.0).to(np.int64)
        features = None
        for r, table in enumerate(tables / max(1, len(W)) ** 0.5):
            table = rows.graph.constant(table, dtype)
            low, high = table.take(cell), table.take(following)
            part = ((high - low) * u + low) * gates.columns([r])
            features = part if features is None else features + part
        groups.append(features)
    features = groups[0].beside(*groups[1:]) if groups[1:] else groups[0]
    zero = torch.zeros(1, dtype=torch.float64)
    at_zero = match(torch.zeros(1, len(weights), dtype=weights.dtype), zero).detach()
    return features.where(n > 0.0, at_zero.numpy())


def _gates(n, match, pieces):
    """From coefficients (n_pieces, n_terms, rank) to g(n), a Value (n, rank), for norms (n, 1)."""
    if match.pair.homogeneous:
        return lambda coefficients: n @ coefficients[0, :1]
    graph, log = n.graph, n.maximum(1e-300).log()
    octaves = [round(math.log(low) / _STEP) for low, _, _ in pieces[1:]]
    first, last = min(octaves), max(octaves)
    numbers = np.full(last - first + 1, -1)
    numbers[np.subtract(octaves, first)] = np.arange(1, len(pieces))
    octave = (log / _STEP).floor() - first
    number = graph.constant(numbers, np.int64).take(octave.clip(0.0, last - first).to(np.int64))
    low, high, _ = pieces[0]
    inside = (n > low) & (n < high)
    reached = (octave > -0.5) & (octave < last - first + 0.5) & (number > -1)
    piece = number.where(reached, 0).where(inside.negated(), 0).reshape(-1)
    slope, offset = np.zeros((2, len(pieces), 1))
    for k, (_, _, span) in enumerate(pieces):
        start, end = span.norm_range
        if span.factors.shape[2] > 1:
            slope[k] = 2 / math.log(end / start)
            offset[k] = -1 - slope[k] * math.log(start)
    slope, offset = (graph.constant(c, DOUBLE).take(piece) for c in (slope, offset))
    x = (log * slope + offset).clip(-1.0, 1.0)
    powers = graph.node("Pow", x, np.arange(float(_N_POWERS))).reshape(-1, 1, _N_POWERS)
    powers = powers.where((inside | reached).reshape(-1, 1, 1), np.nan)

    def gates(coefficients):
        coefficients = graph.constant(coefficients, DOUBLE)
        return (powers @ coefficients.take(piece)).flat()

    return gates


def _low_rank(match, points, factors):
    """Factorise activations: tables (rank, n_points), gates (n_pieces, 12, rank) in powers of x.

    `factors` are f_k at the nodes of every piece, (n_terms, n_nodes).
    """
    columns, scales = [], []
    for f in factors:
        n = f.shape[1]
        to_powers = np.zeros((n, _N_POWERS))
        for k in range(n):
            to_powers[k, : k + 1] = np.polynomial.chebyshev.cheb2poly(np.eye(n)[k])[: k + 1]
        series = match.apply(points, chebyshev_coefficients(f).T.contiguous())
        scales.append(float(series[:, points.abs() < _OFTEN].abs().max()) or 1.0)
        columns.append(torch.from_numpy(to_powers.T) @ series / scales[-1])
    values = torch.cat(columns)
    level = values.abs().amax(0) + 1.0  # far out, where no sample falls, values are large
    gates, S, tables = torch.linalg.svd(values / level, full_matrices=False)
    kept = S > _LEFT_OUT * S[0]
    gates = (gates * S)[:, kept].unflatten(0, (len(factors), _N_POWERS)).numpy()
    return (tables[kept] * level).numpy(), gates * np.array(scales)[:, None, None]
