"""Array API: what goes in as an array of one library and device comes out as the same.

Inside, everything is a torch tensor. Without ``array_api_dispatch`` in scikit-learn's configuration
every input is an ndarray to begin with.
"""

import numpy as np
import torch
from sklearn import get_config
from sklearn.utils._array_api import get_namespace
from sklearn.utils.class_weight import compute_class_weight

from ._torch import resolve_device, to_tensor

try:
    from sklearn.utils._array_api import check_same_namespace, move_to
except ImportError:  # scikit-learn before 1.9
    move_to = None

ARRAY_API_SUPPORT = move_to is not None


def float_dtypes(X):
    """The floating dtypes that validation leaves as they are, in the namespace of X."""
    xp, is_array_api = get_namespace(X)
    if is_array_api and not ARRAY_API_SUPPORT and not isinstance(X, np.ndarray):
        raise TypeError("array_api_dispatch=True needs scikit-learn >= 1.9; convert X to numpy.")
    return [xp.float64, xp.float32]


def prototype(X):
    """An empty array of the namespace and device of X: it remembers where results belong."""
    if isinstance(X, torch.Tensor):
        return torch.empty(0, dtype=X.dtype, device=X.device)
    return X[:0].flatten() if isinstance(X, np.ndarray) else X[0, :0]


def device_for(device, origin):
    """The torch.device to compute on: "auto" is where `origin` lives, if that is not numpy's."""
    if isinstance(device, str) and device == "auto" and not isinstance(origin, np.ndarray):
        return to_tensor(origin).device
    return resolve_device(device)


def require_namespace_of_fit(X, estimator, method):
    """Raise scikit-learn's error where X is not of the namespace and device of fit's X."""
    if ARRAY_API_SUPPORT and get_config()["array_api_dispatch"]:
        check_same_namespace(X, estimator, attribute="_like", method=method)


def to_namespace_of(origin, tensor):
    """Bring a tensor to the namespace and device of `origin`."""
    if isinstance(origin, np.ndarray):
        return tensor.cpu().numpy()
    if isinstance(origin, torch.Tensor):
        return tensor.to(origin.device)
    xp, _ = get_namespace(origin)
    return move_to(tensor.cpu().numpy(), xp=xp, device=origin.device)


def rows_of(X):
    """Rows as a tensor, but an ndarray as it is: if it is mapped from a file, it stays there."""
    return X if isinstance(X, np.ndarray) else to_tensor(X)


def take(array, rows):
    """The rows of an array of any namespace that a tensor of indices or booleans selects."""
    if isinstance(array, np.ndarray):
        return array[rows.cpu().numpy()]
    tensor = to_tensor(array)
    return to_namespace_of(array, tensor[rows.to(tensor.device)])


def unique_labels(y):
    """The sorted distinct labels, in the namespace of y."""
    if isinstance(y, np.ndarray):
        return np.unique(y)
    return to_namespace_of(y, torch.unique(to_tensor(y)))


def encode_labels(y, classes):
    """Index of every label among the sorted `classes`, as a tensor; all must be there.

    Raises
    ------
    ValueError
        If a label is missing from classes.
    """
    if isinstance(y, np.ndarray):
        classes = to_numpy(classes)
        unseen = np.setdiff1d(y, classes)
        index = to_tensor(np.searchsorted(classes, y))
    else:
        labels = to_tensor(y)
        labels = labels.int() if labels.dtype == torch.bool else labels
        known = to_tensor(classes, dtype=labels.dtype, device=labels.device)
        index = torch.searchsorted(known, labels).clamp_max(len(known) - 1)
        unseen = torch.unique(labels[known[index] != labels])
    if len(unseen):
        raise ValueError(
            f"y has labels that are not among the classes of the first call: {unseen}. "
            "Pass classes= to the first partial_fit, or fit anew."
        )
    return index


def decode_labels(index, classes, origin):
    """The labels of class indices: numpy for strings, else in the namespace of `origin`."""
    if isinstance(classes, np.ndarray) and classes.dtype.kind not in "biuf":
        return classes[index.cpu().numpy()]
    if isinstance(classes, np.ndarray) and isinstance(origin, np.ndarray):
        return classes[index.cpu().numpy()]
    return to_namespace_of(origin, to_tensor(classes, device=index.device)[index])


def class_weights(class_weight, classes, index, weight):
    """The weight of each class, (n_classes,), for rows of class `index` and sample weight `weight`.

    "balanced" gives all classes that occur the same total weight.
    """
    if class_weight is None:
        return weight.new_ones(classes.shape[0])
    if class_weight == "balanced":
        totals = weight.new_zeros(classes.shape[0]).index_add_(0, index, weight)
        mean = totals.sum() / (totals > 0).sum()
        return torch.where(totals > 0, mean / totals, 0)
    classes = to_numpy(classes)
    weights = compute_class_weight(class_weight, classes=classes, y=classes)
    weights = to_tensor(weights, dtype=weight.dtype, device=weight.device)
    if not (torch.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"class_weight must be finite and not negative, got {class_weight}.")
    if not weights[index].any():
        raise ValueError(
            f"class_weight={class_weight} leaves no row with a positive weight; give a class of y "
            "one."
        )
    return weights


def to_numpy(array):
    """An array of any namespace as an ndarray."""
    return array if isinstance(array, np.ndarray) else to_tensor(array).cpu().numpy()
