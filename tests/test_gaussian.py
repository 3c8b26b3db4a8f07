"""One- and two-dimensional Gaussian expectations against slow, independent quadrature."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from slow_truth import ACTIVATIONS, dual

from sk_deq._theory.activations import ACTIVATIONS as REGISTRY
from sk_deq._theory.activations import get_activation
from sk_deq._theory.duality import dual_function, dual_series
from sk_deq._theory.expectations import hermite_coefficients, moments, slope_square

USERS = {
    "mish": torch.nn.functional.mish,
    "clamp": lambda t: t.clamp(-2, 3.3),
    "steep_leaky": lambda t: torch.where(t > 0, 1.3 * t, -0.4 * t),
}


def resolve(name):
    return get_activation(USERS.get(name, name))


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def expect(f, kinks, scale):
    """E f(scale xi) by adaptive quadrature, split at kinks and round the layer at 0."""
    points = {0.0, *(kink / scale for kink in kinks)}
    points |= {sign * 2.0**k / scale for sign in (-1, 1) for k in range(-2, 6)}
    points = sorted({p for p in points if abs(p) < 12} | set(range(-12, 13, 2)))

    def integrand(xi):
        return float(f(np.float64(scale * xi))) * math.exp(-xi * xi / 2) / math.sqrt(2 * math.pi)

    return sum(
        quad(integrand, low, high, epsabs=1e-14, epsrel=1e-13, limit=200)[0]
        for low, high in itertools.pairwise(points)
    )


def test_every_registered_activation_is_tested():
    assert set(ACTIVATIONS) == {*REGISTRY, *USERS}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_derivatives(name):
    phi, slope, kinks = ACTIVATIONS[name]
    t = np.linspace(-30, 30, 1501) + 1e-3
    activation = resolve(name)
    assert set(kinks) <= set(activation.kinks)
    np.testing.assert_allclose(activation(torch.tensor(t)), phi(t), rtol=1e-13, atol=1e-15)
    achieved = activation.derivative(torch.tensor(t))
    np.testing.assert_allclose(achieved, slope(t), rtol=1e-12, atol=1e-14)
    assert np.abs(slope(t)).max() <= activation.lipschitz * (1 + 1e-12)
    assert np.abs(slope(t)).max() >= 0.98 * activation.lipschitz  # the smallest such constant
    if activation.parity is not None:
        sign = -1 if activation.parity == "odd" else 1
        np.testing.assert_allclose(phi(-t), sign * phi(t), rtol=1e-15)
    if activation.homogeneous:
        np.testing.assert_allclose(phi(3 * t), 3 * phi(t), rtol=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_one_dimensional_expectations(name):
    phi, slope, kinks = ACTIVATIONS[name]
    scales = [0.3, 2.5]
    activation = resolve(name)
    found = moments(activation, tensor(*scales))
    slopes = slope_square(activation, tensor(*scales))
    hermite = hermite_coefficients(activation, tensor(*scales), 4)
    for i, s in enumerate(scales):
        expected = [
            expect(lambda t, s=s, g=g: g(phi(t), t / s), kinks, s)
            for g in (
                lambda p, x: p,
                lambda p, x: x * p,
                lambda p, x: (x * x - 1) * p,
                lambda p, x: p * p,
                lambda p, x: (x * x - 1) * p * p,
                lambda p, x: (x**3 - 3 * x) * p / math.sqrt(6),
            )
        ]
        achieved = [float(part[i]) for part in found] + [float(hermite[i, 3])]
        size = max(1.0, s * s)
        np.testing.assert_allclose(achieved, expected, rtol=1e-12, atol=1e-12 * size)
        assert float(slopes[i]) == pytest.approx(
            expect(lambda t: slope(t) ** 2, kinks, s), rel=1e-12
        )
        np.testing.assert_allclose(
            hermite[i, :3],
            [achieved[0], achieved[1], achieved[2] / math.sqrt(2)],
            atol=1e-13 * size,
        )


@pytest.mark.parametrize("s", [1e-150, 1e-8, 1e8, 1e150])
def test_expectations_at_extreme_scales(s):
    relu, tanh, clamp = (moments(resolve(name), tensor(s)) for name in ("relu", "tanh", "clamp"))
    assert float(relu.mean) == pytest.approx(s / math.sqrt(2 * math.pi), rel=1e-12)
    assert float(relu.square) == pytest.approx(s * s / 2, rel=1e-12)
    assert float(tanh.mean) == pytest.approx(0, abs=1e-15)
    if s < 1:
        assert float(tanh.square) == pytest.approx(s * s, rel=1e-12)
    else:
        assert float(tanh.square) == pytest.approx(1, abs=2 / s + 1e-15)
        assert float(clamp.mean) == pytest.approx(0.65, rel=1e-7)  # half of 3.3 - 2


CORRELATIONS = [-0.999, -0.6, 0.0, 0.35, 0.9, 0.9995]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n != "clamp"])
def test_dual_and_derivative_dual(name):
    phi, slope, kinks = ACTIVATIONS[name]
    first, second = tensor(0.4, 1.0, 7.0), tensor(1.0, 2.3)
    r = tensor(*CORRELATIONS)[None, None]
    G, D = dual_function(resolve(name), first, second)(r.expand(3, 2, -1))
    for i, j in [(0, 1), (1, 0), (2, 1)]:
        s1, s2 = float(first[i]), float(second[j])
        expected = [dual(phi, kinks, s1, s2, c) for c in CORRELATIONS]
        scale = math.sqrt(
            float(np.prod([expect(lambda t: phi(t) ** 2, kinks, s) for s in (s1, s2)]))
        )
        np.testing.assert_allclose(G[i, j], expected, rtol=0, atol=1e-8 * scale)
        expected = [dual(slope, kinks, s1, s2, c) for c in CORRELATIONS]
        np.testing.assert_allclose(D[i, j], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n != "clamp"])
def test_dual_at_the_ends(name):
    """At r = 1 and r = -1 with equal deviations the dual is one-dimensional."""
    phi, slope, kinks = ACTIVATIONS[name]
    scales = [0.3, 1.0, 4.0]
    s = tensor(*scales)
    G, D = dual_function(resolve(name), s, s)(tensor(-1.0, 1.0)[None, None].expand(3, 3, 2))
    for i, scale in enumerate(scales):
        for j, sign in enumerate((-1, 1)):
            expected = expect(lambda t, sign=sign: phi(t) * phi(sign * t), kinks, scale)
            assert float(G[i, i, j]) == pytest.approx(expected, rel=1e-10, abs=1e-10)
            expected = expect(lambda t, sign=sign: slope(t) * slope(sign * t), kinks, scale)
            assert float(D[i, i, j]) == pytest.approx(expected, rel=1e-7, abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, a in REGISTRY.items() if a.dual is not None])
@pytest.mark.parametrize("s", [0.05, 1.0, 8.0])
def test_closed_forms(name, s):
    """The closed form itself, also where `dual_function` prefers the series."""
    phi, slope, kinks = ACTIVATIONS[name]
    s = min(s, 4.0) if name == "sin" else s  # beyond, the slow quadrature misses oscillations
    r = [-0.97, 0.2, 0.99]
    G, D = REGISTRY[name].dual(tensor(s), tensor(0.7 * s), tensor(*r))
    expected = [dual(phi, kinks, s, 0.7 * s, c) for c in r]
    size = float(np.abs(expected).max())
    np.testing.assert_allclose(G.expand(3), expected, rtol=0, atol=1e-9 * size)
    expected = [dual(slope, kinks, s, 0.7 * s, c) for c in r]
    np.testing.assert_allclose(D.expand(3), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_second_output_is_the_slope_of_the_first(name):
    """Price's theorem, by central differences."""
    s1, s2 = tensor(0.8), tensor(1.7)
    r, h = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)[None, None], 1e-5
    f = dual_function(resolve(name), s1, s2)
    slope = (f(r + h)[0] - f(r - h)[0]) / (2 * h)
    np.testing.assert_allclose(slope / (s1 * s2), f(r)[1].expand_as(slope), atol=2e-9)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "elu", "hard_tanh", "mish"])
def test_series_on_the_complex_disc(name):
    """The series at complex r: its real points agree, and Cauchy's mean value holds."""
    s = tensor(0.6, 1.4)
    f = dual_series(resolve(name), s, s, 128)
    real = tensor(-0.8, 0.1, 0.8)[None, None]
    G, D = f(real + 0j)
    expected, slope = dual_function(resolve(name), s, s)(real.expand(2, 2, 3))
    np.testing.assert_allclose(G.real.expand(2, 2, 3), expected, atol=1e-12)
    np.testing.assert_allclose(D.real.expand(2, 2, 3), slope, atol=1e-10)
    circle = 0.7 * torch.exp(2j * math.pi * torch.arange(256, dtype=torch.float64) / 256)
    centre = f(tensor(0.0)[None, None] + 0j)[0]
    np.testing.assert_allclose(f(circle[None, None])[0].mean(2), centre[:, :, 0], atol=1e-14)


def test_kinks_of_a_callable_are_found():
    found = get_activation(lambda t: torch.where(t < 1.7, 0.5 * t, t - 0.85)).kinks
    assert found == pytest.approx((0.0, 1.7), abs=1e-9)


def test_activation_errors():
    with pytest.raises(ValueError, match=r"activation=.rely. is unknown; use one of .*relu"):
        get_activation("rely")
    with pytest.raises(TypeError, match="activation must be"):
        get_activation(3)
    with pytest.raises(ValueError, match="not elementwise"):
        get_activation(lambda t: t - t.mean())
    with pytest.raises(ValueError, match="not finite"):
        get_activation(torch.log)
    with pytest.raises(ValueError, match="cannot be evaluated"):
        get_activation(np.tanh)


def test_kinks_elsewhere_than_at_zero_cost_accuracy_only_near_parallel_rows():
    """A user's callable with such kinks has a truncated series: exact to 1e-8 up to r = 0.9."""
    phi, _, kinks = ACTIVATIONS["clamp"]
    s, r = tensor(1.3), [-0.9, 0.3, 0.9, 0.999]
    G, _ = dual_function(resolve("clamp"), s, s)(torch.tensor(r, dtype=torch.float64)[None, None])
    errors = np.abs(G[0, 0].numpy() - [dual(phi, kinks, 1.3, 1.3, c) for c in r])
    assert max(errors[:3]) < 1e-8
    assert errors[3] < 1e-4
