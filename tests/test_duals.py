"""Dual activations that are interpolated, against sums of all terms and slow quadrature."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from slow_truth import dual as slow_dual

from sk_deq._theory import logistic
from sk_deq._theory.activations import ACTIVATIONS, get_activation, rise
from sk_deq._theory.duality import _tabulated_polar, dual_function
from sk_deq._theory.duals import gelu, polar
from sk_deq._theory.spec import KERNELS
from sk_deq.kernels import deq_kernel, explicit_kernel

ANGLES = torch.linspace(-math.pi / 2, math.pi / 2, 41, dtype=torch.float64)[None, None]
COSINES, SQUARES = torch.sin(ANGLES), torch.cos(ANGLES) ** 2


def error(found, expected):
    """Largest difference of G and D, relative to the largest values for two scales."""
    found, expected = torch.stack(list(found)), torch.stack(list(expected))
    return float(((found - expected).abs() / expected.abs().amax(3, keepdim=True)).max())


@pytest.mark.parametrize("largest", [1.0, 2.5, 12.0, 60.0])
@pytest.mark.parametrize("name", ["half_tanh", "sigmoid", "tanh", "softplus", "silu"])
def test_products_of_series_are_the_sum_of_all_terms(name, largest):
    dual = getattr(logistic, name)
    s1 = torch.tensor([1e-3, 0.3, 1.0], dtype=torch.float64) * largest
    s2 = torch.tensor([0.02, 0.9], dtype=torch.float64) * largest
    G, D = dual.in_angle(s1, s2)
    terms = torch.cos(torch.arange(G.shape[2]) * torch.acos(ANGLES[0, 0, :, None] * 2 / math.pi))
    expected = dual(s1[:, None, None], s2[None, :, None], COSINES, SQUARES)
    assert error((G @ terms.T, D @ terms.T), expected) < 2e-13


def test_scales_beyond_the_series_are_summed_as_they_are():
    s = torch.tensor([1.0, 200.0], dtype=torch.float64)
    assert logistic.silu.in_angle(s, s) is None
    found = dual_function(ACTIVATIONS["silu"], s, s)(COSINES, SQUARES)
    expected = logistic.silu(s[:, None, None], s[None, :, None], COSINES, SQUARES)
    assert error(found, expected) < 1e-14


@pytest.mark.parametrize("name", ["softplus", "sigmoid"])
def test_rises_keep_their_digits_for_small_and_large_scales_at_once(name):
    phi, _ = rise(ACTIVATIONS[name])
    s = torch.tensor([1e-6, 0.05, 3.0], dtype=torch.float64)
    G, _ = dual_function(phi, s, s)(torch.tensor([[[0.7]]], dtype=torch.float64))
    for i, j in [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2)]:
        scales = float(s[i]), float(s[j])
        expected = slow_dual(lambda t: phi(torch.from_numpy(t)).numpy(), [], *scales, 0.7)
        assert float(G[i, j, 0]) == pytest.approx(expected, rel=1e-11)


def of_positive_pairs(f, s1, s2, r, n_nodes=500):
    """E f(u) f(w) over u, w > 0, by Gauss's rule in u and in w given u, of so many nodes."""
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    root, total = math.sqrt(1 - r * r), 0.0
    for x, weight in zip(6 * (nodes + 1), 6 * weights, strict=True):
        low = -r * x / root
        half = (12 - low) / 2
        if half > 0:
            y = low + half * (nodes + 1)
            inner = half * np.sum(weights * np.exp(-y * y / 2) * f(s2 * (r * x + root * y)))
            total += weight * np.exp(-x * x / 2) * f(s1 * x) * inner / (2 * math.pi)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 4.0, 7.0, 11.0])
def test_a_callable_that_oscillates_is_resolved(scale):
    """By finer rules; beyond some scale a table would take too many nodes."""

    def phi(t):
        return torch.where(t > 0, torch.sin(3 * t), 0.0)

    activation, s = get_activation(phi), scale * torch.tensor([0.8, 1.0], dtype=torch.float64)
    r = torch.tensor([0.3, -0.9], dtype=torch.float64)
    for n_correlations in (1, 200):
        found = dual_function(activation, s, s, n_correlations)(r)
        for f, values in zip(
            (lambda t: np.sin(3 * t), lambda t: 3 * np.cos(3 * t)), found, strict=True
        ):
            exact = [of_positive_pairs(f, *s.tolist(), float(x)) for x in r]
            np.testing.assert_allclose(values[0, 1], exact, rtol=0, atol=5e-8)
    assert (_tabulated_polar(activation, s, s) is None) == (scale > 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mish", "softsign"])
def test_tables_of_a_callable_serve_scales_of_several_octaves(name):
    phi = get_activation(getattr(torch.nn.functional, name))
    s1, s2 = (torch.from_numpy(np.geomspace(low, 3.0, 9)) for low in (0.2, 0.7))
    found = dual_function(phi, s1, s2, 200)(COSINES, SQUARES)
    shape = s1[:, None, None], s2[None, :, None]
    assert error(found, polar(phi.with_slope, *shape, COSINES, SQUARES)) < 1e-11


@pytest.mark.parametrize("ratio", [-1.0, 1.0, -1 - 1e-7, 1 + 1e-9, 2.0, -3.7])
@pytest.mark.parametrize("norm", [1e8, 1e15, 1e19, 1e40, 1e140])
def test_clipped_lines_of_parallel_and_opposite_rows_of_any_norm(norm, ratio):
    """Where a deviation is so large the two are 1 or -1, of one sign or of opposite ones."""
    X = np.random.default_rng(0).normal(size=(1, 4)) * [[norm], [norm * ratio]]
    spec = {"activation": "hard_tanh", "recurrent_var": 0.0, "input_var": 0.7, "center": False}
    n = np.sort(np.linalg.norm(X, axis=1) * math.sqrt(0.7))
    slopes = n[0] * math.sqrt(2 / math.pi)  # n_0 n_1 P(|u| < 1) of the longer row
    for kernel, expected in [("ck", 1.0), ("ntk", 1.0), ("ntk_full", 1.0 + slopes)]:
        K = deq_kernel(X, kernel=kernel, **spec)
        assert K[0, 1] == pytest.approx(
            np.sign(ratio) * expected, rel=1e-7 if norm < 1e9 else 1e-11
        )


@pytest.mark.parametrize("name", ["relu", "abs", "elu", "hard_tanh", "tanh"])
def test_explicit_kernels_of_opposite_rows_do_not_depend_on_other_rows(name):
    X = np.random.default_rng(1).normal(size=(3, 3)) * [[1e-2], [1.0], [30.0]]
    X = np.vstack([X, -X[0], -2.3 * X[1], 0 * X[0]])
    options = {"layers": [name, "hard_tanh", "leaky_relu"], "kernel": "ntk"}
    K = explicit_kernel(X, **options)
    for i in range(5):
        block = explicit_kernel(X[[i]], X[3:], **options)[0]
        np.testing.assert_allclose(block, K[i, 3:], rtol=0, atol=1e-12 * K.max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["tanh", "silu", "elu", "hard_tanh", "sin", "relu"])
def test_kernels_of_a_row_of_zeros_are_zero(name, dtype):
    X = np.array([[3.0, 1.0], [0.0, 0.0], [-2.0, 0.5]], dtype)
    spec = {"activation": name, "recurrent_var": 0.3, "input_var": 0.7, "center": False}
    for kernel in KERNELS:
        K = deq_kernel(X, kernel=kernel, **spec)
        assert (K[1] == 0).all() and (K[:, 1] == 0).all()
    if ACTIVATIONS[name].parity == "odd":  # the others are centred, and not 0 at 0 then
        K = explicit_kernel(X, layers=[name, "tanh"], kernel="ntk")
        assert (K[1] == 0).all() and (K[:, 1] == 0).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_opposite_rows_of_an_odd_activation_have_minus_the_diagonal(kernel):
    X = np.random.default_rng(0).normal(size=(4, 5)) * [[2e3], [1.0], [1.0], [30.0]]
    spec = {"activation": "hard_tanh", "recurrent_var": 0.64, "input_var": 3.0, "center": False}
    K = deq_kernel(np.vstack([X, -X]), kernel=kernel, **spec)
    np.testing.assert_allclose(K.diagonal(4), -K.diagonal()[:4], rtol=1e-12)
    far = deq_kernel(np.vstack([X[:1], -1e-3 * X[:1]]), kernel=kernel, **spec)
    back = deq_kernel(np.vstack([-1e-3 * X[:1], X[:1]]), kernel=kernel, **spec)
    assert far[0, 1] == pytest.approx(back[0, 1], rel=1e-13)


def test_gelu_of_parallel_rows_of_any_norm():
    """Against the same formulas by 250 digits: none is a difference of large numbers."""
    scales = 10.0 ** np.array([-12, -3, 0, 4, 8, 20, 40])
    for a, b in itertools.combinations_with_replacement(scales, 2):
        for r in (1.0, -1.0, 0.3):
            found = gelu(*(torch.tensor(x, dtype=torch.float64) for x in (a, b, r)))
            with mpmath.workdps(250):
                s1, s2 = mpmath.mpf(a), mpmath.mpf(b)
                t = s1 * s2 / mpmath.sqrt((1 + s1**2) * (1 + s2**2))
                u, w = 1 / ((1 + s1**2) * (1 + s2**2)), 1 - (t * r) ** 2
                half = 0.25 + mpmath.asin(t * r) / (2 * mpmath.pi)
                bend = t / mpmath.sqrt(w) / (2 * mpmath.pi)
                G = r * half + bend * (w + r**2 * u)
                D = half + bend * r * (1 + 2 * u - t**2 + (t * r) ** 2 * u / w)
                assert abs(float(found[0]) / (a * b) - G) < 1e-15
                assert abs(float(found[1]) - D) < 1e-15


def snake(t):
    return 0.4 * (t + torch.sin(t) ** 2)


def bend(t):
    return torch.where(t > 0, 0.9 * t, 0.3 * torch.sin(t))


@pytest.mark.slow
@pytest.mark.parametrize("phi", [torch.sin, snake, bend])
def test_oscillations_are_resolved_or_told(phi):
    X = np.random.default_rng(0).normal(size=(40, 2))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    options = {"kernel": "ntk_full", "recurrent_var": 0.0, "input_var": 1.0, "center": False}
    K = deq_kernel(10 * X, activation=phi, **options)
    some = deq_kernel(10 * X[:5], activation=phi, **options)
    np.testing.assert_allclose(K[:5, :5], some, rtol=0, atol=1e-9)
    if phi is torch.sin:
        expected = deq_kernel(10 * X, activation="sin", **options)
        np.testing.assert_allclose(K, expected, rtol=0, atol=1e-9)
    for n_rows, size in ((40, 50), (2, 50), (2, 1e6), (2, 1e67)):
        with pytest.warns(ConvergenceWarning, match="oscillates too fast"):
            deq_kernel(size * X[:n_rows], activation=phi, **options)
