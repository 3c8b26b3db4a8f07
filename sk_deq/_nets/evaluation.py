"""Evaluating a network in passes, and collecting what its fixed points report."""

from contextlib import contextmanager

import torch

from .._torch import own_modes

# A row's features do not depend on the other rows, so this bounds memory and nothing else.
ROWS_PER_PASS = 4096


def forward_in_passes(module, X):
    """Evaluate `module` on the rows of X without gradients and with bounded memory."""
    module.eval()
    with own_modes(grad=False):
        return torch.cat([module(rows) for rows in X.split(ROWS_PER_PASS)])


class SolverStatistics:
    """Collect what the fixed-point solves of one epoch report, without waiting for the device."""

    def __init__(self):
        self.reset()

    def reset(self):
        self._solves = []

    def __call__(self, solved, stage):
        summary = torch.stack([solved.n_iter.sum(), (~solved.converged).sum()])
        residual = solved.residual if stage == "forward" else solved.residual.new_zeros(1)
        self._solves.append((summary, len(solved.n_iter), residual.max()))

    def summary(self):
        """Mean iterations per row, largest forward residual, unconverged rows, as a dict."""
        if not self._solves:
            return {}
        summaries, rows, residuals = zip(*self._solves, strict=True)
        n_iter, failed = torch.stack(summaries).sum(0).tolist()
        return {
            "fixed_point_n_iter": n_iter / sum(rows),
            "fixed_point_residual": float(torch.stack(residuals).max()),
            "fixed_point_failures": failed,
        }


@contextmanager
def solved_with(features, options):
    """Have the fixed points of `features` solved with the keywords `options`, if there are any."""
    if options:
        features.training_options = options
    try:
        yield
    finally:
        if options:
            features.training_options = None


@contextmanager
def reported_to(features, statistics):
    """Have `statistics` told of the fixed points that are solved, where there are any."""
    if not hasattr(features, "report"):
        yield
        return
    features.report = statistics
    try:
        yield
    finally:
        features.report = None
