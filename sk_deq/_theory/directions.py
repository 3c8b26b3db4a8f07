"""Rows as norms and directions, and the cosines between them."""

from dataclasses import dataclass

import torch

from .._scaling import row_norms


@dataclass
class Rows:
    """Rows X as norms, float64, and rows of norm 1; and what `row_values` says of them."""

    X: torch.Tensor
    norms: torch.Tensor
    unit: torch.Tensor
    values: torch.Tensor | None = None

    @classmethod
    def of(cls, X):
        """For rows X, of any norms."""
        return cls(X, *normalise(X))

    def part(self, index):
        """The rows of an index."""
        values = None if self.values is None else self.values[_cpu(index)]
        return Rows(self.X[index], self.norms[index], self.unit[index], values)

    def cosines(self, other):
        """Cosines with other rows, no less than 1 where they are equal."""
        return (grown(self.unit) @ other.unit.T).clamp_(-1, 1)

    def precise_cosines(self, other):
        """Cosines r and 1 - r^2 in float64, on the CPU, from chords: 1 for parallel rows only.

        To rounding of the rows, and so for opposite ones and -1.
        """
        first, second = (normalise(rows.X.double().cpu())[1] for rows in (self, other))
        mode = "donot_use_mm_for_euclid_dist"
        near, far = (torch.cdist(first, sign * second, compute_mode=mode) for sign in (1, -1))
        for chord in (near, far):
            chord[chord <= 8 * torch.finfo(chord.dtype).eps] = 0
        r = torch.where(near < far, 1 - near * near / 2, far * far / 2 - 1)
        below = torch.nextafter(r.new_ones(()), r.new_zeros(()))
        return torch.where(near > 0, r.clamp_max(below), 1.0), (near * far / 2) ** 2


def _cpu(index):
    return index.cpu() if isinstance(index, torch.Tensor) else index


def normalise(X):
    """Norms (n,), in float64, and rows of norm 1; for norms whose square overflows too."""
    rows = X.double()
    norms = row_norms(rows)
    return norms, (rows / norms.where(norms > 0, 1)[:, None]).to(X)


def grown(unit):
    """Rows whose products with the like are 1 or more, despite rounding, where they are equal."""
    return unit * (1 + 8 * torch.finfo(unit.dtype).eps)
