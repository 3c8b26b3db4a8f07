"""Files that are there complete or not at all."""

import os
import tempfile
from contextlib import contextmanager
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


@contextmanager
def replaced(path):
    """A binary file to write, which takes the place of `path` when all of it is on the disk.

    Where writing fails, what was at `path` stays as it was.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp keeps its files from others
        os.replace(name, path)
        _sync_folder(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def remove_unfinished(path):
    """Delete what processes that were killed have left of files to replace `path`."""
    for name in path.parent.glob(f".{path.name}.*"):
        name.unlink(missing_ok=True)


def _sync_folder(folder):
    """Bring the new name to the disk too, where folders can be opened."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
