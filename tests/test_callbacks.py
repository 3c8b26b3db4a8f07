"""scikit-learn's callback protocol, where the installed version has it."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV
from tiny import CLASSIFIERS, NETWORKS, SETTINGS, trained

callback = pytest.importorskip("sklearn.callback", reason="needs scikit-learn >= 1.9")
IRIS, DIABETES = load_iris(return_X_y=True), load_diabetes(return_X_y=True)


class Recorder:
    """The events that an estimator tells of."""

    def __init__(self, stop_after=None):
        self.events, self.stop_after = [], stop_after

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        self.events.append(f"end {context.task_name}")
        return self.stop_after is not None and self.events.count("end epoch") >= self.stop_after


def data_for(name):
    X, y = IRIS if name in CLASSIFIERS else DIABETES
    return X[::3], y[::3]


@pytest.mark.parametrize("name", SETTINGS)
def test_events(name):
    recorder = Recorder()
    trained(name, max_epochs=3).set_callbacks(recorder).fit(*data_for(name))
    stages = {"KernelMatcher": ["matching", "weights"]}.get(name, ["search"])
    stages = ["epoch"] * 3 if name in NETWORKS else stages
    told = [event for event in recorder.events if not event.endswith(" step")]
    parts = [f"{what} {stage}" for stage in stages for what in ("begin", "end")]
    assert told[: 2 + len(parts)] == ["setup", "begin fit", *parts]
    assert told[-2:] == ["end fit", "teardown"]
    assert recorder.events.count("begin step") == recorder.events.count("end step")
    assert (recorder.events.count("end step") > 0) == (name not in NETWORKS)
    for stage in set(told) - {"setup", "teardown"}:
        what, name = stage.split(" ", 1)
        assert told.count(f"begin {name}") == told.count(f"end {name}"), what


@pytest.mark.parametrize("name", SETTINGS)
def test_callbacks_are_torn_down_where_a_fit_raises(name):
    class Failing(Recorder):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            raise RuntimeError

    recorder = Failing()
    model = trained(name, max_epochs=3).set_callbacks(recorder)
    with pytest.raises(RuntimeError):
        model.fit(*data_for(name))
    assert recorder.events[0] == "setup" and recorder.events[-1] == "teardown"
    assert set(vars(model)) == set(vars(trained(name).set_callbacks(recorder)))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_callback_can_end_the_training(name):
    X, y = data_for(name)
    model = trained(name).set_callbacks(Recorder(stop_after=2)).fit(X, y)
    assert model.n_iter_ == 2
    readout = Recorder()
    trained(name, train="readout").set_callbacks(readout).fit(X, y)
    assert readout.events == ["setup", "begin fit", "end fit", "teardown"]


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_of_every_epoch(name):
    X, y = data_for(name)
    scoring = "accuracy" if name in CLASSIFIERS else "r2"
    monitor = callback.ScoringMonitor(scoring=scoring)
    model = trained(name, max_epochs=5).set_callbacks(monitor).fit(X, y)
    log = monitor.get_logs()
    scores = {entry["task_id_path"]: entry[scoring] for entry in log.data}
    assert set(scores) == {(0,), *((0, epoch) for epoch in range(5))}  # fit, and its epochs
    assert scores[0,] == scores[0, 4] == pytest.approx(model.score(X, y))
    assert len(set(scores.values())) > 1
    # looking at the scores changes nothing
    assert np.array_equal(model.predict(X), trained(name, max_epochs=5).fit(X, y).predict(X))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DEQClassifier", "DEQKernelRidge"])
def test_inside_a_search_with_workers(name, capsys):
    pytest.importorskip("rich", reason="scikit-learn's ProgressBar needs rich")
    X, y = data_for(name)
    monitor = callback.ScoringMonitor(scoring="accuracy" if name in CLASSIFIERS else "r2")
    model = trained(name, max_epochs=2, alpha=0.1).set_callbacks(monitor)
    search = GridSearchCV(model, {"recurrent_var": [0.1, 0.2]}, cv=2, n_jobs=2)
    search.set_callbacks(callback.ProgressBar()).fit(X, y)
    data = monitor.get_logs(include_lineage=True).data
    epochs = [entry for entry in data if entry["task_name"] == "epoch"]
    # four fits and the refit
    assert len(epochs) == (10 if name in NETWORKS else 0)
    assert len([entry for entry in data if entry["estimator_name"] == name]) >= 5
