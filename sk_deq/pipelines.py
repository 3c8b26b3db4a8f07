"""From a data frame to an estimator: categories, missing values and scales."""

from numbers import Real

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

__all__ = ["make_tabular_pipeline"]


def make_tabular_pipeline(estimator, *, vectorizer="columns"):
    """Put an estimator behind the preparation that its kernel or network needs.

    Numbers are standardised and softly clipped, so that outliers do not set the scale of all other
    rows; a missing one becomes the mean, and says so in a column of its own.
    All other columns are one-hot encoded; a missing value is a category, and categories that were
    not seen in fit become zeros. Columns are told apart by their dtype when the pipeline is fitted:
    booleans, strings, categories and objects are categorical.

    Parameters
    ----------
    estimator : estimator
        A classifier or regressor, as `DEQKernelRidgeClassifier` or `DEQClassifier`.
    vectorizer : {"columns", "skrub"} or transformer, default="columns"
        "columns" is the above. "skrub": skrub's ``TableVectorizer``, which also understands dates
        and text, then the treatment of numbers. A transformer takes the place of all this.

    Returns
    -------
    pipeline : sklearn.pipeline.Pipeline
        Of the steps "vectorizer" and "estimator".

    Raises
    ------
    ImportError
        If vectorizer="skrub" and skrub is not installed.

    See Also
    --------
    DEQKernelRidgeClassifier : Its defaults were chosen for this preparation.

    Notes
    -----
    Input is a pandas or polars data frame, or an array, whose columns are numbers if its dtype is;
    of objects, as a list of lists is, those columns in which every value is a number or None.

    Examples
    --------
    >>> import pandas as pd
    >>> from sk_deq import DEQKernelRidgeClassifier
    >>> from sk_deq.pipelines import make_tabular_pipeline
    >>> X = pd.DataFrame({"age": [22, 38, None, 35] * 5, "sex": ["m", "f", "f", "m"] * 5})
    >>> model = make_tabular_pipeline(DEQKernelRidgeClassifier(alpha=0.1))
    >>> model.fit(X, ["died", "lived", "lived", "died"] * 5).predict(X[:2])
    array(['died', 'lived'], dtype='<U5')
    """
    if isinstance(vectorizer, str):
        if vectorizer not in _VECTORIZERS:
            raise ValueError(
                f"vectorizer={vectorizer!r} is unknown; use one of {sorted(_VECTORIZERS)} or a "
                "transformer."
            )
        vectorizer = _VECTORIZERS[vectorizer]()
    return Pipeline([("vectorizer", vectorizer), ("estimator", estimator)])


def _numbers():
    values = make_pipeline(
        SimpleImputer(keep_empty_features=True),
        StandardScaler(),
        FunctionTransformer(soft_clip, feature_names_out="one-to-one"),
    )
    both = FeatureUnion(
        [("values", values), ("missing", MissingIndicator(error_on_new=False))],
        verbose_feature_names_out=False,
    )
    return make_pipeline(FunctionTransformer(as_floats, feature_names_out="one-to-one"), both)


def as_floats(X):
    """An array of objects, None among them, as floats; anything else as it is."""
    return X.astype(float) if isinstance(X, np.ndarray) and X.dtype == object else X


def soft_clip(X):
    """x / sqrt(1 + (x / 3)^2): outliers come to rest at 3 standard deviations."""
    return X / np.sqrt(1 + (X / 3) ** 2)


def _by_columns():
    categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    return ColumnTransformer(
        [("numbers", _numbers(), _columns_of_numbers), ("categories", categories, _other_columns)],
        sparse_threshold=0,
        verbose_feature_names_out=False,
    )


def _by_skrub():
    try:
        from skrub import TableVectorizer
    except ImportError as error:
        raise ImportError(
            "vectorizer='skrub' needs the package skrub: pip install skrub, or use "
            "vectorizer='columns'."
        ) from error
    return make_pipeline(TableVectorizer(), _numbers())


_VECTORIZERS = {"columns": _by_columns, "skrub": _by_skrub}


def _columns_of_numbers(X):
    """Names of the columns of a data frame that hold numbers; of an array, indices."""
    return [name for name, dtype in _dtypes(X) if _is_number(name, dtype)]


def _other_columns(X):
    return [name for name, dtype in _dtypes(X) if not _is_number(name, dtype)]


def _dtypes(X):
    if hasattr(X, "columns"):
        return [(name, X[name].dtype) for name in X.columns]
    if X.dtype == object:  # a list of lists, for one
        return [(j, _dtype_of_objects(column)) for j, column in enumerate(X.T)]
    return [(j, X.dtype) for j in range(X.shape[1])]


def _dtype_of_objects(values):
    """float for a column of numbers, of which some may be missing, else object."""
    numbers = [(isinstance(v, Real) and not isinstance(v, bool)) or v is None for v in values]
    return np.dtype(float if all(numbers) else object)


def _is_number(name, dtype):
    """Whether a pandas, polars or numpy dtype is of numbers."""
    if hasattr(dtype, "is_numeric"):  # polars
        temporal, numeric = dtype.is_temporal(), dtype.is_numeric()
    else:
        temporal, numeric = dtype.kind in "mM", dtype.kind in "iuf"
    if temporal:
        raise ValueError(
            f"Column {name!r} holds times, dtype {dtype}; turn them into numbers or use "
            "vectorizer='skrub'."
        )
    return numeric
