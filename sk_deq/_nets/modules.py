"""The deep equilibrium model and the explicit network as plain torch modules.

They give features; put a readout, any module, behind them. Neither knows of estimators.
"""

import math
from numbers import Integral, Real

import torch
from sklearn.utils._param_validation import (
    Interval,
    Options,
    StrOptions,
    validate_parameter_constraints,
)
from torch import nn

from .._base import DEQ_CONSTRAINTS
from .._state import storable
from .._theory.activations import get_activation
from .._theory.layers import resolve_layers
from .._theory.spec import deq_spec, resolve_input_var
from .._torch import own_modes, without_autocast
from .fixed_point import SOLVERS, ImplicitEquilibrium, equilibrium, in_transform, warn_unconverged

__all__ = ["DEQ", "ExplicitNetwork"]

# Bound on the spectral norm of the recurrent weight times the Lipschitz constant of the activation.
# Power iteration sees the norm from below: what is missing to 1 is room for what it overlooks.
MAX_GAIN = 0.95


CONSTRAINTS = {
    "in_features": [Interval(Integral, 1, None, closed="left")],
    "width": [Interval(Integral, 1, None, closed="left")],
    "bias_var": DEQ_CONSTRAINTS["bias_var"],
    "tau0": [Interval(Real, 0, None, closed="neither")],
    "generator": [torch.Generator, None],
    "dtype": [Options(torch.dtype, {torch.float32, torch.float64}), None],
}
_SOLVER_CONSTRAINTS = {
    "solver": [StrOptions(set(SOLVERS))],
    "tol": [Interval(Real, 0, None, closed="neither")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
}
_DEQ_CONSTRAINTS = {
    **CONSTRAINTS,
    **DEQ_CONSTRAINTS,
    **_SOLVER_CONSTRAINTS,
    "contract": ["boolean"],
}
_CURVE_CONSTRAINTS = {
    "solver": [StrOptions(set(SOLVERS) - {"auto"})],
    "n_iter": _DEQ_CONSTRAINTS["max_iter"],
}


def validate(name, constraints, arguments):
    """Raise scikit-learn's error for the first argument of a module that is not as it must be."""
    validate_parameter_constraints(constraints, {k: arguments[k] for k in constraints}, name)


def drawn_normal(shape, variance, generator):
    """Normal parameters, drawn on the CPU in float64 so that they are the same everywhere."""
    draw = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    return nn.Parameter(math.sqrt(variance) * draw)


def move(module, device, dtype):
    """To a device and a precision; None means what torch gives new tensors."""
    like = torch.empty(0, device=device, dtype=dtype)
    module.to(device=like.device, dtype=like.dtype)


@storable
class DEQ(nn.Module):
    r"""Features of a deep equilibrium model: the fixed point of a layer that feeds itself.

    .. math:: z = \phi(\sqrt{m} W z + U x + b) / \sqrt{m}

    with W of variance recurrent_var / m, U of variance input_var, b of variance bias_var: the
    initialisation of the theory, for which z(x) . z(x') is close to the conjugate kernel at large
    width m. Gradients come from the implicit function theorem, at a memory cost that does not
    depend on the number of iterations.

    The layer stays a contraction in training: the recurrent weight used is
    W min(1, c / \|W\|_2), with c the larger of 0.95 / (Lipschitz constant of the activation) and
    the norm at initialisation, \|W\|_2 followed by power iteration. For recurrent_var above 0.225
    the norm at initialisation exceeds 1 and a fixed point is likely, not certain; pass
    ``contract=True`` to start from the smaller bound.

    Parameters
    ----------
    in_features : int
        Number of columns p of x.
    width : int
        Number of features m.
    activation : str or callable, default="relu"
        A registry name or an elementwise torch callable.
    recurrent_var : float, default=0.2
        sigma_a^2 of the theory.
    input_var : float, default=None
        sigma_b^2. None means 1 - recurrent_var.
    bias_var : float, default=0.0
        Variance of the input bias, which is trained even if it starts at 0.
    center : bool, default=True
        Whether to subtract from the activation its mean at initialisation.
    tau0 : float, default=1.0
        Root-mean-square norm of the rows that will be fed in; sets that mean.
    solver : {"auto", "picard", "anderson"}, default="auto"
        Fixed-point solver; "auto" is Picard where the layer contracts fast and Anderson elsewhere.
    tol : float, default=1e-4
        Relative change of a row's pre-activations at which the row is done.
    max_iter : int, default=100
        Largest number of iterations per row.
    contract : bool, default=False
        Whether the bound c is 0.95 / (Lipschitz constant) whatever recurrent_var is.
    generator : torch.Generator, default=None
        Source of the weights; a CPU generator. None means torch's global one.
    device : torch.device or str, default=None
        Where the parameters live. None means torch's default.
    dtype : torch.dtype, default=None
        Precision of the parameters. None means torch's default.

    Attributes
    ----------
    recurrent_weight : Parameter of shape (width, width)
    input_weight : Parameter of shape (width, in_features)
    bias : Parameter of shape (width,)
    report : callable or None
        Called with the FixedPoint and the stage, "forward" or "backward", of every solve. None, the
        default, warns of rows that did not converge.

    Warns
    -----
    sklearn.exceptions.ConvergenceWarning
        From forward and backward, if rows do not reach `tol` in `max_iter` iterations.

    References
    ----------
    Bai, Kolter, Koltun, "Deep Equilibrium Models", NeurIPS 2019, arXiv 1909.01377. Ling et al.,
    ICML 2024, arXiv 2402.02697, equation 1.

    Examples
    --------
    >>> import torch
    >>> from sk_deq.modules import DEQ
    >>> deq = DEQ(3, 8, generator=torch.Generator().manual_seed(0))
    >>> model = torch.nn.Sequential(deq, torch.nn.Linear(8, 2))
    >>> model(torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """

    training_options = None  # keywords of the solves that a training loop sets for its own passes

    def __init__(
        self, in_features, width, *,
        activation="relu", recurrent_var=0.2, input_var=None, bias_var=0.0, center=True, tau0=1.0,
        solver="auto", tol=1e-4, max_iter=100, contract=False, generator=None,
        device=None, dtype=None,
    ):  # fmt: skip
        super().__init__()
        validate("DEQ", _DEQ_CONSTRAINTS, locals())
        self.in_features, self.width = in_features, width
        self.activation = get_activation(activation)
        if self.activation.lipschitz == 0:
            raise ValueError(
                f"activation={self.activation.name!r} is constant: all rows would have the same "
                "features. Use a function that varies."
            )
        self.solver, self.tol, self.max_iter = solver, tol, max_iter
        self.report = None
        input_var = resolve_input_var(recurrent_var, input_var)
        with own_modes(grad=True):  # tables are kept: they are not to be of the caller's modes
            mean = deq_spec(self.activation, recurrent_var, input_var, bias_var, center, tau0).mean
        # what the function depends on is a buffer, and so in every state_dict
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64, device="cpu"))
        name = list(self.activation.name.encode())
        self.register_buffer(
            "_activation_name", torch.tensor(name, dtype=torch.uint8, device="cpu")
        )
        self.recurrent_weight = drawn_normal((width, width), recurrent_var / width, generator)
        self.input_weight = drawn_normal((width, in_features), input_var, generator)
        self.bias = drawn_normal((width,), bias_var, generator)
        start = drawn_normal((width,), 1.0, generator).detach()
        self.register_buffer("_direction", nn.functional.normalize(start, dim=0))
        self._follow_direction(50, growth=1.0)
        bound = self._norm().detach().new_tensor(MAX_GAIN / self.activation.lipschitz)
        if not contract:
            # 5 % above what power iteration sees, so that the initial weight is left as it is
            bound = torch.maximum(bound, 1.05 * self._norm().detach())
        self.register_buffer("max_norm", bound)
        move(self, device, dtype)

    def extra_repr(self):
        """Return what ``repr`` shows between the brackets."""
        return f"{self.in_features}, {self.width}, activation={self.activation.name!r}"

    def _load_from_state_dict(self, state_dict, prefix, *args):
        """Refuse the state of a DEQ of another activation before a weight has changed."""
        state = state_dict.get(prefix + "_activation_name")
        name = self.activation.name if state is None else bytes(state.tolist()).decode()
        if name != self.activation.name:
            raise ValueError(
                f"The state is that of a DEQ with activation={name!r}, this one has "
                f"{self.activation.name!r}; make one with DEQ(..., activation={name!r})."
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def _follow_direction(self, max_iter, growth):
        """Power iterations towards the direction v that W stretches most.

        Two of them, or as many as it takes until |W^T W v| grows by less than the factor `growth`:
        after the long steps of a high learning rate another direction may have become the first.
        """
        W, last = self.recurrent_weight, 0.0
        for k in range(max_iter):
            image = W.T @ (W @ self._direction)
            size = torch.linalg.vector_norm(image)
            self._direction = torch.where(size > 0, image / size, self._direction)
            if growth > 1 and k and size <= growth * last:
                break
            last = size

    def _norm(self):
        """|W v| at the direction v, whose derivative in W is that of the spectral norm."""
        return torch.linalg.vector_norm(self.recurrent_weight @ self._direction)

    def effective_recurrent_weight(self):
        r"""Return W min(1, c / \|W\|_2), the recurrent weight that ``forward`` uses.

        Returns
        -------
        Tensor of shape (width, width)
            Differentiable. In training mode with gradients, W's largest stretch is followed by two
            or more power iterations first, but not within transforms of ``torch.func``.
        """
        if self.training and torch.is_grad_enabled() and not in_transform():
            self._follow_direction(20, growth=1.02)
        norm = self._norm().clamp_min(self.max_norm / 2)  # a weight of 0 has no derivative of it
        return self.recurrent_weight * (self.max_norm / norm).clamp_max(1)

    def forward(self, x):
        """Compute the features.

        Parameters
        ----------
        x : Tensor of shape (n_samples, in_features)
            Rows.

        Returns
        -------
        Tensor of shape (n_samples, width)
            The features z, in the precision of the parameters, under ``torch.autocast`` too.
        """
        validate("DEQ", _SOLVER_CONSTRAINTS, vars(self))  # they can be set at any time
        options = {"method": self.solver, "tol": self.tol, "max_iter": self.max_iter}
        options |= self.training_options or {}
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(self.bias.dtype)
        with without_autocast(x.device):  # a fixed point needs the digits that tol speaks of
            W, report = self.effective_recurrent_weight(), self.report or self._warn
            a = ImplicitEquilibrium.apply(
                self._drive(x), W, self.activation, self.mean, options, report
            )
            return (self.activation(a) - self.mean) / math.sqrt(self.width)

    def _drive(self, x):
        """What x adds to the pre-activations: once, not in every iteration."""
        return torch.addmm(self.bias, x, self.input_weight.T)

    @torch.no_grad()
    def residual_curve(self, x, solver, n_iter):
        """Largest relative residual over the rows of x, at each of `n_iter` iterations.

        Parameters
        ----------
        x : Tensor of shape (n_samples, in_features)
            Rows.
        solver : {"picard", "anderson"}
            Fixed-point solver.
        n_iter : int
            Number of iterations.

        Returns
        -------
        Tensor of shape (n_iter,)
            On the CPU; 0 where all rows have come to rest exactly.

        Raises
        ------
        ValueError
            If `solver` is unknown or `n_iter` is not a positive integer.
        """
        validate("residual_curve", _CURVE_CONSTRAINTS, locals())
        W, found = self.effective_recurrent_weight(), []
        equilibrium(
            self._drive(x), W, self.activation, self.mean, method=solver, tol=0.0,
            max_iter=n_iter, watch=lambda residual: found.append(residual.max()),
        )  # fmt: skip
        curve = torch.zeros(n_iter, dtype=x.dtype)
        curve[: len(found)] = torch.stack(found)
        return curve

    def _warn(self, solved, stage):
        warn_unconverged(solved, stage=stage, tol=self.tol, max_iter=self.max_iter)


@storable
class ExplicitNetwork(nn.Module):
    r"""Features of an explicit network, initialised as the theory has it.

    .. math:: x^{(l)} = \sigma_l(\sqrt{m_{l-1}} W_l x^{(l-1)}) / \sqrt{m}

    with W_l of variance 1 / m_{l-1} from the second layer on, and W_1 x + b, of variance 1 and
    bias_var, in the first.

    Parameters
    ----------
    in_features : int
        Number of columns of x.
    width : int
        Width m of every hidden layer.
    layers : sequence
        The activation of each hidden layer: those of a :func:`sk_deq.theory.match_explicit` result,
        or names and torch callables, which are centred at the scale of their input.
    bias_var : float, default=0.0
        Variance of the bias of the first layer. All biases are trained; the others start at 0.
    tau0 : float, default=1.0
        Root-mean-square norm of the rows, at which names and callables are centred.
    generator : torch.Generator, default=None
        Source of the weights; a CPU generator. None means torch's global one.
    device : torch.device or str, default=None
        Where the parameters live. None means torch's default.
    dtype : torch.dtype, default=None
        Precision of the parameters. None means torch's default.

    Attributes
    ----------
    input_weight : Parameter of shape (width, in_features)
    bias : Parameter of shape (width,)
    hidden : ModuleList of Linear
        The layers after the first.

    Examples
    --------
    >>> import torch
    >>> from sk_deq.modules import ExplicitNetwork
    >>> from sk_deq.theory import match_explicit
    >>> match = match_explicit("relu", recurrent_var=0.2)
    >>> network = ExplicitNetwork(3, 8, match.layers)
    >>> network(torch.ones(5, 3)).shape
    torch.Size([5, 8])
    """

    def __init__(
        self, in_features, width, layers, *, bias_var=0.0, tau0=1.0, generator=None, device=None,
        dtype=None,
    ):  # fmt: skip
        super().__init__()
        validate("ExplicitNetwork", CONSTRAINTS, locals())
        self.in_features, self.width = in_features, width
        with own_modes(grad=True):
            self.layers = resolve_layers(layers, math.hypot(tau0, math.sqrt(bias_var)))
        self.input_weight = drawn_normal((width, in_features), 1.0, generator)
        self.bias = drawn_normal((width,), bias_var, generator)
        self.hidden = nn.ModuleList()
        for _ in self.layers[1:]:
            hidden = nn.utils.skip_init(nn.Linear, width, width)
            hidden.weight = drawn_normal((width, width), 1 / width, generator)
            nn.init.zeros_(hidden.bias)
            self.hidden.append(hidden)
        move(self, device, dtype)

    def extra_repr(self):
        """Return what ``repr`` shows between the brackets."""
        names = ", ".join(layer.family for layer in self.layers)
        return f"{self.in_features}, {self.width}, layers=({names})"

    def forward(self, x):
        """Compute the features.

        Parameters
        ----------
        x : Tensor of shape (n_samples, in_features)
            Rows.

        Returns
        -------
        Tensor of shape (n_samples, width)
            Output of the last hidden layer, over sqrt(width).
        """
        h = self.layers[0](torch.addmm(self.bias, x, self.input_weight.T))
        for layer, hidden in zip(self.layers[1:], self.hidden, strict=True):
            h = layer(hidden(h))
        return h / math.sqrt(self.width)
