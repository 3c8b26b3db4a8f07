"""Which fits of a network can be kept after every epoch; `checkpoints` keeps them."""

from .._checkpoint import require_seed


def require_resumable(estimator, partial):
    """Raise a ValueError for a `checkpoint_dir` where a later process could not go on."""
    if estimator.checkpoint_dir is None:
        return
    if partial:
        raise ValueError(
            "checkpoint_dir is for fit: partial_fit has no epochs of its own; save the model by "
            "sk_deq.export.save after a chunk, and set checkpoint_dir=None."
        )
    if estimator._solves_readout:
        raise ValueError(
            "checkpoint_dir needs train='all': with train='readout' the readout is solved for, and "
            "there are no epochs."
        )
    if estimator.callbacks:
        raise ValueError(
            "checkpoint_dir needs callbacks=None: what they remember cannot be kept. "
            "early_stopping=True and verbose=1 need no callbacks."
        )
    require_seed(estimator)
