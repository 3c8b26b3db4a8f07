"""Random kernel calls against slow, independent quadrature: where is the kernel wrong, or slow?

    python examples/benchmarks/kernel_edges.py --calls 2000 --seed 0

draws activation, kernel, variances (recurrent_var up to 0.999 of its largest value), centring and 2
to 10 rows (``--rows``) of norms 1e-6 to 1e6 (``--norms``), and prints for every activation the
worst error of a few entries of each call, relative to sqrt(K_ii K_jj), and the slowest first call,
in seconds of the processor.
``--show`` prints the calls that are off by more than 1e-9 or take longer than a second.

    python examples/benchmarks/kernel_edges.py --callables --calls 60 --rows 60 400 --norms 0.25 4

draws from functions of torch that the package knows nothing about.
"""

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

import mpmath
import numpy as np
import torch
from scipy.optimize import brentq

from sk_deq.kernels import deq_kernel

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from slow_truth import ACTIVATIONS, TAIL, _legendre, _normal
from test_homogeneous import SLOPES
from test_homogeneous import truth as piecewise_linear

NAMES = ["relu", "leaky_relu", "abs", "tanh", "erf", "sin", "sigmoid", "hard_tanh", "elu", "gelu",
         "silu", "softplus", "identity"]  # fmt: skip
KERNELS = ["ck", "ntk", "ntk_full"]
_F = torch.nn.functional
CALLABLES = {  # and where they have kinks
    "mish": (_F.mish, ()), "softsign": (_F.softsign, ()), "hardswish": (_F.hardswish, (-3, 3)),
    "hardsigmoid": (lambda t: (t / 6 + 0.5).clamp(0, 1), (-3, 3)), "selu": (_F.selu, ()),
    "celu": (_F.celu, ()), "logsigmoid": (_F.logsigmoid, ()), "tanhshrink": (_F.tanhshrink, ()),
    "softshrink": (_F.softshrink, (-0.5, 0.5)), "relu6": (_F.relu6, (0, 6)),
    "rational": (lambda t: t / (1 + t * t), ()), "bump": (lambda t: torch.exp(-t * t), ()),
    "cosine": (torch.cos, ()),
}  # fmt: skip


def _log_cosh(t):
    t = np.abs(t)
    return np.where(t < 1, np.log1p(2 * np.sinh(np.minimum(t, 1) / 2) ** 2),
                    t + np.log1p(np.exp(-2 * t)) - np.log(2))  # fmt: skip


# phi - phi(0), without cancellation, and phi(0)
RISES = {
    "sigmoid": (lambda t: np.tanh(t / 2) / 2, 0.5),
    "softplus": (lambda t: t / 2 + _log_cosh(t / 2), np.log(2)),
    "elu": (lambda t: np.where(t > 0, t, np.expm1(np.minimum(t, 0))), 0.0),
}


def _of_callable(function, kinks):
    """Function and slope of arrays."""

    def slope(t):
        t = torch.tensor(t, requires_grad=True)
        return torch.autograd.grad(function(t).sum(), t)[0].numpy()

    return lambda t: function(torch.as_tensor(t)).numpy(), slope, kinks


def _rule(centres, n_nodes):
    """Nodes and weights of E f(xi), graded towards the centres (m, k), finer than slow_truth's."""
    grade = 2.0 ** -np.arange(1, 26)
    grade = np.concatenate([-grade, -0.75 * grade, [0.0], 0.75 * grade, grade])
    panels = np.linspace(-TAIL, TAIL, 53)
    graded = (centres[:, :, None] + grade).reshape(len(centres), -1)
    breaks = np.concatenate([np.broadcast_to(panels, (len(centres), 53)), graded], axis=1)
    breaks = np.sort(np.clip(breaks, -TAIL, TAIL), axis=1)
    x, weight = _legendre(n_nodes)
    width = np.diff(breaks, axis=1)[:, :, None]
    xi = (breaks[:, :-1, None] + width * x).reshape(len(centres), -1)
    return xi, (width * weight).reshape(len(centres), -1) * _normal(xi)


def expectation(f, kinks, s):
    """E f(s xi)."""
    xi, weight = _rule(np.array([[kink / s for kink in {0.0, *kinks}]]), 20)
    return float(np.sum(weight * f(s * xi)))


def duals(f, slope, kinks, s1, s2, r):
    """E f(u) f(w) and E f'(u) f'(w), (u, w) normal of deviations s1, s2, correlation r, |r| < 1."""
    root = np.sqrt((1 - r) * (1 + r))
    kinks = sorted({0.0, *kinks})
    centres = [kink / s1 for kink in kinks]
    if abs(r) > 0.1:  # where the inner integral bends, as a function of x
        centres += [kink / (s2 * r) for kink in kinks]
    x, weight = _rule(np.array([sorted(set(centres))]), 10)
    keep = weight[0] > 1e-20
    x, weight = x[0][keep], weight[0][keep]
    total = np.zeros(2)
    for part in np.array_split(np.arange(len(x)), 16):
        centres = np.stack([(kink / s2 - r * x[part]) / root for kink in kinks], axis=1)
        y, inner = _rule(np.clip(centres, -TAIL, TAIL), 10)
        w = s2 * (r * x[part, None] + root * y)
        for k, g in enumerate((f, slope)):
            total[k] += np.sum(weight[part] * g(s1 * x[part]) * np.sum(inner * g(w), axis=1))
    return total


class Truth:
    """A DEQ's kernels by bracketing, for phi - phi(0) and the constant less phi(0)."""

    def __init__(self, name, s_a, s_b, s_c, center, tau0):
        phi, self.slope, self.kinks = ACTIVATIONS.get(name) or _of_callable(*CALLABLES[name])
        self.phi, origin = RISES.get(name, (phi, 0.0))
        self.s_a, self.s_b, self.s_c = s_a, s_b, s_c
        self.constant = -origin
        if center:
            q = self._variance(s_b * tau0**2 + s_c, lambda s: self._square(s) - self._mean(s) ** 2)
            self.constant = self._mean(np.sqrt(q))

    def _mean(self, s):
        return expectation(self.phi, self.kinks, s)

    def _square(self, s):
        return expectation(lambda t: self.phi(t) ** 2, self.kinks, s)

    def _centred(self, t):
        return self.phi(t) - self.constant

    def _variance(self, base, square):
        def excess(q):
            return self.s_a * square(np.sqrt(q)) + base - q

        if self.s_a == 0:
            return base
        high = 2 * base
        while excess(high) > 0:
            high *= 2
        return brentq(excess, base / 2, high, xtol=1e-18 * base, rtol=1e-15)

    def deviation(self, norm):
        base = self.s_b * norm**2 + self.s_c
        return np.sqrt(self._variance(base, self._activity))

    def _activity(self, s):
        m = self.constant
        return expectation(lambda t: (self.phi(t) - m) ** 2, self.kinks, s)

    def diagonal(self, norm):
        s = self.deviation(norm)
        return self._kernels(self._activity(s), self._slope_square(s), s * s)

    def _slope_square(self, s):
        return expectation(lambda t: self.slope(t) ** 2, self.kinks, s)

    def _duals(self, s1, s2, r):
        return duals(self.phi, self.slope, self.kinks, s1, s2, r)

    def kernels(self, n1, n2, cosine, start):
        """Of two rows, by Newton's method from a conjugate kernel to start with."""
        s1, s2 = self.deviation(n1), self.deviation(n2)
        base = self.s_b * (n1 * n2 * cosine) + self.s_c
        shift = self.constant * (self._mean(s1) + self._mean(s2)) - self.constant**2
        G = start
        for _ in range(20):
            r = np.clip((self.s_a * G + base) / (s1 * s2), -1 + 1e-12, 1 - 1e-12)
            value, D = self._duals(s1, s2, r)
            step = (value - shift - G) / (1 - self.s_a * D)
            G += step
            if abs(step) < 1e-13 * (1 - self.s_a * D) * s1 * s2:
                break
        r = np.clip((self.s_a * G + base) / (s1 * s2), -1 + 1e-12, 1 - 1e-12)
        if self.kinks and abs(r) > 1 - 1e-7:  # 1 - r^2 is rounding here, and D needs its root
            return [None] * len(KERNELS)
        value, D = self._duals(s1, s2, r)
        return self._kernels(value - shift, D, s1 * s2 * r)

    def _kernels(self, G, D, covariance):
        ntk = G / (1 - self.s_a * D)
        return G, ntk, G + covariance * D / (1 - self.s_a * D)


class TruthOfSin(Truth):
    """In closed form: no quadrature sees sin(s xi) for large s."""

    def _mean(self, s):
        return 0.0

    def _square(self, s):
        return -np.expm1(-2 * s * s) / 2

    _activity = _square

    def _slope_square(self, s):
        return (1 + np.exp(-2 * s * s)) / 2

    def _duals(self, s1, s2, r):
        c = s1 * s2 * abs(r)  # exp(-(s1^2 + s2^2) / 2) sinh(c) and cosh(c), the difference by expm1
        near = np.exp(-((s1 - s2) ** 2) / 2 - s1 * s2 * (1 - abs(r)))
        return -np.sign(r) * near * np.expm1(-2 * c) / 2, near * (1 + np.exp(-2 * c)) / 2


def draw(rng, names=NAMES, n_rows=(2, 10), norms=(1e-6, 1e6)):
    """A random call: rows and arguments; recurrent_var is as large as the rows allow, or less."""
    n, p = rng.integers(n_rows[0], n_rows[1] + 1), rng.integers(2, 6)
    X = rng.normal(size=(n, p))
    X *= np.exp(rng.uniform(*np.log(norms), n))[:, None] / np.linalg.norm(X, axis=1)[:, None]
    spec = {
        "activation": str(rng.choice(names)), "kernel": str(rng.choice(KERNELS)),
        "input_var": float(np.exp(rng.uniform(np.log(0.1), np.log(3)))),
        "bias_var": float(rng.choice([0.0, rng.uniform(0, 1)])), "center": bool(rng.random() < 0.6),
    }  # fmt: skip
    share = float(rng.choice([rng.uniform(0, 0.9), 1 - 10 ** rng.uniform(-3, -1)]))
    return X, {**spec, "recurrent_var": share * limit(X, spec)}


def kernel(X, Y=None, *, activation, **spec):
    """`deq_kernel`; a callable is a new one in every call."""
    if activation in CALLABLES:
        function = CALLABLES[activation][0]
        return deq_kernel(X, Y, activation=lambda t: function(t), **spec)
    return deq_kernel(X, Y, activation=activation, **spec)


def limit(X, spec):
    """About the largest recurrent_var that all rows, and that of norm tau0, allow; 20 at most."""
    high = 20.0
    while True:
        try:
            kernel(X, X[:1], **spec, recurrent_var=high)
            return high
        except ValueError as error:  # which names it, with six digits
            high = float(str(error).split("recurrent_var < ")[1].rstrip(".")) * (1 - 1e-5)


def check(X, spec, K, rng):
    """Largest error of one entry beside the diagonal and one on it, relative to the rows' scale."""
    cls = TruthOfSin if spec["activation"] == "sin" else Truth
    truth = cls(*(spec[k] for k in ("activation", "recurrent_var", "input_var", "bias_var",
                                      "center")), 1.0)  # fmt: skip
    k, norms = KERNELS.index(spec["kernel"]), np.linalg.norm(X, axis=1)
    i, j = rng.choice(len(X), 2, replace=False)
    cosine = (X[i] / norms[i]) @ (X[j] / norms[j])
    ends = [truth.diagonal(norms[m])[k] for m in (i, j)]
    errors = [abs(K[i, i] / ends[0] - 1), abs(K[j, j] / ends[1] - 1)]
    if abs(cosine) < 1 - 1e-6:
        if spec["activation"] in SLOPES:  # whose nearly parallel rows take more digits than these
            names = "activation", "kernel", "recurrent_var", "input_var", "bias_var", "center"
            with mpmath.workdps(50):
                value = float(piecewise_linear(X[i], X[j], *(spec[name] for name in names)))
        else:
            start = kernel(X[[i, j]], **{**spec, "kernel": "ck"})[0, 1]
            value = truth.kernels(norms[i], norms[j], cosine, start)[k]
        if value is not None:
            errors.append(abs(K[i, j] - value) / np.sqrt(ends[0] * ends[1]))
    return max(errors)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--activations", nargs="+", help="those of the calls to make")
    parser.add_argument("--callables", action="store_true")
    parser.add_argument("--rows", type=int, nargs=2, default=(2, 10))
    parser.add_argument("--norms", type=float, nargs=2, default=(1e-6, 1e6))
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    names, found = [*CALLABLES] if options.callables else NAMES, defaultdict(list)
    for call in range(options.calls):
        rng = np.random.default_rng([options.seed, call])
        X, spec = draw(rng, names, options.rows, options.norms)
        if options.activations and spec["activation"] not in options.activations:
            continue
        start = time.process_time()
        try:
            K = kernel(X, **spec)
        except ValueError as error:
            print(f"call {call}: {error}", spec, flush=True)
            continue
        seconds = time.process_time() - start
        error = check(X, spec, K, rng)
        found[spec["activation"]].append((error, seconds))
        if options.show and (not error <= 1e-9 or seconds > 1):
            print(
                f"call {call}: {len(X)} rows, error {error:.1e}, {seconds:.2f} s, {spec}",
                flush=True,
            )
    print(f"{'activation':12}{'calls':>7}{'worst error':>13}{'slowest s':>11}")
    for name, values in sorted(found.items()):
        error, seconds = np.array(values).T
        print(f"{name:12}{len(values):7}{error.max():13.1e}{seconds.max():11.2f}")


if __name__ == "__main__":
    main()
