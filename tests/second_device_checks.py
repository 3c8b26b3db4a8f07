"""A device that is not the CPU, where there is none: nothing mixes the two, no loop waits for it.

The GPU's own tests are ``python -m pytest -m gpu``.
"""

import sys

import numpy as np
import pytest
import second_device
import torch
from second_device import Devices, Distant

from sk_deq import (
    DEQKernelRidge,
    DEQRegressor,
    EquivalentExplicitRegressor,
    _torch,
)
from sk_deq._nets.fixed_point import solve
from sk_deq.modules import ExactNetwork, ExplicitNetwork

pytestmark = pytest.mark.skipif(
    not second_device.available(), reason="this torch knows no devices written in Python"
)
RANDOM = np.random.RandomState(0)
X = RANDOM.normal(size=(120, 4))
Y = np.sin(X[:, 0]) + X[:, 1]
RIDGE = {"hyperparameters": None, "alpha": 0.1, "random_state": 0}


@pytest.fixture
def devices(monkeypatch):
    """The Devices, whose second one the estimators take for a GPU."""
    second_device.register()

    def replacement(original, answer):
        def resolved(device="auto"):
            second = str(device).startswith(second_device.NAME)
            return answer(device) if second else original(device)

        return resolved

    for name, answer in (("resolve_device", torch.device), ("present_device", str)):
        original = getattr(_torch, name)
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("sk_deq"):
                if getattr(module, name, None) is original:
                    monkeypatch.setattr(module, name, replacement(original, answer))
    as_tensor = torch.as_tensor  # of a list, it does not ask for devices written in Python
    monkeypatch.setattr(
        torch, "as_tensor", lambda x, dtype=None, device=None: as_tensor(x, dtype=dtype).to(device)
    )
    with Devices() as devices:
        yield devices


def test_mixed_devices_and_waits_are_seen(devices):
    distant, near = torch.ones(3, device="second"), torch.ones(3)
    with pytest.raises(RuntimeError, match="two devices"):
        distant + near
    assert isinstance(distant * 2 + torch.tensor(1.0), Distant) and not devices.waits
    assert float(distant.sum()) == 3 and len(devices.waits) == 1
    assert not isinstance(distant.cpu(), Distant) and len(devices.waits) == 2
    assert len(distant[distant > 0]) == 3 and len(devices.waits) == 3


MODELS = {
    "cholesky": DEQKernelRidge(**RIDGE, solver="cholesky"),
    "eigh": DEQKernelRidge(**RIDGE, solver="eigh"),
    "cg": DEQKernelRidge(**RIDGE, solver="cg", n_components=20),
    "landmarks": DEQKernelRidge(**RIDGE, solver="nystroem", n_components=20),
    "explicit": EquivalentExplicitRegressor(8, max_epochs=3, batch_size=30, random_state=0),
    "deq": DEQRegressor(8, max_epochs=3, batch_size=30, random_state=0),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_estimators_give_what_they_give_on_the_cpu(model, devices):
    expected = model.set_params(device="cpu").fit(X, Y).predict(X)
    assert not devices.waits
    found = model.set_params(device="second").fit(X, Y).predict(X)
    assert model.device_.startswith("second") and devices.waits
    # AdamW in one kernel, which is not to be had everywhere, rounds weights of float32 otherwise;
    # fixed points are looked at every five iterations, not every one
    atol = {EquivalentExplicitRegressor: 1e-5, DEQRegressor: 1e-2}.get(type(model), 1e-9)
    np.testing.assert_allclose(found, expected, atol=atol)


@pytest.mark.parametrize(("cls", "allowed"), [(DEQRegressor, 1), (EquivalentExplicitRegressor, 0)])
def test_how_often_a_step_of_training_waits(cls, allowed, devices):
    """A DEQ once, for its weight's spectral norm, and for its fixed points; others never."""
    waits = {}
    for batch_size in (60, 10):
        devices.waits.clear()
        model = cls(8, max_epochs=2, batch_size=batch_size, device="second", random_state=0)
        model.fit(X, Y)
        waits[batch_size] = len([line for line in devices.waits if "fixed_point" not in line])
    more_steps = 2 * (12 - 2)
    assert waits[10] - waits[60] <= allowed * more_steps


def test_fixed_points_wait_once_in_five_iterations(devices):
    u = torch.linspace(0.1, 1, 12).reshape(6, 2).to("second")
    devices.waits.clear()
    solved = solve(lambda z, u: torch.tanh(0.9 * z) + u, (u,), u, method="picard", tol=1e-6)
    n_iter = int(solved.n_iter.cpu().max())
    assert len([line for line in devices.waits if "fixed_point" in line]) <= n_iter


@pytest.mark.parametrize(("kind", "center"), [(ExplicitNetwork, True), (ExactNetwork, False)])
def test_explicit_networks_need_no_host(kind, center, devices):
    model = EquivalentExplicitRegressor(8, center=center, max_epochs=1, hyperparameters=None)
    network = model.fit(X, Y).module_.features
    assert isinstance(network, kind)
    network.to("second")
    rows = torch.from_numpy(X).to("second", network.bias.dtype)
    devices.waits.clear()
    assert isinstance(network(rows), Distant) and not devices.waits
