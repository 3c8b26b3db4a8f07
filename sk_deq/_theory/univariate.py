r"""Kernels of homogeneous activations, centred or with a bias: functions of one variable.

For phi(a t) = a phi(t), a > 0, the dual of pre-activations of deviations s, s' and correlation rho
is s s' kappa(rho), and E phi is mu s. With the constant m that is subtracted from phi the fixed
point of a pair, over s s', is

    rho = sigma_a^2 kappa(rho) + c,     c = p . p' - sigma_a^2 mu^2,
    p = (sigma_b x / s, sigma_bias / s, sigma_a q),     q = m / s - mu,

so rho is a function of c alone, whatever the norms (:eq:`univariate` of the theory page). Then

    CK = s s' (kappa(rho) - mu^2 + q q'),     NTK = CK / (1 - sigma_a^2 kappa'(rho)),

and that of training the input weights too is CK + s s' rho kappa' / (1 - sigma_a^2 kappa').
"""

from functools import lru_cache, partial

import torch

from .._torch import single_thread
from .duality import moments
from .pair import solve_correlation
from .spec import FLOOR
from .tables import tabulate

_ONE = (1.0, 1.0)  # the only scale there is


@lru_cache(maxsize=64)
def univariate_kernel(pair):
    """The UnivariateKernel of a DEQPairKernel, or None where there is none or no table of it."""
    spec = getattr(pair, "spec", None)
    if spec is None or not spec.activation.homogeneous or pair.homogeneous:
        return None
    with single_thread():
        kernel = UnivariateKernel(pair)
    return None if kernel.tables is None else kernel


class UnivariateKernel:
    """Tables of a kernel in x, an affine function of c that is 1 for a row with itself.

    Parameters
    ----------
    pair : DEQPairKernel
    """

    def __init__(self, pair):
        self.spec, self.kernel = pair.spec, pair.kernel
        one = torch.ones(1, dtype=torch.float64)
        self._dual = partial(self.spec.activation.dual, one, one)
        self.mu = float(moments(self.spec.activation, one).mean)
        low, high = (float(sign - self.spec.recurrent_var * self._dual(sign * one)[0])
                     for sign in (-1, 1))  # fmt: skip
        self._middle, self._half = (low + high) / 2, (high - low) / 2
        self.tables = tabulate(lambda n1, n2, x: self._functions(x), _ONE, _ONE)

    def _functions(self, x):
        c = self._middle + self._half * x
        return self._parts(
            *solve_correlation(self._dual, 0.0, self.spec.recurrent_var, c, torch.ones_like(c))
        )

    def _parts(self, rho, G, D):
        """What is multiplied by s s', and by s s' q q' where that is not 1."""
        G, gain = G - self.mu**2, 1 - self.spec.recurrent_var * D
        if self.kernel == "ntk":
            return G / gain, 1 / gain
        return (G if self.kernel == "ck" else G + rho * D / gain,)

    def deviations(self, norms):
        """s of rows with these norms: s^2 = sigma_a^2 E (phi - m)^2 + sigma_b^2 n^2 + sigma_bias^2.

        A quadratic equation here, for E phi^2 is kappa(1) s^2.
        """
        spec, m = self.spec, self.spec.mean
        a = 1 - spec.recurrent_var * float(self._dual(torch.ones(1, dtype=torch.float64))[0])
        b = spec.recurrent_var * m * self.mu
        c = spec.recurrent_var * m * m + spec.input_var * norms**2 + spec.bias_var
        return (((b * b + a * c).sqrt() - b) / a).clamp_min(FLOOR)

    def diagonal(self, s):
        """The kernel of rows with themselves."""
        one = torch.ones(1, dtype=torch.float64)
        first, *second = self._parts(one, *self._dual(one))
        t = self.spec.mean - self.mu * s
        return float(first) * s * s + (float(second[0]) if second else 1.0) * t * t

    def coordinates(self, norms, s, unit):
        """Vectors whose products, plus `offset`, are x: for rows norms * unit."""
        spec = self.spec
        q = spec.mean / s - self.mu
        columns = [(spec.bias_var**0.5 / s)[:, None], (spec.recurrent_var**0.5 * q)[:, None]]
        scaled = unit * (spec.input_var**0.5 * norms / s)[:, None].to(unit)
        return torch.cat([scaled, *(column.to(unit) for column in columns)], 1) / self._half**0.5

    @property
    def offset(self):
        """See `coordinates`."""
        return -(self.spec.recurrent_var * self.mu**2 + self._middle) / self._half

    def factors(self, s, like):
        """s and s q as columns."""
        return [part[:, None].to(like) for part in (s, self.spec.mean - self.mu * s)]

    def evaluate(self, first, second, x):
        """The kernel on a tile of x, with the `factors` of its rows and columns."""
        (s1, t1), (s2, t2) = first, second
        values = [self._look_up(table, x.clone()) for table in self.tables[1:]]
        out = self._look_up(self.tables[0], x).mul_(s1 * s2.T)
        return torch.addcmul(out, t1 * t2.T, *values) if values else out.addmm_(t1, t2.T)

    def _look_up(self, table, x):
        one = torch.ones(len(x), dtype=torch.float64)
        other = torch.ones(x.shape[1], dtype=torch.float64)
        return table(one, other, x)
