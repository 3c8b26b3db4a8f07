"""What the four network estimators share: validation, fitting, prediction."""

import functools
import time
from collections import OrderedDict
from contextlib import contextmanager
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    column_or_1d,
    validate_data,
)
from torch import nn
from torch.nn.utils import skip_init

from .._array_api import (
    class_weights,
    decode_labels,
    encode_labels,
    float_dtypes,
    prototype,
    take,
    to_namespace_of,
    unique_labels,
)
from .._base import DEQEstimator
from .._callbacks import TellEpochs, begin_fit
from .._scaling import INPUT_SCALINGS, InputScaler
from .._theory.spec import resolve_input_var
from .._torch import make_generator, resolve_dtype, to_tensor
from .._warn import warn
from .fixed_point import SOLVERS
from .training import (
    SolverStatistics,
    cross_entropy,
    forward_in_passes,
    hits,
    make_net,
    squared_error,
)

_BATCH_SIZE = 256  # fewer rows than this are one batch, in which order and repetition do not matter
_MIN_EPOCHS, _MIN_STEPS = 20, 150
_READOUT_PENALTY = 1e-5  # of |v|^2 / 2 against the mean loss, v on features of the theory's size


class BaseNetwork(DEQEstimator):
    """A network of features and a linear readout, fitted by ``_training`` or by a convex solver.

    Subclasses say which features (``_make_features``), what the target is (``_encode``) and how
    outputs become predictions.
    """

    _parameter_constraints = {
        "width": [Interval(Integral, 1, None, closed="left")],
        "activation": [str, callable],
        "recurrent_var": [Interval(Real, 0, None, closed="left")],
        "input_var": [Interval(Real, 0, None, closed="neither"), None],
        "bias_var": [Interval(Real, 0, None, closed="left")],
        "center": ["boolean"],
        "input_scaling": [StrOptions({s for s in INPUT_SCALINGS if s}), None],
        "train": [StrOptions({"all", "readout"})],
        "fixed_point_solver": [StrOptions(set(SOLVERS))],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "lr": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "weight_decay": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "callbacks": [list, tuple, None],
        "verbose": ["verbose"],
        "device": [str, torch.device],
        "dtype": [StrOptions({"auto", "float32", "float64"})],
        "random_state": ["random_state"],
    }

    _auto_lr, _auto_decay = 0.005, 0.1  # what lr="auto" and weight_decay="auto" stand for

    def _fit(self, X, y, sample_weight, X_val=None, y_val=None, *, partial=False, **encoding):
        again = hasattr(self, "module_") and (partial or self.warm_start)
        if self.train == "readout":
            self._refuse_for_readout(X_val)
        X, y = self._validate(X, y, reset=not again)
        begin = functools.partial(begin_fit, self, X, y, sample_weight)
        weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        self._like = prototype(X)
        X, weight = to_tensor(X), to_tensor(weight, dtype=torch.float64)
        keep = weight > 0
        _require_some(weight)
        if not keep.all():
            X, y, weight = X[keep], take(y, keep), weight[keep]
        target = self._encode(y, again=again, **encoding).to(X.device)
        weight = self._weigh(target, weight)
        random_state = check_random_state(self.random_state)
        valid = self._check_validation(X_val, y_val)
        if self.early_stopping and valid is None and not partial:
            (X, target, weight), valid = self._hold_out(X, target, weight, random_state)
        batch_size = _BATCH_SIZE if self.batch_size == "auto" else self.batch_size
        generator = make_generator(random_state)
        if again:  # not in the order of the last call
            generator.manual_seed(generator.initial_seed() + self.n_iter_)
        else:
            self._start(X, target, weight, batch_size, generator)
        if self.train == "readout":
            self._fit_readout(X, target, weight, begin)
        else:
            X, target, weight = self._more_rows(X, target, weight)
            valid = valid and self._tensors(*valid)
            data = self._tensors(X, target, weight)
            self._fit_all(data, valid, batch_size, generator, None if partial else begin)
        return self

    def _validate(self, X, y, *, reset):
        return validate_data(
            self,
            X,
            y,
            dtype=float_dtypes(X),
            reset=reset,
            multi_output=True,
            y_numeric=self._numeric,
        )

    def _refuse_for_readout(self, X_val):
        """Raise a ValueError for what the solution of a convex problem has no use for."""
        for name, given in [
            ("early_stopping=True", self.early_stopping),
            ("X_val", X_val is not None),
            ("callbacks", self.callbacks),
        ]:
            if given:
                raise ValueError(
                    f"{name} needs train='all': with train='readout' the readout is solved for, "
                    "and there are no epochs."
                )

    def _weigh(self, target, weight):
        """Weights of mean 1."""
        _require_some(weight)
        return weight / weight.mean()

    def _check_validation(self, X_val, y_val):
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val must be given together.")
        if X_val is None:
            return None
        X_val, y_val = self._validate(X_val, y_val, reset=False)
        X_val = to_tensor(X_val)
        try:
            target = self._encode(y_val, again=True).to(X_val.device)
        except ValueError as error:
            raise ValueError(f"y_val does not fit y: {error}") from error
        return X_val, target, torch.ones(len(X_val), dtype=torch.float64, device=X_val.device)

    def _hold_out(self, X, target, weight, random_state):
        splitter = ShuffleSplit if self._numeric else StratifiedShuffleSplit
        split = splitter(1, test_size=self.validation_fraction, random_state=random_state)
        labels = None if self._numeric else target.cpu().numpy()
        parts = next(split.split(np.empty(len(X)), labels))
        parts = [to_tensor(part, device=X.device) for part in parts]
        return [(X[i], target[i], weight[i]) for i in parts]

    def _start(self, X, target, weight, batch_size, generator):
        """Set up the scaler and the network, and choose where and in which precision it lives."""
        input_var = resolve_input_var(self.recurrent_var, self.input_var)
        self.device_ = self._resolve_device()
        if self.dtype == "auto":
            exact = X.dtype == torch.float64 and len(X) <= batch_size and self.device_.type != "mps"
            dtype = torch.float64 if exact else torch.float32
        else:
            dtype = resolve_dtype(self.dtype)
        self._scaler = InputScaler(
            self.input_scaling, input_var=input_var, bias_var=self.bias_var
        ).fit(X, weight)
        features = self._make_features(input_var, self._scaler.tau0_ or 1.0, generator)
        # skip_init: the layer's own initialisation would draw from torch's global generator
        readout = skip_init(nn.Linear, self.width, self._n_outputs(target))
        nn.init.zeros_(readout.weight)
        nn.init.zeros_(readout.bias)
        module = nn.Sequential(OrderedDict(features=features, readout=readout))
        self.module_ = module.to(device=self.device_, dtype=dtype)
        self.history_, self.n_iter_, self._net = [], 0, None
        self._scale_target(target, weight)

    def _to_device(self, array, dtype=None):
        return to_tensor(array, dtype=dtype or self._dtype, device=self._device)

    @property
    def _dtype(self):
        return self.module_.readout.weight.dtype

    @property
    def _lr(self):
        return self._auto_lr if self.lr == "auto" else self.lr

    @property
    def _device(self):
        return self.module_.readout.weight.device

    def _more_rows(self, X, target, weight):
        """Where a subclass adds rows to train on."""
        return X, target, weight

    def _tensors(self, X, target, weight):
        """Scaled rows, targets and weights on the network's device and in its precision."""
        return (
            self._to_device(self._scaler.transform(X)),
            self._target_tensor(X, target),
            self._to_device(weight),
        )

    def _fit_all(self, data, valid, batch_size, generator, begin):
        """Train every parameter; without `begin`: one more epoch at a constant rate."""
        partial = begin is None
        n_batches = -(-len(data[0]) // batch_size)
        max_epochs = self.max_epochs
        if max_epochs == "auto":
            max_epochs = max(-(-_MIN_STEPS // n_batches), _MIN_EPOCHS)
        net = self._net if partial else None
        if net is None:
            net = make_net(
                self.module_,
                criterion=self._criterion,
                max_epochs=1 if partial else max_epochs,
                batch_size=batch_size,
                lr=self._lr,
                weight_decay=self._auto_decay if self.weight_decay == "auto" else self.weight_decay,
                accuracy=None if self._numeric else hits,
                patience=self.n_iter_no_change if valid is not None and not partial else None,
                callbacks=self.callbacks,
                verbose=self.verbose,
                one_cycle=not partial,
            )
        if not partial:
            task = begin(max_epochs=max_epochs)
            if hasattr(self, "_skl_callbacks"):
                net.callbacks_.append(("tell_epochs", TellEpochs(task)))
        net.generator, net.valid = generator, valid
        n_before = len(net.history)
        with self._reported_to(net.statistics):
            net.partial_fit(data)
        net.valid = None
        self._net = net if partial else None  # the next call goes on with its optimiser
        before = self.history_ if partial else []
        self.history_ = before + [
            {**{k: v for k, v in epoch.items() if k != "batches"}, "epoch": len(before) + i}
            for i, epoch in enumerate(net.history[n_before:], 1)
        ]
        self.n_iter_ = len(self.history_)
        self.module_.eval()
        if not partial:
            task.end()
        self._tell(self.history_[-1], net.callbacks_[0][1])

    @contextmanager
    def _reported_to(self, statistics):
        """Have `statistics` told of the fixed points that are solved, where there are any."""
        features = self.module_.features
        if not hasattr(features, "report"):
            yield
            return
        features.report = statistics
        try:
            yield
        finally:
            features.report = None

    def _fit_readout(self, X, target, weight, begin):
        """Leave the random features as they are and solve for the readout."""
        task, start = begin(), time.perf_counter()
        statistics = SolverStatistics()
        with self._reported_to(statistics):
            rows = self._to_device(self._scaler.transform(X))
            Z = forward_in_passes(self.module_.features, rows)
        decay = _READOUT_PENALTY if self.weight_decay == "auto" else self.weight_decay
        Z = Z.double().cpu().numpy()  # whatever the network's dtype: the solver wants precision
        solver = self._readout_solver(decay * len(Z))
        target = self._target_tensor(X, target).cpu().numpy()
        weights, bias, n_iter = solver(Z, target, weight.cpu().numpy())
        with torch.no_grad():
            self.module_.readout.weight.copy_(to_tensor(weights))
            self.module_.readout.bias.copy_(to_tensor(bias))
        self.n_iter_ = n_iter
        epoch = {"epoch": 1, "seconds": time.perf_counter() - start, **statistics.summary()}
        self.history_ = [epoch]
        self.module_.eval()
        task.end()
        self._tell(epoch)

    def _tell(self, epoch, best=None):
        """Set the attributes that say how the fixed points went, and warn of what went wrong."""
        if "fixed_point_n_iter" in epoch:
            self.fixed_point_n_iter_ = epoch["fixed_point_n_iter"]
            self.fixed_point_residual_ = epoch["fixed_point_residual"]
        if best is not None and best.diverged_:
            warn(
                f"The loss was not finite in epoch {epoch['epoch']}: training stopped and the best "
                f"weights so far, of loss {best.best_:.3g}, were restored. Lower lr={self._lr:g}.",
                ConvergenceWarning,
            )
        elif epoch.get("fixed_point_failures"):
            warn(
                f"{epoch['fixed_point_failures']} fixed-point solves of the last epoch did not "
                f"converge: largest relative residual {self.fixed_point_residual_:.1e}, "
                f"tol={self.tol:.1e}, max_iter={self.max_iter}. Increase max_iter or tol, or lower "
                "recurrent_var.",
                ConvergenceWarning,
            )

    def _outputs_of(self, X):
        """The network's outputs for unscaled rows X, a tensor (n_samples, n_outputs)."""
        rows = self._to_device(self._scaler.transform(to_tensor(X)))
        return forward_in_passes(self.module_, rows)

    def __getstate__(self):
        """Leave the optimiser out."""
        return {**super().__getstate__(), "_net": None}


class NetworkClassifier(ClassifierMixin, BaseNetwork):
    """A network whose outputs are logits of the classes."""

    _parameter_constraints = {
        **BaseNetwork._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }
    _numeric = False
    _criterion = staticmethod(cross_entropy)

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None):
        """Fit the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,)
            Class labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows. None means 1.
        X_val, y_val : array-like of shape (n_val, n_features) and (n_val,), default=None
            Rows to stop early on, instead of a fraction of X: training ends after
            `n_iter_no_change` epochs in which their loss did not fall, and the best weights are
            restored.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter is out of range, all weights are zero, or a later call
            (``warm_start=True``) brings new classes.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If fixed points did not converge, or the loss was not finite.
        """
        return self._fit(X, y, sample_weight, X_val, y_val)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Train for one epoch on a part of the data, at the constant rate `lr`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. The scale of the input is that of the first call.
        y : array-like of shape (n_samples,)
            Class labels.
        classes : array-like of shape (n_classes,), default=None
            All the classes of all the calls; needed in the first call if y lacks any.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows. None means 1.

        Returns
        -------
        self : object
        """
        _refuse_readout(self)
        return self._fit(X, y, sample_weight, partial=True, classes=classes)

    def predict(self, X):
        """Return the most probable class of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        X, origin = self._rows_like_fit(X, "predict")
        return decode_labels(self._outputs_of(X).argmax(1), self.classes_, origin)

    def predict_proba(self, X):
        """Return the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``.
        """
        X, origin = self._rows_like_fit(X, "predict_proba")
        return to_namespace_of(origin, self._outputs_of(X).softmax(1))

    def decision_function(self, X):
        """Return the logit of each class, or for two classes the log-odds of the second.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
        """
        X, origin = self._rows_like_fit(X, "decision_function")
        logits = self._outputs_of(X)
        binary = logits.shape[1] == 2
        return to_namespace_of(origin, logits[:, 1] - logits[:, 0] if binary else logits)

    def _validate(self, X, y, *, reset):
        X, y = super()._validate(X, y, reset=reset)
        check_classification_targets(y)
        return X, column_or_1d(y, warn=True)

    def _weigh(self, target, weight):
        weight = weight * class_weights(self.class_weight, self.classes_, target, weight)[target]
        return super()._weigh(target, weight)

    def _encode(self, y, *, again, classes=None):
        if not again:
            classes = y if classes is None else column_or_1d(classes)
            self.classes_ = unique_labels(classes)
        return encode_labels(y, self.classes_)

    def _n_outputs(self, target):
        return self.classes_.shape[0]

    def _scale_target(self, target, weight):
        pass

    def _target_tensor(self, X, target):
        return self._to_device(target, torch.int64)

    def _readout_solver(self, penalty):
        def solve(Z, target, weight):
            present = np.unique(target)
            weights = np.zeros((self.classes_.shape[0], Z.shape[1]))
            bias = np.zeros(self.classes_.shape[0])
            if len(present) == 1:
                return weights, bias, 0
            C = 1 / penalty if penalty else np.inf
            model = LogisticRegression(C=C, tol=1e-7, max_iter=10_000)
            model.fit(Z, target, weight)
            if len(present) == 2:  # one row of log-odds, which logits share evenly
                weights[present] = np.concatenate([-model.coef_, model.coef_]) / 2
                bias[present] = np.concatenate([-model.intercept_, model.intercept_]) / 2
            else:
                weights[present], bias[present] = model.coef_, model.intercept_
            return weights, bias, int(model.n_iter_.max())

        return solve


class NetworkRegressor(RegressorMixin, BaseNetwork):
    """A network whose outputs are standardised targets."""

    _numeric = True
    _criterion = staticmethod(squared_error)

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, X_val=None, y_val=None):
        """Fit the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets. Standardised inside.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows. None means 1.
        X_val, y_val : array-like, default=None
            Rows and targets to stop early on, instead of a fraction of X: training ends after
            `n_iter_no_change` epochs in which their loss did not fall, and the best weights are
            restored.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter is out of range or all weights are zero.

        Warns
        -----
        sklearn.exceptions.ConvergenceWarning
            If fixed points did not converge, or the loss was not finite.
        """
        return self._fit(X, y, sample_weight, X_val, y_val)

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None):
        """Train for one epoch on a part of the data, at the constant rate `lr`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows. The scales of input and targets are those of the first call.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows. None means 1.

        Returns
        -------
        self : object
        """
        _refuse_readout(self)
        return self._fit(X, y, sample_weight, partial=True)

    def predict(self, X):
        """Return the predicted targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        X, origin = self._rows_like_fit(X, "predict")
        return to_namespace_of(origin, self._values_of(X))

    def _values_of(self, X):
        outputs = self._outputs_of(X).double()
        y = outputs * self._y_scale.to(outputs) + self._y_mean.to(outputs)
        return y[:, 0] if self._y_flat else y

    def _encode(self, y, *, again):
        target = to_tensor(y, dtype=torch.float64).reshape(y.shape[0], -1)
        if not again:
            self._y_flat, self._n_targets = y.ndim == 1, target.shape[1]
        elif target.shape[1] != self._n_targets:
            raise ValueError(
                f"y has {target.shape[1]} outputs, but the network was begun with "
                f"{self._n_targets}; fit anew with warm_start=False."
            )
        return target

    def _n_outputs(self, target):
        return target.shape[1]

    def _scale_target(self, target, weight):
        mean = weight @ target / weight.sum()
        deviation = (weight @ (target - mean).square() / weight.sum()).sqrt()
        self._y_mean = mean.cpu()  # small, and a pickle is to load anywhere
        self._y_scale = torch.where(deviation > 0, deviation, 1.0).cpu()

    def _target_tensor(self, X, target):
        mean, scale = self._y_mean.to(target.device), self._y_scale.to(target.device)
        return self._to_device((target - mean) / scale)

    def _readout_solver(self, penalty):
        def solve(Z, target, weight):
            model = Ridge(alpha=penalty).fit(Z, target, weight)
            return np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_), 1

        return solve

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _require_some(weight):
    if not weight.any():
        raise ValueError("sample_weight is zero for every row: there is nothing to fit.")


def _refuse_readout(estimator):
    if estimator.train == "readout":
        raise ValueError(
            "partial_fit needs train='all': train='readout' solves for all the rows at once."
        )
