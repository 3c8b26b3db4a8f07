"""skorch's callbacks that a user brings: those that would have no effect are refused by name."""

from copy import deepcopy

from skorch import callbacks as known

_REASONS = {
    ("LRScheduler", "WarmRestartLR"): "the learning rate rises to lr and falls, whatever it says",
    ("EpochScoring", "BatchScoring"): "history_ has the losses and accuracies of every epoch",
    ("ProgressBar",): "verbose=1 tells how far a fit is",
}
_REFUSED = {
    getattr(known, name): reason
    for names, reason in _REASONS.items()
    for name in names
    if hasattr(known, name)
}


def copied(callbacks):
    """Copies of callbacks, each alone or with a name.

    Raises
    ------
    TypeError
        If one is not skorch's.
    ValueError
        If one would have no effect, or fail, in training that has a loop and rates of its own.
    """
    for given in callbacks or []:
        callback = _alone(given)
        if not hasattr(callback, "on_train_begin"):
            raise TypeError(f"callbacks must be those of skorch, got {given!r}.")
        for kind, reason in _REFUSED.items():
            if isinstance(callback, kind):
                name = type(callback).__name__
                raise ValueError(f"callbacks: {name} is of no use here: {reason}.")
    return [deepcopy(given) for given in callbacks or []]


def require_validation(callbacks):
    """Raise a ValueError if a callback looks at held-out rows, of which there are none."""
    for _, callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor.startswith("valid_"):
            raise ValueError(
                f"callbacks: {type(callback).__name__} monitors {monitor!r}, and no rows are held "
                "out: set early_stopping=True, pass X_val and y_val, or monitor='train_loss'."
            )


def _alone(given):
    return given[-1] if isinstance(given, tuple) else given
