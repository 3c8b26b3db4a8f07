"""Whether training from the start that a search gives a network pays, by rows held out."""

from copy import deepcopy

import torch

from .._progress import tell
from .starts import TRAINING_TOL

_EVERY = 5  # one distinct row of so many decides
_FEWEST = 40  # distinct rows; of fewer too few decide


def epochs_that_pay(lesson, data, Z, keys, losses):
    """After how many epochs the loss of rows held out is least; 0 is the start.

    Parameters
    ----------
    lesson : Lesson
        Of which a copy of the module is trained, from its own start.
    data : three tensors
        Rows, targets and weights, as the network takes them.
    Z : tensor of shape (n, width)
        Features of the start.
    keys : tensor of shape (n,)
    losses : callable
        (module, data, held-out data) -> losses of the held-out rows after each epoch.
    """
    decides = _held_out(keys, None if data[1].is_floating_point() else data[1].cpu())
    if decides is None:
        return 0
    (*others, Z_others), (*held_out, Z_held_out) = (
        [t[part.to(Z.device)] for t in (*data, Z)] for part in (~decides, decides)
    )
    others[2] = others[2] / others[2].mean()  # a weight of two is then the same as two rows
    module = deepcopy(lesson.module)
    lesson.begin_readout(module.readout, Z_others, *others[1:], keys[~decides])
    with torch.no_grad():
        at_start = (lesson.loss(module.readout(Z_held_out), held_out[1]) * held_out[2]).mean()
    if hasattr(module.features, "tol"):  # a trial needs no more digits
        module.features.tol = max(module.features.tol, TRAINING_TOL)
    tell("trains a copy without a fifth of the rows first: does training pay?")
    found = [float(at_start), *losses(module, others, held_out)]
    best = min(range(len(found)), key=found.__getitem__)
    tell(f"{f'it does, {best} epochs' if best else 'it does not'}, by the loss of that fifth")
    return best


def _held_out(keys, labels):
    """Which rows decide, (n,) bool: copies together, a share of every class. None: too few."""
    distinct, inverse = torch.unique(keys, return_inverse=True)  # by key: at random
    if len(distinct) < _FEWEST:
        return None
    label = torch.zeros(len(distinct), dtype=torch.int64)
    if labels is not None:
        label[inverse] = labels
    decides = torch.zeros(len(distinct), dtype=torch.bool)
    decides[label.argsort(stable=True)[_EVERY // 2 :: _EVERY]] = True
    return decides[inverse]
