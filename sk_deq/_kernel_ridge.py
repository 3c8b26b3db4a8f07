"""DEQKernelRidge and DEQKernelRidgeClassifier: ridge regression with the kernel of a DEQ."""

from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from ._calibration import class_probabilities, fit_temperature
from ._dot_product import kernel_matrix
from ._equilibrium import KERNELS, DEQPairKernel, equilibrium
from ._memory import require_memory
from ._row_keys import merge_repeated_rows
from ._scaling import INPUT_SCALINGS, InputScaler, _row_norms
from ._solvers import solve_cholesky, solve_eigh
from ._torch import make_generator, resolve_device, resolve_dtype, single_thread, to_tensor
from .kernels import high_dim_matrix
from .theory import deq_coefficients

_BATCH = 2**24  # entries of the kernel that predict computes at once
_TILE = 2**13  # rows whose norms are computed at once
_MATRICES = {"eigh": 4, "cholesky": 3}  # n x n matrices alive at the peak


class _BaseDEQKernelRidge(BaseEstimator):
    """What the regressor and the classifier share: kernel, solver, prediction in batches."""

    _parameter_constraints: dict = {
        "alpha": [Interval(Real, 0, None, closed="left"), "array-like"],
        "kernel": [StrOptions(set(KERNELS))],
        "activation": [str, callable],
        "recurrent_var": [Interval(Real, 0, None, closed="left")],
        "input_var": [Interval(Real, 0, None, closed="neither"), None],
        "bias_var": [Interval(Real, 0, None, closed="left")],
        "center": ["boolean"],
        "input_scaling": [StrOptions(set(INPUT_SCALINGS) - {None}), None],
        "method": [StrOptions({"exact", "high_dim"})],
        "solver": [StrOptions({"auto", "eigh", "cholesky"})],
        "device": [str, torch.device],
        "dtype": [StrOptions({"float32", "float64"})],
        "predict_batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        alpha=1.0,
        *,
        kernel="ck",
        activation="relu",
        recurrent_var=0.2,
        input_var=None,
        bias_var=0.0,
        center=True,
        input_scaling="rms",
        method="exact",
        solver="auto",
        device="auto",
        dtype="float64",
        predict_batch_size=None,
        random_state=None,
    ):
        self.alpha = alpha
        self.kernel = kernel
        self.activation = activation
        self.recurrent_var = recurrent_var
        self.input_var = input_var
        self.bias_var = bias_var
        self.center = center
        self.input_scaling = input_scaling
        self.method = method
        self.solver = solver
        self.device = device
        self.dtype = dtype
        self.predict_batch_size = predict_batch_size
        self.random_state = random_state

    def _fit(self, X, targets, sample_weight, calibrate=False):
        """Solve for targets (n, n_outputs); return the Solution and its targets and weights."""
        alphas = self._alphas()
        self.device_ = str(resolve_device(self.device))
        dtype = resolve_dtype(self.dtype)
        positive = sample_weight > 0
        if not positive.all():
            X, targets, sample_weight = X[positive], targets[positive], sample_weight[positive]
        first, y, w = merge_repeated_rows(
            to_tensor(X),
            to_tensor(targets, dtype=torch.float64),
            to_tensor(sample_weight, dtype=torch.float64),
            make_generator(self.random_state),
        )
        if first is not None:
            X = X[first.numpy()]
        self._scaler = InputScaler(
            self.input_scaling,
            input_var=1 - self.recurrent_var if self.input_var is None else self.input_var,
            bias_var=self.bias_var,
        ).fit(_norms(X), w.numpy())
        self.tau0_ = self._scaler.tau0_ if self._scaler.tau0_ > 0 else 1.0
        self._kernel = self._kernel_function()
        self.solver_ = self._choose_solver(len(X), len(alphas))
        require_memory(
            _MATRICES[self.solver_] * len(X) ** 2 * dtype.itemsize,
            f"solver={self.solver_!r} with {len(X)} rows",
            "Use fewer rows, dtype='float32', or KernelMatcher with a linear model.",
            self.device_,
        )
        K = self._kernel(self._rows(X))
        y_, w_ = y.to(K), w.to(K)
        if self.solver_ == "eigh":
            solution = solve_eigh(K, y_, w_, alphas)
        else:
            solution = solve_cholesky(K, y_, w_, alphas[0], leave_one_out=calibrate)
        self.X_fit_ = X
        self.alpha_ = solution.alpha
        self.dual_coef_ = solution.dual_coef.cpu().numpy()
        self.intercept_ = solution.intercept.cpu().numpy()
        if np.ndim(self.alpha) > 0:
            self.validation_errors_ = solution.errors.cpu().numpy()
        return solution, y, w

    def _check_weights(self, sample_weight, X):
        sample_weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        if not sample_weight.any():
            raise ValueError("All sample_weight are zero; at least one must be positive.")
        return sample_weight

    def _alphas(self):
        """The candidates for alpha, a list of floats."""
        alphas = np.asarray(self.alpha, dtype=float)
        if alphas.ndim > 1 or alphas.size == 0 or not (np.isfinite(alphas) & (alphas >= 0)).all():
            raise ValueError(
                f"alpha must be a number >= 0 or a 1-D array of such candidates, got {self.alpha}."
            )
        return np.atleast_1d(alphas).tolist()

    def _kernel_function(self):
        """The kernel of scaled rows: tensors to tensor."""
        bias_var = self._scaler.bias_var_
        if self.method == "high_dim":
            if not self.center or bias_var or self.kernel == "ntk_full":
                raise ValueError(
                    "method='high_dim' is a theory of centred networks without bias and of "
                    "kernel='ck' or 'ntk'; use center=True, bias_var=0 and one of these, or "
                    "method='exact'."
                )
            numbers = deq_coefficients(
                self.activation,
                recurrent_var=self.recurrent_var,
                input_var=self.input_var,
                tau0=self.tau0_,
                kernel=self.kernel,
            )
            return partial(high_dim_matrix, numbers, self.tau0_)
        with single_thread():
            spec = equilibrium(
                self.activation, self.recurrent_var, self.input_var, bias_var, self.center,
                self.tau0_,
            )  # fmt: skip
        return partial(kernel_matrix, DEQPairKernel(spec, self.kernel))

    def _choose_solver(self, n, n_alphas):
        if self.solver == "cholesky" and n_alphas > 1:
            raise ValueError(
                "solver='cholesky' takes a single alpha; use solver='eigh' or 'auto' for an array."
            )
        if self.solver != "auto":
            return self.solver
        return "eigh" if n_alphas > 1 else "cholesky"

    def _rows(self, X):
        """Scale rows and bring them to the device and precision of the computation."""
        device = torch.device(self.device_)
        if device.type == "cuda" and not torch.cuda.is_available():
            device = "cpu"  # fitted on another machine
        rows = to_tensor(X, dtype=resolve_dtype(self.dtype), device=device)
        return self._scaler.transform(rows)

    def _decision(self, X):
        """K(X, X_fit_) dual_coef_ + intercept_ in batches of rows, (n,) or (n, n_outputs)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        fitted = self._rows(self.X_fit_)
        dual_coef = torch.as_tensor(self.dual_coef_, device=fitted.device)
        size = self.predict_batch_size or max(1, _BATCH // len(fitted))
        out = np.empty((len(X), *self.dual_coef_.shape[1:]), dtype=self.dual_coef_.dtype)
        for start in range(0, len(X), size):
            block = self._kernel(self._rows(X[start : start + size]), fitted) @ dual_coef
            out[start : start + size] = block.cpu().numpy()
        return out + self.intercept_


def _norms(X):
    """Norms of the rows in float64 as a column, whose scale is that of X; in tiles."""
    tiles = (X[i : i + _TILE].astype(np.float64) for i in range(0, len(X), _TILE))
    return np.concatenate([_row_norms(tile) for tile in tiles])[:, None]


class DEQKernelRidge(MultiOutputMixin, RegressorMixin, _BaseDEQKernelRidge):
    r"""Ridge regression with the kernel of an infinitely wide deep equilibrium model.

    Parameters
    ----------
    alpha : float or array-like of float, default=1.0
        Penalty >= 0. Of an array the candidate with the least closed-form leave-one-out error is
        taken, at the cost of one eigendecomposition for all.
    kernel : {"ck", "ntk", "ntk_full"}, default="ck"
        Conjugate kernel (of training the DEQ's readout), NTK of training recurrent weights and
        readout, or NTK of training the input weights too.
    activation : str or callable, default="relu"
        The DEQ's activation: a registry name or an elementwise torch callable.
    recurrent_var : float, default=0.2
        sigma_a^2, variance of the recurrent weights.
    input_var : float, default=None
        sigma_b^2, variance of the input weights. None means 1 - recurrent_var.
    bias_var : float, default=0.0
        Variance of the input bias.
    center : bool, default=True
        Whether the activation is centred, as in the paper.
    input_scaling : {"rms", "sphere", None}, default="rms"
        "rms": divide X by the root-mean-square norm of the training rows. "sphere": append a
        constant coordinate if bias_var > 0 and scale every row to unit norm. None: as is.
    method : {"exact", "high_dim"}, default="exact"
        The exact kernel, or its high-dimensional approximation by four numbers.
    solver : {"auto", "eigh", "cholesky"}, default="auto"
        "auto" is "cholesky" for one alpha and "eigh" for several.
    device : str, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    dtype : {"float64", "float32"}, default="float64"
        Precision of the computation.
    predict_batch_size : int, default=None
        Rows that are predicted at once; None bounds their kernel to 128 MiB in float64.
    random_state : int, RandomState instance or None, default=None
        Seed of the hashes by which repeated rows are found; results do not depend on it.

    Attributes
    ----------
    dual_coef_ : ndarray of shape (n_fit,) or (n_fit, n_outputs)
        Coefficients of the kernel functions at `X_fit_`.
    intercept_ : float or ndarray of shape (n_outputs,)
        Constant, which is not penalised.
    X_fit_ : ndarray of shape (n_fit, n_features)
        Training rows of positive weight, repeated ones merged.
    alpha_ : float
        The penalty used.
    validation_errors_ : ndarray of shape (n_alphas,)
        Leave-one-out mean squared error of every candidate, if alpha is an array.
    solver_ : str
        The solver used.
    tau0_ : float
        Root-mean-square norm of the scaled training rows.
    device_ : str
        Where the model was fitted.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X has names that are all strings.

    See Also
    --------
    KernelMatcher : Features of a finite network with this kernel, for many rows.
    sk_deq.kernels.deq_kernel : The kernel as a function.

    Notes
    -----
    Input is dense. Memory grows with the square of the number of rows; it is estimated first.
    Leave-one-out leaves out all copies of a repeated row.

    References
    ----------
    Feng and Kolter, arXiv 2310.14062; Ling et al., ICML 2024, arXiv 2402.02697.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sk_deq import DEQKernelRidge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), DEQKernelRidge(alpha=np.logspace(-2, 2, 9)))
    >>> model.fit(X[:300], y[:300]).score(X[300:], y[300:]) > 0.45
    True
    """

    """Ridge regression with the kernel of an infinitely wide deep equilibrium model.

    Minimises sum_i w_i (y_i - f(x_i))^2 + alpha c^T K c over f(x) = sum_j c_j k(x, x_j) + b: what a
    very wide DEQ with a ridge-trained readout (``kernel="ck"``), or one that is trained a little
    (``kernel="ntk"``), computes.

    Parameters
    ----------
    alpha : float or array-like of shape (n_alphas,), default=1.0
        Ridge penalty >= 0. From an array the candidate with the least leave-one-out squared error
        is taken; all of them together cost one eigendecomposition.
    kernel : {"ck", "ntk", "ntk_full"}, default="ck"
        Conjugate kernel (a DEQ with trained readout), NTK with the recurrent weights trained too,
        or NTK of all weights.
    activation : str or callable, default="relu"
        The DEQ's activation: a registry name or an elementwise torch callable.
    recurrent_var : float, default=0.2
        sigma_a^2, variance of the DEQ's recurrent weights.
    input_var : float, default=None
        sigma_b^2, variance of its input weights. None means 1 - recurrent_var.
    bias_var : float, default=0.0
        Variance of its input bias.
    center : bool, default=True
        Whether its activation is centred, as in the paper.
    input_scaling : {"rms", "sphere", None}, default="rms"
        "rms": divide X by the root-mean-square norm of the training rows. "sphere": append a
        constant coordinate if bias_var > 0 and scale every row to unit norm. None: as is.
    method : {"exact", "high_dim"}, default="exact"
        The exact kernel, or its high-dimensional approximation by four numbers.
    solver : {"auto", "eigh", "cholesky"}, default="auto"
        "eigh": an eigendecomposition, for any number of alphas. "cholesky": a factorisation, for
        one alpha. "auto" chooses and says so in `solver_`.
    n_components : int, default=None
        Not used by these solvers.
    device : str, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    dtype : {"float32", "float64"}, default="float64"
        Precision of the computation and of the predictions.
    predict_batch_size : int, default=None
        Rows that are predicted at once; None keeps a block of the kernel below 128 MiB.
    random_state : int, RandomState instance or None, default=None
        Source of pseudo-random numbers.

    Attributes
    ----------
    X_fit_ : ndarray of shape (n_fit, n_features)
        The training rows, without rows of weight zero and without repetitions.
    dual_coef_ : ndarray of shape (n_fit,) or (n_fit, n_outputs)
        Coefficients c of the prediction K(X, X_fit_) c + intercept_.
    intercept_ : float or ndarray of shape (n_outputs,)
        The constant, which is not penalised.
    alpha_ : float
        The penalty used.
    validation_errors_ : ndarray of shape (n_alphas,)
        Leave-one-out mean squared error of each candidate, summed over the outputs; only if
        `alpha` is an array.
    solver_ : str
        The solver used.
    tau0_ : float
        Root-mean-square norm of the scaled training rows.
    device_ : str
        Where the computation ran.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X has names that are all strings.

    See Also
    --------
    DEQKernelRidgeClassifier : The same for labels.
    KernelMatcher : Explicit features with this kernel.
    sk_deq.kernels.deq_kernel : The kernel as a function.

    Notes
    -----
    Input is dense. Rows that occur more than once are merged into one row, which does not change
    the fit: it gets the sum of the weights and the weighted mean of the targets. Hence
    leave-one-out leaves out all copies of a row, and an integer weight is the same as repeating the
    row. Leave-one-out is exact for the model including its constant, given the scale of the inputs.

    References
    ----------
    Ling et al., ICML 2024, arXiv 2402.02697; Feng and Kolter, arXiv 2310.14062 (the kernels).
    Rifkin and Lippert, "Notes on regularized least squares", 2007 (leave-one-out in closed form).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_diabetes
    >>> from sk_deq import DEQKernelRidge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = DEQKernelRidge(alpha=np.logspace(-3, 3, 7), bias_var=0.1).fit(X[:300], y[:300])
    >>> model.alpha_
    XXX
    >>> model.score(X[300:], y[300:]) > 0.45
    True
    """

    def fit(self, X, y, sample_weight=None):
        """Fit.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows; dense.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; an integer weight is the same as repeating the row.

        Returns
        -------
        self : DEQKernelRidge

        Raises
        ------
        ValueError
            If a parameter is out of range, or there is no stable fixed point.
        MemoryError
            If the solver's matrices would not fit into memory.
        """
        self._validate_params()
        X, y = validate_data(
            self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True
        )
        sample_weight = self._check_weights(sample_weight, X)
        self._fit(X, y if y.ndim == 2 else y[:, None], sample_weight)
        if y.ndim == 1:
            self.dual_coef_, self.intercept_ = self.dual_coef_[:, 0], self.intercept_[0]
        return self

    def predict(self, X):
        """Predict targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        return self._decision(X)


class DEQKernelRidgeClassifier(ClassifierMixin, _BaseDEQKernelRidge):
    r"""Classification by ridge regression with the kernel of an infinitely wide DEQ.

    Least squares on targets +1 and -1, one against the rest, as in RidgeClassifier.

    Parameters
    ----------
    alpha : float or array-like of float, default=1.0
        Penalty >= 0. Of an array the candidate with the least closed-form leave-one-out error is
        taken, at the cost of one eigendecomposition for all.
    kernel : {"ck", "ntk", "ntk_full"}, default="ck"
        Conjugate kernel (of training the DEQ's readout), NTK of training recurrent weights and
        readout, or NTK of training the input weights too.
    activation : str or callable, default="relu"
        The DEQ's activation: a registry name or an elementwise torch callable.
    recurrent_var : float, default=0.2
        sigma_a^2, variance of the recurrent weights.
    input_var : float, default=None
        sigma_b^2, variance of the input weights. None means 1 - recurrent_var.
    bias_var : float, default=0.0
        Variance of the input bias.
    center : bool, default=True
        Whether the activation is centred, as in the paper.
    input_scaling : {"rms", "sphere", None}, default="rms"
        "rms": divide X by the root-mean-square norm of the training rows. "sphere": append a
        constant coordinate if bias_var > 0 and scale every row to unit norm. None: as is.
    class_weight : dict or "balanced", default=None
        Weights of the classes; "balanced" makes their total weights equal.
    method : {"exact", "high_dim"}, default="exact"
        The exact kernel, or its high-dimensional approximation by four numbers.
    solver : {"auto", "eigh", "cholesky"}, default="auto"
        "auto" is "cholesky" for one alpha and "eigh" for several.
    device : str, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    dtype : {"float64", "float32"}, default="float64"
        Precision of the computation.
    predict_batch_size : int, default=None
        Rows that are predicted at once; None bounds their kernel to 128 MiB in float64.
    random_state : int, RandomState instance or None, default=None
        Seed of the hashes by which repeated rows are found; results do not depend on it.

    Attributes
    ----------
    dual_coef_ : ndarray of shape (n_fit,) or (n_fit, n_outputs)
        Coefficients of the kernel functions at `X_fit_`.
    intercept_ : float or ndarray of shape (n_outputs,)
        Constant, which is not penalised.
    X_fit_ : ndarray of shape (n_fit, n_features)
        Training rows of positive weight, repeated ones merged.
    alpha_ : float
        The penalty used.
    validation_errors_ : ndarray of shape (n_alphas,)
        Leave-one-out mean squared error of every candidate, if alpha is an array.
    solver_ : str
        The solver used.
    tau0_ : float
        Root-mean-square norm of the scaled training rows.
    device_ : str
        Where the model was fitted.
    classes_ : ndarray of shape (n_classes,)
        The labels.
    temperature_ : float
        Factor of the decision values in the softmax of `predict_proba`, fitted to leave-one-out
        predictions; present for two or more classes.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X has names that are all strings.

    See Also
    --------
    KernelMatcher : Features of a finite network with this kernel, for many rows.
    sk_deq.kernels.deq_kernel : The kernel as a function.

    Notes
    -----
    Input is dense. Memory grows with the square of the number of rows; it is estimated first.
    Leave-one-out leaves out all copies of a repeated row.

    References
    ----------
    Feng and Kolter, arXiv 2310.14062; Ling et al., ICML 2024, arXiv 2402.02697.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sk_deq import DEQKernelRidgeClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DEQKernelRidgeClassifier(alpha=np.logspace(-4, 1, 11)).fit(X[::2], y[::2])
    >>> model.score(X[1::2], y[1::2]) > 0.9
    True
    """

    """Classification by ridge regression with the kernel of an infinitely wide DEQ.

    Labels become targets +1 and -1, one column per class for more than two classes, and
    :class:`DEQKernelRidge` is fitted to them, as `RidgeClassifier` does with a linear model.

    Parameters
    ----------
    alpha : float or array-like of shape (n_alphas,), default=1.0
        Ridge penalty >= 0. From an array the candidate with the least leave-one-out squared error
        is taken; all of them together cost one eigendecomposition.
    kernel : {"ck", "ntk", "ntk_full"}, default="ck"
        Conjugate kernel (a DEQ with trained readout), NTK with the recurrent weights trained too,
        or NTK of all weights.
    activation : str or callable, default="relu"
        The DEQ's activation: a registry name or an elementwise torch callable.
    recurrent_var : float, default=0.2
        sigma_a^2, variance of the DEQ's recurrent weights.
    input_var : float, default=None
        sigma_b^2, variance of its input weights. None means 1 - recurrent_var.
    bias_var : float, default=0.0
        Variance of its input bias.
    center : bool, default=True
        Whether its activation is centred, as in the paper.
    input_scaling : {"rms", "sphere", None}, default="rms"
        "rms": divide X by the root-mean-square norm of the training rows. "sphere": append a
        constant coordinate if bias_var > 0 and scale every row to unit norm. None: as is.
    class_weight : dict or "balanced", default=None
        Weights of the classes, which multiply `sample_weight`. "balanced" gives all classes the
        same total weight.
    method : {"exact", "high_dim"}, default="exact"
        The exact kernel, or its high-dimensional approximation by four numbers.
    solver : {"auto", "eigh", "cholesky"}, default="auto"
        "eigh": an eigendecomposition, for any number of alphas. "cholesky": a factorisation, for
        one alpha. "auto" chooses and says so in `solver_`.
    n_components : int, default=None
        Not used by these solvers.
    device : str, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    dtype : {"float32", "float64"}, default="float64"
        Precision of the computation and of the predictions.
    predict_batch_size : int, default=None
        Rows that are predicted at once; None keeps a block of the kernel below 128 MiB.
    random_state : int, RandomState instance or None, default=None
        Source of pseudo-random numbers.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    X_fit_ : ndarray of shape (n_fit, n_features)
        The training rows, without rows of weight zero and without repetitions.
    dual_coef_ : ndarray of shape (n_fit,) or (n_fit, n_outputs)
        Coefficients c of the prediction K(X, X_fit_) c + intercept_.
    intercept_ : float or ndarray of shape (n_outputs,)
        The constant, which is not penalised.
    alpha_ : float
        The penalty used.
    validation_errors_ : ndarray of shape (n_alphas,)
        Leave-one-out mean squared error of each candidate, summed over the outputs; only if
        `alpha` is an array.
    temperature_ : float
        Factor a of ``predict_proba`` = softmax(a * decision); for two classes, where decision is
        one number d, of softmax(-a d / 2, a d / 2). Set if there are two classes or more.
    solver_ : str
        The solver used.
    tau0_ : float
        Root-mean-square norm of the scaled training rows.
    device_ : str
        Where the computation ran.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X has names that are all strings.

    See Also
    --------
    DEQKernelRidge : The regressor.
    KernelMatcher : Explicit features with this kernel.
    sk_deq.kernels.deq_kernel : The kernel as a function.

    Notes
    -----
    Input is dense. Rows that occur more than once are merged into one row, which does not change
    the fit: it gets the sum of the weights and the weighted mean of the targets. Hence
    leave-one-out leaves out all copies of a row, and an integer weight is the same as repeating the
    row. Leave-one-out is exact for the model including its constant, given the scale of the inputs.

    Probabilities are calibrated: the one number of the softmax minimises the cross-entropy of the
    leave-one-out decision values, with Platt's smoothing of the targets.

    References
    ----------
    Ling et al., ICML 2024, arXiv 2402.02697; Feng and Kolter, arXiv 2310.14062 (the kernels).
    Rifkin and Lippert, "Notes on regularized least squares", 2007 (leave-one-out in closed form).
    Platt, "Probabilistic outputs for support vector machines", 1999 (calibration).

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sk_deq import DEQKernelRidgeClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), DEQKernelRidgeClassifier(alpha=[0.01, 0.1, 1.0]))
    >>> model.fit(X[:400], y[:400]).score(X[400:], y[400:]) > 0.95
    True
    """

    _parameter_constraints: dict = {
        **_BaseDEQKernelRidge._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        alpha=1.0,
        *,
        kernel="ck",
        activation="relu",
        recurrent_var=0.2,
        input_var=None,
        bias_var=0.0,
        center=True,
        input_scaling="rms",
        class_weight=None,
        method="exact",
        solver="auto",
        device="auto",
        dtype="float64",
        predict_batch_size=None,
        random_state=None,
    ):
        super().__init__(
            alpha,
            kernel=kernel,
            activation=activation,
            recurrent_var=recurrent_var,
            input_var=input_var,
            bias_var=bias_var,
            center=center,
            input_scaling=input_scaling,
            method=method,
            solver=solver,
            device=device,
            dtype=dtype,
            predict_batch_size=predict_batch_size,
            random_state=random_state,
        )
        self.class_weight = class_weight

    def fit(self, X, y, sample_weight=None):
        """Fit.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows; dense.
        y : array-like of shape (n_samples,)
            Labels: numbers or strings.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; an integer weight is the same as repeating the row.

        Returns
        -------
        self : DEQKernelRidgeClassifier

        Raises
        ------
        ValueError
            If a parameter is out of range, or there is no stable fixed point.
        MemoryError
            If the solver's matrices would not fit into memory.
        """
        self._validate_params()
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        sample_weight = self._check_weights(sample_weight, X)
        self.classes_, labels = np.unique(y[sample_weight > 0], return_inverse=True)
        indicators = np.zeros((len(y), len(self.classes_)))
        indicators[sample_weight > 0, labels] = 1
        sample_weight = sample_weight * (indicators @ self._class_weights(y, sample_weight))
        binary = len(self.classes_) <= 2
        targets = 2 * (indicators[:, -1:] if binary else indicators) - 1
        solution, y, w = self._fit(X, targets, sample_weight, calibrate=True)
        if binary:
            self.dual_coef_, self.intercept_ = self.dual_coef_[:, 0], self.intercept_[0]
        if len(self.classes_) > 1:
            decision = solution.predictions.cpu().double().numpy()
            shares = (y.numpy() + 1) / 2
            self.temperature_ = fit_temperature(
                decision[:, 0] if binary else decision,
                np.hstack([1 - shares, shares]) if binary else shares,
                w.numpy(),
            )
        return self

    def _class_weights(self, y, sample_weight):
        """The weight of each class; (n_classes,)."""
        if self.class_weight != "balanced":
            return compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_)
        totals = np.array([sample_weight[y == label].sum() for label in self.classes_])
        return totals.sum() / (len(totals) * totals)

    def decision_function(self, X):
        """Predict the targets +1 and -1 of each class against the rest.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        decision : ndarray of shape (n_samples,) or (n_samples, n_classes)
            One column for two classes: positive for ``classes_[1]``.
        """
        return self._decision(X)

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        decision = self._decision(X)
        if len(self.classes_) == 1:
            return np.repeat(self.classes_, len(decision))
        return self.classes_[
            decision.argmax(1) if decision.ndim == 2 else (decision > 0).astype(int)
        ]

    def predict_proba(self, X):
        """Predict probabilities of the classes, calibrated on leave-one-out decision values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
        """
        decision = self._decision(X)
        if len(self.classes_) == 1:
            return np.ones((len(decision), 1))
        return class_probabilities(decision, self.temperature_)
