"""The four numbers of a kernel: of a DEQ, of an explicit network, and the kernel they describe."""

import math
from typing import NamedTuple

import torch

from .._row_keys import row_keys
from .._state import storable
from .expectations import moments, slope_square


@storable
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


class LayerMoments(NamedTuple):
    """What the theory needs of a centred activation sigma at its input scale."""

    e1: float  # E[sigma']^2
    e2: float  # E[sigma'']^2
    e4: float  # E[(sigma^2)'']
    square: float  # E[sigma^2]
    slope: float  # E[sigma'^2]


def layer_moments(activation, scale, constant):
    """The LayerMoments of `activation` less a constant at scale * xi, by Stein's lemma."""
    at = torch.tensor([scale], dtype=torch.float64)
    m = moments(activation, at)
    # of an odd activation 0 exactly, where quadrature leaves its rounding
    second = 0.0 if activation.parity == "odd" else float(m.quadratic) / scale**2
    return LayerMoments(
        (float(m.linear) / scale) ** 2,
        second**2,
        float(m.centred_square_quadratic(constant)) / scale**2,
        float(m.centred_square(constant)),
        float(slope_square(activation, at)),
    )


def deq_numbers(spec, kernel):
    """The KernelCoefficients of a centred DEQSpec (Ling et al., 2024, Theorems 1 and 2)."""
    s_a, s_b = spec.recurrent_var, spec.input_var
    g1, g2, g4, gamma2, slope = layer_moments(spec.phi, spec.tau, spec.offset)
    gain = 1 - s_a * g1
    p1 = s_b / gain
    alpha1, alpha4 = g1 * p1, s_b / (1 - s_a * g4 / 2)
    alpha2, alpha3 = g2 * alpha4**2 / (4 * gain), g2 * p1**2 / (2 * gain)
    if kernel == "ck":
        return KernelCoefficients(alpha1, alpha2, alpha3, gamma2)
    beta1, beta2 = alpha1 / gain, alpha2 / gain
    beta3 = (alpha3 + beta1 * s_a * g2 * p1) / gain
    return KernelCoefficients(beta1, beta2, beta3, gamma2 / (1 - s_a * slope))


def explicit_numbers(layers, tau0, kernel, train_first_layer=False):
    """The KernelCoefficients of a network of Layers for rows of norm tau0."""

    def along():
        scale = float(tau0)
        for layer in layers:
            m = layer_moments(layer.activation, scale, layer.offset)
            yield m
            scale = math.sqrt(m.square)

    return recursion(along(), kernel, tau0**2 if train_first_layer else None)


def recursion(layers, kernel, first_variance=None):
    """KernelCoefficients from the LayerMoments of every layer (Ling et al., 2024, Theorem 3).

    `first_variance` is tau0^2 where the first layer's weights are among the trained ones.
    """
    a1, a2, a3, a4 = 1.0, 0.0, 0.0, 1.0
    b1, b2, b3, k2 = 0.0, 0.0, 0.0, 0.0
    if first_variance is not None:
        b1, k2 = 1.0, first_variance
    for e1, e2, e4, square, slope in layers:
        b3 = b3 * e1 + b1 * a1 * e2
        a1, a2, a3, a4 = e1 * a1, e1 * a2 + e2 * a4**2 / 4, e1 * a3 + e2 * a1**2 / 2, e4 * a4 / 2
        b1, b2, b3, k2 = a1 + b1 * e1, a2 + b2 * e1, a3 + b3, square + k2 * slope
    if kernel == "ck":
        return KernelCoefficients(a1, a2, a3, square)
    return KernelCoefficients(b1, b2, b3, k2)


def require_high_dim(center, bias_var, kernel, setting, remedy):
    """Raise a ValueError for a DEQ that the four numbers do not describe.

    `setting` is what asked for them, `remedy` what else could be had.
    """
    if not center or bias_var or kernel not in ("ck", "ntk"):
        raise ValueError(
            f"{setting} is a theory of centred networks without bias and of kernel='ck' or 'ntk'; "
            f"use center=True, bias_var=0 and one of these, or {remedy}."
        )


def high_dim_matrix(numbers, tau0, X, Y=None):
    """The four-number approximation (Ling et al., 2024, eq. 9) for tensors X and Y.

    Two equal rows have the diagonal's number, wherever they meet.
    """
    other = X if Y is None else Y
    K = X @ other.T
    chi1, chi2 = (Z.square().sum(1) - tau0**2 for Z in (X, other))
    K = K.mul_(numbers.linear + numbers.quadratic * K).addr_(chi1, chi2, alpha=numbers.norm)
    keys1 = row_keys(X, torch.Generator().manual_seed(0))
    keys2 = keys1 if Y is None else row_keys(Y, torch.Generator().manual_seed(0))
    return K.masked_fill_(keys1[:, None] == keys2, numbers.diagonal)
