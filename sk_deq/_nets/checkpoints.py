"""Training that can be stopped at any moment: after every epoch, all that it depends on is kept."""

from skorch.callbacks import Callback

from .._checkpoint import Checkpoint

# of the parameters: what does not change the weights, or is told by data and first weights
_FREE = {"checkpoint_dir", "verbose", "random_state", "teacher", "callbacks", "warm_start"}


class KeepEpochs(Callback):
    """Write every epoch to a Checkpoint; begin with what is found in it.

    To be the last of the callbacks of a TrainingNet: it asks whether one of them ends the training.

    Parameters
    ----------
    checkpoint : Checkpoint
    best : callback
        The one that remembers the best weights.
    """

    def __init__(self, checkpoint, best):
        self.checkpoint, self.best = checkpoint, best

    def on_train_begin(self, net, **kwargs):
        state = self.checkpoint.state
        if state is None:
            return
        net.module_.load_state_dict(state["module"])
        net.optimizer_.load_state_dict(state["optimizer"])
        net.generator.set_state(state["generator"])
        net.steps_ = state["steps"]
        if "starts" in net.solving:
            net.solving["starts"].restore(state["starts"])
        vars(self.best).update(state["best"])
        net.history.extend({**epoch, "batches": []} for epoch in state["history"])
        if net.verbose:
            print(f"going on after epoch {len(state['history'])}: {self.checkpoint.path}")
        if state["ended"]:
            raise KeyboardInterrupt  # ends the training, see TrainingNet.notify

    def on_epoch_end(self, net, **kwargs):
        starts = net.solving.get("starts")
        epochs = [{k: v for k, v in epoch.items() if k != "batches"} for epoch in net.history]
        self.checkpoint.write(
            {
                "module": dict(net.module_.state_dict()),
                "optimizer": net.optimizer_.state_dict(),
                "generator": net.generator.get_state(),
                "steps": net.steps_,
                "starts": None if starts is None else starts.kept,
                "best": {k: v for k, v in vars(self.best).items() if k in _REMEMBERED},
                "history": epochs,
                "ended": net.ended_,
            }
        )


_REMEMBERED = ("best_", "waited_", "diverged_", "weights_")


def keep_epochs(estimator, net, data, valid):
    """The KeepEpochs for a fit by `net`, which has a generator; see `train`."""
    parameters = {k: v for k, v in estimator.get_params(deep=False).items() if k not in _FREE}
    checkpoint = Checkpoint(
        estimator.checkpoint_dir, parameters | {"device": str(data[0].device)},
        [*data, *(valid or ())],
        [net.generator.get_state(), *net.module_.state_dict().values()],
    )  # fmt: skip
    return KeepEpochs(checkpoint, net.callbacks_[0][1])
