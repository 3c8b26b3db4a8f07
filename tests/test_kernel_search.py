"""The search of kernels: its errors against refitting, its gradient against finite differences."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits, load_wine, make_classification
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from sk_deq import DEQClassifier, DEQKernelRidge, DEQKernelRidgeClassifier, KernelMatcher
from sk_deq._row_keys import row_keys
from sk_deq._scaling import InputScaler
from sk_deq._search import criterion, feature_weights, search
from sk_deq._search.candidates import (
    BIASES,
    DEQ_PARAMETERS,
    HIGH_DIM,
    is_angular,
    pair_kernel,
    resolve,
)
from sk_deq._search.candidates import CANDIDATES as KERNELS
from sk_deq._search.criterion import ALPHAS, FACTORS, Data, errors_of
from sk_deq._search.encodings import plain_encoding
from sk_deq._solve.leave_one_out import LeftOut, leave_one_out
from sk_deq._theory.engine import kernel_matrix

CANDIDATES = resolve({}, KERNELS, BIASES)


def _wine():
    X, y = load_wine(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def _diabetes(n=100):
    X, y = load_diabetes(return_X_y=True)
    return StandardScaler().fit_transform(X[:n]), y[:n]


def _two_of_eight(n=150, seed=0):
    """Targets that depend on two of eight columns."""
    X = np.random.default_rng(seed).normal(size=(n, 8))
    return X, np.sin(2 * X[:, 0]) + np.sin(2 * X[:, 1])


def _data(n=40, n_outputs=2, classify=True, alphas=None):
    rng = np.random.default_rng(0)
    X = torch.tensor(rng.normal(size=(n, 3)))
    X /= (X * X).sum(1).mean().sqrt()
    y = torch.tensor(np.where(rng.random((n, n_outputs)) < 0.5, 1.0, -1.0))
    w = torch.tensor(rng.uniform(0.5, 2, n))
    return Data(plain_encoding(X), X, y, w, classify, alphas, n)


@pytest.mark.parametrize("parameters", CANDIDATES)
def test_the_table_of_angles_is_the_kernel(parameters):
    data = _data()
    scaler = InputScaler(
        parameters["input_scaling"],
        input_var=parameters["input_var"],
        bias_var=parameters["bias_var"],
    ).fit(data.X)
    pair = pair_kernel({**parameters, "bias_var": scaler.bias_var_})
    expected = kernel_matrix(pair, scaler.transform(data.X))
    np.testing.assert_allclose(data.kernel(parameters)[0], expected, rtol=1e-9)


@pytest.mark.slow
def test_activations_without_an_angle_table():
    data = _data()
    parameters = {**CANDIDATES[0], "activation": "tanh"}
    assert not is_angular(parameters)
    expected = kernel_matrix(pair_kernel(parameters), data.X)
    np.testing.assert_allclose(data.kernel(parameters)[0], expected, rtol=1e-9)


@pytest.mark.parametrize("parameters", CANDIDATES[::2])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_errors_are_those_of_models_fitted_without_each_row(parameters, n_outputs):
    data = _data(15, n_outputs)
    score = data.score(parameters)
    K, level = data.kernel(parameters)
    n = len(K)
    assert level == pytest.approx(float(data.w @ K.diagonal() / data.w.sum()))
    np.testing.assert_allclose(score.alphas, ALPHAS * level)
    for a in (0, 5, 10):
        predictions = torch.zeros(n, n_outputs, dtype=K.dtype)
        for i in range(n):
            rest = torch.arange(n) != i
            A = torch.ones(n, n, dtype=K.dtype)  # the stationarity conditions, bordered
            A[:-1, :-1] = K[rest][:, rest] + torch.diag(score.alphas[a] / data.w[rest])
            A[-1, -1] = 0
            right = torch.cat([data.y[rest], torch.zeros(1, n_outputs, dtype=K.dtype)])
            predictions[i] = torch.cat([K[i, rest], torch.ones(1)]) @ torch.linalg.solve(A, right)
        error = data.w @ (predictions - data.y).square().sum(1) / data.w.sum()
        np.testing.assert_allclose(score.errors[0, a], error, rtol=1e-6)
        labels = data.y if n_outputs > 1 else torch.cat([-data.y, data.y], 1)
        losses = []
        for factor in FACTORS:
            margins = factor * (
                predictions if n_outputs > 1 else torch.cat([-predictions, predictions], 1)
            )
            log_p = margins - margins.logsumexp(1, keepdim=True)
            losses.append(float(-(data.w @ ((1 + labels) / 2 * log_p).sum(1)) / data.w.sum()))
        np.testing.assert_allclose(score.errors[1, a], min(losses), rtol=1e-6)


@pytest.mark.parametrize("classify", [False, True])
@pytest.mark.parametrize("near", [1e-4, 1e-2, 10.0])
def test_few_alphas_are_enough_to_find_the_best(monkeypatch, classify, near):
    data = _data(60, 3, classify)
    data.y += data.X  # something to learn
    every = data.score(CANDIDATES[1])
    monkeypatch.setattr(criterion, "_SMALL", 0)
    score = data.score(CANDIDATES[1], near)
    visited = np.isin(ALPHAS, score.relative_alphas)
    for single in (False, True):
        kind = (score.relative_alphas >= 1e-3) == single
        expected = every.errors[:, visited][:, kind]
        np.testing.assert_allclose(score.errors[:, kind], expected, rtol=1e-4 if single else 1e-9)
    np.testing.assert_allclose(score.alphas, every.alphas[visited])
    np.testing.assert_array_equal(score.factors, every.factors[visited])
    first = every.errors[:, np.abs(np.log(ALPHAS / near)).argmin()]
    best = every.relative_alphas[every.relative_to(first).argmin()]
    assert score.relative_alphas[score.relative_to(first).argmin()] == best


@pytest.mark.parametrize(("alpha", "rtol"), [(1.0, 1e-5), (1e-3, 1e-3), (1e-4, 1e-9)])
def test_some_rows_are_left_out_of_all(alpha, rtol):
    data = _data(30)
    K, level = data.kernel(CANDIDATES[0])
    predictions = leave_one_out(K.clone(), data.y, data.w, [alpha * level], 1e-11)[-7:, 0]
    expected = errors_of(predictions, data.y[-7:], data.w[-7:], True)
    found = data.part(slice(None), 7).errors_at(K, level, alpha)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=rtol)


def test_single_precision_tells_candidates_apart():
    X, y = load_digits(return_X_y=True)
    labels = 2 * torch.nn.functional.one_hot(torch.as_tensor(y[:600])).double() - 1
    w = torch.ones(600, dtype=torch.float64)
    X = torch.as_tensor(X[:600])
    data = Data.encoded(plain_encoding(X), X, labels, w, True, None)
    for parameters in CANDIDATES:
        K, level = data.kernel(parameters)
        single, _ = data.errors_at(K, level, 1e-3)
        double = leave_one_out(K, data.y, data.w, [1e-3 * level], 1e-11)
        expected, _ = errors_of(double[:, 0], data.y, data.w, True)
        np.testing.assert_allclose(single, expected, rtol=1e-3)


def test_gradient_of_the_residuals_of_leave_one_out():
    rng = np.random.default_rng(0)
    B = torch.tensor(rng.normal(size=(8, 8)))
    K = (B @ B.T).requires_grad_()
    alpha = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    y, s = torch.tensor(rng.normal(size=(8, 2))), torch.tensor(rng.uniform(0.5, 2, 8))
    assert torch.autograd.gradcheck(
        lambda K, alpha: LeftOut.apply((K + K.T) / 2, alpha, y, s), (K, alpha)
    )


@pytest.mark.parametrize("parameters", CANDIDATES)
@pytest.mark.parametrize("classify", [False, True])
def test_gradient_of_the_criterion_in_feature_weights(parameters, classify):
    data = _data(classify=classify)
    log_v = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    others = torch.tensor([0.1, 0.3, 2.0], dtype=torch.float64).log().requires_grad_()
    feature_weights._objective(data, parameters, log_v, others, 0.01).backward()
    for x in (log_v, others):
        for j in range(3):
            h, values = 1e-4, []
            for sign in (1, -1):
                with torch.no_grad():
                    x[j] += sign * h
                    values.append(
                        float(feature_weights._objective(data, parameters, log_v, others, 0.01))
                    )
                    x[j] -= sign * h
            slope = (values[0] - values[1]) / (2 * h)
            np.testing.assert_allclose(x.grad[j], slope, rtol=1e-4, atol=1e-6)


def test_features_that_matter_get_weight():
    X, y = _two_of_eight()
    test, truth = _two_of_eight(seed=1)
    plain = DEQKernelRidge(feature_weights=None).fit(X, y)
    model = DEQKernelRidge().fit(X, y)
    v = model.feature_weights_
    assert v[:2].min() > 3 * v[2:].max()
    np.testing.assert_allclose(v @ (X * X).mean(0), (X * X).mean(0).sum())
    assert 1 - model.score(test, truth) < 0.5 * (1 - plain.score(test, truth))
    np.testing.assert_array_equal(plain.feature_weights_, np.ones(8))
    assert sorted(model.search_results_["feature_weights"]) == [False] * 6 + [True] * 2
    assert model.search_results_["feature_weights"][0]


def test_weights_that_do_not_pay_are_not_kept():
    X, y = _diabetes()
    model = DEQKernelRidge().fit(X, y)
    results = model.search_results_
    assert results["feature_weights"].any() and not results["feature_weights"][0]
    np.testing.assert_array_equal(model.feature_weights_, np.ones(10))


def test_weights_that_do_not_promise_to_pay_are_not_learned_to_the_end(monkeypatch):
    steps = []
    objective = feature_weights._objective
    monkeypatch.setattr(feature_weights, "_objective", lambda *a: steps.append(1) or objective(*a))
    rng = np.random.default_rng(0)
    code = rng.integers(0, 2, 300)
    X = rng.normal(size=(300, 3))  # nothing to learn
    DEQKernelRidgeClassifier().fit(X, code)
    assert len(steps) in (4, 8)  # one start or two
    X, y = _two_of_eight()
    del steps[:]
    DEQKernelRidgeClassifier().fit(X, y > 0)
    assert len(steps) in (12, 24)


def test_the_best_candidate_is_taken_and_predicts_as_if_it_was_given():
    X, y = _wine()
    model = DEQKernelRidgeClassifier(feature_weights=None).fit(X[::2], y[::2])
    results = model.search_results_
    best = results["criterion"].argmin()
    chosen = {name: getattr(model, f"{name}_") for name in DEQ_PARAMETERS}
    assert model.encoding_ == results["encoding"][best]
    assert chosen == {name: results[name][best] for name in DEQ_PARAMETERS}
    again = DEQKernelRidgeClassifier(model.alpha_, encoding=model.encoding_, **chosen).fit(
        X[::2], y[::2]
    )
    np.testing.assert_allclose(
        again.decision_function(X), model.decision_function(X), rtol=1e-7, atol=1e-9
    )
    assert not hasattr(again, "search_results_")
    assert {len(column) for column in results.values()} == {
        len(CANDIDATES) + 2
    }  # and two encodings


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {"activation": "tanh"},
        {"activation": "relu", "recurrent_var": 0.5},
        {"kernel": "ntk_full", "bias_var": 0.3},
        {"input_scaling": None, "center": True},
        {"input_var": 0.7, "input_scaling": "sphere"},
    ],
)
def test_parameters_given_stay(given):
    X, y = _diabetes(50)
    model = DEQKernelRidge(**given).fit(X, y)
    for name, value in given.items():
        assert getattr(model, f"{name}_") == value
        assert all(other == value for other in model.search_results_[name])
    assert model.input_var_ == given.get("input_var", 1 - given.get("recurrent_var", 0.0))


def test_alphas_given_are_the_only_ones():
    X, y = _diabetes(50)
    model = DEQKernelRidge(0.25).fit(X, y)
    assert model.alpha_ == 0.25
    assert set(model.search_results_["alpha"]) == {0.25}
    given = [0.1, 0.3, 0.7]  # to the last digit, whatever the levels of the kernels
    model = DEQKernelRidge(given).fit(X, y)
    assert set(model.search_results_["alpha"]) <= set(given)


def test_without_search():
    X, y = _diabetes(50)
    model = DEQKernelRidge(hyperparameters=None).fit(X, y)
    assert not hasattr(model, "search_results_")
    assert {name: getattr(model, f"{name}_") for name in DEQ_PARAMETERS} == CANDIDATES[0]
    assert len(model.validation_errors_) == len(model.alphas_) == len(ALPHAS)
    assert model.alphas_[model.validation_errors_.argmin()] == model.alpha_


def test_what_an_earlier_fit_found_does_not_stay():
    X, y = _diabetes(50)
    model = DEQKernelRidgeClassifier().fit(X, y > y.mean())
    found = {"search_results_", "alphas_", "validation_errors_", "temperature_"}
    assert found <= vars(model).keys()
    model.set_params(alpha=0.1, hyperparameters=None).fit(X, np.ones(50))
    assert not found & vars(model).keys()


def test_a_recurrent_variance_that_leaves_no_input_is_told():
    for estimator in (DEQKernelRidge, DEQClassifier, KernelMatcher):
        with pytest.raises(ValueError, match=r"recurrent_var=1\.5 leaves no input variance"):
            estimator(recurrent_var=1.5).fit(*_diabetes(20))


def test_unstable_candidates_are_left_out_and_an_error_tells_if_none_is_left():
    X, y = _diabetes(20)
    model = DEQKernelRidge(activation="identity").fit(X, y)
    assert set(model.search_results_["recurrent_var"]) == {0.5, 0.9}
    with pytest.raises(ValueError, match="no stable fixed point"):
        DEQKernelRidge(recurrent_var=5.0, input_var=1.0, activation="relu", kernel="ck").fit(X, y)


def test_cholesky_takes_the_penalty_of_the_search_and_cg_compares_it_with_larger_ones():
    X, y = _diabetes(60)
    model = DEQKernelRidge(solver="cholesky", random_state=0).fit(X, y)
    best = model.search_results_["criterion"].argmin()
    found = model.search_results_["alpha"][best]
    assert model.alpha_ == pytest.approx(found, rel=1e-6)
    alphas = [
        DEQKernelRidge(solver=name, hyperparameters=None).fit(X, y).alpha_
        for name in ("cholesky", "eigh")
    ]
    assert alphas[0] == pytest.approx(alphas[1], rel=1e-6)
    model.set_params(solver="cg").fit(X, y)
    np.testing.assert_allclose(model.alphas_, found * 10 ** np.arange(0, 2.1, 0.5), rtol=1e-6)
    assert model.alpha_ == model.alphas_[model.validation_errors_.argmin()]


def test_high_dimensional_method_keeps_the_parameters_of_its_theory():
    X = np.random.default_rng(0).normal(size=(60, 400))
    model = DEQKernelRidge(method="high_dim").fit(X, X[:, 0])
    assert {name: getattr(model, f"{name}_") for name in HIGH_DIM} == HIGH_DIM
    assert model.input_var_ == 0.8


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [DEQKernelRidge, DEQKernelRidgeClassifier])
def test_integer_weights_equal_repeated_rows(estimator):
    X, y = _wine()
    weights = np.random.default_rng(0).integers(0, 3, len(y))
    weighted = estimator(random_state=0).fit(X, y, weights)
    repeated = estimator(random_state=0).fit(X.repeat(weights, 0), y.repeat(weights))
    assert weighted.activation_ == repeated.activation_
    np.testing.assert_allclose(weighted.feature_weights_, repeated.feature_weights_, rtol=1e-5)
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-5, atol=1e-6)


def test_many_rows_are_searched_on_a_sample(monkeypatch):
    monkeypatch.setattr(search, "MAX_ROWS", 60)
    monkeypatch.setattr(search, "MOST_ROWS", 120)
    X, y = _wine()
    targets = torch.tensor(2.0 * (y[:, None] == np.arange(3)) - 1)

    def some_rows(X, targets):
        keys = row_keys(X, torch.Generator().manual_seed(0))
        return search._some_rows(X, targets, torch.ones(len(X), dtype=torch.float64), keys)

    rows, sampled, _ = some_rows(X, targets)
    assert len(rows) == 60
    place = [np.flatnonzero((X == row.numpy()).all(1))[0] for row in rows]
    np.testing.assert_array_equal(sampled, targets[place])
    many = np.random.default_rng(0).normal(size=(1000, 3))
    sizes = [len(some_rows(many[:n], torch.zeros(n, 1))[0]) for n in (200, 400, 1000)]
    assert sizes[0] == 60 and 70 < sizes[1] < 120 and sizes[2] == 120  # a quarter, but no more
    order = np.random.default_rng(0).permutation(len(y))
    again, _, _ = some_rows(X[order], targets[order])
    np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(again, axis=0))
    model = DEQKernelRidgeClassifier(random_state=0).fit(X[::2], y[::2])
    assert model.score(X[1::2], y[1::2]) > 0.93
    assert len(model.X_fit_) == len(X[::2])


@pytest.mark.slow
@pytest.mark.parametrize(("n", "n_deciding"), [(1000, 0), (1200, 300), (2500, 500)])
def test_weights_are_judged_by_rows_that_they_were_not_learnt_from(n, n_deciding, monkeypatch):
    learnt, begun, decided, trials = [], [], [], []
    learn, errors_at, weighted = search.learn_weights, Data.errors_at, search._weighted

    def learn_weights(trial, data, bias_given, judged, begin):
        learnt.append(data.X[:, 0])
        begun.append(begin)
        assert judged == (n_deciding > 0)
        found = learn(trial, data, bias_given, judged, begin)
        assert begin is None or not torch.equal(found[0], begin)
        return found

    def count(self, *args):
        if self.n_left_out < len(self.X):
            decided.append(self.X[-self.n_left_out :, 0])
        return errors_at(self, *args)

    def keep(start, *args):
        trials.append((start, weighted(start, *args)))
        return trials[-1][1]

    monkeypatch.setattr(search, "_weighted", keep)
    monkeypatch.setattr(search, "learn_weights", learn_weights)
    monkeypatch.setattr(Data, "errors_at", count)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 3))
    y = np.sin(2 * X[:, 0]) + 0.1 * rng.normal(size=n)
    model = DEQKernelRidge(encoding=None, random_state=0).fit(X, y)
    assert model.feature_weights_[0] > 10 * model.feature_weights_[1]
    assert (len(decided) > 1) == (n_deciding > 0)
    for rows in decided:
        assert len(rows) == n_deciding and not torch.isin(rows, learnt[0]).any()
    assert len(learnt[0]) == min(n, 2000) - n_deciding
    # the roughest kernel goes on from the weights of the best, or takes them over
    assert [begin is None for begin in begun] == ([True, False] if n_deciding else [True])
    (_, first), (rough, second) = trials
    taken_over = torch.equal(first.feature_weights, second.feature_weights)
    assert taken_over == (n_deciding == 0)
    assert (second.parameters["bias_var"] == rough.parameters["bias_var"]) == taken_over


@pytest.mark.slow
def test_units_of_inputs_and_targets_do_not_matter():
    X, y = _diabetes(80)
    reference = DEQKernelRidge().fit(X, y).predict(X)
    moved = DEQKernelRidge().fit(1000 * X, 1e6 * y + 5e6)
    np.testing.assert_allclose((moved.predict(1000 * X) - 5e6) / 1e6, reference, rtol=1e-5)
    Y = np.column_stack([y, 1e6 * np.sin(y)])
    both = DEQKernelRidge().fit(X, Y)
    same = DEQKernelRidge().fit(X, Y / [1, 1e6])
    np.testing.assert_allclose(both.predict(X) / [1, 1e6], same.predict(X), rtol=1e-5)


@pytest.mark.parametrize("y", [np.zeros(20), np.repeat([0, 1], [19, 1])])
def test_targets_that_hardly_vary(y):
    X, _ = _diabetes(20)
    assert np.isfinite(DEQKernelRidge().fit(X, y).predict(X)).all()
    p = DEQKernelRidgeClassifier().fit(X, y).predict_proba(X)
    np.testing.assert_allclose(p.sum(1), 1)


@pytest.mark.slow
def test_rare_classes_are_found_with_balanced_weights():
    X, y = make_classification(
        400, 6, n_informative=4, weights=[0.95], class_sep=0.7, random_state=0
    )
    plain, balanced = (
        balanced_accuracy_score(
            y[200:], DEQKernelRidgeClassifier(class_weight=w).fit(X[:200], y[:200]).predict(X[200:])
        )
        for w in (None, "balanced")
    )
    assert balanced > plain + 0.05


@pytest.mark.slow
def test_rows_as_they_are_are_searched_in_their_own_units():
    X, y = _two_of_eight()
    X /= (X**2).sum(1).mean() ** 0.5
    fixed = {"input_scaling": "rms", "encoding": None}
    scaled = DEQKernelRidge(input_var=1.0, random_state=0, **fixed).fit(X, y)
    # only input_var |x|^2 and bias_var matter
    as_is = DEQKernelRidge(input_scaling=None, input_var=1 / 9, random_state=0).fit(3 * X, y)
    assert scaled.feature_weights_.max() > 2
    np.testing.assert_allclose(as_is.feature_weights_, scaled.feature_weights_, rtol=1e-3)
    # the descent is in single precision, and rounds in these units
    np.testing.assert_allclose(as_is.bias_var_, scaled.bias_var_, rtol=1e-5)
    np.testing.assert_allclose(as_is.predict(3 * X), scaled.predict(X), rtol=1e-6, atol=1e-7)
