"""skops: whole pipelines in files that run no code; of this package they hold the estimators."""

import warnings

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_inputs import data_for
from tiny import SETTINGS, tiny

import sk_deq
from sk_deq.export import trusted_types

sio = pytest.importorskip("skops.io", reason="needs pip install 'sk-deq[skops]'")


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_skops_needs_to_trust_the_estimators_only(name):
    X, y = data_for(name)
    model = make_pipeline(StandardScaler(), tiny(name)).fit(X, y)
    data = sio.dumps(model)
    cls = f"{type(model[-1]).__module__}.{name}"
    assert sio.get_untrusted_types(data=data) == [cls]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = sio.loads(data, trusted=trusted_types())
    for method in ("predict", "predict_proba", "decision_function", "transform"):
        if hasattr(model, method):
            np.testing.assert_array_equal(getattr(again, method)(X), getattr(model, method)(X))


def test_trusted_types_are_the_estimators():
    assert sorted(name.split(".")[-1] for name in trusted_types()) == sorted(sk_deq.__all__)
