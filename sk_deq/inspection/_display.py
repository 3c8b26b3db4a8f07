"""What the displays share: the axes they draw on, colours and lines."""

from itertools import cycle

COLORS = ("black", "C0", "C1", "C2", "C3", "C4", "C5")
LINES = ("-", "--", "-.", ":")


class Display:
    """What the displays share: the axes they draw on."""

    def _new_axes(self, n_rows=1, **kwargs):
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                f"{type(self).__name__}.plot needs matplotlib: pip install 'sk-deq[plot]'."
            ) from error
        return plt.subplots(n_rows, layout="constrained", **kwargs)[1]

    def _axes(self, ax):
        self.ax_ = self._new_axes() if ax is None else ax
        self.figure_ = self.ax_.figure
        return self.ax_

    def _lines(self, curves, kwargs):
        """Draw {name: (x, y)} with a legend; set ``lines_``."""
        self.lines_ = []
        for (name, (x, y)), color, line in zip(
            curves.items(), cycle(COLORS), cycle(LINES), strict=False
        ):
            style = {"color": color, "linestyle": line, "label": name, **kwargs}
            self.lines_ += self.ax_.plot(x, y, **style)
        self.ax_.legend()
