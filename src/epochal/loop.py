"""The definition of epochs, steps and batches: everything that runs is on this page."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from epochal.callbacks.base import CallbackList, Display, Logs
from epochal.feed import ArrayFeed
from epochal.step import Steps, Sums, TestRunner, TrainRunner


@dataclass
class Session:
    """One call of fit or evaluate: what it runs, and who watches.

    Attributes:
        model: carries `stop_training` and `stop_evaluating`.
        steps: the model's programs.
        callbacks: the user's callbacks, then the History.
        display: shows progress.
        steps_per_execution: "auto" or a number.
        interrupted: set by Ctrl-C; looked at between executions.
        pace: steps per execution that passes of each kind have arrived at.
    """

    model: Any
    steps: Steps
    callbacks: CallbackList
    display: Display
    steps_per_execution: int | str = "auto"
    interrupted: threading.Event = field(default_factory=threading.Event)
    pace: dict[str, int] = field(default_factory=lambda: {"train": 1, "test": 1})


def train(session: Session, feed: ArrayFeed, seed: int, epochs: range, validate: Callable[[int], Logs | None]) -> None:
    """Runs the epochs `epochs`; `validate(epoch)` returns the epoch's validation values, or None when it is skipped."""
    calls, display, model = session.callbacks, session.display, session.model
    logs: Logs = {}
    calls.call("on_train_begin", {})
    display.train_begin(epochs.stop)
    for epoch in epochs:
        calls.call("on_epoch_begin", epoch, {})
        display.epoch_begin(epoch, feed.steps)
        runner = TrainRunner(session.steps, feed.padded, seed, epoch)
        logs = run_pass(session, runner, feed, epoch)
        values = validate(epoch)
        if values is not None:
            logs.update({f"val_{name}": value for name, value in values.items()})
        calls.call("on_epoch_end", epoch, logs)
        display.epoch_end(epoch, logs)
        if model.stop_training:
            break
    calls.call("on_train_end", logs)


def test(session: Session, feed: ArrayFeed) -> Logs:
    """One pass over the data with the test program; the values over all examples."""
    session.callbacks.call("on_test_begin", {})
    logs = run_pass(session, TestRunner(session.steps, feed.padded), feed, 0)
    session.callbacks.call("on_test_end", logs)
    return logs


def run_pass(session: Session, runner: TrainRunner | TestRunner, feed: ArrayFeed, epoch: int) -> Logs:
    """One pass over the data, for training and testing alike: blocks of batches, cut into executions."""
    objective = session.steps.objective
    assert objective is not None
    sums: Any = np.zeros((2, objective.width), np.float32)
    watch = Watch(session, runner.kind, feed.steps, lambda sums: objective.read(sums))
    done = 0
    for block in feed.epoch(epoch):
        if watch.stopped:
            break
        arguments = runner.arguments(block, sums)
        if not runner.program.ready(*arguments):
            session.display.compiling(runner.kind)
        executable = runner.program.executable(*arguments)
        first = 0
        while first < block.steps and not watch.stopped:
            last = min(first + watch.steps_ahead(), block.steps)
            watch.before(done + first)
            sums = runner.run(executable, block, sums, first, last)
            watch.after(done + last, last - first, sums)
            first = last
        done += block.steps
    return objective.read(sums)


class Watch:
    """Decides how many steps the next execution runs, and tells whoever observes batches.

    With a callback that observes batches: one step (or `steps_per_execution`) at a time. Otherwise as many as take
    about `SLICE` seconds, so that the display moves and Ctrl-C is heard; at most two executions are under way.
    """

    SLICE = 0.04

    def __init__(self, session: Session, kind: str, steps: int | None, read: Callable[[Sums], Logs]):
        self._session, self._kind, self._steps, self._read = session, kind, steps, read
        self._observed = session.callbacks.observes(kind)
        given = session.steps_per_execution
        self._fixed = given if isinstance(given, int) else 1 if self._observed else None
        self._flying: deque[tuple[Sums, int, int]] = deque()
        self._landed_at = time.perf_counter()

    @property
    def stopped(self) -> bool:
        """Whether a callback has asked to stop within the pass."""
        model = self._session.model
        return model.stop_training if self._kind == "train" else model.stop_evaluating

    def steps_ahead(self) -> int:
        """How many steps the next execution should run."""
        return self._fixed or self._session.pace[self._kind]

    def before(self, first: int) -> None:
        """Before the execution whose first batch is `first`."""
        if self._session.interrupted.is_set():
            raise KeyboardInterrupt
        if self._observed:
            self._session.callbacks.call(f"on_{self._kind}_batch_begin", first, {})

    def after(self, done: int, steps: int, sums: Sums) -> None:
        """After the execution that brought the batches of the pass to `done` was sent off."""
        if self._observed:
            self._session.callbacks.call(f"on_{self._kind}_batch_end", done - 1, self._read(sums))
        self._flying.append((sums, done, steps))
        if len(self._flying) > 1:
            self._land()

    def _land(self) -> None:
        """Waits for the oldest execution under way; what is shown is read from it, one execution late."""
        sums, done, steps = self._flying.popleft()
        jax.block_until_ready(sums)
        now = time.perf_counter()
        self._session.display.progress(self._kind, done, self._steps, lambda: self._read(sums))
        if self._fixed is None:
            per_step = max((now - self._landed_at) / steps, 1e-7)
            # At most eightfold at once: the first executions are too short to be measured well.
            pace = self._session.pace
            pace[self._kind] = max(1, min(8 * pace[self._kind], int(self.SLICE / per_step)))
        self._landed_at = now


@contextmanager
def interrupts(interrupted: threading.Event) -> Iterator[None]:
    """Makes the first Ctrl-C wait for the end of the execution, which leaves the model whole; the second is at once."""
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        interrupted.set()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def predict(session: Session, chunks: Iterator[tuple[Any, int]], steps: int) -> list[Any]:
    """The model's outputs chunk by chunk on the host; each is fetched while the next is computed."""
    calls, display, model = session.callbacks, session.display, session.model
    program = session.steps.program("predict", padded=False)
    params, buffers = session.steps.parts.collect()
    results: list[Any] = []
    pending: tuple[Any, int] | None = None
    calls.call("on_predict_begin", {})
    display.epoch_begin(0, steps)
    for i, (x, rows) in enumerate(chunks):
        if session.interrupted.is_set():
            raise KeyboardInterrupt
        x = jax.device_put(x)
        calls.call("on_predict_batch_begin", i, {})
        outputs = program.executable(params, buffers, x)(params, buffers, x)
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
    return jax.tree.map(lambda a: np.asarray(a)[:rows], outputs)
