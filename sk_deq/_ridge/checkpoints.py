"""Landmark sums that are kept on the way, so that a pass over many rows can be stopped."""

from dataclasses import fields

from .._checkpoint import Checkpoint, require_seed

_EVERY = 10.0  # seconds between two files: at 2,000 landmarks one has 61 MiB
_FREE = {"checkpoint_dir", "landmarks", "given", "seed"}  # told otherwise


def require_resumable(estimator):
    """Raise a ValueError for a `checkpoint_dir` where a later process could not go on."""
    if estimator.checkpoint_dir is None:
        return
    if estimator.solver != "nystroem":
        raise ValueError(
            f"checkpoint_dir needs solver='nystroem', got solver={estimator.solver!r}: what is "
            "kept is its sums over rows."
        )
    require_seed(estimator)


def require_no_checkpoint(estimator, remedy):
    """Raise a ValueError for a `checkpoint_dir` where nothing would be kept."""
    if estimator.checkpoint_dir is not None:
        raise ValueError(f"checkpoint_dir must be None here: {remedy}")


def checkpoint_of_sums(config, features, rows):
    """The Checkpoint for the sums of TrainingRows, or None; see `accumulate`."""
    if config.checkpoint_dir is None:
        return None
    told = {field.name: getattr(config, field.name) for field in fields(config)}
    parameters = config.given | {k: v for k, v in told.items() if k not in _FREE}
    start = features.landmarks, features.factor  # in which kernel and scales are
    return Checkpoint(
        config.checkpoint_dir, parameters, [rows.keys, rows.y, rows.w], start, every=_EVERY
    )
