"""Fitting a kernel ridge: the order of the steps, each a function of what came before."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning

from .._array_api import take
from .._memory import require_memory, total_memory
from .._progress import stage, tell
from .._search.criterion import ALPHAS
from .._search.search import Choice
from .._solve.calibration import learnable
from .._solve.cg import Tiles, bytes_of_tiles, solve_cg
from .._solve.exact import Solution, solve_cholesky, solve_eigh
from .._solve.nystroem import (
    Features,
    first_held_out,
    is_held_out,
    landmarks_of,
    predicted_of,
    solve_nystroem,
    tile_rows,
)
from .._state import storable
from .._torch import devices_like
from .._warn import warn
from .checkpoints import checkpoint_of_sums
from .intervals import OutOfSample, residuals_out_of_sample
from .kernel import FittedRows
from .rows import TrainingRows
from .settle import RELATIVE, settle, settling_rows

_MATRICES = {"eigh": 4, "cholesky": 3}  # n x n matrices alive at the peak
_MOST_ROWS = {"eigh": 8_000, "cholesky": 16_000, "cg": 50_000}  # for "auto"
_OPERATIONS = {"eigh": 10, "cholesky": 1 / 3}  # over n^3
_ALL_LEFT_OUT = 1000  # rows of which all are left out of a Cholesky factorisation; of more
_LEFT_OUT = 500  # so many are
_N_COMPONENTS = {"nystroem": 2000, "cg": 1000}


@dataclass(frozen=True)
class RidgeConfig:
    """What a fit is asked for.

    Parameters
    ----------
    classify : bool
        Whether targets are +1 and -1, and errors count by log-loss too.
    given : dict
        The DEQ parameters to keep.
    alphas : list of float or None
        Candidates for alpha; None means those of the search, relative to the kernel.
    listed : bool
        Whether they were given as an array, be it of one.
    search, weigh_features : bool
        Whether the other DEQ parameters are searched, and the features weighted.
    encodings : sequence of {"plain", "quantile", "bins", "both"}
        What the search may do with columns.
    method, solver, n_components, tol, max_iter
        As for the estimators.
    device : str
    dtype : torch.dtype
    seed : int
    landmarks : ndarray or tensor of shape (m, n_features), default=None
        Rows whose functions are fitted, by "nystroem" or "cg"; the scale is measured on them.
    checkpoint_dir : str, path-like or None, default=None
        Where "nystroem" keeps its sums on the way.
    """

    classify: bool
    given: dict
    alphas: list | None
    listed: bool
    search: bool
    weigh_features: bool
    encodings: tuple
    method: str
    solver: str
    n_components: int | None
    tol: float
    max_iter: int
    device: str
    dtype: torch.dtype
    seed: int
    landmarks: object = None
    checkpoint_dir: object = None


@storable
@dataclass(frozen=True)
class FittedRidge:
    """A fitted kernel ridge: f(x) = k(x, rows) @ solution.dual_coef + solution.intercept.

    Parameters
    ----------
    rows : FittedRows
    solution : Solution
        Coefficients in the units of the targets.
    solver : str
    path : tuple of list and tensor, or None
        The alphas that were compared, and their errors.
    choice : Choice
        Of the DEQ parameters, chosen or given.
    feature_weights : tensor of shape (n_features,)
        Of the columns as they came.
    search_results : dict or None
    out_of_sample : tuple of tensors, OutOfSample or None
        Of rows that were left out of the fit: predictions, targets, weights, and whether the fit
        knew their classes, for a classifier; else residuals, where there are any.
    """

    rows: FittedRows
    solution: Solution
    solver: str
    path: tuple | None
    choice: Choice
    feature_weights: torch.Tensor
    search_results: dict | None
    out_of_sample: tuple | OutOfSample | None

    @classmethod
    def of(cls, settled, rows, solution, solver, out_of_sample):
        """Of a Solution in the units of a Settled."""
        choice, path = settled.choice, settled.path
        if settled.compare and solution.errors is not None:
            path = settled.alphas, solution.errors
        if path is not None:
            path = [settled.unit * alpha for alpha in path[0]], path[1]
        return cls(
            rows=rows, solution=solution.times(settled.scale, settled.unit), solver=solver,
            path=path, choice=choice,
            feature_weights=settled.feature_weights,
            search_results=choice.results if settled.searched else None,
            out_of_sample=out_of_sample,
        )  # fmt: skip


def fit_ridge(X, y, w, config):
    """Fit rows X (n, n_features) to targets y (n, n_outputs) with weights w (n,) >= 0.

    Returns
    -------
    FittedRidge

    Raises
    ------
    ValueError
        If a parameter is out of range, or there is no stable fixed point.
    MemoryError
        If the solver's matrices would not fit into memory.
    """
    rows = TrainingRows(X, y, w, config.seed)
    solver = choose_solver(config, lambda: rows.n_distinct, y.shape[1]).solver
    distinct = settling_rows(rows, solver, n_landmarks(solver, config))
    settled = settle(distinct, config, solver)
    original = rows.in_units(settled.scale, settled.unit)
    rows = original  # "nystroem" leaves X where it is
    if solver != "nystroem":
        rows = distinct.in_units(settled.scale, settled.unit)
    if solver in _MATRICES:
        solution, fitted_rows = _solve_exactly(rows, settled, solver, config)
        _require_precision(solution.alpha, settled.kernel, rows, config, solver)
    else:
        if solver == "cg":
            _require_precision(min(settled.alphas), settled.kernel, rows, config, solver)
        first = first_held_out(distinct.keys) if settled.validate else None
        solution, fitted_rows = _solve_by_landmarks(rows, settled, first, solver, config)
    if config.classify:
        out_of_sample = _out_of_sample(solution, rows, fitted_rows, solver)
    else:
        out_of_sample = residuals_out_of_sample(
            solution, rows, fitted_rows, original, settled.scale
        )
    return FittedRidge.of(settled, fitted_rows, solution, solver, out_of_sample)


def n_landmarks(solver, config):
    """How many landmarks a solver has, where none are given; 0 where it has none."""
    return config.n_components or _N_COMPONENTS.get(solver, 0)


class SolverChoice(NamedTuple):
    """A solver, and why it was taken."""

    solver: str
    reason: str


def choose_solver(config, n_distinct, n_outputs=1):
    """The SolverChoice for a RidgeConfig; `n_distinct` is called for the number of distinct rows.

    Raises
    ------
    ValueError
        If the solver that was asked for cannot do what else was.
    """
    solver, alphas = config.solver, config.alphas
    n_alphas = len(ALPHAS if alphas is None else alphas)
    if solver == "cholesky" and alphas is not None and n_alphas > 1:
        raise ValueError(
            f"solver={solver!r} takes a single alpha; use solver='eigh', 'cg', 'nystroem' or "
            "'auto' for an array."
        )
    if solver == "cg" and alphas is not None and min(alphas) == 0:
        raise ValueError("solver='cg' needs alpha > 0; use solver='cholesky'.")
    if solver in ("cg", "nystroem") and config.method == "high_dim":
        raise ValueError(
            f"solver={solver!r} needs method='exact': the four-number kernel has a "
            "diagonal of its own. Use solver='eigh' or 'cholesky', or KernelMatcher with a "
            "linear model."
        )
    if config.landmarks is not None and solver not in ("auto", "nystroem", "cg"):
        raise ValueError(f"landmarks need solver='nystroem' or 'cg', got {solver!r}.")
    if solver != "auto":
        return SolverChoice(solver, "given")
    if config.landmarks is not None:
        return SolverChoice("nystroem", "landmarks were given")
    if alphas is None:
        exact = ["cholesky"] if config.search else ["eigh", "cholesky"]
    else:
        exact = ["eigh" if n_alphas > 1 else "cholesky"]
    if config.method == "high_dim":
        return SolverChoice("eigh" if n_alphas > 1 else "cholesky", "method='high_dim'")
    n = n_distinct()
    for solver in exact:
        needed = _MATRICES[solver] * n**2 * config.dtype.itemsize
        quick = n <= _MOST_ROWS[solver] or not config.device.startswith("cpu")
        if quick and needed <= total_memory(config.device) / 2:
            return SolverChoice(solver, f"exact, and {n} distinct rows are few enough")
    # reading the kernel takes about as long as multiplying one column by it
    n_compared = len(RELATIVE["cg"])  # by "auto"
    n_columns = (n_compared if alphas is None else n_alphas) * (n_outputs + 1)
    as_one = n * (n_columns / (2 * n_compared)) ** 0.5  # rows that take as long
    if as_one <= _MOST_ROWS["cg"] and _keeps_tiles(n, config):
        return SolverChoice("cg", f"{n} distinct rows, of which the kernel can be kept")
    return SolverChoice("nystroem", f"{n} distinct rows are too many for {exact[-1]!r}")


def _solve_exactly(rows, settled, solver, config):
    """The Solution on the n x n matrix, and the rows that its coefficients are for."""
    n, kernel, alphas = len(rows.X), settled.kernel, settled.alphas
    remedy = "Use solver='nystroem' or 'cg', fewer rows, or dtype='float32'."
    _require_memory(_MATRICES[solver] * n**2, n, solver, config, remedy)
    fitted = FittedRows(kernel, rows.X)
    if n > _MOST_ROWS[solver]:
        tell(
            f"solver={solver!r} of {n:,} rows: about {_OPERATIONS[solver] * n**3:.0e} operations, "
            f"{_MATRICES[solver] * n**2 * config.dtype.itemsize / 1e9:.0f} GB. solver='nystroem' "
            "takes a small part of it."
        )
    with stage(f"solver {solver!r}, {n} rows") as step:
        if solver == "eigh":
            K = kernel.matrix(fitted.scaled)
            solution = solve_eigh(K, rows.y.to(K), rows.w.to(K), alphas)
        else:
            order, n_left_out = _left_out_last(rows)
            K = kernel.matrix(fitted.scaled[order.to(fitted.scaled.device)])
            y, w = rows.y[order].to(K), rows.w[order].to(K)
            solution = solve_cholesky(K, y, w, alphas[0], n_left_out if settled.validate else 0)
            solution = solution.of_rows(order)
        step()
    return solution, fitted


def _left_out_last(rows):
    """An order of the rows, and how many at its end are left out, one at a time."""
    n = len(rows.X)
    if n <= _ALL_LEFT_OUT:
        return torch.arange(n, device=rows.keys.device), n
    return rows.keys.argsort(descending=True), _LEFT_OUT


def _solve_by_landmarks(rows, settled, first, solver, config):
    """The Solution by Nystroem or conjugate gradients, and the rows of its coefficients.

    Rows are held out by their keys, `first` in any case, unless it is None.
    """
    X, y, w, kernel, alphas = rows.X, rows.y, rows.w, settled.kernel, settled.alphas
    chosen = config.landmarks
    if chosen is None:
        chosen = take(X, landmarks_of(rows.keys, w > 0, n_landmarks(solver, config)))
    held_out = predicted = None
    if first is not None:
        held_out = is_held_out(rows.keys, w > 0, first)
    m = len(chosen)
    features = m * (len(X) if solver == "cg" else 3 * tile_rows(m))
    remedy = f"Use n_components < {m} or dtype='float32'."
    _require_memory(8 * m**2 + features, len(X), solver, config, remedy)
    landmarks = FittedRows(kernel, chosen)
    features = Features(kernel.matrix, landmarks.scaled)
    if solver == "nystroem":

        def tile(part):
            return kernel.rows(X[part] if isinstance(part, slice) else take(X, part))

        kept = checkpoint_of_sums(config, features, rows)
        if held_out is not None:
            predicted = predicted_of(rows.keys, held_out)
        solution = solve_nystroem(
            features, tile, y, w, alphas, held_out, predicted, kept, devices_like(config.device)
        )
        return solution, landmarks
    fitted = FittedRows(kernel, X)
    held_out = None if held_out is None else held_out.to(fitted.scaled.device)
    keep = _keeps_tiles(len(X), config)
    with stage(f"kernel of {len(X):,} rows, {'kept' if keep else 'computed in every step'}"):
        tiles = Tiles(kernel.matrix, fitted.scaled, keep)
    solution = solve_cg(
        tiles, features, y.to(fitted.scaled), w.to(fitted.scaled), alphas, config.tol,
        config.max_iter, held_out,
    )  # fmt: skip
    if config.alphas is not None and solution.errors is not None:
        left_out = [a for a, e in zip(alphas, solution.errors, strict=True) if torch.isinf(e)]
        if left_out:
            warn(
                f"solver='cg' left out alpha={left_out}, which take too many steps. Raise "
                "n_components, the size of the preconditioner, or give one alpha.",
                ConvergenceWarning,
            )
    return solution, fitted


def _keeps_tiles(n, config):
    """Whether solver="cg" keeps the kernel of n rows: where it takes a quarter of the memory."""
    needed = bytes_of_tiles(n, config.dtype.itemsize)
    return needed <= total_memory(config.device) / 4


def _require_precision(alpha, kernel, rows, config, solver):
    """Tell of a penalty that float32 cannot tell from the rounding of the kernel's values.

    That of n x n values moves eigenvalues by about sqrt(n) of theirs. Conjugate gradients, which
    need a positive definite matrix, are refused.
    """
    if config.dtype != torch.float32:
        return
    size = kernel.mean_diagonal(rows.X, rows.w) * rows.mean_weight
    least = 4 * torch.finfo(torch.float32).eps * len(rows.X) ** 0.5 * size
    if alpha >= least:
        return
    message = (
        f"alpha={alpha:.2g} is below {least:.2g}, the rounding of this kernel in float32: use "
        "dtype='float64', or a larger alpha."
    )
    if solver == "cg":
        raise ValueError(f"solver='cg': {message}")
    warn(message, LinAlgWarning)


def _require_memory(n_numbers, n_rows, solver, config, remedy):
    needed = n_numbers * config.dtype.itemsize
    require_memory(needed, f"solver={solver!r} with {n_rows} rows", remedy, config.device)


def _out_of_sample(solution, rows, fitted, solver):
    """Predictions, targets and weights of rows that were left out; see `learnable` too.

    The model's own prediction stands in where a row cannot be left out, being the only one.
    """
    X, y, w, predictions = rows.X, rows.y, rows.w, solution.predictions
    index = torch.arange(len(w)) if solution.rows is None else solution.rows
    index = index.to(y.device)
    known = learnable(y, w, index, at_once=solver not in _MATRICES)
    X, y, w = take(X, index), y[index], w[index]
    if predictions is None or not torch.isfinite(predictions).all():
        own = fitted.matrix(X) @ solution.dual_coef + solution.intercept
        predictions = own if predictions is None else predictions.where(predictions.isfinite(), own)
    return predictions.to(y), y, w, known
