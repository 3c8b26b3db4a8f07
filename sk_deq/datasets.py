"""The Gaussian mixture of the paper."""

from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["make_gaussian_mixture"]


def make_gaussian_mixture(
    n_samples: int, n_features: int, *, n_classes: int = 2, mean_shift: float = 8.0,
    covariance_scale: float = 8.0, random_state: int | np.random.RandomState | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    r"""Draw the high-dimensional Gaussian mixture of Ling et al. (2024).

    Class a has mean mean_shift e_a / sqrt(n_features), e_a the a-th unit vector, and covariance
    (1 + a covariance_scale / sqrt(n_features)) I / n_features: rows have norm about 1, and classes
    differ so little that telling them apart stays hard as n_features grows.

    Parameters
    ----------
    n_samples : int
        Number of rows, divided as evenly as possible among the classes.
    n_features : int
        Dimension p, at least n_classes.
    n_classes : int, default=2
        Number of classes K.
    mean_shift : float, default=8.0
        Distance of every mean from the origin, times sqrt(n_features).
    covariance_scale : float, default=8.0
        Relative growth of the variance from class to class, times sqrt(n_features).
    random_state : int, RandomState instance or None, default=None
        Source of randomness.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        The rows, shuffled.
    y : ndarray of shape (n_samples,)
        Classes 0 to n_classes - 1.

    Raises
    ------
    ValueError
        If a size is not a positive integer or n_features < n_classes, covariance_scale < 0, or a
        number is not finite.

    References
    ----------
    Ling et al., ICML 2024, arXiv 2402.02697, Section 5.

    Examples
    --------
    >>> from sk_deq.datasets import make_gaussian_mixture
    >>> X, y = make_gaussian_mixture(100, 400, random_state=0)
    >>> X.shape, y.mean().item(), round(float((X**2).sum(axis=1).mean()), 1)
    ((100, 400), 0.5, 1.4)
    """
    sizes = {"n_samples": n_samples, "n_features": n_features, "n_classes": n_classes}
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    if n_features < n_classes:
        raise ValueError(
            f"n_features={n_features} must be at least n_classes={n_classes}: every class has its "
            "own axis."
        )
    if not 0 <= covariance_scale < np.inf:
        raise ValueError(f"covariance_scale must be >= 0 and finite, got {covariance_scale!r}.")
    if not np.isfinite(mean_shift):
        raise ValueError(f"mean_shift must be finite, got {mean_shift!r}.")
    rng = check_random_state(random_state)
    y = rng.permutation(np.arange(n_samples) % n_classes)
    variance = (1 + y * covariance_scale / np.sqrt(n_features)) / n_features
    X = np.sqrt(variance)[:, None] * rng.standard_normal((n_samples, n_features))
    X[np.arange(n_samples), y] += mean_shift / np.sqrt(n_features)
    return X, y
