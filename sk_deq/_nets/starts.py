"""How the fixed points of a training are solved: loosely, from the last solution of the same row.

A step of training changes the weights a little, so what a row's last solution added to where it
would start cold is near what its next one adds; and the error that a loose tolerance leaves is
small beside the noise of a step.
"""

import torch

TRAINING_TOL = 0.01  # relative, where the user's is not looser
ONE_BATCH_TOL = 0.001  # the same of steps that take all rows: each starts where the last one ended
_ERROR = 0.025  # of a solution, up to which a layer that contracts fast is solved more loosely
GRADIENT_TOL = 0.2  # of gradients, which vary more than that from batch to batch
_FEW = 32  # entries of a gradient that tell how it has changed
_BUDGET = 2**28  # bytes that may be kept of solutions, forward and backward together


class Starts:
    """What the last solutions of the training rows added to their cold starts, in `kept`.

    `rows` are those being solved for. A row of which nothing is known starts cold: at what x adds
    to the pre-activations a, or at the gradient v of the loss, to which the first Picard iteration
    adds phi(a) W^T, or J^T v. The last solutions know the whole of that.
    """

    def __init__(self, n_rows, like):
        self.rows = slice(None)
        sizes = {"forward": len(like), "backward": len(like), "gradient": min(_FEW, len(like))}
        self.kept = {name: like.new_zeros(n_rows, size) for name, size in sizes.items()}

    def restore(self, kept):
        """Go on from what other Starts kept."""
        for name, rows in kept.items():
            self.kept[name].copy_(rows)

    def take(self, stage, cold):
        """Where to start, for rows that start at `cold` if nothing finite is known of them."""
        added = self.kept[stage][self.rows]
        if stage == "backward":
            added = added * _dot(self.kept["gradient"][self.rows], _few(cold))
        start = cold + added
        return torch.where(torch.isfinite(start.sum(1, keepdim=True)), start, cold)

    def keep(self, stage, cold, solution):
        """Remember what the rows have been solved to.

        The adjoint g = v + J^T g is linear in v = `cold`, whose scale and sign change: what it
        adds is taken times (v . v_next) / (v . v), by a few entries of v, which are at random.
        """
        self.kept[stage][self.rows] = solution - cold
        if stage == "backward":
            v = _few(cold)
            self.kept["gradient"][self.rows] = v / _dot(v, v)


def _few(v):
    return v[:, :_FEW]


def _dot(a, b):
    return (a * b).sum(1, keepdim=True)


def _tolerance(features):
    """Of the residual r, in training: what is missing to the solution is r rho / (1 - rho).

    That is rho r + rho^2 r + ..., where an iteration leaves the share rho of a change: the square
    of rho is the variance of the recurrent weight, or less. The tolerance is 0.1 at most.
    """
    W = features.recurrent_weight.detach()
    rho = max(float(torch.linalg.vector_norm(W)) / len(W) ** 0.5, 0.2)
    return max(TRAINING_TOL, _ERROR * (1 - rho) / rho)


def options_of_training(features, n_rows, max_epochs, one_batch=False):
    """Keywords of the solves of `features` while they are trained, and what to tell of them.

    The dict is empty for features that are no fixed points. `one_batch` says whether a batch has
    all the rows.
    """
    if not hasattr(features, "training_options"):
        return {}, ""
    tol = ONE_BATCH_TOL if one_batch else _tolerance(features)
    options = {"tol": max(features.tol, tol), "gradient_tol": max(features.tol, GRADIENT_TOL)}
    like = features.bias.detach()
    size = 2 * n_rows * len(like) * like.element_size()
    if size > _BUDGET:
        return options, (
            f"fixed points start cold: the last ones of {n_rows} rows would take "
            f"{size / 2**20:.0f} MiB, more than {_BUDGET / 2**20:.0f}"
        )
    if max_epochs > 1:
        options["starts"] = Starts(n_rows, like)
    return options, ""
