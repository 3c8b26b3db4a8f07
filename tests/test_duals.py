"""Dual activations that are interpolated, against sums of all terms and slow quadrature."""

import math

import numpy as np
import pytest
import torch
from slow_truth import dual as slow_dual

from sk_deq._theory import logistic
from sk_deq._theory.activations import ACTIVATIONS, get_activation, rise
from sk_deq._theory.duality import dual_function
from sk_deq._theory.duals import polar

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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mish", "softsign"])
def test_tables_of_a_callable_serve_scales_of_several_octaves(name):
    phi = get_activation(getattr(torch.nn.functional, name))
    s1, s2 = (torch.from_numpy(np.geomspace(low, 3.0, 9)) for low in (0.2, 0.7))
    found = dual_function(phi, s1, s2, 200)(COSINES, SQUARES)
    shape = s1[:, None, None], s2[None, :, None]
    assert error(found, polar(phi.with_slope, *shape, COSINES, SQUARES)) < 1e-11
