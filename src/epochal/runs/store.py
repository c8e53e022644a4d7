"""Checkpoints of whole runs in a folder: written by Orbax in the background, atomic, verified when they are read.

A checkpoint is a folder named after its place in the run, with arrays and JSON in it; reading one runs no code from it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock

from epochal.runs.checkpoint_file import STORAGE_ERRORS, BrokenCheckpoint, Checkpoint, read, write
from epochal.support.warn import warn

_NAME = re.compile(r"epoch-(\d{6})-batch-(\d{9})")


class FolderInUse(RuntimeError):
    """Another run writes to the folder."""


class Store:
    """The checkpoints of one run in a folder.

    Args:
        folder: made when something is written.
        keep: how many checkpoints stay.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        self.folder, self._keep = Path(folder).absolute(), keep
        self._good: list[Path] = []  # the checkpoint the run began with, and those it has written, oldest first
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="epochal-checkpoint")
        self._under_way: Future | None = None
        self._lock: filelock.BaseFileLock | None = None
        self.write_seconds = 0.0  # of the last checkpoint

    # -- one run at a time

    def lock(self) -> None:
        """Keeps other runs out of the folder until `close`, or the end of the process.

        Raises:
            FolderInUse: a run holds it; the message says which.
            OSError: nothing can be written there.
        """
        holder = self.folder / "run.json"
        lock = filelock.FileLock(self.folder / "run.lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
            with tempfile.TemporaryFile(dir=self.folder):  # the lock may be there from before
                pass
        except filelock.Timeout as error:
            raise FolderInUse(
                f"Another run writes to {self.folder}: {_holder(holder)}. Wait for it, end it, or give this run a "
                "folder of its own."
            ) from error
        except OSError as error:
            lock.release()
            raise type(error)(
                error.errno,
                f"BackupAndRestore cannot write to {self.folder}: {error.strerror}. Choose another backup_dir",
            ) from error
        self._lock = lock
        holder.write_text(
            json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        )

    def close(self) -> None:
        """Waits for a checkpoint that is being written, and lets other runs in."""
        self.wait()
        self._writer.shutdown()
        if self._lock is not None:
            (self.folder / "run.json").unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    # -- reading

    def newest(self, before: tuple[int, int] | None = None) -> Checkpoint | None:
        """The newest checkpoint that can be read, of none later than this epoch and batch; None where there is none.

        One that is broken is skipped with a warning for the one before it.

        Raises:
            ValueError: there are checkpoints, and none can be read; or one was written by a newer epochal.
        """
        broken: list[tuple[Path, BrokenCheckpoint]] = []
        for path in self._paths():
            if before is not None and _place(path) > before:
                continue
            try:
                content = read(path)
            except BrokenCheckpoint as error:
                broken.append((path, error))
                continue
            for other, error in broken:
                warn(
                    f"Checkpoint {other.name} in {self.folder} is broken ({error}); going on from {path.name}.",
                )
            self._good = [path]
            return Checkpoint(path, content)
        if broken:
            path, error = broken[0]
            raise ValueError(
                f"No checkpoint in {self.folder} can be read: {path.name}: {error}. Put its files back, or delete the "
                "folder to start again."
            )
        return None

    def _paths(self) -> list[Path]:
        """Checkpoints, newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((p for p in self.folder.iterdir() if _NAME.fullmatch(p.name)), reverse=True)

    # -- writing

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._under_way is not None and not self._under_way.done()

    def write(self, epoch: int, batch: int, content: dict[str, Any]) -> None:
        """Writes a checkpoint in the background, after the one that is being written.

        Args:
            epoch, batch: its place, which names it.
            content: JSON data with NumPy arrays anywhere in it, which must not change any more.
        """
        self.wait()
        path = self.folder / f"epoch-{epoch:06d}-batch-{batch:09d}"
        self._under_way = self._writer.submit(self._write, path, content)

    def wait(self) -> None:
        """Waits for the checkpoint that is being written; a warning says so where it could not be."""
        written, self._under_way = self._under_way, None
        if written is None:
            return
        failure = written.result()
        if failure is not None:
            kept = self._good[-1].name if self._good else "none"
            warn(
                f"A checkpoint could not be written to {self.folder}: {failure}. Training goes on; the last good "
                f"checkpoint is {kept}. Make room, or check the folder.",
            )

    def _write(self, path: Path, content: dict[str, Any]) -> str | None:
        """Writes and prunes; returns what went wrong."""
        started = time.perf_counter()
        try:
            write(path, content)
            self._good = [*(p for p in self._good if p != path), path]
            for old in self._paths():
                if old not in self._good[-self._keep :]:
                    shutil.rmtree(old)
        except STORAGE_ERRORS as error:
            self._clear_unfinished()
            return f"{type(error).__name__}: {str(error)[:300]}"
        self.write_seconds = time.perf_counter() - started
        return None

    def _clear_unfinished(self) -> None:
        """What a failed or killed write left; it was never a checkpoint."""
        for path in self.folder.glob("epoch-*tmp*"):
            shutil.rmtree(path, ignore_errors=True)

    def delete(self) -> None:
        """Removes the checkpoints, and the folder when nothing else is in it."""
        self.wait()
        for path in self._paths():
            shutil.rmtree(path)
        self._clear_unfinished()


def _place(path: Path) -> tuple[int, int]:
    """Epoch and batch of a checkpoint."""
    found = _NAME.fullmatch(path.name)
    if found is None:
        raise ValueError(f"Expected the name of a checkpoint, got {path.name!r}.")
    return int(found[1]), int(found[2])


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text())
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (OSError, ValueError, KeyError):  # it has only just begun, or is about to end
        return "it does not say which"
