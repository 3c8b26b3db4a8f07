"""Files without code: what is saved comes back, and nothing else does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from test_inputs import data_for
from tiny import NETWORKS, SETTINGS, tiny

from sk_deq import DEQKernelRidge, EquivalentExplicitClassifier, KernelMatcher
from sk_deq.export import load, save

safetensors = pytest.importorskip("safetensors", reason="needs pip install 'sk-deq[files]'")
pytest.importorskip("safetensors.numpy", reason="needs pip install 'sk-deq[files]'")


def outputs(model, X):
    """Whatever a model predicts."""
    names = ["predict", "predict_proba", "decision_function", "transform"]
    return [getattr(model, name)(X) for name in names if hasattr(model, name)]


def assert_same(one, two, X):
    for expected, found in zip(outputs(one, X), outputs(two, X), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_predictions_are_the_same_bit_for_bit(name, tmp_path):
    X, y = data_for(name)
    model = tiny(name).fit(X, y)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert_same(model, again, X)
    if name in NETWORKS:
        model.module_.load_state_dict(again.module_.state_dict())  # shapes too
    assert repr(again) == repr(model) and vars(again).keys() == vars(model).keys()
    save(again, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()
    again.fit(X, y)  # and it is an estimator still
    assert_same(model, again, X)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The kernel matrix")  # of four numbers
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("DEQKernelRidge", {"input_scaling": "sphere", "activation": "tanh", "bias_var": 0.1}),
        ("DEQKernelRidge", {"method": "high_dim", "hyperparameters": None, "alpha": 10.0}),
        ("DEQKernelRidge", {"hyperparameters": "loo", "alpha": "auto", "encoding": "bins"}),
        ("DEQClassifier", {"hyperparameters": "loo"}),
        ("KernelMatcher", {"activation": "tanh", "matching": "high_dim"}),
        ("KernelMatcher", {"activation": "tanh", "random_state": np.random.RandomState(0)}),
        ("EquivalentExplicitClassifier", {"checkpoint_dir": Path("folder")}),
        ("EquivalentExplicitClassifier", {"class_weight": {"a": 1.0, "b": 2.0}}),
    ],
)
def test_parameters_of_all_kinds(name, parameters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y = data_for(name)
    y = np.where(y == y[0], "a", "b") if name.endswith("Classifier") else y
    model = tiny(name, **parameters).fit(X, y)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert_same(model, again, X)
    assert again.get_params().get("checkpoint_dir") == model.get_params().get("checkpoint_dir")


def test_a_teacher_is_saved_too(tmp_path):
    X, y = data_for("DEQClassifier")
    teacher = tiny("DEQClassifier").fit(X, y)
    model = EquivalentExplicitClassifier.from_deq(teacher, teacher=teacher).fit(X, y)
    save(model, tmp_path / "model")
    assert_same(teacher, load(tmp_path / "model").teacher, X)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_size_does_not_grow_with_the_rows(name, tmp_path):
    X, y = data_for(name)
    sizes = []
    for times in (1, 20):
        model = tiny(name, train="all", max_epochs=1, dtype="float32").fit(
            np.tile(X, (times, 1)), np.tile(y, times)
        )
        save(model, tmp_path / "model")
        sizes.append((tmp_path / "model").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 100  # digits of numbers


@pytest.mark.slow
def test_callables_are_refused_by_name(tmp_path):
    X, y = data_for("DEQRegressor")
    model = tiny("DEQRegressor", activation=torch.cos).fit(X, y)
    with pytest.raises(TypeError, match=r"activation=<built-in .*cos.*cannot be saved"):
        save(model, tmp_path / "model")
    model = DEQKernelRidge(activation=torch.cos, hyperparameters=None).fit(X, y)
    with pytest.raises(TypeError, match=r"activation=.*cos"):
        save(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_fitted_estimator_is_refused(tmp_path):
    with pytest.raises(NotFittedError):
        save(KernelMatcher(), tmp_path / "model")
    with pytest.raises(TypeError, match=r"LogisticRegression.*skops"):
        save(LogisticRegression(), tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="no folder"):
        save(KernelMatcher(8).fit(np.eye(3)), tmp_path / "nowhere" / "model")


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "model"
    save(KernelMatcher(8, center=False, random_state=0).fit(np.eye(3)), path)
    return path


def rewritten(path, **changes):
    """Write the file anew, with changes to its tree, and the checksum that belongs to them."""
    from sk_deq.export.files import digest

    with safetensors.safe_open(path, "np") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    content = json.dumps({**json.loads(metadata["sk_deq"].partition(" ")[2]), **changes})
    metadata = {"sk_deq": f"{digest(content, arrays)} {content}"}
    safetensors.numpy.save_file(arrays, path, metadata)


def test_another_version_is_told_of(written):
    rewritten(written, version="0.0.1")
    with pytest.warns(InconsistentVersionWarning, match=r"KernelMatcher .* of sk_deq 0\.0\.1"):
        load(written)
    rewritten(written, format=2)
    with pytest.raises(ValueError, match=r"a format that version .* cannot read"):
        load(written)


def test_damaged_files_are_told_of(written, tmp_path):
    whole = written.read_bytes()
    for damaged in (b"", whole[:100], whole[:-5], b"garbage" * 100, whole[:-1] + b"x"):
        written.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            load(written)
    safetensors.numpy.save_file({"a": np.eye(2)}, written)
    with pytest.raises(ValueError, match=r"not written by sk_deq\.export\.save"):
        load(written)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "estimator",
    [
        {"is": "object", "class": "Popen", "state": {}},
        {"is": "object", "class": "InputScaler", "state": {"is": "dict", "items": []}},
        {"is": "dtype", "name": "load"},
        {"is": "call", "name": "os.system"},
        {"is": "object", "class": "KernelMatcher", "state": 3},
        {"is": "tuple", "class": "KernelMatcher", "items": []},
        {"is": "module", "class": "KernelMatcher", "state": {"is": "dict", "items": []}},
        {"is": "array", "items": [], "dtype": "V8", "shape": [0]},
        {"is": "scalar", "dtype": "O", "value": 1},
        3,
    ],
)
def test_foreign_content_is_refused(written, estimator):
    rewritten(written, estimator=estimator)
    with pytest.raises(ValueError, match="does not describe an estimator"):
        load(written)


def test_an_old_file_stays_where_writing_fails(written, monkeypatch):
    before = written.read_bytes()

    def broken(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        save(KernelMatcher(8).fit(np.eye(3)), written)
    assert written.read_bytes() == before and list(written.parent.iterdir()) == [written]
