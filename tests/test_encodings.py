"""Encodings of columns against their formulas, and weights that columns share."""

import numpy as np
import pytest
import torch
from scipy.stats import norm, rankdata
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sk_deq import DEQKernelRidge, DEQKernelRidgeClassifier
from sk_deq._search.encodings import MAX_NUMBERS, fit_encodings, plain_encoding
from sk_deq.pipelines import make_tabular_pipeline


def _skewed(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.exponential(size=n), rng.integers(0, 2, n), rng.normal(size=n)])


def _fit(X, kind, w=None):
    X = torch.tensor(X)
    w = torch.ones(len(X), dtype=torch.float64) if w is None else torch.tensor(w)
    return fit_encodings(X, w, [kind])[0]


def test_normal_scores_are_those_of_the_ranks_in_the_units_of_the_column():
    X = _skewed()
    encoded = _fit(X, "quantile").transform(torch.tensor(X)).numpy()
    np.testing.assert_array_equal(encoded[:, :3], X)
    assert encoded.shape == (200, 5)  # the indicator has no ranks to speak of
    for j, source in [(3, 0), (4, 2)]:
        scores = norm.ppf((rankdata(X[:, source]) - 0.5) / len(X))
        expected = (scores - scores.mean()) / scores.std() * X[:, source].std()
        np.testing.assert_allclose(encoded[:, j], expected, rtol=1e-9, atol=1e-12)


def test_bins_are_piecewise_linear_between_quantiles():
    X = _skewed()
    encoding = _fit(X, "bins")
    encoded = encoding.transform(torch.tensor(X)).numpy()
    assert encoded.shape == (200, 35)
    edges = encoding.scores[0][1].numpy()
    assert edges[0] == X[:, 0].min() and edges[-1] == X[:, 0].max()
    assert set(np.histogram(X[:, 0], edges)[0]) <= {11, 12, 13, 14}  # of 200 rows in 16 bins
    for k in range(16):
        plain = np.clip((X[:, 0] - edges[k]) / (edges[k + 1] - edges[k]), 0, 1)
        expected = (plain - plain.mean()) * X[:, 0].std()
        np.testing.assert_allclose(encoded[:, 3 + k], expected, atol=1e-12)


def test_both_are_one_after_the_other():
    X = _skewed()
    rows = torch.tensor(X)
    scores, bins, both = (_fit(X, kind).transform(rows) for kind in ("quantile", "bins", "both"))
    torch.testing.assert_close(both, torch.cat([scores, bins[:, 3:]], 1), rtol=0, atol=0)
    blocks = _fit(
        X, "both"
    ).blocks  # a weight for each column, each score, and all bins of a column
    assert len(torch.unique(blocks)) == 3 + 2 + 2


@pytest.mark.parametrize(
    ("n", "p", "kinds"),
    [
        (699, 3, ["quantile", "bins", "plain"]),
        (700, 3, ["both", "plain"]),
        (999, 20, ["quantile", "bins", "plain"]),
        (1000, 20, ["both", "plain"]),
    ],
)
def test_many_rows_tell_both_apart(n, p, kinds):
    X = torch.randn(n, p, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert [encoding.kind for encoding in fit_encodings(X, torch.ones(n).double())] == kinds


@pytest.mark.parametrize("kind", ["quantile", "bins"])
def test_outside_the_training_rows_what_is_added_stays_where_it_is(kind):
    X = _skewed()
    encoding = _fit(X, kind)
    far = torch.tensor([[1e6, 0.0, -1e6]], dtype=torch.float64)
    ends = torch.tensor([[X[:, 0].max(), 0.0, X[:, 2].min()]], dtype=torch.float64)
    added = encoding.transform(far)[:, 3:]
    np.testing.assert_allclose(added, encoding.transform(ends)[:, 3:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["quantile", "bins"])
def test_a_weight_of_two_is_a_row_twice(kind):
    X = _skewed(60)
    w = np.random.default_rng(1).integers(1, 4, 60).astype(float)
    weighted, repeated = _fit(X, kind, w), _fit(X.repeat(w.astype(int), 0), kind)
    np.testing.assert_allclose(
        weighted.transform(torch.tensor(X)), repeated.transform(torch.tensor(X)), atol=1e-9
    )


def test_one_hot_columns_share_a_weight_and_so_do_rare_ones():
    rng = np.random.default_rng(0)
    code = OneHotEncoder(sparse_output=False).fit_transform(rng.integers(0, 4, (100, 1)))
    rare = np.zeros((100, 2))
    rare[3, 0] = rare[[5, 7], 1] = 1
    X = np.column_stack([rng.normal(size=100), code, rare, rng.integers(0, 2, 100)])
    blocks = plain_encoding(torch.tensor(X)).blocks.tolist()
    assert len(set(blocks[1:5])) == 1 and blocks[5] == blocks[6]
    assert len({blocks[0], blocks[1], blocks[5], blocks[7]}) == 4
    encoding = _fit(X, "bins")  # the bins of a column share one too, which is not the column's
    assert len(set(encoding.blocks[8:].tolist())) == 1
    assert encoding.blocks[8] not in encoding.blocks[:8]


def test_an_identifier_does_not_ruin_a_table():
    frame = load_diabetes(as_frame=True).frame
    y = frame.pop("target")
    train, test = train_test_split(np.arange(len(y)), random_state=0)
    scores = []
    for one_hot in (False, True):
        X = StandardScaler().fit(frame.iloc[train]).transform(frame)
        if one_hot:  # every training row has a column of its own
            X = np.column_stack([X, np.eye(len(y))[:, train]])
        model = DEQKernelRidge(random_state=0).fit(X[train], y.iloc[train])
        scores.append(model.score(X[test], y.iloc[test]))
    assert scores[1] > scores[0] - 0.05


@pytest.mark.slow
def test_the_encoding_is_chosen_and_can_be_given():
    rng = np.random.default_rng(0)
    X = np.exp(2 * rng.normal(size=(300, 3)))
    y = np.log(X[:, 0]) * np.log(X[:, 1])
    scores = {}
    for encoding in ("auto", "quantile", "bins", None):
        model = DEQKernelRidge(encoding=encoding, random_state=0).fit(X[:200], y[:200])
        scores[encoding] = model.score(X[200:], y[200:])
        assert model.encoding_ == ("quantile" if encoding == "auto" else encoding)
    assert scores["auto"] == scores["quantile"] > scores[None]
    compared = DEQKernelRidge(random_state=0).fit(X, y).search_results_["encoding"]
    assert set(compared) == {"quantile", "bins", "plain"}
    with pytest.raises(ValueError, match="encoding"):
        DEQKernelRidge(encoding="splines").fit(X, y)


def test_many_numbers_and_rows_as_they_are_get_no_encoding():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, MAX_NUMBERS + 1))
    assert DEQKernelRidge().fit(X, X[:, 0]).encoding_ is None
    assert DEQKernelRidge(input_scaling=None).fit(X[:, :3], X[:, 0]).encoding_ is None
    assert DEQKernelRidge(hyperparameters=None).fit(X[:, :3], X[:, 0]).encoding_ is None


@pytest.mark.slow
def test_the_total_weight_does_not_matter():
    X, y = load_diabetes(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    reference = DEQKernelRidge(random_state=0).fit(X[:150], y[:150])
    labels = (y > 150).astype(int)
    classifier = DEQKernelRidgeClassifier(random_state=0).fit(X[:150], labels[:150])
    for size in (1e-6, 1 / 150, 1e3):
        w = np.full(150, size)
        model = DEQKernelRidge(random_state=0).fit(X[:150], y[:150], w)
        np.testing.assert_allclose(model.predict(X), reference.predict(X), rtol=1e-5)
        np.testing.assert_allclose(model.alpha_, size * reference.alpha_, rtol=1e-6)
        p = DEQKernelRidgeClassifier(random_state=0).fit(X[:150], labels[:150], w).predict_proba(X)
        np.testing.assert_allclose(p, classifier.predict_proba(X), rtol=1e-4)


@pytest.mark.slow
def test_more_rows_decide_between_smooth_and_rough():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(1100, 4))  # a value for each neighbourhood: only rough kernels do
    values = rng.normal(size=1100)
    which = np.concatenate([np.arange(1100), rng.integers(0, 1100, 1400)])
    X = centres[which] + 1e-3 * rng.normal(size=(2500, 4))
    model = DEQKernelRidge(random_state=0).fit(X[:2000], values[which[:2000]])
    assert (model.kernel_, model.input_scaling_) == ("ntk", "sphere")
    assert model.score(X[2000:], values[which[2000:]]) > 0.5


def test_encoded_columns_in_a_pipeline_of_frames():
    frame = load_diabetes(as_frame=True).frame
    y = frame.pop("target")
    frame["sex"] = np.where(frame["sex"] > 0, "m", "f")
    model = make_tabular_pipeline(DEQKernelRidge(random_state=0)).fit(frame, y)
    n_columns = len(model[:-1].get_feature_names_out())
    assert model[-1].feature_weights_.shape == (n_columns,)
    assert model.score(frame, y) > 0.4
