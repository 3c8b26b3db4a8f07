"""Reference values computed by other code: kernels, the four numbers, power series."""

import json
from pathlib import Path

import numpy as np
import pytest

from sk_deq.kernels import deq_kernel
from sk_deq.theory import deq_coefficients, deq_scale, sphere_series

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "deq_kernels.json").read_text())
SERIES = json.loads((DATA / "sphere_series.json").read_text())


def _name(case):
    centred = "centred" if case["center"] else "uncentred"
    extra = case.get("kernel", f"{case.get('tau0', 1):.1f}")
    return f"{case['activation']}-{case['recurrent_var']}-{centred}-{extra}"


def _parameters(case):
    return {k: case[k] for k in ("activation", "recurrent_var", "input_var", "center", "tau0")}


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=_name)
def test_kernels(case):
    X = np.array(GOLDEN["X"])
    X *= case["tau0"] / np.sqrt((X**2).sum(axis=1).mean())
    for kernel, expected in case["exact"].items():
        K = deq_kernel(X, kernel=kernel, **_parameters(case))
        np.testing.assert_allclose(K, expected, rtol=1e-8, err_msg=kernel)
        single = deq_kernel(X.astype(np.float32), kernel=kernel, **_parameters(case))
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-6, err_msg=kernel)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=_name)
def test_scale_and_four_numbers(case):
    tau, mean = deq_scale(**_parameters(case))
    np.testing.assert_allclose([tau, mean], [case["tau"], case["mean"]], rtol=1e-10, atol=1e-12)
    if not case["center"]:
        return  # the four numbers are a theory of centred networks
    parameters = _parameters(case)
    del parameters["center"]
    for kernel, expected in (
        ("ck", [*case["alpha"][:3], case["gamma2"]]),
        ("ntk", [*case["beta"], case["kappa2"]]),
    ):
        numbers = deq_coefficients(kernel=kernel, **parameters)
        np.testing.assert_allclose(numbers, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("case", SERIES, ids=_name)
def test_power_series(case):
    parameters = {k: v for k, v in case.items() if k != "power_series"}
    series = sphere_series(**parameters, n_terms=64)
    expected = np.array(case["power_series"])
    np.testing.assert_allclose(series[: len(expected)], expected, rtol=1e-8, atol=1e-12)
    assert (series >= 0).all()
    r = np.linspace(-0.8, 0.8, 9)
    X = np.stack([r, np.sqrt(1 - r**2)], axis=1)
    del parameters["kernel"]
    K = deq_kernel(X, np.array([[1.0, 0.0]]), kernel=case["kernel"], tau0=1.0, **parameters)
    np.testing.assert_allclose(np.polynomial.polynomial.polyval(r, series), K[:, 0], atol=2e-7)
