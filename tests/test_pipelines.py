"""make_tabular_pipeline on small made-up frames."""

import datetime
from decimal import Decimal

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.preprocessing import MinMaxScaler

from sk_deq import DEQKernelRidge, DEQKernelRidgeClassifier
from sk_deq.pipelines import make_tabular_pipeline

pd = pytest.importorskip("pandas", reason="data frames are of pandas")


def _passengers(n=80, seed=0):
    """Numbers with holes, strings with holes, categories, booleans; and who survived."""
    rng = np.random.default_rng(seed)
    sex = rng.choice(["m", "f"], n)
    frame = pd.DataFrame(
        {
            "age": np.where(rng.random(n) < 0.2, np.nan, rng.normal(30, 10, n)),
            "siblings": rng.integers(0, 4, n),
            "sex": sex,
            "deck": pd.Series(rng.choice(["A", "B", "C"], n), dtype="category"),
            "alone": rng.random(n) < 0.5,
        }
    )
    frame.loc[rng.random(n) < 0.3, "deck"] = np.nan
    y = np.where((sex == "f") | (frame["siblings"] == 3), "lived", "died")
    return frame, y


def _encoded(X):
    return make_tabular_pipeline(LogisticRegression())[0].fit_transform(X)


def test_columns_and_their_values():
    X = pd.DataFrame({"a": [1.0, 3.0, np.nan], "b": ["u", None, "v"], "c": [True, False, True]})
    one = 1.5**0.5 / np.sqrt(1 + 1.5 / 9)  # softly clipped
    expected = [
        # a, a is missing, b = u, v, missing, c = False, True
        [-one, 0, 1, 0, 0, 0, 1],
        [one, 0, 0, 0, 1, 1, 0],
        [0, 1, 0, 1, 0, 0, 1],
    ]
    np.testing.assert_allclose(_encoded(X), expected)


def test_what_was_not_seen_in_fit():
    X = pd.DataFrame({"a": [1.0, 3.0], "b": ["u", "v"], "empty": [np.nan, np.nan]})
    vectorizer = make_tabular_pipeline(LogisticRegression())[0].fit(X)
    new = pd.DataFrame({"a": [np.nan], "b": ["w"], "empty": [5.0]})
    out = vectorizer.transform(new)
    assert np.isfinite(out).all()
    a, b = out[0, :1], out[0, -2:]
    np.testing.assert_array_equal(a, 0)
    np.testing.assert_array_equal(b, [0, 0])


def test_outliers_do_not_dominate():
    X = np.append(np.random.default_rng(0).normal(size=99), 1e6)[:, None]
    out = _encoded(X)
    assert np.abs(out).max() <= 3.0
    assert (np.diff(out[np.argsort(X[:, 0]), 0]) >= 0).all()


def test_kinds_of_frame_give_the_same():
    pl = pytest.importorskip("polars", reason="a data frame of polars")
    X, _ = _passengers()
    reference = _encoded(X)
    columns = {name: X[name].astype(object).to_list() for name in X}
    columns["deck"] = [None if isinstance(v, float) else v for v in columns["deck"]]
    polars = pl.DataFrame(columns)
    np.testing.assert_allclose(_encoded(polars), reference)
    nullable = X.assign(siblings=X["siblings"].astype("Int64"), age=X["age"].astype("Float64"))
    np.testing.assert_allclose(_encoded(nullable), reference)
    numbers = X[["age", "siblings"]]
    np.testing.assert_allclose(_encoded(numbers.to_numpy()), _encoded(numbers))


def test_classifier_with_missing_values_and_categories():
    X, y = _passengers(160)
    model = make_tabular_pipeline(DEQKernelRidgeClassifier(random_state=0))
    assert cross_val_score(model, X, y, cv=3).mean() > 0.9
    p = model.fit(X[:80], y[:80]).predict_proba(X[80:])
    assert p.shape == (80, 2) and np.isfinite(p).all()


def test_regressor_in_a_grid():
    X, _ = _passengers(100)
    y = X["siblings"] + (X["sex"] == "f")
    model = make_tabular_pipeline(DEQKernelRidge(hyperparameters=None))
    search = GridSearchCV(model, {"estimator__alpha": [0.01, 1.0]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.8
    assert clone(model).named_steps.keys() == {"vectorizer", "estimator"}


def test_another_vectorizer():
    X = np.arange(12.0).reshape(6, 2)
    model = make_tabular_pipeline(LogisticRegression(), vectorizer=MinMaxScaler())
    assert isinstance(model[0], MinMaxScaler)
    model.fit(X, [0, 0, 0, 1, 1, 1])


def test_a_list_of_lists_has_columns_of_numbers():
    X, y = np.random.default_rng(0).normal(size=(40, 3)), [0, 1] * 20
    rows = [[*row, name] for row, name in zip(X.tolist(), "abcd" * 10, strict=True)]
    rows[3][1] = None
    pipeline = make_tabular_pipeline(LogisticRegression()).fit(rows, y)
    # three numbers, whether the second is missing, four categories
    assert pipeline["estimator"].n_features_in_ == 8
    numbers = make_tabular_pipeline(LogisticRegression()).fit(X.tolist(), y)
    assert_allclose(
        numbers.predict_proba(X),
        make_tabular_pipeline(LogisticRegression()).fit(X, y).predict_proba(X),
    )


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match=r"vectorizer='scrub' is unknown; use one of"):
        make_tabular_pipeline(LogisticRegression(), vectorizer="scrub")
    X = pd.DataFrame({"when": pd.date_range("2024-01-01", periods=4), "a": range(4)})
    with pytest.raises(ValueError, match=r"'when' holds times.*skrub"):
        make_tabular_pipeline(LogisticRegression()).fit(X, [0, 1, 0, 1])


def test_skrub_or_an_error_that_says_how_to_get_it():
    X, y = _passengers(60)
    try:
        import skrub  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install skrub"):
            make_tabular_pipeline(LogisticRegression(), vectorizer="skrub")
    else:
        model = make_tabular_pipeline(LogisticRegression(), vectorizer="skrub")
        assert model.fit(X, y).score(X, y) > 0.9


def test_columns_are_found_by_their_names_even_if_those_are_integers():
    X, y = _passengers()
    X.columns = [3, 1, 4, 0, 2]
    model = make_tabular_pipeline(LogisticRegression()).fit(X, y)
    expected = model.predict_proba(X)
    assert_allclose(model.predict_proba(X[[0, 1, 2, 3, 4]]), expected)
    assert_allclose(model.predict_proba(X.assign(more=1)), expected)
    with pytest.raises(ValueError, match=r"lacks the columns \[4\]"):
        model.predict(X.drop(columns=4))
    named = X.rename(columns=str)
    model.fit(named, y)
    assert list(model.feature_names_in_) == list("31402")
    assert_allclose(model.predict_proba(named[sorted(named)]), expected)


def test_gaps_of_all_kinds_are_one_and_may_come_at_predict_only():
    full = pd.DataFrame({"a": [1.0, 3.0, 5.0], "b": ["u", "v", "u"], "c": [True, False, True]})
    vectorizer = make_tabular_pipeline(LogisticRegression())[0].fit(full)
    for gap in (None, np.nan, pd.NA, pd.NaT):
        row = pd.DataFrame({"a": [gap], "b": [gap], "c": [gap]}, dtype=object)
        np.testing.assert_array_equal(vectorizer.transform(row), np.zeros((1, 5)))
        holes = pd.DataFrame({"a": [1.0, gap, 3.0], "b": ["u", gap, "v"], "c": [True, gap, False]})
        # a, a is missing, b = u, v, missing, c = False, True, missing
        np.testing.assert_allclose(_encoded(holes)[1], [0, 1, 0, 0, 1, 0, 0, 1], atol=1e-12)


def test_dtypes_of_pandas_and_of_polars_give_the_same():
    X, _ = _passengers()
    reference = _encoded(X)
    assert_allclose(_encoded(X.convert_dtypes()), reference)
    assert_allclose(_encoded(X.astype({"sex": object, "age": object})), reference)
    pyarrow = pytest.importorskip("pyarrow", reason="its dtypes are pyarrow's")
    assert_allclose(_encoded(X.convert_dtypes(dtype_backend="pyarrow")), reference)
    assert_allclose(_encoded(pyarrow.Table.from_pandas(X)), reference)


def test_strings_and_integers_in_one_column():
    X = pd.DataFrame({"a": [1, "x", 2, None] * 5})
    out = _encoded(X)
    np.testing.assert_array_equal(out[:4], np.eye(4)[[0, 2, 1, 3]])
    vectorizer = make_tabular_pipeline(LogisticRegression())[0].fit(X)
    one = vectorizer.transform(pd.DataFrame({"a": [1.0, 2.0]}))  # as a gap elsewhere makes it
    np.testing.assert_array_equal(one, np.eye(4)[[0, 1]])


def test_numbers_in_columns_of_objects_are_numbers():
    X = pd.DataFrame({"a": [Decimal("1.5"), 2, np.float32(4), None] * 5})
    assert_allclose(_encoded(X), _encoded(X.astype(float)))
    model = make_tabular_pipeline(LogisticRegression()).fit(X, [0, 1, 0, 1] * 5)
    with pytest.raises(ValueError, match=r"'a' held numbers in fit.*'x'"):
        model.predict(pd.DataFrame({"a": ["x"]}))


@pytest.mark.parametrize(
    "value",
    [datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1), pd.Timedelta(1), pd.Period("2024")],
    ids=str,
)
def test_times_in_any_dress_are_refused_by_name(value):
    for values in (pd.Series([value] * 4), pd.Series([value, None] * 2, dtype=object)):
        with pytest.raises(ValueError, match=r"'when' holds times.*skrub"):
            make_tabular_pipeline(LogisticRegression()).fit(
                pd.DataFrame({"when": values, "a": range(4)}), [0, 1, 0, 1]
            )


def test_names_of_rows_are_left_out_and_told_of():
    X, y = _passengers()
    X["id"] = [f"r{i}" for i in range(len(X))]
    model = make_tabular_pipeline(LogisticRegression())
    with pytest.warns(UserWarning, match=r"\['id'\] are left out"):
        model.fit(X, y)
    expected = make_tabular_pipeline(LogisticRegression()).fit(X.drop(columns="id"), y)
    assert_allclose(model.predict_proba(X), expected.predict_proba(X))
    assert list(model[0].get_feature_names_out()) == list(expected[0].get_feature_names_out())
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match="no columns to learn from"),
    ):
        model.fit(X[["id"]], y)


def test_many_categories_share_columns():
    names = [f"c{i % 5000}" for i in range(20_000)] + ["often"] * 50
    out = _encoded(pd.DataFrame({"a": names}))
    assert out.shape == (20_050, 100)
    assert (out.sum(1) == 1).all() and out[:, :].sum(0).max() > 19_000


def test_names_of_what_comes_out_and_frames_as_output():
    X, y = _passengers()
    vectorizer = clone(make_tabular_pipeline(LogisticRegression()))[0].fit(X, y)
    names = list(vectorizer.get_feature_names_out())
    assert names[:3] == ["age", "siblings", "missingindicator_age"]
    assert {"sex_f", "deck_None", "alone_True"} <= set(names)
    frame = make_tabular_pipeline(LogisticRegression())[0].set_output(transform="pandas")
    frame = frame.fit_transform(X)
    assert_allclose(frame.to_numpy(dtype=float), vectorizer.transform(X))


def test_what_is_no_table_is_refused_in_clear_words():
    model = make_tabular_pipeline(LogisticRegression())
    X, y = _passengers()
    with pytest.raises(TypeError, match=r"X is sparse: pass X.toarray"):
        model.fit(csr_array(np.eye(4)), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="X is a Series: pass a data frame"):
        model.fit(X["age"], y)
    with pytest.raises(ValueError, match="rows and columns, but has 1 dimension"):
        model.fit(np.arange(4.0), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="'a' holds values of type list"):
        model.fit(pd.DataFrame({"a": [[1], [2]] * 2}), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="X has 3 columns, but had 4 in fit"):
        model.fit(np.eye(4), [0, 1, 0, 1]).predict(np.eye(3))
