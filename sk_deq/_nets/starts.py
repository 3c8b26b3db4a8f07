"""How the fixed points of a training are solved: loosely, from the last solution of the same row.

A step of training changes the weights a little, so a row's last solution is near its next one; and
the error that a loose tolerance leaves is small beside the noise of a step.
"""

import torch

TRAINING_TOL = 0.01  # relative, where the user's is not looser
ONE_BATCH_TOL = 0.001  # the same of steps that take all rows: each starts where the last one ended
GRADIENT_TOL = 0.2  # of gradients, which vary more than that from batch to batch
_BUDGET = 2**28  # bytes that may be kept, forward and backward together


class Starts:
    """The last solutions of the training rows, `kept`, of which `rows` are being solved for.

    A row without a last solution that is finite starts cold.
    """

    def __init__(self, n_rows, like):
        shape = n_rows, len(like)
        self.rows = slice(None)
        self.kept = {k: like.new_full(shape, torch.nan) for k in ("forward", "backward")}

    def restore(self, kept):
        """Go on from solutions kept by other Starts."""
        for stage, solutions in kept.items():
            self.kept[stage].copy_(solutions)

    def take(self, stage, cold):
        """Where to start, for rows that start at `cold` if nothing is known of them."""
        kept = self.kept[stage][self.rows]
        if stage == "backward":
            kept = kept * _dot(kept, cold)
        return torch.where(torch.isfinite(kept.sum(1, keepdim=True)), kept, cold)

    def keep(self, stage, cold, solution):
        """Remember what the rows have been solved to.

        The adjoint g = v + J^T g is linear in v = `cold`, the gradient of the loss, whose scale
        and sign change: the next start is the Galerkin solution in the direction of the last g,
        g (g . v_next) / (g . v).
        """
        if stage == "backward":
            solution = solution / _dot(solution, cold).sqrt()
        self.kept[stage][self.rows] = solution


def _dot(a, b):
    return (a * b).sum(1, keepdim=True)


def options_of_training(features, n_rows, max_epochs, one_batch=False):
    """Keywords of the solves of `features` while they are trained, and what to tell of them.

    The dict is empty for features that are no fixed points. `one_batch` says whether a batch has
    all the rows.
    """
    if not hasattr(features, "training_options"):
        return {}, ""
    tol = ONE_BATCH_TOL if one_batch else TRAINING_TOL
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
