"""From a data frame to an estimator: categories, missing values and scales."""

from datetime import date, time, timedelta
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from ._warn import warn

__all__ = ["make_tabular_pipeline"]

_MAX_CATEGORIES = 100  # of a column: the rarer ones share one
_ID = 0.9  # share of rows with a value of their own from which a column names its rows ...
_FEW = 20  # ... unless it has no more values than this


def make_tabular_pipeline(estimator: Any, *, vectorizer: Any = "columns") -> Pipeline:
    """Put an estimator behind the preparation that its kernel or network needs.

    Numbers are standardised and softly clipped, so that outliers do not set the scale of all other
    rows; a missing one becomes the mean, and says so in a column of its own.
    All other columns are one-hot encoded; a missing value is a category, be it None, NaN or NA, and
    categories that were not seen in fit become zeros. Of more than 100 categories in a column the
    rare ones share one. A column of strings in which nearly every row has a value of its own, as
    names and ids are, is left out, with a warning. Columns are told apart when the pipeline is
    fitted: booleans, strings and categories are categorical, objects unless all are numbers.

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
    ValueError
        From fit, if a column holds dates or times; from predict, if columns are missing.

    Warns
    -----
    UserWarning
        From fit, if a column is left out.

    See Also
    --------
    DEQKernelRidgeClassifier : Its defaults were chosen for this preparation.

    Notes
    -----
    Input is a pandas or polars data frame, an array, or a list of lists. Columns of a frame are
    found by their names, which may be integers, in whatever order they stand.

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


class Tidy(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """Any kind of table as an array: of floats, or of objects that are floats or strings or None.

    Columns are those of fit, found by name, without those that only name their rows.
    """

    def fit(self, X, y=None):
        labels, columns = _columns_of(X)
        for name in ("labels_", "feature_names_in_"):
            vars(self).pop(name, None)
        if hasattr(X, "columns"):
            self.labels_ = labels
            if all(isinstance(label, str) for label in labels):
                self.feature_names_in_ = np.array(labels, dtype=object)
        self.n_features_in_ = len(columns)
        self.is_number_ = [_holds_numbers(*pair) for pair in zip(labels, columns, strict=True)]
        self.kept_ = [
            j for j, column in enumerate(columns) if self.is_number_[j] or not _names_rows(column)
        ]
        left_out = [label for j, label in enumerate(labels) if j not in self.kept_]
        if left_out:
            warn(
                f"Columns {left_out} are left out: nearly every row has a value of its own there, "
                "from which nothing can be learnt about other rows. Drop them, or use "
                "vectorizer='skrub' where their text says something.",
                UserWarning,
            )
        if not self.kept_:
            raise ValueError("X has no columns to learn from.")
        return self

    def transform(self, X):
        check_is_fitted(self)
        labels, columns = _columns_of(X)
        if hasattr(self, "labels_") and hasattr(X, "columns"):
            missing = [label for label in self.labels_ if label not in labels]
            if missing:
                raise ValueError(f"X lacks the columns {missing}, which were there in fit.")
            if labels != self.labels_:
                columns = [columns[labels.index(label)] for label in self.labels_]
                labels = self.labels_
        elif len(columns) != self.n_features_in_:
            raise ValueError(f"X has {len(columns)} columns, but had {self.n_features_in_} in fit.")
        values = [
            _floats(labels[j], columns[j]) if self.is_number_[j] else _strings(columns[j])
            for j in self.kept_
        ]
        all_numbers = all(self.is_number_[j] for j in self.kept_)
        out = np.empty((len(values[0]), len(values)), dtype=float if all_numbers else object)
        for j, column in enumerate(values):
            out[:, j] = column
        return out

    def get_feature_names_out(self, input_features=None):
        return _check_feature_names_in(self, input_features)[self.kept_]

    def set_output(self, *, transform=None):
        """Leave the output an array: what follows takes its columns by position."""
        return self


def _columns_of(X):
    """Labels and columns of a table: Series, arrays, or lists where it is of objects."""
    if issparse(X):
        raise TypeError("X is sparse: pass X.toarray(), or use a vectorizer for sparse input.")
    if hasattr(X, "to_frame") and not hasattr(X, "columns"):
        raise ValueError("X is a Series: pass a data frame, X.to_frame() for one of one column.")
    if hasattr(X, "iloc"):
        return list(X.columns), [X.iloc[:, j] for j in range(X.shape[1])]
    if hasattr(X, "get_columns"):  # polars
        return list(X.columns), X.get_columns()
    if hasattr(X, "to_pandas"):
        return _columns_of(X.to_pandas())
    X = np.array(X, dtype=object) if isinstance(X, list | tuple) else np.asarray(X)
    if X.ndim != 2:
        raise ValueError(
            f"X must have rows and columns, but has {X.ndim} dimension{'s' * (X.ndim != 1)}; "
            "reshape it: X.reshape(-1, 1) is one column, X.reshape(1, -1) one row."
        )
    return list(range(X.shape[1])), list(X.T)


def _objects(column):
    """The values of a column, None where one is missing."""
    if hasattr(column, "to_list"):  # of pandas and polars
        values = column.to_list()
    else:
        values = column.tolist()
    return [None if _is_missing(value) else value for value in values]


def _is_missing(value):
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' NA and NaT
        return True
    return isinstance(value, Real | Decimal) and value != value


def _holds_numbers(label, column):
    """Whether a column is of numbers; one of times is refused."""
    dtype = column.dtype
    if hasattr(dtype, "is_numeric"):  # polars
        temporal, numeric = dtype.is_temporal(), dtype.is_numeric()
    else:
        temporal = dtype.kind in "mM" or str(dtype).startswith("period")
        numeric = dtype.kind in "iuf"
    if numeric:
        return True
    values = [] if temporal else _objects(column)
    times = date, time, timedelta, np.datetime64, np.timedelta64
    if temporal or any(isinstance(v, times) or type(v).__name__ == "Period" for v in values):
        raise ValueError(
            f"Column {label!r} holds times, dtype {dtype}; turn them into numbers or use "
            "vectorizer='skrub'."
        )
    for value in values:
        if isinstance(value, list | tuple | dict | set | np.ndarray):
            raise ValueError(
                f"Column {label!r} holds values of type {type(value).__name__}; make columns of "
                "numbers or strings of them."
            )
    present = [v for v in values if v is not None]
    if str(dtype) == "category" or not present:
        return False
    return all(isinstance(v, Real | Decimal) and not isinstance(v, bool) for v in present)


def _names_rows(column):
    """Whether nearly every row has a value of its own."""
    values = [value for value in _strings(column) if value is not None]
    distinct = len(set(values))
    return distinct > max(_FEW, _ID * len(values))


def _floats(label, column):
    """A column of numbers as floats, NaN where one is missing."""
    dtype = column.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "iuf":
        return np.asarray(column, dtype=float)
    if hasattr(dtype, "is_numeric") and dtype.is_numeric():  # polars
        return column.cast(float).to_numpy()
    try:
        return np.array([np.nan if v is None else float(v) for v in _objects(column)], dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Column {label!r} held numbers in fit, and now holds others: {error}."
        ) from error


def _strings(column):
    """A column of categories as strings, None where one is missing; 1 and 1.0 are the same."""
    return [
        None if v is None else str(int(v)) if isinstance(v, float) and v.is_integer() else str(v)
        for v in _objects(column)
    ]


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
    """An array of objects as floats; anything else as it is."""
    return X.astype(float) if isinstance(X, np.ndarray) and X.dtype == object else X


def soft_clip(X):
    """x / sqrt(1 + (x / 3)^2): outliers come to rest at 3 standard deviations."""
    return X / np.sqrt(1 + (X / 3) ** 2)


def _by_columns():
    categories = OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=_MAX_CATEGORIES, sparse_output=False
    )
    columns = ColumnTransformer(
        [("numbers", _numbers(), _columns_of_numbers), ("categories", categories, _other_columns)],
        sparse_threshold=0,
        verbose_feature_names_out=False,
    )
    return make_pipeline(Tidy(), columns)


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
    """Indices of the columns of a tidy array that hold numbers."""
    return [j for j in range(X.shape[1]) if isinstance(X[0, j], float)]


def _other_columns(X):
    return [j for j in range(X.shape[1]) if not isinstance(X[0, j], float)]
