"""What one call of a training method runs, and who watches."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from epochal.data.feeds.block import Block
from epochal.data.feeds.feed import Feed
from epochal.display.progress import Display
from epochal.engine.hooks import Hooks, Keeper, RestoredRun, SnapshotKeeper
from epochal.engine.moment import Mark
from epochal.engine.programs import Steps
from epochal.engine.runners import TrainRunner
from epochal.runtime import heap
from epochal.runtime.interrupts import Interrupts
from epochal.runtime.profiler import Trace


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
    callbacks: Hooks
    display: Display
    steps_per_execution: int | str = "auto"
    backup: Keeper | None = None
    snapshots: SnapshotKeeper | None = None
    saved: RestoredRun | None = None
    interrupts: Interrupts = field(default_factory=Interrupts)
    history: Any = None
    until: tuple[int, int] | None = None
    trace: Trace | None = None
    trained: int = 0
    waited: float = 0.0

    @functools.cached_property
    def listeners(self) -> list[Any]:
        """The callbacks that ask for the gradient's noise of batches that are cut."""
        return self.callbacks.noise_listeners

    @property
    def one_in(self) -> Callable[[int], int] | None:
        """Rows per piece -> in one of how many batches that are cut it is listened to, 0: in none; None: never."""
        asked = [listener.one_in for listener in self.listeners]
        return (lambda width: min(filter(None, (ask(width) for ask in asked)), default=0)) if asked else None

    def keep(self, mark: Mark, last: bool) -> None:
        """After an epoch, of which `last` is the last one."""
        if self.snapshots is not None:
            self.snapshots.epoch_end(mark)
        if self.backup is not None:
            self.backup.epoch_end(mark, last)

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


@contextmanager
def running(session: Session) -> Iterator[None]:
    """Whatever way the method ends: Ctrl-C, display and heap are set right again, callbacks learn of an exception."""
    try:
        with session.interrupts.heard():
            yield
    except BaseException as error:
        session.callbacks.call("on_exception", error)
        raise
    finally:
        session.display.close()
        heap.pause()
