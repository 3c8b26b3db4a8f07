import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from sk_deq.kernels import deq_kernel, explicit_kernel
from sk_deq.modules import DEQ, ExplicitNetwork
from sk_deq.theory import match_explicit


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n, p, seed=1, dtype=torch.float64):
    return torch.randn(n, p, generator=generator(seed), dtype=dtype) / math.sqrt(p)


def ignore(solved, stage):
    pass


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu"])
def test_gradcheck_of_every_parameter(name):
    deq = DEQ(
        3, 6, activation=name, bias_var=0.1, tol=1e-13, generator=generator(), dtype=torch.float64
    )
    deq.eval()  # power iteration would move the bound between two evaluations
    with torch.no_grad():
        deq.recurrent_weight *= 4  # so that the bound is active and its derivative is checked
    x = rows(4, 3).requires_grad_()
    names = list(dict(deq.named_parameters()))

    def features(x, *parameters):
        return torch.func.functional_call(deq, dict(zip(names, parameters, strict=True)), (x,))

    norm = float(torch.linalg.matrix_norm(deq.recurrent_weight.detach(), 2))
    assert norm > deq.max_norm
    assert torch.autograd.gradcheck(features, (x, *deq.parameters()), atol=1e-7)


@pytest.mark.parametrize("solver", ["auto", "picard", "anderson"])
def test_a_row_gives_the_same_alone_and_in_any_batch(solver, device):
    deq = DEQ(20, 64, solver=solver, tol=1e-3, generator=generator(), device=device).eval()
    x = rows(4096, 20, dtype=torch.float32).to(device)
    whole = deq(x).detach()
    order = torch.randperm(4096, generator=generator(5)).to(device)
    assert (deq(x[order]) - whole[order]).abs().max() < 1e-6
    for i in range(0, 4096, 97):
        assert (deq(x[i : i + 1])[0] - whole[i]).abs().max() < 1e-6
        assert (deq(x[[i, 7]])[0] - whole[i]).abs().max() < 1e-6


def assert_mean_kernel(make, x, K):
    """The mean of z z^T over 16 networks is K within 5 standard errors, as measured."""
    with torch.no_grad():
        z = [make(generator(seed))(x) for seed in range(16)]
    draws = np.stack([(each @ each.T).numpy() for each in z])
    error = draws.std(0, ddof=1) / 4
    assert (np.abs(draws.mean(0) - K) <= 5 * error).all()
    assert error.max() < 0.05 * K.max()


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_features_of_wide_deqs_have_the_conjugate_kernel(name):
    spec = {"activation": name, "recurrent_var": 0.2, "bias_var": 0.1}
    x = rows(10, 8)
    K = deq_kernel(x.numpy(), kernel="ck", tau0=1.0, **spec)
    options = {"tol": 1e-6, "dtype": torch.float64}
    assert_mean_kernel(lambda rng: DEQ(8, 600, **spec, **options, generator=rng), x, K)


def test_matched_networks_have_the_kernel_of_their_layers():
    x, layers = rows(10, 8), match_explicit("relu", recurrent_var=0.2).layers
    K = explicit_kernel(x.numpy(), layers=layers, tau0=1.0)
    options = {"dtype": torch.float64}
    assert_mean_kernel(lambda rng: ExplicitNetwork(8, 600, layers, **options, generator=rng), x, K)


@pytest.mark.parametrize("recurrent_var", [0.0, 0.2, 0.5])
def test_the_initial_weight_is_the_theorys_own(recurrent_var):
    deq = DEQ(4, 300, recurrent_var=recurrent_var, generator=generator())
    assert torch.equal(deq.effective_recurrent_weight(), deq.recurrent_weight)
    contracting = DEQ(4, 300, recurrent_var=recurrent_var, contract=True, generator=generator())
    W = contracting.effective_recurrent_weight().detach()
    assert torch.linalg.matrix_norm(W, 2) < 1


def test_long_training_at_a_high_learning_rate_stays_a_contraction():
    X, y = load_digits(return_X_y=True)
    X = torch.tensor(X, dtype=torch.float32) / 61
    y = torch.tensor(y)
    deq = DEQ(64, 48, generator=generator())
    solves = []
    deq.report = lambda solved, stage: solves.append(bool(solved.converged.all()))
    readout = torch.nn.utils.skip_init(torch.nn.Linear, 48, 10)
    torch.nn.init.zeros_(readout.weight)
    torch.nn.init.zeros_(readout.bias)
    parameters = [*deq.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    losses, batches = [], generator(2)
    for _ in range(300):
        batch = torch.randint(len(X), (96,), generator=batches)
        loss = torch.nn.functional.cross_entropy(readout(deq(X[batch])), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    free = torch.linalg.matrix_norm(deq.recurrent_weight.detach(), 2)
    used = torch.linalg.matrix_norm(deq.effective_recurrent_weight().detach(), 2)
    assert free > 2, "the test is void: the weight did not want to leave the bound"
    assert used < 1
    assert all(solves)
    assert np.mean(losses[-50:]) < 0.1


def test_a_little_training_follows_kernel_regression_with_the_full_ntk():
    n, width, s_a, s_b = 10, 4000, 0.2, 0.8
    x = rows(n, 6, dtype=torch.float32)
    y = torch.linspace(-0.5, 0.5, 6)
    deq = DEQ(6, width, tol=1e-5, generator=generator())
    deq.bias.requires_grad_(False)
    v = torch.randn(width, generator=generator(3)).requires_grad_()
    with torch.no_grad():
        f0 = deq(x) @ v
    theta = deq_kernel(
        x.double().numpy(), kernel="ntk_full", activation="relu", recurrent_var=s_a, tau0=1.0
    )
    theta = torch.tensor(theta, dtype=torch.float32)
    train = slice(0, 6)
    rate, n_steps = 0.5 / float(torch.linalg.matrix_norm(theta[train, train], 2)), 12
    # A = sqrt(m / s_a) W, B = U / sqrt(s_b) and v learn at one rate: the NTK's gradient flow
    groups = [
        {"params": [deq.recurrent_weight], "lr": rate * s_a / width},
        {"params": [deq.input_weight], "lr": rate * s_b},
        {"params": [v], "lr": rate},
    ]
    optimizer = torch.optim.SGD(groups)
    predicted = f0.clone()
    for _ in range(n_steps):
        predicted = predicted - rate * theta[:, train] @ (predicted[train] - y)
        optimizer.zero_grad()
        ((deq(x[train]) @ v - y).square().sum() / 2).backward()
        optimizer.step()
    with torch.no_grad():
        trained = deq(x) @ v
    moved = torch.linalg.vector_norm(predicted - f0)
    error = torch.linalg.vector_norm(trained - predicted)
    assert moved > 0.5
    assert error < 0.06 * moved


def test_states_that_did_not_converge_warn_forward_and_backward():
    deq = DEQ(3, 50, max_iter=3, generator=generator())
    with pytest.warns(ConvergenceWarning, match="forward fixed point did not converge"):
        z = deq(rows(4, 3, dtype=torch.float32))
    with pytest.warns(ConvergenceWarning, match="backward fixed point did not converge"):
        z.square().sum().backward()


def test_modules_draw_from_their_generator_only_and_follow_the_default_dtype():
    state = torch.random.get_rng_state()
    a, b = (DEQ(3, 8, generator=generator(4)) for _ in range(2))
    c = ExplicitNetwork(3, 8, ["tanh", "relu"], generator=generator(4))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert c.bias.dtype == torch.get_default_dtype()
    double = DEQ(3, 8, generator=generator(4), dtype=torch.float64)
    assert torch.equal(double.input_weight.float(), a.input_weight)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DEQ(3, 8, activation="identity", generator=generator()),
        lambda: ExplicitNetwork(3, 8, match_explicit("tanh", recurrent_var=0.2).layers),
        lambda: ExplicitNetwork(3, 8, match_explicit("gelu", recurrent_var=0.2).layers),
    ],
)
def test_modules_pickle_and_copy(make):
    module = make().eval()
    x = rows(4, 3, dtype=torch.float32)
    for twin in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(twin(x), module(x))
    twin = make()
    twin.load_state_dict(module.state_dict())
    assert torch.equal(twin.eval()(x), module(x))


def test_named_activations_are_centred_at_their_own_scale():
    network = ExplicitNetwork(
        5, 4000, ["relu", "relu"], tau0=1.0, generator=generator(), dtype=torch.float64
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = torch.nn.functional.normalize(rows(20, 5), dim=1)
        z = network(x).detach()
    assert abs(float(z.mean())) * math.sqrt(4000) < 0.05


def step(deq, x):
    """Features and the gradient of every parameter for the sum of their squares."""
    deq.zero_grad()
    features = deq(x)
    features.square().sum().backward()
    return features.detach(), [p.grad.clone() for p in deq.parameters()]


def test_a_device_gives_what_the_cpu_gives(device):
    deq = DEQ(20, 64, tol=1e-6, generator=generator())
    x = rows(300, 20, dtype=torch.float32)
    here, gradients = step(deq, x)
    there, there_gradients = step(copy.deepcopy(deq).to(device), x.to(device))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-6)
    for one, other in zip(there_gradients, gradients, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-5)


def peak_bytes(work, device):
    """The most memory that `work` held at once, beyond what was there before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU],
                                profile_memory=True) as profile:  # fmt: skip
        work()
    events = profile.profiler.kineto_results.events()  # in the order of time
    return int(np.cumsum([e.nbytes() for e in events if e.name() == "[memory]"]).max())


def test_peak_memory_of_a_step_does_not_depend_on_the_iterations(device):
    x = rows(512, 20).to(device)
    spec = {"recurrent_var": 0.5, "solver": "picard", "tol": 1e-30, "dtype": torch.float64}
    peaks = {}
    for max_iter in (5, 40):  # too few for any row to come to rest
        deq = DEQ(20, 64, max_iter=max_iter, generator=generator(), device=device, **spec)
        deq.report = ignore
        step(deq, x)
        peaks[max_iter] = peak_bytes(lambda deq=deq: step(deq, x), device)
    state = 512 * 64 * 8
    assert 4 * state < peaks[5] < 16 * state
    assert peaks[40] == peaks[5]


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_a_recurrent_variance_of_zero_trains(name):
    deq = DEQ(3, 6, activation=name, recurrent_var=0.0, generator=generator(), dtype=torch.float64)
    x = rows(4, 3)
    direction = deq._direction.clone()
    deq(x).square().sum().backward()
    gradient = deq.recurrent_weight.grad
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 1e-6
    torch.testing.assert_close(deq._direction, direction)  # a weight of 0 stretches none the most
    step = 1e-6
    for i, j in [(0, 0), (2, 5), (4, 1)]:
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                deq.recurrent_weight[i, j] += sign * step
                values.append(float(deq.eval()(x).square().sum()))
                deq.recurrent_weight[i, j] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert float(gradient[i, j]) == pytest.approx(slope, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("recurrent_var", [0.0, 1e-80, 1e-32, 1e-25])
def test_a_weight_that_begins_at_next_to_nothing_grows_to_its_bound_and_no_further(recurrent_var):
    deq = DEQ(3, 8, recurrent_var=recurrent_var, contract=True, generator=generator())
    deq(rows(5, 3).float()).sum().backward()
    assert torch.isfinite(deq.recurrent_weight.grad).all()
    with torch.no_grad():
        deq.recurrent_weight += torch.randn(8, 8, generator=generator())
    norm = float(torch.linalg.matrix_norm(deq.effective_recurrent_weight().detach(), 2))
    assert norm == pytest.approx(0.95, rel=0.01)
    assert norm < 1 < float(torch.linalg.matrix_norm(deq.recurrent_weight.detach(), 2))


BAD = [
    ({"in_features": 0}, "in_features"),
    ({"in_features": 3.0}, "in_features"),
    ({"width": 0}, "width"),
    ({"activation": 3}, "activation"),
    ({"activation": "rectifier"}, "activation='rectifier' is unknown"),
    ({"recurrent_var": -0.1}, "recurrent_var"),
    ({"recurrent_var": math.nan}, "recurrent_var"),
    ({"recurrent_var": 1.5}, "recurrent_var=1.5 leaves no input variance"),
    ({"input_var": 0.0}, "input_var"),
    ({"bias_var": -1.0}, "bias_var"),
    ({"center": "yes"}, "center"),
    ({"tau0": 0.0}, "tau0"),
    ({"solver": "andersen"}, "solver"),
    ({"tol": 0.0}, "tol"),
    ({"tol": -1e-3}, "tol"),
    ({"tol": math.nan}, "tol"),
    ({"max_iter": 0}, "max_iter"),
    ({"max_iter": 2.5}, "max_iter"),
    ({"contract": 1}, "contract"),
    ({"generator": 0}, "generator"),
    ({"dtype": torch.int32}, "dtype"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=str)
def test_bad_arguments_of_a_deq(bad, message):
    with pytest.raises(ValueError, match=message):
        DEQ(**{"in_features": 3, "width": 8, **bad})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        *((bad, message) for bad, message in BAD if {"in_features", "width", "dtype"} & {*bad}),
        ({"bias_var": -1.0}, "bias_var"),
        ({"tau0": math.inf}, "tau0"),
        ({"generator": 0}, "generator"),
        ({"layers": []}, "layers must hold at least one"),
        ({"layers": ["rectifier"]}, "activation='rectifier' is unknown"),
    ],
    ids=str,
)
def test_bad_arguments_of_an_explicit_network(bad, message):
    with pytest.raises(ValueError, match=message):
        ExplicitNetwork(**{"in_features": 3, "width": 8, "layers": ["relu"], **bad})


@pytest.mark.parametrize("layers", [5, None])
def test_layers_that_are_none_are_named(layers):
    with pytest.raises(TypeError, match=f"layers must be .*, got {layers}"):
        ExplicitNetwork(3, 8, layers)


@pytest.mark.parametrize(
    ("name", "value"), [("solver", "andersen"), ("max_iter", 0), ("max_iter", 1.5)]
)
def test_what_is_set_after_the_constructor_is_refused_when_it_is_used(name, value):
    deq = DEQ(3, 8, generator=generator())
    setattr(deq, name, value)
    with pytest.raises(ValueError, match=name):
        deq(torch.ones(2, 3))


@pytest.mark.parametrize(
    ("solver", "n_iter", "message"),
    [("andersen", 5, "solver"), ("auto", 5, "solver"), ("picard", 0, "n_iter")],
)
def test_bad_arguments_of_a_residual_curve(solver, n_iter, message):
    with pytest.raises(ValueError, match=message):
        DEQ(3, 8, generator=generator()).residual_curve(torch.ones(2, 3), solver, n_iter)


def test_residuals_by_iteration_are_those_of_iterating():
    deq = DEQ(3, 16, activation="tanh", recurrent_var=0.5, generator=generator()).double().eval()
    x = rows(5, 3)
    calls = []
    activation = deq.activation
    deq.activation = lambda t: calls.append(1) or activation(t)
    curve = deq.residual_curve(x, "picard", 20)
    assert len(calls) == 20
    with torch.no_grad():
        u = x @ deq.input_weight.T + deq.bias
        W, a, expected = deq.effective_recurrent_weight(), u, []
        for _ in range(20):
            image = u + (activation(a) - deq.mean) @ W.T
            ratio = (image - a).norm(dim=1) / image.norm(dim=1)
            expected.append(float(ratio.max()))
            a = image
    np.testing.assert_allclose(curve, expected, rtol=1e-9, atol=1e-15)
    assert float(deq.residual_curve(x, "anderson", 20)[-1]) < expected[-1]
