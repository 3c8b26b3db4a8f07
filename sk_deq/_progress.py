"""How far a fit has come: told at verbose=1, shown by scikit-learn's callbacks, ended by max_time.

The rooms say ``with stage("search", 12) as step`` and ``step()``, ask `out_of_time` where they
could end early, and know nothing of who listens. A fit of an estimator has one `Watch`.
"""

import shutil
import sys
import time
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing import current_process

from sklearn.exceptions import ConvergenceWarning

from ._warn import warn

_SECONDS = 1.0  # between lines at verbose=1; at 2 every step has one
_SHORT = 0.1  # seconds; a stage that took less is not told of at verbose=1
_CELLS = 20  # of a bar
_WATCH: ContextVar = ContextVar("watch", default=None)


class Watch:
    """Who waits for a fit of an estimator, by its parameters `verbose` and `max_time`, if any.

    As a context it covers the fit, and warns at the end where `max_time` has cut it short.
    """

    def __init__(self, estimator):
        name, process = type(estimator).__name__, current_process().name
        self.name = name if process == "MainProcess" else f"{name} {process}"
        self.verbose = int(getattr(estimator, "verbose", 0))
        self.max_time, self.begun = getattr(estimator, "max_time", None), time.monotonic()
        self.busy, self.ended = False, ""
        self.task = None  # of the callbacks; see `begin_fit`

    def __enter__(self):
        self._token = _WATCH.set(self)
        return self

    def __exit__(self, kind, error, traceback):
        _WATCH.reset(self._token)
        if self.ended and error is None:
            warn(
                f"max_time={self.max_time:g} seconds have passed: {self.ended} ended early, at the "
                "best so far. Raise max_time, or give None for no limit.",
                ConvergenceWarning,
            )

    @property
    def share(self):
        """Share of the time that has passed; 0 without a limit."""
        return 0.0 if self.max_time is None else (time.monotonic() - self.begun) / self.max_time

    def write(self, text, bar=False):
        """A line in one call, so that those of several processes do not mix.

        As a bar it is overwritten by the next.
        """
        if bar:
            text = text[: shutil.get_terminal_size().columns - 1]
        sys.stdout.write(f"\r{text}\x1b[K" if bar else f"{text}\n")
        sys.stdout.flush()


class _Stage:
    """One stage of a fit; call it when a step is done."""

    def __init__(self, watch, name, total):
        self.watch, self.name, self.total, self.done = watch, name, total, 0
        self.begun = self.told = time.monotonic()
        self.note, self.bar = "", bool(watch.verbose) and sys.stdout.isatty()
        self.task = watch.task and watch.task.stage(name, total)

    def __call__(self, note=""):
        self.done, self.note = self.done + 1, note
        if self.task is not None:
            self.task.step()
        now = time.monotonic()
        often = self.bar or self.watch.verbose > 1
        if self.watch.verbose and self.done < self.total:
            if often or now - self.told >= _SECONDS:
                self.tell(now)

    def tell(self, now, end=False):
        self.told, passed = now, now - self.begun
        share = self.done / self.total
        cells = round(_CELLS * share)
        parts = [f"{self.watch.name}: {self.name}"]
        if self.total > 1:
            parts.append(f"{self.done}/{self.total}")
        if not end:
            parts += ["[" + "#" * cells + "-" * (_CELLS - cells) + "]"] * self.bar
            left = passed / self.done * (self.total - self.done)
            parts.append(f"{share:.0%}, {left:.0f} s left")
        else:
            parts.append(f"done in {passed:.1f} s")
        self.watch.write("  ".join(parts + [self.note] * bool(self.note)), bar=self.bar)

    def end(self):
        if self.task is not None:
            self.task.end()
        now = time.monotonic()
        if self.watch.verbose > 1 or (self.watch.verbose and now - self.begun >= _SHORT):
            self.tell(now, end=True)
            if self.bar:
                self.watch.write("")


def _nobody(note=""):
    """A step of which nobody wants to know."""


@contextmanager
def stage(name, total=1):
    """A stage of a fit, of so many steps; yields what to call after each.

    A stage within a stage is not told of.
    """
    watch = _WATCH.get()
    if watch is None or watch.busy or not (watch.verbose or watch.task):
        yield _nobody
        return
    watch.busy, told = True, _Stage(watch, name, total)
    try:
        yield told
        told.end()
    finally:
        watch.busy = False


def tell(text):
    """Say something at verbose=1."""
    watch = _WATCH.get()
    if watch is not None and watch.verbose:
        watch.write(f"{watch.name}: {text}")


def listen(task):
    """Have the callbacks' task told of the stages."""
    watch = _WATCH.get()
    if watch is not None:
        watch.task = task


def time_share():
    """Share of max_time that has passed, at most 1; 0 where there is no limit."""
    watch = _WATCH.get()
    return 0.0 if watch is None else min(watch.share, 1.0)


def out_of_time(what):
    """Whether max_time has passed; `what`, the caller, then ends, and a warning names it."""
    watch = _WATCH.get()
    if watch is None or watch.share < 1:
        return False
    watch.ended = watch.ended or what
    return True
