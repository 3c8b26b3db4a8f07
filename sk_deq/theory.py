r"""The high-dimensional theory: four numbers describe a kernel, and matching makes two agree.

For rows x_i of a high-dimensional Gaussian mixture, with chi_i = |x_i|^2 - tau0^2, the conjugate
and the neural tangent kernel of a DEQ, or of an explicit network, are up to a vanishing spectral
error

    K_ij = linear x_i.x_j + norm chi_i chi_j + quadratic (x_i.x_j)^2  (i != j),   K_ii = diagonal.

The four numbers are a :class:`KernelCoefficients`. :func:`deq_coefficients` gives a DEQ's,
:func:`explicit_coefficients` a network's, :func:`match_explicit` finds a network with a DEQ's four,
and :func:`sphere_series` gives the exact power series of the kernel for rows of unit norm.

References
----------
Ling, Li, Feng, Zhang, Zhou, Qiu, Liao, "Deep Equilibrium Models are Almost Equivalent to
Not-so-deep Explicit Models for High-dimensional Gaussian Mixtures", ICML 2024, arXiv 2402.02697.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ._theory.four_numbers import KernelCoefficients, deq_numbers, explicit_numbers
from ._theory.gated import power_series
from ._theory.layers import Layer, resolve_layers
from ._theory.matching import MatchResult, solve_matching
from ._theory.pair import DEQPairKernel
from ._theory.spec import KERNELS, deq_spec
from ._torch import own_modes, single_thread

__all__ = [
    "KernelCoefficients",
    "Layer",
    "MatchResult",
    "deq_coefficients",
    "deq_scale",
    "explicit_coefficients",
    "match_explicit",
    "sphere_series",
]


@own_modes(grad=True)
def deq_scale(
    activation: str | Callable, *, recurrent_var: float, input_var: float | None = None,
    bias_var: float = 0.0, center: bool = True, tau0: float = 1.0,
) -> tuple[float, float]:  # fmt: skip
    r"""Scale of a DEQ's pre-activations, and the constant that centres its activation.

    Parameters
    ----------
    activation : str or callable
        A registry name or an elementwise torch callable.
    recurrent_var : float
        sigma_a^2, variance of the recurrent weights.
    input_var : float, default=None
        sigma_b^2, variance of the input weights. None means 1 - recurrent_var.
    bias_var : float, default=0.0
        Variance of an input bias.
    center : bool, default=True
        Whether the activation is centred, as in the paper.
    tau0 : float, default=1.0
        Root-mean-square norm of the rows.

    Returns
    -------
    tau : float
        The scale tau\*, with tau^2 = recurrent_var Var phi(tau xi) + input_var tau0^2 + bias_var,
        where the variance is a second moment if `center` is False.
    mean : float
        The mean E phi(tau xi), subtracted from phi; 0 if `center` is False.

    Raises
    ------
    ValueError
        If a value is out of range or there is no stable fixed point.

    Notes
    -----
    Equation :eq:`tau` of the documentation's theory page.

    Examples
    --------
    >>> from sk_deq.theory import deq_scale
    >>> tau, mean = deq_scale("relu", recurrent_var=0.2)
    >>> round(tau, 4), round(mean, 4)
    (0.9266, 0.3697)
    """
    with single_thread():
        spec = deq_spec(activation, recurrent_var, input_var, bias_var, center, tau0)
        return spec.tau, spec.mean


@own_modes(grad=True)
def deq_coefficients(
    activation: str | Callable, *, recurrent_var: float, input_var: float | None = None,
    tau0: float = 1.0, kernel: str = "ck",
) -> KernelCoefficients:  # fmt: skip
    r"""The four numbers of an infinitely wide, centred DEQ.

    Parameters
    ----------
    activation : str or callable
        A registry name or an elementwise torch callable.
    recurrent_var, input_var, tau0 : float
        As in :func:`deq_scale`.
    kernel : {"ck", "ntk"}, default="ck"
        Conjugate kernel, or neural tangent kernel of training recurrent weights and readout.

    Returns
    -------
    KernelCoefficients

    Raises
    ------
    ValueError
        If a value is out of range or there is no stable fixed point.

    References
    ----------
    Ling et al., ICML 2024, Theorem 1 (CK) and Theorem 2 (NTK); equations :eq:`alphas` and
    :eq:`betas` of the documentation's theory page.

    Examples
    --------
    >>> from sk_deq.theory import deq_coefficients
    >>> deq_coefficients("relu", recurrent_var=0.2)
    KernelCoefficients(linear=0.2105, norm=0.0360, quadratic=0.0692, diagonal=0.2926)
    """
    _check_kernel(kernel, ("ck", "ntk"))
    with single_thread():
        spec = deq_spec(activation, recurrent_var, input_var, 0.0, True, tau0)
        return deq_numbers(spec, kernel)


@own_modes(grad=True)
def explicit_coefficients(
    layers: Sequence[Layer | str | Callable], *, tau0: float = 1.0, kernel: str = "ck",
    train_first_layer: bool = False,
) -> KernelCoefficients:  # fmt: skip
    r"""The four numbers of an infinitely wide explicit network, layer by layer.

    Parameters
    ----------
    layers : sequence of Layer, str or callable
        The activations, first layer first. A name or a callable is centred at its own input scale.
    tau0 : float, default=1.0
        Root-mean-square norm of the rows.
    kernel : {"ck", "ntk"}, default="ck"
        Conjugate kernel, or neural tangent kernel.
    train_first_layer : bool, default=False
        Whether the first layer's weights are among the trained ones; for kernel="ntk".

    Returns
    -------
    KernelCoefficients

    Raises
    ------
    ValueError
        If a value is out of range.

    References
    ----------
    Ling et al., ICML 2024, Theorem 3 and its NTK companion; equations :eq:`recursion` and
    :eq:`ntk-recursion` of the documentation's theory page.

    Examples
    --------
    >>> from sk_deq.theory import explicit_coefficients
    >>> explicit_coefficients(["relu", "relu"])
    KernelCoefficients(linear=0.0625, norm=0.0235, quadratic=0.0345, diagonal=0.1162)
    """
    _check_kernel(kernel, ("ck", "ntk"))
    with single_thread():
        return explicit_numbers(resolve_layers(layers, tau0), tau0, kernel, train_first_layer)


@own_modes(grad=True)
def match_explicit(
    activation: str | Callable, *, recurrent_var: float, input_var: float | None = None,
    tau0: float = 1.0, kernel: str = "ck", n_layers: int | str = "auto", family: str = "auto",
    tol: float = 1e-8,
) -> MatchResult:  # fmt: skip
    r"""Find a shallow explicit network with the four numbers of a DEQ.

    Parameters
    ----------
    activation : str or callable
        The DEQ's activation.
    recurrent_var, input_var, tau0 : float
        As in :func:`deq_scale`.
    kernel : {"ck", "ntk"}, default="ck"
        Which kernel to match. The network's NTK is that of training all but its first layer.
    n_layers : "auto" or int, default="auto"
        Number of hidden layers; "auto" takes the fewest that suffice, at most three.
    family : {"auto", "leaky_relu", "hard_tanh", "hermite"}, default="auto"
        Activations max(a t, b t), a clip(t, -c, c), or a sum of the first three Hermite
        polynomials, each centred. "auto" takes the first of these, in this order, that suffices.
    tol : float, default=1e-8
        Largest relative residual of the four equations that counts as solved.

    Returns
    -------
    MatchResult
        Its layers, target, achieved coefficients, residual and n_layers.

    Raises
    ------
    ValueError
        If a value is out of range.

    Warns
    -----
    sklearn.exceptions.ConvergenceWarning
        If nothing reaches `tol`; the best network found is returned.

    References
    ----------
    Ling et al., ICML 2024, Section 4 and Algorithm 1.

    Examples
    --------
    >>> from sk_deq.theory import match_explicit
    >>> match = match_explicit("tanh", recurrent_var=0.5)
    >>> match.n_layers, match.layers[0].family, match.residual < 1e-8
    (1, 'hard_tanh', True)
    """
    if not tol >= 0:
        raise ValueError(f"tol must be >= 0, got {tol}.")
    target = deq_coefficients(
        activation, recurrent_var=recurrent_var, input_var=input_var, tau0=tau0, kernel=kernel
    )
    return solve_matching(target, float(tau0), kernel, n_layers, family, tol)


@own_modes(grad=True)
def sphere_series(
    activation: str | Callable, *, recurrent_var: float, input_var: float | None = None,
    bias_var: float = 0.0, center: bool = True, kernel: str = "ck", n_terms: int = 64,
) -> np.ndarray:  # fmt: skip
    r"""Power series of a DEQ's kernel between rows of unit norm, in their cosine.

    On the unit sphere the kernel is kappa(r) = sum_k b_k r^k with b_k >= 0, whatever the data and
    the dimension; a network of one hidden layer with activation sum_k sqrt(b_k) h_k has exactly
    this conjugate kernel.

    Parameters
    ----------
    activation : str or callable
        A registry name or an elementwise torch callable.
    recurrent_var, input_var, bias_var : float
        As in :func:`deq_scale`, with tau0 = 1.
    center : bool, default=True
        As in :func:`deq_scale`.
    kernel : {"ck", "ntk", "ntk_full"}, default="ck"
        Conjugate kernel, the NTK of training the recurrent weights and the readout, or the NTK of
        training the input weights too.
    n_terms : int, default=64
        Number of coefficients.

    Returns
    -------
    ndarray of shape (n_terms,)
        The coefficients b_0, b_1, ...

    Raises
    ------
    ValueError
        If a value is out of range or there is no stable fixed point.

    References
    ----------
    Schoenberg (1942) for b_k >= 0; Simon, Anand, DeWeese, "Reverse Engineering the Neural Tangent
    Kernel", ICML 2022, arXiv 2106.03186, for the one-hidden-layer realisation; equation
    :eq:`sphere` of the documentation's theory page.

    Examples
    --------
    >>> from sk_deq.theory import sphere_series
    >>> sphere_series("tanh", recurrent_var=0.5, n_terms=4).round(4)
    array([0.    , 0.3003, 0.    , 0.0163])
    """
    _check_kernel(kernel, KERNELS)
    if isinstance(n_terms, bool) or not isinstance(n_terms, int | np.integer) or n_terms < 1:
        raise ValueError(f"n_terms must be a positive integer, got {n_terms!r}.")
    with single_thread():
        spec = deq_spec(activation, recurrent_var, input_var, bias_var, center, 1.0)
        one = torch.ones(1, dtype=torch.float64)
        series = power_series(DEQPairKernel(spec, kernel), one, one, int(n_terms))[0, 0]
        return series.clamp_min(0).numpy()  # only rounding is below 0


def _check_kernel(kernel, allowed):
    if kernel not in allowed:
        raise ValueError(f"kernel={kernel!r} is unknown here; use one of {allowed}.")
