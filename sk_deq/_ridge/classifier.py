"""DEQKernelRidgeClassifier."""

import torch
from sklearn.base import _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from .._array_api import decode_labels, float_dtypes, prototype, rows_of, to_namespace_of
from .._base import all_or_nothing
from .._callbacks import begin_fit
from .._solve.calibration import class_probabilities
from .._validation import validate_data
from .classes import LearnsClasses
from .fit import fit_ridge
from .intervals import check_coverage


class DEQKernelRidgeClassifier(LearnsClasses):
    r"""Classification by ridge regression with the kernel of an infinitely wide DEQ.

    Labels become targets +1 and -1, one column per class for more than two classes, and
    :class:`DEQKernelRidge` is fitted to them, as `RidgeClassifier` does with a linear model.

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
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, multiplied with `sample_weight`. "balanced" gives all classes the
        same total weight.
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
    classes_ : ndarray of shape (n_classes,)
        Class labels.
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
    encoding_ : str or None
        What was put beside the columns.
    feature_weights_ : ndarray of shape (n_features,)
        Weights v of the features; all 1 where they were not weighted. Of a column and what was put
        beside it, what they add to the mean squared norm, over what the column alone would.
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
    never copied. A tenth of the distinct rows is held out to choose alpha and to calibrate
    probabilities (also by "cg"); then all rows are fitted. The scale of the rows is that of those
    searched on.

    Probabilities are calibrated: the one number of the softmax minimises the cross-entropy of the
    decision values out of sample, with Platt's smoothing of the targets. The only row of a class
    has no part in it: a model fitted without it says nothing of that class.

    The search compares four kernels on at most 500 distinct rows, drawn by `random_state`: smooth
    and rough, of rows of any norms and on the sphere; then the encodings for the best of them. It
    and the roughest get feature weights by gradient descent on their leave-one-out errors, each
    step on some 500 of up to 3,000 rows. With more than 1,000 rows others decide whether weights
    stay, and between a smooth kernel and the roughest. Errors are the squared error
    and the log-loss, with equal weight.

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
        **LearnsClasses._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self, alpha="auto", *,
        activation="auto", recurrent_var="auto", input_var=None, bias_var="auto", center="auto",
        input_scaling="auto", kernel="auto",
        hyperparameters="loo", encoding="auto", feature_weights="auto",
        method="exact", solver="auto", n_components=None, landmarks=None, tol=1e-4, max_iter=300,
        class_weight=None,
        max_time=None, verbose=0, checkpoint_dir=None,
        device="auto", dtype="float64", predict_batch_size=None, random_state=None,
    ):  # fmt: skip
        super().__init__(
            alpha, kernel=kernel, activation=activation, recurrent_var=recurrent_var,
            input_var=input_var, bias_var=bias_var, center=center, input_scaling=input_scaling,
            hyperparameters=hyperparameters, encoding=encoding, feature_weights=feature_weights,
            method=method, solver=solver, n_components=n_components, landmarks=landmarks, tol=tol,
            max_iter=max_iter, device=device, dtype=dtype, predict_batch_size=predict_batch_size,
            checkpoint_dir=checkpoint_dir, max_time=max_time, verbose=verbose,
            random_state=random_state,
        )  # fmt: skip
        self.class_weight = class_weight

    @_fit_context(prefer_skip_nested_validation=True)
    @all_or_nothing
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
        like, weight = prototype(X), self._weights(sample_weight, X)
        classes, targets, weight = self._targets(y, weight)
        config = self._config(like, classify=True)
        fitted = fit_ridge(rows_of(X), targets, weight, config)
        self._keep(fitted, like, config.device, flat=targets.shape[1] == 1)
        self._calibrate(classes, fitted)
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

    def predict_set(self, X, coverage=0.9):
        """Predict, for every row, a set of classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        coverage : float, default=0.9
            Share of new rows whose set is to hold their class.

        Returns
        -------
        sets : ndarray of shape (n_samples, n_classes), bool
            Whether ``classes_[k]`` is in the set of a row.

        Raises
        ------
        ValueError
            If coverage is not in (0, 1), or too large for the number of rows: n distinct rows out
            of sample reach n / (n + 1).

        Notes
        -----
        These are the least ambiguous sets of [1]_: all classes whose probability reaches a
        threshold, the same for all rows. It is the one that lets the classes of the share
        `coverage` of the rows predicted out of sample pass (``ceil(coverage (n + 1))`` of n of
        them): rows that were left out one at a time or held out, those that probabilities are
        calibrated on, and the only row of a class. Where coverage is less than the accuracy, sets
        may be empty: those are the rows that the model is least sure of.

        What is guaranteed: for held-out rows (``solver="nystroem"`` or ``"cg"``) and
        leave-one-out alike, nothing in general, as all rows are fitted in the end. Coverage is
        close to nominal, on average over all rows, where leaving rows out hardly changes
        predictions, but not within a class or a part of the table. Kernel, penalty and the factor
        of the probabilities were chosen by errors of the same rows: with 200 training rows, sets of
        coverage 0.9 held 81 to 90 % of new classes of four tables. Weights count, and so does
        `class_weight`: with "balanced" it is the coverage where all classes are equally frequent.

        References
        ----------
        .. [1] Sadinle, Lei and Wasserman, "Least ambiguous set-valued classifiers with bounded
           error levels", JASA 114, 2019, arXiv 1609.00451.

        Examples
        --------
        >>> from sklearn.datasets import load_wine
        >>> from sklearn.preprocessing import scale
        >>> from sk_deq import DEQKernelRidgeClassifier
        >>> X, y = load_wine(return_X_y=True)
        >>> model = DEQKernelRidgeClassifier(hyperparameters=None).fit(scale(X)[::2], y[::2])
        >>> model.predict_set(scale(X)[1::2], coverage=0.95).shape
        (89, 3)
        """
        check_coverage(coverage)
        decision, origin = self._decision(X, "predict_set")
        if self.classes_.shape[0] == 1:
            sets = torch.ones(len(decision), 1, dtype=torch.bool, device=decision.device)
        else:
            scores = 1 - class_probabilities(decision, self.temperature_)
            sets = scores <= self._out_of_sample.quantile(coverage).to(scores)
        return to_namespace_of(origin, sets)
