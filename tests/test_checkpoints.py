"""Fits that are stopped and go on: the same bits, and no file of another fit is touched."""

import errno
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from test_inputs import data_for
from tiny import NETWORKS, trained

from sk_deq import (
    DEQKernelRidge,
    DEQKernelRidgeClassifier,
    EquivalentExplicitClassifier,
)
from sk_deq._checkpoint import Checkpoint
from sk_deq._nets.training import TrainingNet
from sk_deq._ridge import checkpoints as ridge_checkpoints
from sk_deq._solve import nystroem

RIDGES = [DEQKernelRidge, DEQKernelRidgeClassifier]
RIDGE = {"solver": "nystroem", "n_components": 20, "hyperparameters": None, "alpha": [0.01, 1.0]}


class Stopped(Exception):
    """Stands for a process that is killed."""


@contextmanager
def stopped_after(n_files):
    """Have a computation raise Stopped as soon as it has written so many files."""
    left, write = [n_files], Checkpoint.write

    def limited(self, state):
        write(self, state)
        left[0] -= 1
        if not left[0]:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "write", limited)
        yield


def stop(model, X, y, n_files=2):
    """Fit a model, and stop it after so many files; returns its file."""
    with stopped_after(n_files), pytest.raises(Stopped):
        model.fit(X, y)
    return Path(model.checkpoint_dir) / "checkpoint.npz"


def end_of(model):
    """All that a fit of a network ends with, but for seconds."""
    history = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in model.history_]
    return history, model.module_.state_dict()


def assert_same_end(one, two):
    (history, weights), (expected_history, expected) = end_of(one), end_of(two)
    assert history == expected_history and one.n_iter_ == two.n_iter_
    assert weights.keys() == expected.keys()
    for name in weights:
        assert torch.equal(weights[name], expected[name]), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [{}, {"early_stopping": True, "n_iter_no_change": 2}, {"input_dropout": 0.2}],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_end_with_the_same_bits(name, parameters, tmp_path):
    X, y = data_for(name)
    parameters = {"batch_size": 7, "max_epochs": 5, "dtype": "float32", **parameters}
    whole = trained(name, **parameters).fit(X, y)
    model = trained(name, **parameters, checkpoint_dir=tmp_path / "made" / "here")
    stop(model, X, y, 2)
    stop(model, X, y, 1)
    assert_same_end(model.fit(X, y), whole)
    assert [path.name for path in (tmp_path / "made" / "here").iterdir()] == ["checkpoint.npz"]


@pytest.mark.parametrize("parameters", [{"max_epochs": 3}, {"early_stopping": True, "lr": 0.1}])
def test_a_fit_that_had_ended_is_there_at_once(parameters, tmp_path, monkeypatch):
    X, y = data_for("DEQClassifier")
    parameters = {"max_epochs": 40, "n_iter_no_change": 2, **parameters}
    model = trained("DEQClassifier", **parameters, checkpoint_dir=str(tmp_path)).fit(X, y)
    assert model.n_iter_ < 40
    monkeypatch.setattr(TrainingNet, "run_single_epoch", None)  # a call raises
    again = trained("DEQClassifier", **parameters, checkpoint_dir=str(tmp_path), verbose=1)
    assert_same_end(again.fit(X, y), model)


def test_a_loss_that_is_not_finite_is_remembered(tmp_path):
    X, y = data_for("DEQRegressor")
    model = trained("EquivalentExplicitRegressor", lr=1e30, checkpoint_dir=tmp_path)
    for _ in range(2):
        with pytest.warns(UserWarning, match="loss was not finite in epoch"):
            model.fit(X, y)


def test_students_begin_from_files_of_their_own(tmp_path):
    X, y = data_for("DEQClassifier")
    deq = trained("DEQClassifier", max_epochs=2, checkpoint_dir=tmp_path / "deq").fit(X, y)
    student = EquivalentExplicitClassifier.from_deq(deq, teacher=deq)
    assert student.checkpoint_dir is None
    whole = EquivalentExplicitClassifier.from_deq(deq, teacher=deq, max_epochs=4).fit(X, y)
    student.set_params(checkpoint_dir=tmp_path / "student", max_epochs=4)
    stop(student, X, y)
    assert_same_end(student.fit(X, y), whole)


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize("Ridge", RIDGES)
def test_sums_over_landmarks_end_with_the_same_bits(Ridge, held_out, tmp_path, monkeypatch):
    monkeypatch.setattr(nystroem, "_TILE", 1)  # 1,024 rows at once
    monkeypatch.setattr(ridge_checkpoints, "_EVERY", 0.0)
    random = np.random.RandomState(0)
    np.save(tmp_path / "X.npy", random.normal(size=(5000, 3)))
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    y = np.sin(X[:, 0]) if Ridge is DEQKernelRidge else X[:, 0] > X[:, 1]
    parameters = {**RIDGE, "alpha": RIDGE["alpha"] if held_out else 0.1, "random_state": 0}
    whole = Ridge(**parameters).fit(X, y)
    model = Ridge(**parameters, checkpoint_dir=tmp_path / "kept")
    stop(model, X, y, 2)
    stop(model, X, y, 1)
    passed = []
    accumulate = nystroem.Sums.add
    monkeypatch.setattr(
        nystroem.Sums, "add", lambda *args: passed.append(args) or accumulate(*args)
    )
    model.fit(X, y)
    sides = 2 if held_out or Ridge is DEQKernelRidgeClassifier else 1
    assert len(passed) == 2 * sides  # of five tiles three were known
    for again in (model, Ridge(**parameters, checkpoint_dir=tmp_path / "kept").fit(X, y)):
        np.testing.assert_array_equal(again.dual_coef_, whole.dual_coef_)
        assert again.alpha_ == whole.alpha_ and again.intercept_ == whole.intercept_
    assert len(passed) == 2 * sides  # the last fit had no rows to pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.5}, r"other parameters: lr=0\.02 \(now 0\.5\)"),
        ({"max_epochs": 9}, r"other parameters: max_epochs=30 \(now 9\)"),
        ({"random_state": 1}, "another random_state"),
        ({"X": 1e-9}, "other rows, targets or weights"),
        ({"damage": True}, "is damaged"),
        ({"version": "0.0.1"}, r"written by sk_deq 0\.0\.1"),
    ],
    ids=lambda change: next(iter(change)) if isinstance(change, dict) else "",
)
def test_a_file_of_another_fit_is_refused_and_stays(change, message, tmp_path, monkeypatch):
    X, y = data_for("DEQClassifier")
    model = trained("DEQClassifier", checkpoint_dir=tmp_path)
    path = stop(model, X, y)
    change = dict(change)
    X = X + change.pop("X", 0)
    if change.pop("damage", False):
        path.write_bytes(path.read_bytes()[:-100])
    if "version" in change:
        path.unlink()
        with monkeypatch.context() as patch:
            patch.setattr("sk_deq.__version__", change.pop("version"))
            stop(model, X, y)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"checkpoint_dir=.*{message}.* stays as it is"):
        trained("DEQClassifier", checkpoint_dir=tmp_path, **change).fit(X, y)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_sums_of_another_fit_are_refused(tmp_path):
    X, y = data_for("DEQKernelRidge")
    model = DEQKernelRidge(**RIDGE, random_state=0, checkpoint_dir=tmp_path).fit(X, y)
    for change in {"n_components": 10}, {"alpha": 0.1}, {"kernel": "ntk"}:
        message = "other parameters: .*" + next(iter(change))
        with pytest.raises(ValueError, match=message):
            DEQKernelRidge(**model.get_params() | change).fit(X, y)
    with pytest.raises(ValueError, match="other rows, targets or weights"):
        model.fit(X, y, np.arange(1.0, len(X) + 1))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"random_state": None}, "needs a random_state"),
        ({"callbacks": [Callback()]}, "needs callbacks=None"),
        ({"train": "readout"}, "needs train='all'"),
    ],
)
def test_what_could_not_go_on_is_refused(parameters, message, tmp_path):
    X, y = data_for("DEQRegressor")
    with pytest.raises(ValueError, match=message):
        trained("DEQRegressor", checkpoint_dir=tmp_path / "no", **parameters).fit(X, y)
    with pytest.raises(ValueError, match="checkpoint_dir is for fit"):
        trained("DEQRegressor", checkpoint_dir=tmp_path / "no").partial_fit(X, y)
    assert not (tmp_path / "no").exists()


def test_ridges_whose_sums_could_not_be_kept_are_refused(tmp_path):
    X, y = data_for("DEQKernelRidge")
    with pytest.raises(ValueError, match="needs solver='nystroem', got solver='auto'"):
        DEQKernelRidge(checkpoint_dir=tmp_path).fit(X, y)
    with pytest.raises(ValueError, match="needs a random_state"):
        DEQKernelRidge(**RIDGE, checkpoint_dir=tmp_path).fit(X, y)
    with pytest.raises(ValueError, match=r"sk_deq\.export\.save"):
        DEQKernelRidge(**RIDGE, random_state=0, checkpoint_dir=tmp_path).partial_fit(X, y)


def test_a_folder_that_cannot_be_made_is_told_of(tmp_path):
    (tmp_path / "file").write_text("")
    X, y = data_for("DEQRegressor")
    with pytest.raises(OSError, match="file"):
        trained("DEQRegressor", checkpoint_dir=tmp_path / "file").fit(X, y)


def test_a_full_disk_keeps_the_last_file(tmp_path):
    resource = pytest.importorskip("resource", reason="needs POSIX, to bound the size of files")
    X, y = data_for("DEQClassifier")
    whole = trained("DEQClassifier").fit(X, y)
    model = trained("DEQClassifier", checkpoint_dir=tmp_path)
    path = stop(model, X, y)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError) as raised:
            model.fit(X, y)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG and not hasattr(model, "module_")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    assert_same_end(model.fit(X, y), whole)


@pytest.mark.long
def test_processes_that_are_killed(tmp_path):
    """SIGKILL at random moments; ``--kills 20`` takes a few minutes."""
    if not hasattr(os, "fork"):
        pytest.skip("needs POSIX: processes are forked")
    script = Path(__file__).parents[1] / "examples" / "benchmarks" / "kills.py"
    done = subprocess.run(
        [sys.executable, script, "--kills", "2"], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("2 equal") == 2
