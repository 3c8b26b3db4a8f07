"""KernelMatcher on dask collections."""

import numpy as np
from sklearn.utils.validation import check_array

from .._array_api import prototype
from .._base import all_or_nothing
from .._kernel_matcher import KernelMatcher as LocalKernelMatcher
from .._scaling import row_norms
from .lazy import Lazy, as_array, documented_like


@documented_like(LocalKernelMatcher)
class KernelMatcher(Lazy, LocalKernelMatcher):
    """Features of a network whose kernel is that of a DEQ, on dask arrays and data frames.

    As `sk_deq.KernelMatcher`, parameters and attributes included, and with the same result.

    Examples
    --------
    >>> import dask.array as da
    >>> from sk_deq.dask import KernelMatcher
    >>> X = da.random.default_rng(0).normal(size=(1000, 3), chunks=(250, 3))
    >>> KernelMatcher(16, center=False).fit(X).transform(X)
    dask.array<..., shape=(1000, 16), dtype=float64, chunksize=(250, 16), ...>
    """

    @all_or_nothing
    def fit(self, X, y=None):
        """Solve the matching for the scale of X and draw the weights.

        Parameters
        ----------
        X : dask array or data frame of shape (n_samples, n_features)
            Training rows; only their norms matter, which are brought here.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        self : KernelMatcher
        """
        self._validate_params()
        X = as_array(X)
        norms = X.map_blocks(_norms, drop_axis=1, dtype=X.dtype, meta=np.empty(0, X.dtype))
        norms = norms.compute()
        self.n_features_in_ = X.shape[1]
        self._fit_rows(norms[:, None], X.shape[1], X.dtype, prototype(norms[:, None]))
        return self

    def transform(self, X):
        """Compute the features.

        Parameters
        ----------
        X : dask array or data frame, or array-like, of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        Z : array of shape (n_samples, n_components)
            A dask array, not yet computed, where X is a dask collection.
        """
        return self._lazily("transform", X)


def _norms(X):
    return row_norms(check_array(X, dtype=[np.float64, np.float32], ensure_min_samples=0))
