r"""One hidden layer with exactly a DEQ's kernel, for rows of any norms.

Between rows of norms n, n' and cosine r a kernel of the DEQ is sum_k B_k(n, n') r^k, with every B_k
positive semidefinite since the kernel is one in every dimension (Schoenberg). With factors
B_k(n, n') = sum_j f_kj(n) f_kj(n'), the network of one hidden layer in J groups of neurons

    sigma_j(w.x / n; n) = sum_k f_kj(n) h_k(w.x / n),        w ~ N(0, I), h_k Hermite,

has that kernel exactly: E h_k(u) h_l(v) is r^k if k = l, else 0. The activations are gated by the
norm of the row. For rows of one norm a single group suffices, with f_k = sqrt(b_k) (Simon et al.,
2022).
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch

from .._state import storable
from .._torch import single_thread
from .activations import ACTIVATIONS
from .chebyshev import chebyshev_coefficients, scale_basis, scale_nodes
from .expectations import FLOOR, gaussian_rule, hermite_coefficients, hermite_polynomials
from .pair import DEQPairKernel

_MAX_TERMS = {True: 512, False: 128}  # whether the activation is homogeneous
_N_NODES = 12
OCTAVES = 2  # of norms outside those of fit that one table of factors serves
_OFFSET = 1000  # makes the index of such a range positive
_MAX_SPANS = 16  # that are kept: their tables take a few megabytes each
_TERM_TOLERANCE, _GROUP_TOLERANCE = 1e-6, 3e-6  # shares of the trace that may be left out
_MAX_GROUPS = 4
_LAST_TERMS = 8  # one in so many carries what is left out
_ROUNDING = 1e-9  # share of the kernel that may be left out
_SAME_NORM = 1e-6  # relative difference of norms that rounding explains
_N_POINTS = 2**14  # of the table of sigma_j in t; between them it is linear, to about 1e-7
_TILE = 2**15  # entries that are looked up at once


@dataclass(frozen=True)
class _Span:
    """The activations sigma_j(t; n) for norms n in one range.

    `factors` (n_groups, n_terms, n_nodes) are f_kj at Chebyshev nodes of the log-norm; where
    `homogeneous`, f_kj(n) is n f_kj(1).
    """

    norm_range: tuple
    factors: torch.Tensor
    homogeneous: bool
    cut: float

    def weights(self, norms):
        """Weights w with f(n) = sum_a w[n, a] f(node_a), (n, n_nodes)."""
        n_nodes = self.factors.shape[2]
        if n_nodes == 1:
            return (norms if self.homogeneous else torch.ones_like(norms))[:, None]
        basis = scale_basis(self.norm_range, norms.clamp(*self.norm_range), n_nodes)
        return basis @ chebyshev_coefficients(torch.eye(n_nodes, dtype=norms.dtype)).T.to(basis)

    @cached_property
    def tables(self):
        """sigma_j at points of t and at the nodes of n, (n_groups, n_points, n_nodes)."""
        t = torch.linspace(-self.cut, self.cut, _N_POINTS, dtype=torch.float64)
        h = hermite_polynomials(t, self.factors.shape[1])
        return torch.einsum("kt,jka->jta", h, self.factors)

    def look_up(self, group, t, weights):
        """sigma_j(t; n) of one group for t (n, n_neurons) and the weights of the rows' norms.

        Differentiable in t.
        """
        table, weights = self.tables[group].to(t), weights.to(t)
        x = (t.clamp(-self.cut, self.cut) + self.cut) * ((_N_POINTS - 1) / (2 * self.cut))
        i = x.detach().long().clamp_(max=_N_POINTS - 2)
        if table.shape[1] == 1:  # the same function for all rows, times a factor
            low, rise = table[:-1, 0], table.diff(dim=0)[:, 0]
            return torch.addcmul(low[i], rise[i], x - i) * weights
        n_rows = max(1, _TILE // max(1, t.shape[1]))
        tiles = []
        for place, cell, w in zip(*(a.split(n_rows) for a in (x, i, weights)), strict=True):
            low, high = ((table[k] @ w[:, :, None])[..., 0] for k in (cell, cell + 1))
            tiles.append(torch.lerp(low, high, place - cell))
        return torch.cat(tiles) if tiles else t


@storable
@dataclass(frozen=True)
class GatedNetwork:
    """The activations sigma_j(t; n) of the exact one-hidden-layer match; see `exact_match`.

    Attributes
    ----------
    pair : DEQPairKernel
        The kernel that it has.
    norm_range : tuple of float
        Norms between which the factors f are interpolated; elsewhere they are extended, as
        eigenvectors are in the Nystroem method.
    factors : tensor of shape (n_groups, n_terms, n_nodes)
        f_kj at the nodes: Chebyshev nodes of the log-norm.
    complete : bool
        Whether the last terms carry what the series leaves out.
    cut : float
        |t| beyond which sigma_j is constant: a polynomial must not be used far out.
    residual : float
        Largest error of the network's kernel between rows of the nodes' norms, relative to the
        kernel's largest value.
    """

    pair: DEQPairKernel
    norm_range: tuple
    factors: torch.Tensor
    complete: bool
    cut: float
    residual: float = math.nan

    @property
    def n_groups(self):
        """Number of groups J."""
        return len(self.factors)

    def _spans_of(self, norms):
        """Yield the _Span and the indices of the norms (n,) that belong to it."""
        low, high = self.norm_range
        if low == high and self.pair.homogeneous:
            yield self._span(0), torch.arange(len(norms), device=norms.device)
            return
        outside = (norms < low * (1 - _SAME_NORM)) | (norms > high * (1 + _SAME_NORM))
        octave = torch.log2(norms.clamp_min(FLOOR)).div(OCTAVES, rounding_mode="floor").long()
        index = torch.where(outside, octave + _OFFSET, 0)  # of a range; 0 is that of fit
        for k in index.unique().tolist():
            rows = torch.nonzero(index == k)[:, 0]
            if k:  # a row without a fixed point is named, no node
                self.pair.rows(torch.stack(norms[rows].detach().aminmax()).cpu())
            yield self._span(k), rows

    def _span(self, index):
        """The _Span of a range by its index; the last few are kept, but not in pickles."""
        span = self._spans.pop(index, None)
        if span is None:
            norm_range, factors = self.norm_range, self.factors
            if index:
                start = (index - _OFFSET) * OCTAVES
                norm_range = self._stable_part(2.0**start, 2.0 ** (start + OCTAVES))
                factors = self._extended(scale_nodes(norm_range, _N_NODES))
            span = _Span(norm_range, factors, self.pair.homogeneous, self.cut)
        self._spans[index] = span
        for oldest in list(self._spans)[:-_MAX_SPANS]:
            self._spans.pop(oldest, None)
        return span

    def pieces(self, factor):
        """The activations for norms up to `factor` times beyond those of fit: (low, high, span).

        First that of fit; then those of ranges of octaves, which serve norms outside it.
        """
        low, high = self.norm_range
        found = [(low * (1 - _SAME_NORM), high * (1 + _SAME_NORM), self._span(0))]
        if self.pair.homogeneous:
            return found
        first, last = (math.floor(math.log2(n) / OCTAVES) for n in (low / factor, high * factor))
        for octave in range(first, last + 1):
            ends = 2.0 ** (octave * OCTAVES), 2.0 ** ((octave + 1) * OCTAVES)
            stable = self.pair.stable(torch.tensor(ends, dtype=torch.float64)).all()
            if stable and not low <= ends[0] < ends[1] <= high:
                found.append((*ends, self._span(octave + _OFFSET)))
        return found

    def _stable_part(self, low, high):
        """The part of a range of norms, from that of fit on, where there is a fixed point."""
        inside = min(max(self.norm_range[0], low), high)
        return tuple(_last_stable(self.pair, inside, end) for end in (low, high))

    @cached_property
    def _spans(self):
        return {}

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_spans"}

    def __deepcopy__(self, memo):
        """The same: nothing changes it."""
        return self

    @single_thread()
    def _extended(self, norms):
        """f_kj at other norms (m,), from B_k(n, node) = sum_j f_kj(n) f_kj(node), j orthogonal."""
        nodes = scale_nodes(self.norm_range, self.factors.shape[2])
        B = power_series(self.pair, norms, nodes, self.factors.shape[1])
        if self.complete:
            _share(_left_out(self.pair, norms, nodes, B), B)
        scale = self.factors.square().sum(2, keepdim=True).clamp_min(1e-300)
        return torch.einsum("nak,jka->jkn", B, self.factors) / scale

    def gates(self, norms):
        """Factors f_kj(n) for norms (n,): a tensor (n_groups, n, n_terms)."""
        gates = norms.new_empty(self.n_groups, len(norms), self.factors.shape[1])
        for span, rows in self._spans_of(norms):
            gates[:, rows] = span.weights(norms[rows]) @ span.factors.to(norms).mT
        return gates

    def __call__(self, t, norms):
        """The features at t (n, n_neurons), the neurons in n_groups runs, for norms (n,).

        sigma_j(t; n) / sqrt(number of neurons of group j), looked up in a table.
        """
        features = None
        for span, rows in self._spans_of(norms):
            here = t if len(rows) == len(t) else t[rows]
            weights, inputs = span.weights(norms[rows]), here.tensor_split(self.n_groups, 1)
            outputs = [
                span.look_up(group, source, weights) / math.sqrt(max(1, source.shape[1]))
                for group, source in enumerate(inputs)
            ]
            found = torch.cat(outputs, 1) if outputs[1:] else outputs[0]
            if len(rows) == len(t):
                return found
            features = torch.zeros_like(t) if features is None else features
            features = features.index_copy(0, rows, found)  # not in place: autograd follows
        return t if features is None else features

    def kernel_matrix(self, norms1, norms2, r):
        """The kernel of the network at infinite width, for norms (m1,), (m2,) and cosines (m1, m2).

        Of the activations as they are used, cut and all.
        """
        first, second = (self._effective(self.gates(norms)) for norms in (norms1, norms2))
        K = torch.zeros_like(r)
        for k in range(first.shape[2] - 1, -1, -1):
            K = K * r + first[:, :, k].T @ second[:, :, k]
        return K

    def _effective(self, gates):
        """Hermite coefficients of t -> sigma_j(clip(t); n), for twice as many terms."""
        kinks = (-self.cut, self.cut)
        xi, weight = (x[0] for x in gaussian_rule(kinks, torch.ones(1, dtype=torch.float64)))
        values = gates @ hermite_polynomials(xi.clamp(*kinks), gates.shape[2])
        return (values * weight) @ hermite_polynomials(xi, 2 * gates.shape[2]).T

    def apply(self, t, gates):
        """sigma_j(t; n) for one group, t (n_points,), gates (.., n_terms): (.., n_points)."""
        return gates @ hermite_polynomials(t.clamp(-self.cut, self.cut), gates.shape[-1])


@single_thread()
def exact_match(spec, kernel, norms):
    """Return the GatedNetwork with the DEQ's kernel on rows of these norms.

    Parameters
    ----------
    spec : DEQSpec
    kernel : {"ck", "ntk", "ntk_full"}
    norms : tensor of shape (n,), float64
        Norms of the training rows.
    """
    if spec.homogeneous and spec.activation in ACTIVATIONS.values():
        return _homogeneous_match(replace(spec, tau0=1.0), kernel)
    positive = norms[norms > 0]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
    if spec.homogeneous:
        low = high = 1.0
    elif high <= low * (1 + _SAME_NORM):
        low = high = math.sqrt(low * high)
    return _match(spec, kernel, low, high)


@lru_cache(maxsize=16)
def _homogeneous_match(spec, kernel):
    """The match for rows of whatever norms, which fit after fit of a search asks for again."""
    return _match(spec, kernel, 1.0, 1.0)


def _match(spec, kernel, low, high):
    """The GatedNetwork for norms between two."""
    pair = DEQPairKernel(spec, kernel)
    nodes = scale_nodes((low, high), 1 if low == high else _N_NODES)
    B = power_series(pair, nodes, nodes, _MAX_TERMS[spec.activation.homogeneous])
    left_out = _left_out(pair, nodes, nodes, B)
    complete = bool(left_out.max() > _ROUNDING * B.sum(2).max())
    if complete:
        _share(left_out, B)
    factors = _factors(B.permute(2, 0, 1))
    factors = factors * _signs(spec, nodes, factors.shape[1])[:, None]
    return _with_best_cut(nodes, GatedNetwork(pair, (low, high), factors, complete, math.inf))


def _last_stable(pair, norm, end):
    """The norm between a stable one and `end` up to which there is a fixed point all along."""
    for _ in range(5):
        norms = torch.linspace(math.log(norm), math.log(end), 33, dtype=torch.float64).exp()
        stable = pair.stable(norms)
        if stable.all():
            return end
        first = int(stable.int().argmin())  # that has none
        norm, end = float(norms[max(first - 1, 0)]), float(norms[first])
    return norm


def _factors(B):
    """f_kj with B_k = sum_j f_kj f_kj^T, (n_groups, n_terms, m), as many as matter; B (n, m, m)."""
    trace = B.diagonal(dim1=1, dim2=2).sum(1)
    left = trace.flip(0).cumsum(0).flip(0)
    n_terms = max(2, int((left > _TERM_TOLERANCE * left[0]).sum()))
    values, vectors = torch.linalg.eigh(B[:n_terms])
    values, vectors = values.flip(1).clamp_min(0), vectors.flip(2)
    energy = values.sum(0)
    left = energy.flip(0).cumsum(0).flip(0)
    n_groups = 1 + int((left[1:_MAX_GROUPS] > _GROUP_TOLERANCE * left[0]).sum())
    factors = (vectors * values.sqrt()[:, None])[:, :, :n_groups].permute(2, 0, 1)
    # an eigenvector's sign is arbitrary: make the last entry's +
    return factors * torch.where(factors[:, :, -1:] < 0, -1.0, 1.0)


def _left_out(pair, norms1, norms2, B):
    """What the series B (m1, m2, n_terms) leaves out at r = 1, (m1, m2)."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    rows1, rows2 = pair.rows(norms1), pair.rows(norms2)
    K = pair.pairs(rows1, rows2, one)[:, :, 0]
    same = norms1[:, None] == norms2
    return torch.where(same, pair.diagonal(rows1)[:, None], K) - B.sum(2)


def _share(left_out, B):
    """Add what is left out to the last terms of B: high powers of r differ near |r| = 1 only."""
    last = B.shape[2] // _LAST_TERMS
    B[:, :, -last:] += left_out[:, :, None] / last


def _signs(spec, nodes, n_terms):
    """Signs of the Hermite terms, which the kernel leaves free, (n_terms,).

    Those of phi's own coefficients keep sigma close to phi. Where phi has none, those of a function
    singular at 0 alone: with others, high terms add up to large values far out, where no sample
    falls, and are lost.
    """
    a = hermite_coefficients(spec.activation, spec.deviation(nodes[-1:]), n_terms)[0]
    k = torch.arange(n_terms)
    pattern = torch.where(k // 2 % 2 == 0, 1.0, -1.0).double()
    return torch.where(a.abs() > 1e-8 * a.abs().max(), a.sign(), pattern)


def _with_best_cut(nodes, network):
    """Choose where to cut the activations by the error of the kernel that remains.

    It is measured on a grid of cosines, and for rows with themselves, where the terms that are left
    out add up.
    """
    r = torch.linspace(-0.98, 0.98, 50, dtype=torch.float64)
    rows = network.pair.rows(nodes)
    exact, diagonal = network.pair.pairs(rows, rows, r[None, None]), network.pair.diagonal(rows)
    largest = torch.maximum(exact.abs().max(), diagonal.max())
    found = []
    for cut in (4.0, 5.0, 6.0, 8.0):
        candidate = replace(network, cut=cut)
        effective = candidate._effective(candidate.gates(nodes))
        powers = r ** torch.arange(effective.shape[2], dtype=torch.float64)[:, None]
        achieved = torch.einsum("jnk,jmk,kr->nmr", effective, effective, powers)
        at_itself = effective.square().sum((0, 2)) - diagonal
        error = torch.maximum((achieved - exact).abs().max(), at_itself.abs().max())
        found.append(replace(candidate, residual=float(error / largest)))
    return min(found, key=lambda candidate: candidate.residual)


def power_series(pair, norms1, norms2, n_terms):
    """Coefficients B_k(n_i, n_j) of a kernel as a power series in the cosine, (m1, m2, n_terms).

    By Cauchy's formula: the discrete Fourier transform of the values on a circle of radius < 1,
    where the fixed point is solved in complex numbers.
    """
    radius = 10 ** (-3 / max(n_terms, 32))  # rounding grows by radius^-k <= 1000
    n_points = 5 * max(n_terms, 32)  # aliasing leaves radius^n_points = 1e-15
    angle = torch.arange(n_points // 2 + 1, dtype=torch.float64) * (2 * math.pi / n_points)
    circle = torch.polar(torch.full_like(angle, radius), angle)[None, None]
    values = pair.pairs(pair.rows(norms1), pair.rows(norms2), circle)
    series = torch.fft.irfft(values.conj(), n=n_points, dim=2)[:, :, :n_terms]
    return series / radius ** torch.arange(n_terms, dtype=torch.float64)
