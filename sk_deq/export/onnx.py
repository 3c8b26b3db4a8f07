"""ONNX: fitted estimators, and pipelines around them, as files that onnxruntime computes."""

from functools import partial

import numpy as np
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .._array_api import to_numpy
from .._atomic import replaced, require_writable
from .._kernel_matcher import KernelMatcher
from .._nets.deq_classifier import DEQClassifier
from .._nets.deq_regressor import DEQRegressor
from .._nets.explicit_classifier import EquivalentExplicitClassifier
from .._nets.explicit_regressor import EquivalentExplicitRegressor
from .._ridge.classifier import DEQKernelRidgeClassifier
from .._ridge.regressor import DEQKernelRidge
from .graph import DOUBLE, Graph, inputs_of
from .models import matcher_features, n_steps_for, network_outputs, ridge_decision
from .preprocessing import CONVERTERS, SHAPES, without_tidying

_DEQS = (DEQClassifier, DEQRegressor)
_NETWORKS = (*_DEQS, EquivalentExplicitClassifier, EquivalentExplicitRegressor)
_RIDGES = (DEQKernelRidge, DEQKernelRidgeClassifier)
_OPSET = {"": 18, "ai.onnx.ml": 3}


def to_onnx(estimator, path, X=None, *, residual=1e-5):
    """Write a fitted estimator, or a pipeline around one, to an ONNX file.

    The file needs neither torch nor this package: onnxruntime computes from it what ``predict`` and
    ``predict_proba``, or ``transform``, compute.

    Parameters
    ----------
    estimator : estimator
        A fitted estimator of this package, or a scikit-learn pipeline around one whose other steps
        skl2onnx can convert; `sk_deq.pipelines.make_tabular_pipeline` makes one such.
    path : str or path-like
        File to write; replaced only when the new one is complete.
    X : array-like or data frame of shape (n_samples, n_features), default=None
        Some rows, as ``predict`` takes them. A data frame tells the types of its columns, each of
        which becomes an input of its own; needed where a pipeline tells columns apart. A DEQ needs
        rows on which the number of its iterations is chosen.
    residual : float, default=1e-5
        Relative residual below which the rows of X are to be after the iterations of a DEQ, which
        are a fixed number in the file.

    Returns
    -------
    onnx.ModelProto
        What was written. Inputs: ``X``, or the columns of the data frame, each (n, 1): numbers,
        and strings for texts, categories and booleans ("True", "False"). Outputs:
        ``label`` and ``probabilities`` of a classifier, else ``variable``, always with two axes. Of
        a DEQ also ``residual``, that of each row.

    Raises
    ------
    ImportError
        If skl2onnx is not installed.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    ValueError
        If there is no finite formula, as of a DEQ with a callable as its activation or of a kernel
        that is not a function of an angle; the message says what to do instead.
    OSError
        If the path cannot be written.

    See Also
    --------
    save : A file that can be loaded again.

    Notes
    -----
    Computed in double precision, networks in their own. A KernelMatcher of rows of any norms gives
    NaN for rows whose norm is more than 16 times beyond those of fit.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_iris
    >>> from sk_deq import DEQKernelRidgeClassifier
    >>> from sk_deq.export import to_onnx
    >>> X, y = load_iris(return_X_y=True)
    >>> model = DEQKernelRidgeClassifier().fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     onnx_model = to_onnx(model, os.path.join(folder, "iris.onnx"))
    >>> [output.name for output in onnx_model.graph.output]
    ['label', 'probabilities']
    """
    check_is_fitted(estimator)
    path = require_writable(path)
    try:
        from skl2onnx import convert_sklearn
    except ImportError as error:
        raise ImportError(
            "to_onnx needs the packages onnx and skl2onnx: pip install 'sk-deq[onnx]'."
        ) from error
    before, last = _split(estimator)
    n_steps = None
    if isinstance(last, _DEQS):
        n_steps = n_steps_for(last, _rows_for_steps(last, before, X), residual)
    convert = {cls: partial(_convert, n_steps=n_steps) for cls in (*_NETWORKS, *_RIDGES)}
    convert |= {KernelMatcher: partial(_convert, n_steps=None)}
    model = convert_sklearn(
        without_tidying(estimator), name=type(last).__name__,
        initial_types=_inputs(estimator, last, X),
        target_opset=_OPSET,
        custom_conversion_functions=convert | CONVERTERS,
        custom_shape_calculators=dict.fromkeys(convert, _shapes) | SHAPES,
        custom_parsers=dict.fromkeys(convert, _parse),
        options={"zipmap": False} if is_classifier(last) and type(last) not in convert else None,
    )  # fmt: skip
    with replaced(path) as file:
        file.write(model.SerializeToString())
    return model


def _split(estimator):
    """The steps before the last of a pipeline, if it is one, and the last estimator."""
    before = []
    while isinstance(estimator, Pipeline):
        before.append(estimator[:-1])
        estimator = estimator[-1]
    return before, estimator


def _rows_for_steps(deq, before, X):
    """Rows of X as they reach a DEQ."""
    if X is None:
        name = type(deq).__name__
        explicit = name.replace("DEQ", "EquivalentExplicit")
        raise ValueError(
            f"A {name} becomes a fixed number of iterations, chosen on rows: give X, training rows "
            f"for one. {explicit}.from_deq(deq, teacher=deq) makes an explicit network, which "
            "needs none."
        )
    for steps in before:
        X = steps.transform(X) if len(steps) else X
    return np.asarray(X, dtype=float)


def _inputs(estimator, last, X):
    """Names and types of the inputs, as skl2onnx takes them."""
    from skl2onnx.common import data_types

    def tensor(dtype, width):
        kind = np.dtype(dtype).kind if isinstance(dtype, np.dtype) else "O"
        types = {"f": "Double", "i": "Int64", "u": "Int64", "b": "Boolean"}
        name = "Float" if dtype == np.float32 else types.get(kind, "String")
        return getattr(data_types, f"{name}TensorType")([None, width])

    if hasattr(X, "columns"):
        frame = X if hasattr(X, "iloc") else X.to_pandas()
        return [(str(name), tensor(_numpy_dtype(frame[name].dtype), 1)) for name in frame.columns]
    n_features = getattr(estimator, "n_features_in_", None)
    if X is None and estimator is not last and hasattr(estimator, "feature_names_in_"):
        raise ValueError(
            "A pipeline that was fitted to a data frame needs X: a few rows, which tell the types "
            "of its columns."
        )
    like = np.asarray(X) if X is not None else getattr(last, "_like", np.empty(0))
    return [("X", tensor(np.dtype(str(like.dtype).removeprefix("torch.")), n_features))]


def _numpy_dtype(dtype):
    """The numpy dtype of a pandas dtype of numbers; object for texts, categories and booleans."""
    return getattr(dtype, "numpy_dtype", dtype) if getattr(dtype, "kind", "O") in "fiu" else object


def _parse(scope, model, inputs, custom_parsers=None):
    """Declare the outputs of an estimator."""
    from skl2onnx.common import data_types

    operator = scope.declare_local_operator(None, model)
    operator.inputs = inputs
    names = ["label", "probabilities"] if is_classifier(model) else ["variable"]
    for name in names + ["residual"] * isinstance(model, _DEQS):
        operator.outputs.append(scope.declare_local_variable(name, data_types.DoubleTensorType()))
    return operator.outputs


def _shapes(operator):
    """Set the types and shapes of the outputs."""
    from skl2onnx.common import data_types

    model, outputs = operator.raw_operator, operator.outputs
    real = data_types.DoubleTensorType if _dtype(model) == DOUBLE else data_types.FloatTensorType
    if is_classifier(model):
        label = {"i": "Int64", "u": "Int64", "b": "Boolean", "f": "Double"}.get(
            to_numpy(model.classes_).dtype.kind, "String"
        )
        outputs[0].type = getattr(data_types, f"{label}TensorType")([None])
        outputs[1].type = real([None, len(model.classes_)])
    else:
        outputs[0].type = real([None, None])
    if isinstance(model, _DEQS):
        outputs[-1].type = real([None, 1])


def _dtype(model):
    """The precision of what an estimator gives."""
    if isinstance(model, KernelMatcher):
        weight = model.weights_[0]
    elif isinstance(model, _NETWORKS) and is_classifier(model):
        weight = model.module_.readout.weight
    else:
        return DOUBLE
    return np.dtype(str(weight.dtype).removeprefix("torch."))


def _convert(scope, operator, container, *, n_steps):
    """Add the formula of an estimator to a graph."""
    model, graph = operator.raw_operator, Graph(scope, container)
    x = inputs_of(graph, operator)
    residual = None
    if isinstance(model, KernelMatcher):
        results = [matcher_features(model, x)]
    elif isinstance(model, _RIDGES):
        results = [ridge_decision(model, x)]
        if is_classifier(model):
            results = _labels(model, *_ridge_scores(model, results[0]))
    else:
        outputs, residual = network_outputs(model, x, n_steps)
        if is_classifier(model):
            results = _labels(model, outputs, outputs)
        else:
            task = model._task
            results = [outputs.to(DOUBLE) * task.scale + task.mean]
    results += [] if residual is None else [residual.to(_dtype(model))]
    for value, variable in zip(results, operator.outputs, strict=True):
        graph.node("Identity", value, name=variable.full_name)


def _ridge_scores(model, decision):
    """Scores of the classes, and what the softmax is of."""
    if len(model.classes_) == 2:
        decision = (decision * -0.5).beside(decision * 0.5)
    return decision, decision * getattr(model, "temperature_", 1.0)


def _labels(model, scores, logits):
    """Labels (n,) and probabilities (n, n_classes)."""
    classes = to_numpy(model.classes_)
    kind = {"i": np.int64, "u": np.int64}.get(classes.dtype.kind, classes.dtype)
    if classes.dtype.kind not in "iubf":
        classes, kind = classes.astype(object), object
    labels = scores.graph.constant(classes, kind).take(scores.argmax())
    return [labels, logits.softmax()]
