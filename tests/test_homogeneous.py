"""Kernels against formulas in many digits, where rows are nearly parallel: of phi(t) = a t + b |t|,
and of one that is clipped."""

import mpmath as mp
import numpy as np
import pytest

from sk_deq.kernels import deq_kernel

SLOPES = {"relu": (0.5, 0.5), "leaky_relu": (0.505, 0.495), "abs": (0.0, 1.0)}


def truth(x, y, name, kernel, s_a, s_b, s_c, center):
    """Kernels of a pair and of both rows with themselves, by Newton's method in rho."""
    x, y = ([mp.mpf(float(v)) for v in row] for row in (x, y))
    a, b, s_a, s_b, s_c = (mp.mpf(float(v)) for v in (*SLOPES[name], s_a, s_b, s_c))
    if name == "leaky_relu":
        low = mp.mpf(0.01)
        a, b = (1 + low) / 2, (1 - low) / 2
    total, mu = a * a + b * b, b * mp.sqrt(2 / mp.pi)
    m = mu * mp.sqrt((s_b + s_c) / (1 - s_a * (total - mu * mu))) if center else mp.mpf(0)

    def deviation(u):
        base, g = s_b * mp.fdot(u, u) + s_c + s_a * m * m, 1 - s_a * total
        return (mp.sqrt((s_a * m * mu) ** 2 + g * base) - s_a * m * mu) / g

    s1, s2 = deviation(x), deviation(y)

    def parts(r):
        kappa = a * a * r + b * b * 2 / mp.pi * (mp.sqrt(1 - r * r) + r * mp.asin(r))
        D = a * a + b * b * 2 / mp.pi * mp.asin(r)
        return s1 * s2 * kappa - m * mu * (s1 + s2) + m * m, D

    base, rho = s_b * mp.fdot(x, y) + s_c, mp.mpf(0)
    for _ in range(500):
        G, D = parts(rho)
        step = (s_a * G + base - s1 * s2 * rho) / (s1 * s2 * (1 - s_a * D))
        rho = min(max(rho + step, mp.mpf(-1)), mp.mpf(1))
        if abs(step) < mp.mpf(10) ** -40:
            break
    G, D = parts(rho)
    gain = 1 - s_a * D
    return {"ck": G, "ntk": G / gain, "ntk_full": G + s1 * s2 * rho * D / gain}[kernel]


@pytest.mark.parametrize("kernel", ["ck", "ntk", "ntk_full"])
@pytest.mark.parametrize("name", SLOPES)
def test_nearly_parallel_rows_have_all_digits(name, kernel):
    rng = np.random.default_rng(0)
    with mp.workdps(50):
        for case in range(24):
            x, away = rng.normal(size=(2, 3))
            x *= 10.0 ** rng.uniform(-6, 6) / np.linalg.norm(x)
            size = np.linalg.norm(x) * 10.0 ** rng.uniform(-12, 0)
            X = np.stack([x, rng.choice([1, 1 + 1e-7, -1, 50]) * x + size * away])
            center, s_c = bool(case % 2), float(rng.choice([0, rng.uniform()]))
            limit = 1 / (SLOPES[name][0] ** 2 + SLOPES[name][1] ** 2)
            s_a = limit * (1 - 10 ** rng.uniform(-3, 0))
            K = deq_kernel(
                X, activation=name, kernel=kernel, recurrent_var=s_a, input_var=0.7, bias_var=s_c,
                center=center, tau0=1.0,
            )  # fmt: skip
            value = truth(*X, name, kernel, s_a, 0.7, s_c, center)
            assert abs(K[0, 1] - float(value)) <= 1e-11 * np.sqrt(K[0, 0] * K[1, 1])


def clipped_truths(x, y, s_a, s_b, s_c):
    """All three for hard_tanh: by integrals of the angle to the diagonal, and bisection in it."""
    x, y = ([mp.mpf(float(v)) for v in row] for row in (x, y))
    s_a, s_b, s_c = (mp.mpf(float(v)) for v in (s_a, s_b, s_c))

    def deviation(u):
        base = s_b * mp.fdot(u, u) + s_c

        def excess(s):
            a = 1 / s
            inner = mp.erf(a / mp.sqrt(2)) - a * mp.sqrt(2 / mp.pi) * mp.exp(-a * a / 2)
            return s_a * (s * s * inner + mp.erfc(a / mp.sqrt(2))) + base - s * s

        return mp.findroot(
            excess, (mp.sqrt(base), mp.sqrt(base + s_a)), solver="illinois", tol=1e-50
        )

    s1, s2 = deviation(x), deviation(y)
    a, b = 1 / s1, 1 / s2
    start = mp.erf(a / mp.sqrt(2)) * mp.erf(b / mp.sqrt(2))

    def parts(angle):
        def density(t):
            far, twice = 1 - mp.cos(t), 2 * mp.sin(t) ** 2
            near = mp.exp(-((a - b) ** 2 + 2 * a * b * far) / twice)
            return near - mp.exp(-((a + b) ** 2 - 2 * a * b * far) / twice)

        ends = [angle * 4**k for k in range(40) if angle * 4**k < 1.5]
        ends.append(mp.pi / 2)
        rho = mp.cos(angle)
        G = start * rho + mp.quad(lambda t: (rho - mp.cos(t)) * density(t), ends) / mp.pi
        return rho, s1 * s2 * G, start + mp.quad(density, ends) / mp.pi

    base = s_b * mp.fdot(x, y) + s_c
    low, high = mp.mpf(10) ** -14, mp.mpf(1)
    for _ in range(12):  # then Newton's method
        middle = mp.sqrt(low * high)
        rho, G, _ = parts(middle)
        low, high = (middle, high) if s_a * G + base < s1 * s2 * rho else (low, middle)
    angle = high
    for _ in range(30):
        rho, G, D = parts(angle)
        step = (s_a * G + base - s1 * s2 * rho) / ((1 - s_a * D) * s1 * s2 * mp.sin(angle))
        angle -= step
        if abs(step) < mp.mpf(10) ** -18 * angle:
            break
    rho, G, D = parts(angle)
    gain = 1 - s_a * D
    return {"ck": G, "ntk": G / gain, "ntk_full": G + s1 * s2 * rho * D / gain}


@pytest.mark.slow
def test_nearly_parallel_rows_of_a_clipped_activation():
    rng = np.random.default_rng(1)
    with mp.workdps(30):
        for away in (1e-2, 1e-4, 1e-5):
            x = rng.normal(size=3)
            x *= 0.8 / np.linalg.norm(x)
            X = np.stack([x, x * rng.choice([1, 1 + 1e-6]) + away * rng.normal(size=3)])
            spec = {"recurrent_var": 1.975, "input_var": 0.7, "bias_var": 0.5}
            for kernel, value in clipped_truths(*X, *spec.values()).items():
                K = deq_kernel(X, activation="hard_tanh", kernel=kernel, **spec)
                assert abs(K[0, 1] - float(value)) <= 1e-11 * np.sqrt(K[0, 0] * K[1, 1])


def test_opposite_rows_of_a_clipped_activation():
    """Whose pre-activations are nearly equal, by the bias: 1 + r is 0."""
    spec = {"activation": "hard_tanh", "recurrent_var": 0.5, "input_var": 0.0625, "bias_var": 0.3}
    K = deq_kernel([[1.0], [-0.01]], **spec)
    near = deq_kernel([[1.0, 0.0], [-0.01, 1e-9]], **spec)
    np.testing.assert_allclose(K, near, rtol=1e-12)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "abs"])
@pytest.mark.parametrize("recurrent_var", [0.0, 1e-13])
def test_opposite_rows_without_recurrence(name, recurrent_var):
    """Their correlation is -1, where the slope's angle has an infinite derivative."""
    X = np.array([[1.0], [-1], [10], [-10]])
    spec = {"activation": name, "recurrent_var": recurrent_var, "input_var": 2.0, "center": True}
    K = deq_kernel(X, kernel="ntk_full", **spec)
    scale = np.sqrt(np.diag(K))
    assert np.linalg.eigvalsh(K / scale / scale[:, None])[0] > -1e-12
