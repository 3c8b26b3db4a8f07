"""KernelMatcher: random features of the explicit network that matches a DEQ."""

import math
from numbers import Integral

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions

from ._array_api import float_dtypes, prototype, rows_of, to_namespace_of
from ._base import DEQ_CONSTRAINTS, DEQEstimator, all_or_nothing
from ._callbacks import begin_fit
from ._memory import require_memory
from ._progress import stage
from ._scaling import InputScaler, row_norms
from ._theory.directions import normalise
from ._theory.engine import kernel_matrix
from ._theory.four_numbers import deq_numbers, require_high_dim
from ._theory.gated import exact_match
from ._theory.matching import MatchResult, solve_matching
from ._theory.pair import DEQPairKernel
from ._theory.spec import deq_spec, resolve_input_var
from ._torch import make_generator, own_modes, resolve_dtype, to_tensor
from ._validation import validate_data
from ._warn import warn

_BATCH = 2**22  # entries of the features that are computed at once
_TILE = 2**14  # rows whose norms are computed at once
_POOR = 0.01  # residual of the exact match that is told of


class KernelMatcher(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DEQEstimator):
    r"""Features of a shallow random network whose kernel is that of an infinitely wide DEQ.

    ``Z = transform(X)`` has ``Z @ Z.T`` close to the DEQ's kernel, the error falling like
    1 / sqrt(n_components). A linear model on Z is then a DEQ with a trained readout, or, for
    ``kernel="ntk"``, a wide DEQ trained a little, at the cost of one or two matrix products.

    Parameters
    ----------
    n_components : int, default=1024
        Number of features, the width of the network.
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
    kernel : {"ck", "ntk", "ntk_full"}, default="ck"
        The kernel that the features realise: conjugate kernel, NTK of recurrent weights and
        readout, or full NTK (matching="exact" only).
    matching : {"auto", "exact", "high_dim"}, default="auto"
        "exact": one hidden layer with the DEQ's kernel on any data: a power series in the cosine,
        in groups of neurons gated by the norm of the row where norms differ. "high_dim": the
        paper's network, with the same four numbers, for high-dimensional data. "auto" is "exact",
        unless n_layers asks for more than one layer.
    n_layers : "auto" or int, default="auto"
        Number of hidden layers for matching="high_dim"; "auto" takes the fewest that suffice.
    weights : {"orthogonal", "gaussian"}, default="orthogonal"
        Rows orthogonal in blocks, with the lengths of Gaussian ones, or independent Gaussian.
        Orthogonal ones give the same kernel with less noise.
    verbose : int or bool, default=0
        1: tell stage, share done and time left every second, in a bar on a terminal. 2: each step.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    dtype : {"float32", "float64"}, default=None
        Precision of the features; None means that of X.
    random_state : int, RandomState instance or None, default=None
        Source of the weights. None takes a seed from NumPy's global generator, as in scikit-learn.

    Attributes
    ----------
    match_ : MatchResult or GatedNetwork
        The network at infinite width: of "high_dim" or of "exact" matching.
    residual_ : float
        What is left of the matching equations, or of the kernel, at infinite width; relative.
    n_layers_ : int
        Number of hidden layers.
    tau0_ : float
        Root-mean-square norm of the scaled training rows.
    weights_ : list of tensor
        Weights of each layer, (width, n_inputs).
    device_ : str
        Where features are computed.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where X has names that are all strings.

    See Also
    --------
    DEQKernelRidge : Ridge regression with the exact kernel.
    sk_deq.theory.match_explicit : The matching of the four numbers, as a function.

    Notes
    -----
    Input is dense. For rows outside the norms seen in fit the gated groups are extended: the error
    at infinite width is below 1e-3 for norms 1.25 times beyond, 2e-2 for 2.5 times (tanh).

    References
    ----------
    Ling et al., ICML 2024, arXiv 2402.02697 (four numbers); Simon, Anand, DeWeese, ICML 2022, arXiv
    2106.03186 (one layer on the sphere); Yu et al., "Orthogonal Random Features", NeurIPS 2016.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import RidgeClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sk_deq import KernelMatcher
    >>> X, y = load_digits(return_X_y=True)
    >>> model = make_pipeline(KernelMatcher(500, random_state=0), RidgeClassifier(0.01))
    >>> model.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:]) > 0.9
    True
    """

    _parameter_constraints = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        **DEQ_CONSTRAINTS,
        "input_scaling": [StrOptions({"rms", "sphere"}), None],
        "kernel": [StrOptions({"ck", "ntk", "ntk_full"})],
        "matching": [StrOptions({"auto", "exact", "high_dim"})],
        "n_layers": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "weights": [StrOptions({"orthogonal", "gaussian"})],
        "device": [str, torch.device],
        "dtype": [StrOptions({"float32", "float64"}), None],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
    }

    def __init__(
        self, n_components=1024, *,
        activation="relu", recurrent_var=0.2, input_var=None, bias_var=0.0, center=True,
        input_scaling="rms",
        kernel="ck",
        matching="auto", n_layers="auto", weights="orthogonal",
        verbose=0, device="auto", dtype=None, random_state=None,
    ):  # fmt: skip
        self.n_components, self.activation = n_components, activation
        self.recurrent_var, self.input_var, self.bias_var = recurrent_var, input_var, bias_var
        self.center, self.input_scaling, self.kernel = center, input_scaling, kernel
        self.matching, self.n_layers, self.weights = matching, n_layers, weights
        self.device, self.dtype, self.verbose = device, dtype, verbose
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    @all_or_nothing
    def fit(self, X, y=None):
        """Solve the matching for the scale of X and draw the weights.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows; only their norms matter.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        self : KernelMatcher

        Raises
        ------
        ValueError
            If a parameter is out of range, or there is no stable fixed point.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If the match is poor: the four numbers are not reached to 1e-8, or the exact kernel is
            off by more than 1 % at infinite width.
        """
        X = validate_data(self, X, dtype=float_dtypes(X))
        task = begin_fit(self, X, y)
        like = prototype(X)
        self._fit_rows(rows_of(X), X.shape[1], X.dtype, like)
        task.end()
        return self

    def _fit_rows(self, rows, n_features, dtype, like):
        """Fit to rows of so many features; only their norms are used, and they may be these."""
        device = self._resolve_device(like)
        input_var = resolve_input_var(self.recurrent_var, self.input_var)
        scaler = InputScaler(self.input_scaling, input_var=input_var, bias_var=self.bias_var)
        scaler.fit(rows).n_features_out_ += n_features - rows.shape[1]
        tau0 = scaler.tau0_ if scaler.tau0_ > 0 else 1.0
        with stage("matching", 2) as step:
            norms = _scaled_norms(scaler, rows)
            step("norms of the rows")
            match, n_layers = self._match(self._spec(scaler, tau0), norms)
            step()
        dtype = resolve_dtype(dtype if self.dtype is None else self.dtype)
        generator = make_generator(self.random_state)
        draw = _orthogonal if self.weights == "orthogonal" else _gaussian
        inputs = [scaler.n_features_out_, *[self.n_components] * (n_layers - 1)]
        weights = []
        with stage("weights", n_layers) as step:
            for n_inputs in inputs:
                weights.append(draw(self.n_components, n_inputs, generator).to(device, dtype))
                step()
        self.weights_ = weights
        self.match_, self.residual_, self.n_layers_ = match, match.residual, n_layers
        self.tau0_, self.device_ = tau0, device
        self._scaler, self._like, self._n_features_out = scaler, like, self.n_components

    def _spec(self, scaler, tau0):
        """The DEQ on scaled rows."""
        variances = self.recurrent_var, self.input_var, scaler.bias_var_
        return deq_spec(self.activation, *variances, self.center, tau0)

    def _match(self, spec, norms):
        """The network that matches a DEQ on scaled rows of these norms, and its n_layers."""
        if self.matching == "high_dim" or (
            self.matching == "auto" and self.n_layers not in ("auto", 1)
        ):
            require_high_dim(
                spec.center, spec.bias_var, self.kernel, "matching='high_dim'", "matching='exact'"
            )
            # features realise a conjugate kernel, so it is that which gets the four numbers
            target = deq_numbers(spec, self.kernel)
            match = solve_matching(target, spec.tau0, "ck", self.n_layers)
            return match, match.n_layers
        if self.n_layers not in ("auto", 1):
            raise ValueError(
                f"matching='exact' has one layer, got n_layers={self.n_layers}; "
                "use n_layers='auto' or matching='high_dim'."
            )
        match = exact_match(spec, self.kernel, norms)
        if match.residual > _POOR:
            warn(
                f"The kernel of the features is off by {match.residual:.1g} of its "
                "largest value even at infinite width: the DEQ's kernel needs more terms, or "
                "norms differ too much. Use a smaller recurrent_var, a smooth activation, "
                "input_scaling='sphere', or DEQKernelRidge.",
                ConvergenceWarning,
            )
        return match, 1

    @own_modes(grad=False)
    def transform(self, X):
        """Compute the features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components)
            In float32 or float64, as `dtype` says. Computed in batches of rows.
        """
        X, origin = self._rows_like_fit(X, "transform")
        n_rows = max(1, _BATCH // self.n_components)
        device = "cpu" if isinstance(origin, np.ndarray) else self.device_
        shape = len(X), self.n_components
        Z = torch.empty(shape, dtype=self.weights_[0].dtype, device=device)
        for start in range(0, len(X), n_rows):
            rows = to_tensor(self._scaler.transform(X[start : start + n_rows]))
            Z[start : start + n_rows] = self._features(rows.to(self.device_))
        return to_namespace_of(origin, Z)

    def _features(self, rows):
        W = self.weights_[0]
        if isinstance(self.match_, MatchResult):
            z = rows.to(W)
            for layer, W in zip(self.match_.layers, self.weights_, strict=True):
                z = layer(z @ W.T) / math.sqrt(len(W))
            return z
        norms, unit = normalise(rows)
        return self.match_(unit.to(W) @ W.T, norms)

    @own_modes(grad=True)
    def kernel_error(self, X):
        """Measure the distance between the kernel of the features and the DEQ's own.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to measure it on; n_samples^2 numbers must fit into memory.

        Returns
        -------
        float
            Spectral norm of Z Z^T - K over that of K, K the exact kernel.
        """
        n = len(X)
        require_memory(3 * 8 * n**2, f"kernel_error of {n} rows", "Pass fewer rows.")
        Z = to_tensor(self.transform(X)).cpu().double().numpy()
        X, _ = self._rows_like_fit(X, "kernel_error")
        rows = to_tensor(self._scaler.transform(X), dtype=torch.float64, device="cpu")
        spec = self._spec(self._scaler, self.tau0_)
        K = kernel_matrix(DEQPairKernel(spec, self.kernel), rows).numpy()
        return _spectral_norm(Z @ Z.T - K) / _spectral_norm(K)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"] if self.dtype is None else []
        return tags


def _scaled_norms(scaler, X):
    """Norms of scaled rows, (n,) float64 on the CPU, in passes: X may be mapped from a file."""
    tiles = (X[start : start + _TILE] for start in range(0, len(X), _TILE))
    rows = (to_tensor(scaler.transform(tile), dtype=torch.float64) for tile in tiles)
    return torch.cat([row_norms(tile) for tile in rows]).cpu()


def _gaussian(n_rows, n_columns, generator):
    """Independent standard normal rows."""
    return torch.randn(n_rows, n_columns, generator=generator, dtype=torch.float64)


def _orthogonal(n_rows, n_columns, generator):
    """Blocks of orthogonal rows, with independent lengths of chi distribution."""
    blocks = []
    for start in range(0, n_rows, n_columns):
        size = min(n_columns, n_rows - start)
        Q, R = torch.linalg.qr(_gaussian(n_columns, size, generator))
        Q = Q * torch.sign(R.diagonal())  # makes Q uniformly distributed
        lengths = torch.linalg.vector_norm(_gaussian(size, n_columns, generator), dim=1)
        blocks.append(lengths[:, None] * Q.T)
    return torch.cat(blocks)


def _spectral_norm(matrix):
    """Largest absolute eigenvalue of a symmetric matrix."""
    if len(matrix) <= 500:
        return float(np.abs(np.linalg.eigvalsh(matrix)).max())
    start = np.random.RandomState(0).uniform(-1, 1, len(matrix))
    return float(abs(eigsh(matrix, k=1, v0=start, return_eigenvectors=False)[0]))
