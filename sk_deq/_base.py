"""What estimators share: arrays of any library, pickles that load anywhere, callbacks, links."""

import json
from contextlib import contextmanager
from copy import deepcopy
from copyreg import __newobj__  # type: ignore[attr-defined]
from functools import wraps
from multiprocessing import current_process
from numbers import Real

import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted
from torch import nn

from ._array_api import (
    ARRAY_API_SUPPORT,
    device_for,
    float_dtypes,
    prototype,
    require_namespace_of_fit,
    rows_of,
    to_namespace_of,
)
from ._callbacks import CallbackSupportMixin
from ._progress import Watch
from ._state import Reader, Writer, storable
from ._torch import own_modes, present_device
from ._validation import validate_data
from ._warn import warn

# of the parameters that describe a DEQ
DEQ_CONSTRAINTS = {
    "activation": [str, callable],
    "recurrent_var": [Interval(Real, 0, None, closed="left")],
    "input_var": [Interval(Real, 0, None, closed="neither"), None],
    "bias_var": [Interval(Real, 0, None, closed="left")],
    "center": ["boolean"],
}


class DEQEstimator(CallbackSupportMixin, BaseEstimator):
    """Base of the estimators. They set `_like`, an empty array of the kind of fit's X."""

    _doc_link_module = "sk_deq"
    _doc_link_template = (
        "https://sk-deq.readthedocs.io/en/stable/generated/{estimator_module}.{estimator_name}.html"
    )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.array_api_support = ARRAY_API_SUPPORT
        return tags

    def _resolve_device(self, like):
        """Name of the device to fit on, for rows of the kind of `like`."""
        device = device_for(self.device, like)
        if device.type == "mps" and self.dtype == "float64":
            raise ValueError(
                "device='mps' has no dtype='float64'; use device='cpu' or dtype='float32'."
            )
        if device.type == "cuda" and current_process().name != "MainProcess":
            warn(
                "Fitting on a GPU in a worker process: every worker holds its own CUDA context and "
                "they wait for one another. Use n_jobs=1, or device='cpu' with n_jobs > 1.",
                UserWarning,
            )
        return str(device)

    def _rows_like_fit(self, X, method):
        """Validated rows for `method`, and an array of the kind that its result is to be of.

        Rows are a tensor, or an ndarray, which is maybe mapped from a file.

        Raises
        ------
        ValueError
            scikit-learn's own, where X is not of the namespace and device seen in fit.
        """
        check_is_fitted(self)
        require_namespace_of_fit(X, self, method)
        X = validate_data(self, X, dtype=float_dtypes(X), reset=False)
        return rows_of(X), prototype(X)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        storable(cls)

    def __reduce_ex__(self, protocol):
        """Pickle and copy by `_state`, which may hold a user's functions."""
        return __newobj__, (type(self),), self._state()

    def __getstate__(self):
        """Plain values and arrays, for what stores no code: skops asks here, pickle does not."""
        writer = Writer()
        tree = writer.write(self._state())
        return {"content": json.dumps(tree), "arrays": writer.arrays}

    def _state(self):
        """Bring tensors to the CPU, where any machine can load them."""
        state = dict(super().__getstate__())
        devices = {name: _device(value) for name, value in state.items()}
        state["_devices"] = {name: d for name, d in devices.items() if d != "cpu"}
        for name in state["_devices"]:
            state[name] = _moved(deepcopy(state[name]), "cpu")
        return state

    def __setstate__(self, state):
        """Bring tensors back to their device, or to the nearest that this machine has."""
        if "content" in state:
            state = Reader(state["arrays"]).read(json.loads(state["content"]))
        devices = state.pop("_devices", {})
        super().__setstate__(state)
        for name, device in devices.items():
            setattr(self, name, _moved(getattr(self, name), present_device(device)))
        if hasattr(self, "device_"):
            self.device_ = present_device(self.device_)


class Probabilities:
    """Probabilities of the classes from logits, `_logits(X, method)`: (n_samples, n_classes)."""

    def predict_proba(self, X):
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``.
        """
        logits, origin = self._logits(X, "predict_proba")
        return to_namespace_of(origin, logits.softmax(1))

    def predict_log_proba(self, X):
        """Predict the logarithm of the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        log_p : ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``; finite, also where a probability is rounded to 0.
        """
        logits, origin = self._logits(X, "predict_log_proba")
        return to_namespace_of(origin, logits.log_softmax(1))


def all_or_nothing(fit):
    """Decorate a method that fits: an estimator for which it raises is left as it was.

    It runs in torch modes of its own, and is watched: see `_progress`.
    """

    @wraps(fit)
    def wrapped(self, *args, **kwargs):
        before = dict(vars(self))
        try:
            with own_modes(grad=True), Watch(self):
                return fit(self, *args, **kwargs)
        except BaseException:
            told = {k: v for k, v in vars(self).items() if "_callback" in k}  # scikit-learn ends it
            vars(self).clear()
            vars(self).update(before | told)
            raise

    return wrapped


@contextmanager
def unchanged_on_error(*changed):
    """Give modules and optimisers their state back where what is done with them raises."""
    before = [deepcopy(one.state_dict()) for one in changed]
    try:
        yield
    except BaseException:
        for one, state in zip(changed, before, strict=True):
            one.load_state_dict(state)
        raise


def forget(estimator, *names):
    """Delete attributes of an earlier fit, which the next one may not set."""
    for name in names:
        if hasattr(estimator, name):
            delattr(estimator, name)


def _device(value):
    """Where a tensor, a module or a list of tensors lives; "cpu" for anything else."""
    if isinstance(value, nn.Module):
        value = list(value.parameters())
    if isinstance(value, list):
        value = value[0] if value else None
    return str(value.device) if isinstance(value, torch.Tensor) else "cpu"


def _moved(value, device):
    return [v.to(device) for v in value] if isinstance(value, list) else value.to(device)
