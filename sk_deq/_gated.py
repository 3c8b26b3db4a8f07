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
from dataclasses import dataclass

import torch

from ._chebyshev import chebyshev_coefficients, scale_basis, scale_nodes
from ._equilibrium import DEQPairKernel, Equilibrium
from ._gaussian import gaussian_rule, hermite_coefficients
from ._torch import single_thread

_MAX_TERMS = {True: 512, False: 128}  # whether the activation is homogeneous
_N_NODES = 12
_TERM_TOLERANCE, _GROUP_TOLERANCE = 1e-6, 3e-6  # shares of the trace that may be left out
_MAX_GROUPS = 4


@dataclass(frozen=True)
class GatedNetwork:
    """The activations sigma_j(t; n) of the exact one-hidden-layer match; see `exact_match`.

    Attributes
    ----------
    spec : Equilibrium
    kernel : str
        Which kernel of the DEQ it has.
    norm_range : tuple of float
        Norms between which the factors f are interpolated; elsewhere they are extended, as
        eigenvectors are in the Nystroem method.
    factors : tensor of shape (n_groups, n_terms, n_nodes)
        f_kj at the nodes: Chebyshev nodes of the log-norm.
    cut : float
        |t| beyond which sigma_j is constant: a polynomial must not be used far out.
    residual : float
        Largest error of the network's kernel at the nodes, relative to the kernel's largest value.
    """

    spec: Equilibrium
    kernel: str
    norm_range: tuple
    factors: torch.Tensor
    cut: float
    residual: float

    @property
    def n_groups(self):
        """Number of groups J."""
        return len(self.factors)

    def gates(self, norms):
        """Factors f_kj(n) for norms (n,): a tensor (n_groups, n, n_terms)."""
        low, high = self.norm_range
        if low == high:
            gates = self.factors[:, :, 0][:, None].expand(-1, len(norms), -1)
            return gates * norms[:, None] if self.spec.homogeneous else gates
        basis = scale_basis(self.norm_range, norms.clamp(low, high), _N_NODES)
        gates = basis @ chebyshev_coefficients(self.factors).mT
        outside = (norms < low) | (norms > high)
        if outside.any():
            # B_k(n, node) = sum_j f_kj(n) f_kj(node), solved for f_kj(n); the f_kj are orthogonal
            nodes = torch.cat([norms[outside], scale_nodes(self.norm_range, _N_NODES)])
            n_outside = int(outside.sum())
            B = power_series(self.spec, self.kernel, nodes, self.factors.shape[1])
            B = B[:n_outside, n_outside:]
            scale = self.factors.square().sum(2)[:, None].clamp_min(1e-300)
            gates[:, outside] = torch.einsum("nak,jka->jnk", B, self.factors) / scale
        return gates

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
        n_terms = gates.shape[2]
        return gates @ _cut_transform(n_terms, self.cut)

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
    spec : Equilibrium
    kernel : {"ck", "ntk", "ntk_full"}
    norms : tensor of shape (n,), float64
        Norms of the training rows.
    """
    positive = norms[norms > 0]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
    if spec.homogeneous:
        low = high = 1.0
    elif high <= low * (1 + 1e-6):
        low = high = math.sqrt(low * high)
    pair = DEQPairKernel(spec, kernel)
    with single_thread():
        nodes = scale_nodes((low, high), 1 if low == high else _N_NODES)
        B = power_series(spec, kernel, nodes, _MAX_TERMS[spec.activation.homogeneous])
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
        return _with_best_cut(pair, (low, high), factors, nodes)


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


def _with_best_cut(pair, norm_range, factors, nodes):
    """Choose where to cut the activations by the error of the kernel that remains."""
    r = torch.linspace(-0.98, 0.98, 50, dtype=torch.float64)
    rows = pair.rows(nodes)
    exact = pair.pairs(rows, rows, r[None, None])
    best = None
    for cut in (4.0, 5.0, 6.0, 8.0):
        network = GatedNetwork(pair.spec, pair.kernel, norm_range, factors, cut, math.nan)
        effective = network._effective(network.gates(nodes))
        powers = r ** torch.arange(effective.shape[2], dtype=torch.float64)[:, None]
        achieved = torch.einsum("jnk,jmk,kr->nmr", effective, effective, powers)
        residual = float((achieved - exact).abs().max() / exact.abs().max())
        if best is None or residual < best.residual:
            best = GatedNetwork(pair.spec, pair.kernel, norm_range, factors, cut, residual)
    return best


def _cut_transform(n_terms, cut):
    """C[k, l] = E h_k(clip(xi)) h_l(xi) for l < 2 n_terms."""
    xi, weight = gaussian_rule((-cut, cut), torch.ones(1, dtype=torch.float64))
    xi, weight = xi[0], weight[0]
    clipped = _hermite(xi.clamp(-cut, cut), n_terms)
    return (clipped * weight) @ _hermite(xi, 2 * n_terms).T


def _hermite(x, n_terms):
    """h_0 to h_{n_terms - 1} at x, (n_terms, n)."""
    h = [torch.ones_like(x), x]
    for k in range(1, n_terms - 1):
        h.append((x * h[k] - math.sqrt(k) * h[k - 1]) / math.sqrt(k + 1))
    return torch.stack(h[:n_terms])


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
