import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from sk_deq._nets import fixed_point
from sk_deq._nets.fixed_point import ImplicitEquilibrium, solve, warn_unconverged
from sk_deq._theory.activations import get_activation


def affine(radius, d=20, n=50, seed=0, dtype=torch.float64, device="cpu"):
    """f(z, u) = z W^T + u with W of spectral radius `radius`, and its solution."""
    rng = torch.Generator().manual_seed(seed)
    W = torch.randn(d, d, generator=rng, dtype=torch.float64)
    W = (W + W.T) / 2
    W *= radius / torch.linalg.eigvalsh(W).abs().max()
    u = torch.randn(n, d, generator=rng, dtype=torch.float64)
    solution = torch.linalg.solve(torch.eye(d, dtype=torch.float64) - W, u.T).T
    W, u, solution = (t.to(device=device, dtype=dtype) for t in (W, u, solution))
    return (lambda z, u: torch.addmm(u, z, W.T)), u, solution


@pytest.mark.parametrize("method", ["picard", "anderson", "auto"])
@pytest.mark.parametrize("radius", [0.1, 0.5, 0.9])
def test_solves_an_affine_map(method, radius, device):
    f, u, solution = affine(radius, device=device)
    solved = solve(f, (u,), torch.zeros_like(u), method=method, tol=1e-10, max_iter=1000)
    assert solved.converged.all() and (solved.residual <= 1e-10).all()
    assert torch.allclose(solved.value, solution, rtol=0, atol=1e-10 / (1 - radius) * 30)
    assert (solved.n_iter >= 1).all() and (solved.n_iter <= 1000).all()


def test_auto_is_picard_while_it_contracts_fast_and_anderson_where_it_does_not():
    for radius, faster in [(0.3, 1.0), (0.97, 0.5)]:
        f, u, _ = affine(radius)
        picard, auto = (
            solve(f, (u,), u, method=m, tol=1e-8, max_iter=2000) for m in ("picard", "auto")
        )
        assert auto.converged.all()
        assert auto.n_iter.sum() <= faster * picard.n_iter.sum()


def test_a_row_that_does_not_depend_on_its_neighbours_takes_its_own_number_of_iterations():
    f = lambda z, rate: rate * z + 1  # noqa: E731
    rate = torch.tensor([[0.0], [0.5], [0.9], [0.99], [1.5]], dtype=torch.float64)
    solved = solve(f, (rate,), torch.zeros_like(rate), method="picard", tol=1e-6, max_iter=2000)
    assert solved.converged.tolist() == [True, True, True, True, False]
    assert (solved.n_iter[:4].diff() > 0).all()
    expected = 1 / (1 - rate[:4])
    assert torch.allclose(solved.value[:4], expected, rtol=2e-4)


@pytest.mark.parametrize(
    "bad",
    [{"method": "andersen"}, {"max_iter": 0}, {"max_iter": 2.5}, {"tol": -1.0}, {"tol": np.nan}],
)
def test_what_would_iterate_otherwise_or_for_ever_is_refused(bad):
    f, u, _ = affine(0.5, n=3)
    with pytest.raises(ValueError, match=r"solver='andersen'|max_iter must be|tol must be"):
        solve(f, (u,), u, **bad)


@pytest.mark.parametrize("method", ["picard", "anderson", "auto"])
def test_looking_at_the_rows_less_often_changes_nothing(method, monkeypatch):
    # what a GPU does, so as not to wait for the host in each iteration
    f, u, _ = affine(0.95, n=40)
    u *= torch.logspace(-3, 3, 40)[:, None]
    for max_iter in (7, 500):
        every, seldom = (
            (
                monkeypatch.setattr(fixed_point, "_BURST", {"cpu": burst}),
                solve(f, (u,), u, method=method, tol=1e-8, max_iter=max_iter),
            )[1]
            for burst in (1, 5)
        )
        assert torch.equal(every.n_iter, seldom.n_iter)
        torch.testing.assert_close(every.value, seldom.value, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(every.residual, seldom.residual, rtol=1e-3, atol=1e-14)
        assert every.converged.all() == seldom.converged.all() == (max_iter == 500)


@pytest.mark.parametrize("method", ["picard", "anderson", "auto"])
def test_a_row_gives_the_same_alone_and_in_any_batch(method, device):
    f, u, _ = affine(0.95, n=200, dtype=torch.float32, device=device)
    u *= torch.logspace(-3, 3, 200, device=device)[:, None]  # rows stop at different times

    def value(u):
        return solve(f, (u,), u, method=method, tol=1e-3, max_iter=500).value

    whole = value(u)
    # rounding, amplified by the conditioning 1 / (1 - radius); stopping together would leave 1e-3
    scale = 10 * torch.finfo(torch.float32).eps / (1 - 0.95) * whole.abs().amax(1)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1)).to(device)
    assert ((value(u[order]) - whole[order]).abs().amax(1) <= scale[order]).all()
    for i in (0, 57, 199):
        assert (value(u[i : i + 1])[0] - whole[i]).abs().max() <= scale[i]
        assert (value(u[[i, 3]])[0] - whole[i]).abs().max() <= scale[i]


def test_no_row_takes_more_than_max_iter_whatever_is_beside_it():
    rates = torch.tensor([0.9, 0.97, 0.995, 0.9999], dtype=torch.float64)[:, None]
    torch.manual_seed(0)
    A = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    b = torch.randn(4, 6, dtype=torch.float64)

    def f(z, b, rate):
        return rate * torch.tanh(z @ A.T) + b

    for max_iter in (7, 15, 21):
        together = solve(f, (b, rates), b, tol=1e-12, max_iter=max_iter)
        assert together.n_iter.max() <= max_iter
        for i in range(4):
            alone = solve(f, (b[i : i + 1], rates[i : i + 1]), b[i : i + 1], tol=1e-12,
                          max_iter=max_iter)  # fmt: skip
            assert alone.n_iter[0] == together.n_iter[i]
            torch.testing.assert_close(alone.value[0], together.value[i], rtol=1e-9, atol=1e-9)


def test_rows_that_leave_no_number_stop_at_once():
    solved = solve(lambda z, u: z * u, (torch.tensor([[2.0], [torch.nan]]),), torch.ones(2, 1))
    assert solved.n_iter.tolist()[1] == 1 and not solved.converged.any()


def test_zero_rows_and_empty_batches():
    f, u, _ = affine(0.5)
    solved = solve(f, (0 * u,), 0 * u)
    assert solved.converged.all() and (solved.value == 0).all() and (solved.n_iter == 1).all()
    assert solve(f, (u[:0],), u[:0]).value.shape == (0, 20)


def test_the_warning_names_the_residual_and_the_remedy():
    f, u, _ = affine(0.9)
    solved = solve(f, (u,), u, method="picard", tol=1e-8, max_iter=3)
    with pytest.warns(ConvergenceWarning, match=r"50 of 50 rows.*residual .*Increase max_iter"):
        warn_unconverged(solved, stage="forward", tol=1e-8, max_iter=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solved = solve(f, (u,), u, tol=1e-8, max_iter=500)
        warn_unconverged(solved, stage="forward", tol=1e-8, max_iter=500)


OPTIONS = {"method": "auto", "tol": 1e-13, "max_iter": 500}


def problem(n=6, d=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    u = torch.randn(n, d, generator=rng, dtype=torch.float64, requires_grad=True)
    W = 0.3 * torch.randn(d, d, generator=rng, dtype=torch.float64)
    return u, W.requires_grad_()


def ignore(solved, stage):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("mean", [0.0, 0.4])
def test_implicit_gradient_against_finite_differences(name, mean):
    u, W = problem()
    phi = get_activation(name)
    assert torch.autograd.gradcheck(
        lambda u, W: ImplicitEquilibrium.apply(u, W, phi, mean, OPTIONS, ignore), (u, W), atol=1e-7
    )


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_implicit_gradient_is_that_of_fifty_unrolled_iterations(name):
    u, W = problem()
    phi, direction = get_activation(name), torch.linspace(-1, 1, 30, dtype=torch.float64).view(6, 5)
    a = u
    for _ in range(50):
        a = (phi(a) - 0.2) @ W.T + u
    unrolled = torch.autograd.grad((a * direction).sum(), (u, W))
    a = ImplicitEquilibrium.apply(u, W, phi, 0.2, OPTIONS, ignore)
    implicit = torch.autograd.grad((a * direction).sum(), (u, W))
    for one, other in zip(implicit, unrolled, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-9)


def test_double_backward_is_refused():
    u, W = problem()
    a = ImplicitEquilibrium.apply(u, W, get_activation("tanh"), 0.0, OPTIONS, ignore)
    with pytest.raises(RuntimeError, match="differentiated once only"):
        torch.autograd.grad(a.sum(), u, create_graph=True)


def test_memory_kept_for_backward_does_not_grow_with_the_iterations():
    def kept(max_iter):
        sizes = []
        u, W = problem(n=64, d=32)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            options = {"method": "picard", "tol": 1e-300, "max_iter": max_iter}
            ImplicitEquilibrium.apply(u, W, get_activation("tanh"), 0.0, options, ignore)
        return sum(sizes)

    assert kept(2) == kept(200) == 64 * 32 + 32 * 32


def test_both_solves_are_reported():
    seen = {}
    u, W = problem()
    a = ImplicitEquilibrium.apply(
        u, W, get_activation("tanh"), 0.0, OPTIONS, lambda s, stage: seen.update({stage: s})
    )
    a.sum().backward()
    assert set(seen) == {"forward", "backward"}
    assert all(s.converged.all() for s in seen.values())
    np.testing.assert_allclose(u.grad, seen["backward"].value)
