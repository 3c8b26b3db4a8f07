"""What the four network estimators share: the order of the steps of a fit, and predictions."""

from collections import OrderedDict
from functools import partial as bind
from numbers import Integral, Real
from os import PathLike

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn
from torch.nn.utils import skip_init

from .._array_api import float_dtypes, prototype, to_namespace_of
from .._base import DEQ_CONSTRAINTS, DEQEstimator, all_or_nothing, forget, unchanged_on_error
from .._callbacks import begin_fit
from .._scaling import NETWORK_SCALINGS
from .._search.encodings import ENCODINGS
from .._search.preparation import Preparation
from .._torch import make_generator, resolve_dtype, to_tensor
from .._validation import validate_data
from .._warn import warn
from .choice import NETWORK_PARAMETERS, choose
from .evaluation import forward_in_passes
from .lesson import Lesson, hold_out, keys_of, mean_one, scaled_rows, weighted_rows
from .pays import epochs_that_pay
from .resumable import require_resumable

_BATCH_SIZE = 256  # fewer rows than this are one batch, in which order and repetition do not matter
_MIN_STEPS = {"labels": 150, "teacher": 150, "start": 60, "many": 60, "readout": 240}
_MIN_EPOCHS = 20
_FEW_EPOCHS, _FEW_ROWS = 12, 2000  # the former are enough for fewer rows from a search's start
_MANY_COLUMNS = 256
_MOST_IMAGES = 5000  # rows of more columns than these, as of images, that are searched
_MOST_SEARCHED = 50_000  # rows: the features of all are in memory at the start
_FOUND = ("encoding_", "feature_weights_", "search_results_")
_AUTO = StrOptions({"auto"})
_DROPOUT = 0.2  # of the inputs, where the many columns of many rows are trained on from scratch
_READOUT_PENALTY = 1e-5  # of |v|^2 / 2 against the mean loss, v on features of the theory's size


class BaseNetwork(DEQEstimator):
    """A network of features and a linear readout, fitted by ``training`` or by a convex solver.

    Subclasses say what it learns (`_new_task`), by which features (`_make_features`), from which
    teacher (`_distillation`), and at which rates (`_rates`).
    """

    _fewest_trained = 1000  # rows; on fewer the readout's training gains as much as that of all
    _many_rows = 5000  # on more a search's start is left at a higher rate

    _parameter_constraints = {
        "width": [Interval(Integral, 1, None, closed="left"), _AUTO],
        **DEQ_CONSTRAINTS,
        "recurrent_var": [*DEQ_CONSTRAINTS["recurrent_var"], _AUTO],
        "bias_var": [*DEQ_CONSTRAINTS["bias_var"], _AUTO],
        "center": [*DEQ_CONSTRAINTS["center"], _AUTO],
        "input_scaling": [StrOptions({"auto", *NETWORK_SCALINGS} - {None}), None],
        "hyperparameters": [StrOptions({"loo"}), None],
        "encoding": [StrOptions({"auto", *ENCODINGS} - {"plain"}), None],
        "feature_weights": [_AUTO, None],
        "train": [StrOptions({"auto", "all", "readout"})],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "lr": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "weight_decay": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "input_dropout": [Interval(Real, 0, 1, closed="left"), _AUTO],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "callbacks": [list, tuple, None],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "verbose": ["verbose"],
        "checkpoint_dir": [str, PathLike, None],
        "device": [str, torch.device],
        "dtype": [StrOptions({"auto", "float32", "float64"})],
        "random_state": ["random_state"],
    }

    @all_or_nothing
    def _fit(self, X, y, sample_weight, X_val=None, y_val=None, *, partial=False, classes=None,
             X_unlabeled=None):  # fmt: skip
        """Fit, or go on fitting; what was fitted before is as it was until all has gone well."""
        again = hasattr(self, "module_") and (partial or self.warm_start)
        require_resumable(self, partial)
        self._refuse_for_readout(X_val, partial)
        distillation = self._distillation(X_unlabeled is not None)
        X, y = self._validate(X, y, reset=not again)
        like, given, y_given = prototype(X), X, y
        task, X, target, weight = self._lesson_rows(X, y, sample_weight, classes, again)
        random_state = check_random_state(self.random_state)
        valid = self._given_validation(task, X_val, y_val)
        if self.early_stopping and valid is None and not partial:
            (X, target, weight), valid = hold_out(self, (X, target, weight), random_state)
        batch_size = _BATCH_SIZE if self.batch_size == "auto" else self.batch_size
        generator = make_generator(random_state)
        searched = hasattr(self, "encoding_") if again else self._searches(X)
        if again:  # not in the order of an earlier call
            generator.manual_seed(generator.initial_seed() + self._n_epochs)
            module, scaler, fitted = self.module_, self._scaler, {"_n_epochs": self._n_epochs}
        else:
            task = task.scaled(target, weight)
            exact = X.dtype == torch.float64 and len(X) <= batch_size
            choice = self._choose(X, target, weight, task, distillation, random_state, searched)
            known = None if distillation is None else distillation.preparation
            new = X, weight, task, like, exact, generator, known, choice
            module, scaler, fitted = self._new_network(*new)
        if distillation is not None:
            distillation.check(task, self.n_features_in_)
            distillation.begin(module, again)
        if X_unlabeled is not None:
            X, target, weight = self._with_unlabeled(X_unlabeled, X, target, weight)
        lesson = Lesson(module, scaler, task, distillation, searched, len(X) > self._many_rows)
        known = fitted | lesson.fitted | {"_like": like}  # predictions need no more
        begin = bind(begin_fit, self, given, y_given, sample_weight, attributes=known)
        data, diverged, last = lesson.tensors(X, target, weight), None, None
        net = self._net if again and partial else None
        with unchanged_on_error(module, *([] if net is None else [net.optimizer_])):
            if lesson.begins_solved and (self._solves_readout or not again):
                keys = keys_of(X)
                Z = lesson.begin(*data, keys)
                if not (self._solves_readout or valid or partial or self.callbacks):
                    if self._keeps_features(lesson, len(keys)):
                        lesson, data = lesson.of_readout(), (Z, *data[1:])
                    last = self._last(lesson, data, Z, keys, batch_size, generator)
            if self._solves_readout or last == 0:
                fitted = self._fit_readout(lesson, *data, begin)
            else:
                fitted, diverged = self._train(
                    lesson, data, valid, batch_size, generator, begin, last, partial=partial,
                    before=self.history_ if again and partial else [], net=net,
                )  # fmt: skip
            forget(self, "agreement_", *(() if again else _FOUND))
            for name, value in (known | fitted).items():
                setattr(self, name, value)
            if distillation is not None:
                rows = to_tensor(given) if X_val is None else valid[0]
                self.agreement_ = distillation.agreement(self, rows)
            self._complain(diverged, lesson)
        return self

    def _lesson_rows(self, X, y, sample_weight, classes, again):
        """The task, and rows of positive weight, their targets and weights of mean one."""
        X, y, weight = weighted_rows(X, y, sample_weight)
        task = self._task if again else self._new_task(y, classes)
        target = task.encode(y).to(X.device)
        weight = mean_one(task.weigh(target, weight, getattr(self, "class_weight", None)))
        return task, X, target, weight

    def _validate(self, X, y, *, reset):
        return validate_data(
            self, X, y, dtype=float_dtypes(X), reset=reset, multi_output=True,
            y_numeric=self._numeric,
        )  # fmt: skip

    def _refuse_for_readout(self, X_val, partial):
        """Raise a ValueError for what the solution of a convex problem has no use for."""
        if not self._solves_readout:
            return
        if partial:
            raise ValueError(
                "partial_fit needs train='all': train='readout' solves for all the rows at once."
            )
        useless = {
            "early_stopping=True": self.early_stopping, "X_val": X_val is not None,
            "callbacks": self.callbacks, "input_dropout": self.input_dropout not in ("auto", 0),
        }  # fmt: skip
        for name, given in useless.items():
            if given:
                raise ValueError(
                    f"{name} needs train='all': with train='readout' the readout is solved for, "
                    "and there are no epochs."
                )

    def _distillation(self, unlabeled):
        """The Distillation from a teacher, or None."""
        return None

    def _given_validation(self, task, X_val, y_val):
        """Rows, targets and weights to stop early on, where they were given."""
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val must be given together.")
        if X_val is None:
            return None
        X_val, y_val = self._validate(X_val, y_val, reset=False)
        X_val = to_tensor(X_val)
        try:
            target = task.encode(y_val).to(X_val.device)
        except ValueError as error:
            raise ValueError(f"y_val does not fit y: {error}") from error
        return X_val, target, torch.ones(len(X_val), dtype=torch.float64, device=X_val.device)

    def _with_unlabeled(self, X_unlabeled, X, target, weight):
        """With further rows for a teacher to label: their targets are never looked at."""
        dtypes = float_dtypes(X_unlabeled)
        rows = to_tensor(validate_data(self, X_unlabeled, dtype=dtypes, reset=False)).to(X)
        unused = target.new_zeros(len(rows), *target.shape[1:])
        more = rows, unused, weight.new_ones(len(rows))
        return [torch.cat(pair) for pair in zip((X, target, weight), more, strict=True)]

    def _searches(self, X):
        """Whether what is "auto" is searched for; many images suit training from scratch."""
        most = _MOST_IMAGES if X.shape[1] > _MANY_COLUMNS else _MOST_SEARCHED
        return self.hyperparameters == "loo" and len(X) <= most

    @property
    def _solves_readout(self):
        """Whether the features are to stay as they begin."""
        return self.train == "readout"

    def _given(self):
        """The DEQ parameters that are not "auto"."""
        names = {"input_var": self.input_var} if self.input_var is not None else {}
        names |= {name: getattr(self, name) for name in NETWORK_PARAMETERS if name != "input_var"}
        return {k: v for k, v in names.items() if not isinstance(v, str) or v != "auto"}

    def _choose(self, X, target, weight, task, distillation, random_state, searched):
        """The Choice of what is "auto": the teacher's, searched, or the paper's."""
        if distillation is not None:
            return distillation.choice(self._given())
        return choose(
            X.double(), task.as_numbers(task.to_network(target)), weight, self._given(),
            searched=searched, classify=not self._numeric,
            encoding=self.encoding, feature_weights=self.feature_weights == "auto",
            seed=random_state.randint(np.iinfo(np.int32).max) if searched else 0,
        )  # fmt: skip

    def _new_network(self, X, weight, task, like, exact, generator, preparation, choice):
        """A network for these rows, what prepares them, and fitted attributes it comes with.

        `exact` says that float64 costs little; `preparation`, if not None, is to be that of rows.
        """
        device = self._resolve_device(like)
        exact = exact and not device.startswith("mps")
        auto = "float64" if exact else "float32"
        dtype = resolve_dtype(auto if self.dtype == "auto" else self.dtype)
        if preparation is None:
            preparation = Preparation.of(choice)
            preparation.scaler.fit(preparation.weighted(X), weight)
        features, fitted = self._make_features(preparation, X, choice.parameters, generator)
        fitted |= {f"{name}_": choice.parameters[name] for name in NETWORK_PARAMETERS}
        if choice.results:
            weights = to_namespace_of(like, choice.weights_of_sources(X.shape[1]))
            fitted |= {"search_results_": choice.results, "encoding_": choice.encoding_name}
            fitted["feature_weights_"] = weights
        # skip_init: the layer's own initialisation would draw from torch's global generator
        readout = skip_init(nn.Linear, features.width, task.n_outputs)
        for parameter in readout.parameters():
            nn.init.zeros_(parameter)
        module = nn.Sequential(OrderedDict(features=features, readout=readout))
        fitted |= {"device_": device, "_n_epochs": 0}
        return module.to(device=device, dtype=dtype), preparation, fitted

    def _max_epochs(self, lesson, n_rows, batch_size):
        if self.max_epochs != "auto":
            return self.max_epochs
        few = lesson.kind == "start" and n_rows < _FEW_ROWS
        least = _FEW_EPOCHS if few else _MIN_EPOCHS
        return max(-(-_MIN_STEPS[lesson.kind] // -(-n_rows // batch_size)), least)

    def _new_net(self, lesson, module, n_rows, batch_size, max_epochs, last=None, **settings):
        """The TrainingNet of a module that learns a lesson from so many rows.

        For `last` epochs, if not None: at rates as high as in so many of max_epochs, no higher.
        """
        from .training import highest_rate, make_net

        lr, weight_decay = self._rates(lesson)
        if last is not None:
            lr, max_epochs = lr * highest_rate(last / max_epochs), last
        return make_net(
            module, criterion=lesson.loss, max_epochs=max_epochs, batch_size=batch_size, lr=lr,
            weight_decay=weight_decay, to_start=lesson.from_start, accuracy=lesson.task.accuracy,
            input_dropout=self._dropout(lesson, n_rows > batch_size),
            most_inputs=lesson.most_inputs, **settings,
        )  # fmt: skip

    def _keeps_features(self, lesson, n_rows):
        """Whether the readout alone is to be trained: of few rows, from what a search gives."""
        return self.train == "auto" and lesson.from_start and n_rows < self._fewest_trained

    def _last(self, lesson, data, Z, keys, batch_size, generator):
        """How many epochs are to be trained, None for max_epochs."""
        from .training import train

        if self.train == "all":
            return None
        if lesson.distillation is not None:
            return 0 if lesson.distillation.is_ridge else None
        if lesson.features_stay and self._numeric:
            return 0  # the solution is that of this loss already

        max_epochs = self._max_epochs(lesson, len(keys), batch_size)

        def losses(module, data, valid):
            # epochs that bring nothing end the trial, but at a high rate the last ones bring most
            patience = None if lesson.kind == "many" else max(1, max_epochs // 2)
            net = self._new_net(
                lesson, module, len(data[0]), batch_size, max_epochs, patience=patience
            )
            return [epoch["valid_loss"] for epoch in train(net, data, valid, generator)[0]]

        return epochs_that_pay(lesson, data, Z, keys, losses)

    def _train(self, lesson, data, valid, batch_size, generator, begin, last, *, partial, before,
               net):  # fmt: skip
        """Train a lesson's module; if `partial`: one more epoch at a constant rate, by `net`.

        Returns the fitted attributes; `before` is the history so far. `last` is how many epochs
        are trained, None for max_epochs.
        """
        from .training import train

        max_epochs = 1 if partial else self._max_epochs(lesson, len(data[0]), batch_size)
        if net is None:
            net = self._new_net(
                lesson, lesson.module, len(data[0]), batch_size, max_epochs, last,
                patience=self.n_iter_no_change if valid is not None and not partial else None,
                callbacks=self.callbacks, one_cycle=not partial,
            )  # fmt: skip
        told = None if partial else begin(max_epochs=last or max_epochs)
        tell = told if hasattr(self, "_skl_callbacks") else None
        valid = valid and lesson.tensors(*valid)
        epochs, diverged = train(net, data, valid, generator, tell, self)
        lesson.module.eval()
        if told is not None:
            told.end()
        solved = lesson.start if lesson.features_stay else {}
        epochs = [{**solved, **epoch} for epoch in epochs]
        history = [*before, *({**e, "epoch": k} for k, e in enumerate(epochs, len(before) + 1))]
        return {
            "_n_epochs": begin.keywords["attributes"]["_n_epochs"] + len(epochs),
            "_net": net if partial else None,  # the next call goes on with its optimiser
            "n_iter_": len(history),
            **_reported(history),
        }, diverged

    def _rates(self, lesson):
        """Peak learning rate and weight decay."""
        auto, given = self._auto_rates[lesson.kind], (self.lr, self.weight_decay)
        return [a if value == "auto" else value for a, value in zip(auto, given, strict=True)]

    def _dropout(self, lesson, in_batches):
        """Share of the inputs that a step of training sets to 0."""
        if self.input_dropout != "auto":
            return 0.0 if lesson.features_stay else self.input_dropout
        images = in_batches and self.n_features_in_ > _MANY_COLUMNS and not self._numeric
        from_scratch = lesson.kind == "labels" and lesson.distillation is None
        return _DROPOUT if images and from_scratch else 0.0

    def _fit_readout(self, lesson, rows, target, weight, begin):
        """Leave the random features as they are; solve for the readout, if that is not yet done."""
        told, n_iter = begin(), 1
        lesson.module.eval()
        if not lesson.begins_solved:
            decay = _READOUT_PENALTY if self.weight_decay == "auto" else self.weight_decay
            n_iter = lesson.solve_readout(rows, target, weight, decay)
        told.end()
        return {"n_iter_": n_iter, "_net": None, **_reported([{"epoch": 1, **lesson.start}])}

    def _complain(self, diverged, lesson):
        """Warn of what went wrong; `diverged` is the loss gone back to, if training diverged."""
        epoch = self.history_[-1]
        if diverged is not None:
            was = "twice that of the first" if np.isfinite(epoch["train_loss"]) else "not finite"
            warn(
                f"The loss was {was} in epoch {epoch['epoch']}: training stopped and the best "
                f"weights so far, of loss {diverged:.3g}, were restored. Lower "
                f"lr={self._rates(lesson)[0]:g}.",
                ConvergenceWarning,
            )
        elif epoch.get("fixed_point_failures"):
            tol = epoch.get("fixed_point_tol", self.tol)
            warn(
                f"{epoch['fixed_point_failures']} fixed-point solves of the last epoch did not "
                f"converge: largest relative residual {epoch['fixed_point_residual']:.1e}, "
                f"tol={tol:.1e}, max_iter={self.max_iter}. Increase max_iter or tol, or lower "
                "recurrent_var.",
                ConvergenceWarning,
            )

    def _outputs_of(self, X):
        """The network's outputs for unscaled rows X, a tensor (n_samples, n_outputs)."""
        return forward_in_passes(self.module_, scaled_rows(self.module_, self._scaler, X))

    def _state(self):
        """Leave the optimiser out."""
        return {**super()._state(), "_net": None}


def _reported(history):
    """The history as an attribute, and what its last epoch says of fixed points, if anything."""
    names = [name for name in ("fixed_point_n_iter", "fixed_point_residual") if name in history[-1]]
    return {"history_": history, **{f"{name}_": history[-1][name] for name in names}}
