"""The conjugate kernel of a DEQ as a prior covariance for scikit-learn's Gaussian processes."""

import importlib
import warnings
from typing import NamedTuple

import numpy as np
import torch
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel
from torch.autograd import forward_ad

from ._theory.duality import dual_function, moments
from ._theory.engine import _normalise as normalise
from ._theory.engine import kernel_diagonal, kernel_matrix
from ._theory.pair import DEQPairKernel, solve_correlation
from ._theory.spec import deq_spec
from ._torch import single_thread, to_tensor

_BATCH = 2**18  # pairs whose equations are solved at once,
_FEW = 2**10  # or where more would be looked up in tables, which have no derivative


class DEQKernel(Kernel):
    r"""Covariance of an infinitely wide random DEQ, for Gaussian process regression.

    The readout of a wide DEQ with random weights is a Gaussian process, whose covariance is the
    conjugate kernel: ``GaussianProcessRegressor(kernel=DEQKernel())`` is Bayesian inference over
    such networks. The three variances are hyperparameters, learnt by marginal likelihood.

    Parameters
    ----------
    recurrent_var : float, default=0.2
        sigma_a^2 > 0, variance of the recurrent weights.
    input_var : float, default=0.8
        sigma_b^2 > 0, variance of the input weights.
    bias_var : float, default=0.1
        Variance of the input bias; 0 is possible with ``bias_var_bounds="fixed"``.
    activation : str or callable, default="relu"
        A registry name ("relu", "tanh", ...; see :func:`deq_kernel`) or an elementwise torch
        callable.
    center : bool, default=True
        Whether E phi(tau\* xi) is subtracted from the activation, as in the paper.
    tau0 : float, default=1.0
        Norm of a typical row, for which tau\* is computed; for ``center=True``.
    recurrent_var_bounds : (float, float) or "fixed", default=(1e-3, 0.95)
        Bounds of the search. Below 1 / L^2, with L the activation's Lipschitz constant, there is a
        fixed point whatever the other variances: L is 1 or less for all registered activations but
        erf and gelu (1.13) and silu (1.1), for which 0.75 is safe.
    input_var_bounds : (float, float) or "fixed", default=(1e-4, 1e4)
        Bounds of the search.
    bias_var_bounds : (float, float) or "fixed", default=(1e-4, 1e4)
        Bounds of the search.

    See Also
    --------
    deq_kernel : The kernel as a function.
    sk_deq.DEQKernelRidge : Ridge regression with it, for more rows.

    Notes
    -----
    Scale the rows to norms of about 1 first. Multiply by a
    :class:`sklearn.gaussian_process.kernels.ConstantKernel` to learn the size of the function too.
    Gradients are exact: they are those of the fixed-point equations, implicitly differentiated.

    References
    ----------
    Feng and Kolter, "On the Neural Tangent Kernel of Equilibrium Models", arXiv 2310.14062.
    Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, Section 5.4.1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.gaussian_process import GaussianProcessRegressor
    >>> from sklearn.gaussian_process.kernels import WhiteKernel
    >>> from sklearn.preprocessing import scale
    >>> from sk_deq.kernels import DEQKernel
    >>> iris = scale(load_iris().data)
    >>> X, y = iris[:, [0, 1, 3]] / 3**0.5, iris[:, 2]
    >>> prior = DEQKernel(recurrent_var_bounds="fixed") + WhiteKernel(0.1)
    >>> model = GaussianProcessRegressor(prior).fit(X[::2], y[::2])
    >>> mean, std = model.predict(X[1::2], return_std=True)
    >>> std.shape
    (75,)
    """

    def __init__(
        self,
        recurrent_var=0.2,
        input_var=0.8,
        bias_var=0.1,
        activation="relu",
        center=True,
        tau0=1.0,
        recurrent_var_bounds=(1e-3, 0.95),
        input_var_bounds=(1e-4, 1e4),
        bias_var_bounds=(1e-4, 1e4),
    ):
        self.recurrent_var = recurrent_var
        self.input_var = input_var
        self.bias_var = bias_var
        self.activation = activation
        self.center = center
        self.tau0 = tau0
        self.recurrent_var_bounds = recurrent_var_bounds
        self.input_var_bounds = input_var_bounds
        self.bias_var_bounds = bias_var_bounds

    @property
    def hyperparameter_recurrent_var(self):
        """Specification of recurrent_var for the search."""
        return Hyperparameter("recurrent_var", "numeric", self.recurrent_var_bounds)

    @property
    def hyperparameter_input_var(self):
        """Specification of input_var for the search."""
        return Hyperparameter("input_var", "numeric", self.input_var_bounds)

    @property
    def hyperparameter_bias_var(self):
        """Specification of bias_var for the search."""
        return Hyperparameter("bias_var", "numeric", self.bias_var_bounds)

    def __call__(self, X, Y=None, eval_gradient=False):
        """Return the kernel matrix, and with `eval_gradient` its gradient.

        Parameters
        ----------
        X : array-like of shape (n_samples_X, n_features)
            Rows.
        Y : array-like of shape (n_samples_Y, n_features), default=None
            Other rows; None means X.
        eval_gradient : bool, default=False
            Whether to return the gradient for the logarithms of the free hyperparameters; for
            ``Y=None`` only.

        Returns
        -------
        K : ndarray of shape (n_samples_X, n_samples_Y)
            Kernel.
        K_gradient : ndarray of shape (n_samples_X, n_samples_X, n_dims)
            Gradient, in the order of ``theta``; only if `eval_gradient`.
        """
        if eval_gradient and Y is not None:
            raise ValueError("Gradient can only be evaluated when Y is None.")
        spec = self._specification()
        if not eval_gradient:
            return kernel_matrix(
                DEQPairKernel(spec), _rows(X), Y if Y is None else _rows(Y)
            ).numpy()
        free = [h.name for h in self.hyperparameters if not h.fixed]
        K, gradient = kernel_and_derivatives(spec, _rows(X), free)
        variances = [getattr(self, name) for name in free]
        return K.numpy(), gradient.numpy() * variances  # d / d log

    def diag(self, X):
        """Return the diagonal of ``self(X)``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        return kernel_diagonal(DEQPairKernel(self._specification()), _rows(X)).numpy()

    def is_stationary(self):
        """Say whether the kernel depends on differences of rows only.

        Returns
        -------
        bool
            False: it depends on norms and angles.
        """
        return False

    def _specification(self):
        with single_thread():
            return deq_spec(
                self.activation,
                float(self.recurrent_var),
                float(self.input_var),
                float(self.bias_var),
                self.center,
                float(self.tau0),
            )

    def __repr__(self):
        return (
            f"DEQKernel(recurrent_var={self.recurrent_var:.3g}, input_var={self.input_var:.3g}, "
            f"bias_var={self.bias_var:.3g})"
        )


def _load_forward_derivatives():
    """Import what torch imports at the first dual number: with a warning that is about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("torch._decomp.decompositions_for_jvp")


def _rows(X):
    return to_tensor(np.atleast_2d(X), dtype=torch.float64)


def kernel_and_derivatives(spec, X, names):
    """The conjugate kernel (n, n) of a DEQSpec, and its derivatives (n, n, n_names).

    With q = s^2 the variance of a row's pre-activations, c the covariance of a pair and mu the
    centring constant, it solves and differentiates

        q = s_a E[(phi(s xi) - mu)^2] + s_b |x|^2 + s_c,      c = s_a K + s_b x.y + s_c,
        K = E[phi(u) phi(w)] - mu (E phi(u) + E phi(w)) + mu^2

    for the variances `names` of s_a, s_b, s_c: "recurrent_var", "input_var", "bias_var".
    """
    norms, unit = normalise(X)
    cosines = (unit * (1 + 8 * torch.finfo(X.dtype).eps)) @ unit.T  # duplicates are at 1 exactly
    rows = _Rows(spec, norms)
    _load_forward_derivatives()
    K = torch.empty_like(cosines)
    gradient = K.new_empty(*K.shape, len(names))
    tables = spec.activation.dual is None and spec.activation.kinks
    size = max(1, (_FEW if tables else _BATCH) // len(X))
    derivatives = [_derivative_of_rows(spec, name, rows) for name in names]
    with single_thread():
        for start in range(0, len(X), size):
            part = slice(start, start + size)
            K[part], gradient[part] = _block(spec, rows, part, cosines[part], names, derivatives)
    K.diagonal().copy_(rows.activity)
    for k, d in enumerate(derivatives):
        gradient[:, :, k].diagonal().copy_(d.activity)
    return K, gradient


class _Rows:
    """What the equations say of single rows: s, E phi, E (phi - mu)^2 and slopes for q = s^2."""

    def __init__(self, spec, norms):
        self.norms, self.s = norms, spec.deviation(norms)
        m, self.mean_slope, self.square_slope = _moments(spec, self.s)
        self.mean, self.activity = m.mean, m.square - 2 * spec.mean * m.mean + spec.mean**2


class _RowDerivatives(NamedTuple):
    centre: float
    s: torch.Tensor
    mean: torch.Tensor
    activity: torch.Tensor


def _moments(spec, s):
    """Moments at s, and the derivatives of E phi and E phi^2 for q = s^2 (Stein's lemma)."""
    m = moments(spec.activation, s)
    return m, m.quadratic / (2 * s * s), m.square_quadratic / (2 * s * s)


def _direct(name, activity, product):
    """The factor of a variance in the equation of q or c."""
    return {"recurrent_var": activity, "input_var": product, "bias_var": 1.0}[name]


def _derivative_of_centre(spec, name):
    """Derivative of mu = E phi(tau* xi), which is taken at the solution of its own equation."""
    if not spec.center or spec.activation.parity == "odd":
        return 0.0
    m, slope, square_slope = _moments(spec, torch.tensor([spec.tau], dtype=torch.float64))
    gain = spec.recurrent_var * (square_slope - 2 * m.mean * slope)
    return float(slope * _direct(name, m.square - m.mean**2, spec.tau0**2) / (1 - gain))


def _derivative_of_rows(spec, name, rows):
    centre = _derivative_of_centre(spec, name)
    slope = rows.square_slope - 2 * spec.mean * rows.mean_slope  # of the activity, for q
    turn = 2 * (spec.mean - rows.mean) * centre
    dq = _direct(name, rows.activity, rows.norms**2) + spec.recurrent_var * turn
    dq = dq / (1 - spec.recurrent_var * slope)
    return _RowDerivatives(centre, dq / (2 * rows.s), rows.mean_slope * dq, slope * dq + turn)


def _block(spec, rows, part, r, names, derivatives):
    """Kernel and derivatives for the rows of a slice with all rows; cosines r (m, n)."""

    def outer(combine, values1, values2):
        return combine(values1[part, None], values2)

    s, s_a, mu = rows.s, spec.recurrent_var, spec.mean
    means, scale = outer(torch.add, rows.mean, rows.mean), outer(torch.mul, s, s)
    dot = outer(torch.mul, rows.norms, rows.norms) * r.clamp(-1, 1)
    dual = dual_function(spec.activation, s[part], s)
    rho, K, D = solve_correlation(
        dual,
        (mu * means - mu**2)[:, :, None],
        s_a,
        (spec.input_var * dot + spec.bias_var)[:, :, None],
        scale[:, :, None],
    )
    K, D = K[:, :, 0], D[:, :, 0]
    gradient = []
    for name, d in zip(names, derivatives, strict=True):
        # how E phi phi changes with the two deviations, at a fixed correlation
        with forward_ad.dual_level():
            s1, s2 = forward_ad.make_dual(s[part], d.s[part]), forward_ad.make_dual(s, d.s)
            G, _ = dual_function(spec.activation, s1, s2)(rho)
            d_G = forward_ad.unpack_dual(G).tangent[:, :, 0]
        d_shift = d.centre * (means - 2 * mu) + mu * outer(torch.add, d.mean, d.mean)
        d_scale = (outer(torch.mul, d.s, s) + outer(torch.mul, s, d.s)) * rho[:, :, 0]
        d_c = _direct(name, K, dot) + s_a * (d_G - D * d_scale - d_shift)
        d_c = d_c / (1 - s_a * D)
        gradient.append(d_G + D * (d_c - d_scale) - d_shift)
    return K, torch.stack(gradient, dim=2) if names else K.new_empty(*K.shape, 0)
