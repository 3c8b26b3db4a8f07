import copy
import gc
import math
import pickle
import shutil
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

from sk_deq import KernelMatcher
from sk_deq.kernels import deq_kernel, explicit_kernel
from sk_deq.modules import DEQ, ExactNetwork, ExplicitNetwork
from sk_deq.theory import match_explicit

# torch scripts some of its own functions when they are first needed
of_torch = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n, p, seed=1, dtype=torch.float64):
    return torch.randn(n, p, generator=generator(seed), dtype=dtype) / math.sqrt(p)


def ignore(solved, stage):
    pass


@pytest.mark.slow
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
        return functional_call(deq, dict(zip(names, parameters, strict=True)), (x,))

    norm = float(torch.linalg.matrix_norm(deq.recurrent_weight.detach(), 2))
    assert norm > deq.max_norm
    assert torch.autograd.gradcheck(features, (x, *deq.parameters()), atol=1e-7)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.slow
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


def test_what_modules_show():
    layers = match_explicit("tanh", recurrent_var=0.2).layers
    assert repr(DEQ(3, 8, activation="tanh")) == "DEQ(3, 8, activation='tanh')"
    assert "ExplicitNetwork(\n  3, 8, layers=(hard_tanh)\n" in repr(ExplicitNetwork(3, 8, layers))
    match = KernelMatcher(8, matching="exact", activation="tanh").fit(np.eye(3)).match_
    assert repr(ExactNetwork(3, 8, match)) == "ExactNetwork(3, 8, activation='tanh', kernel='ck')"


@pytest.mark.slow
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
    gc.collect()  # what others left is not to be freed meanwhile
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
    ("name", "value"),
    [("solver", "andersen"), ("max_iter", 0), ("max_iter", 1.5), ("tol", 0.0), ("tol", -1.0),
     ("tol", math.nan)],
)  # fmt: skip
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


def test_a_constant_activation_is_refused_by_name():
    with pytest.raises(ValueError, match="activation='one' is constant"):
        DEQ(3, 8, activation=one)


def one(t):
    return 0 * t + 1


def test_rows_that_overflow_are_told_from_those_that_need_more_iterations():
    deq = DEQ(3, 8, generator=generator())
    x = torch.tensor([[1.0, 2, 3], [1e30, 0, 0], [math.nan, 0, 0]])
    with pytest.warns(ConvergenceWarning, match=r"not finite for 2 of 3 rows.*Scale the rows") as w:
        z = deq(x)
    assert len(w) == 1
    rounding = 4 * torch.finfo(z.dtype).eps  # some processors' products of one row have their own
    torch.testing.assert_close(z[:1], deq(x[:1]), rtol=rounding, atol=rounding)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "tanh"])
def test_a_trained_state_makes_any_deq_of_the_activation_the_same_function(name):
    trained = DEQ(3, 8, activation=name, recurrent_var=0.6, contract=True, generator=generator())
    x = rows(9, 3, dtype=torch.float32)
    trained.report = ignore
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        (trained(x).sum() - 5).square().backward()
        optimizer.step()
    fresh = DEQ(3, 8, activation=name, recurrent_var=0.1, tau0=2.0, generator=generator(7))
    fresh.report = ignore
    fresh.load_state_dict(pickle.loads(pickle.dumps(trained.state_dict())))
    assert torch.equal(fresh.eval()(x), trained.eval()(x))
    assert torch.equal(fresh.effective_recurrent_weight(), trained.effective_recurrent_weight())


def test_a_state_of_another_activation_is_refused_by_name_and_changes_nothing():
    deq, other = DEQ(3, 8, generator=generator(1)), DEQ(3, 8, activation="tanh")
    before = deq.recurrent_weight.clone()
    with pytest.raises(ValueError, match="activation='tanh', this one has 'relu'"):
        deq.load_state_dict(other.state_dict())
    assert torch.equal(deq.recurrent_weight, before)


def small_deq(seed=0, train=False):
    deq = DEQ(3, 6, activation="tanh", bias_var=0.1, tol=1e-12, generator=generator(seed),
              dtype=torch.float64)  # fmt: skip
    return deq.train(train)


@pytest.mark.parametrize("train", [False, True])
def test_func_gradients_are_those_of_autograd_and_of_single_rows(train):
    deq, x = small_deq(train=train), rows(4, 3)
    parameters = {name: p.detach() for name, p in deq.named_parameters()}

    def loss(parameters, x):
        return functional_call(deq, parameters, (x,)).square().sum()

    def expected(x):
        return torch.autograd.grad(deq(x).square().sum(), list(deq.parameters()))

    torch.testing.assert_close(tuple(grad(loss)(parameters, x).values()), expected(x))
    each = vmap(grad(loss), in_dims=(None, 0))(parameters, x[:, None])
    singly = zip(*(expected(row[None]) for row in x), strict=True)
    for one, other in zip(each.values(), singly, strict=True):
        torch.testing.assert_close(one, torch.stack(other))


@of_torch
def test_forward_and_backward_jacobians_are_finite_differences():
    deq, x, step = small_deq(), rows(4, 3), 1e-6
    _, tangent = jvp(deq, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(
        tangent, (deq(x + step) - deq(x - step)) / (2 * step), atol=1e-8, rtol=0
    )
    parameters = {name: p.detach() for name, p in deq.named_parameters()}
    direction = {name: torch.ones_like(p) for name, p in parameters.items()}

    def moved(h):
        return {name: p + h * direction[name] for name, p in parameters.items()}

    f = lambda parameters: functional_call(deq, parameters, (x,))  # noqa: E731
    _, tangent = jvp(f, (parameters,), (direction,))
    torch.testing.assert_close(
        tangent, (f(moved(step)) - f(moved(-step))) / (2 * step), atol=1e-8, rtol=0
    )
    row = lambda x: deq(x[None])[0]  # noqa: E731
    torch.testing.assert_close(jacrev(row)(x[0]), jacfwd(row)(x[0]))
    torch.testing.assert_close(vmap(row)(x), deq(x))


def test_an_ensemble_under_vmap_gives_what_its_members_give():
    members, x = [small_deq(seed) for seed in range(3)], rows(4, 3)
    state = stack_module_state(members)
    parameters = {name: p.detach() for name, p in state[0].items()}

    def features(parameters, buffers):
        return functional_call(members[0], (parameters, buffers), (x,))

    expected = torch.stack([deq(x) for deq in members])
    torch.testing.assert_close(vmap(features)(parameters, state[1]), expected)
    gradients = vmap(grad(lambda p, b: features(p, b).square().sum()))(parameters, state[1])
    for k, deq in enumerate(members):
        for one, other in zip(gradients.values(), step(deq, x)[1], strict=True):
            torch.testing.assert_close(one[k], other)


@of_torch
def test_second_derivatives_under_func_are_refused():
    deq, x = small_deq(), rows(1, 3)
    for transform in (hessian, lambda f: grad(lambda x: grad(f)(x).sum())):
        with pytest.raises(RuntimeError, match="differentiated once only"):
            transform(lambda x: deq(x).sum())(x)


@pytest.mark.parametrize("backward_inside", [False, True])
def test_autocast_leaves_the_fixed_point_its_precision(backward_inside):
    deq = DEQ(3, 16, generator=generator())
    x = rows(5, 3, dtype=torch.float32).requires_grad_()
    z, gradients = step(deq, x)
    deq.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.autocast("cpu", torch.bfloat16):
            cast = deq(x)
            loss = cast.square().sum()
            if backward_inside:
                loss.backward()
        if not backward_inside:
            loss.backward()
    assert torch.equal(cast, z)
    # torch's own products of a backward pass within autocast are in bfloat16
    close = {"rtol": 0.05, "atol": 1e-3} if backward_inside else {}
    for parameter, expected in zip(deq.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, expected, **close)
    with torch.autocast("cpu", torch.bfloat16):  # between layers that do run in bfloat16
        layers = torch.nn.Linear(3, 3), deq, torch.nn.Linear(16, 2)
        out = torch.nn.Sequential(*layers)(x)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()


@pytest.mark.slow
@of_torch
def test_an_explicit_network_compiles_in_one_graph():
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler")
    network = ExplicitNetwork(3, 8, match_explicit("tanh", recurrent_var=0.2).layers)
    x = rows(5, 3, dtype=torch.float32)
    compiled = torch.compile(network, fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x))


def test_modules_are_made_where_and_as_torch_makes_new_tensors():
    with torch.device("meta"):
        deq = DEQ(3, 8, activation="silu", generator=generator())
        network = ExplicitNetwork(3, 8, ["tanh", "relu"], generator=generator())
    assert {p.device.type for m in (deq, network) for p in m.parameters()} == {"meta"}
    with torch.device("meta"):
        here = DEQ(3, 8, activation="silu", generator=generator(), device="cpu")
    expected = DEQ(3, 8, activation="silu", generator=generator())
    for one, other in zip(here.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(one, other)
