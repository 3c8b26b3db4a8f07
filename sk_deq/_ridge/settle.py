"""What a kernel ridge is before it is solved: kernel, penalties to compare, units."""

from dataclasses import dataclass

import torch

from .._progress import tell
from .._scaling import standard_deviations
from .._search.candidates import DEFAULT, HIGH_DIM, resolve
from .._search.criterion import ALPHAS
from .._search.search import MOST_ROWS, Choice, search_kernel
from .._state import storable
from .kernel import RowKernel, row_kernel

# what the search found, in its units: with more rows than were searched on others may be better
RELATIVE = {"cholesky": [1.0], "cg": [1.0, 10**0.5, 10.0, 10**1.5, 100.0]}


@storable
@dataclass(frozen=True)
class Settled:
    """What the rows that settle it say.

    Parameters
    ----------
    kernel : RowKernel
    choice : Choice
        Of the DEQ parameters, chosen or given.
    searched : bool
        Whether they were searched.
    alphas : list of float
        Penalties to compare, for targets and weights in these units:
    scale : tensor of shape (n_outputs,)
        that of the targets,
    unit : float
        and that of the weights.
    path : tuple of list and tensor, or None
        Penalties that the search compared, and their errors, where the solver compares none.
    feature_weights : tensor of shape (n_features,)
        Of the columns as they came.
    validate : bool
        Whether rows are to be left out: to choose alpha, to calibrate, or as asked for.
    compare : bool
        Whether penalties are compared, if only one.
    """

    kernel: RowKernel
    choice: Choice
    searched: bool
    alphas: list
    scale: torch.Tensor
    unit: float
    path: tuple | None
    feature_weights: torch.Tensor
    validate: bool
    compare: bool


def settling_rows(rows, solver, n_components=0):
    """The TrainingRows that settle the kernel and its scale.

    All, or those of the smallest keys for "nystroem", which then is the same for rows in chunks.
    """
    if solver == "nystroem":
        return rows.smallest(max(MOST_ROWS, n_components))
    return rows.distinct()


def settle(rows, config, solver):
    """The Settled of distinct TrainingRows and a RidgeConfig.

    Raises
    ------
    ValueError
        If a parameter is out of range, or there is no stable fixed point.
    """
    scale = torch.ones_like(rows.y[0]) if config.classify else _deviations(rows.y, rows.w)
    unit = 1.0 if config.alphas is not None else rows.mean_weight
    rows = rows.in_units(scale, unit)
    choice, searched = _choose_kernel(rows, config, solver)
    measured = rows.X, rows.w
    if config.landmarks is not None:  # so that chunks of rows are scaled alike
        measured = config.landmarks, torch.ones(len(config.landmarks), dtype=rows.w.dtype)
    kernel = row_kernel(*measured, choice, config.method, config.device, config.dtype)
    alphas, path = config.alphas, None
    if alphas is None:
        level = kernel.mean_diagonal(rows.X, rows.w)
        relative = ALPHAS
        if solver in RELATIVE:
            relative = [choice.relative_alpha * factor for factor in RELATIVE[solver]]
        alphas = [float(alpha * level) for alpha in relative]
        if solver == "cholesky" and choice.path is not None:
            path = [float(alpha * level) for alpha in choice.path[0]], choice.path[1]
    compare, several = len(alphas) > 1 or config.listed, rows.n_distinct > 1
    if not several:  # no other rows to be predicted from: the constant is all there is
        alphas, compare = alphas[-1:], False
    validate = compare or (several and (config.classify or solver == "cholesky"))
    weights = choice.weights_of_sources(rows.X.shape[1])
    return Settled(kernel, choice, searched, alphas, scale, unit, path, weights, validate, compare)


def _choose_kernel(rows, config, solver):
    """The Choice of DEQ parameters and feature weights, and whether they were searched."""
    default = HIGH_DIM if config.method == "high_dim" else DEFAULT
    free = not default.keys() <= {"input_var", *config.given}
    search = config.search and free and config.method == "exact"
    (parameters,) = resolve(config.given, [default])
    encodings = config.encodings if search or len(config.encodings) == 1 else ("plain",)
    needs_alpha = config.alphas is None and solver in RELATIVE
    if not search and not needs_alpha and encodings == ("plain",):
        return Choice(parameters), False
    if search:
        tell("searches its kernel; in a grid search give hyperparameters=None, or every fit does")
    choice, *_ = search_kernel(
        rows.X, rows.y, rows.w, rows.keys, config.given if search else parameters,
        classify=config.classify, alphas=config.alphas,
        feature_weights=search and config.weigh_features, encodings=encodings,
    )  # fmt: skip
    return choice, search


def _deviations(y, w):
    """Standard deviation of each target; 1 where it does not vary."""
    varies = y.amin(0) < y.amax(0)
    return torch.where(varies, standard_deviations(y, w), 1.0)
