"""Kernel ridge solvers against the normal equations, solved anew without each row."""

import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import LinAlgWarning

from sk_deq import DEQKernelRidge
from sk_deq._row_keys import merge_repeated_rows, row_keys
from sk_deq._solve.exact import _inverse, solve_cholesky, solve_eigh


def _problem(n=25, seed=0, weighted=True):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    K = np.exp(-((X[:, None] - X) ** 2).sum(2))
    y = rng.normal(size=(n, 2)) + 5
    w = rng.uniform(0.3, 3, n) if weighted else np.ones(n)
    return torch.from_numpy(K), torch.from_numpy(y), torch.from_numpy(w)


def _normal_equations(K, y, w, alpha):
    """Coefficients c and constant b from the bordered system of the stationarity conditions."""
    n = len(K)
    system = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    system[:n, :n] = K + alpha * torch.diag(1 / w)
    system[:n, n] = system[n, :n] = 1
    solution = torch.linalg.solve(system, torch.cat([y, torch.zeros(1, y.shape[1])]))
    return solution[:n], solution[n]


@pytest.mark.parametrize("n", [1, 128, 129, 301, 520])
def test_the_inverse_of_a_triangle_does_not_read_what_is_above(n):
    rng = np.random.default_rng(0)
    square = torch.from_numpy(rng.normal(size=(n, n)) / n + np.diag(rng.uniform(1, 2, n)))
    found = _inverse(square.clone())
    identity = torch.eye(n, dtype=torch.float64)
    torch.testing.assert_close(found @ square.tril(), identity, rtol=0, atol=1e-12)
    assert torch.equal(found, found.tril())


@pytest.mark.parametrize("alpha", [1e-3, 1.0, 100.0])
def test_both_solvers_satisfy_the_normal_equations(alpha):
    K, y, w = _problem()
    c, b = _normal_equations(K, y, w, alpha)
    for solution in (solve_eigh(K.clone(), y, w, [alpha]), solve_cholesky(K.clone(), y, w, alpha)):
        torch.testing.assert_close(solution.dual_coef, c, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(solution.intercept, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("weighted", [False, True])
def test_leave_one_out_equals_brute_force(weighted):
    K, y, w = _problem(weighted=weighted)
    alphas = [1e-2, 0.3, 5.0]
    brute = torch.empty(len(alphas), *y.shape, dtype=torch.float64)
    for a, alpha in enumerate(alphas):
        for i in range(len(K)):
            rest = torch.arange(len(K)) != i
            c, b = _normal_equations(K[rest][:, rest], y[rest], w[rest], alpha)
            brute[a, i] = K[i, rest] @ c + b
    errors = (w[:, None] * (brute - y).square()).sum((1, 2)) / w.sum()
    solution = solve_eigh(K.clone(), y, w, alphas)
    torch.testing.assert_close(solution.errors, errors, rtol=1e-9, atol=0)
    best = int(errors.argmin())
    assert solution.alpha == alphas[best]
    torch.testing.assert_close(solution.predictions, brute[best], rtol=1e-9, atol=1e-10)
    for a, alpha in enumerate(alphas):
        one = solve_cholesky(K.clone(), y, w, alpha, len(K))
        torch.testing.assert_close(one.predictions, brute[a], rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(one.errors, errors[a : a + 1], rtol=1e-9, atol=0)
        of_some = solve_cholesky(K.clone(), y, w, alpha, 3)
        torch.testing.assert_close(of_some.predictions, brute[a, -3:], rtol=1e-9, atol=1e-10)
        assert torch.equal(of_some.rows, torch.arange(len(K))[-3:])


def test_a_singular_matrix_is_solved_with_a_warning():
    X = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [1, 1]], dtype=torch.float64)
    y = X @ torch.tensor([[1.0], [2.0]], dtype=torch.float64) + 3
    with pytest.warns(LinAlgWarning, match="not numerically positive definite"):
        solution = solve_cholesky(X @ X.T, y, torch.ones_like(y[:, 0]), 0.0)
    torch.testing.assert_close(X @ (X.T @ solution.dual_coef) + solution.intercept, y)


def test_an_indefinite_matrix_is_replaced_by_the_nearest_definite_one():
    K, y, w = _problem(weighted=False)
    eigenvalues, U = torch.linalg.eigh(K)
    eigenvalues[:5] = torch.tensor([-0.3, -0.2, -0.1, 0, 0])
    indefinite, nearest = ((U * e) @ U.T for e in (eigenvalues, eigenvalues.clamp_min(0)))
    with pytest.warns(LinAlgWarning, match="indefinite"):
        solution = solve_eigh(indefinite, y, w, [0.1])
    expected = solve_eigh(nearest, y, w, [0.1])
    torch.testing.assert_close(solution.dual_coef, expected.dual_coef)


def test_no_alpha_can_be_chosen_from_one_row():
    one = torch.ones(1, 1, dtype=torch.float64)
    assert float(solve_eigh(one.clone(), one, one[0], [0.5]).intercept) == 1
    with pytest.raises(ValueError, match="Give a single alpha"):
        solve_eigh(one.clone(), one, one[0], [0.5, 1.0])


def test_keys_depend_on_the_content_of_a_row_only():
    X = np.random.default_rng(0).integers(0, 3, size=(2000, 6)).astype(float)
    draw = lambda rows: row_keys(rows, torch.Generator().manual_seed(0))  # noqa: E731
    keys = draw(X)
    assert len(torch.unique(keys)) == len(np.unique(X, axis=0))
    assert torch.equal(draw(X[::-1]), keys.flip(0))
    assert torch.equal(draw(np.where(X == 0, -0.0, X)), keys)
    assert not torch.equal(row_keys(X, torch.Generator().manual_seed(1)), keys)


def test_keys_are_uniform():
    X = np.arange(20_000.0)[:, None]
    keys = row_keys(X, torch.Generator().manual_seed(0)).numpy()
    for bits in (keys >> 60, keys & 15):  # the highest and the lowest
        counts = np.unique(bits, return_counts=True)[1]
        assert len(counts) == 16
        assert ((counts - 1250) ** 2 / 1250).sum() < 37.7  # chi-squared, 15 degrees, 1e-3


@pytest.mark.parametrize("collide", [False, True])
def test_repeated_rows_are_merged(collide):
    X = torch.tensor([[1.0, 2], [3, 4], [1, 2], [3, 5]], dtype=torch.float64)
    y = torch.tensor([[1.0], [2], [5], [3]], dtype=torch.float64)
    w = torch.tensor([1.0, 2, 3, 1], dtype=torch.float64)
    keys = X[:, 0].long() if collide else row_keys(X, torch.Generator())
    first, y_, w_ = merge_repeated_rows(X, y, w, keys)
    assert first.tolist() == [0, 1, 3]
    torch.testing.assert_close(y_[:, 0], torch.tensor([4.0, 2, 3], dtype=torch.float64))
    torch.testing.assert_close(w_, torch.tensor([4.0, 2, 1], dtype=torch.float64))


NEARLY_EQUAL = np.repeat(np.random.default_rng(0).normal(size=(30, 3)), 3, axis=0)
NEARLY_EQUAL = NEARLY_EQUAL + 1e-4 * np.random.default_rng(1).normal(size=NEARLY_EQUAL.shape)


@pytest.mark.parametrize("solver", ["cg", "cholesky", "eigh"])
def test_float32_says_what_precision_a_penalty_needs(solver):
    y = np.sin(NEARLY_EQUAL).sum(1)
    options = {"hyperparameters": None, "solver": solver, "random_state": 0}
    for alpha in (1e-6, 1e-10):
        model = DEQKernelRidge(alpha, dtype="float32", **options)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                model.fit(NEARLY_EQUAL, y)
            except ValueError as error:  # not even a solution
                assert solver == "cg"
                told = [warnings.WarningMessage(error, LinAlgWarning, "", 0)]
        messages = [str(one.message) for one in told if one.category is LinAlgWarning]
        assert any("in float32: use dtype='float64'" in message for message in messages)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single, double = (
            DEQKernelRidge(1e-3, dtype=d, **options).fit(NEARLY_EQUAL, y).predict(NEARLY_EQUAL)
            for d in ("float32", "float64")
        )
        DEQKernelRidge(1e-10, **options, tol=1e-9).fit(NEARLY_EQUAL, y)
    np.testing.assert_allclose(single, double, atol=1e-3)
