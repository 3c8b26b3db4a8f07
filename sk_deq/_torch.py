"""The one place where devices, dtypes and generators are resolved and arrays become tensors."""

import ctypes
from contextlib import ExitStack, contextmanager, nullcontext
from functools import lru_cache

import numpy as np
import torch
from sklearn.utils import check_random_state
from threadpoolctl import ThreadpoolController

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def resolve_device(device="auto"):
    """Return the torch.device meant by `device`: "auto" is CUDA where there is one, else the CPU.

    Raises
    ------
    ValueError
        If the name is not that of a CPU, CUDA or MPS device, or of one that this machine lacks.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={device!r} is not a torch device; use 'auto', 'cpu' or 'cuda'."
        ) from error
    available = {
        "cpu": lambda: True,
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if device.type not in available:
        raise ValueError(f"device='{device}' is not supported; use 'auto', 'cpu' or 'cuda'.")
    if not available[device.type]():
        raise ValueError(
            f"device='{device}', but torch sees no {device.type.upper()} device; use device='cpu'."
        )
    return device


def devices_like(device):
    """The devices that share work meant for one: all GPUs for "cuda", itself for any other."""
    if str(device) != "cuda":
        return [torch.device(device)]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def present_device(name):
    """The device of that name, or the nearest that this machine has, for what was fitted elsewhere.

    Another GPU where there is one, else the CPU.
    """
    kind, _, index = str(name).partition(":")
    if kind == "cuda" and torch.cuda.is_available():
        return name if int(index or 0) < torch.cuda.device_count() else "cuda"
    return name if kind == "mps" and torch.backends.mps.is_available() else "cpu"


def on_cpu(value):
    """A tensor on the CPU, where any machine can load it; anything else as it is."""
    return value.cpu() if isinstance(value, torch.Tensor) else value


def resolve_dtype(dtype):
    """Return the torch dtype for "float32", "float64" or the numpy or torch dtype of that name.

    Raises
    ------
    ValueError
        For any other dtype.
    """
    if isinstance(dtype, torch.dtype):
        name = str(dtype).removeprefix("torch.")
    else:
        name = np.dtype(dtype).name if not isinstance(dtype, str) else dtype
    if name not in _DTYPES:
        raise ValueError(f"dtype={dtype!r} is not supported; use 'float32' or 'float64'.")
    return _DTYPES[name]


def to_tensor(array, *, dtype=None, device=None):
    """Return `array` (of any array library) as a tensor; shares memory where that is safe.

    A tensor stays on its device if `device` is None; a numpy array is on the CPU.
    """
    if not isinstance(array, torch.Tensor):
        if hasattr(array, "__dlpack__") and not isinstance(array, np.ndarray):
            array = torch.from_dlpack(array)
        else:
            array = np.asarray(array)
            if array.dtype.kind not in "biufc":
                raise ValueError(
                    f"Numbers are needed, not an array of dtype {array.dtype}: convert it first."
                )
            if not array.flags.writeable or any(stride < 0 for stride in array.strides):
                array = array.copy()  # torch cannot wrap read-only or reversed memory
            array = torch.from_numpy(array)
    if array.is_inference() and not torch.is_inference_mode_enabled():
        array = array.clone()  # gradients cannot be taken through such a tensor
    return array.to(device=device, dtype=dtype)


def make_generator(random_state):
    """Return a CPU torch.Generator seeded from `random_state` (None, int or RandomState).

    Drawing on the CPU makes a draw the same whatever device it is used on, and leaves torch's
    global generator alone.
    """
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    return torch.Generator().manual_seed(int(seed))


@lru_cache(maxsize=1)
def _openmp():
    return ThreadpoolController().select(user_api="openmp")


@lru_cache(maxsize=1)
def _set_mkl_threads():
    """MKL's function that sets a thread's own number and returns what it was; int without MKL.

    It is linked into torch, where threadpoolctl does not find it.
    """
    return getattr(ctypes.CDLL(torch._C.__file__), "MKL_Set_Num_Threads_Local", int)


@contextmanager
def single_thread():
    """Run small tensor work of this thread on one thread: starting two costs more than they save.

    Also a decorator. OpenMP keeps the number for each thread by itself, so whatever runs beside is
    left alone, where ``torch.set_num_threads`` would change it for all threads to come. After that,
    MKL goes by a number of its own.
    """
    torch.get_num_threads()  # a new thread's number is set when it is first asked for
    set_mkl_threads = _set_mkl_threads()
    before = set_mkl_threads(1)
    try:
        with _openmp().limit(limits=1):
            yield
    finally:
        set_mkl_threads(before)


def without_autocast(device):
    """A context in which ``torch.autocast`` leaves the precision of tensors on `device` alone."""
    if device.type not in ("cpu", "cuda"):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


@contextmanager
def own_modes(*, grad):
    """Run a fit or a prediction in torch modes of its own, whatever those of its caller.

    Tensors are ordinary ones, not those of ``torch.inference_mode``, with gradients or without;
    new ones are on the CPU, and nothing is cast. Also a decorator.
    """
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.set_grad_enabled(grad))
        if torch.tensor(0.0).device.type != "cpu":  # by torch.set_default_device
            modes.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            modes.enter_context(without_autocast(torch.device(kind)))
        yield
