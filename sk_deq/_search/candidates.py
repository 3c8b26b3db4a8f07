"""The candidates of the search: kernels for a table, from smooth to rough, from global to local.

They depend on dot products and norms only: on the sphere, or where the activation is positively
homogeneous, a kernel is a function kappa of the angle of two rows (c, x), c^2 = bias_var /
input_var, in the latter case times the product of their norms.
"""

from functools import lru_cache
from itertools import product

from .._theory.activations import get_activation, is_registered
from .._theory.pair import DEQPairKernel
from .._theory.spec import deq_spec, resolve_input_var

DEQ_PARAMETERS = (
    "kernel", "activation", "recurrent_var", "input_var", "bias_var", "center", "input_scaling",
)  # fmt: skip
# What "auto" stands for where nothing is searched: the kernel that is best on average.
DEFAULT = {
    "kernel": "ck",
    "activation": "relu",
    "recurrent_var": 0.9,
    "input_var": 1.0,
    "bias_var": 0.1,
    "center": False,
    "input_scaling": "rms",
}
# What it stands for with method="high_dim", a theory of centred networks without bias.
HIGH_DIM = {
    "kernel": "ck",
    "activation": "relu",
    "recurrent_var": 0.2,
    "bias_var": 0.0,
    "center": True,
    "input_scaling": "rms",
}
# docs/tabular.rst shows why these: smooth to rough, global to local.
CANDIDATES = (
    DEFAULT,
    {**DEFAULT, "activation": "abs", "recurrent_var": 0.5},
    {**DEFAULT, "kernel": "ntk", "recurrent_var": 1.5},
    {**DEFAULT, "kernel": "ntk", "recurrent_var": 1.9, "input_scaling": "sphere"},
)
# Those that a network of finite width is close to, and whose fixed point it finds fast.
OF_NETWORKS = CANDIDATES[:2]
BIASES = (0.1,)  # c^2 in units of the mean squared norm of the rows


def resolve(given, alternatives=(DEFAULT,), biases=None):
    """Complete the parameters given by each alternative; a list of distinct dicts.

    Parameters
    ----------
    given : dict
        DEQ parameters of the user. With a recurrent_var and no input_var the latter is
        1 - recurrent_var, whatever the alternative says.
    alternatives : sequence of dict
        Values of the others.
    biases : sequence of float, default=None
        Alternatives for bias_var / input_var.
    """
    found = []
    for alternative, bias in product(alternatives, biases or (None,)):
        parameters = {**alternative, **given}
        if "input_var" not in given and (
            "recurrent_var" in given or "input_var" not in alternative
        ):
            parameters["input_var"] = resolve_input_var(parameters["recurrent_var"], None)
        if bias is not None and "bias_var" not in given:
            parameters["bias_var"] = bias * parameters["input_var"]
        if parameters not in found:
            found.append(parameters)
    return found


def stable(candidates):
    """The candidates with a stable fixed point.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = [_pair_or_error(parameters, 1.0) for parameters in candidates]
    if all(isinstance(pair, str) for pair in found):
        raise ValueError(found[0])
    return [p for p, pair in zip(candidates, found, strict=True) if not isinstance(pair, str)]


def pair_kernel(parameters, tau0=1.0):
    """The DEQPairKernel of a candidate.

    Raises
    ------
    ValueError
        If there is no stable fixed point.
    """
    pair = _pair_or_error(parameters, tau0)
    if isinstance(pair, str):
        raise ValueError(pair)
    return pair


def is_angular(parameters):
    """Whether the kernel is a function of an angle, times norms perhaps."""
    return parameters["input_scaling"] == "sphere" or without_bias(parameters).homogeneous


def without_bias(parameters):
    """The kernel of an angular candidate for rows that have the bias as a coordinate."""
    return pair_kernel({**parameters, "bias_var": 0.0})


def _pair_or_error(parameters, tau0):
    """The kernel, or what is wrong with it."""
    activation = get_activation(parameters["activation"])
    parameters = {**parameters, "activation": activation}
    # what is kept would keep a user's callable alive
    make = _kept_pair if is_registered(activation) else _kept_pair.__wrapped__
    return make(*(parameters[name] for name in DEQ_PARAMETERS[:-1]), tau0)


@lru_cache(maxsize=64)
def _kept_pair(kernel, activation, recurrent_var, input_var, bias_var, center, tau0):
    """The kernel, or what is wrong with it, which takes a while to find out."""
    try:
        spec = deq_spec(activation, recurrent_var, input_var, bias_var, center, tau0)
    except ValueError as error:
        return str(error)
    return DEQPairKernel(spec, kernel)
