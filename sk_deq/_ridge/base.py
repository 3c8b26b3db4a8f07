"""What the two kernel ridge estimators share: parameters, and predictions in batches."""

from contextlib import contextmanager
from numbers import Integral, Real
from os import PathLike

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight

from .._array_api import float_dtypes, rows_of, to_namespace_of
from .._base import DEQEstimator, forget
from .._scaling import INPUT_SCALINGS
from .._search.candidates import DEQ_PARAMETERS
from .._search.encodings import ENCODINGS, kinds_of
from .._theory.spec import KERNELS
from .._torch import own_modes, resolve_dtype, to_tensor
from .._validation import validate_data, warn_of_one_row
from .checkpoints import require_no_checkpoint, require_resumable
from .fit import RidgeConfig
from .stream import begin_stream, part_of, solved

_BATCH = 2**24  # entries of the kernel that predict computes at once
_AUTO = StrOptions({"auto"})


class BaseKernelRidge(DEQEstimator):
    """Kernel ridge regression as a shell around `fit_ridge`."""

    _parameter_constraints: dict = {
        "alpha": [Interval(Real, 0, None, closed="left"), "array-like", _AUTO],
        "kernel": [StrOptions(set(KERNELS) | {"auto"})],
        "activation": [str, callable],
        "recurrent_var": [Interval(Real, 0, None, closed="left"), _AUTO],
        "input_var": [Interval(Real, 0, None, closed="neither"), None],
        "bias_var": [Interval(Real, 0, None, closed="left"), _AUTO],
        "center": ["boolean", _AUTO],
        "input_scaling": [StrOptions(set(INPUT_SCALINGS) - {None} | {"auto"}), None],
        "hyperparameters": [StrOptions({"loo"}), None],
        "encoding": [StrOptions({"auto", *ENCODINGS} - {"plain"}), None],
        "feature_weights": [_AUTO, None],
        "method": [StrOptions({"exact", "high_dim"})],
        "solver": [StrOptions({"auto", "eigh", "cholesky", "cg", "nystroem"})],
        "landmarks": ["array-like", None],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device],
        "dtype": [StrOptions({"float32", "float64"})],
        "predict_batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "verbose": ["verbose"],
        "checkpoint_dir": [str, PathLike, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self, alpha="auto", *,
        activation="auto", recurrent_var="auto", input_var=None, bias_var="auto", center="auto",
        input_scaling="auto", kernel="auto",
        hyperparameters="loo", encoding="auto", feature_weights="auto",
        method="exact", solver="auto", n_components=None, landmarks=None, tol=1e-4, max_iter=300,
        max_time=None, verbose=0, checkpoint_dir=None,
        device="auto", dtype="float64", predict_batch_size=None, random_state=None,
    ):  # fmt: skip
        self.alpha, self.kernel, self.activation = alpha, kernel, activation
        self.recurrent_var, self.input_var, self.bias_var = recurrent_var, input_var, bias_var
        self.center, self.input_scaling = center, input_scaling
        self.hyperparameters, self.encoding = hyperparameters, encoding
        self.feature_weights = feature_weights
        self.method, self.solver, self.n_components, self.tol = method, solver, n_components, tol
        self.landmarks, self.checkpoint_dir = landmarks, checkpoint_dir
        self.max_iter, self.device, self.dtype = max_iter, device, dtype
        self.predict_batch_size, self.random_state = predict_batch_size, random_state
        self.max_time, self.verbose = max_time, verbose

    def _config(self, like, classify):
        """The RidgeConfig of the parameters, for rows of the kind of `like`."""
        require_resumable(self)
        given = {name: getattr(self, name) for name in DEQ_PARAMETERS}
        given = {k: v for k, v in given.items() if not isinstance(v, str) or v != "auto"}
        if self.input_var is None:
            del given["input_var"]
        landmarks = self.landmarks
        if landmarks is not None:
            landmarks = validate_data(self, landmarks, dtype=float_dtypes(landmarks), reset=False)
            landmarks = rows_of(landmarks)
        return RidgeConfig(
            classify=classify, given=given, alphas=_alphas(self.alpha),
            listed=np.ndim(self.alpha) > 0, search=self.hyperparameters == "loo",
            weigh_features=self.feature_weights == "auto",
            encodings=kinds_of(self.encoding),
            method=self.method, solver=self.solver, n_components=self.n_components, tol=self.tol,
            max_iter=self.max_iter,
            device=self._resolve_device(like), dtype=resolve_dtype(self.dtype),
            landmarks=landmarks, checkpoint_dir=self.checkpoint_dir,
            seed=check_random_state(self.random_state).randint(np.iinfo(np.int32).max),
        )  # fmt: skip

    def _weights(self, sample_weight, X):
        """Weights (n,) as a tensor beside X."""
        weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        weight = to_tensor(weight, dtype=torch.float64)
        if not weight.any():
            raise ValueError("All sample_weight are zero; at least one must be positive.")
        return weight

    def _keep(self, fitted, like, device, flat):
        """Set the attributes of a FittedRidge; those of an earlier fit go.

        `flat` says that targets were one column, not a matrix.
        """

        def back(tensor):
            return to_namespace_of(like, tensor)

        forget(self, "search_results_", "alphas_", "validation_errors_", "_stream")
        kernel, solution = fitted.rows.kernel, fitted.solution
        dual_coef, intercept = solution.dual_coef, solution.intercept
        if flat:
            dual_coef, intercept = dual_coef[:, 0], intercept[0]
        self._like, self._fitted_rows, self.device_ = like, fitted.rows, device
        X_fit = fitted.rows.X
        self.X_fit_ = X_fit if isinstance(like, np.ndarray) else back(X_fit)
        self.dual_coef_, self.intercept_ = back(dual_coef), back(intercept)
        self.solver_, self.tau0_ = fitted.solver, kernel.tau0
        self.alpha_, self.n_iter_ = solution.alpha, solution.n_iter
        self.feature_weights_ = back(fitted.feature_weights)
        self.encoding_ = fitted.choice.encoding_name
        self._out_of_sample = fitted.out_of_sample
        for name in DEQ_PARAMETERS:
            setattr(self, f"{name}_", fitted.choice.parameters[name])
        if fitted.search_results is not None:
            self.search_results_ = fitted.search_results
        if fitted.path is not None:
            alphas, errors = fitted.path
            self.alphas_, self.validation_errors_ = back(errors.new_tensor(alphas)), back(errors)

    def _add_chunk(self, X, targets, weight, like, flat):
        """Account for the rows of one more chunk, and set the attributes of all so far."""
        if self.method != "exact":
            raise ValueError("partial_fit needs method='exact'.")
        require_no_checkpoint(self, "save the model by sk_deq.export.save after a chunk.")
        config = self._config(like, classify=hasattr(self, "class_weight"))
        stream = getattr(self, "_stream", None)
        if stream is not None and stream.center.shape[0] != targets.shape[1]:
            raise ValueError(
                f"y has {targets.shape[1]} outputs, the first chunk had {stream.center.shape[0]}."
            )
        rows = rows_of(X), targets, weight
        if stream is None and self.landmarks is None:  # which settle the scale where they are given
            warn_of_one_row(len(targets))
        stream = begin_stream(*rows, config) if stream is None else stream
        stream = stream.plus(part_of(stream, *rows, config.classify))
        fitted = solved(stream, config.classify)
        self._keep(fitted, like, config.device, flat=flat)
        self._stream = stream
        return fitted

    @contextmanager
    def _chunk(self):
        """Name the chunk in the errors of what is done with it."""
        number = self._stream.n_chunks + 1 if hasattr(self, "_stream") else 1
        try:
            yield
        except ValueError as error:
            raise ValueError(f"Chunk {number} of partial_fit: {error}") from error

    @own_modes(grad=False)
    def _decision(self, X, method):
        """K(X, X_fit_) dual_coef_ + intercept_ in batches of rows, and the kind of array it is for.

        A tensor (n,) or (n, n_outputs).
        """
        X, origin = self._rows_like_fit(X, method)
        fitted = self._fitted_rows
        dual_coef = to_tensor(self.dual_coef_, device=fitted.scaled.device)
        intercept = to_tensor(self.intercept_, device=fitted.scaled.device)
        return self._combination(X, fitted, dual_coef).add_(intercept), origin

    def _combination(self, X, fitted, coef):
        """k(X, rows) coef, of FittedRows, in batches of rows of X."""
        size = self.predict_batch_size or max(1, _BATCH // max(fitted.scaled.shape))
        out = coef.new_empty(len(X), *coef.shape[1:])
        for start in range(0, len(X), size):
            out[start : start + size] = fitted.matrix(X[start : start + size]) @ coef
        return out


def takes_chunks(estimator):
    """Whether an estimator has partial_fit, by its solver."""
    if estimator.solver != "nystroem":
        raise AttributeError(
            f"partial_fit needs solver='nystroem', got solver={estimator.solver!r}: other solvers "
            "need all rows at once."
        )
    return True


def _alphas(alpha):
    """The candidates for alpha, a list of floats; None for those relative to the kernel."""
    if isinstance(alpha, str):
        return None
    alphas = np.asarray(alpha, dtype=float)
    if alphas.ndim > 1 or alphas.size == 0 or not (np.isfinite(alphas) & (alphas >= 0)).all():
        raise ValueError(
            f"alpha must be a number >= 0 or a 1-D array of such candidates, got {alpha}."
        )
    return np.atleast_1d(alphas).tolist()
