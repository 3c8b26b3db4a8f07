"""Every parameter of every constructor changes something that one sees, or raises."""

import warnings

import numpy as np
import pytest
from skorch.callbacks import Callback
from test_inputs import data_for
from tiny import CLASSIFIERS, NETWORKS, SETTINGS, tiny

import sk_deq._ridge.kernel as ridge_kernel
from sk_deq import DEQKernelRidge, DEQKernelRidgeClassifier

QUICK = {"max_epochs": 2, "width": 16, "hyperparameters": None, "train": "all", "alpha": 0.1}
METHODS = "predict_proba", "decision_function", "predict", "transform"


class Says(Callback):
    def on_epoch_end(self, net, **kwargs):
        print("an epoch")


def fitted_teacher(X, y):
    cls = DEQKernelRidgeClassifier if len(np.unique(y)) == 3 else DEQKernelRidge
    return cls(hyperparameters=None).fit(X, y)


STOPS = {"early_stopping": True, "max_epochs": 30, "lr": 0.3, "n_iter_no_change": 2}
LANDMARKS = {"solver": "nystroem", "n_components": 4}
CG = {"solver": "cg", "alpha": 1e-3, "n_components": 2}
SEARCH = {"hyperparameters": "loo", "train": "readout", "alpha": "auto"}
# a value that is not the default, and what else the parameter needs to matter
OTHERS = {
    "activation": ("tanh", {}),
    "alpha": (3.0, {}),
    "batch_size": (7, {}),
    "bias_var": (0.5, {}),
    "callbacks": ([Says()], {}),
    "center": (False, {"center": True}),
    "checkpoint_dir": ("a folder", {}),
    "class_weight": ({0: 1.0, 1: 5.0, 2: 1.0}, {}),
    "device": ("cuda:99", {}),
    "dtype": ("float32", {"dtype": "float64"}),
    "early_stopping": (True, {**STOPS, "early_stopping": False}),
    "encoding": ("bins", {**SEARCH, "encoding": None}),
    "feature_weights": (None, {**SEARCH, "encoding": None}),
    "fixed_point_solver": ("anderson", {}),
    "hyperparameters": ("loo", {"hyperparameters": None, "train": "readout"}),
    "input_dropout": (0.5, {}),
    "input_scaling": (None, {}),
    "input_var": (0.3, {}),
    "kernel": ("ntk", {}),
    "landmarks": ("rows", {"solver": "nystroem"}),
    "lr": (0.3, {}),
    "matching": ("high_dim", {"center": True, "bias_var": 0.0}),
    "max_epochs": (1, {}),
    "max_iter": (1, CG),
    "max_time": (1e-6, SEARCH),
    "method": ("high_dim", {"center": True, "bias_var": 0.0}),
    "n_components": (5, LANDMARKS),
    "n_iter_no_change": (1, STOPS),
    "n_layers": (2, {"activation": "tanh", "center": True, "matching": "high_dim"}),
    "predict_batch_size": (5, {}),
    "random_state": (1, LANDMARKS),
    "recurrent_var": (0.1, {}),
    "solver": ("nystroem", {"n_components": 4}),
    "teacher": ("fitted", {}),
    "tol": (0.3, CG),
    "train": ("readout", {}),
    "validation_fraction": (0.4, STOPS),
    "verbose": (2, {}),
    "warm_start": (True, {}),
    "weight_decay": (0.9, {"lr": 0.3}),
    "weights": ("gaussian", {}),
    "width": (5, {}),
}


def seen(name, X, y, folder, capsys, monkeypatch, params, twice):
    """All that one sees of a fit and of what follows it: values, words, files, calls, an error."""
    calls, matrix = [], ridge_kernel.kernel_matrix
    monkeypatch.setattr(ridge_kernel, "kernel_matrix", lambda *a: calls.append(1) or matrix(*a))
    capsys.readouterr()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            model = tiny(name, **params)
            for _ in range(1 + twice):
                model.fit(X, y)
            found = [getattr(model, m)(X).tolist() for m in METHODS if hasattr(model, m)]
            found.append(str(getattr(model, "n_iter_", None)))
        except (ValueError, TypeError) as error:
            found = [str(error)]
    monkeypatch.setattr(ridge_kernel, "kernel_matrix", matrix)
    words, files = capsys.readouterr(), list(folder.rglob("*"))
    return found, len(calls), words.out + words.err, len(told), len(files)


MATCHED = {"KernelMatcher", "EquivalentExplicitClassifier", "EquivalentExplicitRegressor"}
MARKED = [
    pytest.param(name, marks=pytest.mark.long if name in MATCHED else pytest.mark.slow)
    for name in SETTINGS
]


@pytest.mark.parametrize("name", MARKED)
def test_every_parameter_changes_something_or_raises(name, tmp_path, capsys, monkeypatch):
    X, y = (part[::2] for part in data_for(name))
    if name not in CLASSIFIERS:
        X = X[:, :4]
        y = np.abs(X[:, 2])  # of one column, so that there is something to weigh
    silent, without = [], {}
    for parameter in tiny(name).get_params():
        value, others = OTHERS[parameter]
        if parameter == "tol" and name in NETWORKS:
            others = {}
        made = {"landmarks": X[:3], "checkpoint_dir": tmp_path / "kept"}
        if name in NETWORKS:  # "auto" is the other one here
            made["matching"] = "exact"
        value = fitted_teacher(X, y) if parameter == "teacher" else made.get(parameter, value)
        options = {**QUICK, **others}
        options.pop(parameter) if parameter in QUICK and parameter not in others else None
        rest = X, y, tmp_path, capsys, monkeypatch
        twice = parameter == "warm_start"
        key = repr((options, twice))
        if key not in without:
            without[key] = seen(name, *rest, options, twice)
        if without[key] == seen(name, *rest, {**options, parameter: value}, twice):
            silent.append(parameter)
    assert silent == []


def test_the_walk_knows_every_parameter():
    known = {parameter for name in SETTINGS for parameter in tiny(name).get_params()}
    assert known == set(OTHERS)
