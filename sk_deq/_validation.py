"""scikit-learn's validation of rows, with a remedy where a table is not ready for an estimator."""

from sklearn.utils.validation import validate_data as sklearn_validate_data

from ._torch import to_tensor
from ._warn import warn

_UNEVEN = 1e4  # ratio of variances that is worth a word
_ROWS = 1000  # of the table are looked at
_REMEDY = "make_tabular_pipeline of sk_deq.pipelines"


def validate_data(estimator, X, *args, reset=True, **kwargs):
    """Like scikit-learn's `validate_data`.

    Raises
    ------
    ValueError
        scikit-learn's own; where it is for strings or missing cells in X, with the remedy.

    Warns
    -----
    UserWarning
        If `reset`, which is so in fits, and the scales of the columns are very uneven.
    """
    try:
        checked = sklearn_validate_data(estimator, X, *args, reset=reset, **kwargs)
    except ValueError as error:
        if _needs_preparation(str(error)):
            raise ValueError(
                f"{error}\n{_REMEDY} encodes categories and fills in missing cells: "
                f"make_tabular_pipeline({type(estimator).__name__}())."
            ) from error
        raise
    if reset:
        _warn_of_scales(estimator, checked[0] if isinstance(checked, tuple) else checked)
    return checked


def warn_of_one_row(n_rows):
    """Warn where the first call of partial_fit brings one row."""
    if n_rows == 1:
        warn(
            "The first call of partial_fit brings one row, and it settles the scale of the input, "
            "and landmarks that are not given, for all calls. Begin with more rows.",
            UserWarning,
        )


def _needs_preparation(message):
    """Whether an error of scikit-learn's is for strings or missing cells in X."""
    return "could not convert string" in message or "Input X contains NaN" in message


def _warn_of_scales(estimator, X):
    """Warn where a column's variance is far larger than another's, of those not nearly constant.

    Columns that have one value in more than half of the rows, such as those of one-hot code or
    pixels at the edge of images, do not count.
    """
    rows = to_tensor(X[:: max(1, len(X) // _ROWS)]).double()
    if len(rows) < 10:
        return
    ordered = rows.sort(0).values
    spread = ordered[3 * len(rows) // 4] > ordered[len(rows) // 4]
    columns = spread.nonzero()[:, 0]
    if len(columns) < 2:
        return
    variances = rows[:, columns].var(0)
    low, high = variances.argmin(), variances.argmax()
    ratio = float(variances[high] / variances[low])
    if not ratio >= _UNEVEN:
        return
    names = getattr(estimator, "feature_names_in_", range(X.shape[1]))
    small, large = (names[int(columns[i])] for i in (low, high))
    warn(
        f"Columns differ much in scale: the variance of column {large!r} is {ratio:.0e} times that "
        f"of {small!r}, which then hardly counts. Scale them, by make_pipeline(StandardScaler(), "
        f"{type(estimator).__name__}()) or {_REMEDY}.",
        UserWarning,
    )
