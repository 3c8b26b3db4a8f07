"""Kernels of the angle between rows (c, x), for all candidates from one Gram matrix."""

import torch

from .._theory.univariate import angular_kernel
from .candidates import without_bias


def cosines(gram):
    """Cosines of rows with this Gram matrix, and the products of their norms, 1 where that is 0."""
    norms = gram.diagonal().sqrt()
    products = norms[:, None] * norms
    r = (gram / (products + (products == 0))).clamp_(-1, 1)
    r.fill_diagonal_(1)  # exactly: kappa may have a cusp there
    return r, products


def angle_kernel(parameters, gram):
    """kappa(cos), or its product with the norms, of rows (c, x) with this Gram matrix."""
    r, products = cosines(gram)
    K = next(angular_kernel(without_bias(parameters))(r))
    return K if parameters["input_scaling"] == "sphere" else K.mul_(products)


class WeightedKernel(torch.autograd.Function):
    """The kernel of rows (c, x_j v_j^(1/2)) as a function of v and c^2; see `angle_kernel`."""

    @staticmethod
    def forward(ctx, v, square, X, table, sphere):
        r, products = cosines(torch.addmm(square, X * v, X.T))
        kappa, slope = table.with_slope(r)
        ctx.save_for_backward(X, r, products, kappa, slope)
        ctx.sphere = sphere
        return kappa.clone() if sphere else kappa * products

    @staticmethod
    def backward(ctx, gradient):
        X, r, products, kappa, slope = ctx.saved_tensors
        to_gram = gradient * slope
        if ctx.sphere:
            to_gram /= products + (products == 0)
            to_products = -r * to_gram
        else:
            to_products = gradient * (kappa - r * slope)
        norms = products.diagonal().sqrt()
        to_norms = to_products @ norms + to_products.T @ norms
        to_squares = torch.where(norms > 0, to_norms / (2 * norms), 0)
        to_v = (X * (to_gram @ X)).sum(0) + to_squares @ X.square()
        return to_v, to_gram.sum() + to_squares.sum(), None, None, None
