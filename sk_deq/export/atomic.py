"""Files that are there complete or not at all."""

import os
import tempfile
from pathlib import Path


def require_writable(path):
    """The path, if a file can be written there.

    Raises
    ------
    OSError
        If its folder does not exist, or it is a folder itself.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path={str(path)!r} is a folder; give the name of a file.")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"path={str(path)!r} cannot be written: there is no folder {str(path.parent)!r}."
        )
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(
            f"path={str(path)!r} cannot be written: no permission for folder {str(path.parent)!r}."
        )
    return path


def write_atomically(path, data):
    """Write bytes to a file, which has its old content until all of the new is there."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp keeps its files from others
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
