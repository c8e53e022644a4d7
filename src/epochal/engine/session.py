"""What one call of a training method runs, and who watches."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from epochal.data.feeds.feed import Feed
from epochal.display.progress import Display
from epochal.engine.hooks import Hooks, Keeper, RestoredRun, SnapshotKeeper
from epochal.engine.moment import Mark
from epochal.engine.objective.tally import Entry
from epochal.runtime import heap
from epochal.runtime.interrupts import Interrupts
from epochal.runtime.profiler import Trace


@dataclass
class Session:
    """One call of fit or evaluate: what it runs, and who watches.

    Attributes:
        model: carries `stop_training` and `stop_evaluating`.
        stop: the same flags by kind: "train", "test", "predict".
        programs: the model's.
        callbacks: the user's callbacks, then the History.
        display: shows progress.
        steps_per_execution: "auto" or a number.
        backup: keeps the run as it goes; None does not.
        snapshots: keep it beside models that are written.
        saved: what the run goes on from; None starts it.
        interrupts: how Ctrl-C is heard.
        until: epoch and batch before which training ends; None lets it run.
        trace: records a profile; None records none.
        trained: examples that training steps have run on.
        waited: seconds in which the device had nothing to do, since data was waited for.
    """

    model: Any
    programs: Any
    callbacks: Hooks
    display: Display
    stop: dict[str, bool]
    steps_per_execution: int | str = "auto"
    backup: Keeper | None = None
    snapshots: SnapshotKeeper | None = None
    saved: RestoredRun | None = None
    interrupts: Interrupts = field(default_factory=Interrupts)
    until: tuple[int, int] | None = None
    trace: Trace | None = None
    trained: int = 0
    waited: float = 0.0

    @functools.cached_property
    def entries(self) -> list[Entry]:
        """What callbacks ask to be carried along in the tally of training; those of one name are one."""
        found: dict[str, Entry] = {}
        for entry in self.callbacks.entries():
            found[entry.name] = found[entry.name].joined(entry) if entry.name in found else entry
        return list(found.values())

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
