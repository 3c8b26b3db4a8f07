"""DEQRegressor."""

from .deq import DEQFeatures
from .regressor import NetworkRegressor


class DEQRegressor(DEQFeatures, NetworkRegressor):
    r"""Deep equilibrium network for regression, trained by implicit differentiation.

    The hidden state z of a row x is the fixed point of one layer that feeds itself,
    z = phi(sigma_a A z + sigma_b B x) / sqrt(m): a network of infinite depth with shared weights. A
    linear readout and the squared error on standardised targets follow.

    Parameters
    ----------
    width : int or "auto", default="auto"
        Number of hidden units m. "auto" means 512, and 1,024 in regression where a search chose the
        kernel for fewer than 1,000 rows, of which the readout alone learns.
    activation : str or callable, default="auto"
        A registry name ("relu", "leaky_relu", "abs", "tanh", "erf", "sin", "sigmoid", "hard_tanh",
        "elu", "gelu", "silu", "softplus", "identity") or an elementwise torch callable. "auto" here
        and below: see `hyperparameters`.
    recurrent_var : float or "auto", default="auto"
        sigma_a^2, variance of the recurrent weights at initialisation. Where all weights are
        trained, the spectral norm of the recurrent weight times the Lipschitz constant L of the
        activation is kept below 0.95, so that the fixed point exists; values above 0.225 / L^2
        therefore start from that bound, with a warning where the norm is 20 % above it.
    input_var : float, default=None
        sigma_b^2, variance of the input weights. None means 1 - recurrent_var.
    bias_var : float or "auto", default="auto"
        Variance of the input bias, which is trained even if it starts at 0.
    center : bool or "auto", default="auto"
        Whether to subtract from the activation its mean at initialisation, as the paper does.
    input_scaling : {"rms", "centered", "sphere", "auto", None}, default="auto"
        "rms": divide X by the root-mean-square norm of the training rows. "centered": subtract the
        means of the columns first. "sphere": append a constant coordinate if bias_var > 0 and scale
        every row to unit norm. None: as is.
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
    train : {"auto", "all", "readout"}, default="auto"
        "all": every weight is trained, by AdamW with a one-cycle learning rate. "readout": the
        features stay random, and the readout, a convex problem, is solved to optimality. "auto":
        after a search, every weight is trained where it pays, or with fewer than 1,000 rows the
        readout of a classifier, and nothing of a DEQRegressor; a copy is trained on four fifths of
        the rows, and then the network for as many epochs as the copy took to the least loss on
        the others, which may be none. It is "all" without a search, with callbacks, and with rows
        to stop early on.
    fixed_point_solver : {"auto", "picard", "anderson"}, default="auto"
        "auto" is Picard where the layer contracts fast and Anderson acceleration elsewhere.
    tol : float, default=1e-4
        Relative change of a row's pre-activations at which its fixed point counts as found. In the
        steps of training 0.01, or up to 0.1 for a small recurrent_var (0.03 for 0.2), or 0.001 if
        they take all rows at once, if that is larger.
    max_iter : int, default=100
        Largest number of fixed-point iterations per row.
    max_epochs : int or "auto", default="auto"
        Passes over the data. "auto" is at least 20 and as many as make 150 batches, or after a
        search 60, of the readout alone 240; there 12 are enough with fewer than 2,000 rows.
    batch_size : int or "auto", default="auto"
        Rows per training step; "auto" is 256. All the rows are one batch if they are fewer.
    lr : float or "auto", default="auto"
        Peak learning rate, in units of a network in standard parametrisation; "auto" is 0.005,
        0.001 after a search, then 0.003 with more than 5,000 rows, 3,000 for regression, or for the
        readout alone.
    weight_decay : float or "auto", default="auto"
        AdamW's weight decay, "auto" is 0.3; after a search weights decay towards where training
        began, and "auto" is 10, with more than 3,000 rows 1. With train="readout" and
        hyperparameters=None: penalty c of the mean squared error plus c ``|v|^2``, v the readout's
        weights; "auto" is 1e-5.
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
    module_ : torch.nn.Sequential
        The network: ``features``, a :class:`sk_deq.modules.DEQ`, and ``readout``. It expects
        rows as ``input_scaling`` leaves them.
    history_ : list of dict
        One entry per epoch: losses, seconds, and fixed-point iterations, residual and tolerance.
    n_iter_ : int
        Epochs trained; for train="readout" the solver's iterations.
    width_ : int
        Hidden units of a layer.
    fixed_point_n_iter_ : float
        Mean number of iterations per row and solve in the last epoch.
    fixed_point_residual_ : float
        Largest relative residual at which a row of the last epoch stopped.
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
    EquivalentExplicitRegressor : A shallow network with the same kernel, cheaper to run.
    DEQKernelRidge : The infinitely wide DEQ.

    Notes
    -----
    Input is dense. A row's prediction does not depend on the rows it is predicted with.

    References
    ----------
    Bai, Kolter, Koltun, "Deep Equilibrium Models", NeurIPS 2019, arXiv 1909.01377. Ling et al.,
    ICML 2024, arXiv 2402.02697.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sk_deq import DEQRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = DEQRegressor(width=32, max_epochs=30, random_state=0)
    >>> model.fit(X, y).score(X, y) > 0.4
    True
    """

    _parameter_constraints = {
        **NetworkRegressor._parameter_constraints,
        **DEQFeatures._parameter_constraints,
    }

    def __init__(
        self, width="auto", *,
        activation="auto", recurrent_var="auto", input_var=None, bias_var="auto", center="auto",
        input_scaling="auto",
        hyperparameters="loo", encoding="auto", feature_weights="auto",
        train="auto", fixed_point_solver="auto", tol=1e-4, max_iter=100,
        max_epochs="auto", batch_size="auto", lr="auto", weight_decay="auto",
        input_dropout="auto",
        early_stopping=False, validation_fraction=0.1, n_iter_no_change=10,
        warm_start=False, callbacks=None, max_time=None, verbose=0,
        checkpoint_dir=None,
        device="auto", dtype="auto", random_state=None,
    ):  # fmt: skip
        self.width, self.activation, self.recurrent_var = width, activation, recurrent_var
        self.input_var, self.bias_var, self.center = input_var, bias_var, center
        self.input_scaling, self.train = input_scaling, train
        self.hyperparameters, self.encoding = hyperparameters, encoding
        self.feature_weights, self.checkpoint_dir = feature_weights, checkpoint_dir
        self.fixed_point_solver, self.tol, self.max_iter = fixed_point_solver, tol, max_iter
        self.max_epochs, self.batch_size, self.lr = max_epochs, batch_size, lr
        self.weight_decay, self.early_stopping = weight_decay, early_stopping
        self.input_dropout = input_dropout
        self.validation_fraction, self.n_iter_no_change = validation_fraction, n_iter_no_change
        self.warm_start, self.callbacks, self.random_state = warm_start, callbacks, random_state
        self.max_time, self.verbose, self.device, self.dtype = max_time, verbose, device, dtype
