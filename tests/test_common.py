"""scikit-learn's own checks, on every estimator."""

import numpy as np
import pytest
from scipy.stats import ttest_ind
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from tiny import NETWORKS, SETTINGS, tiny

# these are not among the checks of check_estimator
MORE = [
    "check_param_validation",
    "check_dataframe_column_names_consistency",
    "check_inplace_ensure_writeable",
]
MORE_OF_TRANSFORMERS = [
    "check_get_feature_names_out_error",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
]


@pytest.mark.slow
@parametrize_with_checks([tiny(name) for name in SETTINGS])
def test_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("check", MORE)
def test_more_checks(name, check):
    getattr(estimator_checks, check)(name, tiny(name))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.filterwarnings("ignore:X has feature names")
@pytest.mark.parametrize("check", MORE_OF_TRANSFORMERS)
def test_transformer_checks(check):
    getattr(estimator_checks, check)("KernelMatcher", tiny("KernelMatcher"))


def weight_equivalence_of_batches(estimator):
    """The one declared failure: batches of repeated rows are other batches."""
    reason = "batch_size is less than n_samples: weights and repetitions make different batches"
    return {"check_sample_weight_equivalence_on_dense_data": reason}


@pytest.mark.long
@parametrize_with_checks(
    [tiny(name, width=8, batch_size=4, hyperparameters=None) for name in NETWORKS],
    expected_failed_checks=weight_equivalence_of_batches,
)
def test_checks_with_small_batches(estimator, check):
    if "weight" in str(check) or "invariance" in str(check):  # the others were run above
        check(estimator)


@pytest.mark.long
@pytest.mark.parametrize("name", ["DEQRegressor", "EquivalentExplicitRegressor"])
def test_small_batches_are_weighted_in_the_mean(name):
    # two targets at every row: the weights alone decide which one the prediction is closer to
    X = np.repeat(np.linspace(-1, 1, 4), 2)[:, None]
    y = np.tile([0.0, 1.0], 4)
    weight = np.tile([1, 3], 4)

    def predictions(X, y, sample_weight, max_epochs, seeds):
        params = {"width": 8, "batch_size": 4, "weight_decay": 0.0, "max_epochs": max_epochs}
        params["hyperparameters"] = None
        fits = (tiny(name, **params).set_params(random_state=s) for s in seeds)
        return [m.fit(X, y, sample_weight).predict([[0.5]])[0] for m in fits]

    repeated = predictions(X.repeat(weight, 0), y.repeat(weight), None, 40, range(8))
    weighted = predictions(X, y, weight, 80, range(10, 18))  # as many steps
    plain = predictions(X, y, None, 80, range(20, 28))
    assert ttest_ind(repeated, weighted).pvalue > 0.01
    assert ttest_ind(repeated, plain).pvalue < 1e-6
