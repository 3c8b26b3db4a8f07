"""DEQKernelRidge and DEQKernelRidgeClassifier: ridge regression with the kernel of a DEQ."""

from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    column_or_1d,
    validate_data,
)

from .._array_api import (
    class_weights,
    decode_labels,
    encode_labels,
    float_dtypes,
    prototype,
    rows_of,
    take,
    to_namespace_of,
    unique_labels,
)
from .._base import DEQEstimator, forget
from .._callbacks import begin_fit
from .._memory import require_memory, total_memory
from .._row_keys import merge_repeated_rows, row_keys
from .._scaling import INPUT_SCALINGS, InputScaler, row_norms
from .._search.search import (
    ALPHAS,
    DEFAULT,
    DEQ_PARAMETERS,
    HIGH_DIM,
    Choice,
    resolve,
    search_kernel,
)
from .._solve.cg import solve_cg
from .._solve.exact import solve_cholesky, solve_eigh
from .._solve.nystroem import Features, landmarks_and_held_out, solve_nystroem, tile_rows
from .._theory.engine import kernel_matrix
from .._theory.four_numbers import high_dim_matrix
from .._theory.pair import DEQPairKernel
from .._theory.spec import KERNELS, deq_spec
from .._torch import make_generator, resolve_dtype, single_thread, to_tensor
from ..theory import deq_coefficients
from .calibration import class_probabilities, fit_temperature

_BATCH = 2**24  # entries of the kernel that predict computes at once
_TILE = 2**13  # rows whose norms are computed at once
_SMALL_TILE = 256  # rows whose kernel diagonals are computed at once
_ONE_ALPHA = ("cholesky", "cg")
_MATRICES = {"eigh": 4, "cholesky": 3}  # n x n matrices alive at the peak
_MOST_ROWS = {"eigh": 8_000, "cholesky": 16_000}  # for which "auto" takes minutes at most
_N_COMPONENTS = {"nystroem": 2000, "cg": 1000}
_AUTO = StrOptions({"auto"})


class _BaseDEQKernelRidge(DEQEstimator):
    """What the regressor and the classifier share: kernel, solver, prediction in batches."""

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
        "feature_weights": [_AUTO, None],
        "method": [StrOptions({"exact", "high_dim"})],
        "solver": [StrOptions({"auto", "eigh", "cholesky", "cg", "nystroem"})],
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device],
        "dtype": [StrOptions({"float32", "float64"})],
        "predict_batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        alpha="auto",
        *,
        kernel="auto",
        activation="auto",
        recurrent_var="auto",
        input_var=None,
        bias_var="auto",
        center="auto",
        input_scaling="auto",
        hyperparameters="loo",
        feature_weights="auto",
        method="exact",
        solver="auto",
        n_components=None,
        tol=1e-6,
        max_iter=300,
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
        self.hyperparameters = hyperparameters
        self.feature_weights = feature_weights
        self.method = method
        self.solver = solver
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.device = device
        self.dtype = dtype
        self.predict_batch_size = predict_batch_size
        self.random_state = random_state

    def _fit(self, X, targets, sample_weight, classify=False):
        """Solve for targets (n, n_outputs).

        Returns the Solution, and targets and weights of the rows it predicts out of sample.
        """
        alphas = self._alphas()
        forget(self, "search_results_", "alphas_", "validation_errors_", "temperature_")
        self._like = prototype(X)
        self.device_ = str(self._resolve_device())
        X = rows_of(X)
        y, w = (to_tensor(a, dtype=torch.float64) for a in (targets, sample_weight))
        scale = torch.ones_like(y[0]) if classify else _deviations(y, w)
        y = y / scale
        n_distinct = len(torch.unique(self._keys(X)[w > 0]))
        self.solver_ = self._choose_solver(n_distinct, alphas)
        relative_alpha = self._choose_kernel(X, y, w, alphas, classify)
        if self.solver_ != "nystroem":  # which leaves X where it is
            X, y, w = self._distinct_rows(X, y, w)
        self._scaler = InputScaler(
            self.input_scaling_, input_var=self.input_var_, bias_var=self.bias_var_
        ).fit(_norms(X, self._feature_scale), w)
        self.tau0_ = self._scaler.tau0_ if self._scaler.tau0_ > 0 else 1.0
        self._kernel = self._kernel_function()
        if alphas is None:
            alphas = [relative_alpha] if self.solver_ in _ONE_ALPHA else ALPHAS
            level = self._mean_diagonal(X, w)
            alphas = [float(alpha * level) for alpha in alphas]
        several = len(alphas) > 1 or np.ndim(self.alpha) > 0
        validate = classify or several
        solve = self._solve_exactly if self.solver_ in _MATRICES else self._solve_by_landmarks
        solution, X_fit = solve(X, y, w, alphas, validate)
        self.X_fit_ = X_fit if isinstance(self._like, np.ndarray) else self._back(X_fit)
        self.alpha_, self.n_iter_ = solution.alpha, solution.n_iter
        self.dual_coef_ = self._back(solution.dual_coef * scale.to(solution.dual_coef))
        self.intercept_ = self._back(solution.intercept * scale.to(solution.intercept))
        if several:
            self.alphas_ = self._back(solution.errors.new_tensor(alphas))
            self.validation_errors_ = self._back(solution.errors)
        rows = slice(None) if solution.rows is None else solution.rows.to(y.device)
        return solution, y[rows], w[rows]

    def _choose_kernel(self, X, y, w, alphas, classify):
        """Set the DEQ parameters and feature weights; return the alpha found on the way."""
        default = HIGH_DIM if self.method == "high_dim" else DEFAULT
        given = {name: getattr(self, name) for name in DEQ_PARAMETERS}
        given = {k: v for k, v in given.items() if not isinstance(v, str) or v != "auto"}
        if self.input_var is None:
            del given["input_var"]
        search = self.hyperparameters == "loo" and not default.keys() <= {"input_var", *given}
        search = search and self.method == "exact"
        (parameters,) = resolve(given, [default])
        choice = Choice(parameters)
        if search or (alphas is None and self.solver_ in _ONE_ALPHA):
            choice = search_kernel(
                X, y, w, given if search else parameters,
                classify=classify, alphas=alphas, random_state=self.random_state,
                feature_weights=search and self.feature_weights == "auto",
            )  # fmt: skip
        for name in DEQ_PARAMETERS:
            setattr(self, f"{name}_", choice.parameters[name])
        if search:
            self.search_results_ = choice.results
        v = choice.feature_weights
        self._feature_scale = None if v is None else v.sqrt().cpu()
        self.feature_weights_ = self._back(w.new_ones(X.shape[1]) if v is None else v)
        return choice.relative_alpha

    def _mean_diagonal(self, X, w):
        """Weighted mean of k(x, x) over the rows."""
        total = 0.0
        for start in range(0, len(X), _SMALL_TILE):
            tile = slice(start, start + _SMALL_TILE)
            total += float(w[tile] @ self._kernel(self._rows(X[tile])).diagonal().to(w))
        return total / float(w.sum())

    def _back(self, tensor):
        return to_namespace_of(self._like, tensor)

    def _keys(self, X):
        return row_keys(X, make_generator(self.random_state))

    def _distinct_rows(self, X, y, w):
        """Drop rows of weight zero and merge repeated ones."""
        positive = w > 0
        if not positive.all():
            X, y, w = take(X, positive), y[positive], w[positive]
        first, y, w = merge_repeated_rows(to_tensor(X), y, w, make_generator(self.random_state))
        return X if first is None else take(X, first), y, w

    def _solve_exactly(self, X, y, w, alphas, validate):
        """The Solution on the n x n matrix, and the rows that its coefficients are for."""
        self._require_memory(
            _MATRICES[self.solver_] * len(X) ** 2,
            len(X),
            "Use solver='nystroem' or 'cg', fewer rows, or dtype='float32'.",
        )
        K = self._kernel(self._rows(X))
        y, w = y.to(K), w.to(K)
        if self.solver_ == "eigh":
            return solve_eigh(K, y, w, alphas), X
        return solve_cholesky(K, y, w, alphas[0], leave_one_out=validate), X

    def _solve_by_landmarks(self, X, y, w, alphas, validate):
        """The Solution by Nystroem or conjugate gradients, and the rows of its coefficients."""
        landmarks, held_out = landmarks_and_held_out(
            self._keys(X), w > 0, self.n_components or _N_COMPONENTS[self.solver_], validate
        )
        m = len(landmarks)
        features = m * (len(X) if self.solver_ == "cg" else 3 * tile_rows(m))
        self._require_memory(
            8 * m**2 + features, len(X), f"Use n_components < {m} or dtype='float32'."
        )
        landmarks = take(X, landmarks)
        features = Features(self._kernel, self._rows(landmarks))
        if self.solver_ == "nystroem":

            def rows(part):
                return self._rows(X[part] if isinstance(part, slice) else take(X, part))

            return solve_nystroem(features, rows, y, w, alphas, held_out), landmarks
        rows = self._rows(X)
        y, w = y.to(rows), w.to(rows)
        held_out = None if held_out is None else held_out.to(rows.device)
        solution = solve_cg(
            self._kernel, features, rows, y, w, alphas[0], self.tol, self.max_iter, held_out
        )
        return solution, X

    def _require_memory(self, n_numbers, n_rows, remedy):
        require_memory(
            n_numbers * resolve_dtype(self.dtype).itemsize,
            f"solver={self.solver_!r} with {n_rows} rows",
            remedy,
            self.device_,
        )

    def _check_weights(self, sample_weight, X):
        """Weights as a tensor beside X."""
        weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        weight = to_tensor(weight, dtype=torch.float64)
        if not weight.any():
            raise ValueError("All sample_weight are zero; at least one must be positive.")
        return weight

    def _alphas(self):
        """The candidates for alpha, a list of floats; None for those relative to the kernel."""
        if isinstance(self.alpha, str):
            return None
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
            if not self.center_ or bias_var or self.kernel_ == "ntk_full":
                raise ValueError(
                    "method='high_dim' is a theory of centred networks without bias and of "
                    "kernel='ck' or 'ntk'; use center=True, bias_var=0 and one of these, or "
                    "method='exact'."
                )
            numbers = deq_coefficients(
                self.activation_,
                recurrent_var=self.recurrent_var_,
                input_var=self.input_var_,
                tau0=self.tau0_,
                kernel=self.kernel_,
            )
            return partial(high_dim_matrix, numbers, self.tau0_)
        with single_thread():
            spec = deq_spec(
                self.activation_, self.recurrent_var_, self.input_var_, bias_var, self.center_,
                self.tau0_,
            )  # fmt: skip
        return partial(kernel_matrix, DEQPairKernel(spec, self.kernel_))

    def _choose_solver(self, n, alphas):
        n_alphas = len(ALPHAS if alphas is None else alphas)
        if self.solver in _ONE_ALPHA and alphas is not None and n_alphas > 1:
            raise ValueError(
                f"solver={self.solver!r} takes a single alpha; use solver='eigh', 'nystroem' or "
                "'auto' for an array."
            )
        if self.solver == "cg" and alphas is not None and alphas[0] == 0:
            raise ValueError("solver='cg' needs alpha > 0; use solver='cholesky'.")
        if self.solver in ("cg", "nystroem") and self.method == "high_dim":
            raise ValueError(
                f"solver={self.solver!r} needs method='exact': the four-number kernel has a "
                "diagonal of its own. Use solver='eigh' or 'cholesky', or KernelMatcher with a "
                "linear model."
            )
        if self.solver != "auto":
            return self.solver
        exact = ["eigh", "cholesky"] if alphas is None else ["eigh" if n_alphas > 1 else "cholesky"]
        if self.method == "high_dim":
            return exact[0]
        for solver in exact:
            needed = _MATRICES[solver] * n**2 * resolve_dtype(self.dtype).itemsize
            quick = n <= _MOST_ROWS[solver] or not self.device_.startswith("cpu")
            if quick and needed <= total_memory(self.device_) / 2:
                return solver
        return "nystroem"

    def _rows(self, X):
        """Scale rows and bring them to the device and precision of the computation."""
        device = torch.device(self.device_)
        if device.type == "cuda" and not torch.cuda.is_available():
            device = "cpu"  # fitted on another machine
        rows = to_tensor(X, dtype=resolve_dtype(self.dtype), device=device)
        if self._feature_scale is not None:
            rows = rows * self._feature_scale.to(rows)
        return self._scaler.transform(rows)

    def _decision(self, X, method):
        """K(X, X_fit_) dual_coef_ + intercept_ in batches of rows, and the kind of array it is for.

        A tensor (n,) or (n, n_outputs).
        """
        X, origin = self._rows_like_fit(X, method)
        fitted = self._rows(self.X_fit_)
        dual_coef, intercept = (
            to_tensor(a, device=fitted.device) for a in (self.dual_coef_, self.intercept_)
        )
        size = self.predict_batch_size or max(1, _BATCH // max(fitted.shape))
        out = dual_coef.new_empty(len(X), *dual_coef.shape[1:])
        for start in range(0, len(X), size):
            rows = self._rows(X[start : start + size])
            out[start : start + size] = self._kernel(rows, fitted) @ dual_coef
        return out.add_(intercept), origin


def _norms(X, scale):
    """Norms in float64 of the rows, times `scale` if given, as a column; in tiles."""
    tiles = (to_tensor(X[i : i + _TILE], dtype=torch.float64) for i in range(0, len(X), _TILE))
    if scale is not None:
        tiles = (tile * scale.to(tile) for tile in tiles)
    return torch.cat([row_norms(tile) for tile in tiles])[:, None]


def _deviations(y, w):
    """Standard deviation of each target; 1 where it does not vary."""
    share = w / w.sum()
    deviations = (share @ (y - share @ y).square()).sqrt()
    varies = y[w > 0].amin(0) < y[w > 0].amax(0)
    return torch.where(varies, deviations, 1.0)


class DEQKernelRidge(MultiOutputMixin, RegressorMixin, _BaseDEQKernelRidge):
    r"""Ridge regression with the kernel of an infinitely wide deep equilibrium model.

    Minimises sum_i w_i (y_i - f(x_i))^2 + alpha c^T K c over f(x) = sum_j c_j k(x, x_j) + b: what a
    very wide DEQ with a ridge-trained readout (``kernel="ck"``), or one that is trained a little
    (``kernel="ntk"``), computes.

    Parameters
    ----------
    alpha : float, array-like of shape (n_alphas,) or "auto", default="auto"
        Ridge penalty >= 0. From an array the candidate with the least squared error out of sample
        is taken: leave-one-out (one eigendecomposition for all candidates), or held-out for
        ``solver="nystroem"``. "auto": eleven candidates from 1e-4 to 10 times the mean diagonal of
        the kernel; for a solver of one alpha the best of them on at most 1,000 rows.
    kernel : {"ck", "ntk", "ntk_full", "auto"}, default="auto"
        Conjugate kernel (a DEQ with trained readout), NTK with the recurrent weights trained too,
        or NTK of all weights.
    activation : str or callable, default="auto"
        The DEQ's activation: a registry name or an elementwise torch callable.
    recurrent_var : float or "auto", default="auto"
        sigma_a^2, variance of the DEQ's recurrent weights.
    input_var : float, default=None
        sigma_b^2, variance of its input weights. None means 1 - recurrent_var,
        or 1 where recurrent_var is "auto".
    bias_var : float or "auto", default="auto"
        Variance of its input bias.
    center : bool or "auto", default="auto"
        Whether its activation is centred, as in the paper.
    input_scaling : {"rms", "sphere", "auto", None}, default="auto"
        "rms": divide X by the root-mean-square norm of the training rows. "sphere": append a
        constant coordinate if bias_var > 0 and scale every row to unit norm. None: as is.
    hyperparameters : {"loo", None}, default="loo"
        How the parameters above that are "auto" are chosen. "loo": by closed-form leave-one-out
        among a few kernels, see Notes; those that are given stay. None: not searched, but
        recurrent_var=0.9, bias_var=0.1, center=False, kernel "ck", activation "relu", scaling
        "rms"; with ``method="high_dim"``, always the paper's 0.2, 0, True, with input_var=0.8.
    feature_weights : {"auto", None}, default="auto"
        Whether a search also weights the features, x_j to v_j^(1/2) x_j. "auto": where that lowers
        the leave-one-out errors by more than 10 %.
    method : {"exact", "high_dim"}, default="exact"
        The exact kernel, or its high-dimensional approximation by four numbers.
    solver : {"auto", "eigh", "cholesky", "cg", "nystroem"}, default="auto"
        "eigh": an eigendecomposition, for any number of alphas. "cholesky": a factorisation, for
        one alpha. "cg": conjugate gradients for one alpha > 0, exact to `tol`, in memory linear in
        the number of rows. "nystroem": an approximation by functions of `n_components` landmarks,
        in one pass over the rows and memory that does not grow with them. "auto": an exact solver
        if it takes no more than half of the memory and, on a CPU, there are at most 16,000 distinct
        rows (one alpha) or 8,000 (several); else "nystroem". With ``alpha="auto"``, "eigh", then
        "cholesky" with one alpha, then "nystroem". `solver_` tells the choice.
    n_components : int, default=None
        Number of landmarks of "nystroem", which may be raised for accuracy; None means 2,000. For
        "cg", of its preconditioner; None means 1,000. Other solvers do not use it.
    tol : float, default=1e-6
        "cg" stops when the residual is this small, relative to the targets.
    max_iter : int, default=300
        "cg" stops with a ConvergenceWarning after so many iterations.
    device : str, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    dtype : {"float32", "float64"}, default="float64"
        Precision of the computation and of the predictions.
    predict_batch_size : int, default=None
        Rows that are predicted at once; None keeps a block of the kernel below 128 MiB.
    random_state : int, RandomState instance or None, default=None
        Seed of the hashes of rows by which repeated rows are found, and landmarks, held-out rows
        and, of more than 1,000 rows, those of the search are chosen. Nothing else depends on it.

    Attributes
    ----------
    X_fit_ : ndarray of shape (n_fit, n_features)
        The training rows, without rows of weight zero and without repetitions; of them the
        landmarks for "nystroem".
    dual_coef_ : ndarray of shape (n_fit,) or (n_fit, n_outputs)
        Coefficients c of the prediction ``K(X, X_fit_) @ c + intercept_``.
    intercept_ : float or ndarray of shape (n_outputs,)
        The constant, which is not penalised.
    alpha_ : float
        The penalty used.
    alphas_ : ndarray of shape (n_alphas,)
        The candidates for alpha, where there are several.
    validation_errors_ : ndarray of shape (n_alphas,)
        Mean squared error of each candidate out of sample, summed over the outputs and in units of
        their variance; only if there are several.
    kernel_, activation_, input_scaling_ : str
        Parameters of the DEQ, chosen or given.
    recurrent_var_, input_var_, bias_var_ : float
        Likewise.
    center_ : bool
        Likewise.
    feature_weights_ : ndarray of shape (n_features,)
        Weights v of the features; all 1 where they were not weighted.
    search_results_ : dict of ndarray of shape (n_candidates,)
        Parameters, alpha, leave-one-out errors and rank of the kernels compared; only after a
        search.
    solver_ : str
        The solver used.
    n_iter_ : int
        Iterations of "cg"; 1 for the other solvers.
    tau0_ : float
        Root-mean-square norm of the scaled training rows.
    device_ : str
        Where the computation ran.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
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

    "nystroem" takes the distinct rows with the smallest hashes as landmarks, and reads X in blocks
    of rows: a memory-mapped array (`numpy.load` with ``mmap_mode="r"``) of float32 or float64 is
    never copied. A tenth of the distinct rows, at most 10,000, is held out to choose alpha; then
    all rows are fitted.

    The search compares four kernels on at most 1,000 distinct rows, drawn by `random_state`: smooth
    and rough, of rows of any norms and on the sphere. The best gets feature weights by gradient
    descent on its leave-one-out errors.

    References
    ----------
    Ling et al., ICML 2024, arXiv 2402.02697; Feng and Kolter, arXiv 2310.14062 (the kernels).
    Rifkin and Lippert, "Notes on regularized least squares", 2007 (leave-one-out in closed form).
    Rudi, Carratino and Rosasco, NeurIPS 2017, arXiv 1705.10958 ("nystroem", "cg").

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_diabetes
    >>> from sk_deq import DEQKernelRidge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = DEQKernelRidge(alpha=np.logspace(-3, 3, 7), bias_var=0.1).fit(X[:300], y[:300])
    >>> model.score(X[300:], y[300:]) > 0.45
    True
    """

    @_fit_context(prefer_skip_nested_validation=True)
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
        X, y = validate_data(self, X, y, dtype=float_dtypes(X), multi_output=True, y_numeric=True)
        task = begin_fit(self, X, y, sample_weight)
        weight = self._check_weights(sample_weight, X)
        targets = to_tensor(y, dtype=torch.float64, device=weight.device).reshape(y.shape[0], -1)
        self._fit(X, targets, weight)
        if y.ndim == 1:
            self.dual_coef_, self.intercept_ = self.dual_coef_[:, 0], self.intercept_[0]
        task.end()
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
        decision, origin = self._decision(X, "predict")
        return to_namespace_of(origin, decision)


class DEQKernelRidgeClassifier(ClassifierMixin, _BaseDEQKernelRidge):
    r"""Classification by ridge regression with the kernel of an infinitely wide DEQ.

    Labels become targets +1 and -1, one column per class for more than two classes, and
    :class:`DEQKernelRidge` is fitted to them, as `RidgeClassifier` does with a linear model.

    Parameters
    ----------
    alpha : float, array-like of shape (n_alphas,) or "auto", default="auto"
        Ridge penalty >= 0. From an array the candidate with the least squared error out of sample
        is taken: leave-one-out (one eigendecomposition for all candidates), or held-out for
        ``solver="nystroem"``. "auto": eleven candidates from 1e-4 to 10 times the mean diagonal of
        the kernel; for a solver of one alpha the best of them on at most 1,000 rows.
    kernel : {"ck", "ntk", "ntk_full", "auto"}, default="auto"
        Conjugate kernel (a DEQ with trained readout), NTK with the recurrent weights trained too,
        or NTK of all weights.
    activation : str or callable, default="auto"
        The DEQ's activation: a registry name or an elementwise torch callable.
    recurrent_var : float or "auto", default="auto"
        sigma_a^2, variance of the DEQ's recurrent weights.
    input_var : float, default=None
        sigma_b^2, variance of its input weights. None means 1 - recurrent_var,
        or 1 where recurrent_var is "auto".
    bias_var : float or "auto", default="auto"
        Variance of its input bias.
    center : bool or "auto", default="auto"
        Whether its activation is centred, as in the paper.
    input_scaling : {"rms", "sphere", "auto", None}, default="auto"
        "rms": divide X by the root-mean-square norm of the training rows. "sphere": append a
        constant coordinate if bias_var > 0 and scale every row to unit norm. None: as is.
    hyperparameters : {"loo", None}, default="loo"
        How the parameters above that are "auto" are chosen. "loo": by closed-form leave-one-out
        among a few kernels, see Notes; those that are given stay. None: not searched, but
        recurrent_var=0.9, bias_var=0.1, center=False, kernel "ck", activation "relu", scaling
        "rms"; with ``method="high_dim"``, always the paper's 0.2, 0, True, with input_var=0.8.
    feature_weights : {"auto", None}, default="auto"
        Whether a search also weights the features, x_j to v_j^(1/2) x_j. "auto": where that lowers
        the leave-one-out errors by more than 10 %.
    class_weight : dict or "balanced", default=None
        Weights of the classes, which multiply `sample_weight`. "balanced" gives all classes the
        same total weight.
    method : {"exact", "high_dim"}, default="exact"
        The exact kernel, or its high-dimensional approximation by four numbers.
    solver : {"auto", "eigh", "cholesky", "cg", "nystroem"}, default="auto"
        "eigh": an eigendecomposition, for any number of alphas. "cholesky": a factorisation, for
        one alpha. "cg": conjugate gradients for one alpha > 0, exact to `tol`, in memory linear in
        the number of rows. "nystroem": an approximation by functions of `n_components` landmarks,
        in one pass over the rows and memory that does not grow with them. "auto": an exact solver
        if it takes no more than half of the memory and, on a CPU, there are at most 16,000 distinct
        rows (one alpha) or 8,000 (several); else "nystroem". With ``alpha="auto"``, "eigh", then
        "cholesky" with one alpha, then "nystroem". `solver_` tells the choice.
    n_components : int, default=None
        Number of landmarks of "nystroem", which may be raised for accuracy; None means 2,000. For
        "cg", of its preconditioner; None means 1,000. Other solvers do not use it.
    tol : float, default=1e-6
        "cg" stops when the residual is this small, relative to the targets.
    max_iter : int, default=300
        "cg" stops with a ConvergenceWarning after so many iterations.
    device : str, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    dtype : {"float32", "float64"}, default="float64"
        Precision of the computation and of the predictions.
    predict_batch_size : int, default=None
        Rows that are predicted at once; None keeps a block of the kernel below 128 MiB.
    random_state : int, RandomState instance or None, default=None
        Seed of the hashes of rows by which repeated rows are found, and landmarks, held-out rows
        and, of more than 1,000 rows, those of the search are chosen. Nothing else depends on it.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    X_fit_ : ndarray of shape (n_fit, n_features)
        The training rows, without rows of weight zero and without repetitions; of them the
        landmarks for "nystroem".
    dual_coef_ : ndarray of shape (n_fit,) or (n_fit, n_outputs)
        Coefficients c of the prediction ``K(X, X_fit_) @ c + intercept_``.
    intercept_ : float or ndarray of shape (n_outputs,)
        The constant, which is not penalised.
    alpha_ : float
        The penalty used.
    alphas_ : ndarray of shape (n_alphas,)
        The candidates for alpha, where there are several.
    validation_errors_ : ndarray of shape (n_alphas,)
        Mean squared error of each candidate out of sample, summed over the outputs; only if there
        are several.
    kernel_, activation_, input_scaling_ : str
        Parameters of the DEQ, chosen or given.
    recurrent_var_, input_var_, bias_var_ : float
        Likewise.
    center_ : bool
        Likewise.
    feature_weights_ : ndarray of shape (n_features,)
        Weights v of the features; all 1 where they were not weighted.
    search_results_ : dict of ndarray of shape (n_candidates,)
        Parameters, alpha, leave-one-out errors and rank of the kernels compared; only after a
        search.
    temperature_ : float
        Factor a of ``predict_proba`` = softmax(a * decision); for two classes, where decision is
        one number d, of softmax(-a d / 2, a d / 2). Set if there are two classes or more.
    solver_ : str
        The solver used.
    n_iter_ : int
        Iterations of "cg"; 1 for the other solvers.
    tau0_ : float
        Root-mean-square norm of the scaled training rows.
    device_ : str
        Where the computation ran.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
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

    "nystroem" takes the distinct rows with the smallest hashes as landmarks, and reads X in blocks
    of rows: a memory-mapped array (`numpy.load` with ``mmap_mode="r"``) of float32 or float64 is
    never copied. A tenth of the distinct rows, at most 10,000, is held out to choose alpha and to
    calibrate probabilities (also by "cg"); then all rows are fitted.

    Probabilities are calibrated: the one number of the softmax minimises the cross-entropy of the
    decision values out of sample, with Platt's smoothing of the targets.

    The search compares four kernels on at most 1,000 distinct rows, drawn by `random_state`: smooth
    and rough, of rows of any norms and on the sphere. The best gets feature weights by gradient
    descent on its leave-one-out errors. Errors are the squared error and the
    log-loss, with equal weight.

    References
    ----------
    Ling et al., ICML 2024, arXiv 2402.02697; Feng and Kolter, arXiv 2310.14062 (the kernels).
    Rifkin and Lippert, "Notes on regularized least squares", 2007 (leave-one-out in closed form).
    Rudi, Carratino and Rosasco, NeurIPS 2017, arXiv 1705.10958 ("nystroem", "cg").
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
        alpha="auto",
        *,
        kernel="auto",
        activation="auto",
        recurrent_var="auto",
        input_var=None,
        bias_var="auto",
        center="auto",
        input_scaling="auto",
        hyperparameters="loo",
        feature_weights="auto",
        class_weight=None,
        method="exact",
        solver="auto",
        n_components=None,
        tol=1e-6,
        max_iter=300,
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
            hyperparameters=hyperparameters,
            feature_weights=feature_weights,
            method=method,
            solver=solver,
            n_components=n_components,
            tol=tol,
            max_iter=max_iter,
            device=device,
            dtype=dtype,
            predict_batch_size=predict_batch_size,
            random_state=random_state,
        )
        self.class_weight = class_weight

    @_fit_context(prefer_skip_nested_validation=True)
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
        X, y = validate_data(self, X, y, dtype=float_dtypes(X))
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        task = begin_fit(self, X, y, sample_weight)
        weight = self._check_weights(sample_weight, X)
        positive = weight > 0
        y = take(y, positive)
        self.classes_ = unique_labels(y)
        labels = encode_labels(y, self.classes_).to(weight.device)
        n_classes = self.classes_.shape[0]
        indicators = weight.new_zeros(len(weight), n_classes)
        indicators[positive] = torch.nn.functional.one_hot(labels, n_classes).to(weight)
        factors = class_weights(self.class_weight, self.classes_, labels, weight[positive])
        weight = weight * (indicators @ factors)
        binary = self.classes_.shape[0] <= 2
        targets = 2 * (indicators[:, -1:] if binary else indicators) - 1
        solution, y, w = self._fit(X, targets, weight, classify=True)
        if binary:
            self.dual_coef_, self.intercept_ = self.dual_coef_[:, 0], self.intercept_[0]
        if self.classes_.shape[0] > 1:
            decision = solution.predictions.to(y)
            shares = (y + 1) / 2
            self.temperature_ = fit_temperature(
                decision[:, 0] if binary else decision,
                torch.hstack([1 - shares, shares]) if binary else shares,
                w,
            )
        task.end()
        return self

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
        decision, origin = self._decision(X, "decision_function")
        return to_namespace_of(origin, decision)

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
        decision, origin = self._decision(X, "predict")
        if self.classes_.shape[0] == 1:
            index = torch.zeros(len(decision), dtype=torch.int64, device=decision.device)
        else:
            index = decision.argmax(1) if decision.ndim == 2 else (decision > 0).long()
        return decode_labels(index, self.classes_, origin)

    def predict_proba(self, X):
        """Predict probabilities of the classes, calibrated on decision values out of sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
        """
        decision, origin = self._decision(X, "predict_proba")
        if self.classes_.shape[0] == 1:
            return to_namespace_of(origin, decision.new_ones(len(decision), 1))
        return to_namespace_of(origin, class_probabilities(decision, self.temperature_))
