"""How many steps the next execution runs, and who is told of batches."""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from epochal.data.feeds.block import Stretch
from epochal.data.feeds.feed import Feed
from epochal.engine.moment import Mark
from epochal.engine.objective.tally import Tally
from epochal.engine.runners import TestRunner, TrainRunner
from epochal.engine.session import Session
from epochal.engine.skipped_updates import LeftOut
from epochal.runtime.program import Executable
from epochal.support.types import Logs


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
