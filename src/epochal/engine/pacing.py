"""How many steps the next execution runs, and who is told of batches."""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from epochal.data.feeds.block import Stretch
from epochal.data.feeds.feed import Feed
from epochal.engine.moment import Mark
from epochal.engine.objective.tally import Pass, Tally
from epochal.engine.runners import Runner
from epochal.engine.session import Session
from epochal.runtime.program import Executable
from epochal.support.types import Logs


class AllSteps:
    """A pass that nobody watches: as many steps as there are in one execution, or up to a number of them.

    Args:
        most: steps after which the pass ends; None: at its end.

    Attributes:
        done: steps so far.
    """

    def __init__(self, most: int | None = None):
        self._most, self.done = most, 0

    def steps_ahead(self, executable: Executable) -> int:
        """How many steps the next execution should run; 0 ends the pass."""
        left = 2**31 - 1 if self._most is None else self._most - self.done
        return min(left, 1) if executable.alone else left

    def after(self, executable: Executable, sizes: np.ndarray, tally: Tally) -> None:
        """After an execution of steps with batches of these sizes was sent off."""
        self.done += len(sizes)


@dataclass(slots=True)
class Execution:
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
        """Whether it has come to its end; what a program returns is ready together."""
        sums: Any = self.tally.sums
        return isinstance(sums, np.ndarray) or sums.is_ready()


class Pacer:
    """Decides how many steps the next execution runs, and tells whoever observes batches.

    As many as take about `SLICE` seconds, so that the display moves and Ctrl-C is heard, but no more than
    `steps_per_execution`, which is one for callbacks that observe batches. At most two executions are under way.

    Args:
        session, runner, feed, epoch: what is run.
        start: where in the epoch; None is its beginning, and keeps nothing.

    Attributes:
        done: batches of the pass so far.
        examples: in them.
    """

    SLICE = 0.04

    def __init__(self, session: Session, runner: Runner, feed: Feed, epoch: int, start: Mark | None = None):
        self._session, self._runner, self._kind, self._feed, self._epoch = session, runner, runner.kind, feed, epoch
        self._interrupts, self._stop, self._trains = session.interrupts, session.stop, runner.kind == "train"
        self._backup = None if start is None else session.backup
        if self._backup is not None and start is not None:
            self._backup.mark(start)
        self._observed = session.callbacks.observes(runner.kind)
        given = session.steps_per_execution
        self._fixed = given if isinstance(given, int) else 1 if self._observed else None
        self.done = 0 if start is None else start.batch
        self.examples = 0
        until = session.until if self._trains else None
        self._last = until[1] if until is not None and until[0] == epoch else None  # no batch from here on is run
        self._flying: deque[Execution] = deque()
        self._annotation: Any = nullcontext()  # names the execution under way in a profile
        self._began = time.perf_counter()
        self._landed_at: float | None = None  # when the last execution came to its end; None: that was not seen
        self._busy_until = 0.0  # the device, as far as that can be told

    @property
    def arrived(self) -> bool:
        """Whether the next batch is the one before which training ends."""
        return self.done == self._last

    def stretches(self) -> Iterator[Stretch]:
        """The pass's steps as they come; nothing is fetched after the last that is run."""
        # Results are looked at after so many steps; None when nobody looks at a certain step.
        blocks = self._feed.epoch(self._epoch, self._fixed if self._observed else None)
        return iter(functools.partial(self._fetched, blocks), None)

    def _fetched(self, blocks: Iterator[Stretch]) -> Stretch | None:
        """The next steps to be run; None after the last.

        If the device has come to its end meanwhile it has waited since. When that was is not seen while data is
        waited for: the time that a step was seen to take tells.
        """
        if self.done > 0 and self._stop[self._kind]:
            return None
        start = time.perf_counter()
        stretch = self._interrupts.wait_for(next, blocks, None)
        if not self._flying or self._flying[-1].ready:
            self._session.waited += max(time.perf_counter() - max(start, self._busy_until), 0.0)
        return stretch

    def steps_ahead(self, executable: Executable) -> int:
        """How many steps the next execution should run, once no more than one is under way; 0 ends the pass.

        It ends where a callback has asked for it and a batch was run, as in Keras.
        """
        while len(self._flying) > 1:
            self._land()
        asked_to_stop = self._stop[self._kind]
        if (self.done > 0 and asked_to_stop) or self.done == self._last:
            return 0
        ahead = 1 if asked_to_stop or executable.alone else executable.steps_in(self.SLICE)
        if self._fixed is not None:
            ahead = min(ahead, self._fixed - self.done % self._fixed)
        if self._last is not None:
            ahead = min(ahead, self._last - self.done)
        if self._backup is not None:
            ahead = self._backup.steps_ahead(ahead)
        self._before()
        return ahead

    def _before(self) -> None:
        """Before an execution."""
        interrupts = self._interrupts
        if interrupts.presses:
            interrupts.check()
        if self._observed and self.done % (self._fixed or 1) == 0:
            self._session.callbacks.call(f"on_{self._kind}_batch_begin", self.done, {})
            if interrupts.presses:
                interrupts.check()
        if self._session.trace is not None:
            self._annotation = self._session.trace.step(self._kind, self.done)
            self._annotation.__enter__()
        self._began = time.perf_counter()

    def after(self, executable: Executable, sizes: np.ndarray, tally: Tally) -> None:
        """After an execution was sent off, of steps with batches of these sizes."""
        steps, examples = len(sizes), int(sizes.sum())
        self.done += steps
        self.examples += examples
        if self._trains:
            self._session.trained += examples
        if self._session.trace is not None:
            self._annotation.__exit__(None, None, None)
        if self._observed and self.done % (self._fixed or 1) == 0:
            self._tell_end(tally)
        if self._backup is not None:
            self._backup.count(steps)
            if not self._stop[self._kind] and self.done != self._feed.steps:  # else `finish` marks the whole pass
                self._backup.mark(self._here(tally=tally))
        self._sent_off(executable, steps, tally)

    def _sent_off(self, executable: Executable, steps: int, tally: Tally) -> None:
        flying, began = self._flying, self._began
        execution = Execution(tally, self.done, self.examples, steps, executable, began, not flying or flying[-1].ready)
        flying.append(execution)
        executable.most = max(executable.most, steps)
        if execution.ready:
            executable.took(steps, time.perf_counter() - began, exactly=False)
        if executable.step_seconds < math.inf:
            self._busy_until = max(self._busy_until, began) + steps * executable.step_seconds
        if self._session.trace is not None:
            self._session.trace.look(tally)
        while flying and flying[0].ready:
            self._land()

    def finish(self, tally: Tally | None) -> Logs:
        """After the last execution of a pass, whose values are returned.

        The last batches may be fewer than `steps_per_execution`.
        """
        runner, session = self._runner, self._session
        if self._observed and tally is not None and self.done % (self._fixed or 1) != 0:
            self._tell_end(tally)
        logs = {} if tally is None else runner.read(tally)
        if tally is not None and runner.entries:
            logs.update(runner.end(tally, self._place()))
        session.display.pass_end(self._kind, self.done, self.examples)
        if self._trains:
            session.callbacks.receive_entries({} if tally is None else tally.entries, runner.width)
        if self._backup is not None:
            self._backup.mark(self._here(logs=dict(logs), trained=True))
        return logs

    def _place(self) -> Pass:
        return Pass(self._feed, self._epoch, self._runner.width)

    def _here(self, **kept: Any) -> Mark:
        return Mark(self._epoch, self.done, self._feed.place(self._epoch, self.done), within=True, **kept)

    def _tell_end(self, tally: Tally) -> None:
        if self._runner.entries:
            self._runner.check(tally, self._place())
        self._session.callbacks.call(f"on_{self._kind}_batch_end", self.done - 1, self._runner.read(tally))

    def _land(self) -> None:
        """Waits for the oldest execution under way; what is shown is read from it, one execution late."""
        flight = self._flying.popleft()
        seen = not flight.ready
        tally = jax.block_until_ready(flight.tally)
        if self._runner.entries:
            self._runner.check(tally, self._place())
        now = time.perf_counter()
        exactly = seen and (flight.at_once or self._landed_at is not None)
        began = self._landed_at if exactly and not flight.at_once else None
        flight.executable.took(flight.steps, now - (flight.began if began is None else began), exactly)
        self._landed_at = now if seen else None
        read = functools.partial(self._runner.read, tally)
        self._session.display.progress(self._kind, flight.done, self._feed.steps, flight.examples, read)
