"""Training with fixed points that are solved loosely, from the last solution of the same row."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.preprocessing import scale
from skorch.callbacks import Callback

from sk_deq import DEQClassifier, DEQRegressor
from sk_deq._nets import starts, training
from sk_deq._nets.evaluation import solved_with
from sk_deq._nets.starts import Starts, options_of_training
from sk_deq.modules import DEQ

IRIS = scale(load_iris().data), load_iris().target
DIABETES = load_diabetes(return_X_y=True)
DIGITS = scale(load_digits().data[:300]), load_digits().target[:300]


def losses(model):
    return np.array([epoch["train_loss"] for epoch in model.history_])


def n_iter(model):
    return np.mean([epoch["fixed_point_n_iter"] for epoch in model.history_])


@pytest.mark.slow
@pytest.mark.parametrize(
    "Estimator, data, batch_size",
    [(DEQClassifier, DIGITS, 60), (DEQClassifier, IRIS, "auto"), (DEQRegressor, DIABETES, 100)],
)
def test_training_is_that_of_cold_starts_and_takes_fewer_iterations(
    Estimator, data, batch_size, monkeypatch
):
    model = Estimator(hyperparameters=None, width=64, batch_size=batch_size, random_state=0)
    warm = model.fit(*data)
    losses_warm, n_iter_warm, score = losses(warm), n_iter(warm), warm.score(*data)
    monkeypatch.setattr(training, "options_of_training", lambda *args: ({}, ""))
    cold = model.fit(*data)
    losses_cold = losses(cold)
    assert (losses_warm > 0.95 * losses_cold - 0.002).all()
    half_an_epoch = np.sqrt(losses_cold[:-1] * losses_cold[1:])  # behind, where the loss falls fast
    assert (losses_warm[1:] < np.maximum(1.05 * losses_cold[1:] + 0.002, half_an_epoch)).all()
    assert abs(score - cold.score(*data)) < 0.01
    assert n_iter_warm < 0.6 * n_iter(cold)


@pytest.mark.slow
def test_one_loss_curve_where_the_tolerance_is_that_of_prediction(monkeypatch):
    """Where to start does not matter to what is found."""
    monkeypatch.setattr(starts, "TRAINING_TOL", 1e-9)
    monkeypatch.setattr(starts, "_ERROR", 0.0)
    monkeypatch.setattr(starts, "GRADIENT_TOL", 1e-9)
    model = DEQClassifier(
        hyperparameters=None, width=16, tol=1e-9, max_epochs=20, batch_size=50, random_state=0
    )
    warm = losses(model.set_params(dtype="float64").fit(*IRIS))
    monkeypatch.setattr(training, "options_of_training", lambda *args: ({}, ""))
    assert_allclose(warm, losses(model.fit(*IRIS)), rtol=1e-5)


def step(deq, x, options):
    """Features and the gradient of a loss."""
    deq.zero_grad()
    with solved_with(deq, options):
        z = deq(x)
    ((z - 0.1) ** 2).sum().backward()
    return z.detach(), deq.recurrent_weight.grad.clone()


def deq_and_rows(n=12, tol=1e-8):
    make = torch.Generator().manual_seed(0)
    deq = DEQ(4, 20, tol=tol, contract=True, generator=make, dtype=torch.float64).eval()
    return deq, torch.randn(n, 4, generator=make, dtype=torch.float64) / 2


def test_rows_start_from_their_own_solutions():
    deq, x = deq_and_rows()
    expected, gradient = step(deq, x, {})
    taken = []
    deq.report = lambda solved, stage: taken.append(solved.n_iter)
    kept = Starts(len(x), deq.bias.detach())
    for rows in (torch.tensor([3, 1, 7]), torch.tensor([1, 3, 5])):
        kept.rows = rows
        z, _ = step(deq, x[rows], {"starts": kept})
        assert_allclose(z, expected[rows], atol=1e-8)
    forward, backward = taken[2:]
    assert forward[:2].tolist() == [1, 1] and int(backward[:2].max()) <= 2
    assert forward[2] > 5 and backward[2] > 5
    assert deq.training_options is None
    kept.rows = slice(None)
    for _ in range(2):
        z, found = step(deq, x, {"starts": kept})
        assert_allclose(z, expected, atol=1e-8)
        assert_allclose(found, gradient, atol=1e-6)


def test_the_adjoint_starts_at_the_scale_and_sign_of_its_gradient():
    deq, x = deq_and_rows()
    kept, taken = Starts(len(x), deq.bias.detach()), []
    deq.report = lambda solved, stage: taken.append((stage, solved))
    direction = torch.randn(len(x), 20, generator=torch.Generator().manual_seed(1)).double()
    for factor in (1.0, -1e-6, 1e6):
        with solved_with(deq, {"starts": kept}):
            z = deq(x)
        (factor * z * direction).sum().backward()
    assert all(int(solved.n_iter.max()) == 1 for _, solved in taken[2:])
    with solved_with(deq, {"starts": kept}):
        (0.0 * deq(x)).sum().backward()
    assert not taken[-1][1].value.any() and taken[-1][1].converged.all()
    with solved_with(deq, {"starts": kept}):  # nothing is known of a gradient after that
        (deq(x) * direction).sum().backward()
    assert taken[-1][1].converged.all()


def test_rows_start_from_what_was_added_to_what_they_are_now():
    make = torch.Generator().manual_seed(0)
    deq = DEQ(30, 100, tol=0.01, generator=make, dtype=torch.float64).eval()
    x = torch.randn(50, 30, generator=make, dtype=torch.float64) / 30**0.5
    kept, taken = Starts(len(x), deq.bias.detach()), []
    deq.report = lambda solved, stage: taken.append(solved)
    step(deq, x, {"starts": kept})
    x[:, ::5] = 0.0
    u = deq._drive(x).detach()
    step(deq, x, {"starts": kept})
    step(deq, x, {})
    last, _, forward, _, cold, _ = taken
    assert_allclose(kept.kept["forward"], forward.value.detach() - u, atol=1e-12)
    kept.kept["forward"][:] = last.value.detach() - u  # to start from the last solution itself
    step(deq, x, {"starts": kept})
    warm, plain, cold = (solved.n_iter.double().mean() for solved in (forward, taken[-2], cold))
    assert warm < plain - 0.4 and warm < cold - 0.4


@pytest.mark.parametrize("recurrent_var, least", [(0.05, 0.087), (0.2, 0.031), (0.5, 0.01)])
def test_training_leaves_an_error_of_two_percent_where_the_layer_contracts_fast(
    recurrent_var, least
):
    make = torch.Generator().manual_seed(0)
    deq = DEQ(30, 400, recurrent_var=recurrent_var, generator=make).eval()
    x = torch.randn(200, 30, generator=make) / 30**0.5
    options, _ = options_of_training(deq, len(x), 2)
    assert_allclose(options["tol"], least, rtol=0.05)
    errors, exact = [], deq(x).detach()
    for solving in ({"tol": options["tol"], "max_iter": 100}, {"tol": 1e-6}):
        with solved_with(deq, solving):
            errors.append((deq(x) - exact).norm(dim=1) / exact.norm(dim=1))
    assert 0 < errors[0].max() < 0.025
    assert errors[1].max() < 1e-3


def test_what_is_not_finite_is_not_started_from():
    deq, x = deq_and_rows()
    expected, gradient = step(deq, x, {})
    kept = Starts(len(x), deq.bias.detach())
    deq.report = lambda solved, stage: None
    bad = x.clone()
    bad[2], bad[3] = torch.nan, torch.inf
    step(deq, bad, {"starts": kept})
    deq.report = None
    z, found = step(deq, x, {"starts": kept})
    assert_allclose(z, expected, atol=1e-8)
    assert_allclose(found, gradient, atol=1e-6)


def test_predictions_and_validation_are_solved_to_tol():
    class Watch(Callback):
        def on_batch_end(self, net, batch, training, **kwargs):
            assert net.module_.features.training_options is None

    X, y = IRIS
    model = DEQClassifier(
        hyperparameters=None, width=16, max_epochs=4, early_stopping=True, batch_size=40,
        tol=1e-6, dtype="float64", callbacks=[Watch()], random_state=0,
    ).fit(X, y)  # fmt: skip
    assert "starts" not in vars(model) and model.module_.features.training_options is None
    assert 1e-4 < model.fixed_point_residual_ <= model.history_[-1]["fixed_point_tol"] < 0.04
    together = model.predict_proba(X)
    assert_allclose(model.predict_proba(X[:7]), together[:7], rtol=1e-10)
    model.module_.features.tol = 1e-12
    assert_allclose(model.predict_proba(X), together, rtol=1e-4)
    loose = DEQClassifier(
        hyperparameters=None, width=16, max_epochs=1, tol=0.1, random_state=0
    ).fit(X, y)
    assert 0.04 < loose.fixed_point_residual_ <= 0.1


def test_what_does_not_fit_the_budget_starts_cold_and_is_told(monkeypatch, capsys):
    model = DEQClassifier(
        hyperparameters=None, width=16, max_epochs=4, batch_size=50, verbose=1, random_state=0
    )
    n_warm = n_iter(model.fit(*IRIS))
    assert "cold" not in capsys.readouterr().out
    monkeypatch.setattr(starts, "_BUDGET", 2 * 150 * 16 * 4 - 1)
    n_cold = n_iter(model.fit(*IRIS))
    assert "fixed points start cold: the last ones of 150 rows" in capsys.readouterr().out
    assert n_warm < n_cold
    model.set_params(verbose=0).fit(*IRIS)
    assert capsys.readouterr().out == ""


def test_fits_repeat_and_keep_no_solutions():
    X, y = DIGITS
    first, second = (
        DEQClassifier(
            hyperparameters=None, width=32, batch_size=64, max_epochs=5, random_state=0
        ).fit(X, y)
        for _ in range(2)
    )
    assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert losses(first).tolist() == losses(second).tolist()
    first.partial_fit(X, y).partial_fit(X[:100], y[:100])
    assert first._net.solving == {}
    first.set_params(warm_start=True).fit(X[:200], y[:200])
    assert np.isfinite(losses(first)).all()
