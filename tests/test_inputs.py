"""The kind of table does not matter, weights are repetitions, unusable input is refused."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils.class_weight import compute_sample_weight
from tiny import CLASSIFIERS, NETWORKS, REGRESSORS, SETTINGS, tiny

import sk_deq
from sk_deq import KernelMatcher

IRIS, DIABETES = load_iris(return_X_y=True), load_diabetes(return_X_y=True)
PREDICTORS = [*CLASSIFIERS, *REGRESSORS]


def data_for(name):
    X, y = IRIS if name in CLASSIFIERS else DIABETES
    # integers, so that every dtype holds the same numbers
    return np.round(20 * scale(X[::3])), y[::3]


def frame(kind):
    def convert(X):
        return kind({f"x{i}": column for i, column in enumerate(X.T)})

    return convert


def read_only_memmap(X):
    path = read_only_memmap.folder / "X.npy"
    np.save(path, X)
    return np.load(path, mmap_mode="r")


KINDS = {
    "pandas": frame(pd.DataFrame),
    "polars": frame(pl.DataFrame),
    "float32": lambda X: X.astype(np.float32),
    "integer": lambda X: X.astype(np.int64),
    "memmap": read_only_memmap,
    "list": lambda X: X.tolist(),
    "fortran": np.asfortranarray,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_kinds_of_tables_give_the_same(name, tmp_path):
    read_only_memmap.folder = tmp_path
    X, y = data_for(name)
    model = tiny(name, alpha=0.1, dtype="float64")
    expected = clone(model).fit(X, y)
    for kind, convert in KINDS.items():
        other = clone(model).fit(convert(X), y)
        if hasattr(model, "transform"):
            one, two = expected.transform(X), other.transform(convert(X))
        elif hasattr(model, "decision_function"):
            one, two = expected.decision_function(X), other.decision_function(convert(X))
        else:
            one, two = expected.predict(X), other.predict(convert(X))
        rtol = 1e-4 if kind == "float32" else 1e-10
        assert_allclose(one, two, rtol=rtol, atol=rtol * np.abs(one).max(), err_msg=kind)
        if hasattr(model, "score"):
            assert_allclose(other.score(convert(X), y), expected.score(X, y), rtol=1e-4)


def outputs(model, X):
    return model.predict_proba(X) if hasattr(model, "predict_proba") else model.predict(X)


@pytest.mark.slow
@pytest.mark.parametrize("name", PREDICTORS)
def test_integer_weights_are_repetitions(name):
    X, y = data_for(name)
    weight = np.random.default_rng(0).integers(0, 4, len(X))
    model = tiny(name, alpha=0.1)
    weighted = clone(model).fit(X, y, sample_weight=weight)
    repeated = clone(model).fit(X.repeat(weight, 0), y.repeat(weight))
    rtol = 1e-6 if name in NETWORKS else 1e-8
    assert_allclose(outputs(weighted, X), outputs(repeated, X), rtol=rtol, atol=rtol)
    plain = clone(model).fit(X, y)
    assert np.abs(outputs(plain, X) - outputs(weighted, X)).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", PREDICTORS)
def test_weights_of_one_are_no_weights(name):
    X, y = data_for(name)
    model = tiny(name, alpha=0.1)
    ones = clone(model).fit(X, y, sample_weight=np.ones(len(X)))
    assert_allclose(outputs(ones, X), outputs(model.fit(X, y), X), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_balanced_classes_equal_the_equivalent_weights(name):
    X, y = load_wine(return_X_y=True)
    X, y = scale(X)[40:], y[40:]  # 19, 71 and 48 rows
    model = tiny(name, alpha=0.1)
    balanced = clone(model).set_params(class_weight="balanced").fit(X, y)
    weighted = clone(model).fit(X, y, sample_weight=compute_sample_weight("balanced", y))
    assert_allclose(outputs(balanced, X), outputs(weighted, X), rtol=1e-6)
    assert np.abs(outputs(model.fit(X, y), X) - outputs(balanced, X)).max() > 1e-3
    # in a weighted fit the weights are balanced, so that a weight is still a repetition
    weight = np.random.default_rng(0).integers(0, 3, len(X))
    one = clone(balanced).fit(X, y, weight)
    two = clone(balanced).fit(X.repeat(weight, 0), y.repeat(weight))
    assert_allclose(outputs(one, X), outputs(two, X), rtol=1e-6, atol=1e-8)
    given = {0: 2.0, 1: 1.0, 2: 3.0}
    one = clone(model).set_params(class_weight=given).fit(X, y)
    two = clone(model).fit(X, y, sample_weight=np.array([2.0, 1.0, 3.0])[y])
    assert_allclose(outputs(one, X), outputs(two, X), rtol=1e-6)


@pytest.mark.parametrize("name", PREDICTORS)
def test_weights_are_left_as_they_are(name):
    X, y = data_for(name)
    weight = np.linspace(0, 2, len(X))
    before = weight.copy()
    tiny(name, alpha=0.1, class_weight="balanced").fit(X, y, weight)
    assert_allclose(weight, before, rtol=0)


@pytest.mark.parametrize("name", PREDICTORS)
def test_weights_that_cannot_be_used_are_refused(name):
    X, y = data_for(name)
    with pytest.raises(ValueError, match=r"(?i)negative values"):
        tiny(name).fit(X, y, sample_weight=np.linspace(-1, 1, len(X)))
    with pytest.raises(ValueError, match=r"(?i)zero"):
        tiny(name).fit(X, y, sample_weight=np.zeros(len(X)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_sparse_tables_are_refused(name):
    X, y = data_for(name)
    with pytest.raises(TypeError, match="Sparse data was passed"):
        tiny(name).fit(csr_array(X), y)
    model = tiny(name).fit(X, y)
    with pytest.raises(TypeError, match="Sparse data was passed"):
        getattr(model, "predict" if name in PREDICTORS else "transform")(csr_array(X))
    assert "Input is dense" in type(model).__doc__


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_without_early_stopping_every_row_counts(name):
    X, y = data_for(name)
    model = tiny(name)
    last = outputs(clone(model).fit(X, y), X)
    for row in range(0, len(X), 17):
        kept = np.arange(len(X)) != row
        assert np.abs(outputs(clone(model).fit(X[kept], y[kept]), X) - last).max() > 1e-9


@pytest.mark.parametrize("name", PREDICTORS)
def test_skrub_makes_a_pipeline(name):
    skrub = pytest.importorskip("skrub", reason="vectorizer='skrub' needs skrub")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": rng.normal(size=120), "kind": rng.choice(["a", "b"], 120)})
    table.loc[::10, "size"] = np.nan
    y = table["size"].fillna(0) + 2 * (table["kind"] == "b") > 1
    y = y.to_numpy() if name in CLASSIFIERS else y.to_numpy(dtype=float)
    model = skrub.tabular_pipeline(tiny(name)).fit(table, y)
    assert model.score(table, y) > (0.85 if name in CLASSIFIERS else 0.4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_global_state_is_untouched(name, unchanged_globals):
    X, y = data_for(name)
    model = tiny(name).fit(X, y)
    getattr(model, "predict" if name in PREDICTORS else "transform")(X)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_without_a_seed_numpys_generator_is_drawn_from_and_no_other(name):
    X, y = data_for(name)
    torch_state = torch.get_rng_state()
    before = np.random.get_state()  # noqa: NPY002
    found = []
    for _ in range(2):
        np.random.set_state(before)  # noqa: NPY002
        model = tiny(name, random_state=None).fit(X, y)
        found.append(outputs(model, X) if name in PREDICTORS else model.transform(X))
    assert_allclose(*found, rtol=0)
    assert str(before) != str(np.random.get_state())  # noqa: NPY002
    assert torch.equal(torch_state, torch.get_rng_state())


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_a_fit_that_raises_leaves_the_estimator_as_it_was(name):
    X, y = data_for(name)
    X = pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
    model = tiny(name).fit(X, y)
    predict = model.predict if name in PREDICTORS else model.transform
    expected, attributes = predict(X), dict(vars(model))
    model.set_params(recurrent_var=30.0)
    with pytest.raises(ValueError, match="recurrent_var"):
        model.fit(3 * X.iloc[:, :2].set_axis(["a", "b"], axis=1), y)
    model.set_params(recurrent_var=attributes["recurrent_var"])
    assert list(predict(X).ravel()) == list(expected.ravel())
    assert vars(model).keys() == attributes.keys()
    assert all(vars(model)[name] is value for name, value in attributes.items())


@pytest.mark.slow
def test_uneven_columns_are_told_of():
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    for name in SETTINGS:
        told = r"variance of column 'bmi' is 1e\+04 times that of 's3'"
        with pytest.warns(UserWarning, match=told) as caught:
            tiny(name, max_epochs=1).fit(X.assign(bmi=101 * X["bmi"]), (y > 140) * 1)
        told = str(caught[0].message)
        assert f"make_pipeline(StandardScaler(), {name}()) or make_tabular_pipeline" in told
        assert caught[0].filename == __file__
        tiny(name, max_epochs=1).fit(X.assign(bmi=90 * X["bmi"]), (y > 140) * 1)


def test_rare_values_are_not_uneven():
    """One-hot code of a rare level, and pixels at the edge."""
    X = scale(np.random.default_rng(0).normal(size=(2000, 3)))
    X[:, 2] = 0
    X[:3, 2] = 0.01
    KernelMatcher(8).fit(X)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["red", np.nan, None])
@pytest.mark.parametrize("name", SETTINGS)
def test_strings_and_missing_cells_name_the_remedy(name, cell):
    X, y = data_for(name)
    X = X.astype(object)
    X[3, 1] = cell
    with pytest.raises(ValueError, match=rf"make_tabular_pipeline\({name}\(\)\)"):
        tiny(name).fit(X, y)
    model = tiny(name, max_epochs=1).fit(*data_for(name))
    with pytest.raises(ValueError, match="make_tabular_pipeline"):
        (model.predict if hasattr(model, "predict") else model.transform)(X)


@pytest.mark.parametrize("kind", [int, bool])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_labels_of_dtype_object_get_the_message_of_scikit_learn(name, kind):
    X, y = data_for(name)
    y = (y > 0).astype(kind).astype(object)
    messages = []
    for model in (tiny(name), LogisticRegression()):
        with pytest.raises(ValueError) as raised:
            model.fit(X, y)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("name", ["Classifier", "Regressor"])
def test_from_deq_of_a_pipeline_says_how(name):
    explicit = getattr(sk_deq, f"EquivalentExplicit{name}")
    pipeline = make_pipeline(StandardScaler(), tiny(f"DEQ{name}", max_epochs=1))
    with pytest.raises(TypeError, match=rf"{explicit.__name__}.from_deq\(pipeline\[-1\]\)"):
        explicit.from_deq(pipeline)
    with pytest.raises(
        TypeError, match=rf"{explicit.__name__}.from_kernel_ridge\(pipeline\[-1\]\)"
    ):
        explicit.from_kernel_ridge(pipeline)
    with pytest.raises(TypeError, match=r"teacher=pipeline\[-1\]"):
        explicit(teacher=pipeline).fit(*load_iris(return_X_y=True))
    with pytest.raises(TypeError, match="from_deq takes a DEQ"):
        explicit.from_kernel_ridge(pipeline[-1])
    X, y = load_iris(return_X_y=True)
    explicit = explicit.from_deq(pipeline[-1], max_epochs=1)  # as the message says
    make_pipeline(clone(pipeline[:-1]), explicit).fit(X, y)
