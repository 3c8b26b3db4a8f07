"""A second device on machines that have one only: its tensors are on the CPU, and say otherwise.

An operation on tensors of the two devices raises, as it does on a GPU, and every wait of the host
for a value of the device is counted, with the lines of the package that asked for it.
"""

import traceback
from pathlib import Path

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "second"
PACKAGE = str(Path(__file__).parents[1] / "sk_deq")
aten = torch.ops.aten
WAITS = {
    "_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2",
    "unique_dim", "unique_consecutive", "item", "linalg_cholesky", "linalg_inv_ex",
}  # fmt: skip
MIXES = {"_to_copy", "copy_", "index", "index_put_", "index_put", "set_"}


def available():
    """Whether this torch can be told of a device written in Python."""
    from torch.utils import backend_registration

    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


def register():
    """Make the device known to torch; once."""
    from torch.utils import backend_registration

    if not hasattr(torch, NAME):
        backend_registration._setup_privateuseone_for_python_backend(NAME)


class Distant(torch.Tensor):
    """A tensor of the second device."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=torch.device(NAME, 0),
        )  # fmt: skip

    def __init__(self, inner):
        self.inner = inner

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self):
        return f"Distant({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), keywords=None):
        return dispatch(function, arguments, keywords or {}, None)


class Devices(TorchDispatchMode):
    """Within it there is a second device; `waits` are the lines at which the host waited."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        return dispatch(function, arguments, keywords or {}, self)


def dispatch(function, arguments, keywords, mode):
    """Do on the CPU what is to be done on whatever device."""
    name = function.overloadpacket.__name__
    flat = pytree.arg_tree_leaves(*arguments, **keywords)
    tensors = [value for value in flat if isinstance(value, torch.Tensor)]
    distant = [value for value in tensors if isinstance(value, Distant)]
    near = [value for value in tensors if not isinstance(value, Distant) and value.ndim]
    target = keywords.get("device")
    if distant and near and name not in MIXES:
        raise RuntimeError(f"{name}: tensors on two devices, cpu and {NAME}")
    if distant and mode is not None:
        leaves = target is not None and torch.device(target).type == "cpu"
        masks = name in ("index", "index_put_") and any(
            value.dtype == torch.bool for value in tensors[1:]
        )
        if name in WAITS or leaves or masks or (name == "copy_" and tensors[0] in near):
            mode.waits.append(line_of_package())
    inner = pytree.tree_map_only(Distant, lambda value: value.inner, (arguments, keywords))
    if target is not None:
        inner[1]["device"] = "cpu"
        goes = torch.device(target).type == NAME
    else:
        goes = bool(distant) if name not in ("copy_", "index_put_") else tensors[0] in distant
    results = function(*inner[0], **inner[1])
    if not goes:
        return results
    known = {id(value.inner): value for value in distant}

    def wrapped(value):
        return known[id(value)] if id(value) in known else Distant(value)

    return pytree.tree_map_only(torch.Tensor, wrapped, results)


def line_of_package():
    """The innermost line of the package that is being run."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(PACKAGE):
            return f"{Path(frame.filename).relative_to(PACKAGE)}:{frame.lineno} {frame.line}"
    return "elsewhere"
