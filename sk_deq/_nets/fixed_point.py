r"""Batched fixed points z = f(z, x), and the equilibrium of a DEQ with its implicit derivative.

Every row is solved to its own tolerance, then frozen and taken out of the batch, so what a row
gives does not depend on the rows beside it.
"""

from dataclasses import dataclass
from numbers import Integral

import torch
from sklearn.exceptions import ConvergenceWarning

from .._torch import without_autocast
from .._warn import warn

SOLVERS = ("auto", "picard", "anderson")

_MEMORY = 5  # past iterates that Anderson acceleration mixes
_PATIENCE = 5  # Picard iterations after which "auto" judges a row's contraction
_SLOW = 30  # with more Picard iterations than this to go, Anderson takes the row over

# Iterations between two looks of the host at the rows: on a CPU a look costs nothing, another
# device would have to wait for it.
_BURST = {"cpu": 1}
_BURST_ELSEWHERE = 5


@dataclass(frozen=True)
class FixedPoint:
    """The result of a batched solve.

    Attributes
    ----------
    value : Tensor of shape (n, d)
    n_iter : int64 Tensor of shape (n,)
        Evaluations of f that each row took.
    residual : Tensor of shape (n,)
        |f(z) - z| / |f(z)| of each row at its last evaluation.
    converged : bool Tensor of shape (n,)
    """

    value: torch.Tensor
    n_iter: torch.Tensor
    residual: torch.Tensor
    converged: torch.Tensor


def solve(f, x, z0, *, method="auto", tol=1e-4, max_iter=100, watch=None):
    """Solve z = f(z, *x) row by row.

    Parameters
    ----------
    f : callable
        ``f(z, *x)``, a new tensor whose row i depends on row i of each argument only.
    x : tuple of tensors with n rows
    z0 : Tensor of shape (n, d)
        Where to start.
    method : {"auto", "picard", "anderson"}, default="auto"
        "picard" iterates z <- f(z). "anderson" mixes the last five iterates. "auto" begins with
        Picard, the cheapest while f contracts fast, and hands a row over to Anderson if at its
        present rate it would need more than thirty further iterations.
    tol : float, default=1e-4
        A row is done when |f(z) - z| <= tol |f(z)|.
    max_iter : int, default=100
        Largest number of evaluations of f per row.
    watch : callable, default=None
        Called with the residuals of the rows in the batch at every evaluation.

    Returns
    -------
    FixedPoint

    Raises
    ------
    ValueError
        If the method is unknown, tol is negative or max_iter is not a positive integer.
    """
    if method not in SOLVERS:
        raise ValueError(f"solver={method!r} is unknown; use one of {SOLVERS}.")
    if not tol >= 0:  # NaN neither; at 0 all max_iter iterations are taken
        raise ValueError(f"tol must be a positive number, got {tol!r}; the default is 1e-4.")
    if not isinstance(max_iter, Integral) or max_iter < 1:
        raise ValueError(f"max_iter must be a positive integer, got {max_iter!r}.")
    if method != "auto":
        mix = _Anderson() if method == "anderson" else None
        return _iterate(f, x, z0, mix, tol, max_iter, watch)
    first = _iterate(f, x, z0, None, tol, max_iter, watch, give_up=True)
    unsettled = ~first.converged & torch.isfinite(first.residual) & (first.n_iter < max_iter)
    slow = torch.nonzero(unsettled).ravel()
    if len(slow) == 0:
        return first
    left = max_iter - first.n_iter[slow]
    rest = _iterate(f, _take(x, slow), first.value[slow], _Anderson(), tol, left, watch)
    return FixedPoint(
        first.value.index_copy(0, slow, rest.value),
        first.n_iter.index_add(0, slow, rest.n_iter),
        first.residual.index_copy(0, slow, rest.residual),
        first.converged.index_copy(0, slow, rest.converged),
    )


def _take(tensors, rows):
    return tuple(t[rows] for t in tensors)


def _iterate(f, x, z, mix, tol, max_iter, watch=None, give_up=False):
    """Iterate until each row has converged, or is not finite, or (`give_up`) proves slow.

    `max_iter` is a number, or a tensor (n,) of one per row.
    """
    n, device = len(z), z.device
    limit = torch.as_tensor(max_iter, device=device).expand(n)
    most = int(limit.max()) if n else 0
    burst = _BURST.get(device.type, _BURST_ELSEWHERE)
    rows = torch.arange(n, device=device)  # the rows that are still in the batch
    n_iter = torch.zeros(n, dtype=torch.int64, device=device)
    ratio = torch.full((n,), torch.inf, dtype=z.dtype, device=device)
    done = torch.zeros(n, dtype=torch.bool, device=device)
    result = torch.empty_like(z), torch.empty_like(n_iter), torch.empty_like(ratio)
    k = 0
    while len(rows):
        for _ in range(min(burst, most - k)):
            k += 1
            image = f(z, *x)
            change = image - z
            # the smallest positive number lets a row at rest at the origin have residual 0
            size = torch.linalg.vector_norm(image, dim=1).clamp_min(torch.finfo(z.dtype).tiny)
            last, ratio = ratio, torch.linalg.vector_norm(change, dim=1) / size
            if watch is not None:
                watch(ratio)
            stop = (ratio <= tol) | ~torch.isfinite(ratio) | (n_iter + 1 >= limit)
            if give_up and k >= _PATIENCE:
                stop |= torch.log(tol / ratio) < _SLOW * torch.log((ratio / last).clamp_max(1))
            # a row that stops keeps f(z), which is a step nearer to the fixed point than z
            following = image if mix is None else mix(image, change, stop)
            if burst > 1:
                following = torch.where(done[:, None], z, following)
                ratio = torch.where(done, last, ratio)
            z, n_iter = following, n_iter + ~done
            done |= stop
        if not done.any():
            continue
        gone, left = torch.nonzero(done).ravel(), torch.nonzero(~done).ravel()
        for target, source in zip(result, (z, n_iter, ratio), strict=True):
            target[rows[gone]] = source[gone]
        rows, z, n_iter, ratio, done, limit, *x = _take(
            (rows, z, n_iter, ratio, done, limit, *x), left
        )
        if mix is not None:
            mix.keep(left)
    value, n_iter, residual = result
    return FixedPoint(value, n_iter, residual, residual <= tol)


class _Anderson:
    """z <- sum_i a_i f(z_i) over the last iterates, a minimising |sum_i a_i (f(z_i) - z_i)|.

    The weights sum to 1. Each change is normalised first and the normal equations are solved in
    float64 with a ridge above the working precision, so that rounding does not decide the weights.
    """

    def __init__(self):
        self.images = self.changes = None

    def __call__(self, image, change, stop):
        if self.images is None:
            self.images, self.changes = image[:, None], change[:, None]
            return image
        self.images = torch.cat([self.images[:, 1 - _MEMORY :], image[:, None]], 1)
        self.changes = torch.cat([self.changes[:, 1 - _MEMORY :], change[:, None]], 1)
        size = torch.linalg.vector_norm(self.changes, dim=2).clamp_min(1e-30)
        unit = (self.changes / size[..., None]).double()
        ridge = torch.finfo(image.dtype).eps ** 0.75 * torch.eye(size.shape[1], device=image.device)
        inverse = 1 / size.double()
        b, _ = torch.linalg.solve_ex(unit @ unit.mT + ridge, inverse)
        a = (b * inverse) / (b * inverse).sum(1, keepdim=True)
        mixed = (a.to(image.dtype)[:, None] @ self.images)[:, 0]
        return torch.where(stop[:, None], image, mixed)

    def keep(self, rows):
        self.images, self.changes = self.images[rows], self.changes[rows]


def warn_unconverged(solved, *, stage, tol, max_iter):
    """Warn if rows of the FixedPoint `solved` have not converged; `stage`: forward or backward."""
    overflown = int((~torch.isfinite(solved.residual)).sum())
    if overflown:
        warn(
            f"The {stage} fixed point is not finite for {overflown} of {len(solved.converged)} "
            f"rows: they hold NaN or infinity, or their norm overflows {solved.residual.dtype}. "
            "Scale the rows to norms near tau0; more iterations will not help.",
            ConvergenceWarning,
        )
    failed = ~solved.converged & torch.isfinite(solved.residual)
    if failed.any():
        warn(
            f"The {stage} fixed point did not converge for {int(failed.sum())} of "
            f"{len(solved.converged)} rows: largest relative residual "
            f"{float(solved.residual[failed].max()):.1e} after {max_iter} iterations, "
            f"tol={tol:.1e}. Increase max_iter or tol, or lower recurrent_var.",
            ConvergenceWarning,
        )


def _solve_from(stage, f, x, cold, starts=None, gradient_tol=None, **options):
    """`solve` from `cold`, or where `starts` has the rows start, which it tells the solution.

    `gradient_tol`, if not None, is the tolerance of the stage "backward".
    """
    if stage == "backward" and gradient_tol is not None:
        options["tol"] = gradient_tol
    if starts is None:
        return solve(f, x, cold, **options)
    solved = solve(f, x, starts.take(stage, cold), **options)
    starts.keep(stage, cold, solved.value)
    return solved


def equilibrium(u, W, activation, mean, **options):
    """The FixedPoint a = (phi(a) - mean) W^T + u, for u (n, width); keywords of `solve`."""
    # -mean W^T is the same for all iterations and rows, so it joins u, once
    shifted = u - mean * W.sum(1)
    step = lambda a, u: torch.addmm(u, activation(a), W.T)  # noqa: E731
    return _solve_from("forward", step, (shifted,), u, **options)


class ImplicitEquilibrium(torch.autograd.Function):
    r"""The pre-activation a = (phi(a) - mean) W^T + u of a DEQ, differentiable in u and W.

    With J the Jacobian of the right-hand side in a, the implicit function theorem gives
    dL/du = g where g = dL/da + J^T g, another fixed point that the same solver solves, and
    dL/dW = g^T (phi(a) - mean); forwards, da = J da + du + (phi(a) - mean) dW^T. Memory does not
    depend on the number of iterations.

    ``apply(u, W, activation, mean, options, report)``: `options` are keywords of
    ``solve``, `starts` to begin elsewhere than at u and dL/da, and `gradient_tol` for the tolerance
    of the backward solve; `report(solved, stage)` is called after the "forward" and the "backward"
    solve.
    """

    @staticmethod
    def forward(u, W, activation, mean, options, report):
        with without_autocast(u.device):
            solved = equilibrium(u, W, activation, mean, **options)
        report(solved, "forward")
        return solved.value

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, W, ctx.activation, ctx.mean, ctx.options, ctx.report = inputs
        ctx.save_for_backward(output, W)
        ctx.save_for_forward(output, W)

    @staticmethod
    def backward(ctx, grad):
        # torch.func asks for a graph always, so there it is the second derivative that is refused
        if torch.is_grad_enabled() and not in_transform():
            raise RuntimeError(_ONCE)
        a, W = ctx.saved_tensors
        with without_autocast(a.device):
            g = _LinearEquilibrium.apply(grad, a, W, ctx.activation, ctx.options, ctx.report, True)
            grad_W = None
            if ctx.needs_input_grad[1]:
                grad_W = g.mT @ (ctx.activation(a) - ctx.mean)
        return g, grad_W, None, None, None, None

    @staticmethod
    def jvp(ctx, du, dW, *_):
        a, W = ctx.saved_tensors
        with without_autocast(a.device):
            pushed = torch.zeros_like(a) if du is None else du
            if dW is not None:
                pushed = pushed + (ctx.activation(a) - ctx.mean) @ dW.mT
            exact = {**ctx.options, "starts": None, "gradient_tol": None}
            rest = ctx.activation, exact, ctx.report
            return _LinearEquilibrium.apply(pushed, a, W, *rest, False)

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _over_a_batch(ImplicitEquilibrium, info, in_dims, arguments, n_rowwise=1)


class _LinearEquilibrium(torch.autograd.Function):
    """g = v + J^T g, or with `transposed` false g = v + J g, J the Jacobian of a DEQ's layer at a.

    It is the derivative of an equilibrium, and has none itself.
    """

    @staticmethod
    def forward(v, a, W, activation, options, report, transposed):
        slope = activation.derivative(a)
        with without_autocast(a.device):
            if transposed:
                step = lambda g, v, slope: torch.addcmul(v, slope, g @ W)  # noqa: E731
            else:
                step = lambda g, v, slope: torch.addmm(v, slope * g, W.T)  # noqa: E731
            solved = _solve_from("backward", step, (v, slope), v, **options)
        report(solved, "backward")
        return solved.value

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError(_ONCE)

    @staticmethod
    def jvp(ctx, *tangents):
        raise RuntimeError(_ONCE)

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _over_a_batch(_LinearEquilibrium, info, in_dims, arguments, n_rowwise=2)


_ONCE = (
    "The equilibrium of a DEQ can be differentiated once only: a derivative of its derivative was "
    "asked for (create_graph=True, or nested transforms of torch.func). Use finite differences of "
    "the gradient, or unroll the iteration yourself, for second derivatives."
)


def in_transform():
    """Whether a transform of ``torch.func`` is at work, as vmap or grad."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _over_a_batch(function, info, in_dims, arguments, n_rowwise):
    """The vmap rule: rows do not know of each other, so a batch of batches is one long batch.

    That is so for the first `n_rowwise` arguments; where another one differs within the batch, as
    the weights of an ensemble do, its members are solved one after the other.
    """
    n = info.batch_size
    dims = [
        dim if isinstance(x, torch.Tensor) else None
        for x, dim in zip(arguments, in_dims, strict=True)
    ]

    def member(i):
        return [
            x if dim is None else x.select(dim, i) for x, dim in zip(arguments, dims, strict=True)
        ]

    if any(dim is not None for dim in dims[n_rowwise:]):
        return torch.stack([function.apply(*member(i)) for i in range(n)]), 0
    rowwise = [
        x.expand(n, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(arguments[:n_rowwise], dims[:n_rowwise], strict=True)
    ]
    out = function.apply(*(x.flatten(0, 1) for x in rowwise), *arguments[n_rowwise:])
    return out.unflatten(0, rowwise[0].shape[:2]), 0
