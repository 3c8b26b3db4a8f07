"""What is kept from call to call: bounded in bytes, and without keeping users' callables alive."""

from collections import OrderedDict
from dataclasses import fields, is_dataclass
from functools import update_wrapper
from threading import Lock
from types import MethodType
from weakref import WeakMethod, ref

import torch

_SMALL = 256  # bytes that an entry takes beside its tensors


class Kept:
    """A function of kernels, activations and numbers that remembers its latest values.

    Its arguments are not kept: of the callables in them there are weak references. A value must not
    hold its arguments either.

    Parameters
    ----------
    function : callable
    max_bytes : int
        What values may take together.
    """

    def __init__(self, function, max_bytes):
        self.max_bytes, self.n_bytes = max_bytes, 0
        self._values, self._lock = OrderedDict(), Lock()
        update_wrapper(self, function)

    def __call__(self, *args):
        key = weakened(args)
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
        value = self.__wrapped__(*args)
        size = _SMALL + _bytes_of(value)
        with self._lock:
            if key not in self._values:
                self._values[key] = value, size
                self.n_bytes += size
            while self.n_bytes > self.max_bytes:
                self.n_bytes -= self._values.popitem(last=False)[1][1]
        return value


def kept(function=None, *, max_bytes=2**24):
    """Decorate a function as `Kept`."""
    if function is None:
        return lambda function: Kept(function, max_bytes)
    return Kept(function, max_bytes)


def weakened(value):
    """An equal key for equal values, with weak references to callables."""
    if isinstance(value, tuple):
        return tuple(weakened(part) for part in value)
    if is_dataclass(value):
        return type(value), *(weakened(getattr(value, f.name)) for f in fields(value))
    if not callable(value):
        return value
    try:
        return WeakMethod(value) if isinstance(value, MethodType) else ref(value)
    except TypeError:  # of a type that has none
        return value


def _bytes_of(value):
    """Bytes of the tensors in a value, at any depth."""
    if isinstance(value, torch.Tensor):
        return value.untyped_storage().nbytes()
    if isinstance(value, list | tuple):
        return sum(map(_bytes_of, value))
    return sum(map(_bytes_of, vars(value).values())) if hasattr(value, "__dict__") else 0
