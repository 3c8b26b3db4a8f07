"""What a network learns: classes by their logits, or targets of unit variance."""

from dataclasses import dataclass, replace

import torch

from .._array_api import class_weights, encode_labels
from .._scaling import standard_deviations
from .._solve.calibration import fit_temperature, learnable
from .._state import storable
from .._torch import on_cpu, to_tensor
from .readout import solve_left_out, solve_logistic, solve_ridge


def cross_entropy(logits, target):
    """Cross entropy per row; `target` holds class indices or probabilities."""
    return torch.nn.functional.cross_entropy(logits, target, reduction="none")


def squared_error(output, target):
    """Mean over the outputs of the squared error, per row."""
    return (output - target).square().mean(1)


def hits(output, target):
    """Number of rows whose largest output is the target's (class indices or probabilities)."""
    labels = target if target.ndim == 1 else target.argmax(1)
    return (output.argmax(1) == labels).sum()


@storable
@dataclass(frozen=True)
class Classification:
    """Logits of classes.

    Parameters
    ----------
    classes : array of shape (n_classes,)
    """

    classes: object

    loss = staticmethod(cross_entropy)
    accuracy = staticmethod(hits)

    @property
    def n_outputs(self):
        """One for each class."""
        return self.classes.shape[0]

    @property
    def fitted(self):
        """Attributes of an estimator that learned it."""
        return {"classes_": self.classes}

    def encode(self, y):
        """Index of each label, (n,); a ValueError for one that is not among the classes."""
        return encode_labels(y, self.classes)

    def weigh(self, target, weight, class_weight):
        """Weights (n,) times those of the classes."""
        return weight * class_weights(class_weight, self.classes, target, weight)[target]

    def scaled(self, target, weight):
        """The task for these training rows: the same."""
        return self

    def to_network(self, target):
        """What the network is to learn: the class indices."""
        return target

    def __getstate__(self):
        return {"classes": on_cpu(self.classes)}

    def solve_readout(self, Z, target, weight, penalty):
        """Weights, bias and number of iterations of the readout of features Z."""
        return solve_logistic(Z, target, weight, penalty, self.n_outputs)

    def as_numbers(self, target):
        """+1 and -1 for class indices (n,): one column for two classes, else one for each."""
        columns = torch.nn.functional.one_hot(target, self.n_outputs).double()
        return 2 * (columns[:, -1:] if self.n_outputs <= 2 else columns) - 1

    def solve_left_out(self, Z, target, weight, keys):
        """Weights and bias of the readout by ridge regression, as calibrated logits."""
        weights, bias, left_out = solve_left_out(Z, self.as_numbers(target), weight, keys)
        predictions, targets, weight = left_out
        known = learnable(targets, weight, torch.arange(len(weight)), at_once=False)
        factor = fit_temperature(predictions, targets, weight * known)
        if self.n_outputs == 2:
            weights, bias = (torch.cat([-part, part]) / 2 for part in (weights, bias))
        return factor * weights, factor * bias


@storable
@dataclass(frozen=True)
class Regression:
    """Standardised targets.

    Parameters
    ----------
    n_outputs : int
    flat : bool
        Whether targets are one column, not a matrix.
    mean, scale : tensor of shape (n_outputs,)
        On the CPU: a pickle is to load anywhere.
    """

    n_outputs: int
    flat: bool
    mean: torch.Tensor | None = None
    scale: torch.Tensor | None = None

    loss = staticmethod(squared_error)
    accuracy = None
    fitted = {}

    def encode(self, y):
        """Targets (n,) or (n, n_outputs) as a tensor (n, n_outputs), float64."""
        target = to_tensor(y, dtype=torch.float64).reshape(y.shape[0], -1)
        if target.shape[1] != self.n_outputs:
            raise ValueError(
                f"y has {target.shape[1]} outputs, but the network was begun with "
                f"{self.n_outputs}; fit anew with warm_start=False."
            )
        return target

    def weigh(self, target, weight, class_weight):
        """Weights (n,) as they are."""
        return weight

    def scaled(self, target, weight):
        """The task with the mean and deviation of these training rows."""
        mean = weight @ target / weight.sum()
        deviation = standard_deviations(target, weight)
        return replace(
            self, mean=mean.cpu(), scale=torch.where(deviation > 0, deviation, 1.0).cpu()
        )

    def to_network(self, target):
        """Targets (n, n_outputs) of mean 0 and variance 1."""
        return (target - self.mean.to(target)) / self.scale.to(target)

    def unscaled(self, outputs):
        """Targets (n, n_outputs), float64, from what the network gives."""
        return outputs.double() * self.scale.to(outputs.device) + self.mean.to(outputs.device)

    def from_network(self, outputs):
        """Targets as they came, (n,) or (n, n_outputs)."""
        y = self.unscaled(outputs)
        return y[:, 0] if self.flat else y

    def solve_readout(self, Z, target, weight, penalty):
        """Weights, bias and number of iterations of the readout of features Z."""
        return solve_ridge(Z, target, weight, penalty)

    def as_numbers(self, target):
        """Targets of mean 0 and variance 1, float64."""
        return target.double()

    def solve_left_out(self, Z, target, weight, keys):
        """Weights and bias of the readout by ridge regression."""
        return solve_left_out(Z, self.as_numbers(target), weight, keys)[:2]
