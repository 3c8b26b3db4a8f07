"""EquivalentExplicitClassifier."""

from sklearn.base import _fit_context

from .._ridge.classifier import DEQKernelRidgeClassifier
from .classifier import NetworkClassifier
from .deq_classifier import DEQClassifier
from .explicit import ExplicitFeatures


class EquivalentExplicitClassifier(ExplicitFeatures, NetworkClassifier):
    r"""Shallow network for classification with the kernel of a deep equilibrium network.

    One to three hidden layers, whose activations are solved for so that the conjugate kernel or the
    NTK at initialisation is that of the DEQ (``match_``); then trained like any network, on labels
    or to follow a trained DEQ. A forward pass costs one or two matrix products instead of ten or
    more.

    Parameters
    ----------
    width : int or "auto", default="auto"
        Number of units m of every hidden layer. "auto" means 512, and 2,048 for the one layer of an
        exact match where a search chose the kernel for more than 2,000 rows, 500 in regression.
    activation : str or callable, default="auto"
        Activation of the DEQ that is matched: a registry name ("relu", "tanh", ..., as
        for :class:`DEQClassifier`) or an elementwise torch callable.
    recurrent_var : float or "auto", default="auto"
        sigma_a^2, variance of the DEQ's recurrent weights.
    input_var : float, default=None
        sigma_b^2, variance of its input weights. None means 1 - recurrent_var.
    bias_var : float or "auto", default="auto"
        Variance of its input bias. Biases are trained even if they start at 0.
    center : bool or "auto", default="auto"
        Whether its activation is centred. matching="high_dim" is a theory of centred ones.
    input_scaling : {"rms", "centered", "sphere", "auto", None}, default="auto"
        "rms": divide X by the root-mean-square norm of the training rows. "centered": subtract the
        means of the columns first. "sphere": append a constant coordinate if bias_var > 0 and scale
        every row to unit norm. None: as is.
    kernel : {"ck", "ntk", "auto"}, default="auto"
        Which of the DEQ's kernels to match: the conjugate kernel, that of training the readout, or
        the NTK of training recurrent weights and readout. "auto" is the conjugate kernel.
    hyperparameters : {"loo", None}, default="loo"
        What "auto" stands for above. "loo": a search by closed-form leave-one-out on at most 4,000
        rows, as in the kernel ridge estimators, among the smooth kernels that random features are
        close to; those that are given stay. The readout then begins at the ridge solution with the
        least leave-one-out error. None, and "loo" with more than 50,000 rows, or 5,000 of more than
        256 columns, as images are, which a network trained from scratch serves better: the paper's
        activation "relu", recurrent_var=0.2, bias_var=0.0, center=True, and scaling "centered".
    encoding : {"auto", "quantile", "bins", "both", None}, default="auto"
        With hyperparameters="loo", what the network sees beside each column of more than four
        values, as in the kernel ridge estimators.
    feature_weights : {"auto", None}, default="auto"
        With hyperparameters="loo", whether columns are weighted too, as there.
    matching : {"auto", "high_dim", "exact"}, default="auto"
        "high_dim": one to three hidden layers with the four numbers of the DEQ, which determine its
        kernel for high-dimensional data; with bias_var > 0, when rows are no longer nearly
        orthogonal, less closely. "exact": one hidden layer whose activations depend on the norm of
        the row and whose conjugate kernel is the DEQ's kernel for rows of any norms and dimension.
        "auto" is "high_dim" for centred DEQs, whose theory that is, and "exact" for others.
    n_layers : int or "auto", default="auto"
        Number of hidden layers; "auto" takes the fewest that suffice.
    train : {"auto", "all", "readout"}, default="auto"
        "all": every weight is trained, by AdamW with a one-cycle learning rate. "readout": the
        features stay random, and the readout, a convex problem, is solved to optimality. "auto":
        after a search, every weight is trained where it pays, or with fewer than 1,000 rows the
        readout of a classifier, and nothing of a DEQRegressor; a copy is trained on four fifths of
        the rows, and then the network for as many epochs as the copy took to the least loss on
        the others, which may be none. It is "all" without a search, with callbacks, and with rows
        to stop early on.
    teacher : DEQClassifier, DEQKernelRidgeClassifier, FrozenEstimator or None, default=None
        A fitted DEQClassifier to distil: the network learns its probabilities for the training rows
        instead of y. If it is as wide as this network, its weights are where the training begins;
        train="readout" cannot follow it. Or a fitted DEQKernelRidgeClassifier, see
        `from_kernel_ridge`. Wrap it in a FrozenEstimator where estimators are cloned, as in
        cross-validation: cloning would forget its fit.
    max_epochs : int or "auto", default="auto"
        Passes over the data. "auto" is at least 20 and as many as make 150 batches, or after a
        search 60, of the readout alone 240; there 12 are enough with fewer than 2,000 rows.
    batch_size : int or "auto", default="auto"
        Rows per training step; "auto" is 256. All the rows are one batch if they are fewer.
    lr : float or "auto", default="auto"
        Peak learning rate, in units of a network in standard parametrisation; "auto" is 0.003, and
        0.001 from a teacher's weights or after a search, of at most 5,000 rows, 3,000 for
        regression, and not for the readout alone.
    weight_decay : float or "auto", default="auto"
        AdamW's weight decay, "auto" is 0.3, and 0 from a teacher's weights; after a search weights
        decay towards where training began, and "auto" is 10, with more than 5,000 rows or for the
        readout alone 1. With train="readout" and hyperparameters=None: penalty c of the mean loss
        plus c ``|v|^2`` / 2, v the readout's weights; "auto" is 1e-5.
    input_dropout : float or "auto", default="auto"
        Share of the inputs that a step of training sets to 0, scaling up the others. "auto" is 0.2
        for a classifier trained from scratch on more than 256 columns and rows, as images are, and
        0 otherwise: tables lose by it.
    early_stopping : bool, default=False
        Whether to hold out `validation_fraction` of the rows, stop when their loss no longer falls,
        and keep the best weights. False trains on every row.
    validation_fraction : float, default=0.1
        Share of the rows held out, if `early_stopping`.
    n_iter_no_change : int, default=10
        Epochs without improvement after which early stopping ends the training.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, multiplied with `sample_weight`. "balanced" gives all classes the
        same total weight.
    warm_start : bool, default=False
        Whether fit continues from the weights of the last fit.
    callbacks : list of skorch callbacks, default=None
        Copied before use.
    max_time : float, default=None
        Seconds after which search and training, at the end of an epoch, stop at the best so far,
        with a ConvergenceWarning; the learning rate has fallen by then. None is no limit.
    verbose : int or bool, default=0
        1: tell stage, share done and time left every second, in a bar on a terminal. 2: each step.
    checkpoint_dir : str or path-like, default=None
        Folder, one for each fit, where the training is kept after every epoch. The same fit goes on
        from there, and ends with the same bits as one that was never stopped.
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is one, else the CPU.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Precision of the network. "auto" is float64 for float64 rows that fit in one batch, where it
        costs little, and float32 otherwise.
    random_state : int, RandomState instance or None, default=None
        Source of weights, shuffling and held-out rows. An int makes fits repeat bit for bit on a
        CPU. None takes a seed from NumPy's global generator, as in scikit-learn.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    match_ : MatchResult or GatedNetwork
        Layers, target and achieved coefficients, residual of the match; or the activations of an
        exact one.
    kernel_ : {"ck", "ntk"}
        The kernel matched.
    width_ : int
        Hidden units of a layer.
    agreement_ : float
        With a teacher: share of the rows of X_val, or else of X, on which the two predict the same.
    module_ : torch.nn.Sequential
        The network: ``features``, a :class:`sk_deq.modules.ExplicitNetwork` or
        :class:`sk_deq.modules.ExactNetwork`, and ``readout``. It expects prepared rows.
    history_ : list of dict
        One entry per epoch: losses, accuracies, seconds. For train="readout" one, of the seconds.
    n_iter_ : int
        Epochs trained; for train="readout" the solver's iterations.
    activation_, input_scaling_ : str
        Parameters of the DEQ, chosen or given.
    recurrent_var_, input_var_, bias_var_ : float
        Likewise.
    center_ : bool
        Likewise.
    encoding_ : str or None
        What was put beside the columns; only after a search.
    feature_weights_ : ndarray of shape (n_features,)
        Weights of the features; only after a search.
    search_results_ : dict of ndarray of shape (n_candidates,)
        The kernels compared; only after a search.
    device_ : str
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

    _teachers = DEQClassifier, DEQKernelRidgeClassifier
    _parameter_constraints = {
        **NetworkClassifier._parameter_constraints,
        **ExplicitFeatures._parameter_constraints,
    }

    def __init__(
        self, width="auto", *,
        activation="auto", recurrent_var="auto", input_var=None, bias_var="auto", center="auto",
        input_scaling="auto", kernel="auto",
        hyperparameters="loo", encoding="auto", feature_weights="auto",
        matching="auto", n_layers="auto",
        train="auto", teacher=None,
        max_epochs="auto", batch_size="auto", lr="auto", weight_decay="auto",
        input_dropout="auto",
        early_stopping=False, validation_fraction=0.1, n_iter_no_change=10,
        class_weight=None, warm_start=False, callbacks=None, max_time=None, verbose=0,
        checkpoint_dir=None,
        device="auto", dtype="auto", random_state=None,
    ):  # fmt: skip
        self.width, self.activation, self.recurrent_var = width, activation, recurrent_var
        self.input_var, self.bias_var, self.center = input_var, bias_var, center
        self.input_scaling, self.kernel, self.matching = input_scaling, kernel, matching
        self.hyperparameters, self.encoding = hyperparameters, encoding
        self.feature_weights, self.checkpoint_dir = feature_weights, checkpoint_dir
        self.n_layers, self.train, self.teacher = n_layers, train, teacher
        self.max_epochs, self.batch_size, self.lr = max_epochs, batch_size, lr
        self.weight_decay, self.early_stopping = weight_decay, early_stopping
        self.input_dropout = input_dropout
        self.validation_fraction, self.n_iter_no_change = validation_fraction, n_iter_no_change
        self.class_weight, self.warm_start, self.callbacks = class_weight, warm_start, callbacks
        self.max_time, self.verbose, self.device, self.dtype = max_time, verbose, device, dtype
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
