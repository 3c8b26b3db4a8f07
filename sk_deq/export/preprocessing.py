"""Preparing steps, above all those of `make_tabular_pipeline`, in double precision.

skl2onnx has some of them in single precision only, and others not at all.
"""

from copy import copy

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from ..pipelines import Tidy, as_floats, soft_clip
from .graph import DOUBLE, Graph, inputs_of


def without_tidying(estimator):
    """A fitted pipeline without the step that makes an array of a table: a file has the columns."""
    if not isinstance(estimator, Pipeline):
        return estimator
    steps, kept = [], None
    for name, step in estimator.steps:
        step = without_tidying(step)
        if isinstance(step, Tidy):
            kept = step.kept_
        else:
            steps.append((name, step if kept is None else _of_columns(step, kept)))
            kept = None
    return Pipeline(steps)


def _of_columns(transformer, kept):
    """A fitted ColumnTransformer of the columns `kept` as one of all columns."""
    moved = copy(transformer)
    moved.transformers_ = [
        (name, _of_texts(step), [kept[j] for j in columns])
        for name, step, columns in transformer.transformers_
        if isinstance(transformer, ColumnTransformer) and len(columns)
    ]
    return moved


def _of_texts(step):
    """A fitted OneHotEncoder of texts and None as one of texts; any other step as it is."""
    if not isinstance(step, OneHotEncoder):
        return step
    if any(rare is not None for rare in getattr(step, "infrequent_categories_", [])):
        raise ValueError(
            "A column of more than 100 categories, of which rare ones share a column, cannot be "
            "exported; replace the rare ones by one text before the pipeline."
        )
    changed = copy(step)
    changed.handle_unknown = "ignore"
    changed.categories_ = [
        np.array(["nan" if value is None else value for value in values], dtype=object)
        for values in step.categories_
    ]
    return changed


def _impute(step, x):
    statistics = np.asarray(step.statistics_, dtype=float)
    kept = np.flatnonzero(~np.isnan(statistics))
    values = x.columns(kept) if len(kept) < len(statistics) else x
    values = values.graph.constant(statistics[kept], DOUBLE).where(values.isnan(), values)
    if step.add_indicator:
        values = values.beside(_indicate(step.indicator_, x))
    return values


def _indicate(step, x):
    return x.columns(step.features_).isnan().to(DOUBLE)


def _scale(step, x):
    x = x - step.mean_ if step.with_mean else x
    return x / step.scale_ if step.with_std else x


def _apply(step, x):
    return x if step.func is not soft_clip else x / ((x / 3.0) * (x / 3.0) + 1.0).sqrt()


_FORMULAS = {
    SimpleImputer: _impute,
    MissingIndicator: _indicate,
    StandardScaler: _scale,
    FunctionTransformer: _apply,
}


def _is_ours(step, variables):
    """Whether a formula above is that of the step, for these inputs."""
    from skl2onnx.common.data_types import StringTensorType

    texts = any(isinstance(variable.type, StringTensorType) for variable in variables)
    if isinstance(step, FunctionTransformer):
        if step.func not in (None, as_floats, soft_clip):
            name = getattr(step.func, "__name__", step.func)
            raise ValueError(
                f"func={name} of a FunctionTransformer is a callable, which a file cannot hold; "
                "apply it before the exported pipeline."
            )
        return not (texts and step.func is None)
    if isinstance(step, SimpleImputer | MissingIndicator):
        missing = step.missing_values
        return not texts and isinstance(missing, float) and np.isnan(missing)
    return True


def _shapes(operator):
    from skl2onnx.common._registration import get_shape_calculator
    from skl2onnx.common.data_types import DoubleTensorType

    step = operator.raw_operator
    if not _is_ours(step, operator.inputs):
        return get_shape_calculator(f"Sklearn{type(step).__name__}")(operator)
    n = sum(variable.type.shape[1] for variable in operator.inputs)
    if isinstance(step, SimpleImputer | MissingIndicator):
        n = step.get_feature_names_out().shape[0]
    operator.outputs[0].type = DoubleTensorType([None, n])


def _convert(scope, operator, container):
    from skl2onnx.common._registration import get_converter

    step = operator.raw_operator
    if not _is_ours(step, operator.inputs):
        return get_converter(f"Sklearn{type(step).__name__}")(scope, operator, container)
    graph = Graph(scope, container)
    result = _FORMULAS[type(step)](step, inputs_of(graph, operator))
    graph.node("Identity", result, name=operator.outputs[0].full_name)


CONVERTERS = dict.fromkeys(_FORMULAS, _convert)
SHAPES = dict.fromkeys(_FORMULAS, _shapes)
