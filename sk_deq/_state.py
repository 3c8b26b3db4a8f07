"""Objects as trees of JSON values, with arrays beside them, and back: state without code.

A tree holds numbers, texts and lists, and {"is": kind, ..} for all else. Objects are of the classes
decorated with `storable` only; their attributes are walked.
"""

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

STORABLE = {}  # classes by name
_HOOKS = {}  # what stands for their objects, where that is not their attributes
_OF_MODULES = set(vars(nn.Module()))  # what torch keeps on a module for itself


def storable(cls=None, *, write=None, read=None):
    """Decorate a class whose objects may be stored; of two of one name the first is.

    Parameters
    ----------
    cls : type
    write, read : callable, default=None
        From an object to values that stand for it, and back; None means its attributes.
    """

    def register(cls):
        STORABLE.setdefault(cls.__name__, cls)
        if write is not None:
            _HOOKS[cls] = write, read
        return cls

    return register if cls is None else register(cls)


def is_storable(value):
    """Whether an object is of a class that may be stored."""
    return STORABLE.get(type(value).__name__) is type(value)


for _module in (nn.Linear, nn.ModuleList, nn.Sequential):
    storable(_module)


def refusal(value, where):
    """The TypeError for a value that has no place in a file without code."""
    named = f"{where}={value!r}" if where else repr(value)
    return TypeError(
        f"{named} cannot be saved: a file without code has no place for it. Use a registry name as "
        "activation and callbacks=None; or pickle, for files that only you load."
    )


class Writer:
    """Turn values into trees; `arrays` are those met on the way, each once."""

    def __init__(self):
        self.arrays, self._known = {}, {}

    def write(self, value, where=""):
        """The tree of a value; `where` names the attribute it is found at, for errors."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) is list:
            return [self.write(item, where) for item in value]
        for kinds, kind in _KINDS:
            if isinstance(value, kinds):
                return {"is": kind, **getattr(self, f"_write_{kind}")(value, where)}
        return {"is": "object", **self._write_object(value, where)}

    def _write_tensor(self, value, where):
        parameter = {"trained": value.requires_grad} if isinstance(value, nn.Parameter) else {}
        return {**self._array(value.detach().cpu().numpy(), value), **parameter}

    def _write_array(self, value, where):
        if value.dtype.kind in "UO":
            items = [self.write(item, where) for item in value.ravel().tolist()]
            return {"items": items, "shape": list(value.shape), "dtype": value.dtype.str}
        if value.dtype.kind not in "biuf":
            raise refusal(value, where)
        return self._array(value, value)

    def _array(self, array, owner):
        """Keep an array, under the name of its owner's first time.

        Which of rows and columns lie together is kept: sums in another order round otherwise.
        """
        by_columns = array.ndim == 2 and array.flags.f_contiguous and not array.flags.c_contiguous
        if id(owner) not in self._known:
            name = str(len(self.arrays))
            kept = array.T if by_columns else array
            self.arrays[name] = np.ascontiguousarray(kept).reshape(kept.shape)  # () is made (1,)
            self._known[id(owner)] = name, owner  # as long as the owner lives, its id is its own
        return {"array": self._known[id(owner)][0], "by_columns": by_columns}

    def _write_scalar(self, value, where):
        return {"value": self.write(value.item(), where), "dtype": value.dtype.str}

    def _write_tuple(self, value, where):
        named = {} if type(value) is tuple else {"class": _class_name(value, where)}
        return {"items": [self.write(item, where) for item in value], **named}

    def _write_dict(self, value, where):
        items = value.items()
        return {"items": [[self.write(key, where), self.write(v, str(key))] for key, v in items]}

    def _write_dtype(self, value, where):
        return {"name": str(value).removeprefix("torch.")}

    def _write_path(self, value, where):
        return {"name": os.fspath(value)}

    def _write_device(self, value, where):
        return {"name": str(value)}

    def _write_random_state(self, value, where):
        return {"state": self.write(value.get_state(), where)}

    def _write_module(self, value, where):
        own = {name: part for name, part in vars(value).items() if name not in _OF_MODULES}
        parts = {"own": own, "parameters": value._parameters}
        parts |= {"buffers": value._buffers, "modules": value._modules}
        trees = {name: self.write(dict(part)) for name, part in parts.items()}
        return {"class": _class_name(value, where), "training": value.training, **trees}

    def _write_object(self, value, where):
        name = _class_name(value, where)
        write = _HOOKS.get(type(value), [_attributes])[0]
        return {"class": name, "state": self.write(write(value), where)}


def _attributes(value):
    """The attributes of an object, as it pickles them."""
    state = getattr(value, "_state", value.__getstate__)  # an estimator's own hides this tree
    return state()


def _class_name(value, where):
    if not is_storable(value):
        raise refusal(value, where)
    return type(value).__name__


_KINDS = (
    (torch.Tensor, "tensor"),
    (np.ndarray, "array"),
    (np.generic, "scalar"),
    (tuple, "tuple"),
    (dict, "dict"),
    (torch.dtype, "dtype"),
    (os.PathLike, "path"),
    (torch.device, "device"),
    (np.random.RandomState, "random_state"),
    (nn.Module, "module"),
)


class Reader:
    """Turn trees into values again, with the arrays beside them."""

    def __init__(self, arrays):
        self._arrays, self._known = arrays, {}

    def read(self, tree):
        """The value of a tree."""
        if isinstance(tree, list):
            return [self.read(item) for item in tree]
        if isinstance(tree, dict):
            return getattr(self, f"_read_{tree['is']}")(tree)
        return tree

    def _read_tensor(self, tree):
        known = "tensor", tree["array"]
        if known not in self._known:
            tensor = torch.from_numpy(self._array(tree))
            if "trained" in tree:
                tensor = nn.Parameter(tensor, requires_grad=tree["trained"])
            self._known[known] = tensor
        return self._known[known]

    def _read_array(self, tree):
        if "items" in tree:
            array = np.empty(len(tree["items"]), dtype=_plain_dtype(tree["dtype"], "UO"))
            array[:] = self.read(tree["items"])
            return array.reshape(tree["shape"])
        return self._known.setdefault(("array", tree["array"]), self._array(tree))

    def _array(self, tree):
        array = self._arrays[tree["array"]]
        return array.T if tree["by_columns"] else array

    def _read_scalar(self, tree):
        return _plain_dtype(tree["dtype"], "biufU").type(self.read(tree["value"]))

    def _read_tuple(self, tree):
        items = self.read(tree["items"])
        return _class(tree, tuple)(*items) if "class" in tree else tuple(items)

    def _read_dict(self, tree):
        return {self.read(key): self.read(value) for key, value in tree["items"]}

    def _read_dtype(self, tree):
        dtype = getattr(torch, tree["name"])
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{tree['name']!r} is no dtype")
        return dtype

    def _read_path(self, tree):
        return Path(tree["name"])

    def _read_device(self, tree):
        return torch.device(tree["name"])

    def _read_random_state(self, tree):
        random_state = np.random.RandomState()
        random_state.set_state(self.read(tree["state"]))
        return random_state

    def _read_module(self, tree):
        cls = _class(tree, nn.Module)
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        vars(module).update(self.read(tree["own"]))
        for name, parameter in self.read(tree["parameters"]).items():
            module.register_parameter(name, parameter)
        for name, buffer in self.read(tree["buffers"]).items():
            module.register_buffer(name, buffer)
        for name, child in self.read(tree["modules"]).items():
            module.add_module(name, child)
        module.training = tree["training"]  # of this one: its parts have their own
        return module

    def _read_object(self, tree):
        cls, state = _class(tree, object), self.read(tree["state"])
        if cls in _HOOKS:
            return _HOOKS[cls][1](state)
        value = object.__new__(cls)
        if hasattr(value, "__setstate__"):
            value.__setstate__(state)
        else:
            value.__dict__.update(state)
        return value


def _class(tree, base):
    cls = STORABLE[tree["class"]]
    if not issubclass(cls, base):
        raise ValueError(f"{tree['class']!r} is no {base.__name__}")
    return cls


def _plain_dtype(name, kinds):
    dtype = np.dtype(name)
    if dtype.kind not in kinds:
        raise ValueError(f"{name!r} is not a dtype of numbers or texts")
    return dtype
