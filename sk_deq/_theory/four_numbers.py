"""The four numbers of a kernel: of a DEQ, of an explicit network, and the kernel they describe."""

import math
from typing import NamedTuple

import torch

from .duality import moments, slope_square


class KernelCoefficients(NamedTuple):
    """The four numbers of a kernel.

    Parameters
    ----------
    linear, norm, quadratic, diagonal : float
        The numbers alpha_1, alpha_2, alpha_3, gamma^2 of the conjugate kernel, or beta_1, beta_2,
        beta_3, kappa^2 of the neural tangent kernel (Ling et al., 2024, Theorems 1 and 2).

    Examples
    --------
    >>> from sk_deq.theory import deq_coefficients
    >>> numbers = deq_coefficients("tanh", recurrent_var=0.2)
    >>> round(numbers.linear, 4), numbers.quadratic
    (0.345, 0.0)
    """

    linear: float
    norm: float
    quadratic: float
    diagonal: float


def deq_numbers(spec, kernel):
    """The KernelCoefficients of a centred DEQSpec (Ling et al., 2024, Theorems 1 and 2)."""
    s_a, s_b = spec.recurrent_var, spec.input_var
    g1, g2, g4, gamma2 = _moments_at(spec.activation, spec.tau, spec.mean)
    gain = 1 - s_a * g1
    p1 = s_b / gain
    alpha1, alpha4 = g1 * p1, s_b / (1 - s_a * g4 / 2)
    alpha2, alpha3 = g2 * alpha4**2 / (4 * gain), g2 * p1**2 / (2 * gain)
    if kernel == "ck":
        return KernelCoefficients(alpha1, alpha2, alpha3, gamma2)
    tau = torch.tensor([spec.tau], dtype=torch.float64)
    kappa2 = gamma2 / (1 - s_a * float(slope_square(spec.activation, tau)))
    beta1, beta2 = alpha1 / gain, alpha2 / gain
    beta3 = (alpha3 + beta1 * s_a * g2 * p1) / gain
    return KernelCoefficients(beta1, beta2, beta3, kappa2)


def _moments_at(activation, tau, mean):
    """E[phi']^2, E[phi'']^2, E[(phi^2)''], E[phi^2] at tau xi, phi centred by `mean`; by Stein."""
    m = moments(activation, torch.tensor([tau], dtype=torch.float64))
    first, second = float(m.linear) / tau, float(m.quadratic) / tau**2
    if activation.parity == "odd":
        second = 0.0  # exactly, where quadrature leaves its rounding
    fourth = (float(m.square_quadratic) - 2 * mean * float(m.quadratic)) / tau**2
    return first**2, second**2, fourth, float(m.square) - 2 * mean * float(m.mean) + mean**2


def explicit_numbers(layers, tau0, kernel, train_first_layer=False):
    """The KernelCoefficients of a network of Layers (Ling et al., 2024, Theorem 3)."""
    a1, a2, a3, a4 = 1.0, 0.0, 0.0, 1.0
    b1, b2, b3, k2 = (1.0, 0.0, 0.0, tau0**2) if train_first_layer else (0.0,) * 4
    scale = float(tau0)
    for layer in layers:
        e1, e2, e4, variance = _moments_at(layer.activation, scale, layer.offset)
        at = torch.tensor([scale], dtype=torch.float64)
        slope = float(slope_square(layer.activation, at))
        new = e1 * a1, e1 * a2 + e2 * a4**2 / 4, e1 * a3 + e2 * a1**2 / 2
        b1, b2, b3, k2 = (
            new[0] + b1 * e1,
            new[1] + b2 * e1,
            new[2] + b3 * e1 + b1 * a1 * e2,
            variance + k2 * slope,
        )
        (a1, a2, a3), a4, scale = new, e4 * a4 / 2, math.sqrt(variance)
    if kernel == "ck":
        return KernelCoefficients(a1, a2, a3, scale**2)
    return KernelCoefficients(b1, b2, b3, k2)


def high_dim_matrix(numbers, tau0, X, Y=None):
    """The four-number approximation (Ling et al., 2024, eq. 9) for tensors X and Y."""
    other = X if Y is None else Y
    K = X @ other.T
    chi1, chi2 = (Z.square().sum(1) - tau0**2 for Z in (X, other))
    K = K.mul_(numbers.linear + numbers.quadratic * K).addr_(chi1, chi2, alpha=numbers.norm)
    if Y is None:
        K.fill_diagonal_(numbers.diagonal)
    return K
