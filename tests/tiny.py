"""The seven estimators at default parameters, but small and quick."""

import sk_deq

NETWORK = {"width": 32, "max_epochs": 30, "lr": 0.02}
SETTINGS = {
    "DEQClassifier": NETWORK,
    "DEQRegressor": NETWORK,
    "EquivalentExplicitClassifier": NETWORK,
    "EquivalentExplicitRegressor": NETWORK,
    "DEQKernelRidge": {},
    "DEQKernelRidgeClassifier": {},
    "KernelMatcher": {"n_components": 8},
}
NETWORKS = [name for name in SETTINGS if SETTINGS[name] is NETWORK]
CLASSIFIERS = [name for name in SETTINGS if name.endswith("Classifier")]
REGRESSORS = ["DEQRegressor", "EquivalentExplicitRegressor", "DEQKernelRidge"]


def tiny(name, **params):
    """Return a new estimator of this name; `params` it does not have are left out."""
    cls = getattr(sk_deq, name)
    params = {**SETTINGS[name], "random_state": 0, **params}
    return cls(**{k: v for k, v in params.items() if k in cls().get_params()})


def trained(name, **params):
    """The same; a network without a search, so that it is trained."""
    without = {"hyperparameters": None} if name in NETWORKS else {}
    return tiny(name, **{**without, **params})
