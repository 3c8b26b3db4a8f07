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
from functools import cached_property

import torch

from .._torch import single_thread
from .chebyshev import chebyshev_coefficients, scale_basis, scale_nodes
from .expectations import gaussian_rule, hermite_coefficients
from .pair import DEQPairKernel
from .spec import DEQSpec

_MAX_TERMS = {True: 512, False: 128}  # whether the activation is homogeneous
_N_NODES = 12
_TERM_TOLERANCE, _GROUP_TOLERANCE = 1e-6, 3e-6  # shares of the trace that may be left out
_MAX_GROUPS = 4
_LAST_TERMS = 8  # one in so many carries what is left out
_ROUNDING = 1e-9  # share of the kernel that may be left out
_SAME_NORM = 1e-6  # relative difference of norms that rounding explains
_N_POINTS = 2**14  # of the table of sigma_j in t; between them it is linear, to about 1e-7
_TILE = 2**15  # entries that are looked up at once


@dataclass(frozen=True)
class GatedNetwork:
    """The activations sigma_j(t; n) of the exact one-hidden-layer match; see `exact_match`.

    Attributes
    ----------
    spec : DEQSpec
    kernel : str
        Which kernel of the DEQ it has.
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

    spec: DEQSpec
    kernel: str
    norm_range: tuple
    factors: torch.Tensor
    complete: bool
    cut: float
    residual: float

    @property
    def n_groups(self):
        """Number of groups J."""
        return len(self.factors)

    def gates(self, norms):
        """Factors f_kj(n) for norms (n,): a tensor (n_groups, n, n_terms)."""
        gates = self._node_weights(norms) @ self.factors.to(norms).mT
        outside = self._outside(norms)
        if outside.any():
            # B_k(n, node) = sum_j f_kj(n) f_kj(node), solved for f_kj(n); the f_kj are orthogonal
            n_nodes = self.factors.shape[2]
            nodes = torch.cat([norms[outside].cpu(), scale_nodes(self.norm_range, n_nodes)])
            n_outside = int(outside.sum())
            B = power_series(self.spec, self.kernel, nodes, self.factors.shape[1])
            if self.complete:
                _share(_left_out(DEQPairKernel(self.spec, self.kernel), nodes, B), B)
            B = B[:n_outside, n_outside:]
            scale = self.factors.square().sum(2)[:, None].clamp_min(1e-300)
            gates[:, outside] = (torch.einsum("nak,jka->jnk", B, self.factors) / scale).to(gates)
        return gates

    def _node_weights(self, norms):
        """Weights w with f(n) = sum_a w[n, a] f(node_a), of shape (n, n_nodes)."""
        low, high = self.norm_range
        if low == high:
            return (norms if self.spec.homogeneous else torch.ones_like(norms))[:, None]
        basis = scale_basis(self.norm_range, norms.clamp(low, high), _N_NODES)
        return basis @ chebyshev_coefficients(torch.eye(_N_NODES, dtype=norms.dtype)).T.to(basis)

    def _outside(self, norms):
        low, high = self.norm_range
        if low == high and self.spec.homogeneous:
            return torch.zeros_like(norms).bool()
        slack = _SAME_NORM if low == high else 0.0
        return (norms < low * (1 - slack)) | (norms > high * (1 + slack))

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
        values = gates @ _hermite(xi.clamp(*kinks), gates.shape[2])
        return (values * weight) @ _hermite(xi, 2 * gates.shape[2]).T

    def __call__(self, t, norms):
        """The features at t (n, n_neurons), the neurons in n_groups runs, for norms (n,).

        sigma_j(t; n) / sqrt(number of neurons of group j), looked up in a table.
        """
        features = torch.empty_like(t)
        weights, outside = self._node_weights(norms).to(t), self._outside(norms)
        n_rows = max(1, _TILE * self.n_groups // t.shape[1])
        groups = [columns for columns in torch.arange(t.shape[1]).tensor_split(self.n_groups)]
        for group, columns in enumerate(groups):
            if not len(columns):
                continue
            here = slice(int(columns[0]), int(columns[-1]) + 1)
            table = self._tables[group].to(t)
            for start in range(0, len(t), n_rows):
                rows = slice(start, start + n_rows)
                features[rows, here] = self._look_up(table, t[rows, here], weights[rows])
            if outside.any():
                gates = self.gates(norms[outside])[group].to(t)
                features[outside, here] = self.apply(t[outside, here], gates)
            features[:, here] /= math.sqrt(len(columns))
        return features

    def _look_up(self, table, t, weights):
        x = (t.clamp(-self.cut, self.cut) + self.cut) * ((_N_POINTS - 1) / (2 * self.cut))
        i = x.long().clamp_(max=_N_POINTS - 2)
        low, high = ((table[k] @ weights[:, :, None])[..., 0] for k in (i, i + 1))
        return torch.lerp(low, high, x - i)

    @cached_property
    def _tables(self):
        """sigma_j at points of t and at the nodes of n, (n_groups, n_points, n_nodes)."""
        t = torch.linspace(-self.cut, self.cut, _N_POINTS, dtype=torch.float64)
        h = _hermite(t, self.factors.shape[1])
        return torch.einsum("kt,jka->jta", h, self.factors)

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_tables"}

    def apply(self, t, gates):
        """sigma_j(t; n) for one group, t (n, n_neurons), gates (n, n_terms), by Clenshaw."""
        t = t.clamp(-self.cut, self.cut)
        b1, b2 = torch.zeros_like(t), torch.zeros_like(t)
        for k in range(gates.shape[1] - 1, -1, -1):
            b2.mul_(-math.sqrt((k + 1) / (k + 2))).add_(gates[:, k, None])
            b1, b2 = b2.addcmul_(t, b1, value=1 / math.sqrt(k + 1)), b1
        return b1


def exact_match(spec, kernel, norms):
    """Return the GatedNetwork with the DEQ's kernel on rows of these norms.

    Parameters
    ----------
    spec : DEQSpec
    kernel : {"ck", "ntk", "ntk_full"}
    norms : tensor of shape (n,), float64
        Norms of the training rows.
    """
    positive = norms[norms > 0]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
    if spec.homogeneous:
        low = high = 1.0
    elif high <= low * (1 + _SAME_NORM):
        low = high = math.sqrt(low * high)
    pair = DEQPairKernel(spec, kernel)
    with single_thread():
        nodes = scale_nodes((low, high), 1 if low == high else _N_NODES)
        B = power_series(spec, kernel, nodes, _MAX_TERMS[spec.activation.homogeneous])
        left_out = _left_out(pair, nodes, B)
        complete = bool(left_out.max() > _ROUNDING * B.sum(2).max())
        if complete:
            _share(left_out, B)
        B = B.permute(2, 0, 1)
        trace = B.diagonal(dim1=1, dim2=2).sum(1)
        left = trace.flip(0).cumsum(0).flip(0)
        n_terms = max(2, int((left > _TERM_TOLERANCE * left[0]).sum()))
        values, vectors = torch.linalg.eigh(B[:n_terms])
        values, vectors = values.flip(1).clamp_min(0), vectors.flip(2)
        energy = values.sum(0)
        left = energy.flip(0).cumsum(0).flip(0)
        n_groups = 1 + int((left[1:_MAX_GROUPS] > _GROUP_TOLERANCE * left[0]).sum())
        factors = (vectors * values.sqrt()[:, None])[:, :, :n_groups].permute(2, 0, 1)
        lead = factors[:, :, -1:]  # an eigenvector's sign is arbitrary: make the last entry's +
        signs = _signs(spec, nodes, n_terms)[:, None]
        factors = factors * torch.where(lead < 0, -1.0, 1.0) * signs
        return _with_best_cut(pair, nodes, ((low, high), factors, complete))


def _left_out(pair, norms, B):
    """What the series B (m, m, n_terms) leaves out at r = 1, (m, m)."""
    rows = pair.rows(norms)
    K = pair.pairs(rows, rows, torch.ones(1, 1, 1, dtype=torch.float64))[:, :, 0]
    return K.diagonal_scatter(pair.diagonal(rows)) - B.sum(2)


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


def _with_best_cut(pair, nodes, parts):
    """Choose where to cut the activations by the error of the kernel that remains.

    It is measured on a grid of cosines, and for rows with themselves, where the terms that are left
    out add up.
    """
    r = torch.linspace(-0.98, 0.98, 50, dtype=torch.float64)
    rows = pair.rows(nodes)
    exact, diagonal = pair.pairs(rows, rows, r[None, None]), pair.diagonal(rows)
    largest = torch.maximum(exact.abs().max(), diagonal.max())
    best = None
    for cut in (4.0, 5.0, 6.0, 8.0):
        network = GatedNetwork(pair.spec, pair.kernel, *parts, cut, math.nan)
        effective = network._effective(network.gates(nodes))
        powers = r ** torch.arange(effective.shape[2], dtype=torch.float64)[:, None]
        achieved = torch.einsum("jnk,jmk,kr->nmr", effective, effective, powers)
        at_itself = effective.square().sum((0, 2)) - diagonal
        error = torch.maximum((achieved - exact).abs().max(), at_itself.abs().max())
        residual = float(error / largest)
        if best is None or residual < best.residual:
            best = replace(network, residual=residual)
    return best


def _hermite(x, n_terms):
    """h_0 to h_{n_terms - 1} at x, (n_terms, n)."""
    h = torch.ones(n_terms, len(x), dtype=x.dtype)
    h[1] = x
    for k in range(1, n_terms - 1):
        torch.mul(x, h[k], out=h[k + 1])
        h[k + 1].sub_(h[k - 1], alpha=math.sqrt(k)).div_(math.sqrt(k + 1))
    return h


def power_series(spec, kernel, norms, n_terms):
    """Coefficients B_k(n_i, n_j) of the kernel as a power series in the cosine, (m, m, n_terms).

    By Cauchy's formula: the discrete Fourier transform of the values on a circle of radius < 1,
    where the fixed point is solved in complex numbers. B_k depends on the first k coefficients of
    the dual's own series only, so those may be cut at n_terms.
    """
    radius = 10 ** (-3 / max(n_terms, 32))  # rounding grows by radius^-k <= 1000
    n_points = 5 * max(n_terms, 32)  # aliasing leaves radius^n_points = 1e-15
    angle = torch.arange(n_points // 2 + 1, dtype=torch.float64) * (2 * math.pi / n_points)
    pair = DEQPairKernel(spec, kernel, n_terms=n_terms)
    rows = pair.rows(norms)
    values = pair.pairs(rows, rows, torch.polar(torch.full_like(angle, radius), angle)[None, None])
    series = torch.fft.irfft(values.conj(), n=n_points, dim=2)[:, :, :n_terms]
    return series / radius ** torch.arange(n_terms, dtype=torch.float64)
