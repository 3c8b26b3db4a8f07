"""The conjugate kernel of a DEQ as a prior covariance for scikit-learn's Gaussian processes."""

import numpy as np
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel
from sklearn.utils import check_array

from ._theory.derivatives import kernel_and_derivatives
from ._theory.engine import kernel_diagonal, kernel_matrix
from ._theory.pair import DEQPairKernel
from ._theory.spec import deq_spec
from ._torch import own_modes, to_tensor


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
        self, recurrent_var=0.2, input_var=0.8, bias_var=0.1, activation="relu", center=True,
        tau0=1.0, recurrent_var_bounds=(1e-3, 0.95), input_var_bounds=(1e-4, 1e4),
        bias_var_bounds=(1e-4, 1e4),
    ):  # fmt: skip
        self.recurrent_var, self.input_var, self.bias_var = recurrent_var, input_var, bias_var
        self.activation, self.center, self.tau0 = activation, center, tau0
        self.recurrent_var_bounds, self.input_var_bounds = recurrent_var_bounds, input_var_bounds
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

    @own_modes(grad=True)
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
        spec = self._spec()
        if not eval_gradient:
            Y = None if Y is None else _rows(Y)
            return kernel_matrix(DEQPairKernel(spec), _rows(X), Y).numpy()
        free = [h.name for h in self.hyperparameters if not h.fixed]
        K, gradient = kernel_and_derivatives(spec, _rows(X), free)
        variances = [getattr(self, name) for name in free]
        return K.numpy(), gradient.numpy() * variances  # d / d log

    @own_modes(grad=True)
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
        return kernel_diagonal(DEQPairKernel(self._spec()), _rows(X)).numpy()

    def is_stationary(self):
        """Say whether the kernel depends on differences of rows only.

        Returns
        -------
        bool
            False: it depends on norms and angles.
        """
        return False

    def _spec(self):
        variances = self.recurrent_var, self.input_var, self.bias_var
        variances = [float(variance) for variance in variances]  # numpy's, where they were learnt
        return deq_spec(self.activation, *variances, self.center, float(self.tau0))

    def __repr__(self):
        """Show the variances, and whatever else is not at its default."""
        own = type(self)().get_params()
        given = {k: v for k, v in self.get_params().items() if repr(v) != repr(own[k])}
        variances = {k: getattr(self, k) for k in ("recurrent_var", "input_var", "bias_var")}
        shown = {k: f"{v:.3g}" for k, v in variances.items()}
        shown |= {k: repr(v) for k, v in given.items() if k not in shown}
        return f"DEQKernel({', '.join(f'{k}={v}' for k, v in shown.items())})"


def _rows(X):
    return to_tensor(check_array(np.atleast_2d(X), dtype=np.float64))
