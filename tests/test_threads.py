"""Thread counts are a thread's own: small work limits itself, and nothing that runs beside it."""

from concurrent.futures import ThreadPoolExecutor
from threading import Thread

import numpy as np
import pytest
import torch

from sk_deq import DEQKernelRidge, DEQKernelRidgeClassifier, KernelMatcher
from sk_deq._solve.cg import Tiles
from sk_deq._torch import single_thread
from sk_deq.kernels import DEQKernel, deq_kernel
from sk_deq.theory import match_explicit, sphere_series

X = np.random.default_rng(0).normal(size=(12, 3)) / 3**0.5
WORK = {
    "deq_kernel": lambda variance: deq_kernel(X, activation="tanh", recurrent_var=variance),
    "sphere_series": lambda variance: sphere_series("gelu", recurrent_var=variance, n_terms=8),
    "match_explicit": lambda variance: match_explicit("tanh", recurrent_var=variance),
    "DEQKernel": lambda variance: DEQKernel(variance, 1.0)(X, eval_gradient=True),
    "KernelMatcher": lambda variance: KernelMatcher(8, recurrent_var=variance).fit_transform(X),
    "DEQKernelRidge": lambda variance: DEQKernelRidge(recurrent_var=variance).fit(X, X[:, 0]),
}


@pytest.fixture
def three_threads():
    """A number of threads that nothing but this fixture sets."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def in_a_new_thread():
    """The number of threads that torch uses in a thread that starts now."""
    seen = []
    thread = Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


def test_single_thread_is_for_the_thread_that_asks(three_threads):
    with single_thread():
        assert torch.get_num_threads() == 1
        with single_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
        assert in_a_new_thread() == 3
    assert torch.get_num_threads() == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_whatever_runs_beside_keeps_its_threads(three_threads, name):
    # variances that no other test has: nothing comes from a cache
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(WORK[name], 0.1 + 0.0123 * k) for k in range(4)]
        seen = {in_a_new_thread()}
        while not all(work.done() for work in running):
            seen.add(in_a_new_thread())
        after = [pool.submit(torch.get_num_threads).result() for _ in range(4)]
    for work in running:
        work.result()
    assert seen == {3} and set(after) == {3} and in_a_new_thread() == 3


def test_a_search_of_few_rows_takes_one_thread(three_threads, monkeypatch):
    # where others use the processor, threads that wait for each other take a hundred times as long
    seen = {}

    def record(module, name):
        function = getattr(module, name)

        def recorded(*arguments, **keywords):
            seen.setdefault(name, set()).add(torch.get_num_threads())
            return function(*arguments, **keywords)

        monkeypatch.setattr(module, name, recorded)

    record(torch, "searchsorted")
    record(torch.linalg, "cholesky_ex")
    record(torch.linalg, "eigh")
    rows = np.random.default_rng(0).normal(size=(250, 3))
    for n in (150, 250):  # by an eigendecomposition, and by Cholesky factors
        DEQKernelRidgeClassifier().fit(rows[:n], rows[:n, 0] > 0)
    assert seen == {"searchsorted": {1}, "cholesky_ex": {1}, "eigh": {1}}
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("kept", [True, False])
def test_products_by_tiles_are_the_same_on_any_number_of_threads(three_threads, monkeypatch, kept):
    monkeypatch.setattr("sk_deq._solve.cg._TILE", 7)
    rng = np.random.default_rng(1)
    rows, columns = (torch.from_numpy(rng.normal(size=(60, k))) for k in (3, 2))

    def kernel(first, second=None):
        return torch.exp(first @ (first if second is None else second).T)

    by_three = Tiles(kernel, rows, kept)
    found = by_three.product(columns)
    torch.testing.assert_close(found, kernel(rows) @ columns)
    with single_thread():
        by_one = Tiles(kernel, rows, kept)
    assert (by_three._n_threads, by_one._n_threads) == (3, 1)
    assert torch.equal(found, by_one.product(columns))
