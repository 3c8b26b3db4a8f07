"""Files that hold arrays and numbers, and nothing that could be run."""

import hashlib
import json
import sys

from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils.validation import check_is_fitted

from .._atomic import replaced, require_writable
from .._base import DEQEstimator
from .._state import STORABLE, Reader, Writer, is_storable
from .._warn import warn

_FORMAT = 1
_KEY = "sk_deq"


def save(estimator, path):
    """Write a fitted estimator to a file that holds no code.

    Arrays in the safetensors format, and everything else as JSON in its header. `load` reads it.

    Parameters
    ----------
    estimator : estimator
        A fitted estimator of this package.
    path : str or path-like
        File to write; replaced only when the new one is complete.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    TypeError
        If it is of another package, or has a parameter that is code: a callable as ``activation``,
        ``callbacks``.
    OSError
        If the path cannot be written.

    See Also
    --------
    to_onnx : A file that computes predictions elsewhere.
    trusted_types : For skops, which saves whole pipelines.

    Notes
    -----
    Predictions of what is loaded are the same bit for bit on the same machine. What trains on with
    ``partial_fit`` begins with a new optimiser, as after a pickle.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_iris
    >>> from sk_deq import EquivalentExplicitClassifier
    >>> from sk_deq.export import load, save
    >>> X, y = load_iris(return_X_y=True)
    >>> model = EquivalentExplicitClassifier(width=16, random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, os.path.join(folder, "iris.safetensors"))
    ...     again = load(os.path.join(folder, "iris.safetensors"))
    >>> bool((again.predict_proba(X) == model.predict_proba(X)).all())
    True
    """
    safetensors = _safetensors("save")
    if not isinstance(estimator, DEQEstimator) or not is_storable(estimator):
        raise TypeError(
            f"save takes the estimators of sk_deq, got {type(estimator).__name__}; for pipelines "
            "and others use skops with sk_deq.export.trusted_types()."
        )
    check_is_fitted(estimator)
    path = require_writable(path)
    writer = Writer()
    content = json.dumps(
        {"format": _FORMAT, "version": _version(), "estimator": writer.write(estimator)}
    )
    metadata = {_KEY: f"{digest(content, writer.arrays)} {content}"}
    with replaced(path) as file:
        file.write(safetensors.numpy.save(writer.arrays, metadata))


def load(path):
    """Read an estimator from a file that `save` has written; no code in it is run.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    estimator
        As it was, on its device or the nearest that this machine has.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    ValueError
        If the file is damaged, or not one of `save`, or of a later version that this one cannot
        read.

    Warns
    -----
    sklearn.exceptions.InconsistentVersionWarning
        If the file was written by another version of this package.

    See Also
    --------
    save : Write such a file.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from sk_deq import KernelMatcher
    >>> from sk_deq.export import load, save
    >>> X = np.eye(3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(KernelMatcher(16).fit(X), os.path.join(folder, "matcher"))
    ...     load(os.path.join(folder, "matcher")).transform(X).shape
    (3, 16)
    """
    safetensors = _safetensors("load")
    try:
        with safetensors.safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"path={str(path)!r} is damaged or not a safetensors file: {error}"
        ) from error
    if _KEY not in metadata:
        raise ValueError(f"path={str(path)!r} was not written by sk_deq.export.save.")
    checksum, _, content = metadata[_KEY].partition(" ")
    if checksum != digest(content, arrays):
        raise ValueError(f"path={str(path)!r} is damaged: its checksum is not that of its content.")
    tree = json.loads(content)
    if tree["format"] > _FORMAT:
        raise ValueError(
            f"path={str(path)!r} was written by sk_deq {tree['version']}, in a format that version "
            f"{_version()} cannot read; install that version or a later one."
        )
    if tree["version"] != _version():
        warn(_OtherVersion(tree["estimator"].get("class"), tree["version"]), None)
    try:
        estimator = Reader(arrays).read(tree["estimator"])
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"path={str(path)!r} does not describe an estimator of sk_deq {_version()}: {error!r}"
        ) from error
    if not isinstance(estimator, DEQEstimator):
        raise ValueError(f"path={str(path)!r} does not describe an estimator of sk_deq.")
    return estimator


def trusted_types():
    """List the types of this package that a skops file of its estimators holds.

    skops saves whole pipelines, and loads no type that it does not know or is not told to trust.
    The estimators are all there is: what they have learned is plain values and arrays.

    Returns
    -------
    list of str
        For ``trusted=`` of ``skops.io.load``.

    See Also
    --------
    save : Files of single estimators.

    Examples
    --------
    >>> from sk_deq.export import trusted_types
    >>> trusted_types()[0]
    'sk_deq._kernel_matcher.KernelMatcher'
    """
    estimators = [cls for cls in STORABLE.values() if issubclass(cls, DEQEstimator)]
    public = sys.modules[__package__.partition(".")[0]].__all__
    return [f"{cls.__module__}.{cls.__name__}" for cls in estimators if cls.__name__ in public]


class _OtherVersion(InconsistentVersionWarning):
    """scikit-learn's warning, of this package and of files."""

    def __init__(self, name, version):
        super().__init__(
            estimator_name=name, current_sklearn_version=_version(),
            original_sklearn_version=version,
        )  # fmt: skip

    def __str__(self):
        return (
            f"Loading {self.estimator_name} from a file of sk_deq {self.original_sklearn_version} "
            f"with sk_deq {self.current_sklearn_version}: this might lead to errors or to other "
            "predictions. Fit it anew with this version."
        )


def _version():
    return sys.modules[__package__.partition(".")[0]].__version__


def digest(content, arrays):
    """SHA-256 of the JSON and the arrays: files that were cut or changed by accident are found."""
    digest = hashlib.sha256(content.encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(arrays[name].data if arrays[name].size else b"")
    return digest.hexdigest()


def _safetensors(function):
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            f"{function} needs the package safetensors: pip install 'sk-deq[files]'."
        ) from error
    return safetensors
