"""ONNX files compute what the estimators do."""

import subprocess
import sys
import textwrap
import venv
from importlib import metadata

import numpy as np
import pandas as pd
import pytest
import torch
from packaging.requirements import Requirement
from sklearn.base import clone, is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from sk_deq import (
    DEQClassifier,
    DEQKernelRidge,
    DEQKernelRidgeClassifier,
    DEQRegressor,
    EquivalentExplicitClassifier,
    EquivalentExplicitRegressor,
    KernelMatcher,
)
from sk_deq.export import to_onnx
from sk_deq.pipelines import make_tabular_pipeline

REASON = "needs pip install 'sk-deq[onnx]'"
onnx = pytest.importorskip("onnx", reason=REASON)
pytest.importorskip("skl2onnx", reason=REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)

IRIS, SPECIES = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[SPECIES]
RIDGE = {"hyperparameters": None, "alpha": 0.1}
NETWORK = {"hyperparameters": None, "width": 16, "max_epochs": 2, "random_state": 0}


def rows(n=10_000):
    """Rows around those of iris, also of other norms, and one of zeros."""
    random = np.random.RandomState(0)
    X = IRIS[random.randint(len(IRIS), size=n)] + 0.3 * random.normal(size=(n, 4))
    X[::10] *= random.uniform(0.5, 2, size=(len(X[::10]), 1))
    X[3] = 0
    return X


def run(path, inputs):
    """Outputs by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def assert_same(model, path, X, inputs=None, tolerance=1e-5):
    found = run(path, inputs or {"X": X})
    if is_classifier(model):
        np.testing.assert_allclose(found["probabilities"], model.predict_proba(X), atol=tolerance)
        assert np.mean(found["label"] == model.predict(X)) > 0.999  # but for ties
        assert found["label"].dtype.kind == np.asarray(model.classes_).dtype.kind.replace("U", "O")
    else:
        expected = (getattr(model, "transform", None) or model.predict)(X).reshape(len(X), -1)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found["variable"], expected, atol=tolerance * scale)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        DEQKernelRidgeClassifier(**RIDGE),
        DEQKernelRidgeClassifier(
            **RIDGE, kernel="ntk", activation="abs", recurrent_var=0.3, center=True
        ),
        DEQKernelRidgeClassifier(
            **RIDGE, activation="tanh", recurrent_var=0.5, input_scaling="sphere", bias_var=0.0
        ),
        EquivalentExplicitClassifier(**NETWORK),
        EquivalentExplicitClassifier(**NETWORK, activation="tanh", dtype="float32"),
    ],
    ids=["ck", "ntk", "sphere", "explicit", "explicit32"],
)
def test_classifiers(model, tmp_path):
    model.fit(IRIS, NAMES)
    to_onnx(model, tmp_path / "model.onnx")
    found = assert_same(model, tmp_path / "model.onnx", rows())
    one = run(tmp_path / "model.onnx", {"X": rows()[:1]})  # any batch size
    np.testing.assert_allclose(one["probabilities"], found["probabilities"][:1], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(
    "model",
    [
        DEQKernelRidge(**RIDGE),
        DEQKernelRidge(**RIDGE, kernel="ntk_full", activation="identity", recurrent_var=0.5),
        DEQKernelRidge(**RIDGE, solver="nystroem", n_components=20),
        EquivalentExplicitRegressor(**NETWORK),
    ],
    ids=["relu", "identity", "nystroem", "explicit"],
)
def test_regressors(model, outputs, tmp_path):
    y = IRIS[:, 0] if outputs == 1 else IRIS[:, :2]
    model.fit(IRIS, y)
    to_onnx(model, tmp_path / "model.onnx")
    assert_same(model, tmp_path / "model.onnx", rows(1000))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("labels", [int, float, bool, str])
def test_labels_keep_their_kind(labels, binary, tmp_path):
    y = SPECIES > 0 if binary or labels is bool else SPECIES
    model = DEQKernelRidgeClassifier(**RIDGE).fit(IRIS, y.astype(labels))
    to_onnx(model, tmp_path / "model.onnx")
    assert_same(model, tmp_path / "model.onnx", IRIS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {"center": False},
        {"activation": "tanh", "bias_var": 0.1},
        {"activation": "tanh", "input_scaling": "sphere", "bias_var": 0.1},
        {"matching": "high_dim"},
        {"matching": "high_dim", "activation": "erf"},
        {"matching": "high_dim", "activation": "gelu"},
    ],
    ids=["homogeneous", "gated", "sphere", "leaky", "clipped", "cubic"],
)
def test_features(parameters, tmp_path):
    X = IRIS - IRIS.mean(0)
    T = rows(1000) - IRIS.mean(0)
    T[3] = 0
    model = KernelMatcher(20, random_state=0, **parameters).fit(X)
    to_onnx(model, tmp_path / "model.onnx")
    assert_same(model, tmp_path / "model.onnx", T)


@pytest.mark.slow
def test_features_far_beyond_those_of_fit_are_not_guessed(tmp_path):
    model = KernelMatcher(8, activation="tanh", random_state=0).fit(IRIS)
    to_onnx(model, tmp_path / "model.onnx")
    assert np.isnan(run(tmp_path / "model.onnx", {"X": 1000 * IRIS[:2]})["variable"]).all()


def test_a_linear_model_behind_features(tmp_path):
    model = make_pipeline(
        StandardScaler(), KernelMatcher(20, center=False, random_state=0), LogisticRegression()
    ).fit(IRIS, NAMES)
    to_onnx(model, tmp_path / "model.onnx")
    assert_same(model, tmp_path / "model.onnx", rows(1000))


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["quantile", "both"])
@pytest.mark.parametrize(
    "estimator", [DEQKernelRidge(), EquivalentExplicitRegressor(16, hyperparameters="loo")]
)
def test_encoded_columns(estimator, encoding, tmp_path):
    model = clone(estimator).set_params(encoding=encoding, random_state=0)
    model.fit(IRIS[:, :3], IRIS[:, 3])
    assert model.encoding_ == encoding
    to_onnx(model, tmp_path / "model.onnx")
    assert_same(model, tmp_path / "model.onnx", rows(1000)[:, :3])


@pytest.mark.parametrize("name", ["relu", "gelu", "elu", "sigmoid"])
def test_deq_is_unrolled(name, tmp_path):
    model = DEQClassifier(**NETWORK, activation=name, tol=1e-10, max_iter=1000, dtype="float64")
    model.fit(IRIS, NAMES)
    written = to_onnx(model, tmp_path / "model.onnx", X=IRIS, residual=1e-8)
    assert [output.name for output in written.graph.output][2:] == ["residual"]
    found = assert_same(model, tmp_path / "model.onnx", IRIS)
    assert found["residual"].shape == (150, 1) and found["residual"].max() <= 2e-8
    rough = to_onnx(model, tmp_path / "model.onnx", X=IRIS, residual=1e-2)
    assert len(rough.graph.node) < len(written.graph.node)
    assert run(tmp_path / "model.onnx", {"X": IRIS})["residual"].max() <= 1.1e-2


def test_deq_regressor_behind_a_scaler(tmp_path):
    deq = DEQRegressor(**NETWORK, tol=1e-10, max_iter=1000, dtype="float64")
    model = make_pipeline(StandardScaler(), deq).fit(IRIS, IRIS[:, :2])
    to_onnx(model, tmp_path / "model.onnx", X=IRIS, residual=1e-8)
    found = assert_same(model, tmp_path / "model.onnx", IRIS)
    assert found["residual"].max() <= 2e-8


def titanic(n=300):
    """A table of the columns of the Titanic's passengers, with missing values."""
    random = np.random.RandomState(0)
    frame = pd.DataFrame(
        {
            "pclass": random.randint(1, 4, n),
            "sex": random.choice(["male", "female"], n),
            "age": np.where(random.uniform(size=n) < 0.2, np.nan, random.uniform(1, 80, n)),
            "fare": random.exponential(30.0, n),
            "embarked": random.choice(["C", "Q", "S"], n),
            "alone": random.uniform(size=n) < 0.5,
        }
    )
    frame.loc[::20, "embarked"] = None
    score = (frame["sex"] == "female") * 2.0 - 0.5 * frame["pclass"] + random.normal(size=n)
    return frame, np.where(score > 0, "lived", "died")


def columns(frame):
    """A data frame as the inputs of a file: numbers, and all else as strings."""
    found = {name: frame[[name]] for name in frame.columns}
    for name, column in found.items():
        number = frame[name].dtype.kind in "if"
        found[name] = column if number else column.astype(str).fillna("nan").astype(object)
    return {name: column.to_numpy() for name, column in found.items()}


@pytest.mark.skipif(sys.platform == "win32", reason="links the packages of an environment")
@pytest.mark.parametrize("make", ["tabular", "columns"])
def test_a_pipeline_runs_where_there_is_no_torch(make, tmp_path):
    frame, y = titanic()
    estimator = DEQKernelRidgeClassifier(**RIDGE)
    if make == "tabular":
        model = make_tabular_pipeline(estimator)
    else:
        frame = frame.fillna({"age": 30.0})
        categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        parts = [("numbers", StandardScaler(), ["pclass", "age", "fare"])]
        parts += [("categories", categories, ["sex", "embarked"])]
        model = make_pipeline(ColumnTransformer(parts), estimator)
    model.fit(frame, y)
    to_onnx(model, tmp_path / "model.onnx", X=frame)
    assert_same(model, tmp_path / "model.onnx", frame, columns(frame))
    frame.to_json(tmp_path / "frame.json", orient="split")
    np.save(tmp_path / "p.npy", model.predict_proba(frame))
    np.save(tmp_path / "y.npy", model.predict(frame).astype("U5"))
    code = """
        from importlib.util import find_spec
        for name in ("torch", "sk_deq", "sklearn", "skl2onnx", "onnx", "pandas"):
            assert find_spec(name) is None
        import json, numpy as np, onnxruntime
        table = json.load(open("frame.json"))
        inputs = {}
        for j, name in enumerate(table["columns"]):
            values = [[row[j]] for row in table["data"]]
            if isinstance(values[1][0], str | bool):
                texts = [["nan" if row[0] is None else str(row[0])] for row in values]
                inputs[name] = np.array(texts, dtype=object)
            else:
                inputs[name] = np.array(values, dtype=np.int64 if name == "pclass" else float)
        session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
        label, p = session.run(None, inputs)
        assert np.abs(p - np.load("p.npy")).max() < 1e-5
        assert (label == np.load("y.npy")).all()
    """
    python = environment_of("onnxruntime", tmp_path / "env")
    done = subprocess.run(
        [python, "-I", "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def environment_of(package, folder):
    """The python of a new environment that has a package of this one, and what it requires."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    missing, known = [package], set()
    while missing:
        name = missing.pop()
        known.add(name)
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
        needed = map(Requirement, distribution.requires or ())
        names = {one.name for one in needed if one.marker is None or one.marker.evaluate()}
        missing += names - known
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The kernel matrix")
def test_what_cannot_be_exported_says_what_to_do(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(NotFittedError):
        to_onnx(KernelMatcher(), path)
    ridge = DEQKernelRidge(**RIDGE, activation="tanh").fit(IRIS, SPECIES)
    with pytest.raises(ValueError, match=r"input_scaling='sphere'.* or KernelMatcher"):
        to_onnx(ridge, path)
    ridge = DEQKernelRidge(**RIDGE, method="high_dim").fit(IRIS, SPECIES)
    with pytest.raises(ValueError, match="method='exact'"):
        to_onnx(ridge, path)
    deq = DEQClassifier(**NETWORK).fit(IRIS, SPECIES)
    with pytest.raises(ValueError, match=r"give X.*EquivalentExplicitClassifier\.from_deq"):
        to_onnx(deq, path)
    with pytest.raises(ValueError, match=r"residual=1e-30.*from_deq"):
        to_onnx(deq, path, X=IRIS, residual=1e-30)
    deq = DEQRegressor(**NETWORK, activation=torch.cos).fit(IRIS, SPECIES)
    with pytest.raises(ValueError, match=r"activation='cos' is a callable.*from_deq"):
        to_onnx(deq, path, X=IRIS)
    scaled = make_pipeline(FunctionTransformer(np.log1p), KernelMatcher(8)).fit(IRIS)
    with pytest.raises(ValueError, match="func=log1p"):
        to_onnx(scaled, path)
    frame, y = titanic(40)
    model = make_tabular_pipeline(DEQKernelRidgeClassifier(**RIDGE)).fit(frame, y)
    with pytest.raises(ValueError, match="needs X"):
        to_onnx(model, path)
    assert not path.exists()


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    model = DEQKernelRidge(**RIDGE).fit(IRIS, SPECIES)
    with pytest.raises(FileNotFoundError, match="no folder"):
        to_onnx(model, tmp_path / "nowhere" / "model.onnx")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        to_onnx(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
