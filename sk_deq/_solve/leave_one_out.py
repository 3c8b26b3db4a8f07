r"""Leave-one-out in closed form for kernel ridge regression with weights and a free constant.

The model minimises, over f = K c + b, sum_i w_i (y_i - f_i)^2 + alpha c^T K c. With
S = diag(w)^(1/2), A = S K S + alpha I, s = S 1, and the projection that the constant makes,

    M = A^-1 - A^-1 s s^T A^-1 / (s^T A^-1 s),      c = S M S y,      b = s^T A^-1 S y / s^T A^-1 s,

the error at row i of the model fitted without row i, b included, is (M S y)_i / (M_ii S_ii):
the errors of every alpha cost one eigendecomposition.
"""

import numpy as np
import torch
from scipy import linalg
from scipy.linalg import LinAlgWarning

from .._torch import single_thread
from .._warn import warn

_ONE_THREAD = 512  # rows up to which one thread factors a matrix
_BLOCK = 1024  # rows of the eigenvectors that are squared at once


def leave_one_out(K, y, w, alphas, precision):
    """Predictions for every row of the models fitted without it: (n, n_alphas, n_outputs).

    Parameters as for `solve_eigh`, and the relative precision of K's entries.
    """
    return y[:, None] - eigh_path(K, y, w, alphas, precision)[2]


def eigh_path(K, y, w, alphas, precision=None):
    """M S y (n, a, k), constants (a, k) and left-out residuals (n, a, k) of every alpha."""
    s = w.sqrt()
    mean = w @ y / w.sum()
    eigenvalues, U = _eigh(K.mul_(s[:, None]).mul_(s))
    eigenvalues = _clip(eigenvalues, precision or torch.finfo(K.dtype).eps)
    alphas_ = torch.as_tensor(alphas, dtype=K.dtype, device=K.device)
    rounding = len(K) * torch.finfo(K.dtype).eps * eigenvalues[-1]
    floor = rounding.clamp_min(torch.finfo(K.dtype).tiny)  # alpha = 0 means its limit
    inverse = 1 / (eigenvalues[:, None] + alphas_).maximum(floor)  # (n, n_alphas)
    z = U.T @ torch.cat([s[:, None] * (y - mean), s[:, None]], 1)
    zy, zs = z[:, None, :-1], z[:, None, -1:]
    weighted = inverse[:, :, None] * zs
    constant = (weighted * zy).sum(0) / (weighted * zs).sum(0)  # (n_alphas, k)
    # subtracted here, where directions of eigenvalue 0 cancel, and not after the product with U
    z = torch.cat([zy - zs * constant, zs.expand(-1, len(alphas_), -1)], 2)
    solved = U @ (inverse[:, :, None] * z).flatten(1)
    solved = solved.unflatten(1, (len(alphas_), -1))  # A^-1 [S (y - b), s], (n, a, k + 1)
    diagonal = torch.cat([block.square() @ inverse for block in U.split(_BLOCK)])
    r, intercept, diagonal = project(solved, diagonal, s)
    return r, mean + constant + intercept, left_out_residuals(r, diagonal, s)


def is_by_torch(A):
    """Whether torch factors a matrix: elsewhere than on a CPU, and where one thread is enough.

    The threads of scipy's BLAS cannot be limited for one caller alone, and wait for each other many
    times: where others use the processor, a small factor then takes a hundred times as long.
    """
    return not A.is_cpu or len(A) <= _ONE_THREAD


def _eigh(A):
    """torch.linalg.eigh, or scipy's, which is faster for many rows; overwrites A."""
    if is_by_torch(A):
        with single_thread():
            return torch.linalg.eigh(A)
    # the transpose is what LAPACK overwrites without a copy; A is symmetric
    pair = linalg.eigh(A.numpy().T, overwrite_a=True, check_finite=False)
    return tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in pair)


def _clip(eigenvalues, precision):
    """Set negative eigenvalues to 0; warn if they are more than rounding."""
    largest, smallest = eigenvalues[-1], eigenvalues[0]
    if smallest < -10 * len(eigenvalues) * precision * largest:
        warn(
            "The kernel matrix is indefinite: its eigenvalues lie between "
            f"{float(smallest):.3g} and {float(largest):.3g}. Negative ones were set to 0; "
            "method='exact' gives a positive semidefinite kernel.",
            LinAlgWarning,
        )
    return eigenvalues.clamp_min(0)


def project(solved, diagonal, s):
    """Account for the constant: M S y (n, a, k), b (a, k) and diag M (n, a)."""
    r, t = solved[..., :-1], solved[..., -1]
    denominator = s @ t  # (n_alphas,)
    intercept = torch.einsum("n,nak->ak", s, r) / denominator[:, None]
    projected = diagonal - t.square() / denominator
    rounding = 8 * torch.finfo(s.dtype).eps * diagonal
    return r - t[:, :, None] * intercept, intercept, projected.where(projected > rounding, 0)


def left_out_residuals(r, diagonal, s):
    """y_i minus its prediction by the model fitted without row i; inf where there is none."""
    residuals = r / (diagonal * s[:, None])[:, :, None]
    return torch.where(diagonal[:, :, None] > 0, residuals, torch.inf)


def mean_square(left_out, w):
    """Weighted mean square (a,) of left-out residuals (n, a, k), summed over the outputs.

    Of the rows that can be left out: one that has all the weight, to rounding, cannot.
    """
    squares = left_out.square().sum(2)
    possible = torch.isfinite(squares).all(1)
    return w[possible] @ squares[possible] / w[possible].sum()


class LeftOut(torch.autograd.Function):
    """Leave-one-out residuals M S y / (diag(M) s), of K over its mean diagonal; differentiable."""

    @staticmethod
    def forward(ctx, K, alpha, y, s):
        share = s * s / (s @ s)
        level = share @ K.diagonal()
        A = K * (s / level) * s[:, None]
        A.diagonal().add_(alpha)
        M = torch.cholesky_inverse(torch.linalg.cholesky(A))
        t = M @ s
        M -= t[:, None] * (t / (s @ t))
        solved = M @ (s[:, None] * y)
        diagonal = M.diagonal().clone()
        ctx.save_for_backward(K, M, solved, diagonal, s, share, level)
        return solved / (diagonal * s)[:, None]

    @staticmethod
    def backward(ctx, gradient):
        K, M, solved, diagonal, s, share, level = ctx.saved_tensors
        gradient = gradient / (diagonal * s)[:, None]
        weight = (gradient * solved).sum(1) / diagonal
        outer = (M @ gradient) @ solved.T
        to_A = ((M * weight) @ M).sub_(outer, alpha=0.5).sub_(outer.T, alpha=0.5)  # dM = -M dA M
        to_alpha = to_A.trace()
        to_K = to_A.mul_(s / level).mul_(s[:, None])
        to_level = -torch.dot(to_K.ravel(), K.ravel()) / level
        to_K.diagonal().add_(to_level * share)
        return to_K, to_alpha, None, None
