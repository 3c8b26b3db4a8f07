"""Caches are bounded in bytes, and keep neither users' callables nor their data alive."""

import gc
import sys
import weakref

import numpy as np
import pytest
import torch

from sk_deq import DEQKernelRidge, KernelMatcher
from sk_deq._theory import engine
from sk_deq._theory.cache import Kept, kept, weakened
from sk_deq._theory.pair import DEQPairKernel
from sk_deq._theory.spec import deq_spec
from sk_deq.kernels import deq_kernel
from sk_deq.modules import DEQ
from sk_deq.theory import deq_coefficients, match_explicit

X = np.random.default_rng(0).normal(size=(40, 3))


def caches():
    modules = [module for name, module in sys.modules.items() if name.startswith("sk_deq._theory")]
    return {v for module in modules for v in vars(module).values() if isinstance(v, Kept)}


def ridge(fn):
    options = {"hyperparameters": None, "recurrent_var": 0.2, "center": False}
    return DEQKernelRidge(activation=fn, **options).fit(X, X[:, 0]).predict(X)


USES = {
    "few entries": lambda fn: deq_kernel(X[:3], activation=fn, kernel="ntk"),
    "ridge": ridge,
    "features": lambda fn: KernelMatcher(4, activation=fn).fit(X).transform(X),
    "four numbers": lambda fn: deq_coefficients(fn, recurrent_var=0.2),
    "match": lambda fn: match_explicit(fn, recurrent_var=0.2),
    "module": lambda fn: DEQ(3, 4, activation=fn)(torch.ones(2, 3)).sum().backward(),
}


class Curve:
    """A callable object, with a method that serves as one too."""

    def __call__(self, t):
        return torch.tanh(t) + 0.1

    def method(self, t):
        return torch.sin(t)


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_callables_are_let_go(use):
    fn = Curve()
    with_closure = lambda t, curve=fn: curve(t)  # noqa: E731
    gone = [weakref.ref(fn), weakref.ref(with_closure)]
    USES[use](with_closure)
    del fn, with_closure
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


@pytest.mark.slow
def test_tables_of_a_callable_are_made_once(monkeypatch):
    curve = Curve()
    first = deq_kernel(X, activation=curve)
    monkeypatch.setattr(engine, "tabulate", None)
    np.testing.assert_array_equal(deq_kernel(X, activation=curve), first)
    assert weakened(curve.method) == weakened(curve.method) != weakened(Curve().method)


def test_equal_callables_of_other_origins_are_told_apart():
    """By what they are, not by where they lie: an address is used again."""
    seen = set()
    for k in range(20):
        K = deq_kernel(X[:2], activation=lambda t, k=k: torch.tanh(t) + k / 20, recurrent_var=0.0,
                       center=False)  # fmt: skip
        seen.add(K[0, 0])
    assert len(seen) == 20


def test_a_cache_is_bounded():
    calls = []

    @kept(max_bytes=10_000)
    def work(number):
        calls.append(number)
        return [torch.zeros(100, dtype=torch.float64)]  # 800 bytes and 256

    for number in range(100):
        work(number)
        assert work.n_bytes <= 10_000
    assert work(99) is work(99) and len(calls) == 100
    work(0)
    assert calls[-1] == 0


def test_a_thousand_callables_and_variances():
    before, alive = engine._exists.n_bytes, []
    for k in range(1000):

        def fn(t, k=k):
            return torch.tanh(t) * (1 - k / 5000)

        alive.append(weakref.ref(fn))
        pair = DEQPairKernel(deq_spec(fn, 0.0, 1 + k / 5000, center=False), "ntk")
        assert engine._exists(pair, (1.0, 1.0))
    del fn, pair
    gc.collect()
    assert not [ref for ref in alive if ref() is not None]
    assert 0 < engine._exists.n_bytes - before < 2**20
    assert len(caches()) == 12
    assert all(cache.n_bytes <= cache.max_bytes for cache in caches())
    assert sum(cache.max_bytes for cache in caches()) < 2**28
