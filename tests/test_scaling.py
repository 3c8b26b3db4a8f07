import numpy as np
import pytest
import torch

from sk_deq._scaling import InputScaler, root_mean_square_norm

X = np.random.default_rng(0).normal(size=(30, 4)) * 3
X.setflags(write=False)


@pytest.mark.parametrize("kind", [np.asarray, lambda a: torch.tensor(np.array(a))])
@pytest.mark.parametrize("mode", ["rms", "centered", "sphere", None])
def test_scaled_rows_have_the_norm_the_theory_assumes(mode, kind):
    data = kind(X)
    scaler = InputScaler(mode).fit(data)
    Z = scaler.transform(data)
    assert type(Z) is type(data) and Z.dtype == data.dtype
    assert root_mean_square_norm(Z) == pytest.approx(scaler.tau0_)
    if mode == "sphere":
        np.testing.assert_allclose(np.linalg.norm(np.asarray(Z), axis=1), 1)
    if mode is None:
        assert Z is data
    else:
        assert scaler.tau0_ == 1


def test_centered_rows_do_not_know_where_they_were():
    data = torch.tensor(np.array(X))
    Z = InputScaler("centered").fit(data).transform(data)
    torch.testing.assert_close(Z.mean(0), torch.zeros(4, dtype=Z.dtype), rtol=0, atol=1e-15)
    assert root_mean_square_norm(Z) == pytest.approx(1)
    elsewhere = data + torch.tensor([1e3, 0.0, -5.0, 1e6])
    moved = InputScaler("centered").fit(elsewhere).transform(elsewhere)
    torch.testing.assert_close(moved, Z, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", ["rms", "centered"])
def test_integer_weights_equal_repeated_rows(mode):
    weight = torch.arange(30) % 3
    data = torch.tensor(np.array(X))
    repeated = InputScaler(mode).fit(data.repeat_interleave(weight, dim=0))
    weighted = InputScaler(mode).fit(data, weight.double())
    assert weighted.scale_ == pytest.approx(repeated.scale_, rel=1e-14)
    torch.testing.assert_close(weighted.transform(data), repeated.transform(data))


def test_on_the_sphere_the_bias_becomes_a_coordinate():
    scaler = InputScaler("sphere", input_var=0.5, bias_var=2.0).fit(X)
    Z = scaler.transform(X)
    assert Z.shape == (30, 5) and scaler.n_features_out_ == 5 and scaler.bias_var_ == 0
    # the ratio of the constant to a row of root-mean-square norm is that of the two variances
    norm = np.linalg.norm(X, axis=1) / scaler.scale_
    np.testing.assert_allclose(Z[:, 4] / np.linalg.norm(Z[:, :4], axis=1), 2 / norm)


@pytest.mark.parametrize("mode", ["rms", "sphere"])
@pytest.mark.parametrize("size", [0.0, 1e-200, 1e200])
def test_extreme_rows_stay_finite(mode, size):
    data = size * np.eye(3)
    Z = InputScaler(mode).fit(data).transform(data)
    np.testing.assert_allclose(Z, np.eye(3) if size else np.zeros((3, 3)))


def test_errors_name_the_parameter():
    with pytest.raises(ValueError, match="input_scaling='cube' is unknown"):
        InputScaler("cube").fit(X)
    with pytest.raises(ValueError, match="needs input_var > 0"):
        InputScaler("sphere", input_var=0.0, bias_var=1.0).fit(X)
