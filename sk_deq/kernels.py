r"""Kernels of infinitely wide deep equilibrium models and explicit networks, as plain functions.

:func:`deq_kernel` is the exact conjugate or neural tangent kernel of a DEQ (or its four-number
approximation), :func:`explicit_kernel` that of a network with hidden layers. Both take numpy arrays
or torch tensors and return the same kind.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.metrics.pairwise import check_pairwise_arrays
from sklearn.utils import check_array

from ._gp_kernel import DEQKernel
from ._memory import require_memory
from ._scaling import root_mean_square_norm
from ._theory.engine import kernel_matrix
from ._theory.four_numbers import deq_numbers, high_dim_matrix, require_high_dim
from ._theory.layers import ExplicitPairKernel, Layer, resolve_layers
from ._theory.pair import DEQPairKernel
from ._theory.spec import KERNELS, deq_spec
from ._torch import own_modes, resolve_device, resolve_dtype, to_tensor

__all__ = ["DEQKernel", "deq_kernel", "explicit_kernel"]


@own_modes(grad=True)
def deq_kernel(
    X: ArrayLike | torch.Tensor, Y: ArrayLike | torch.Tensor | None = None, *,
    kernel: str = "ck", activation: str | Callable = "relu", recurrent_var: float = 0.2,
    input_var: float | None = None, bias_var: float = 0.0, center: bool = True,
    tau0: float | None = 1.0, method: str = "exact", device: str | torch.device = "cpu",
    dtype: str | None = None,
) -> np.ndarray | torch.Tensor:  # fmt: skip
    r"""Kernel of an infinitely wide deep equilibrium model.

    The model is z = phi(sigma_a A z + sigma_b B x) / sqrt(m) with standard normal weights; its
    kernel between two rows is the solution of a scalar fixed-point equation.

    Parameters
    ----------
    X : array-like or tensor of shape (n_samples_X, n_features)
        Rows.
    Y : array-like or tensor of shape (n_samples_Y, n_features), default=None
        Other rows; None means X.
    kernel : {"ck", "ntk", "ntk_full"}, default="ck"
        Conjugate kernel (of training the readout), NTK of training the recurrent weights and the
        readout (the paper's), or NTK of training the input weights too.
    activation : str or callable, default="relu"
        "relu", "leaky_relu", "abs", "tanh", "erf", "sin", "sigmoid", "hard_tanh", "elu", "gelu",
        "silu", "softplus", "identity", or an elementwise torch callable. A callable is exact where
        it is smooth, but for a kink at 0; other kinks cost accuracy at cosines near 1. Of one that
        oscillates without end only rows that are not too large are exact; a warning tells.
    recurrent_var : float, default=0.2
        sigma_a^2 >= 0, variance of the recurrent weights.
    input_var : float, default=None
        sigma_b^2 > 0, variance of the input weights. None means 1 - recurrent_var.
    bias_var : float, default=0.0
        Variance of an input bias: a constant added to the pre-activation covariance.
    center : bool, default=True
        Whether the constant E phi(tau\* xi) is subtracted from the activation, as in the paper.
    tau0 : float or None, default=1.0
        Norm of a typical row, for which tau\* is computed: scale the rows to norms of about 1, as
        by ``X / (X**2).sum(1).mean() ** 0.5``, or say what they are. It matters for
        ``center=True`` and ``method="high_dim"`` only. None means the root-mean-square norm of the
        rows of X: then an entry depends on all of X, and ``deq_kernel(X, Y)`` is not the transpose
        of ``deq_kernel(Y, X)``.
    method : {"exact", "high_dim"}, default="exact"
        The exact kernel, or the high-dimensional approximation by four numbers (centred, no bias,
        "ck" or "ntk" only). The latter has a number of its own for two equal rows.
    device : str or torch.device, default="cpu"
        Where a numpy input is computed. A tensor is computed where it is.
    dtype : {"float32", "float64"}, default=None
        Precision; None means that of X if it is float32 or float64, else float64.

    Returns
    -------
    K : ndarray or tensor of shape (n_samples_X, n_samples_Y)
        Symmetric if Y is None. A tensor if X is one.

    Raises
    ------
    ValueError
        If a value is out of range, a row has no stable fixed point, X has NaN or infinity, or X and
        Y differ in their number of features.
    MemoryError
        If the result would not fit into memory.

    See Also
    --------
    explicit_kernel : Kernel of a network of hidden layers.
    sk_deq.DEQKernelRidge : Ridge regression with this kernel.

    References
    ----------
    Feng and Kolter, arXiv 2310.14062 (NTK of a DEQ); Ling et al., ICML 2024, arXiv 2402.02697.
    Equations :eq:`ck`, :eq:`ntk` and, for ``method="high_dim"``, :eq:`expansion` of the
    documentation's theory page.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_deq.kernels import deq_kernel
    >>> X = np.array([[1.0, 0.0], [0.6, 0.8]])
    >>> deq_kernel(X, recurrent_var=0.5)
    array([[0.20543293, 0.10506714],
           [0.10506714, 0.20543293]])
    """
    X, Y, back = _check_rows(X, Y, device, dtype)
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r} is unknown; use one of {KERNELS}.")
    if method not in ("exact", "high_dim"):
        raise ValueError(f"method={method!r} is unknown; use 'exact' or 'high_dim'.")
    tau0 = _tau0(X, tau0)
    if method == "high_dim":
        require_high_dim(center, bias_var, kernel, "method='high_dim'", "method='exact'")
    spec = deq_spec(activation, recurrent_var, input_var, bias_var, center, tau0)
    if method == "high_dim":
        return back(high_dim_matrix(deq_numbers(spec, kernel), tau0, X, Y))
    return back(kernel_matrix(DEQPairKernel(spec, kernel), X, Y))


@own_modes(grad=True)
def explicit_kernel(
    X: ArrayLike | torch.Tensor, Y: ArrayLike | torch.Tensor | None = None, *,
    layers: Sequence[Layer | str | Callable], kernel: str = "ck", train_first_layer: bool = False,
    tau0: float | None = 1.0, device: str | torch.device = "cpu",
    dtype: str | np.dtype | torch.dtype | None = None,
) -> np.ndarray | torch.Tensor:  # fmt: skip
    r"""Kernel of an infinitely wide network x^(l) = sigma_l(W_l x^(l-1)) / sqrt(m).

    Parameters
    ----------
    X : array-like or tensor of shape (n_samples_X, n_features)
        Rows.
    Y : array-like or tensor of shape (n_samples_Y, n_features), default=None
        Other rows; None means X.
    layers : sequence of Layer, str or callable
        The activations, first layer first, for instance ``match_explicit(...).layers``. A name or a
        callable is centred at the scale of its own input.
    kernel : {"ck", "ntk"}, default="ck"
        Conjugate kernel, or neural tangent kernel.
    train_first_layer : bool, default=False
        Whether the first layer's weights are among the trained ones; for kernel="ntk".
    tau0 : float or None, default=1.0
        Norm of a typical row, which sets the scales of layers given by name. None means the
        root-mean-square norm of the rows of X, as in :func:`deq_kernel`.
    device : str or torch.device, default="cpu"
        Where to compute, for numpy input; a tensor is computed where it is.
    dtype : str, numpy.dtype or torch.dtype, default=None
        Precision, as in :func:`deq_kernel`.

    Returns
    -------
    K : ndarray or tensor of shape (n_samples_X, n_samples_Y)
        The kernel matrix, of the kind of X.

    Raises
    ------
    ValueError, MemoryError
        As :func:`deq_kernel`.

    References
    ----------
    Ling et al., ICML 2024, arXiv 2402.02697, Section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_deq.kernels import deq_kernel, explicit_kernel
    >>> from sk_deq.theory import match_explicit
    >>> X = np.random.default_rng(0).normal(size=(50, 400)) / 20
    >>> K = deq_kernel(X, activation="tanh", recurrent_var=0.5)
    >>> match = match_explicit("tanh", recurrent_var=0.5)
    >>> bool(abs(explicit_kernel(X, layers=match.layers) - K).max() < 0.02)
    True
    """
    X, Y, back = _check_rows(X, Y, device, dtype)
    if kernel not in ("ck", "ntk"):
        raise ValueError(f"kernel={kernel!r} is unknown; use 'ck' or 'ntk'.")
    layers = resolve_layers(layers, _tau0(X, tau0))
    return back(kernel_matrix(ExplicitPairKernel(layers, kernel, bool(train_first_layer)), X, Y))  # type: ignore[arg-type]


def _tau0(X, tau0):
    if tau0 is None:
        tau0 = root_mean_square_norm(X.double())
        return tau0 if tau0 > 0 else 1.0
    return tau0


def _check_rows(X, Y, device, dtype):
    """Validate the rows; return them as tensors, and what turns the result back to X's kind."""
    if isinstance(X, torch.Tensor):
        device, back = X.device, lambda K: K
        if Y is not None and not (isinstance(Y, torch.Tensor) and Y.device == device):
            raise ValueError("X is a tensor, so Y must be a tensor on the same device.")
        for name, Z in (("X", X), ("Y", Y)):
            if Z is not None and (Z.ndim != 2 or not Z.shape[1] or not torch.isfinite(Z).all()):
                raise ValueError(
                    f"{name} must be finite and of shape (n_samples, n_features), with a column "
                    "at least."
                )
            if Z is not None and Z.requires_grad:
                raise ValueError(
                    f"{name} requires a gradient, and kernels have none: pass {name}.detach()."
                )
        if len(X) == 0:
            raise ValueError("X has no rows.")
        if Y is not None and X.shape[1] != Y.shape[1]:
            raise ValueError(f"X has {X.shape[1]} features, but Y has {Y.shape[1]}.")
        if dtype is None:
            dtype = X.dtype if X.dtype == torch.float32 else torch.float64
    else:
        device, back = resolve_device(device), lambda K: K.cpu().numpy()
        if Y is None:
            X = check_array(X, dtype=[np.float64, np.float32], input_name="X")
        else:
            X, Y = check_pairwise_arrays(X, Y, accept_sparse=False)
        dtype = X.dtype if dtype is None else dtype
    dtype = resolve_dtype(dtype)
    n_columns = len(X if Y is None else Y)
    require_memory(
        len(X) * n_columns * dtype.itemsize,
        f"A {len(X)} x {n_columns} kernel matrix",
        "Pass blocks of rows, or use KernelMatcher, whose features need less.",
        device,
    )
    X = to_tensor(X, dtype=dtype, device=device)
    return X, None if Y is None else to_tensor(Y, dtype=dtype, device=device), back
