"""What a fit tells while it runs, and how it ends when its time is up."""

import io
import re
import sys
from collections import Counter

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from tiny import CLASSIFIERS, NETWORKS, SETTINGS, trained

from sk_deq import DEQClassifier, DEQKernelRidge, DEQKernelRidgeClassifier, _progress

IRIS, DIABETES = load_iris(return_X_y=True), load_diabetes(return_X_y=True)
# (estimator: stage, whether it ended, done, total, share, seconds left)
LINE = re.compile(
    r"(?P<name>\w+)(?: [\w-]+)?: (?P<stage>[^/]+?)(?:  (?P<done>\d+)/(?P<total>\d+))?"
    r"  (?:(?P<share>\d+)%, \d+ s left|done in \d+\.\d s)(?:  \S.*)?"
)


def data_for(name):
    X, y = IRIS if name in CLASSIFIERS else DIABETES
    return X[::3], y[::3]


def stages(printed):
    """The stages that ended, in order; every line is one of a stage or a remark."""
    found = []
    for line in printed.splitlines():
        match = LINE.fullmatch(line)
        if match is None:
            remark = r"\w+: (searches its kernel; .*|trains a copy .*|it does.*)"
            assert re.fullmatch(remark, line), line
        elif match["share"] is None:
            found.append(match["stage"])
        else:
            share = 100 * int(match["done"]) / int(match["total"])
            assert abs(int(match["share"]) - share) <= 0.5 + 1e-9
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_lines(name, capsys):
    X, y = data_for(name)
    trained(name, verbose=2, max_epochs=2).fit(X, y)
    ends = stages(capsys.readouterr().out)
    if name in NETWORKS:
        assert ends[-1] == "epoch"
    elif name == "KernelMatcher":
        assert ends == ["matching", "weights"]
    else:
        assert ends[0] == "search" and ends[-1] == f"solver 'cholesky', {len(X)} rows"
    trained(name, max_epochs=2).fit(X, y)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("solver", "stage"), [
    ("eigh", "solver 'eigh', 148 rows"), ("cg", "conjugate gradients"),
    ("nystroem", "pass over rows, 148 landmarks"),
])  # fmt: skip
def test_solvers(solver, stage, capsys):
    DEQKernelRidge(1.0, solver=solver, hyperparameters=None, verbose=2).fit(*data_for(""))
    assert stage in stages(capsys.readouterr().out)


def test_search_of_a_network(capsys):
    X, y = data_for("DEQClassifier")
    DEQClassifier(8, hyperparameters="loo", verbose=2, random_state=0).fit(X, y)
    assert stages(capsys.readouterr().out)[0] == "search"


def test_lines_of_one_second(monkeypatch, capsys):
    """At verbose=1 quick stages say nothing, and long ones a line a second."""
    now = iter(np.arange(0, 1000, 0.4))
    with monkeypatch.context() as patch:
        patch.setattr(_progress.time, "monotonic", lambda: float(next(now)))
        with _progress.Watch(DEQKernelRidge(verbose=1)):
            with _progress.stage("long", 20) as step:
                for _ in range(20):
                    step()
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "DEQKernelRidge: long  3/20  15%, 7 s left"
    assert len(printed) == 7 and printed[-1] == "DEQKernelRidge: long  20/20  done in 8.4 s"
    with _progress.Watch(DEQKernelRidge(verbose=1)), _progress.stage("quick", 2) as step:
        step()
    assert capsys.readouterr().out == ""


def test_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "60")
    trained("DEQClassifier", verbose=2, max_epochs=4).fit(*IRIS)
    (line,) = stream.getvalue().removesuffix("\n").split("\n")
    shown = line.replace("\x1b[K", "").split("\r")[1:]
    assert all(len(text) < 60 for text in shown)
    assert [text.count("#") for text in shown if "[" in text] == [5, 10, 15]


@pytest.mark.slow
def test_lines_of_two_processes_do_not_mix(capfd):
    X, y = IRIS
    model = trained("DEQClassifier", verbose=2, max_epochs=3)
    get_reusable_executor().shutdown()  # older workers would print where others look
    GridSearchCV(model, {"lr": [0.01, 0.02]}, cv=2, n_jobs=2, refit=False).fit(X, y)
    ends = Counter(stages(capfd.readouterr().out))
    assert ends["epoch"] == 4


def test_the_best_so_far_of_a_search():
    X, y = data_for("DEQKernelRidgeClassifier")
    settings = {"random_state": 0, "max_time": 1e-6}
    with pytest.warns(ConvergenceWarning, match="the search ended early") as caught:
        model = DEQKernelRidgeClassifier(**settings).fit(X, y)
    assert [w.filename for w in caught] == [__file__]
    assert len(model.search_results_["rank"]) == 1 and model.score(X, y) > 0.9
    complete = DEQKernelRidgeClassifier(random_state=0, max_time=1e6).fit(X, y)
    default = DEQKernelRidgeClassifier(random_state=0).fit(X, y)
    assert np.array_equal(complete.predict_proba(X), default.predict_proba(X))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_best_so_far_of_a_network(name):
    X, y = data_for(name)
    with pytest.warns(ConvergenceWarning, match="training ended early"):
        model = trained(name, max_epochs=10_000, max_time=0.5).fit(X, y)
    assert 1 <= model.n_iter_ < 10_000
    assert np.isfinite([epoch["train_loss"] for epoch in model.history_]).all()


def test_weights_are_the_best_where_time_is_up(monkeypatch):
    """Of the epoch with the least validation loss, whatever came after."""
    from sk_deq._nets import training

    epochs = []
    monkeypatch.setattr(training, "out_of_time", lambda what: epochs.append(what) or True)
    X, y = IRIS
    best = DEQClassifier(8, hyperparameters=None, lr=1e-3, max_epochs=2, random_state=0).fit(
        X, y, X_val=X, y_val=y
    )
    assert best.n_iter_ == 1 and epochs == ["training"]
    monkeypatch.setattr(
        training, "out_of_time", lambda what: len(epochs) > 8 or epochs.append(what)
    )
    model = DEQClassifier(
        8, hyperparameters=None, lr=5.0, max_epochs=20, n_iter_no_change=99, random_state=0
    )
    model.fit(X, y, X_val=X, y_val=y)
    losses = [epoch["valid_loss"] for epoch in model.history_]
    assert losses[-1] > min(losses)  # the steps are far too long
    probability = model.predict_proba(X)[np.arange(len(y)), y]
    assert -np.log(probability).mean() == pytest.approx(min(losses), rel=1e-4)


def test_the_rate_has_fallen_when_time_is_up(monkeypatch):
    from sk_deq._nets import training

    rates = []
    shares = iter(np.linspace(0, 1, 11))
    monkeypatch.setattr(training, "time_share", lambda: next(shares))
    monkeypatch.setattr(training, "out_of_time", lambda what: len(rates) == 10)

    class Rate(training.Callback):
        def on_epoch_end(self, net, **kwargs):
            rates.append(net.optimizer_.param_groups[0]["lr"])

        def __deepcopy__(self, memo):
            return self

    DEQClassifier(8, hyperparameters=None, max_epochs=1000, random_state=0, callbacks=[Rate()]).fit(
        *IRIS
    )
    assert np.argmax(rates) == 3 and rates[-1] == 0


def test_slow_settings_are_told(monkeypatch, capsys):
    from sk_deq._nets import training
    from sk_deq._ridge import fit

    X, y = data_for("")
    monkeypatch.setitem(fit._MOST_ROWS, "eigh", 100)
    DEQKernelRidge(solver="eigh", hyperparameters=None, verbose=1).fit(X, y)
    printed = capsys.readouterr().out
    assert "solver='eigh' of 148 rows: about 3e+07 operations" in printed
    assert "solver='nystroem'" in printed
    DEQClassifier(8, hyperparameters=None, max_epochs=2, verbose=1, random_state=0).fit(*IRIS)
    assert "iterations a row" not in capsys.readouterr().out
    monkeypatch.setattr(training, "_MANY_ITERATIONS", 2)
    DEQClassifier(8, hyperparameters=None, max_epochs=2, verbose=1, random_state=0).fit(*IRIS)
    assert capsys.readouterr().out.count("lower recurrent_var, or raise tol") == 1
