"""What a network learns from which rows, and where that begins."""

import math
import time
from collections import OrderedDict
from contextlib import contextmanager
from copy import copy
from functools import partial

import numpy as np
import torch
from sklearn.utils.validation import _check_sample_weight
from torch import nn

from .._array_api import take
from .._row_keys import first_copies, row_keys
from .._torch import make_generator, to_tensor
from .evaluation import SolverStatistics, forward_in_passes, reported_to
from .exact import ExactNetwork
from .readout import solve_left_out

_BINS_THAT_COUNT = 4  # of those of a column


class Lesson:
    """A network and what it is to give for each row: targets of a task, or a teacher's outputs.

    `searched` says that the features suit the targets, so that training begins at the solution for
    the readout. So it does where they suit a teacher: they have the kernel of its ridge, or its
    input weights and a kernel of their own. `many` says that there are so many rows that from there
    a higher rate pays.
    """

    def __init__(self, module, scaler, task, distillation, searched, many):
        self.module, self.scaler, self.task = module, scaler, task
        self.distillation = distillation
        self.loss = task.loss if distillation is None else distillation.loss
        self.features_stay, self.many = False, many
        self.takes_over = distillation is not None and distillation.is_of_size(module)
        self.from_start = searched and distillation is None
        self.begins_solved = self.from_start or (
            distillation is not None
            and (distillation.is_ridge or isinstance(module.features, ExactNetwork))
        )

    @property
    def kind(self):
        """From where what is trained: "readout", "start", "many", "teacher" or "labels"."""
        if self.from_start:
            return "readout" if self.features_stay else "many" if self.many else "start"
        return "teacher" if self.takes_over else "labels"

    @property
    def most_inputs(self):
        """How many columns the rate of the input weights goes by, at most.

        A step moves the weights of a column's bins together: many count as a few.
        """
        encoding = self.scaler.encoding
        if encoding is None:
            return math.inf
        added = (values.shape[1] for _, _, values in encoding.scores)
        return encoding.n_features + sum(min(n, _BINS_THAT_COUNT) for n in added)

    @property
    def fitted(self):
        """Attributes of an estimator that learned it."""
        own = {"module_": self.module, "_scaler": self.scaler, "_task": self.task}
        return own | self.task.fitted

    def tensors(self, X, target, weight):
        """Scaled rows, what they are to give, and weights, as the network takes them."""
        if self.distillation is None:
            target = self.task.to_network(target)
        else:
            target = self.distillation.target(X, self.task)
        like = self.module.readout.weight
        target = target.to(like if target.is_floating_point() else like.device)
        return scaled_rows(self.module, self.scaler, X), target, weight.to(like)

    def begin(self, rows, target, weight, keys):
        """Solve for the module's readout; `start` is then what to tell of it.

        Parameters
        ----------
        rows : tensor of shape (n, n_encoded)
            As `tensors` gives them, as do target and weight.
        target : tensor of shape (n,) or (n, n_outputs)
        weight, keys : tensors of shape (n,)

        Returns
        -------
        tensor of shape (n, width)
            The features of the rows.
        """
        with self._started() as features_of:
            Z = features_of(rows)
            Z = Z[first_copies(keys).to(Z.device)]  # copies of a row may have been rounded apart
            self.begin_readout(self.module.readout, Z, target, weight, keys)
        return Z

    def solve_readout(self, rows, target, weight, penalty):
        """Solve a convex problem for the module's readout; `start` is then what to tell of it.

        Parameters
        ----------
        rows, target, weight : tensors
            As `tensors` gives them.
        penalty : float
            Of |v|^2 / 2 against the mean loss, v the readout's weights.

        Returns
        -------
        int
            The number of iterations.
        """
        with self._started() as features_of:
            Z = features_of(rows).double().cpu().numpy()  # solvers want precision
            weights, bias, n_iter = self.task.solve_readout(
                Z, target.cpu().numpy(), weight.double().cpu().numpy(), penalty * len(Z)
            )
            set_readout(self.module.readout, to_tensor(weights), to_tensor(bias))
        return n_iter

    @contextmanager
    def _started(self):
        """Give a function of rows to features; `start` is then what to tell of the block."""
        begin, statistics, features = time.perf_counter(), SolverStatistics(), self.module.features
        with reported_to(features, statistics):
            yield partial(forward_in_passes, features)
        self.start = {"seconds": time.perf_counter() - begin, **statistics.summary()}

    def begin_readout(self, readout, Z, target, weight, keys):
        """Solve for a readout in closed form, the penalty chosen by leave-one-out.

        Parameters
        ----------
        readout : Linear
            Of the module, or a copy.
        Z : tensor of shape (n, width)
            Features.
        target, weight : tensors
            As `tensors` gives them.
        keys : tensor of shape (n,)
            Of the rows, see `row_keys`.
        """
        Z, target, weight = Z.double().cpu(), target.cpu(), weight.double().cpu()
        if self.distillation is None:
            weights, bias = self.task.solve_left_out(Z, target, weight, keys)
        else:
            weights, bias, _ = solve_left_out(Z, target.double(), weight, keys)
        set_readout(readout, weights, bias)

    def of_readout(self):
        """The Lesson of the readout alone, whose rows are features."""
        self.module.eval()
        lesson = copy(self)
        layers = OrderedDict(features=nn.Identity(), readout=self.module.readout)
        lesson.module, lesson.features_stay = nn.Sequential(layers), True
        return lesson


@torch.no_grad()
def set_readout(readout, weights, bias):
    """Give a Linear module these weights (n_outputs, width) and bias (n_outputs,)."""
    readout.weight.copy_(weights.to(readout.weight))
    readout.bias.copy_(bias.to(readout.bias))


def scaled_rows(module, scaler, X):
    """Rows X (n, n_features) as the network takes them: scaled, on its device, in its precision."""
    like = module.readout.weight
    return to_tensor(scaler.transform(to_tensor(X)), dtype=like.dtype, device=like.device)


def keys_of(X):
    """Keys of rows, (n,): copies of a row have the same."""
    return row_keys(X, make_generator(0)).cpu()


def weighted_rows(X, y, sample_weight):
    """Rows as a tensor, targets and weights, without the rows of weight zero."""
    weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
    X, weight = to_tensor(X), to_tensor(weight, dtype=torch.float64)
    kept = weight > 0
    _require_some(weight)
    return (X, y, weight) if kept.all() else (X[kept], take(y, kept), weight[kept])


def hold_out(estimator, data, random_state):
    """Split rows, targets and weights: those to train on, and those to stop early on.

    Parameters
    ----------
    estimator : BaseNetwork
        Whose ``validation_fraction`` of the rows is held out, of every class if it classifies.
    data : three tensors of n rows
    random_state : RandomState

    Returns
    -------
    list of two tuples of three tensors

    Raises
    ------
    ValueError
        By scikit-learn, if a part would be without rows or without a class.
    """
    from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

    splitter = ShuffleSplit if estimator._numeric else StratifiedShuffleSplit
    split = splitter(1, test_size=estimator.validation_fraction, random_state=random_state)
    labels = None if estimator._numeric else data[1].cpu().numpy()
    parts = next(split.split(np.empty(len(data[0])), labels))
    parts = [to_tensor(part, device=data[0].device) for part in parts]
    return [tuple(t[rows] for t in data) for rows in parts]


def mean_one(weight):
    """The weights over their mean."""
    _require_some(weight)
    return weight / weight.mean()


def _require_some(weight):
    if not weight.any():
        raise ValueError("sample_weight is zero for every row: there is nothing to fit.")
