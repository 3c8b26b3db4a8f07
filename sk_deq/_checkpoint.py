"""How far a long computation has come, in a file, so that it can go on after its process has died.

The file holds arrays, numbers and texts (NumPy's npz), and nothing that could be run.
"""

import hashlib
import json
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import torch

from ._atomic import remove_unfinished, replaced
from ._state import Reader, Writer

_NAME = "checkpoint.npz"
_CONTENT = "content"  # name of the JSON among the arrays


class Checkpoint:
    """A file in a folder, for one computation.

    Parameters
    ----------
    folder : str or path-like
        Made where there is none.
    parameters : dict
        By name, what the computation is told to do; in other files, differences are named.
    data : tensors
        What it is about.
    start : tensors
        What it begins with.
    every : float, default=0
        Seconds between two times that `offer` writes.

    Raises
    ------
    ValueError
        If the file is damaged, or that of another computation.
    OSError
        If the folder cannot be made or read.
    """

    def __init__(self, folder, parameters, data, start, every=0.0):
        self.path, self.every, self._last = Path(folder) / _NAME, every, time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._identity = {
            "version": sys.modules[__package__].__version__,
            "parameters": {name: described(value) for name, value in parameters.items()},
            "data": digest(data),
            "start": digest(start),
        }
        self.state = self._read()  # None at the beginning
        remove_unfinished(self.path)

    def write(self, state):
        """Put a state, of values that `_state` knows, in the place of the last one."""
        writer = Writer()
        content = json.dumps({**self._identity, "state": writer.write(state)}).encode()
        with replaced(self.path) as file:
            np.savez(file, **{_CONTENT: np.frombuffer(content, np.uint8)}, **writer.arrays)
        self._last = time.monotonic()

    def offer(self, state, *, last):
        """Write a state if it is time to, or the last one."""
        if last or time.monotonic() - self._last >= self.every:
            self.write(state)

    def _read(self):
        if not self.path.exists():
            return None
        try:
            with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            tree = json.loads(arrays.pop(_CONTENT).tobytes())
            found = {name: tree[name] for name in self._identity}
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise self._refusal(f"is damaged ({error})") from error
        self._compare(found)
        return Reader(arrays).read(tree["state"])

    def _compare(self, found):
        """Raise a ValueError where the file is that of another computation."""
        mine = self._identity
        if found["version"] != mine["version"]:
            raise self._refusal(
                f"was written by sk_deq {found['version']}, this is {mine['version']}"
            )
        one, two = found["parameters"], mine["parameters"]
        names = [name for name in one | two if one.get(name) != two.get(name)]
        if names:
            values = ", ".join(f"{name}={one.get(name)} (now {two.get(name)})" for name in names)
            raise self._refusal(f"is of a fit with other parameters: {values}")
        if found["data"] != mine["data"]:
            raise self._refusal(
                "is of a fit to other rows, targets or weights, or of another random_state, which "
                "has chosen other rows"
            )
        if found["start"] != mine["start"]:
            raise self._refusal(
                "is of a fit that began elsewhere: with another random_state, or, by warm_start or "
                "a teacher, from other weights"
            )

    def _refusal(self, what):
        return ValueError(
            f"checkpoint_dir={str(self.path.parent)!r}: its {_NAME} {what}. It stays as it is: "
            "give every fit a folder of its own, or delete the file to begin anew."
        )


def require_seed(estimator):
    """Raise a ValueError for a random_state that no later process could repeat."""
    if estimator.random_state is None:
        raise ValueError(
            "checkpoint_dir needs a random_state: with None, a fit that goes on would draw other "
            "rows and weights than the one that was stopped."
        )


def described(value):
    """A parameter as text, the same in every process."""
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


def digest(tensors):
    """SHA-256 of shapes, dtypes and values."""
    found = hashlib.sha256()
    for tensor in tensors:
        array = tensor.detach().cpu().numpy() if isinstance(tensor, torch.Tensor) else tensor
        found.update(f"{array.shape} {array.dtype}".encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return found.hexdigest()
