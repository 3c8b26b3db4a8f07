"""scikit-learn's callback protocol (1.9 and later): it is told of fits and of their epochs."""

from skorch.callbacks import Callback

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:
        """Nothing: this scikit-learn has no callbacks."""


class FitTask:
    """One call of fit, or of one of its epochs, as the callbacks of an estimator see it."""

    def __init__(self, context, **arguments):
        self.context, self.arguments = context, arguments
        if context is not None:
            context.call_on_fit_task_begin(**arguments)

    def end(self):
        """Tell that it ended; returns whether a callback wants the ones after it not to begin."""
        if self.context is None:
            return False
        # what predictions need are attributes of the estimator by now
        return self.context.call_on_fit_task_end(**self.arguments, reconstruction_attributes={})

    def epoch(self):
        """Begin an epoch."""
        return FitTask(self.context.subcontext("epoch"), **self.arguments)


def begin_fit(estimator, X, y=None, sample_weight=None, max_epochs=0):
    """Tell the estimator's callbacks that fit begins; returns the FitTask."""
    context = None
    if hasattr(estimator, "_init_callback_context"):
        context = estimator._init_callback_context(max_subtasks=max_epochs)
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    return FitTask(context, estimator=estimator, X=X, y=y, metadata=metadata)


class TellEpochs(Callback):
    """skorch's callback that passes epochs on to a FitTask."""

    def __init__(self, task):
        self.task = task

    def on_epoch_begin(self, net, **kwargs):
        self.epoch = self.task.epoch()

    def on_epoch_end(self, net, **kwargs):
        if self.epoch.end():
            raise KeyboardInterrupt  # ends the training, see TrainingNet.notify
