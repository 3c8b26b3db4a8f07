import numpy as np
import pytest

from sk_deq.datasets import make_gaussian_mixture


def test_means_and_covariances_are_those_of_the_paper():
    n, p, K = 60_000, 16, 3
    X, y = make_gaussian_mixture(
        n, p, n_classes=K, mean_shift=6.0, covariance_scale=2.0, random_state=0
    )
    assert X.shape == (n, p) and y.shape == (n,)
    assert np.bincount(y).tolist() == [n // K] * K
    for a in range(K):
        variance = (1 + a * 2.0 / np.sqrt(p)) / p
        noise = np.sqrt(variance / (n / K))
        expected = np.zeros(p)
        expected[a] = 6.0 / np.sqrt(p)
        assert np.abs(X[y == a].mean(axis=0) - expected).max() < 5 * noise
        covariance = np.cov(X[y == a].T)
        assert np.abs(covariance - variance * np.eye(p)).max() < 6 * variance / np.sqrt(n / K)


def test_defaults_are_the_papers():
    X, y = make_gaussian_mixture(20_000, 4, random_state=1)
    assert set(y) == {0, 1}
    assert X[y == 0].mean(axis=0) == pytest.approx([4, 0, 0, 0], abs=0.03)
    assert X[y == 1].var() * 4 == pytest.approx(5 + (16 * 3 / 16) * 4, rel=0.05)
    assert X[y == 0][:, 1:].var() * 4 == pytest.approx(1, rel=0.05)


def test_classes_are_shuffled_and_as_even_as_possible():
    _, y = make_gaussian_mixture(101, 5, n_classes=3, random_state=0)
    assert sorted(np.bincount(y)) == [33, 34, 34]
    assert (np.diff(y) != 0).sum() > 40  # neither sorted nor in turns
    assert (np.diff(y) % 3 == 1).mean() < 0.6


def test_same_seed_same_data(unchanged_globals):
    first, second, other = (make_gaussian_mixture(20, 4, random_state=s) for s in (3, 3, 4))
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0])
    state = np.random.RandomState(3)
    assert np.array_equal(make_gaussian_mixture(20, 4, random_state=state)[0], first[0])


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ((0, 5), {}, "n_samples must be a positive integer"),
        ((5, 2.5), {}, "n_features must be a positive integer"),
        ((5, 5), {"n_classes": True}, "n_classes must be a positive integer"),
        ((5, 2), {"n_classes": 3}, "n_features=2 must be at least n_classes=3"),
        ((5, 5), {"covariance_scale": -1}, "covariance_scale must be >= 0"),
        ((5, 5), {"covariance_scale": float("nan")}, "covariance_scale must be >= 0"),
        ((5, 5), {"mean_shift": float("nan")}, "mean_shift must be finite"),
        ((5, 5), {"covariance_scale": float("inf")}, "covariance_scale must be >= 0"),
    ],
)
def test_errors_name_the_parameter(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        make_gaussian_mixture(*sizes, **options)
