"""EquivalentExplicitClassifier and -Regressor: shallow networks matched to a DEQ."""

import math
from numbers import Integral

import torch
from sklearn.base import _fit_context
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from .._array_api import float_dtypes, to_numpy
from .._base import forget
from .._theory.matching import solve_matching
from .._theory.spec import resolve_input_var
from .._torch import to_tensor
from ..theory import deq_coefficients, match_explicit
from .base import NetworkClassifier, NetworkRegressor
from .deq import DEQClassifier, DEQRegressor
from .modules import ExplicitNetwork
from .training import cross_entropy

_TEMPERATURE = 4.0  # softens the teacher's probabilities


def distillation(logits, teacher_logits):
    """Cross entropy per row of softened probabilities; T^2 keeps the size of its gradient."""
    target = torch.softmax(teacher_logits / _TEMPERATURE, 1)
    return _TEMPERATURE**2 * cross_entropy(logits / _TEMPERATURE, target)


class _Explicit:
    """The matched features of the two estimators, and what a teacher changes."""

    _parameter_constraints = {
        "kernel": [StrOptions({"ck", "ntk"})],
        "matching": [StrOptions({"auto", "high_dim"})],
        "n_layers": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "teacher": [HasMethods("predict"), None],
    }

    # peak rate and weight decay: on labels, and from where a teacher's weights are taken over
    _auto = {False: (0.003, 0.3), True: (0.001, 0.0)}

    @property
    def _auto_lr(self):
        return self._auto[self._took_over][0]

    @property
    def _auto_decay(self):
        return self._auto[self._took_over][1]

    @classmethod
    def from_deq(cls, deq, **params):
        """Return an unfitted estimator with the parameters of a DEQ.

        Parameters
        ----------
        deq : DEQClassifier or DEQRegressor
            Fitted or not.
        **params
            Parameters that are to differ, for instance ``teacher=deq``.

        Returns
        -------
        object
            An estimator of this class.
        """
        if not isinstance(deq, cls._counterpart):
            raise TypeError(f"deq must be a {cls._counterpart.__name__}, got {type(deq).__name__}.")
        own = cls().get_params(deep=False)
        copied = {k: v for k, v in deq.get_params(deep=False).items() if k in own}
        return cls(**{**copied, **params})

    def _make_features(self, input_var, tau0, generator):
        if not self.center:
            raise ValueError(
                "center=False cannot be matched: matching='high_dim' is a theory of centred "
                "activations. Use center=True, or KernelMatcher(matching='exact')."
            )
        # the DEQ's bias is a constant coordinate of its input, and becomes one of the match's
        bias_var = self._scaler.bias_var_ / input_var if self._scaler.bias_var_ else 0.0
        deq = {
            "recurrent_var": self.recurrent_var,
            "input_var": input_var,
            "tau0": math.hypot(tau0, math.sqrt(bias_var)),
            "kernel": self.kernel,
        }
        if self.train == "all" or self.kernel == "ck":
            self.match_ = match_explicit(self.activation, n_layers=self.n_layers, **deq)
        else:  # frozen features have a conjugate kernel only: that one gets the NTK's numbers
            target = deq_coefficients(self.activation, **deq)
            self.match_ = solve_matching(target, deq["tau0"], "ck", self.n_layers)
        return ExplicitNetwork(
            self._scaler.n_features_out_,
            self.width,
            self.match_.layers,
            bias_var=bias_var,
            tau0=tau0,
            generator=generator,
        )

    def _start(self, *args):
        super()._start(*args)
        self._took_over = self.teacher is not None and self._take_over(self._teacher.module_)

    @torch.no_grad()
    def _take_over(self, teacher):
        """Begin with the weights of a teacher of the same size; returns whether it is.

        Its input weights U make pre-activations u, up to the factor that the match takes out. Every
        further layer begins as I + W, W the recurrent weight: that is an iteration of the DEQ, as
        far as u can be read from its activation. The match keeps all scales.
        """
        module, source = self.module_, teacher.features
        features = module.features
        if features.input_weight.shape != source.input_weight.shape:
            return False
        scale = math.sqrt(resolve_input_var(self._teacher.recurrent_var, self._teacher.input_var))
        features.input_weight.copy_(source.input_weight / scale)
        features.bias.copy_(source.bias / scale)
        W = source.effective_recurrent_weight()
        step = (torch.eye(len(W)).to(W) + W) / math.sqrt(1 + self._teacher.recurrent_var)
        for hidden in features.hidden:
            hidden.weight.copy_(step)
        module.readout.load_state_dict(teacher.readout.state_dict())
        return True

    @property
    def _teacher(self):
        frozen = isinstance(self.teacher, FrozenEstimator)
        return self.teacher.estimator if frozen else self.teacher

    def _fit(self, X, y, sample_weight, X_val=None, y_val=None, *, X_unlabeled=None, **how):
        self._check_teacher(X_unlabeled)
        forget(self, "agreement_")
        self._unlabeled = X_unlabeled
        try:
            super()._fit(X, y, sample_weight, X_val, y_val, **how)
        finally:
            del self._unlabeled
        if self.teacher is not None:
            X = X if X_val is None else X_val
            X = validate_data(self, X, dtype=float_dtypes(X), reset=False)
            self.agreement_ = self._agreement(to_tensor(X))
        return self

    def _check_teacher(self, X_unlabeled):
        if self.teacher is None:
            if X_unlabeled is not None:
                raise ValueError("X_unlabeled needs a teacher to label its rows.")
            return
        if not isinstance(self._teacher, self._counterpart):
            raise TypeError(
                f"teacher must be a fitted {self._counterpart.__name__}, "
                f"got {type(self._teacher).__name__}."
            )
        check_is_fitted(self._teacher)
        if self.train == "readout":
            raise ValueError("teacher needs train='all': a readout alone cannot follow a DEQ.")

    def _more_rows(self, X, target, weight):
        if self._unlabeled is None:
            return X, target, weight
        rows = validate_data(
            self, self._unlabeled, dtype=float_dtypes(self._unlabeled), reset=False
        )
        rows = to_tensor(rows, dtype=X.dtype, device=X.device)
        # their targets are never looked at: the teacher's outputs take their place
        unused = target.new_zeros(len(rows), *target.shape[1:])
        return (
            torch.cat([X, rows]),
            torch.cat([target, unused]),
            torch.cat([weight, weight.new_ones(len(rows))]),
        )


class EquivalentExplicitClassifier(_Explicit, NetworkClassifier):
    r"""Shallow network for classification with the kernel of a deep equilibrium network.

    One to three hidden layers, whose activations are solved for so that the conjugate kernel or the
    NTK at initialisation is that of the DEQ (``match_``); then trained like any network, on labels
    or to follow a trained DEQ. A forward pass costs one or two matrix products instead of ten or
    more.

    Parameters
    ----------
    width : int, default=512
        Number of units m of every hidden layer.
    activation : str or callable, default="relu"
        Activation of the DEQ that is matched: a registry name ("relu", "tanh", ..., as
        for :class:`DEQClassifier`) or an elementwise torch callable.
    recurrent_var : float, default=0.2
        sigma_a^2, variance of the DEQ's recurrent weights.
    input_var : float, default=None
        sigma_b^2, variance of its input weights. None means 1 - recurrent_var.
    bias_var : float, default=0.0
        Variance of its input bias. Biases are trained even if they start at 0.
    center : bool, default=True
        Whether its activation is centred. matching="high_dim" is a theory of centred ones.
    input_scaling : {"rms", "sphere", None}, default="rms"
        "rms": divide X by the root-mean-square norm of the training rows. "sphere": append a
        constant coordinate if bias_var > 0 and scale every row to unit norm. None: as is.
    kernel : {"ck", "ntk"}, default="ck"
        Which of the DEQ's kernels to match: the conjugate kernel, that of training the readout, or
        the NTK of training recurrent weights and readout.
    matching : {"auto", "high_dim"}, default="auto"
        "high_dim": one to three hidden layers with the four numbers of the DEQ, which determine its
        kernel for high-dimensional data; with bias_var > 0, when rows are no longer nearly
        orthogonal, less closely. "auto" is the same.
    n_layers : int or "auto", default="auto"
        Number of hidden layers; "auto" takes the fewest that suffice.
    train : {"all", "readout"}, default="all"
        "all": every weight is trained, by AdamW with a one-cycle learning rate. "readout": the
        features stay random, and the readout, a convex problem, is solved to optimality.
    teacher : DEQClassifier, FrozenEstimator or None, default=None
        A fitted DEQClassifier to distil: the network learns its probabilities for the training rows
        instead of y. If it is as wide as this network, its weights are where the training begins.
        Needs train="all". Wrap it in a FrozenEstimator where estimators are cloned,
        as in cross-validation: cloning would forget its fit.
    max_epochs : int or "auto", default="auto"
        Passes over the data. "auto" is as many as make 150 batches, at least 20.
    batch_size : int or "auto", default="auto"
        Rows per training step; "auto" is 256. All the rows are one batch if they are fewer.
    lr : float or "auto", default="auto"
        Peak learning rate, in units of a network in standard parametrisation; "auto" is 0.003, and
        0.001 from a teacher's weights.
    weight_decay : float or "auto", default="auto"
        train="all": AdamW's weight decay, "auto" is 0.3, and 0 from a teacher's weights.
        train="readout": penalty c of the mean loss plus c ``|v|^2`` / 2, v the readout's weights;
        "auto" is 1e-5.
    early_stopping : bool, default=False
        Whether to hold out `validation_fraction` of the rows, stop when their loss no longer falls,
        and keep the best weights. False trains on every row.
    validation_fraction : float, default=0.1
        Share of the rows held out, if `early_stopping`.
    n_iter_no_change : int, default=10
        Epochs without improvement after which early stopping ends the training.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, multiplied with `sample_weight`.
    warm_start : bool, default=False
        Whether fit continues from the weights of the last fit.
    callbacks : list of skorch callbacks, default=None
        Copied before use.
    verbose : int or bool, default=0
        Whether to print a line per epoch.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of the network. "auto" is float64 for float64 rows that fit in one batch, where it
        costs nothing, and float32 otherwise.
    random_state : int, RandomState instance or None, default=None
        Source of weights, shuffling and held-out rows. An int makes fits repeat bit for bit on a
        CPU. Global generators are not touched.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    match_ : MatchResult
        Layers, target and achieved coefficients, residual of the match.
    agreement_ : float
        With a teacher: share of the rows of X_val, or else of X, on which the two predict the same.
    module_ : torch.nn.Sequential
        The network: ``features``, a :class:`sk_deq.modules.ExplicitNetwork`, and ``readout``. It
        expects rows as ``input_scaling`` leaves them.
    history_ : list of dict
        One entry per epoch: losses, accuracies, seconds. For train="readout" one, of the seconds.
    n_iter_ : int
        Epochs trained; for train="readout" the solver's iterations.
    device_ : torch.device
        Where the network was trained.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where X has names that are all strings.

    See Also
    --------
    DEQClassifier : The network that is matched.
    KernelMatcher : Features matched to the DEQ, not trained, as a transformer.

    Notes
    -----
    Input is dense. The match speaks of random weights: with train="readout" the network is the
    equivalent of a DEQ with train="readout". Training moves both away from their initial kernels;
    `teacher` makes a network that follows one particular trained DEQ, and `agreement_` says how
    well it does.

    References
    ----------
    Ling et al., "Deep Equilibrium Models are Almost Equivalent to Not-so-deep Explicit Models for
    High-dimensional Gaussian Mixtures", ICML 2024, arXiv 2402.02697. Hinton, Vinyals, Dean,
    "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sk_deq import DEQClassifier, EquivalentExplicitClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> deq = DEQClassifier(width=64, max_epochs=10, random_state=0).fit(X, y)
    >>> explicit = EquivalentExplicitClassifier.from_deq(deq, teacher=deq, max_epochs=30)
    >>> explicit.fit(X, y).agreement_ > 0.95
    True
    """

    _counterpart = DEQClassifier
    _parameter_constraints = {
        **NetworkClassifier._parameter_constraints,
        **_Explicit._parameter_constraints,
    }
    for _name in ("fixed_point_solver", "tol", "max_iter"):
        del _parameter_constraints[_name]
    del _name

    def __init__(
        self,
        width=512,
        *,
        activation="relu",
        recurrent_var=0.2,
        input_var=None,
        bias_var=0.0,
        center=True,
        input_scaling="rms",
        kernel="ck",
        matching="auto",
        n_layers="auto",
        train="all",
        teacher=None,
        max_epochs="auto",
        batch_size="auto",
        lr="auto",
        weight_decay="auto",
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        class_weight=None,
        warm_start=False,
        callbacks=None,
        verbose=0,
        device="auto",
        dtype="auto",
        random_state=None,
    ):
        self.width = width
        self.activation = activation
        self.recurrent_var = recurrent_var
        self.input_var = input_var
        self.bias_var = bias_var
        self.center = center
        self.input_scaling = input_scaling
        self.kernel = kernel
        self.matching = matching
        self.n_layers = n_layers
        self.train = train
        self.teacher = teacher
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.verbose = verbose
        self.device = device
        self.dtype = dtype
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None, X_unlabeled=None):
        """Fit the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,)
            Class labels. With a teacher only their set matters, which must be the teacher's.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows. None means 1.
        X_val, y_val : array-like of shape (n_val, n_features) and (n_val,), default=None
            Rows to stop early on, instead of a fraction of X; see :meth:`DEQClassifier.fit`.
        X_unlabeled : array-like of shape (n_unlabeled, n_features), default=None
            Further rows for the teacher to label.

        Returns
        -------
        self : EquivalentExplicitClassifier

        Raises
        ------
        ValueError
            If a parameter is out of range, all weights are zero, or the classes are not the
            teacher's.
        TypeError
            If the teacher is not a fitted DEQClassifier.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If nothing matches the DEQ to 1e-8, or the loss was not finite.
        """
        return self._fit(X, y, sample_weight, X_val, y_val, X_unlabeled=X_unlabeled)

    @property
    def _criterion(self):
        return cross_entropy if self.teacher is None else distillation

    def _encode(self, y, *, again, classes=None):
        target = super()._encode(y, again=again, classes=classes)
        if self.teacher is not None and (
            to_numpy(self.classes_).tolist() != to_numpy(self._teacher.classes_).tolist()
        ):
            raise ValueError(
                f"y has the classes {self.classes_}, the teacher {self._teacher.classes_}."
            )
        return target

    def _target_tensor(self, X, target):
        if self.teacher is None:
            return super()._target_tensor(X, target)
        return self._to_device(self._teacher._outputs_of(X))

    def _agreement(self, X):
        ours, theirs = self._outputs_of(X), self._teacher._outputs_of(X)
        return float((ours.argmax(1) == theirs.argmax(1).to(ours.device)).double().mean())


class EquivalentExplicitRegressor(_Explicit, NetworkRegressor):
    r"""Shallow network for regression with the kernel of a deep equilibrium network.

    One to three hidden layers, whose activations are solved for so that the conjugate kernel or the
    NTK at initialisation is that of the DEQ (``match_``); then trained like any network, on targets
    or to follow a trained DEQ.

    Parameters
    ----------
    width : int, default=512
        Number of units m of every hidden layer.
    activation : str or callable, default="relu"
        Activation of the DEQ that is matched: a registry name ("relu", "tanh", ..., as
        for :class:`DEQClassifier`) or an elementwise torch callable.
    recurrent_var : float, default=0.2
        sigma_a^2, variance of the DEQ's recurrent weights.
    input_var : float, default=None
        sigma_b^2, variance of its input weights. None means 1 - recurrent_var.
    bias_var : float, default=0.0
        Variance of its input bias. Biases are trained even if they start at 0.
    center : bool, default=True
        Whether its activation is centred. matching="high_dim" is a theory of centred ones.
    input_scaling : {"rms", "sphere", None}, default="rms"
        "rms": divide X by the root-mean-square norm of the training rows. "sphere": append a
        constant coordinate if bias_var > 0 and scale every row to unit norm. None: as is.
    kernel : {"ck", "ntk"}, default="ck"
        Which of the DEQ's kernels to match: the conjugate kernel, that of training the readout, or
        the NTK of training recurrent weights and readout.
    matching : {"auto", "high_dim"}, default="auto"
        "high_dim": one to three hidden layers with the four numbers of the DEQ, which determine its
        kernel for high-dimensional data; with bias_var > 0, when rows are no longer nearly
        orthogonal, less closely. "auto" is the same.
    n_layers : int or "auto", default="auto"
        Number of hidden layers; "auto" takes the fewest that suffice.
    train : {"all", "readout"}, default="all"
        "all": every weight is trained, by AdamW with a one-cycle learning rate. "readout": the
        features stay random, and the readout, a convex problem, is solved to optimality.
    teacher : DEQRegressor, FrozenEstimator or None, default=None
        A fitted DEQRegressor to distil: the network learns its predictions for the training rows
        instead of y. If it is as wide as this network, its weights are where the training begins.
        Needs train="all". Wrap it in a FrozenEstimator where estimators are cloned,
        as in cross-validation: cloning would forget its fit.
    max_epochs : int or "auto", default="auto"
        Passes over the data. "auto" is as many as make 150 batches, at least 20.
    batch_size : int or "auto", default="auto"
        Rows per training step; "auto" is 256. All the rows are one batch if they are fewer.
    lr : float or "auto", default="auto"
        Peak learning rate, in units of a network in standard parametrisation; "auto" is 0.003, and
        0.001 from a teacher's weights.
    weight_decay : float or "auto", default="auto"
        train="all": AdamW's weight decay, "auto" is 0.3, and 0 from a teacher's weights.
        train="readout": penalty c of the mean squared error plus c ``|v|^2``, v the readout's
        weights; "auto" is 1e-5.
    early_stopping : bool, default=False
        Whether to hold out `validation_fraction` of the rows, stop when their loss no longer falls,
        and keep the best weights. False trains on every row.
    validation_fraction : float, default=0.1
        Share of the rows held out, if `early_stopping`.
    n_iter_no_change : int, default=10
        Epochs without improvement after which early stopping ends the training.
    warm_start : bool, default=False
        Whether fit continues from the weights of the last fit.
    callbacks : list of skorch callbacks, default=None
        Copied before use.
    verbose : int or bool, default=0
        Whether to print a line per epoch.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of the network. "auto" is float64 for float64 rows that fit in one batch, where it
        costs nothing, and float32 otherwise.
    random_state : int, RandomState instance or None, default=None
        Source of weights, shuffling and held-out rows. An int makes fits repeat bit for bit on a
        CPU. Global generators are not touched.

    Attributes
    ----------
    match_ : MatchResult
        Layers, target and achieved coefficients, residual of the match.
    agreement_ : float
        With a teacher: R^2 of the two's predictions on X_val, or else on X.
    module_ : torch.nn.Sequential
        The network: ``features``, a :class:`sk_deq.modules.ExplicitNetwork`, and ``readout``. It
        expects rows as ``input_scaling`` leaves them.
    history_ : list of dict
        One entry per epoch: losses, seconds. For train="readout" one, of the seconds.
    n_iter_ : int
        Epochs trained; for train="readout" the solver's iterations.
    device_ : torch.device
        Where the network was trained.
    n_features_in_ : int
        Number of features seen in fit.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where X has names that are all strings.

    See Also
    --------
    DEQRegressor : The network that is matched.
    KernelMatcher : Features matched to the DEQ, not trained, as a transformer.

    Notes
    -----
    Input is dense. The match speaks of random weights: with train="readout" the network is the
    equivalent of a DEQ with train="readout". Training moves both away from their initial kernels;
    `teacher` makes a network that follows one particular trained DEQ, and `agreement_` says how
    well it does.

    References
    ----------
    Ling et al., "Deep Equilibrium Models are Almost Equivalent to Not-so-deep Explicit Models for
    High-dimensional Gaussian Mixtures", ICML 2024, arXiv 2402.02697. Hinton, Vinyals, Dean,
    "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sk_deq import EquivalentExplicitRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = EquivalentExplicitRegressor(width=32, max_epochs=30, random_state=0)
    >>> model.fit(X, y).score(X, y) > 0.4
    True
    """

    _counterpart = DEQRegressor
    _parameter_constraints = {
        **NetworkRegressor._parameter_constraints,
        **_Explicit._parameter_constraints,
    }
    for _name in ("fixed_point_solver", "tol", "max_iter"):
        del _parameter_constraints[_name]
    del _name

    def __init__(
        self,
        width=512,
        *,
        activation="relu",
        recurrent_var=0.2,
        input_var=None,
        bias_var=0.0,
        center=True,
        input_scaling="rms",
        kernel="ck",
        matching="auto",
        n_layers="auto",
        train="all",
        teacher=None,
        max_epochs="auto",
        batch_size="auto",
        lr="auto",
        weight_decay="auto",
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        warm_start=False,
        callbacks=None,
        verbose=0,
        device="auto",
        dtype="auto",
        random_state=None,
    ):
        self.width = width
        self.activation = activation
        self.recurrent_var = recurrent_var
        self.input_var = input_var
        self.bias_var = bias_var
        self.center = center
        self.input_scaling = input_scaling
        self.kernel = kernel
        self.matching = matching
        self.n_layers = n_layers
        self.train = train
        self.teacher = teacher
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.verbose = verbose
        self.device = device
        self.dtype = dtype
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None, X_unlabeled=None):
        """Fit the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets. With a teacher they set the scale only.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows. None means 1.
        X_val, y_val : array-like, default=None
            Rows to stop early on, instead of a fraction of X; see :meth:`DEQRegressor.fit`.
        X_unlabeled : array-like of shape (n_unlabeled, n_features), default=None
            Further rows for the teacher to label.

        Returns
        -------
        self : EquivalentExplicitRegressor

        Raises
        ------
        ValueError
            If a parameter is out of range or all weights are zero.
        TypeError
            If the teacher is not a fitted DEQRegressor.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If nothing matches the DEQ to 1e-8, or the loss was not finite.
        """
        return self._fit(X, y, sample_weight, X_val, y_val, X_unlabeled=X_unlabeled)

    def _target_tensor(self, X, target):
        if self.teacher is not None:
            target = self._teacher._values_of(X).reshape(len(X), -1).to(target.device)
        return super()._target_tensor(X, target)

    def _agreement(self, X):
        theirs = self._teacher._values_of(X)
        error = theirs - self._values_of(X).to(theirs.device)
        spread = (theirs - theirs.mean(0)).square().sum(0)
        return float((1 - error.square().sum(0) / spread).mean())
