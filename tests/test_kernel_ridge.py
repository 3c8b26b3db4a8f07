"""DEQKernelRidge and its classifier: against brute force, scikit-learn and equivalent fits."""

import pickle
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.ensemble import AdaBoostClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.estimator_checks import check_param_validation, parametrize_with_checks

from sk_deq._ridge import fit, rows
from sk_deq._ridge.classifier import DEQKernelRidgeClassifier
from sk_deq._ridge.fit import RidgeConfig, choose_solver
from sk_deq._ridge.kernel import FittedRows
from sk_deq._ridge.regressor import DEQKernelRidge
from sk_deq._row_keys import row_keys
from sk_deq._scaling import InputScaler
from sk_deq.kernels import deq_kernel

ALPHAS = np.logspace(-4, 2, 7)

# the paper's DEQ: all of it is given, so that nothing is searched
PAPER = {
    "kernel": "ck",
    "activation": "relu",
    "recurrent_var": 0.2,
    "bias_var": 0.0,
    "center": True,
    "input_scaling": "rms",
}


def ridge(alpha=1.0, **options):
    return DEQKernelRidge(alpha, **{**PAPER, **options})


def classifier(alpha=1.0, **options):
    return DEQKernelRidgeClassifier(alpha, **{**PAPER, **options})


def _diabetes(n=60):
    X, y = load_diabetes(return_X_y=True)
    return StandardScaler().fit_transform(X[:n]), y[:n]


def _wine():
    X, y = load_wine(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def _breast_cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X[:70]), np.array(["malignant", "benign"])[y[:70]]


def _iris():
    X, y = load_iris(return_X_y=True)
    return np.unique(X, axis=0)[:70], y[np.unique(X, axis=0, return_index=True)[1]][:70]


def _targets(y):
    classes = np.unique(y)
    if len(classes) == 2:
        return np.where(y == classes[1], 1.0, -1.0)[:, None]
    return 2.0 * (y[:, None] == classes) - 1


def _normal_equations(K, y, w, alpha):
    """Coefficients and constant by the bordered system of the stationarity conditions."""
    system = np.block([[K + alpha * np.diag(1 / w), np.ones((len(K), 1))], [np.ones(len(K)), 0]])
    solution = np.linalg.solve(system, np.vstack([y, np.zeros((1, y.shape[1]))]))
    return solution[:-1], solution[-1]


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("data", "estimator"),
    [
        (_diabetes, ridge(ALPHAS)),
        (_diabetes, ridge(ALPHAS, kernel="ntk", bias_var=0.5)),
        (_breast_cancer, classifier(ALPHAS)),
        (_iris, classifier(ALPHAS, activation="tanh")),
    ],
)
def test_alpha_by_leave_one_out_equals_brute_force(data, estimator, weighted):
    X, y = data()
    w = np.random.default_rng(0).uniform(0.5, 2, len(y)) if weighted else np.ones(len(y))
    estimator = clone(estimator).fit(X, y, w)
    targets = _targets(y)
    if isinstance(estimator, DEQKernelRidge):  # errors are in units of the targets' variance
        targets = y[:, None] / np.cov(y, aweights=w, ddof=0) ** 0.5
    # the scale of the inputs is a constant of the experiment; all else is fitted without row i
    K = deq_kernel(
        estimator._fitted_rows.kernel.rows(X).numpy(),
        kernel=estimator.kernel, activation=estimator.activation,
        bias_var=estimator.bias_var, tau0=1.0,
    )  # fmt: skip
    errors = np.zeros(len(ALPHAS))
    for a, alpha in enumerate(ALPHAS):
        for i in range(len(y)):
            rest = np.arange(len(y)) != i
            c, b = _normal_equations(K[rest][:, rest], targets[rest], w[rest], alpha)
            errors[a] += w[i] * ((K[i, rest] @ c + b - targets[i]) ** 2).sum()
    np.testing.assert_allclose(estimator.validation_errors_, errors / w.sum(), rtol=1e-8)
    assert estimator.alpha_ == ALPHAS[errors.argmin()]


def test_the_fit_satisfies_the_normal_equations():
    X, y = _diabetes()
    model = ridge(0.1, input_scaling=None).fit(X, y)
    K = deq_kernel(X, tau0=None)
    c, b = _normal_equations(K, y[:, None], np.ones(len(y)), 0.1)
    np.testing.assert_allclose(model.dual_coef_, c[:, 0], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(model.intercept_, b[0], rtol=1e-9)
    np.testing.assert_allclose(model.predict(X), (K @ c + b)[:, 0], rtol=1e-9)


def test_adding_a_constant_to_the_targets_adds_it_to_the_predictions():
    X, y = _diabetes()
    models = [ridge(ALPHAS).fit(X, y + shift) for shift in (0, 1000)]
    np.testing.assert_allclose(models[1].predict(X), models[0].predict(X) + 1000, rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.1, ALPHAS], ids=["cholesky", "eigh"])
@pytest.mark.parametrize("input_scaling", ["rms", "sphere", None])
def test_integer_weights_equal_repeated_rows(alpha, input_scaling):
    X, y = _diabetes()
    weights = np.random.default_rng(0).integers(0, 4, len(y))
    options = {"bias_var": 0.1, "input_scaling": input_scaling}
    weighted = ridge(alpha, **options).fit(X, y, weights)
    repeated = ridge(alpha, **options).fit(X.repeat(weights, 0), y.repeat(weights))
    assert weighted.alpha_ == repeated.alpha_
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-8)
    X, y = _wine()
    weights = np.random.default_rng(0).integers(0, 4, len(y))
    weighted = classifier(alpha, **options).fit(X, y, weights)
    repeated = classifier(alpha, **options).fit(X.repeat(weights, 0), y.repeat(weights))
    np.testing.assert_allclose(
        weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-8, atol=1e-10
    )


def test_repeated_rows_with_different_targets():
    X, y = _diabetes()
    both = ridge(0.1).fit(np.vstack([X, X]), np.concatenate([y - 3, y + 3]))
    mean = ridge(0.1).fit(X, y, np.full(len(y), 2.0))
    np.testing.assert_allclose(both.predict(X), mean.predict(X), rtol=1e-9)
    assert both.X_fit_.shape == X.shape


def test_balanced_classes_equal_the_equivalent_weights():
    X, y = _breast_cancer()
    balanced = classifier(ALPHAS, class_weight="balanced").fit(X, y)
    weighted = classifier(ALPHAS).fit(X, y, compute_sample_weight("balanced", y))
    np.testing.assert_allclose(
        balanced.predict_proba(X), weighted.predict_proba(X), rtol=1e-9, atol=1e-12
    )
    counts = {label: 1 / np.sum(y == label) for label in np.unique(y)}
    chosen = classifier(0.1, class_weight=counts).fit(X, y)
    weighted = classifier(0.1).fit(X, y, [counts[label] for label in y])
    np.testing.assert_allclose(chosen.decision_function(X), weighted.decision_function(X))


def test_targets_with_several_outputs_are_fitted_side_by_side():
    X, y = _diabetes()
    Y = np.column_stack([y, np.sin(y)])
    both = ridge(0.1).fit(X, Y)
    for k in range(2):
        one = ridge(0.1).fit(X, Y[:, k])
        np.testing.assert_allclose(both.predict(X)[:, k], one.predict(X), rtol=1e-9, atol=1e-12)
    assert both.dual_coef_.shape == Y.shape and both.intercept_.shape == (2,)
    assert one.dual_coef_.shape == y.shape and np.ndim(one.intercept_) == 0


@pytest.mark.parametrize("solver", ["cholesky", "cg", "nystroem"])
def test_solvers_agree(solver):
    X, y = _wine()
    reference = classifier(0.1, solver="eigh").fit(X, y)
    other = classifier(0.1, solver=solver, tol=1e-12, n_components=len(X)).fit(X, y)
    assert (reference.solver_, other.solver_) == ("eigh", solver)
    expected = reference.decision_function(X)
    np.testing.assert_allclose(other.decision_function(X), expected, rtol=1e-6, atol=1e-7)
    if solver == "cholesky":  # the others calibrate on held-out rows
        np.testing.assert_allclose(other.predict_proba(X), reference.predict_proba(X), rtol=1e-7)


def test_auto_says_which_solver_it_chose():
    X, y = _diabetes()
    assert ridge(0.1).fit(X, y).solver_ == "cholesky"
    assert ridge([0.1, 1.0]).fit(X, y).solver_ == "eigh"


def test_float32_is_close_to_float64():
    X, y = _diabetes()
    models = [ridge(0.1, dtype=d).fit(X, y) for d in ("float32", "float64")]
    predictions = [model.predict(X) for model in models]
    assert [p.dtype for p in predictions] == [np.float32, np.float64]
    np.testing.assert_allclose(*predictions, rtol=1e-3)


@pytest.mark.parametrize("estimator", [ridge(0.1), classifier(0.1)])
def test_kind_of_input_does_not_matter(estimator, tmp_path):
    pd = pytest.importorskip("pandas", reason="data frames are of pandas")
    pl = pytest.importorskip("polars", reason="or of polars")
    X = load_digits().data[:60]  # small integers, the same in every type
    y = load_digits().target[:60]
    reference = clone(estimator).fit(X, y).predict(X)
    np.save(tmp_path / "X.npy", X)
    names = [f"x{j}" for j in range(X.shape[1])]
    kinds = [
        X.astype(np.float32), X.astype(int), np.asfortranarray(X), X.tolist(),
        np.load(tmp_path / "X.npy", mmap_mode="r"), torch.from_numpy(X),
        pd.DataFrame(X, columns=names), pl.DataFrame(X, schema=names),
    ]  # fmt: skip
    for kind in kinds:
        prediction = clone(estimator).fit(kind, y).predict(kind)
        np.testing.assert_allclose(prediction, reference, rtol=1e-9)


def test_prediction_does_not_depend_on_the_batch():
    X, y = _wine()
    model = classifier(0.1).fit(X, y)
    whole = model.decision_function(X)
    model.set_params(predict_batch_size=7)
    np.testing.assert_allclose(model.decision_function(X), whole, rtol=1e-10, atol=1e-12)


def test_high_dimensional_kernel_is_close_to_the_exact_one_in_high_dimension():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 800)), rng.normal(size=100)
    test = rng.normal(size=(50, 800))
    exact, approximate = (
        ridge(0.1, method=method).fit(X, y).predict(test) for method in ("exact", "high_dim")
    )
    assert np.abs(exact - approximate).max() < 0.05 * np.abs(exact).max()


@pytest.mark.slow
def test_pickle_predicts_the_same():
    X, y = _breast_cancer()
    model = classifier(0.1, activation="gelu").fit(X, y)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_proba(X), model.predict_proba(X))


def test_model_fitted_on_a_gpu_predicts_without_one():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    X, y = _diabetes()
    model = ridge(0.1).fit(X, y)
    expected = model.predict(X)
    fitted = model._fitted_rows
    model._fitted_rows = FittedRows(replace(fitted.kernel, device="cuda:1"), fitted.X)
    model = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(model.predict(X), expected)


@pytest.mark.parametrize("labels", [["no", "yes"], ["a", "b", "c"]])
def test_classifier_with_strings(labels):
    rng = np.random.default_rng(0)
    code = rng.integers(0, len(labels), 90)
    X, y = rng.normal(size=(90, 4)) + 4 * np.eye(4)[code], np.array(labels)[code]
    model = classifier(0.1).fit(X, y)
    assert model.classes_.tolist() == labels and model.score(X, y) > 0.9
    decision, p = model.decision_function(X), model.predict_proba(X)
    assert decision.shape == ((90,) if len(labels) == 2 else (90, 3))
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_array_equal(model.classes_[p.argmax(1)], model.predict(X))


def test_a_single_class_is_predicted():
    X, _ = _diabetes()
    model = classifier(0.1).fit(X, ["only"] * len(X))
    assert set(model.predict(X)) == {"only"}
    np.testing.assert_array_equal(model.predict_proba(X), np.ones((len(X), 1)))


def test_probabilities_are_calibrated_by_the_best_temperature():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1200, 2))
    y = rng.random(1200) < 1 / (1 + np.exp(-2 * X[:, 0]))
    model = classifier(ALPHAS, bias_var=0.5).fit(X[:300], y[:300])
    p = model.predict_proba(X[300:])
    truth = 1 / (1 + np.exp(-2 * X[300:, 0]))
    assert log_loss(y[300:], p) < 1.05 * log_loss(y[300:], np.column_stack([1 - truth, truth]))
    decision = model.decision_function(X[300:])
    others = [
        log_loss(y[300:], 1 / (1 + np.exp(-factor * model.temperature_ * decision)))
        for factor in (0.5, 2)
    ]
    assert log_loss(y[300:], p) < min(others)


@pytest.mark.parametrize("solver", ["eigh", "cholesky", "cg", "nystroem"])
@pytest.mark.parametrize("repeated", [False, True])
def test_the_only_row_of_a_class_does_not_blur_probabilities(solver, repeated):
    X = np.random.default_rng(0).normal(size=(301, 2))
    X[-1] = 5.0
    y = np.repeat(["no", "yes"], [300, 1])
    if repeated:
        X, y = np.vstack([X, X[-1:]]), np.append(y, "yes")
    for seed in (0, 45):  # with 45 it is held out
        model = classifier(0.1, solver=solver, class_weight="balanced", random_state=seed)
        p = model.fit(X, y).predict_proba(X)
        assert min(p[-1, 1], p[:300, 0].mean()) > 0.8


def test_classes_of_one_row_each_give_equal_probabilities():
    p = classifier(0.1).fit(np.eye(3), [0, 1, 2]).predict_proba(np.eye(3))
    np.testing.assert_allclose(p, 1 / 3, rtol=0.01)


@pytest.mark.slow
def test_digits_and_diabetes_reach_the_scores_promised():
    X, y = load_digits(return_X_y=True)
    model = make_pipeline(StandardScaler(), classifier(np.logspace(-4, 0, 9), dtype="float32"))
    cv = StratifiedKFold(5, shuffle=True, random_state=0)
    assert cross_val_score(model, X, y, cv=cv).mean() >= 0.985
    X, y = load_diabetes(return_X_y=True)
    grid = GridSearchCV(
        make_pipeline(StandardScaler(), ridge(np.logspace(-2, 3, 11))),
        {"deqkernelridge__bias_var": [0.0, 0.1, 1.0]},
        cv=KFold(5, shuffle=True, random_state=0),
    )
    assert grid.fit(X, y).best_score_ >= 0.45


def test_adaboost_uses_the_weights():
    X, y = _wine()
    booster = AdaBoostClassifier(classifier(ALPHAS), n_estimators=3, random_state=0)
    assert booster.fit(X, y).score(X, y) > 0.95


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"alpha": -1.0}, ValueError, "alpha"),
        ({"alpha": []}, ValueError, "alpha must be"),
        ({"alpha": [0.1, np.nan]}, ValueError, "alpha must be"),
        ({"alpha": [[0.1]]}, ValueError, "alpha must be"),
        ({"alpha": [0.1, 1.0], "solver": "cholesky"}, ValueError, "single alpha"),
        ({"solver": "svd"}, ValueError, "solver"),
        ({"kernel": "rbf"}, ValueError, "kernel"),
        ({"activation": "rellu"}, ValueError, "activation='rellu' is unknown"),
        ({"recurrent_var": 3.0, "input_var": 1.0}, ValueError, "use recurrent_var < 2"),
        ({"method": "high_dim", "bias_var": 1.0}, ValueError, "bias_var=0"),
        ({"method": "high_dim", "kernel": "ntk_full"}, ValueError, "kernel='ck' or 'ntk'"),
        ({"dtype": "float16"}, ValueError, "dtype"),
        ({"device": "tpu9"}, ValueError, "device"),
        ({"predict_batch_size": 0}, ValueError, "predict_batch_size"),
    ],
)
@pytest.mark.parametrize("estimator", [ridge(), classifier()])
def test_errors_name_the_parameter(estimator, parameters, error, message):
    X, y = _wine()
    with pytest.raises(error, match=message):
        clone(estimator).set_params(**parameters).fit(X, y)


def test_weights_that_are_all_zero_are_refused():
    X, y = _diabetes()
    with pytest.raises(ValueError, match="zero"):
        ridge().fit(X, y, np.zeros(len(y)))


def test_memory_is_asked_for_first(monkeypatch):
    monkeypatch.setattr("sk_deq._memory.total_memory", lambda device: 1000)
    X, y = _diabetes()
    with pytest.raises(MemoryError, match=r"60 rows .*nystroem"):
        ridge(solver="cholesky").fit(X, y)


@pytest.mark.slow
@parametrize_with_checks(
    [
        DEQKernelRidge([0.1, 1.0]),
        DEQKernelRidgeClassifier([0.1, 1.0], class_weight="balanced"),
    ]
)
def test_scikit_learn_checks_with_given_penalties(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", [DEQKernelRidge(), DEQKernelRidgeClassifier()])
def test_scikit_learn_parameter_validation(estimator):
    check_param_validation(type(estimator).__name__, estimator)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["eigh", "cholesky", "cg", "nystroem", "auto"])
@pytest.mark.parametrize("alpha", [0.1, "auto"])
def test_rows_that_cannot_be_left_out(solver, alpha):
    X = np.ones((4, 2))
    y, w = np.array([0, 1, 1, 2]), np.array([1.0, 1.0, 1.0, 2.0])
    model = DEQKernelRidgeClassifier(alpha, solver=solver).fit(X, y, w)
    p = model.predict_proba([[1.0, 1.0], [2.0, 0.0]])
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_allclose(p, [[0.2, 0.4, 0.4]] * 2, atol=0.12)  # the shares, smoothed
    two = DEQKernelRidgeClassifier(alpha, solver=solver).fit([[1.0]] * 3, [0, 1, 1])
    # Platt's targets for rows of counts c: (c + 1) / (c + 2) or 1 / (c + 2); the total weight is
    # that of the rows or, with alpha="auto", 1 for each distinct one
    c0, c1 = (1 / 3, 2 / 3) if isinstance(alpha, str) else (1, 2)
    p0 = (c0 + 1) / (c0 + 2) / 3 + 2 / (c1 + 2) / 3
    np.testing.assert_allclose(two.predict_proba([[5.0]])[0], [p0, 1 - p0], atol=1e-9)
    regressor = DEQKernelRidge(alpha, solver=solver).fit(X, y, w)
    np.testing.assert_allclose(regressor.predict([[1.0, 1.0], [3.0, 0.0]]), w @ y / w.sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "alpha"),
    [
        *product(["eigh", "cholesky", "cg", "nystroem", "auto"], [0.1, "auto"]),
        *product(["eigh", "nystroem", "auto"], [[0.1, 1.0]]),
    ],
)
@pytest.mark.parametrize("heavy", [0, 3])
def test_a_row_with_all_the_weight_cannot_be_left_out(solver, alpha, heavy):
    X, y = np.arange(1.0, 7)[:, None], np.array([1, 0, 1, 0, 1, 0])
    w = np.full(6, 1e-30)
    w[heavy] = 1.0  # the others have no weight beside it, so that it alone is fitted
    regressor = DEQKernelRidge(alpha, solver=solver, random_state=0).fit(X, y, w)
    np.testing.assert_allclose(regressor.predict(X), y[heavy], atol=1e-9)
    model = DEQKernelRidgeClassifier(alpha, solver=solver, random_state=0).fit(X, y, w)
    p = model.predict_proba(X)
    if solver in ("cg", "nystroem"):  # of the rows, one is held out: it has no weight, or all
        assert np.abs(p - 0.5).max() < 1 / 6 + 1e-6
        return
    # Platt's target for the row that counts, as six with alpha="auto"; it is predicted from itself
    expected = 7 / 8 if isinstance(alpha, str) else 2 / 3
    np.testing.assert_allclose(p[:, y[heavy]], expected, atol=1e-6)
    if model.solver_ == "eigh" and alpha != 0.1:
        # the five others are predicted to be as the heavy one: three are not
        np.testing.assert_allclose(model.validation_errors_, 4 * 3 / 5)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_few_rows_give_finite_probabilities(n):
    X = np.arange(n, dtype=float)[:, None]
    model = DEQKernelRidgeClassifier().fit(np.vstack([X, X]), [0] * n + [1] * n)
    np.testing.assert_allclose(model.predict_proba(X), 0.5, atol=1e-6)
    assert np.isfinite(DEQKernelRidge().fit(X, X[:, 0]).predict(X)).all()


def test_with_four_numbers_predictions_for_the_training_rows_are_the_fitted_values():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 200)), rng.normal(size=60)
    model = DEQKernelRidge(0.1, method="high_dim").fit(X, y)
    # the residual of kernel ridge regression is alpha c, see the normal equations
    spread = y.std()
    residual = model.alpha_ * model.dual_coef_ / spread
    np.testing.assert_allclose((y - model.predict(X)) / spread, residual, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(model.predict(X[:3]), model.predict(X)[:3], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"recurrent_var": 30.0}, ValueError, "recurrent_var=30 leaves"),
        ({"alpha": -1.0}, ValueError, "'alpha' parameter"),
        ({"solver": "cholesky", "alpha": [1.0, 2.0]}, ValueError, "takes a single alpha"),
        ({"solver": "eigh"}, MemoryError, "60 rows needs"),
    ],
)
@pytest.mark.parametrize("estimator", [DEQKernelRidge, DEQKernelRidgeClassifier])
def test_a_refit_that_raises_changes_nothing(estimator, changes, error, message, monkeypatch):
    X, y = _diabetes()
    y = y if estimator is DEQKernelRidge else y > y.mean()
    model = estimator([0.1, 1.0], random_state=0).fit(X, y)
    expected, before = model.predict(X), {k: v for k, v in vars(model).items() if k[-1] == "_"}
    monkeypatch.setattr("sk_deq._memory.total_memory", lambda device: 1000)
    model.set_params(**changes)
    with pytest.raises(error, match=message):
        model.fit(50 * X, y)
    np.testing.assert_array_equal(model.predict(X), expected)
    after = {k: v for k, v in vars(model).items() if k[-1] == "_"}
    assert after.keys() == before.keys() and all(after[k] is before[k] for k in before)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["eigh", "cg", "nystroem", "auto"])
def test_rows_are_hashed_once(solver, monkeypatch):
    hashed = []
    monkeypatch.setattr(
        rows, "row_keys", lambda X, generator: hashed.append(len(X)) or row_keys(X, generator)
    )
    X, y = _diabetes()
    DEQKernelRidge(solver=solver, n_components=50).fit(X, y)
    assert hashed == [len(X)]


def test_fitted_rows_are_scaled_once(monkeypatch):
    X, y = _diabetes()
    X = np.hstack([X] * 4)  # beside which the rest of a fit is small
    model = DEQKernelRidge(0.1, hyperparameters=None).fit(X, y)
    scaled = []
    transform = InputScaler.transform
    monkeypatch.setattr(
        InputScaler, "transform", lambda self, Z: scaled.append(len(Z)) or transform(self, Z)
    )
    expected = model.predict(X[:3])
    model.predict(X[:3])
    assert scaled == [3, 3]
    again = pickle.loads(pickle.dumps(model))
    assert len(pickle.dumps(model)) < len(pickle.dumps(X)) * 1.5  # the rows are in it once
    np.testing.assert_array_equal(again.predict(X[:3]), expected)


def test_the_choice_of_a_solver_says_why(monkeypatch):
    def choose(n, **changes):
        config = replace(CONFIG, **changes)
        return choose_solver(config, lambda: n)

    assert choose(100) == ("cholesky", "exact, and 100 distinct rows are few enough")
    assert choose(100, search=False).solver == choose(100, alphas=[1.0, 2.0]).solver == "eigh"
    assert choose(9_000, search=False).solver == "cholesky"
    assert choose(100, solver="cg", alphas=[1.0]) == ("cg", "given")
    assert choose(9_000).solver == "cholesky" and choose(9_000, alphas=[1.0, 2.0]).solver != "eigh"
    monkeypatch.setattr(fit, "total_memory", lambda device: 32 * 2**30)
    assert choose(40_000) == ("cg", "40000 distinct rows, of which the kernel can be kept")
    assert choose(40_000, alphas=[1.0]).solver == "cg"
    assert choose(40_000, alphas=[1.0] * 20).solver == "nystroem"
    config = replace(CONFIG)
    assert [choose_solver(config, lambda: 20_000, k).solver for k in (1, 10, 20)] == [
        "cg", "cg", "nystroem",
    ]  # fmt: skip
    assert choose(10**6) == ("nystroem", "1000000 distinct rows are too many for 'cholesky'")
    assert choose(10**6, method="high_dim") == ("eigh", "method='high_dim'")
    # four matrices of 8 bytes a number, or three, in half of the memory
    for n_matrices, solver in [(4, "eigh"), (3, "cholesky")]:
        monkeypatch.setattr(fit, "total_memory", lambda device, n=n_matrices: 2 * n * 8 * 100**2)
        found = [choose(m, search=solver != "eigh").solver for m in (100, 101)]
        assert (found[0], found[1] != solver) == (solver, True)
    with pytest.raises(ValueError, match="takes a single alpha"):
        choose(10, solver="cholesky", alphas=[1.0, 2.0])


CONFIG = RidgeConfig(
    classify=False, given={}, alphas=None, listed=False, search=True, weigh_features=True,
    encodings=("plain",), method="exact", solver="auto", n_components=None, tol=1e-6, max_iter=10,
    device="cpu", dtype=torch.float64, seed=0,
)  # fmt: skip


def test_rows_of_weight_zero_do_not_make_a_constant_target_vary():
    X, y = _diabetes()
    y, w = np.full(len(y), 3.0), np.ones(len(y))
    y[0], w[0] = 7.0, 0.0
    np.testing.assert_allclose(ridge(0.1).fit(X, y, w).predict(X), 3.0)
