"""Warnings that point at the user's own line."""

import sys
import warnings

_BETWEEN = {"sk_deq", "sklearn", "skorch", "torch"}  # packages between the user and the cause


def warn(message, category):
    """Issue a warning from the innermost frame that is not of this package or one it stands on."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
