"""scikit-learn's callback protocol (1.9 and later): it is told of fits and of their parts."""

from ._progress import listen

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:
        """Nothing: this scikit-learn has no callbacks."""


class FitTask:
    """One call of fit, or one of its epochs or stages, as the callbacks of an estimator see it.

    `attributes` are those that the estimator will predict with, where it does not have them yet;
    None where it cannot predict yet.
    """

    def __init__(self, context, attributes, **arguments):
        self.context, self.attributes, self.arguments = context, attributes, arguments
        if context is not None:
            context.call_on_fit_task_begin(**arguments)

    def end(self):
        """Tell that it ended; returns whether a callback wants the ones after it not to begin."""
        if self.context is None:
            return False
        return self.context.call_on_fit_task_end(
            **self.arguments, reconstruction_attributes=self.attributes
        )

    def epoch(self):
        """Begin an epoch."""
        return FitTask(self.context.subcontext("epoch"), self.attributes, **self.arguments)

    def stage(self, name, total):
        """Begin a stage of so many steps."""
        return FitTask(self.context.subcontext(name, max_subtasks=total), None, **self.arguments)

    def step(self):
        """Tell that a step of a stage has been done."""
        FitTask(self.context.subcontext("step"), None, **self.arguments).end()


def begin_fit(estimator, X, y=None, sample_weight=None, max_epochs=None, attributes=None):
    """Tell the estimator's callbacks that fit begins; returns the FitTask.

    Without `max_epochs` its parts are stages, see `_progress`.
    """
    context = None
    if hasattr(estimator, "_init_callback_context"):
        context = estimator._init_callback_context(max_subtasks=max_epochs)
    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    task = FitTask(context, attributes or {}, estimator=estimator, X=X, y=y, metadata=metadata)
    if max_epochs is None and hasattr(estimator, "_skl_callbacks"):
        listen(task)
    return task
