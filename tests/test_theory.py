"""The four numbers, their matching and the power series on the sphere."""

import itertools
import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy.special import eval_hermitenorm, factorial
from sklearn.exceptions import ConvergenceWarning
from slow_truth import ACTIVATIONS, SlowDEQ, expectation

from sk_deq._theory.activations import ACTIVATIONS as REGISTRY
from sk_deq.kernels import deq_kernel, explicit_kernel
from sk_deq.theory import (
    deq_coefficients,
    deq_scale,
    explicit_coefficients,
    match_explicit,
    sphere_series,
)

# E phi'' = 0 at every scale: one layer suffices
FLAT = {"tanh", "erf", "sin", "sigmoid", "hard_tanh", "identity"}


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("center", [True, False])
def test_scale_solves_its_equation(name, center):
    spec = dict(recurrent_var=0.4, input_var=0.7, bias_var=0.3, tau0=1.3)
    tau, mean = deq_scale(name, center=center, **spec)
    phi, _, kinks = ACTIVATIONS[name]
    assert mean == pytest.approx(expectation(phi, kinks, tau) if center else 0, abs=1e-12)
    second = expectation(lambda t: (phi(t) - mean) ** 2, kinks, tau)
    assert tau**2 == pytest.approx(0.4 * second + 0.7 * 1.3**2 + 0.3, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_four_numbers_are_the_taylor_coefficients_of_the_kernel(name, kernel):
    """Off the diagonal, at x.y = 0 and chi = 0: derivatives of the exact kernel."""
    deq = dict(recurrent_var=0.3, tau0=1.2)
    numbers = deq_coefficients(name, kernel=kernel, **deq)

    def exact(product, chi1=0.0, chi2=0.0):
        n1, n2 = np.sqrt(1.2**2 + chi1), np.sqrt(1.2**2 + chi2)
        x, y = np.array([[n1, 0.0]]), np.array([[product / n1, 0.0]])
        y[0, 1] = np.sqrt(n2**2 - y[0, 0] ** 2)
        return deq_kernel(x, y, activation=name, kernel=kernel, **deq)[0, 0]

    h = 3e-3
    plus, zero, minus = (exact(t) for t in (h, 0.0, -h))
    size = numbers.diagonal
    assert zero == pytest.approx(0, abs=1e-9 * size)
    assert (plus - minus) / (2 * h) == pytest.approx(numbers.linear, abs=2e-5 * size)
    assert (plus - 2 * zero + minus) / (2 * h * h) == pytest.approx(
        numbers.quadratic, abs=2e-4 * size
    )
    h = 0.02
    mixed = sum(s * t * exact(0.0, s * h, t * h) for s in (-1, 1) for t in (-1, 1)) / (4 * h * h)
    assert mixed == pytest.approx(numbers.norm, abs=2e-4 * size)
    x = np.array([[1.2, 0.0]])
    diagonal = deq_kernel(x, activation=name, kernel=kernel, **deq)[0, 0]
    assert diagonal == pytest.approx(numbers.diagonal, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "first"), [("ck", False), ("ntk", False), ("ntk", True)])
@pytest.mark.parametrize(
    "layers", [["relu"], ["gelu", "elu"], ["softplus", "relu", "tanh"], ["softplus", "gelu", "elu"]]
)
def test_explicit_recursion_gives_the_taylor_coefficients_of_the_kernel(layers, kernel, first):
    numbers = explicit_coefficients(layers, tau0=1.1, kernel=kernel, train_first_layer=first)

    def exact(product, chi1=0.0, chi2=0.0):
        n1, n2 = np.sqrt(1.1**2 + chi1), np.sqrt(1.1**2 + chi2)
        x, y = np.array([[n1, 0.0]]), np.array([[product / n1, 0.0]])
        y[0, 1] = np.sqrt(n2**2 - y[0, 0] ** 2)
        arguments = dict(layers=layers, kernel=kernel, train_first_layer=first, tau0=1.1)
        return explicit_kernel(x, y, **arguments)[0, 0]

    h = 3e-3
    plus, zero, minus = (exact(t) for t in (h, 0.0, -h))
    size = numbers.diagonal
    assert (plus - minus) / (2 * h) == pytest.approx(numbers.linear, abs=2e-5 * size)
    assert (plus - 2 * zero + minus) / (2 * h * h) == pytest.approx(
        numbers.quadratic, abs=2e-4 * size
    )
    h = 0.02
    mixed = sum(s * t * exact(0.0, s * h, t * h) for s in (-1, 1) for t in (-1, 1)) / (4 * h * h)
    assert mixed == pytest.approx(numbers.norm, abs=2e-4 * size)


def test_high_dimensional_approximation_improves_with_dimension():
    """Figures of the theory: spectral error of the four numbers on the paper's mixture."""
    from sk_deq.datasets import make_gaussian_mixture

    for name, kernel, bounds in (("relu", "ck", (0.05, 0.03)), ("tanh", "ntk", (0.2, 0.14))):
        errors = []
        for p in (200, 800):
            X, _ = make_gaussian_mixture(int(0.8 * p), p, random_state=0)
            spec = {"activation": name, "kernel": kernel, "tau0": None}
            exact, approximate = deq_kernel(X, **spec), deq_kernel(X, **spec, method="high_dim")
            errors.append(np.linalg.norm(exact - approximate, 2) / np.linalg.norm(exact, 2))
        assert errors[0] < bounds[0] and errors[1] < bounds[1]
        assert errors[1] < 0.7 * errors[0]


def relative_residual(found, target):
    found, target = np.array(found), np.array(target)
    scale = np.where(np.abs(target) > 1e-12 * target[3], np.abs(target), target[3])
    return np.max(np.abs(found - target) / scale)


# every activation, every recurrent_var and every tau0 occurs
GRID = [
    (name, (0.1, 0.2, 0.5, 0.8)[i % 4], (0.5, 1.0, 2.0)[i % 3]) for i, name in enumerate(REGISTRY)
]


@pytest.mark.long
@pytest.mark.parametrize(("kernel", "tol"), [("ck", 1e-8), ("ntk", 1e-6)])
@pytest.mark.parametrize(("name", "s_a", "tau0"), GRID)
def test_match_solves_the_four_equations(name, s_a, tau0, kernel, tol):
    """Verified by the recursion over the layers found, which knows nothing of the solver."""
    match = match_explicit(name, recurrent_var=s_a, tau0=tau0, kernel=kernel, tol=tol)
    assert match.residual < tol
    target = deq_coefficients(name, recurrent_var=s_a, tau0=tau0, kernel=kernel)
    assert match.target == target
    again = explicit_coefficients(match.layers, tau0=tau0, kernel=kernel)
    assert relative_residual(again, target) < max(10 * match.residual, 1e-10)
    np.testing.assert_allclose(again, match.achieved, rtol=1e-9, atol=1e-11 * target.diagonal)
    assert len(match.layers) == match.n_layers
    assert (match.n_layers == 1) == (name in FLAT)
    # the gauge: hidden layers keep the scale of their input
    assert [layer.scale for layer in match.layers] == pytest.approx([tau0] * match.n_layers)


@pytest.mark.parametrize("name", ["relu", "abs", "leaky_relu"])
@pytest.mark.parametrize("s_a", [0.2, 0.8])
def test_the_papers_match_of_relu_by_two_leaky_relus(name, s_a):
    match = match_explicit(name, recurrent_var=s_a, family="leaky_relu", n_layers=2)
    assert match.residual < 1e-8
    assert [layer.family for layer in match.layers] == ["leaky_relu"] * 2
    for layer in match.layers:
        a, b = layer.parameters
        t = torch.linspace(-3, 3, 13, dtype=torch.float64)
        expected = torch.maximum(a * t, b * t) - (a - b) * layer.scale / np.sqrt(2 * np.pi)
        np.testing.assert_allclose(layer(t), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["tanh", "sin", "erf", "sigmoid"])
@pytest.mark.parametrize("s_a", [0.2, 0.8])
def test_the_papers_match_of_tanh_by_one_hard_tanh(name, s_a):
    match = match_explicit(name, recurrent_var=s_a, family="hard_tanh", n_layers=1)
    assert match.residual < 1e-8 and match.layers[0].family == "hard_tanh"
    a, c = match.layers[0].parameters
    t = torch.linspace(-3, 3, 13, dtype=torch.float64)
    np.testing.assert_allclose(match.layers[0](t), a * t.clamp(-c, c), atol=1e-12)


@pytest.mark.slow
def test_match_is_reproducible_and_pickles():
    first, second = (match_explicit("gelu", recurrent_var=0.5) for _ in range(2))
    restored = pickle.loads(pickle.dumps(first))
    for other in (second, restored):
        assert [layer.parameters for layer in other.layers] == [
            layer.parameters for layer in first.layers
        ]
    t = torch.linspace(-2, 2, 5, dtype=torch.float64)
    assert torch.equal(restored.layers[1](t), first.layers[1](t))


def test_an_unsolved_match_warns_with_its_residual():
    with pytest.warns(ConvergenceWarning, match="relative residual.*family='auto'") as record:
        match = match_explicit("relu", recurrent_var=0.2, family="hard_tanh", n_layers=1)
    assert match.residual > 1e-2
    assert f"{match.residual:.1e}" in str(record[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        match_explicit("relu", recurrent_var=0.2, family="hard_tanh", n_layers=1, tol=2.0)


SERIES = [
    *itertools.product(REGISTRY, ["ck", "ntk_full"], [True]),
    ("relu", "ntk", False),
    ("silu", "ntk", False),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kernel", "center"), SERIES)
def test_power_series_is_the_kernel_of_unit_rows(name, kernel, center):
    spec = dict(activation=name, recurrent_var=0.4, bias_var=0.1, center=center, kernel=kernel)
    series = sphere_series(n_terms=96, **spec)
    assert series.shape == (96,) and (series >= 0).all()
    angle = np.array([0.3, 1.2, 2.0, 2.8])
    X = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    K = deq_kernel(np.array([[1.0, 0.0]]), X, tau0=1.0, **spec)[0]
    total = deq_kernel(np.array([[1.0, 0.0]]), tau0=1.0, **spec)[0, 0]
    left_out = total - series.sum()
    assert left_out >= -1e-9 * total
    assert left_out < (0.1 if REGISTRY[name].kinks else 1e-8) * total
    error = np.abs(np.polynomial.polynomial.polyval(np.cos(angle), series) - K)
    assert (error <= left_out * np.abs(np.cos(angle)) ** 96 + 1e-8 * total).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tanh", "silu"])
def test_one_hidden_layer_with_the_series_activation_has_the_kernel(name):
    """sigma = sum sqrt(b_k) h_k, by two-dimensional quadrature."""
    b = sphere_series(name, recurrent_var=0.5, n_terms=30)
    b[b < 1e-13] = 0
    x, weight = np.polynomial.hermite_e.hermegauss(60)
    weight /= np.sqrt(2 * np.pi)

    def sigma(t):
        h = [eval_hermitenorm(k, t) / np.sqrt(factorial(k)) for k in range(len(b))]
        return np.tensordot(np.sqrt(b), h, 1)

    deq = SlowDEQ(name, 0.5, 0.5)
    for r in (-0.5, 0.3, 0.8):
        other = r * x[:, None] + np.sqrt(1 - r * r) * x
        achieved = weight @ (sigma(x)[:, None] * sigma(other)) @ weight
        assert achieved == pytest.approx(deq.kernels(1.0, 1.0, r)[0], abs=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: deq_coefficients("relu", recurrent_var=-1), "recurrent_var must be"),
        (lambda: deq_coefficients("relu", recurrent_var=0.2, tau0=0), "tau0 must be"),
        (lambda: deq_coefficients("relu", recurrent_var=0.2, input_var=0), "input_var must be"),
        (lambda: deq_coefficients("relu", recurrent_var=0.2, kernel="nt"), "kernel='nt'"),
        (lambda: deq_coefficients("relu", recurrent_var=1.2), "recurrent_var=1.2 leaves no"),
        (lambda: deq_scale("tanh", recurrent_var=0.2, bias_var=-1), "bias_var must be"),
        (lambda: deq_scale("tanh", recurrent_var=float("nan")), "recurrent_var must be"),
        (lambda: explicit_coefficients([]), "layers must hold"),
        (lambda: explicit_coefficients(["relu"], tau0=0.0), "tau0 must be"),
        (lambda: explicit_coefficients(["relu"], tau0=float("nan")), "tau0 must be"),
        (lambda: match_explicit("relu", recurrent_var=0.2, tol=float("nan")), "tol must be"),
        (lambda: explicit_coefficients(["relu"], kernel="no"), "kernel='no'"),
        (lambda: match_explicit("relu", recurrent_var=0.2, family="x"), "family='x'"),
        (lambda: match_explicit("relu", recurrent_var=0.2, n_layers=0), "n_layers must be"),
        (lambda: sphere_series("relu", recurrent_var=0.2, n_terms=0), "n_terms must be"),
        (lambda: sphere_series("rel", recurrent_var=0.2), "activation='rel'"),
    ],
)
def test_errors_name_the_parameter(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "abs", "elu", "sin"])
def test_largest_admissible_recurrent_var(name):
    """The value that the error names is the border: just below it works, just above does not."""
    with pytest.raises(ValueError, match=r"recurrent_var=50 .*use recurrent_var < ") as error:
        deq_scale(name, recurrent_var=50.0, input_var=1.0)
    border = float(str(error.value).split("recurrent_var < ")[1].rstrip("."))
    deq_scale(name, recurrent_var=border * (1 - 1e-4), input_var=1.0)
    with pytest.raises(ValueError, match="use recurrent_var < "):
        deq_scale(name, recurrent_var=border * (1 + 1e-4), input_var=1.0)
    if name == "relu":  # E (phi - mean)^2 grows like (1 - 1/pi)/2 q, but E phi'^2 = 1/2
        assert border == pytest.approx(2, rel=1e-5)


@pytest.mark.slow
def test_nothing_global_changes(unchanged_globals):
    match_explicit("gelu", recurrent_var=0.3)
    sphere_series("gelu", recurrent_var=0.3)


@pytest.mark.long
@pytest.mark.parametrize("kernel", ["ck", "ntk", "ntk_full"])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("bias_var", [0.0, 0.5])
@pytest.mark.parametrize("name", ["relu", "gelu", "elu", "sigmoid", "hard_tanh"])
def test_coefficients_of_the_series_do_not_depend_on_their_number(name, bias_var, center, kernel):
    spec = {"recurrent_var": 0.3, "bias_var": bias_var, "center": center, "kernel": kernel}
    many = sphere_series(name, n_terms=64, **spec)
    few = sphere_series(name, n_terms=4, **spec)
    np.testing.assert_allclose(few, many[:4], rtol=0, atol=1e-11 * many.max())
    # and they sum to the kernel where powers beyond the last are nothing
    r, x = 0.5, np.array([[1.0, 0.0], [0.5, 0.75**0.5]])
    expected = deq_kernel(x, activation=name, **spec)[0, 1]
    np.testing.assert_allclose(many @ r ** np.arange(64), expected, rtol=1e-10, atol=1e-13)
