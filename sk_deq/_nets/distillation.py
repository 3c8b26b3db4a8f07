"""Distillation: a network learns what a fitted DEQ gives, from where the DEQ is if it can."""

import math

import torch
from sklearn.base import is_classifier
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from .._array_api import to_numpy
from .._search.candidates import DEQ_PARAMETERS
from .._search.search import Choice
from .._solve.calibration import class_logits
from .choice import NETWORK_PARAMETERS
from .tasks import cross_entropy, squared_error

_TEMPERATURE = 4.0  # softens the teacher's probabilities


def softened_cross_entropy(logits, teacher_logits):
    """Cross entropy per row of softened probabilities; T^2 keeps the size of its gradient."""
    target = torch.softmax(teacher_logits / _TEMPERATURE, 1)
    return _TEMPERATURE**2 * cross_entropy(logits / _TEMPERATURE, target)


def wrong_type(name, given, wanted, call, remedy=""):
    """The TypeError for an estimator that is not what is wanted, but may be the end of a pipeline.

    `call` is what was called, with {} for the argument.
    """
    if hasattr(given, "named_steps"):
        remedy = (
            f"Take the step out: {call.format('pipeline[-1]')}, and put the result behind the same "
            "steps, make_pipeline(clone(pipeline[:-1]), ...)."
        )
    return TypeError(f"{name} must be a {wanted}, got {type(given).__name__}. {remedy}".rstrip())


class Distillation:
    """Learning from a teacher.

    Parameters
    ----------
    teacher : estimator of one of the types `kinds`, or FrozenEstimator of one
        Fitted.
    kinds : (type, type)
        Of DEQ networks and of kernel ridges.

    Raises
    ------
    TypeError
        If it is another estimator.
    NotFittedError
        If it is not fitted.
    """

    def __init__(self, teacher, kinds):
        self.teacher = teacher.estimator if isinstance(teacher, FrozenEstimator) else teacher
        if not isinstance(self.teacher, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise wrong_type("teacher", self.teacher, f"fitted {names}", "teacher={}")
        check_is_fitted(self.teacher)
        self.is_ridge = isinstance(self.teacher, kinds[1])
        self.classify = is_classifier(self.teacher)
        self.loss = softened_cross_entropy if self.classify else squared_error

    @property
    def preparation(self):
        """How a kernel ridge prepares rows: its student is to compute the same kernel."""
        return self.teacher._fitted_rows.kernel.preparation if self.is_ridge else None

    def choice(self, given):
        """The Choice of the teacher, but for the DEQ parameters given."""
        names = DEQ_PARAMETERS if self.is_ridge else NETWORK_PARAMETERS
        parameters = {name: getattr(self.teacher, f"{name}_") for name in names}
        before = self.preparation if self.is_ridge else self.teacher._scaler
        scale = before.feature_scale
        return Choice(
            {"kernel": "ck", **parameters, **given}, encoding=before.encoding,
            feature_weights=None if scale is None else scale**2,
        )  # fmt: skip

    def check(self, task, n_features):
        """Raise a ValueError if the teacher knows other rows or classes than the task."""
        if n_features != self.teacher.n_features_in_:
            raise ValueError(
                f"X has {n_features} features, the teacher was fitted on "
                f"{self.teacher.n_features_in_}."
            )
        if not self.classify:
            return
        ours, theirs = task.classes, self.teacher.classes_
        if to_numpy(ours).tolist() != to_numpy(theirs).tolist():
            raise ValueError(f"y has the classes {ours}, the teacher {theirs}.")

    def outputs(self, X):
        """Logits (n, n_classes) or targets (n, n_outputs) of the teacher for rows X, a tensor."""
        if not self.is_ridge:
            outputs = self.teacher._outputs_of(X)
            return outputs if self.classify else self.teacher._task.unscaled(outputs)
        decision = self.teacher._decision(X, "predict")[0]
        if not self.classify:
            return decision.reshape(len(X), -1)
        one = self.teacher.classes_.shape[0] == 1
        return decision if one else class_logits(decision, self.teacher.temperature_)

    def target(self, X, task):
        """What the network is to give for rows X: logits, or standardised values."""
        return self.outputs(X) if self.classify else task.to_network(self.outputs(X))

    def agreement(self, student, X):
        """Share of equal classes, or R^2, of the two's predictions for rows X, a tensor."""
        ours, theirs = student._outputs_of(X), self.outputs(X)
        if self.classify:
            return float((ours.argmax(1) == theirs.argmax(1).to(ours.device)).double().mean())
        error = theirs - student._task.unscaled(ours).to(theirs.device)
        spread = (theirs - theirs.mean(0)).square().sum(0)
        return float((1 - error.square().sum(0) / spread).mean())

    def is_of_size(self, module):
        """Whether a network has the teacher's width and inputs."""
        if self.is_ridge:
            return False
        source = self.teacher.module_.features
        return module.features.input_weight.shape == source.input_weight.shape

    @torch.no_grad()
    def begin(self, module, again):
        """Have a network of the teacher's size begin with its weights, unless it goes on.

        Its input weights U make pre-activations u, up to the factor that the match takes out. Every
        further layer begins as I + W, W the recurrent weight: that is an iteration of the DEQ, as
        far as u can be read from its activation. The match keeps all scales.
        """
        if again or not self.is_of_size(module):
            return
        recurrent_var, input_var = self.teacher.recurrent_var_, self.teacher.input_var_
        source, features = self.teacher.module_.features, module.features
        scale = math.sqrt(input_var)
        features.input_weight.copy_(source.input_weight / scale)
        features.bias.copy_(source.bias / scale)
        W = source.effective_recurrent_weight()
        step = (torch.eye(len(W)).to(W) + W) / math.sqrt(1 + recurrent_var)
        for hidden in getattr(features, "hidden", ()):
            hidden.weight.copy_(step)
        module.readout.load_state_dict(self.teacher.module_.readout.state_dict())
