"""KernelMatcher: its kernel against the exact one, at infinite and at finite width."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sk_deq._kernel_matcher import KernelMatcher
from sk_deq._theory.engine import kernel_matrix
from sk_deq._theory.gated import exact_match, power_series
from sk_deq._theory.pair import DEQPairKernel
from sk_deq._theory.spec import deq_spec


def _rows(n, p, norms=(0.4, 1.6)):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, p))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X * rng.uniform(*norms, size=(n, 1))


def _kernels(activation, kernel, X, network_rows=None):
    """The DEQ's kernel on X, that of the match (made for network_rows), and the match itself."""
    X = torch.from_numpy(X)
    spec = deq_spec(activation, 0.5)
    norms = X.norm(dim=1)
    unit = X / torch.where(norms > 0, norms, 1)[:, None]
    match = exact_match(spec, kernel, norms if network_rows is None else network_rows)
    K = kernel_matrix(DEQPairKernel(spec, kernel), X)
    return K, match.kernel_matrix(norms, norms, (unit @ unit.T).clamp(-1, 1)), match


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu"])
def test_gated_network_has_the_kernel_of_the_deq_for_any_norms(activation):
    K, G, match = _kernels(activation, "ck", _rows(150, 5))
    assert match.n_groups <= 4
    assert torch.linalg.matrix_norm(G - K, 2) < 1e-5 * torch.linalg.matrix_norm(K, 2)
    assert (G - K).norm() < 1e-5 * K.norm()
    off_diagonal = (G - K) - torch.diag((G - K).diagonal())
    assert off_diagonal.abs().max() < 1e-5 * K.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["ck", "ntk", "ntk_full"])
def test_one_group_suffices_on_the_sphere(kernel):
    K, G, match = _kernels("tanh", kernel, _rows(100, 5, (1, 1)))
    assert match.n_groups == 1
    assert (G - K).abs().max() < 2e-6 * K.abs().max()


@pytest.mark.slow
def test_gated_network_extends_to_norms_it_was_not_made_for():
    made_for = torch.linspace(0.5, 1.2, 9, dtype=torch.float64)
    errors = []
    for norms in ((0.5, 1.2), (0.4, 1.5), (0.1, 3.0)):
        X = np.concatenate([_rows(40, 5, norms), np.zeros((1, 5))])
        K, G, _ = _kernels("tanh", "ck", X, made_for)
        errors.append(float((G - K).abs().max() / K.abs().max()))
    assert errors[0] < 1e-5 and errors[1] < 1e-3 and errors[2] < 0.02


@pytest.mark.slow
def test_rows_of_one_norm_give_features_for_other_norms_too():
    X = _rows(30, 5, (1.0, 1.0))
    made_for = torch.ones(3, dtype=torch.float64)
    for factor in (1.0, 1.25):
        K, G, _ = _kernels("tanh", "ck", factor * X, made_for)
        assert (G - K).abs().max() < 0.01 * K.abs().max()
        matcher = KernelMatcher(
            20_000, activation="tanh", recurrent_var=0.5, input_scaling=None, random_state=0
        )
        assert matcher.fit(X).kernel_error(factor * X) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "abs"])
def test_the_last_terms_carry_what_the_series_leaves_out(activation):
    spec = deq_spec(activation, 0.5)
    one = torch.ones(1, dtype=torch.float64)
    for kernel, tol in (("ck", 1e-5), ("ntk", 2e-3)):
        match, pair = exact_match(spec, kernel, one), DEQPairKernel(spec, kernel)
        exact = pair.diagonal(pair.rows(one))
        assert_allclose(match.kernel_matrix(one, one, torch.ones(1, 1))[0], exact, rtol=tol)
        assert match.residual < tol


def test_a_poor_match_is_told():
    X = _rows(20, 5)
    matcher = KernelMatcher(5, activation="abs", recurrent_var=0.8, kernel="ntk", random_state=0)
    with pytest.warns(ConvergenceWarning, match="off by 0.2 of its largest value"):
        matcher.fit(X)
    assert matcher.residual_ == pytest.approx(0.2, abs=0.05)


def test_apply_is_the_hermite_series_of_the_gates():
    match = exact_match(deq_spec("tanh", 0.5), "ck", torch.tensor([0.5, 1.5]).double())
    t = torch.linspace(-3, 3, 7, dtype=torch.float64)
    gates = match.gates(torch.tensor([0.7], dtype=torch.float64))[1]
    hermite = [
        np.polynomial.hermite_e.hermeval(t.numpy(), np.eye(len(gates[0]))[k])
        / np.sqrt(float(np.prod(np.arange(1, k + 1, dtype=float))))
        for k in range(len(gates[0]))
    ]
    expected = gates[0].numpy() @ np.array(hermite)
    np.testing.assert_allclose(match.apply(t, gates[0]), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
@pytest.mark.parametrize("center", [True, False])
def test_the_table_of_the_activations_agrees_with_their_series(activation, center):
    match = exact_match(
        deq_spec(activation, 0.5, center=center), "ck", torch.tensor([0.5, 1.5]).double()
    )
    norms = torch.linspace(0.4, 1.6, 9, dtype=torch.float64)  # two of them outside
    t = torch.randn(9, 2000 * match.n_groups, generator=torch.Generator().manual_seed(0)).double()
    gates = match.gates(norms)
    series = [
        torch.stack([match.apply(row, gate) for row, gate in zip(part, gates[group], strict=True)])
        / np.sqrt(2000)
        for group, part in enumerate(t.tensor_split(match.n_groups, dim=1))
    ]
    series = torch.cat(series, 1)
    assert (match(t, norms) - series).norm() < 1e-6 * series.norm()


@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
def test_power_series_coefficients_are_positive_semidefinite_and_sum_to_the_kernel(activation):
    spec = deq_spec(activation, 0.5)
    norms = torch.tensor([0.4, 0.9, 1.6], dtype=torch.float64)
    B = power_series(DEQPairKernel(spec, "ck"), norms, norms, 100)
    assert torch.linalg.eigvalsh(B.permute(2, 0, 1)).min() > -1e-12
    r = 0.6 ** torch.arange(100, dtype=torch.float64)
    pair = DEQPairKernel(spec, "ck")
    rows = pair.rows(norms)
    exact = pair.pairs(rows, rows, torch.full((1, 1, 1), 0.6, dtype=torch.float64))[:, :, 0]
    torch.testing.assert_close(B @ r, exact, rtol=1e-11, atol=1e-13)


def test_orthogonal_features_are_closer_than_gaussian_ones():
    X = _rows(400, 100, (1, 1))
    options = {"activation": "tanh", "recurrent_var": 0.5, "random_state": 0}
    orthogonal = KernelMatcher(4096, **options).fit(X)
    gaussian = KernelMatcher(4096, weights="gaussian", **options).fit(X)
    assert orthogonal.kernel_error(X) < 0.05
    assert 0.1 < gaussian.kernel_error(X) < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("matching", ["exact", "high_dim"])
@pytest.mark.parametrize("kernel", ["ck", "ntk"])
def test_error_falls_with_width(matching, kernel):
    X = _rows(200, 100, (0.95, 1.05))
    options = {"activation": "tanh", "matching": matching, "kernel": kernel, "random_state": 0}
    errors = [KernelMatcher(m, **options).fit(X).kernel_error(X) for m in (100, 1600)]
    assert errors[1] < errors[0] / 3


def test_features_of_a_row_do_not_depend_on_the_other_rows():
    X = _rows(50, 5)
    matcher = KernelMatcher(64, random_state=0).fit(X)
    Z = matcher.transform(X)
    np.testing.assert_allclose(matcher.transform(X[7:8]), Z[7:8], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("n_components", [1, 2, 3, 5, 11])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_number_of_components_and_either_dtype(n_components, dtype):
    X = _rows(30, 5).astype(dtype)
    Z = KernelMatcher(n_components, random_state=0).fit_transform(X)
    assert Z.shape == (30, n_components) and Z.dtype == dtype and np.isfinite(Z).all()


def test_features_do_not_jump_where_rounding_moves_the_extreme_norms():
    X = np.array([[0.12573022], [-0.13210486]])
    matcher = KernelMatcher(6, random_state=0).fit(X)
    Z = matcher.transform(X)
    for rounded in (X.astype(np.float32), X * (1 + 1e-12), X * (1 - 1e-12)):
        assert_allclose(matcher.transform(rounded), Z, rtol=0, atol=1e-6)


def test_float32_features_agree_with_float64():
    X = _rows(30, 5)
    Z = [
        KernelMatcher(50, dtype=d, random_state=0).fit_transform(X) for d in ("float32", "float64")
    ]
    np.testing.assert_allclose(*Z, atol=2e-5)


def test_same_random_state_same_features_and_global_state_untouched():
    X = _rows(30, 5)
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state, n_threads = torch.get_rng_state(), torch.get_num_threads()
    first, second = (KernelMatcher(20, random_state=3).fit_transform(X) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_state, torch.get_rng_state())
    assert torch.get_num_threads() == n_threads


def test_pickle_does_not_grow_with_the_training_rows():
    small, large = (KernelMatcher(10, random_state=0).fit(_rows(n, 5)) for n in (20, 2000))
    assert len(pickle.dumps(large)) < len(pickle.dumps(small)) + 100
    X = _rows(9, 5)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(large)).transform(X), large.transform(X)
    )


def test_digits_with_a_linear_classifier():
    parts = train_test_split(*load_digits(return_X_y=True), random_state=0)
    X, X_test, y, y_test = parts
    model = make_pipeline(
        StandardScaler(), KernelMatcher(1000, random_state=0), RidgeClassifier(1e-2)
    )
    assert model.fit(X, y).score(X_test, y_test) > 0.96


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"activation": "rellu"}, "activation='rellu' is unknown"),
        ({"recurrent_var": -1.0}, "recurrent_var"),
        ({"recurrent_var": 1.5}, "input_var=None means"),
        ({"recurrent_var": 3.0, "input_var": 1.0}, "use recurrent_var < 2"),
        ({"kernel": "ntk_full", "matching": "high_dim"}, "matching='high_dim'"),
        ({"bias_var": 1.0, "matching": "high_dim"}, "bias_var=0"),
        ({"matching": "exact", "n_layers": 2}, "n_layers"),
        ({"n_components": 0}, "n_components"),
        ({"device": "tpu9"}, "device"),
    ],
)
def test_errors_name_the_parameter(parameters, message):
    with pytest.raises(ValueError, match=message):
        KernelMatcher(5).set_params(**parameters).fit(_rows(20, 5))


def test_output_in_pandas_has_names():
    pytest.importorskip("pandas", reason="data frames are of pandas")
    frame = clone(KernelMatcher(3, random_state=0)).set_output(transform="pandas")
    assert list(frame.fit_transform(_rows(20, 5)).columns) == [
        f"kernelmatcher{i}" for i in range(3)
    ]


def test_norms_outside_those_of_fit_cost_in_proportion_to_the_rows(monkeypatch):
    pairs, solved = DEQPairKernel.pairs, []

    def count(self, rows1, rows2, r):
        solved.append(len(rows1) * len(rows2))
        return pairs(self, rows1, rows2, r)

    X = _rows(100, 5, (0.5, 1.0))
    matcher = KernelMatcher(16, activation="tanh", recurrent_var=0.5, random_state=0).fit(X)
    size = len(pickle.dumps(matcher))
    monkeypatch.setattr(DEQPairKernel, "pairs", count)
    inside = matcher.transform(X)
    assert not solved
    matcher.transform(7 * X[:10])
    first = sum(solved)
    Z = matcher.transform(7 * X)
    matcher.transform(np.repeat(7 * X, 20, axis=0))
    assert sum(solved) <= 3 * first  # a few ranges of norms, however many rows
    one_by_one = np.vstack([matcher.transform(7 * x[None]) for x in X])
    np.testing.assert_allclose(Z, one_by_one, rtol=0, atol=1e-12)
    assert len(pickle.dumps(matcher)) == size
    again = pickle.loads(pickle.dumps(matcher))
    np.testing.assert_array_equal(again.transform(7 * X), Z)
    np.testing.assert_array_equal(again.transform(X), inside)


def test_features_of_other_norms_have_the_kernel_that_is_extended():
    spec = deq_spec("tanh", 0.5)
    match = exact_match(spec, "ck", torch.tensor([0.8, 1.2]).double())
    pair = DEQPairKernel(spec, "ck")
    r = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64)
    for norm, error in ((1.5, 1e-3), (0.0, 1e-3), (3.0, 0.03)):
        n1, n2 = torch.tensor([norm]).double(), torch.tensor([1.0]).double()
        exact = pair.pairs(pair.rows(n1), pair.rows(n2), r[None, None])[0]
        found = torch.cat([match.kernel_matrix(n1, n2, x[None, None]) for x in r], 1)
        assert (found - exact).abs().max() < error * float(
            pair.diagonal(pair.rows(n1)).clamp_min(0.1)
        )


@pytest.mark.slow
def test_other_norms_need_a_fixed_point_at_their_own_only():
    """gelu is stable up to a norm of about 1.9 here, and rows are extended in whole octaves."""
    X = _rows(6, 4, (1.0, 1.0)) * np.linspace(1.0, 1.15, 6)[:, None]
    spec = {"activation": "gelu", "recurrent_var": 1.97, "input_var": 1.0, "input_scaling": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # so near the limit the match is poor
        matcher = KernelMatcher(8, random_state=0, **spec).fit(X[:3])
    assert np.isfinite(matcher.transform(X)).all()
    with pytest.raises(ValueError, match=r"no stable fixed point .* for a row of norm 2\.3;"):
        matcher.transform(np.vstack([X, 2 * X[-1:]]))


@pytest.mark.long
def test_tables_of_other_norms_do_not_pile_up():
    X = _rows(5, 5, (0.5, 1.0))
    matcher = KernelMatcher(8, activation="relu", input_scaling=None, random_state=0).fit(X)
    first = matcher.transform(8 * X[:1])
    for k in range(0, 80, 2):
        assert np.isfinite(matcher.transform(2.0**k * X[:1])).all()
    assert len(matcher.match_._spans) <= 16
    np.testing.assert_array_equal(matcher.transform(8 * X[:1]), first)
