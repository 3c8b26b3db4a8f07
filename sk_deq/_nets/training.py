"""Minibatch training of a network (features, then a linear readout) by a private skorch net."""

import math
import time
from contextlib import nullcontext

import torch
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNet
from skorch.callbacks import Callback

from .._progress import out_of_time, stage, tell, time_share
from .._torch import single_thread
from .._warn import warn
from .checkpoints import keep_epochs
from .evaluation import ROWS_PER_PASS, SolverStatistics, reported_to, solved_with
from .starts import options_of_training
from .user_callbacks import copied, require_validation

_RISE = 2  # a loss that ends at so many times that of the first epoch has diverged
_WARM_UP = 0.3  # share of the steps over which the one-cycle learning rate rises
_MANY_ITERATIONS = 30  # of a row's fixed point, on average, which is worth a word
_SMALL = 2**28  # multiplications in an epoch up to which two threads wait more than they gain
_RECURRENT_RATE = 0.3  # of lr: the recurrent weight's spectral norm then stays near its bound


class _Batches:
    """Iterate over batches of near-equal size, shuffled if there are several and a generator.

    `rows` are those of the present batch, unless it is not shuffled.
    """

    def __init__(self, tensors, batch_size, generator):
        self.tensors, self.generator = tensors, generator
        self.n_batches = math.ceil(len(tensors[0]) / batch_size)
        self.rows = slice(None)

    def __iter__(self):
        if self.n_batches == 1 or self.generator is None:
            yield from zip(*(t.tensor_split(self.n_batches) for t in self.tensors), strict=True)
            return
        n, device = len(self.tensors[0]), self.tensors[0].device
        order = torch.randperm(n, generator=self.generator).to(device)
        for rows in order.tensor_split(self.n_batches):
            self.rows = rows
            yield tuple(t[rows] for t in self.tensors)


class _EndOfTraining(Exception):
    """A callback wants no further epoch."""


class _OwnCallback(Callback):
    """One that ends the training by _EndOfTraining: a KeyboardInterrupt in it is the user's."""


class _BestWeights(_OwnCallback):
    """Remember the best weights; stop at a loss that is not finite or no longer improves."""

    def __init__(self, patience=None):
        self.patience = patience

    def on_train_begin(self, net, **kwargs):
        self.best_, self.waited_, self.diverged_, self.late_ = math.inf, 0, False, False
        self.weights_ = _weights_of(net.module_)

    def on_epoch_begin(self, net, **kwargs):
        if net.valid is None:
            self.first_ = _weights_of(net.module_)

    def on_epoch_end(self, net, **kwargs):
        epoch = net.history[-1]
        loss = epoch.get("valid_loss", epoch["train_loss"])
        if not math.isfinite(epoch["train_loss"]) or not math.isfinite(loss):
            self.diverged_ = True
            raise _EndOfTraining
        if loss < self.best_:
            self.best_, self.waited_ = loss, 0
            # the validation loss is that of the epoch's last weights, which the training loss never
            # saw: a step that was too long may have led to them
            self.weights_ = self.first_ if net.valid is None else _weights_of(net.module_)
        else:
            self.waited_ += 1
        self.late_ = epoch["epoch"] < net.max_epochs and out_of_time("training")
        if self.late_ or (self.patience is not None and self.waited_ >= self.patience):
            raise _EndOfTraining

    def on_train_end(self, net, **kwargs):
        losses = net.history[:, "train_loss"]
        whole = losses and net.one_cycle and net.valid is None
        if whole and losses[-1] > _RISE * losses[0]:
            self.diverged_ = True
        worse = self.late_ and self.waited_ > 0
        if self.diverged_ or self.patience is not None or worse:
            net.module_.load_state_dict(self.weights_)


def _weights_of(module):
    return {name: weights.clone() for name, weights in module.state_dict().items()}


def _rate(t):
    """The one-cycle learning rate over its peak at the share t of the steps."""
    phase = t / _WARM_UP if t < _WARM_UP else (1 - t) / (1 - _WARM_UP)
    return (1 - math.cos(math.pi * phase)) / 2


def highest_rate(t):
    """The highest one-cycle learning rate up to the share t of the steps, over its peak."""
    return _rate(min(t, _WARM_UP))


class TrainingNet(NeuralNet):
    """A skorch net whose epoch is a plain loop: no DataLoader, history per epoch, one-cycle rate.

    The batches are (X, target, weight) tensors on the module's device. User callbacks see skorch's
    usual events.
    """

    def __init__(self, *args, valid=None, weight_decay=0.1, generator=None, statistics=None,
                 accuracy=None, one_cycle=True, watched=False, to_start=False, input_dropout=0.0,
                 most_inputs=math.inf, **kwargs):  # fmt: skip
        super().__init__(*args, train_split=None, **kwargs)
        self.watched, self.to_start, self.input_dropout = watched, to_start, input_dropout
        self.most_inputs = most_inputs
        self.valid, self.weight_decay, self.generator = valid, weight_decay, generator
        self.statistics, self.accuracy, self.one_cycle = statistics, accuracy, one_cycle
        self.solving = {}  # how the fixed points of training are solved

    @property
    def _default_callbacks(self):
        return []

    def initialize_criterion(self, *args, **kwargs):
        self.criterion_ = self.criterion
        return self

    def initialize_optimizer(self, *args, **kwargs):
        """AdamW, at learning rates equal to those of a network in standard parametrisation.

        Input weights and readout are of unit size and see inputs of size 1 / sqrt(fan in); Adam's
        steps do not scale with the gradient, so their rates carry the factor sqrt(fan in). With
        `to_start` weights decay towards those that training begins with, where a readout that has
        been solved for is.
        """
        module, groups = self.module_, []
        readout, features = module.readout, module.features
        rates = {
            readout.weight: math.sqrt(readout.weight.shape[1]) * (0.1 if self.to_start else 1.0),
            getattr(features, "recurrent_weight", None): _RECURRENT_RATE,
        }
        if hasattr(features, "input_weight"):  # or the features stay as they are
            n_inputs = min(features.input_weight.shape[1], self.most_inputs)
            rates[features.input_weight] = math.sqrt(n_inputs)
        for parameter in module.parameters():
            rate = rates.get(parameter, 1.0)
            decays = parameter.ndim > 1 and not self.to_start
            decay = self.weight_decay / max(rate, 1.0) if decays else 0.0
            groups.append({"params": [parameter], "lr": self.lr * rate, "weight_decay": decay})
        fused = all(p.device.type in ("cpu", "cuda") for p in module.parameters())
        self.optimizer_ = torch.optim.AdamW(groups, fused=fused)
        for group in self.optimizer_.param_groups:
            group["peak"] = group["lr"]
        self.steps_, parameters = 0, list(module.parameters())
        self._start = [p.detach().clone() for p in parameters] if self.to_start else []
        return self

    def notify(self, method_name, **cb_kwargs):
        """Tell every callback; if one wants to end the training, the others are told all the same.

        Raising KeyboardInterrupt is skorch's way for a callback to end the training. One that is
        raised elsewhere, or in a callback of ours, is the user's.
        """
        getattr(self, method_name)(self, **cb_kwargs)
        for _, callback in self.callbacks_:
            try:
                getattr(callback, method_name)(self, **cb_kwargs)
            except _EndOfTraining:
                self.ended_ = True
            except KeyboardInterrupt:
                if isinstance(callback, _OwnCallback):
                    raise
                self.ended_ = True
        if self.ended_ and method_name == "on_epoch_end":
            raise _EndOfTraining

    def partial_fit(self, X, y=None, classes=None, **fit_params):
        """Train for max_epochs epochs, or until a callback or the user ends it."""
        self.ended_ = False
        n_before = len(self.history)
        self.notify("on_train_begin", X=X, y=y)  # where an earlier fit may have got to
        done = self.max_epochs if self.ended_ else len(self.history) - n_before
        try:
            self.fit_loop(X, y, epochs=self.max_epochs - done, **fit_params)
        except _EndOfTraining:
            pass
        except KeyboardInterrupt:
            if len(self.history) - n_before < 2:  # not an epoch is complete
                raise
            del self.history[-1]
            warn(
                f"Training was interrupted after {len(self.history) - n_before} of "
                f"{self.max_epochs} epochs; the weights are those of that moment.",
                ConvergenceWarning,
            )
        self.notify("on_train_end", X=X, y=y)
        return self

    def get_split_datasets(self, X, y=None, **fit_params):
        return X, self.valid

    def get_iterator(self, dataset, training=False):
        if training:
            return _Batches(dataset, self.batch_size, self.generator)
        return _Batches(dataset, ROWS_PER_PASS, None)

    def _set_rate(self, n_steps):
        """Half a cosine up over the first 30 % of the steps, half a cosine down over the rest.

        Of the time, if it passes faster than the steps do.
        """
        rate = _rate(max((self.steps_ + 0.5) / n_steps, time_share()))
        for group in self.optimizer_.param_groups:
            group["lr"] = group["peak"] * rate
        self.steps_ += 1

    @torch.no_grad()
    def _decay_to_start(self):
        """AdamW's decay, towards the start in place of 0, at the same pace for all weights."""
        group = self.optimizer_.param_groups[0]
        share = min(1.0, self.lr * group["lr"] / group["peak"] * self.weight_decay)
        torch._foreach_lerp_(list(self.module_.parameters()), self._start, share)

    def _thinned(self, X):
        """Rows with the share `input_dropout` of their entries set to 0, the others scaled up.

        torch's own dropout draws from the global generator, which is the user's; and four entries
        are decided by one draw, of 64 bits.
        """
        bits = torch.empty(-(-X.numel() // 4), dtype=torch.int64)
        bits = bits.random_(-(2**63), None, generator=self.generator).view(torch.int16)
        kept = bits[: X.numel()].view(X.shape) >= round(self.input_dropout * 2**16) - 2**15
        return X * kept.to(X.device) / (1 - self.input_dropout)

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        if iterator is None:
            return
        begin = time.perf_counter()
        module, optimizer = self.module_, self.optimizer_
        module.train(training)
        n_steps, n_rows, loss_sum, hits = self.max_epochs * iterator.n_batches, 0, 0.0, 0
        solving = self.solving if training else {}
        if training:
            self.statistics.reset()
        for batch in iterator:
            X, target, weight = batch
            if self.watched:
                self.notify("on_batch_begin", batch=batch, training=training)
            if "starts" in solving:
                solving["starts"].rows = iterator.rows
            if training and self.input_dropout:
                X = self._thinned(X)
            with torch.set_grad_enabled(training), solved_with(module.features, solving):
                output = module(X)
                loss = (self.criterion(output, target) * weight).mean()
            if training:
                if self.one_cycle:
                    self._set_rate(n_steps)
                optimizer.zero_grad()
                loss.backward()
                if self.watched:
                    self.notify(
                        "on_grad_computed",
                        named_parameters=list(module.named_parameters()),
                        batch=batch,
                        training=True,
                    )
                optimizer.step()
                if self.to_start:
                    self._decay_to_start()
            n_rows += len(X)
            loss = loss.detach()
            loss_sum = loss_sum + len(X) * loss
            if self.accuracy is not None:
                hits = hits + self.accuracy(output.detach(), target)
            if self.watched:
                self.notify(
                    "on_batch_end", batch=batch, training=training, loss=loss, y_pred=output
                )
        self.history.record(prefix + "_loss", float(loss_sum) / n_rows)
        if self.accuracy is not None:
            self.history.record(prefix + "_accuracy", float(hits) / n_rows)
        if training:
            for name, value in self.statistics.summary().items():
                self.history.record(name, value)
            if "tol" in solving:
                self.history.record("fixed_point_tol", solving["tol"])
            self.history.record("seconds", time.perf_counter() - begin)


class _Progress(_OwnCallback):
    """One tidy line per epoch, for `step` of a stage."""

    def __init__(self, step):
        self.step = step

    def on_epoch_end(self, net, **kwargs):
        epoch, parts = net.history[-1], []
        for name in ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy"):
            if name in epoch:
                parts.append(f"{name} {epoch[name]:.4f}")
        n_iter = epoch.get("fixed_point_n_iter")
        if n_iter is not None:
            parts.append(f"{n_iter:.1f} fixed-point iterations")
        self.step("  ".join(parts))
        if n_iter is not None and epoch["epoch"] == 1 and n_iter > _MANY_ITERATIONS:
            tell(
                f"{n_iter:.0f} fixed-point iterations a row, each a pass through the layer: lower "
                "recurrent_var, or raise tol."
            )


class TellEpochs(_OwnCallback):
    """skorch's callback that passes epochs on to a FitTask."""

    def __init__(self, task):
        self.task = task

    def on_epoch_begin(self, net, **kwargs):
        self.epoch = self.task.epoch()

    def on_epoch_end(self, net, **kwargs):
        if self.epoch.end():
            raise _EndOfTraining  # ends the training, see TrainingNet.notify


def make_net(module, *, patience=None, callbacks=None, **settings):
    """Return an initialised TrainingNet around `module`, whose ``partial_fit`` trains it.

    `settings` are criterion, max_epochs, batch_size, lr, weight_decay, to_start, input_dropout,
    most_inputs, accuracy and one_cycle.
    """
    callbacks = copied(callbacks)
    net = TrainingNet(
        module, statistics=SolverStatistics(), watched=bool(callbacks),
        callbacks=[_BestWeights(patience), *callbacks], device=None, verbose=0, **settings,
    )  # fmt: skip
    return net.initialize()


def train(net, data, valid, generator, task=None, estimator=None):
    """Train by `net` on data, three tensors; `valid`, or None, are those to stop early on.

    `task` is the FitTask to tell of epochs, or None; `estimator` says where to keep them, if
    that is not None. Returns a dict for each epoch of this call, and the loss of the weights that
    were restored, if a loss was not finite, else None.
    """
    if task is not None:
        net.callbacks_.append(("tell_epochs", TellEpochs(task)))
    net.generator, net.valid = generator, valid
    if valid is None:
        require_validation(net.callbacks_)
    if estimator is not None and estimator.checkpoint_dir is not None:
        net.callbacks_.append(("keep_epochs", keep_epochs(estimator, net, data, valid)))
    n_before = len(net.history)
    features = net.module_.features
    n_rows = len(data[0])
    one_batch = n_rows <= net.batch_size
    net.solving, told = options_of_training(features, n_rows, net.max_epochs, one_batch)
    if told:
        tell(told)
    work = n_rows * sum(weights.numel() for weights in net.module_.parameters())
    threads = single_thread() if work <= _SMALL else nullcontext()
    with threads, reported_to(features, net.statistics), stage("epoch", net.max_epochs) as step:
        net.callbacks_.append(("progress", _Progress(step)))
        try:
            net.partial_fit(data)
        finally:
            del net.callbacks_[-1]
    net.valid, net.solving = None, {}
    epochs = [{k: v for k, v in e.items() if k != "batches"} for e in net.history[n_before:]]
    best = net.callbacks_[0][1]
    return epochs, best.best_ if best.diverged_ else None
