"""The kernel of a convolutional DEQ between images, as random features of patches that are pooled.

A DEQ whose weights A (a 1 x 1 convolution) and B (one of `size` x `size`) are shared by all places
of an image has at each place p the fixed point z_p = phi(A z_p + B x_p) of the patch x_p there. At
infinite width the places of two images are related as two rows are, E z_p . z_q = k(x_p, y_q), k
the DEQ's kernel; pooled by windows g_c(p) and read out linearly, its kernel between images is

    K(X, Y) = sum_pq w_pq k(x_p, y_q),        w_pq = sum_c g_c(p) g_c(q).

With features z of k (`KernelMatcher`) the features of K are sums in windows, sum_p g_c(p) z(x_p),
one block for each window c: a pass over the patches, and no sum over their pairs.
"""

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin

from sk_deq import KernelMatcher
from sk_deq.kernels import deq_kernel

_IMAGES_OF_FIT, _PATCHES_OF_FIT = 1000, 50_000
_BATCH = 2**20  # entries of the features that are computed at once


class PatchFeatures(TransformerMixin, BaseEstimator):
    """Pooled features of patches; rows are square grey images.

    Patches, around every pixel, are less their mean, divided by their deviation, with `contrast`
    added in quadrature, and whitened, with `shrinkage` times the mean eigenvalue added to all.
    """

    def __init__(
        self, n_components=128, *, size=5, grid=4, contrast=0.1, shrinkage=1.0, kernel="ck",
        activation="relu", recurrent_var=0.2, random_state=None,
    ):  # fmt: skip
        self.n_components, self.size, self.grid = n_components, size, grid
        self.contrast, self.shrinkage = contrast, shrinkage
        self.kernel, self.activation, self.recurrent_var = kernel, activation, recurrent_var
        self.random_state = random_state

    def fit(self, X, y=None):
        """Whiten patches of some of the images, and draw the weights."""
        patches = self._normalised(X[:_IMAGES_OF_FIT])
        self.n_places_ = round(patches.shape[1] ** 0.5)  # in a row of them
        patches = patches.flatten(0, 1)
        generator = torch.Generator().manual_seed(0)
        patches = patches[torch.randperm(len(patches), generator=generator)[:_PATCHES_OF_FIT]]
        values, U = torch.linalg.eigh((patches.T @ patches / len(patches)).double())
        values = values.clamp_min(0) + self.shrinkage * values.mean()
        whitening = ((U / values.sqrt()) @ U.T).to(patches)
        # to a root-mean-square norm of 1
        self.whitening_ = whitening / (patches @ whitening).square().sum(1).mean().sqrt()
        self.windows_ = torch.as_tensor(windows(self.n_places_, self.grid)).to(patches)
        # a patch without contrast is 0, and its features are, as nothing is subtracted from phi
        spec = {"kernel": self.kernel, "activation": self.activation, "center": False}
        spec |= {"recurrent_var": self.recurrent_var, "random_state": self.random_state}
        self.matcher_ = KernelMatcher(
            self.n_components, input_scaling=None, dtype="float32", **spec
        )
        self.matcher_.fit((patches @ self.whitening_).numpy())
        return self

    def transform(self, X):
        """Features of images (n, n_pixels): (n, grid^2 * n_components), float32."""
        m, d = self.n_places_, self.n_components
        F = np.empty((len(X), self.grid**2 * d), dtype=np.float32)
        size = max(1, _BATCH // (m * m * d))
        for start in range(0, len(X), size):
            patches = self.patches(X[start : start + size])
            Z = torch.as_tensor(self.matcher_.transform(patches.flatten(0, 1).numpy()))
            Z = self.windows_ @ Z.reshape(len(patches), m, m * d)  # first down, then across
            Z = self.windows_ @ Z.reshape(len(patches) * self.grid, m, d)
            F[start : start + size] = Z.reshape(len(patches), -1)
        return F

    def kernel_matrix(self, X):
        """K between images without random features: the sum over pairs of patches, slow."""
        patches = self.patches(X).double().numpy()
        n = len(patches)
        G = self.windows_.double().numpy()
        W = np.kron(G.T @ G, G.T @ G)
        spec = {k: getattr(self, k) for k in ("kernel", "activation", "recurrent_var")}
        K = np.empty((n, n))
        for i in range(n):
            for j in range(i + 1):
                k = deq_kernel(patches[i], patches[j], tau0=1.0, center=False, **spec)
                K[i, j] = K[j, i] = (W * k).sum()
        return K

    def patches(self, X):
        """Patches of images as the DEQ gets them, (n, n_patches, n_pixels of one)."""
        return self._normalised(X) @ self.whitening_

    def _normalised(self, X):
        side = round(X.shape[1] ** 0.5)
        images = torch.as_tensor(np.asarray(X, dtype=np.float32)).reshape(-1, 1, side, side)
        patches = torch.nn.functional.unfold(images, self.size, padding=self.size // 2).mT
        patches = patches - patches.mean(2, keepdim=True)
        return patches / (patches.square().mean(2, keepdim=True) + self.contrast**2).sqrt()


def windows(n_places, n_cells):
    """Gaussian windows around the centres of cells, of unit norm: (n_cells, n_places)."""
    size = n_places / n_cells
    centres = (np.arange(n_cells) + 0.5) * size - 0.5
    G = np.exp(-2 * ((np.arange(n_places) - centres[:, None]) / size) ** 2)
    return G / np.linalg.norm(G, axis=1, keepdims=True)
