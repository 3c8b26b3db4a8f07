"""One hidden layer with exactly a DEQ's kernel, as a torch module."""

import torch
from torch import nn

from .._scaling import row_norms
from .._state import storable
from .._theory.gated import GatedNetwork
from .modules import CONSTRAINTS, drawn_normal, move, validate


@storable
class ExactNetwork(nn.Module):
    r"""Features of one hidden layer that has the kernel of a DEQ for rows of any norms.

    .. math:: z_i = \sigma_j((w_i \cdot x + b_i) / n;\, n) / \sqrt{m_j}, \qquad
        n^2 = |x|^2 + \sigma_c^2

    with w of variance 1, b of variance sigma_c^2 and the m neurons in a few groups j of m_j, each
    with an activation that depends on the norm n of the row. The bias is a constant coordinate
    sigma_c of the rows; z(x) . z(x') is close to the kernel at large width.

    Parameters
    ----------
    in_features : int
        Number of columns of x.
    width : int
        Number of features m.
    match : GatedNetwork
        The activations: ``match_`` of a fitted :class:`sk_deq.KernelMatcher` with
        ``matching="exact"``.
    bias_var : float, default=0.0
        Square of the constant coordinate. The bias is trained even if it starts at 0.
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

    Raises
    ------
    TypeError
        If `match` is not a GatedNetwork.
    ValueError
        If another argument is out of range; from ``forward``, if a row has no stable fixed point.

    References
    ----------
    Simon, Anand, DeWeese, "Reverse Engineering the Neural Tangent Kernel", ICML 2022, arXiv
    2106.03186, for rows of one norm.

    Examples
    --------
    >>> import torch
    >>> from sk_deq import KernelMatcher
    >>> from sk_deq.modules import ExactNetwork
    >>> matcher = KernelMatcher(matching="exact", random_state=0).fit([[3.0, 4.0], [5.0, 0.0]])
    >>> ExactNetwork(2, 8, matcher.match_)(torch.ones(5, 2)).shape
    torch.Size([5, 8])
    """

    def __init__(
        self, in_features, width, match, *, bias_var=0.0, generator=None, device=None, dtype=None
    ):  # fmt: skip
        super().__init__()
        names = "in_features", "width", "bias_var", "generator", "dtype"
        validate("ExactNetwork", {name: CONSTRAINTS[name] for name in names}, locals())
        if not isinstance(match, GatedNetwork):
            raise TypeError(
                f"match must be a GatedNetwork, got {type(match).__name__}; "
                "KernelMatcher(matching='exact') has one as match_ once it is fitted."
            )
        self.in_features, self.width = in_features, width
        self.match, self.bias_var = match, bias_var
        self.input_weight = drawn_normal((width, in_features), 1.0, generator)
        self.bias = drawn_normal((width,), bias_var, generator)
        move(self, device, dtype)

    def extra_repr(self):
        """Return what ``repr`` shows between the brackets."""
        pair = self.match.pair
        return (
            f"{self.in_features}, {self.width}, activation={pair.spec.activation.name!r}, "
            f"kernel={pair.kernel!r}"
        )

    def forward(self, x):
        """Compute the features.

        Parameters
        ----------
        x : Tensor of shape (n_samples, in_features)
            Rows.

        Returns
        -------
        Tensor of shape (n_samples, width)
            Differentiable in x and the parameters.
        """
        # the constant coordinate is appended, not squared and added: squares may overflow
        norms = row_norms(nn.functional.pad(x.double(), (0, 1), value=self.bias_var**0.5))
        t = torch.addmm(self.bias, x, self.input_weight.T)
        return self.match(t / torch.where(norms > 0, norms, 1.0)[:, None].to(t), norms)
