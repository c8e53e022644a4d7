"""The definition of epochs, steps and batches: everything that runs is on this page."""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from epochal import micro
from epochal.callbacks.base import Logs
from epochal.callbacks.history import History
from epochal.callbacks.lists import CallbackList
from epochal.callbacks.noise import NoiseScale
from epochal.display import Display
from epochal.feed import Block, Feed, Stretch
from epochal.interrupts import Interrupts
from epochal.nonfinite import First, NonFiniteError, message
from epochal.objective import Tally
from epochal.program import Executable
from epochal.resume import Backup, Mark, Saved, Snapshots
from epochal.runners import TestRunner, TrainRunner
from epochal.step import Steps
from epochal.support.warn import warn
from epochal.trace import Trace


@dataclass
class Session:
    """One call of fit or evaluate: what it runs, and who watches.

    Attributes:
        model: carries `stop_training` and `stop_evaluating`.
        steps: the model's programs.
        callbacks: the user's callbacks, then the History.
        display: shows progress.
        steps_per_execution: "auto" or a number.
        backup: keeps the run as it goes; None does not.
        snapshots: keep it beside models that are written.
        saved: what the run goes on from; None starts it.
        interrupts: how Ctrl-C is heard.
        history: the record of a fit, for what is in no logs.
        until: epoch and batch before which training ends with `Reached`.
        trace: records a profile; None records none.
        trained: examples that training steps have run on.
        waited: seconds in which the device had nothing to do, since data was waited for.
    """

    model: Any
    steps: Steps
    callbacks: CallbackList
    display: Display
    steps_per_execution: int | str = "auto"
    backup: Backup | None = None
    snapshots: Snapshots = field(default_factory=lambda: Snapshots(None, []))
    saved: Saved | None = None
    interrupts: Interrupts = field(default_factory=Interrupts)
    history: History | None = None
    until: tuple[int, int] | None = None
    trace: Trace | None = None
    trained: int = 0
    waited: float = 0.0

    @functools.cached_property
    def listeners(self) -> list[NoiseScale]:
        """The callbacks that ask for the gradient's noise of batches that are cut."""
        return [callback for callback in self.callbacks.callbacks if isinstance(callback, NoiseScale)]

    @property
    def one_in(self) -> Callable[[int], int] | None:
        """Rows per piece -> in one of how many batches that are cut it is listened to, 0: in none; None: never."""
        asked = [listener.one_in for listener in self.listeners]
        return (lambda width: min(filter(None, (ask(width) for ask in asked)), default=0)) if asked else None

    def begins(self, feed: Feed, epoch: int) -> bool:
        """Whether an epoch of the data has a batch, which is waited for."""
        start = time.perf_counter()
        found = self.interrupts.wait_for(feed.begin, epoch)
        self.waited += time.perf_counter() - start
        return found


class Reached(Exception):
    """Training has come to the batch that it was to be led to; the model is as it was before it.

    Attributes:
        runner: would have run the batch; holds the programs and the model's state.
        block, index: what it would have run.
        rows: the batch's rows, where data are arrays.
    """

    def __init__(self, runner: TrainRunner, block: Block, index: int, rows: np.ndarray | None):
        super().__init__("The batch is reached.")
        self.runner, self.block, self.index, self.rows = runner, block, index, rows


def train(session: Session, feed: Feed, seed: int, epochs: range, validate: Callable[[int], Logs | None]) -> None:
    """Runs the epochs `epochs`; `validate(epoch)` returns the epoch's validation values, or None when it is skipped."""
    calls, display, model = session.callbacks, session.display, session.model
    backup, saved = session.backup, session.saved
    start = Mark(epochs.start, 0, feed.place(epochs.start, 0)) if saved is None else saved.mark
    logs: Logs = start.logs or {}
    model.stop_training = False
    calls.on_train_begin()
    display.train_begin(epochs.stop)
    if saved is not None and not start.within:
        saved.put_back()
    for epoch in range(start.epoch, start.epoch if saved is not None and saved.stop else epochs.stop):
        if not start.within and not session.begins(feed, epoch):
            _say_dry(feed, epoch, epochs)
            break
        calls.on_epoch_begin(epoch)
        if saved is not None and start.within:
            saved.put_back()
        display.epoch_begin(epoch, feed.steps)
        runner = TrainRunner(session.steps, feed.padded, seed, epoch, session.one_in)
        if not start.trained:
            logs = run_pass(session, runner, feed, epoch, replace(start, within=True))
        feed.end_epoch()
        values = validate(epoch)
        if values is not None:
            logs.update({f"val_{name}": value for name, value in values.items()})
        calls.on_epoch_end(epoch, logs)
        display.epoch_end(epoch, logs)
        start = Mark(epoch + 1, 0, feed.place(epoch + 1, 0), logs=dict(logs))
        session.snapshots.epoch_end(start)
        if backup is not None:
            backup.epoch_end(start, model.stop_training or epoch + 1 == epochs.stop)
        if model.stop_training:
            break
        if feed.dry and (feed.short or epoch + 1 < epochs.stop):
            _say_dry(feed, epoch + 1, epochs)
            break
    session.steps.end_with_averages()
    calls.on_train_end(logs)


def _say_dry(feed: Feed, done: int, epochs: range) -> None:
    """The data ended before the last epoch did."""
    needed = "" if feed.limit is None else f" of the {feed.limit * len(epochs)} needed"
    warn(
        f"The data ended after {feed.drawn} batches{needed}: training ends with epoch {done} of {epochs.stop}. Pass "
        "fewer epochs or steps_per_epoch, or data that can be gone over again (a dataset or a PyDataset).",
    )


def test(session: Session, feed: Feed) -> Logs | None:
    """One pass over the data with the test program; the values over all examples, None where there are none."""
    if not session.begins(feed, 0):
        return None
    session.model.stop_evaluating = False
    session.callbacks.on_test_begin()
    logs = run_pass(session, TestRunner(session.steps, feed.padded), feed, 0)
    feed.end_epoch()
    session.callbacks.on_test_end(logs)
    return logs


def evaluation(session: Session, feed: Feed) -> Logs:
    """What `evaluate` reports; a warning where the data ended before all batches that were asked for."""
    logs = test(session, feed) or {}
    if feed.short:
        warn(f"The data ended: {feed.batches} of {feed.limit} batches were evaluated.")
    return logs


def validation(session: Session, feed: Feed) -> Logs | None:
    """The values of a validation inside `fit`; None, with a warning, where the data does not suffice any more."""
    logs = test(session, feed)
    if logs is not None and not feed.short:
        return logs
    came = f"{feed.batches} of {feed.limit} batches came" if logs is not None else "no batch came"
    warn(
        f"The validation data has ended: {came}, so the epoch has no val_ values. Pass fewer validation_steps, or data "
        "that can be gone over again (a dataset or a PyDataset).",
    )
    return None


def run_pass(
    session: Session, runner: TrainRunner | TestRunner, feed: Feed, epoch: int, start: Mark | None = None
) -> Logs:
    """One pass over the data, for training and testing alike: blocks of batches, cut into executions.

    Args:
        session, runner, feed, epoch: what is run.
        start: where in the epoch; None is its beginning, and keeps nothing.
    """
    tally = start.tally if start is not None else None
    watch = Watch(session, runner, feed, epoch, start)
    blocks = feed.epoch(epoch, watch.chunk)
    while not watch.stopped and (stretch := watch.fetched(blocks)) is not None:  # nothing is fetched after the last
        block, first, sizes = stretch
        tally = runner.start(block) if tally is None else tally
        executable = micro.prepared(runner, block, tally, session.display)
        while first < len(sizes) and not watch.stopped:
            if watch.arrived and isinstance(runner, TrainRunner):
                found = feed.found(epoch, watch.done)
                raise Reached(runner, block, first, None if found is None else found[0])
            last = min(first + watch.steps_ahead(executable), len(sizes))
            watch.before()
            with watch.marked():
                executable, tally = micro.run(
                    runner, executable, block, tally, (first, last), session.display, session.interrupts.whole
                )
            watch.after(executable, sizes[first:last], tally)
            first = last
    return watch.finish(tally)


@dataclass
class _Flight:
    """An execution under way.

    Attributes:
        tally: what comes of it.
        done, examples: batches of the pass behind it, and examples in them.
        steps: how many it runs.
        executable, began: what it runs, and when it was sent off.
        at_once: whether the device had nothing else to do then.
    """

    tally: Tally
    done: int
    examples: int
    steps: int
    executable: Executable
    began: float
    at_once: bool

    @property
    def ready(self) -> bool:
        """Whether it has come to its end."""
        arrays: list[Any] = [a for a in jax.tree.leaves(self.tally) if isinstance(a, jax.Array)]
        return all(a.is_ready() for a in arrays)


class Watch:
    """Decides how many steps the next execution runs, and tells whoever observes batches.

    As many as take about `SLICE` seconds, so that the display moves and Ctrl-C is heard, but no more than
    `steps_per_execution`, which is one for callbacks that observe batches. At most two executions are under way.
    """

    SLICE = 0.04

    def __init__(self, session: Session, runner: TrainRunner | TestRunner, feed: Feed, epoch: int, start: Mark | None):
        self._session, self._runner, self._kind, self._feed, self._epoch = session, runner, runner.kind, feed, epoch
        self._backup = session.backup if start is not None else None
        if self._backup is not None and start is not None:
            self._backup.mark(start)
        self._observed = session.callbacks.observes(runner.kind)
        given = session.steps_per_execution
        self._fixed = given if isinstance(given, int) else 1 if self._observed else None
        self.done = start.batch if start is not None else 0  # batches of the pass so far
        self.examples = 0  # in them
        self._left_out = LeftOut(session.steps, feed, epoch)
        until = session.until if self._kind == "train" else None
        self._last = until[1] if until is not None and until[0] == epoch else None  # no batch from here on is run
        self._flying: deque[_Flight] = deque()
        self._began = time.perf_counter()
        self._landed_at: float | None = None  # when the last execution came to its end; None: that was not seen
        self._busy_until = 0.0  # the device, as far as that can be told

    @property
    def chunk(self) -> int | None:
        """Results are looked at after so many steps; None when nobody looks at a certain step."""
        return self._fixed if self._observed else None

    @property
    def stopped(self) -> bool:
        """Whether the pass ends here: a callback has asked for it, and a batch was run, as in Keras."""
        return self.done > 0 and self._asked_to_stop()

    @property
    def arrived(self) -> bool:
        """Whether the next batch is the one before which training ends."""
        return self.done == self._last

    def _asked_to_stop(self) -> bool:
        model = self._session.model
        return model.stop_training if self._kind == "train" else model.stop_evaluating

    def steps_ahead(self, executable: Executable) -> int:
        """How many steps the next execution should run, once no more than one is under way."""
        while len(self._flying) > 1:
            self._land()
        ahead = 1 if self._asked_to_stop() else executable.steps_in(self.SLICE)
        if self._fixed is not None:
            ahead = min(ahead, self._fixed - self.done % self._fixed)
        if self._last is not None:
            ahead = min(ahead, self._last - self.done)
        return ahead if self._backup is None else self._backup.steps_ahead(ahead)

    def before(self) -> None:
        """Before an execution."""
        self._session.interrupts.check()
        if self._observed and self.done % (self._fixed or 1) == 0:
            self._session.callbacks.call(f"on_{self._kind}_batch_begin", self.done, {})
            self._session.interrupts.check()
        self._began = time.perf_counter()

    def marked(self) -> AbstractContextManager[Any]:
        """Around an execution: its name in a profile, if one is recorded."""
        trace = self._session.trace
        return nullcontext() if trace is None else trace.step(self._kind, self.done)

    def after(self, executable: Executable, sizes: np.ndarray, tally: Tally) -> None:
        """After an execution was sent off, of steps with batches of these sizes."""
        self.done += len(sizes)
        self.examples += int(sizes.sum())
        if self._kind == "train":
            self._session.trained += int(sizes.sum())
        if self._observed and self.done % (self._fixed or 1) == 0:
            self._tell_end(tally)
        if self._backup is not None:
            self._backup.count(len(sizes))
            if not self._asked_to_stop() and self.done != self._feed.steps:  # else `finish` marks the whole pass
                self._backup.mark(self._here(tally=tally))
        at_once = not self._flying or self._flying[-1].ready
        flight = _Flight(tally, self.done, self.examples, len(sizes), executable, self._began, at_once)
        self._flying.append(flight)
        executable.most = max(executable.most, len(sizes))
        if flight.ready:
            executable.took(len(sizes), time.perf_counter() - self._began, exactly=False)
        if executable.step_seconds < math.inf:
            self._busy_until = max(self._busy_until, self._began) + len(sizes) * executable.step_seconds
        if self._session.trace is not None:
            self._session.trace.look(tally)
        while self._flying and self._flying[0].ready:
            self._land()

    def fetched(self, blocks: Iterator[Stretch]) -> Stretch | None:
        """The next steps to be run; None after the last.

        If the device has come to its end meanwhile it has waited since. When that was is not seen while data is
        waited for: the time that a step was seen to take tells.
        """
        start = time.perf_counter()
        stretch = self._session.interrupts.wait_for(next, blocks, None)
        if not self._flying or self._flying[-1].ready:
            self._session.waited += max(time.perf_counter() - max(start, self._busy_until), 0.0)
        return stretch

    def finish(self, tally: Tally | None) -> Logs:
        """After the last execution of a pass, whose values are returned.

        The last batches may be fewer than `steps_per_execution`.
        """
        if self._observed and tally is not None and self.done % (self._fixed or 1) != 0:
            self._tell_end(tally)
        logs = {} if tally is None else self._runner.read(tally)
        skipped = 0 if tally is None else self._left_out.end(tally)
        if self._session.history is not None:
            self._session.history.skipped += skipped
        self._session.display.pass_end(self._kind, self.done, self.examples)
        if self._kind == "train":
            for listener in self._session.listeners:
                listener.hear(self._runner.width, None if tally is None else tally.noise)
        if self._backup is not None:
            self._backup.mark(self._here(logs=dict(logs), trained=True))
        return logs

    def _here(self, **kept: Any) -> Mark:
        return Mark(self._epoch, self.done, self._feed.place(self._epoch, self.done), within=True, **kept)

    def _tell_end(self, tally: Tally) -> None:
        self._left_out.check(tally)
        self._session.callbacks.call(f"on_{self._kind}_batch_end", self.done - 1, self._runner.read(tally))

    def _land(self) -> None:
        """Waits for the oldest execution under way; what is shown is read from it, one execution late."""
        flight = self._flying.popleft()
        seen = not flight.ready
        tally = jax.block_until_ready(flight.tally)
        self._left_out.check(tally)
        now = time.perf_counter()
        exactly = seen and (flight.at_once or self._landed_at is not None)
        began = self._landed_at if exactly and not flight.at_once else None
        flight.executable.took(flight.steps, now - (flight.began if began is None else began), exactly)
        self._landed_at = now if seen else None
        read = functools.partial(self._runner.read, tally)
        self._session.display.progress(self._kind, flight.done, self._feed.steps, flight.examples, read)


class LeftOut:
    """Tells the user of the updates of a pass that were left out because they were not finite.

    Args:
        steps: the programs.
        feed: what the pass goes over.
        epoch: its epoch; None for a batch of `train_on_batch`.
    """

    def __init__(self, steps: Steps, feed: Feed, epoch: int | None):
        self._steps, self._feed, self._epoch = steps, feed, epoch

    def check(self, tally: Tally) -> None:
        """Ends training where it is to end. Waits for the device, with `on_nonfinite="raise"` alone.

        Raises:
            NonFiniteError: an update was left out.
        """
        if tally.skips is not None and self._steps.on_nonfinite == "raise" and tally.skips.count:
            raise NonFiniteError(*self._told(tally))

    def end(self, tally: Tally) -> int:
        """How many updates of the whole pass were left out, with a warning where there were any.

        Raises:
            NonFiniteError: as `check`.
        """
        self.check(tally)
        if tally.skips is None or not tally.skips.count:
            return 0
        warn(self._told(tally)[0])
        return int(tally.skips.count)

    def _told(self, tally: Tally) -> tuple[str, First]:
        batch = int(tally.skips.first)
        found = self._feed.found(self._epoch or 0, batch)
        values = [v for v, broken in zip(self._steps.judged_values, tally.skips.flags, strict=True) if broken]
        first = First(self._epoch, batch, None if found is None else found[0], values)
        culprits = [] if found is None else found[1]
        ends = self._steps.on_nonfinite == "raise"
        return message(first, int(tally.skips.count), self._feed.steps, culprits, ends), first


def predict(session: Session, chunks: Iterator[tuple[Any, int]], steps: int | None) -> list[Any]:
    """The model's outputs chunk by chunk on the host; each is fetched while the next is computed."""
    calls, display, model = session.callbacks, session.display, session.model
    parts = session.steps.parts
    observed, group = calls.observes("predict"), session.steps_per_execution
    group = group if isinstance(group, int) else 1  # batches per call of a batch hook
    results: list[Any] = []
    flying: deque[tuple[Any, int]] = deque()
    told = examples = 0
    model.stop_predicting = False
    calls.on_predict_begin()
    display.epoch_begin(0, steps)
    fetch = functools.partial(session.interrupts.wait_for, next, chunks, None)
    for i, (x, rows) in enumerate(iter(fetch, None)):
        x = jax.device_put(x)
        if i % group == 0:
            calls.on_predict_batch_begin(i)
        _, (outputs, kept) = micro.predicted(session.steps, x, display)
        if kept is not None:
            parts.publish(parts.collect()[0], kept)
        flying.append((outputs, rows))
        while len(flying) > (0 if observed else 1):
            results.append(fetched(*flying.popleft()))
        examples += rows
        display.progress("predict", i + 1, steps, examples, dict)
        if (i + 1) % group == 0:
            told = _tell_outputs(calls, results, told) if observed else 0
            if model.stop_predicting:
                break
    results += [fetched(*outputs) for outputs in flying]
    if observed:
        _tell_outputs(calls, results, told)
    display.pass_end("predict", len(results), examples)
    display.epoch_end(0, {})
    calls.on_predict_end()
    return results


def _tell_outputs(calls: CallbackList, results: list[Any], told: int) -> int:
    """Calls the batch hooks with all outputs but the first `told`, if there are such; returns how many there are."""
    if told < len(results):
        outputs = jax.tree.map(lambda *arrays: np.concatenate(arrays), *results[told:])
        calls.on_predict_batch_end(len(results) - 1, {"outputs": outputs})
    return len(results)


def fetched(outputs: Any, rows: int) -> Any:
    """Copies on the host, since on a CPU what `asarray` gives is the device's memory."""
    return jax.tree.map(lambda a: np.asarray(a)[:rows].copy(), outputs)
