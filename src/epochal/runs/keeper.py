"""A run that goes on where it was: what is kept of it, when, and how it is put back."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from epochal.callbacks.backup import BackupAndRestore
from epochal.callbacks.callback_list import CallbackList
from epochal.callbacks.history import History
from epochal.callbacks.model_checkpoint import ModelCheckpoint
from epochal.data.feeds.feed import Feed
from epochal.engine.moment import Mark
from epochal.engine.session import Session
from epochal.runs.checkpoint_file import Checkpoint
from epochal.runs.snapshot import Run, Saved, check_kept
from epochal.runs.store import Store

SHARE = 0.01  # of the time trained, at most, that checkpoints after epochs take to gather and to write


class Backup:
    """Keeps a run as it goes: after epochs, every so many batches or seconds, and when it is interrupted.

    Args:
        store: where to.
        run: what.
        steps: keep it every so many batches; None does not.
        seconds: keep it at the first look after so many seconds; None does not.
        final: whether the end of the run is kept as well.
    """

    def __init__(self, store: Store, run: Run, steps: int | None, seconds: float | None, final: bool):
        self.store, self.run, self._steps, self._seconds, self.final = store, run, steps, seconds, final
        self._since = 0  # batches since the last checkpoint
        self._mark: Mark | None = None
        self._kept: Mark | None = None
        self._started = time.perf_counter()
        self._count = 0  # of checkpoints
        self._gathering = 0.0  # seconds in which training stood still for the last one

    def steps_ahead(self, wanted: int) -> int:
        """How many batches may be run before the next checkpoint."""
        return wanted if self._steps is None else max(1, min(wanted, self._steps - self._since))

    def count(self, steps: int) -> None:
        """So many batches have been run."""
        self._since += steps

    def mark(self, mark: Mark) -> None:
        """Notes a moment, and keeps the run if it is time to."""
        self._mark = mark
        counted = self._steps is not None and self._since >= self._steps
        timed = self._seconds is not None and time.perf_counter() - self._started >= self._seconds
        if counted or timed:
            self.now()

    def epoch_end(self, mark: Mark, last: bool) -> None:
        """After an epoch. Where that is when checkpoints are due, one is left out while it would cost too much."""
        self._mark = mark
        if last:
            if self.final:
                self.now()
        elif self._steps is None and self._seconds is None and self._affordable:
            self.now()

    @property
    def _affordable(self) -> bool:
        """Whether a checkpoint like the last one takes no more than its share of the time since; the first one always.

        What the first one took is made up for before the second.
        """
        if self._count == 0:
            return True
        cost = (self._gathering + self.store.write_seconds) * (2 if self._count == 1 else 1)
        return not self.store.busy and cost <= SHARE * (time.perf_counter() - self._started)

    def _ends(self, mark: Mark) -> bool:
        """Whether a batch before the mark is about to end training; going on from before it comes to it again."""
        if mark.tally is None:
            return False
        own = self.run.programs.train.step.skipped
        if own is None or not own.ends or own.name not in mark.tally.entries:
            return False
        return bool(mark.tally.entries[own.name].count)

    def now(self) -> None:
        """Keeps the run as it was at the last mark."""
        mark = self._mark
        if mark is None or mark is self._kept or self._ends(mark):
            return
        began = time.perf_counter()
        self.store.write(mark.epoch, mark.batch, self.run.kept(mark))
        self._kept, self._since, self._started = mark, 0, time.perf_counter()
        self._count += 1
        self._gathering = self._started - began


class Snapshots:
    """Keeps a run beside the models that are written with `ModelCheckpoint(save_state=True)`.

    Args:
        run: what.
        callbacks: those among which such may be.
    """

    def __init__(self, run: Run | None, callbacks: list[Any]):
        self._run = run
        self._asking = [c for c in callbacks if isinstance(c, ModelCheckpoint) and c.save_state]

    @property
    def wanted(self) -> bool:
        """Whether there may be some."""
        return bool(self._asking)

    def epoch_end(self, mark: Mark) -> None:
        """After all callbacks have seen the end of an epoch: their state is part of what is kept."""
        for callback in self._asking:
            folder, callback.run_folder = callback.run_folder, None
            if folder is not None and self._run is not None:
                store = Store(folder, keep=1)
                store.write(mark.epoch, mark.batch, self._run.kept(mark))
                store.close()


class Keeping:
    """How the run of one `fit` is kept, and what it goes on from.

    Args:
        callbacks: as `fit` takes them; a `BackupAndRestore` among them says where to and how often.
        resume_from: as `fit` takes it.
        closing: closes what is opened.
        before: go on from no later place than this epoch and batch.

    Raises:
        ValueError: two `BackupAndRestore`, or nothing to go on from in `resume_from`.
        RuntimeError: another run writes to the folder.
    """

    def __init__(self, callbacks: Any, resume_from: Any, closing: ExitStack, before: tuple[int, int] | None = None):
        given = CallbackList(callbacks).callbacks
        found = [c for c in given if isinstance(c, BackupAndRestore)]
        self._snapshots = Snapshots(None, given).wanted
        if len(found) > 1:
            raise ValueError(f"Expected at most one BackupAndRestore among the callbacks, got {len(found)}.")
        self._settings = found[0] if found else None
        self._store: Store | None = None
        self._checkpoint: Checkpoint | None = None
        if self._settings is not None:
            self._store = Store(self._settings.backup_dir, self._settings.keep)
            self._store.lock()
            closing.callback(self._store.close)
            self._checkpoint = self._store.newest()
        if self._checkpoint is None and resume_from is not None:
            beside = Path(f"{resume_from}{ModelCheckpoint.run_suffix}")
            self._checkpoint = Store(beside if beside.is_dir() else resume_from).newest(before)
            if self._checkpoint is None:
                early = "" if before is None else f", from before batch {before[1]} of epoch {before[0]} (both from 0)"
                raise ValueError(
                    f"Expected checkpoints of a run in resume_from={str(resume_from)!r}{early}, found none."
                )

        if self._checkpoint is not None:
            check_kept(self._checkpoint)

    @property
    def active(self) -> bool:
        """Whether the run is kept."""
        return self._store is not None or self._snapshots

    def seed(self, fresh: int) -> int:
        """The run's seed: the one it was begun with, or a fresh one."""
        return fresh if self._checkpoint is None else self._checkpoint.content["seed"]

    @property
    def batch_size(self) -> int | None:
        """The batch size that was chosen by measuring for the run that is gone on with."""
        states = [] if self._checkpoint is None else self._checkpoint.content["callbacks"]
        plans = [state.get("plan") for name, state in states if name == History.__name__ and state]
        return next((plan["batch_size"] for plan in plans if plan), None)

    def begin(self, session: Session, feed: Feed, held: Feed | None, seed: int) -> None:
        """Takes the data to where the run goes on, once it is sure that it can.

        Raises:
            ValueError: the checkpoint is another run's; nothing has changed then.
        """
        run = Run(session.model, session.programs, session.callbacks, feed, held, seed, session.entries)
        session.snapshots = Snapshots(run, session.callbacks.callbacks)
        if self._checkpoint is not None:
            session.saved = Saved(run, self._checkpoint)
            session.saved.seek()
            mark = session.saved.mark
            where = f"epoch {mark.epoch + 1}" + (f", behind batch {mark.batch}" if mark.batch else "")
            session.display.note(f"Going on from {self._checkpoint.path}: {where}.")
        if self._store is not None and self._settings is not None:
            settings = self._settings
            session.backup = Backup(
                self._store, run, settings.steps, settings.seconds, final=not settings.delete_checkpoint
            )
            session.interrupts.keep = session.backup.now

    def end(self) -> None:
        """After training has come to its end."""
        if self._store is not None and self._settings is not None and self._settings.delete_checkpoint:
            self._store.delete()
