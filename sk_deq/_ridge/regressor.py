"""DEQKernelRidge."""

import torch
from sklearn.base import MultiOutputMixin, RegressorMixin, _fit_context
from sklearn.utils.metaestimators import available_if

from .._array_api import float_dtypes, prototype, rows_of, to_namespace_of
from .._base import all_or_nothing
from .._callbacks import begin_fit
from .._torch import own_modes, to_tensor
from .._validation import validate_data
from .base import BaseKernelRidge, takes_chunks
from .fit import fit_ridge
from .intervals import check_coverage, local_scale


class DEQKernelRidge(MultiOutputMixin, RegressorMixin, BaseKernelRidge):
    r"""Ridge regression with the kernel of an infinitely wide deep equilibrium model.

    Minimises sum_i w_i (y_i - f(x_i))^2 + alpha c^T K c over f(x) = sum_j c_j k(x, x_j) + b: what a
    very wide DEQ with a ridge-trained readout (``kernel="ck"``), or one that is trained a little
    (``kernel="ntk"``), computes.

    Parameters
    ----------
    alpha : float, array-like of shape (n_alphas,) or "auto", default="auto"
        Ridge penalty >= 0. From an array the candidate with the least squared error out of sample
        is taken: leave-one-out (one eigendecomposition for all candidates), or held-out for
        "nystroem" and "cg". "auto": eleven candidates from 1e-4 to 10 times the mean diagonal of
        the kernel and the mean weight of a row; for "cholesky" the best of those that the search
        looks at, for "cg" that and up to 100 times it, of those that take at most 20 steps to a
        residual of 0.1. A number is in the units of `sample_weight`, as in scikit-learn.
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
    kernel : {"ck", "ntk", "ntk_full", "auto"}, default="auto"
        Conjugate kernel (a DEQ with trained readout), NTK with the recurrent weights trained too,
        or NTK of all weights.
    hyperparameters : {"loo", None}, default="loo"
        How the parameters above that are "auto" are chosen. "loo": by closed-form leave-one-out
        among a few kernels, see Notes; those that are given stay. None: not searched, but
        recurrent_var=0.9, bias_var=0.1, center=False, kernel "ck", activation "relu", scaling
        "rms"; with ``method="high_dim"``, always the paper's 0.2, 0, True, with input_var=0.8.
    encoding : {"auto", "quantile", "bins", "both", None}, default="auto"
        What the kernel sees beside each column of more than four values: its normal score
        ("quantile"), its place in each of 16 bins of as many rows ("bins", piecewise linear),
        or both. More than 100 such columns are left alone. "auto": nothing unless the kernel is
        searched; then "both" from 700 rows on and 50 for each such column, else "quantile", but
        "bins", where not both, or None where that lowers the leave-one-out errors by more than 5 %.
    feature_weights : {"auto", None}, default="auto"
        Whether a search also weights the features, x_j to v_j^(1/2) x_j. "auto": where that lowers
        the leave-one-out errors by more than 10 %, or, with more than 1,000 rows, those of rows
        that the weights were not learnt from. Columns of one-hot code share a weight, as do columns
        that leave their most frequent value in fewer than five rows.
    method : {"exact", "high_dim"}, default="exact"
        The exact kernel, or its high-dimensional approximation by four numbers.
    solver : {"auto", "eigh", "cholesky", "cg", "nystroem"}, default="auto"
        "eigh": an eigendecomposition, for any number of alphas. "cholesky": a factorisation, for
        one alpha. "cg": conjugate gradients, alpha > 0, exact to `tol`; half of the kernel is kept
        if it takes a quarter of the memory, else computed in every step, in memory linear in the
        number of rows. "nystroem": an approximation by functions of `n_components` landmarks, which
        reads X in blocks of rows, in memory that does not grow with them. "auto": "eigh" or
        "cholesky" if it takes no more than half of the memory and, on a CPU, there are at most
        16,000 distinct rows (one alpha) or 8,000 (several); then, by default up to 50,000 rows of
        one output or two classes (21,000 of ten), "cg", if it can keep the kernel; else "nystroem".
        `solver_` tells the choice.
    n_components : int, default=None
        Number of landmarks of "nystroem", which may be raised for accuracy; None means 2,000. For
        "cg", of its preconditioner; None means 1,000. Other solvers do not use it.
    landmarks : array-like of shape (n_landmarks, n_features), default=None
        Rows that "nystroem" and "cg" take as landmarks, instead of some of X. The scale of the
        input is then measured on them, so that it does not depend on what is fitted.
    tol : float, default=1e-4
        "cg" stops when the residual is this small, relative to the targets.
    max_iter : int, default=300
        "cg" stops with a ConvergenceWarning after so many iterations.
    max_time : float, default=None
        Seconds after which the search of the kernel ends at the best so far, with a
        ConvergenceWarning; fitting all rows with it comes after. None is no limit.
    verbose : int or bool, default=0
        1: tell stage, share done and time left every second, in a bar on a terminal. 2: each step.
    checkpoint_dir : str or path-like, default=None
        Folder, one for each fit, where "nystroem" keeps its sums over rows every ten seconds. The
        same fit goes on from there, and ends with the same bits as one that was never stopped.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    dtype : {"float32", "float64"}, default="float64"
        Precision of the computation and of the predictions.
    predict_batch_size : int, default=None
        Rows that are predicted at once; None keeps a block of the kernel below 128 MiB.
    random_state : int, RandomState instance or None, default=None
        Seed of the hashes of rows by which repeated rows are found, and landmarks, held-out rows
        and, of more than 500 rows, those of the search are chosen. Nothing else depends on it.
        None takes a seed from NumPy's global generator, as in scikit-learn.

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
    encoding_ : str or None
        What was put beside the columns.
    feature_weights_ : ndarray of shape (n_features,)
        Weights v of the features; all 1 where they were not weighted. Of a column and what was put
        beside it, what they add to the mean squared norm, over what the column alone would.
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
    never copied. A tenth of the distinct rows is held out to choose alpha; then all rows are
    fitted. The scale of the rows is that of those searched on.

    The search compares four kernels on at most 500 distinct rows, drawn by `random_state`: smooth
    and rough, of rows of any norms and on the sphere; then the encodings for the best of them. It
    and the roughest get feature weights by gradient descent on their leave-one-out errors, each
    step on some 500 of up to 3,000 rows. With more than 1,000 rows others decide whether weights
    stay, and between a smooth kernel and the roughest.

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
    @all_or_nothing
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
        like, weight = prototype(X), self._weights(sample_weight, X)
        targets = to_tensor(y, dtype=torch.float64, device=weight.device).reshape(y.shape[0], -1)
        config = self._config(like, classify=False)
        fitted = fit_ridge(rows_of(X), targets, weight, config)
        self._keep(fitted, like, config.device, flat=y.ndim == 1)
        task.end()
        return self

    @available_if(takes_chunks)
    @_fit_context(prefer_skip_nested_validation=True)
    @all_or_nothing
    def partial_fit(self, X, y, sample_weight=None):
        """Account for a chunk of rows, by sums over rows that do not depend on the chunks.

        Only with ``solver="nystroem"``. The first call settles the kernel, by its search, and the
        landmarks, if none are given; given `landmarks` and DEQ parameters, the result is that of
        one fit. Each call chooses alpha anew where there are several candidates.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of this chunk; dense.
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
            If the chunk cannot be used; the message says which one it was, and the estimator is as
            it was before it.
        """
        with self._chunk():
            X, y = validate_data(
                self, X, y, dtype=float_dtypes(X), multi_output=True, y_numeric=True,
                reset=not hasattr(self, "_stream"),
            )  # fmt: skip
            like, weight = prototype(X), self._weights(sample_weight, X)
            targets = to_tensor(y, dtype=torch.float64, device=weight.device)
            self._add_chunk(X, targets.reshape(y.shape[0], -1), weight, like, flat=y.ndim == 1)
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

    @own_modes(grad=False)
    def predict_interval(self, X, coverage=0.9, *, local=False):
        """Predict an interval for every target.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        coverage : float, default=0.9
            Share of new targets that is to lie within their intervals, for each output by itself.
        local : bool, default=False
            Whether intervals are as wide as the errors near a row ask for, or all of one width.

        Returns
        -------
        lower, upper : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The prediction minus and plus one number for each output; with ``local=True``, one for
            each row.

        Raises
        ------
        ValueError
            If coverage is not in (0, 1), or too large for the number of rows: n distinct rows out
            of sample reach n / (n + 1). Or if fit had none, which is so for a single `alpha` with
            ``solver="cg"`` or ``"nystroem"``, unless it is given as a list, for one distinct row,
            and for rows in chunks, by `partial_fit` or on dask.

        Notes
        -----
        This is the jackknife of [1]_: the half-width is the ceil(coverage (n + 1))-th smallest of
        the n absolute residuals out of sample. They are those that fit has: of every row when left
        out, in closed form, by "eigh" and by "cholesky" up to 1,000 distinct rows; by "cholesky" of
        more rows for 500 of them; for the other solvers those of the held-out rows. Each copy of a
        repeated row has a residual of its own, from the model without all copies. Weights count.

        What is guaranteed: in general, nothing. Coverage is close to nominal, on average over
        training sets and new rows of the same distribution, where leaving out one row (for held-out
        rows, a tenth of the rows) hardly changes predictions; that is the stability asked for in
        Theorem 5 of [1]_, and a ridge penalty provides it. The jackknife+ would always cover
        2 coverage - 1, but needs the n models themselves. Kernel, penalty and weights of features
        have been chosen by errors of the same rows, which makes residuals too small, the more so
        the fewer rows: of four tables with 660 to 1,000 training rows, intervals of coverage 0.9
        held 86 to 91 % of new targets, 89 % on average; of six with 200 rows 84 to 91 %, 88 % on
        average. Where coverage must be kept, set rows aside for split conformal prediction.
        Coverage within a part of the table, for instance where targets are noisier, may be another;
        with ``local=True`` it is nearer to nominal. A kernel ridge, with the kernel of the fit and
        a penalty chosen by leave-one-out, then predicts the logarithm of the absolute residual from
        up to 1,000 of the rows left out, anew in every call; and the quantile is of residuals in
        units of what it predicts without them, as in Section 5.2 of [2]_.

        References
        ----------
        .. [1] Barber, Candes, Ramdas and Tibshirani, "Predictive inference with the jackknife+",
           Annals of Statistics 49, 2021, arXiv 1905.02928.
        .. [2] Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, "Distribution-free predictive
           inference for regression", JASA 113, 2018, arXiv 1604.04173.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from sk_deq import DEQKernelRidge
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = DEQKernelRidge(hyperparameters=None).fit(X[:300], y[:300])
        >>> lower, upper = model.predict_interval(X[300:], coverage=0.9)
        >>> bool(0.85 < ((lower <= y[300:]) & (y[300:] <= upper)).mean() < 0.95)
        True
        """
        check_coverage(coverage)
        decision, origin = self._decision(X, "predict_interval")
        if self._out_of_sample is None:
            raise ValueError(
                f"fit has predicted no rows out of sample: solver={self.solver_!r} with one alpha "
                "does not, unless alpha is given as a list of one; one distinct row cannot, and "
                "neither partial_fit nor dask does."
            )
        if local:
            scale, out = local_scale(self._out_of_sample, self._fitted_rows)
            rows, _ = self._rows_like_fit(X, "predict_interval")
            coef = scale.coef.to(decision)
            logs = self._combination(rows, scale.rows, coef) + scale.constant.to(decision)
            width = out.quantile(coverage).to(decision) * logs.exp()
            width = width[:, 0] if decision.ndim == 1 else width
        else:
            width = self._out_of_sample.quantile(coverage).to(decision)
            width = width[0] if decision.ndim == 1 else width
        return to_namespace_of(origin, decision - width), to_namespace_of(origin, decision + width)
