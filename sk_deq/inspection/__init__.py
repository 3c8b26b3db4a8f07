r"""Plots of what the theory says and of how well it holds, as scikit-learn displays.

Every display is made by a ``from_...`` class method that computes what it shows, keeps it in
attributes, and draws it with ``plot``, again if you like. matplotlib is needed for drawing only:
``pip install 'sk-deq[plot]'``.
"""

import time
from copy import deepcopy
from itertools import cycle

import numpy as np
import torch
from sklearn.metrics import r2_score
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from .._kernel_matcher import KernelMatcher
from .._nets.base import BaseNetwork
from .._nets.evaluation import forward_in_passes
from .._nets.fixed_point import SOLVERS
from .._nets.modules import DEQ
from .._theory.activations import get_activation
from .._theory.layers import resolve_layers
from .._torch import to_tensor
from ..kernels import deq_kernel
from ..theory import deq_scale

__all__ = ["ActivationDisplay", "ConvergenceDisplay", "EquivalenceDisplay", "SpectrumDisplay"]

_COLORS = ("black", "C0", "C1", "C2", "C3", "C4", "C5")
_LINES = ("-", "--", "-.", ":")


class _Display:
    """What the displays share: the axes they draw on."""

    def _new_axes(self, n_rows=1, **kwargs):
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                f"{type(self).__name__}.plot needs matplotlib: pip install 'sk-deq[plot]'."
            ) from error
        return plt.subplots(n_rows, layout="constrained", **kwargs)[1]

    def _axes(self, ax):
        self.ax_ = self._new_axes() if ax is None else ax
        self.figure_ = self.ax_.figure
        return self.ax_

    def _lines(self, curves, kwargs):
        """Draw {name: (x, y)} with a legend; set ``lines_``."""
        self.lines_ = []
        for (name, (x, y)), color, line in zip(
            curves.items(), cycle(_COLORS), cycle(_LINES), strict=False
        ):
            style = {"color": color, "linestyle": line, "label": name, **kwargs}
            self.lines_ += self.ax_.plot(x, y, **style)
        self.ax_.legend()


class SpectrumDisplay(_Display):
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

    def __init__(self, *, eigenvalues):
        self.eigenvalues = eigenvalues

    @classmethod
    def from_kernels(cls, kernels, *, ax=None, kind="rank", **kwargs):
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
    def from_estimator(cls, estimator, X, *, ax=None, kind="rank", **kwargs):
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
        exact, features = _kernels(estimator, X)
        kernels = {"infinitely wide DEQ": exact, "features": features}
        return cls.from_kernels(kernels, ax=ax, kind=kind, **kwargs)

    def plot(self, ax=None, *, kind="rank", **kwargs):
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
                kept.items(), cycle(_COLORS), cycle(_LINES), strict=False
            ):
                style = {"color": color, "linestyle": line, "linewidth": 1.5, "label": name}
                ax.stairs(np.histogram(values, bins)[0], bins, **{**style, **kwargs})
            ax.set(xscale="log", xlabel="eigenvalue", ylabel="number")
            ax.legend()
        return self


class ActivationDisplay(_Display):
    r"""A DEQ's activation, and those of the explicit network matched to it.

    All are drawn against the pre-activation in units of its own standard deviation, so that the
    horizontal axis is a standard normal variable for each.

    Parameters
    ----------
    t : ndarray of shape (n_points,)
        Pre-activations, in standard deviations.
    activations : dict of {str: ndarray of shape (n_points,)}
        Values of each activation, centred.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D
        One per activation.

    See Also
    --------
    ActivationDisplay.from_layers : Compare a DEQ's activation with given layers.
    ActivationDisplay.from_estimator : Compare those of a fitted estimator.

    Examples
    --------
    >>> from sk_deq.inspection import ActivationDisplay
    >>> from sk_deq.theory import match_explicit
    >>> match = match_explicit("relu", recurrent_var=0.2)
    >>> display = ActivationDisplay.from_layers("relu", match.layers, recurrent_var=0.2)
    >>> list(display.activations)
    ['DEQ, relu', 'layer 1, leaky_relu', 'layer 2, leaky_relu']
    """

    def __init__(self, *, t, activations):
        self.t = t
        self.activations = activations

    @classmethod
    def from_layers(
        cls,
        activation,
        layers,
        *,
        recurrent_var,
        input_var=None,
        bias_var=0.0,
        center=True,
        tau0=1.0,
        ax=None,
        **kwargs,
    ):
        """Compare a DEQ's activation with the layers of an explicit network.

        Parameters
        ----------
        activation : str or callable
            The DEQ's activation.
        layers : sequence of Layer, str or callable
            For instance ``match_explicit(...).layers``.
        recurrent_var, input_var, bias_var : float
            As in :func:`sk_deq.theory.deq_scale`.
        center : bool, default=True
            As in :func:`sk_deq.theory.deq_scale`.
        tau0 : float, default=1.0
            As in :func:`sk_deq.theory.deq_scale`.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **kwargs
            For ``Axes.plot``.

        Returns
        -------
        display : ActivationDisplay
        """
        spec = {"recurrent_var": recurrent_var, "input_var": input_var, "bias_var": bias_var}
        t, curves = _deq_activation(activation, **spec, center=center, tau0=tau0)
        for number, layer in enumerate(resolve_layers(layers, np.hypot(tau0, bias_var**0.5)), 1):
            curves[f"layer {number}, {layer.family}"] = layer(layer.scale * t).numpy()
        return cls(t=t.numpy(), activations=curves).plot(ax=ax, **kwargs)

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, **kwargs):
        """Compare the activations that a fitted estimator was matched to and has.

        Parameters
        ----------
        estimator : KernelMatcher or EquivalentExplicit estimator
            Fitted. The activations of an exact match are those for a row of norm ``tau0_``.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **kwargs
            For ``Axes.plot``.

        Returns
        -------
        display : ActivationDisplay

        Raises
        ------
        TypeError
            If the estimator was not matched to a DEQ.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "match_"):
            raise TypeError(
                "estimator must be matched to a DEQ: a KernelMatcher or an EquivalentExplicit "
                f"estimator, got {type(estimator).__name__}."
            )
        spec = _specification(estimator)
        if hasattr(estimator.match_, "layers"):
            layers = estimator.match_.layers
            return cls.from_layers(spec.pop("activation"), layers, **spec, ax=ax, **kwargs)
        t, curves = _deq_activation(**spec)
        norm = torch.tensor([spec["tau0"]], dtype=torch.float64)
        for number, gates in enumerate(estimator.match_.gates(norm)[:, 0], 1):
            values = estimator.match_.apply(t, gates)
            curves[f"matched, group {number}"] = values.numpy()
        return cls(t=t.numpy(), activations=curves).plot(ax=ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw the activations.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **kwargs
            For ``Axes.plot``.

        Returns
        -------
        display : ActivationDisplay
        """
        ax = self._axes(ax)
        self._lines({name: (self.t, values) for name, values in self.activations.items()}, kwargs)
        ax.set(xlabel="pre-activation / its standard deviation", ylabel="activation, centred")
        return self


class EquivalenceDisplay(_Display):
    """Score, latency and kernel error of models that ought to be equivalent.

    Parameters
    ----------
    results : dict of {str: dict of {str: float}}
        For each model by name: "score"; "agreement" with the first model; "latency", seconds per
        1000 rows; and, where it has features, "kernel_error".

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes
        One per quantity.
    figure_ : matplotlib Figure

    See Also
    --------
    EquivalenceDisplay.from_estimators : Measure fitted models.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.linear_model import RidgeClassifier
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import scale
    >>> from sk_deq import DEQClassifier, KernelMatcher
    >>> from sk_deq.inspection import EquivalenceDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> X = scale(X)
    >>> deq = DEQClassifier(500, train="readout", random_state=0).fit(X, y)
    >>> explicit = make_pipeline(KernelMatcher(500, random_state=0), RidgeClassifier(0.01))
    >>> models = {"DEQ": deq, "explicit": explicit.fit(X, y)}
    >>> display = EquivalenceDisplay.from_estimators(models, X, y)
    >>> display.results["explicit"]["agreement"] > 0.95
    True
    """

    _LABELS = {
        "score": "score",
        "agreement": "agreement with the first",
        "latency": "seconds per 1000 rows",
        "kernel_error": "relative spectral error of the kernel",
    }

    def __init__(self, *, results):
        self.results = results

    @classmethod
    def from_estimators(cls, estimators, X, y, *, n_repeats=5, ax=None, **kwargs):
        """Measure fitted models on the same rows.

        Parameters
        ----------
        estimators : dict of {str: estimator}
            Fitted classifiers, or fitted regressors, by name; the first is what the others ought to
            be equivalent to.
        X : array-like of shape (n_samples, n_features)
            Rows to predict.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        n_repeats : int, default=5
            Predictions timed per model, in turns; the latency is their median.
        ax : array-like of matplotlib Axes, default=None
            One per quantity; None makes a new figure.
        **kwargs
            For ``Axes.barh``.

        Returns
        -------
        display : EquivalenceDisplay
            ``results["..."]["agreement"]`` is the share of equal predictions, for regressors their
            R^2. A "kernel_error" is that of the features against the kernel of the infinitely wide
            DEQ they stand for, at its initialisation; models without features have none.
        """
        seconds = {name: [] for name in estimators}
        for _ in range(n_repeats):
            for name, estimator in estimators.items():
                start = time.perf_counter()
                estimator.predict(X)
                seconds[name].append(time.perf_counter() - start)
        reference = None
        results = {}
        for name, estimator in estimators.items():
            predicted = np.asarray(estimator.predict(X))
            reference = predicted if reference is None else reference
            if hasattr(estimator, "classes_"):
                agreement = (predicted == reference).mean()
            else:
                agreement = r2_score(reference, predicted)
            results[name] = {
                "score": float(estimator.score(X, y)),
                "agreement": float(agreement),
                "latency": float(np.median(seconds[name])) * 1000 / len(predicted),
            }
            network, _ = _network(estimator, X)
            if network is not None and not _ntk_of_training_all(network):
                exact, features = _kernels(estimator, X)
                error = np.linalg.norm(features - exact, 2) / np.linalg.norm(exact, 2)
                results[name]["kernel_error"] = float(error)
        return cls(results=results).plot(ax=ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw one panel of bars per quantity.

        Parameters
        ----------
        ax : array-like of matplotlib Axes, default=None
            One per quantity; None makes a new figure.
        **kwargs
            For ``Axes.barh``.

        Returns
        -------
        display : EquivalenceDisplay
        """
        names = list(self.results)
        shown = [key for key in self._LABELS if any(key in r for r in self.results.values())]
        if ax is None:
            ax = self._new_axes(len(shown), figsize=(7, (0.7 + 0.4 * len(names)) * len(shown)))
        axes = np.atleast_1d(ax).ravel()
        if len(axes) != len(shown):
            raise ValueError(f"ax must hold {len(shown)} axes, one per quantity, got {len(axes)}.")
        self.ax_, self.figure_ = axes, axes[0].figure
        for panel, key in zip(axes, shown, strict=True):
            values = [self.results[name].get(key, np.nan) for name in names]
            bars = panel.barh(names, values, **{"color": _COLORS, "alpha": 0.7, **kwargs})
            labels = ["" if np.isnan(value) else f" {value:.3g}" for value in values]
            panel.bar_label(bars, labels)
            panel.set_title(self._LABELS[key], loc="left", fontsize="medium")
            panel.margins(x=0.15)
            panel.invert_yaxis()
        return self


class ConvergenceDisplay(_Display):
    """How a DEQ's fixed points, or its training, converge.

    Parameters
    ----------
    residuals : dict of {str: ndarray of shape (n_iter,)}
        For each solver, the largest relative residual over the rows by iteration.
    tol : float
        Tolerance of the estimator.
    history : list of dict
        One entry per epoch.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D

    See Also
    --------
    ConvergenceDisplay.from_estimator : Look at a fitted DEQ.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import scale
    >>> from sk_deq import DEQClassifier
    >>> from sk_deq.inspection import ConvergenceDisplay
    >>> X, y = load_wine(return_X_y=True)
    >>> X = scale(X)
    >>> deq = DEQClassifier(width=64, max_epochs=5, random_state=0).fit(X, y)
    >>> display = ConvergenceDisplay.from_estimator(deq, X[:50], n_iter=12)
    >>> bool(display.residuals["picard"][-1] < 0.01)
    True
    """

    def __init__(self, *, residuals, tol, history):
        self.residuals = residuals
        self.tol = tol
        self.history = history

    @classmethod
    def from_estimator(cls, estimator, X, *, n_iter=30, kind="fixed_point", ax=None, **kwargs):
        """Look at a fitted DEQ.

        Parameters
        ----------
        estimator : DEQClassifier or DEQRegressor
            Fitted.
        X : array-like of shape (n_samples, n_features)
            Rows whose fixed points are iterated; a hundred or so are enough.
        n_iter : int, default=30
            Number of iterations.
        kind : {"fixed_point", "training"}, default="fixed_point"
            What to draw; both are computed.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **kwargs
            For ``Axes.plot``.

        Returns
        -------
        display : ConvergenceDisplay

        Raises
        ------
        TypeError
            If the estimator is not a DEQ.
        """
        check_is_fitted(estimator)
        features = getattr(getattr(estimator, "module_", None), "features", None)
        if not isinstance(features, DEQ):
            raise TypeError(
                "estimator must be a DEQClassifier or DEQRegressor, got "
                f"{type(estimator).__name__}."
            )
        rows = _scaled_rows(estimator, X)
        deq = deepcopy(features)
        residuals = {}
        for solver in SOLVERS[1:]:
            residuals[solver] = np.array(
                [_largest_residual(deq, rows, solver, k) for k in range(1, n_iter + 1)]
            )
        display = cls(residuals=residuals, tol=features.tol, history=estimator.history_)
        return display.plot(ax=ax, kind=kind, **kwargs)

    def plot(self, ax=None, *, kind="fixed_point", **kwargs):
        """Draw the residuals by iteration, or the losses by epoch.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        kind : {"fixed_point", "training"}, default="fixed_point"
            Largest relative residual of a fixed point by iteration, for each solver; or loss by
            epoch, on training and, where there was early stopping, held-out rows.
        **kwargs
            For ``Axes.plot``.

        Returns
        -------
        display : ConvergenceDisplay

        Raises
        ------
        ValueError
            If `kind` is unknown, or "training" for an estimator with train="readout".
        """
        if kind not in ("fixed_point", "training"):
            raise ValueError(f"kind={kind!r} is unknown; use 'fixed_point' or 'training'.")
        if kind == "training" and "train_loss" not in self.history[0]:
            raise ValueError("kind='training' needs train='all': a readout is solved for at once.")
        ax = self._axes(ax)
        if kind == "fixed_point":
            steps = {name: (np.arange(1, len(c) + 1), c) for name, c in self.residuals.items()}
            self._lines(steps, kwargs)
            ax.axhline(self.tol, color="0.6", linewidth=1)
            ax.annotate("tol", (1, self.tol), color="0.4", va="bottom")
            ax.set(yscale="log", xlabel="iteration", ylabel="largest relative residual")
        else:
            epochs = [epoch["epoch"] for epoch in self.history]
            names = {"train_loss": "training rows", "valid_loss": "held-out rows"}
            losses = {
                label: (epochs, [epoch[key] for epoch in self.history])
                for key, label in names.items()
                if key in self.history[0]
            }
            self._lines(losses, kwargs)
            ax.set(yscale="log", xlabel="epoch", ylabel="loss")
        return self


def _largest_residual(deq, rows, solver, n_iter):
    """Largest relative residual over the rows after exactly `n_iter` iterations."""
    solves = []
    deq.solver, deq.max_iter, deq.tol = solver, n_iter, 0.0  # at tol 0 no row stops before
    deq.report = lambda solved, stage: solves.append(float(solved.residual.max()))
    forward_in_passes(deq, rows)
    return max(solves)


def _deq_activation(activation, *, center, **spec):
    """A grid of standard pre-activations, and on it the DEQ's activation as a dict of one curve."""
    tau, mean = deq_scale(activation, center=center, **spec)
    t = torch.linspace(-4, 4, 401, dtype=torch.float64)
    activation = get_activation(activation)
    return t, {f"DEQ, {activation.name}": (activation(tau * t) - mean).numpy()}


def _specification(estimator):
    """The DEQ that a fitted estimator stands for, on its scaled rows."""
    names = ("activation", "recurrent_var", "input_var", "center")
    scaler = estimator._scaler
    spec = {name: getattr(estimator, name) for name in names}
    return {**spec, "bias_var": scaler.bias_var_, "tau0": scaler.tau0_ or 1.0}


def _scaled_rows(estimator, X):
    weight = estimator.module_.readout.weight
    return to_tensor(
        estimator._scaler.transform(check_array(X, dtype=np.float64)),
        dtype=weight.dtype,
        device=weight.device,
    )


def _network(estimator, X):
    """The estimator, or step of a pipeline, that has features, and the rows that it is given."""
    if isinstance(estimator, Pipeline):
        for _, step in estimator.steps:
            if isinstance(step, KernelMatcher | BaseNetwork):
                return step, X
            if not hasattr(step, "transform"):
                return None, X
            X = step.transform(X)
        return None, X
    return (estimator, X) if isinstance(estimator, KernelMatcher | BaseNetwork) else (None, X)


def _ntk_of_training_all(network):
    """Whether a network was matched to an NTK that is not the kernel of its features."""
    return getattr(network, "kernel", "ck") == "ntk" and getattr(network, "train", None) == "all"


def _kernels(estimator, X):
    """The exact kernel of the DEQ that an estimator stands for, and that of its features."""
    network, X = _network(estimator, X)
    if network is None:
        raise TypeError(
            "estimator must have features: a KernelMatcher, a DEQ or EquivalentExplicit estimator, "
            f"or a Pipeline with one, got {type(estimator).__name__}."
        )
    check_is_fitted(network)
    X = check_array(X, dtype=np.float64)
    kernel = getattr(network, "kernel", "ck")
    if isinstance(network, KernelMatcher):
        Z = network.transform(X)
    else:
        if _ntk_of_training_all(network):
            raise ValueError(
                "kernel='ntk' with train='all' matches the NTK of training every layer, which is "
                "not the kernel of the features; use kernel='ck' or train='readout'."
            )
        Z = forward_in_passes(network.module_.features, _scaled_rows(network, X)).cpu().numpy()
    Z = Z.astype(np.float64)
    exact = deq_kernel(network._scaler.transform(X), kernel=kernel, **_specification(network))
    return exact, Z @ Z.T
