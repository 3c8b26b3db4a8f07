"""SpectrumDisplay."""

from itertools import cycle
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array

from ._display import COLORS, LINES, Display
from ._features import kernels_of


class SpectrumDisplay(Display):
    """Eigenvalues of kernel matrices, side by side.

    Parameters
    ----------
    eigenvalues : dict of {str: ndarray of shape (n_samples,)}
        Eigenvalues of each kernel, in descending order.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        One per kernel; for ``kind="rank"``.

    See Also
    --------
    SpectrumDisplay.from_kernels : Compare kernel matrices.
    SpectrumDisplay.from_estimator : Compare features with the exact kernel of their DEQ.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import scale
    >>> from sk_deq import KernelMatcher
    >>> from sk_deq.inspection import SpectrumDisplay
    >>> X = scale(load_wine().data)
    >>> matcher = KernelMatcher(2000, random_state=0).fit(X)
    >>> display = SpectrumDisplay.from_estimator(matcher, X)
    >>> largest = [values[0] for values in display.eigenvalues.values()]
    >>> bool(abs(largest[0] / largest[1] - 1) < 0.1)
    True
    """

    def __init__(self, *, eigenvalues: dict[str, np.ndarray]):
        self.eigenvalues = eigenvalues

    @classmethod
    def from_kernels(
        cls, kernels: dict[str, Any], *, ax: Any = None, kind: str = "rank", **kwargs: Any
    ) -> Self:
        """Compare kernel matrices.

        Parameters
        ----------
        kernels : dict of {str: array-like of shape (n_samples, n_samples)}
            Symmetric matrices, by the name that the legend gives them.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        kind : {"rank", "histogram"}, default="rank"
            As in :meth:`plot`.
        **kwargs
            As in :meth:`plot`.

        Returns
        -------
        display : SpectrumDisplay

        Raises
        ------
        ValueError
            If a matrix is not square and symmetric.
        """
        eigenvalues = {}
        for name, K in kernels.items():
            K = check_array(K, dtype=np.float64, input_name=name)
            if K.shape[0] != K.shape[1] or not np.allclose(K, K.T, atol=1e-6 * abs(K).max()):
                raise ValueError(f"kernels[{name!r}] must be a symmetric matrix, got {K.shape}.")
            eigenvalues[name] = np.linalg.eigvalsh(K)[::-1]
        return cls(eigenvalues=eigenvalues).plot(ax=ax, kind=kind, **kwargs)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: ArrayLike, *, ax: Any = None, kind: str = "rank", **kwargs: Any
    ) -> Self:
        """Compare the features of a network with the exact kernel of the DEQ they stand for.

        Parameters
        ----------
        estimator : KernelMatcher, DEQ or EquivalentExplicit estimator, or Pipeline with one
            Fitted.
        X : array-like of shape (n_samples, n_features)
            Rows to compare the kernels on.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        kind : {"rank", "histogram"}, default="rank"
            As in :meth:`plot`.
        **kwargs
            As in :meth:`plot`.

        Returns
        -------
        display : SpectrumDisplay

        Raises
        ------
        TypeError
            If the estimator has no features.
        ValueError
            If it was matched to the NTK of training every layer, which features do not have.
        """
        exact, features = kernels_of(estimator, X)
        kernels = {"infinitely wide DEQ": exact, "features": features}
        return cls.from_kernels(kernels, ax=ax, kind=kind, **kwargs)

    def plot(self, ax: Any = None, *, kind: str = "rank", **kwargs: Any) -> Self:
        """Draw the eigenvalues.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        kind : {"rank", "histogram"}, default="rank"
            Eigenvalue against rank, both logarithmic; or a histogram of the logarithms, which
            leaves out eigenvalues that are 0 to rounding.
        **kwargs
            For ``Axes.plot`` or ``Axes.stairs``.

        Returns
        -------
        display : SpectrumDisplay
        """
        if kind not in ("rank", "histogram"):
            raise ValueError(f"kind={kind!r} is unknown; use 'rank' or 'histogram'.")
        ax = self._axes(ax)
        # below this an eigenvalue is rounding
        floor = 1e-13 * max(values[0] for values in self.eigenvalues.values())
        kept = {name: values[values > floor] for name, values in self.eigenvalues.items()}
        if kind == "rank":
            ranks = {name: (np.arange(1, len(v) + 1), v) for name, v in kept.items()}
            self._lines(ranks, kwargs)
            ax.set(xscale="log", yscale="log", xlabel="rank", ylabel="eigenvalue")
        else:
            every = np.concatenate(list(kept.values()))
            bins = np.geomspace(every.min() / 1.01, every.max() * 1.01, 41)
            for (name, values), color, line in zip(
                kept.items(), cycle(COLORS), cycle(LINES), strict=False
            ):
                style = {"color": color, "linestyle": line, "linewidth": 1.5, "label": name}
                ax.stairs(np.histogram(values, bins)[0], bins, **{**style, **kwargs})
            ax.set(xscale="log", xlabel="eigenvalue", ylabel="number")
            ax.legend()
        return self
