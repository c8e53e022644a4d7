"""The definition of epochs, steps and batches: everything that runs is on this page."""

from __future__ import annotations

import functools
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from epochal.callbacks.base import CallbackList, Display, Logs
from epochal.feed import Feed
from epochal.objective import Tally
from epochal.step import Steps, TestRunner, TrainRunner


class Interrupts:
    """Ctrl-C while a method runs: heard at once while data is waited for, otherwise where the model is whole.

    The first press waits for the end of the execution or hook that is under way. The second is heard at once, but for
    the moment between an execution's start, which uses up the model's arrays, and the arrival of the new ones. The
    third is heard even there: it may be a step that hangs.
    """

    def __init__(self) -> None:
        self._presses = 0
        self._waiting = self._updating = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Takes Ctrl-C over; only the main thread can, and only where it is not ignored."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
            yield
            return
        signal.signal(signal.SIGINT, self._on_press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        self.check()  # a press in the last hook

    def _on_press(self, number: int, frame: Any) -> None:
        self._presses += 1
        if self._waiting or self._presses > (2 if self._updating else 1):
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C was pressed; called where the model is whole."""
        if self._presses:
            raise KeyboardInterrupt

    def wait_for(self, data: Callable, *arguments: Any) -> Any:
        """The result of a function that fetches data: data that never comes can be interrupted."""
        self.check()
        self._waiting = True
        try:
            return data(*arguments)
        finally:
            self._waiting = False

    def whole(self, update: Callable[..., Tally], *arguments: Any) -> Tally:
        """The result of a function that takes the model's arrays and leaves others."""
        self._updating = True
        try:
            return update(*arguments)
        finally:
            self._updating = False


@dataclass
class Session:
    """One call of fit or evaluate: what it runs, and who watches.

    Attributes:
        model: carries `stop_training` and `stop_evaluating`.
        steps: the model's programs.
        callbacks: the user's callbacks, then the History.
        display: shows progress.
        steps_per_execution: "auto" or a number.
        interrupts: how Ctrl-C is heard.
        pace: steps per execution that passes of each kind have arrived at.
    """

    model: Any
    steps: Steps
    callbacks: CallbackList
    display: Display
    steps_per_execution: int | str = "auto"
    interrupts: Interrupts = field(default_factory=Interrupts)
    pace: dict[str, int] = field(default_factory=lambda: {"train": 1, "test": 1})


def train(session: Session, feed: Feed, seed: int, epochs: range, validate: Callable[[int], Logs | None]) -> None:
    """Runs the epochs `epochs`; `validate(epoch)` returns the epoch's validation values, or None when it is skipped."""
    calls, display, model = session.callbacks, session.display, session.model
    logs: Logs = {}
    model.stop_training = False
    calls.call("on_train_begin", {})
    display.train_begin(epochs.stop)
    for epoch in epochs:
        if not session.interrupts.wait_for(feed.begin, epoch):
            _say_dry(feed, epoch, epochs)
            break
        calls.call("on_epoch_begin", epoch, {})
        display.epoch_begin(epoch, feed.steps)
        runner = TrainRunner(session.steps, feed.padded, seed, epoch)
        logs = run_pass(session, runner, feed, epoch)
        feed.end_epoch()
        values = validate(epoch)
        if values is not None:
            logs.update({f"val_{name}": value for name, value in values.items()})
        calls.call("on_epoch_end", epoch, logs)
        display.epoch_end(epoch, logs)
        if model.stop_training:
            break
        if feed.dry and (feed.short or epoch + 1 < epochs.stop):
            _say_dry(feed, epoch + 1, epochs)
            break
    calls.call("on_train_end", logs)


def _say_dry(feed: Feed, done: int, epochs: range) -> None:
    """The data ended before the last epoch did."""
    needed = "" if feed.limit is None else f" of the {feed.limit * len(epochs)} needed"
    warnings.warn(
        f"The data ended after {feed.drawn} batches{needed}: training ends with epoch {done} of {epochs.stop}. Pass "
        "fewer epochs or steps_per_epoch, or data that can be gone over again (a dataset or a PyDataset).",
        stacklevel=4,
    )


def test(session: Session, feed: Feed) -> Logs | None:
    """One pass over the data with the test program; the values over all examples, None where there are none."""
    if not session.interrupts.wait_for(feed.begin, 0):
        return None
    session.model.stop_evaluating = False
    session.callbacks.call("on_test_begin", {})
    logs = run_pass(session, TestRunner(session.steps, feed.padded), feed, 0)
    feed.end_epoch()
    session.callbacks.call("on_test_end", logs)
    return logs


def evaluation(session: Session, feed: Feed) -> Logs:
    """What `evaluate` reports; a warning where the data ended before all batches that were asked for."""
    logs = test(session, feed) or {}
    if feed.short:
        warnings.warn(f"The data ended: {feed.batches} of {feed.limit} batches were evaluated.", stacklevel=3)
    return logs


def validation(session: Session, feed: Feed) -> Logs | None:
    """The values of a validation inside `fit`; None, with a warning, where the data does not suffice any more."""
    logs = test(session, feed)
    if logs is not None and not feed.short:
        return logs
    came = f"{feed.batches} of {feed.limit} batches came" if logs is not None else "no batch came"
    warnings.warn(
        f"The validation data has ended: {came}, so the epoch has no val_ values. Pass fewer validation_steps, or data "
        "that can be gone over again (a dataset or a PyDataset).",
        stacklevel=5,
    )
    return None


def run_pass(session: Session, runner: TrainRunner | TestRunner, feed: Feed, epoch: int) -> Logs:
    """One pass over the data, for training and testing alike: blocks of batches, cut into executions."""
    tally: Tally | None = None
    watch = Watch(session, runner, feed.steps)
    blocks = feed.epoch(epoch, watch.chunk)
    fetch = functools.partial(session.interrupts.wait_for, next, blocks, None)
    while not watch.stopped and (fetched := fetch()) is not None:  # nothing is fetched after the last batch
        block, steps = fetched
        tally = runner.start(block) if tally is None else tally
        arguments = runner.arguments(block, tally)
        if not runner.program.ready(*arguments):
            session.display.compiling(runner.kind)
        executable = runner.program.executable(*arguments)
        first = 0
        while first < steps and not watch.stopped:
            last = min(first + watch.steps_ahead(), steps)
            watch.before()
            tally = session.interrupts.whole(runner.run, executable, block, tally, first, last)
            watch.after(last - first, tally)
            first = last
    watch.finish(tally)
    return {} if tally is None else runner.read(tally)


class Watch:
    """Decides how many steps the next execution runs, and tells whoever observes batches.

    With a callback that observes batches: one step (or `steps_per_execution`) at a time. Otherwise as many as take
    about `SLICE` seconds, so that the display moves and Ctrl-C is heard; at most two executions are under way.
    """

    SLICE = 0.04

    def __init__(self, session: Session, runner: TrainRunner | TestRunner, steps: int | None):
        self._session, self._runner, self._kind, self._steps = session, runner, runner.kind, steps
        self._observed = session.callbacks.observes(runner.kind)
        given = session.steps_per_execution
        self._fixed = given if isinstance(given, int) else 1 if self._observed else None
        self._done = 0
        self._flying: deque[tuple[Tally, int, int]] = deque()
        self._landed_at = time.perf_counter()

    @property
    def chunk(self) -> int | None:
        """Results are looked at after so many steps; None when nobody looks at a certain step."""
        return self._fixed if self._observed else None

    @property
    def stopped(self) -> bool:
        """Whether a callback has asked to stop within the pass."""
        model = self._session.model
        return model.stop_training if self._kind == "train" else model.stop_evaluating

    def steps_ahead(self) -> int:
        """How many steps the next execution should run."""
        return self._session.pace[self._kind] if self._fixed is None else self._fixed - self._done % self._fixed

    def before(self) -> None:
        """Before an execution."""
        if self._observed and self._done % (self._fixed or 1) == 0:
            self._session.callbacks.call(f"on_{self._kind}_batch_begin", self._done, {})
        self._session.interrupts.check()

    def after(self, steps: int, tally: Tally) -> None:
        """After an execution of so many steps was sent off."""
        self._done += steps
        if self._observed and self._done % (self._fixed or 1) == 0:
            self._tell_end(tally)
        self._flying.append((tally, self._done, steps))
        if len(self._flying) > 1:
            self._land()

    def finish(self, tally: Tally | None) -> None:
        """After the last execution of a pass: the last batches may be fewer than `steps_per_execution`."""
        if self._observed and tally is not None and self._done % (self._fixed or 1) != 0:
            self._tell_end(tally)

    def _tell_end(self, tally: Tally) -> None:
        self._session.callbacks.call(f"on_{self._kind}_batch_end", self._done - 1, self._runner.read(tally))

    def _land(self) -> None:
        """Waits for the oldest execution under way; what is shown is read from it, one execution late."""
        tally, done, steps = self._flying.popleft()
        jax.block_until_ready(tally)
        now = time.perf_counter()
        self._session.display.progress(self._kind, done, self._steps, lambda: self._runner.read(tally))
        if self._fixed is None:
            per_step = max((now - self._landed_at) / steps, 1e-7)
            # At most eightfold at once: the first executions are too short to be measured well.
            pace = self._session.pace
            pace[self._kind] = max(1, min(8 * pace[self._kind], int(self.SLICE / per_step)))
        self._landed_at = now


def predict(session: Session, chunks: Iterator[tuple[Any, int]], steps: int | None) -> list[Any]:
    """The model's outputs chunk by chunk on the host; each is fetched while the next is computed."""
    calls, display, model = session.callbacks, session.display, session.model
    program = session.steps.program("predict", padded=False)
    parts = session.steps.parts
    results: list[Any] = []
    pending: tuple[Any, int] | None = None
    model.stop_predicting = False
    calls.call("on_predict_begin", {})
    display.epoch_begin(0, steps)
    fetch = functools.partial(session.interrupts.wait_for, next, chunks, None)
    for i, (x, rows) in enumerate(iter(fetch, None)):
        x = jax.device_put(x)
        calls.call("on_predict_batch_begin", i, {})
        params, buffers = parts.collect()
        outputs, kept = program.executable(params, buffers, x)(params, buffers, x)
        if kept is not None:
            parts.publish(params, kept)
        if pending is not None:
            results.append(_fetch(*pending))
        pending = (outputs, rows)
        if calls.observes("predict"):
            results.append(_fetch(*pending))
            pending = None
            calls.call("on_predict_batch_end", i, {"outputs": results[-1]})
        display.progress("predict", i + 1, steps, dict)
        if model.stop_predicting:
            break
    if pending is not None:
        results.append(_fetch(*pending))
    display.epoch_end(0, {})
    calls.call("on_predict_end", {})
    return results


def _fetch(outputs: Any, rows: int) -> Any:
    """Copies, since on a CPU what `asarray` gives is the device's memory."""
    return jax.tree.map(lambda a: np.asarray(a)[:rows].copy(), outputs)
