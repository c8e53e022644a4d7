"""Checkpoints of whole runs in a folder: written by Orbax in the background, atomic, verified when they are read.

A checkpoint is a folder named after its place in the run, with arrays and JSON in it; reading one runs no code from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np

from epochal.support.warn import warn

FORMAT = 1  # a newer one is refused, since it may mean something else
_NAME = re.compile(r"epoch-(\d{6})-batch-(\d{9})")
# What Orbax and the file system raise for files that are missing, cut short or changed, and for a full disk.
_STORAGE_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError)
# And what else they, and `decode`, raise for files that nobody's `write` has made.
_UNREADABLE = (*_STORAGE_ERRORS, ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError)


class FolderInUse(RuntimeError):
    """Another run writes to the folder."""


# Orbax numbers what it does per process: two threads that write at once take each other's signals.
_ORBAX = threading.Lock()


class BrokenCheckpoint(Exception):
    """A checkpoint that cannot be read as it was written."""


@dataclass(frozen=True)
class Checkpoint:
    """One as it was read.

    Attributes:
        path: its folder.
        content: what was written, see `Store.write`.
    """

    path: Path
    content: dict[str, Any]


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
        except _STORAGE_ERRORS as error:
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
    assert found is not None
    return int(found[1]), int(found[2])


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text())
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (OSError, ValueError, KeyError):  # it has only just begun, or is about to end
        return "it does not say which"


# -- one checkpoint


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint to a new folder; it is there whole, or not at all."""
    import orbax.checkpoint as ocp  # a second to import, and only needed here

    arrays: dict[str, np.ndarray] = {}
    data = encode(content, arrays)
    header = {"format": FORMAT, "digest": _digest(arrays, data)}
    # The first and last bytes of the work are Orbax's: a temporary folder, renamed when all is written.
    # Not compressed: it is faster, and what a checkpoint tells of its arrays can be held against the size of its files.
    handlers = {"data": ocp.JsonCheckpointHandler(), "arrays": ocp.PyTreeCheckpointHandler(use_compression=False)}
    with _ORBAX, _quiet(), ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as writer:
        parts: dict[str, Any] = {"data": ocp.args.JsonSave({"header": header, "content": data})}
        if arrays:
            parts["arrays"] = ocp.args.PyTreeSave(arrays)
        writer.save(path, args=ocp.args.Composite(**parts), force=True)


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
        BrokenCheckpoint: it is not as it was written.
        ValueError: a newer epochal wrote it.
    """
    import orbax.checkpoint as ocp

    try:
        with _quiet(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            found = reader.restore(path, args=ocp.args.Composite(data=ocp.args.JsonRestore()))
            header, data = found["data"]["header"], found["data"]["content"]
            known = header["format"] <= FORMAT
            arrays: dict[str, Any] = {}
            if known and (path / "arrays").exists():
                _check_sizes(path / "arrays")
                found = reader.restore(path, args=ocp.args.Composite(arrays=ocp.args.PyTreeRestore()))
                arrays = {name: np.asarray(array) for name, array in found["arrays"].items()}
            intact = known and _digest(arrays, data) == header["digest"]
            content = decode(data, arrays) if intact else None
    except _UNREADABLE as error:
        raise BrokenCheckpoint(
            f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        ) from error
    if not known:
        raise ValueError(
            f"Checkpoint {path} has format {header['format']}, this epochal reads up to {FORMAT}: update epochal."
        )
    if not intact:
        raise BrokenCheckpoint("its contents are not what was written")
    if not isinstance(content, dict):
        raise BrokenCheckpoint(f"expected a dict in it, found a {type(content).__name__}")
    return content


def _check_sizes(folder: Path) -> None:
    """Raises ValueError where a checkpoint tells of more arrays than its files hold: restoring takes that memory."""
    import orbax.checkpoint as ocp
    from etils import epath

    told = ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree
    leaves = jax.tree.leaves(told, is_leaf=lambda leaf: hasattr(leaf, "storage"))
    sizes = [(leaf.shape, leaf.storage.chunk_shape, np.dtype(leaf.dtype).itemsize) for leaf in leaves]
    needed = sum(max(math.prod(shape), math.prod(chunk)) * size for shape, chunk, size in sizes)
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if needed > there:
        raise ValueError(f"it tells of {needed:,} bytes of arrays, and has {there:,}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax logs what it does through absl, each failure with several tracebacks; ours is the message that counts."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _digest(arrays: Mapping[str, np.ndarray], data: Any) -> str:
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


# -- any data as JSON and arrays


def encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON data; arrays in it go to `arrays`, and are named by their number.

    Raises:
        TypeError: something that is no data.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        if np.size(value) == 0:  # Orbax refuses these
            return {"kind": "empty", "value": [str(value.dtype), list(value.shape)]}
        return {"kind": "array", "value": _put(value, arrays)}
    if isinstance(value, bytes):
        return {"kind": "bytes", "value": value.hex()}
    if isinstance(value, Mapping):
        pairs = [[encode(k, arrays), encode(v, arrays)] for k, v in value.items()]
        return {"kind": "dict", "value": pairs}
    if isinstance(value, tuple):
        return {"kind": "tuple", "value": [encode(v, arrays) for v in value]}
    if isinstance(value, list):
        return [encode(v, arrays) for v in value]
    raise TypeError(
        f"Expected data to save (numbers, strings, arrays, lists and dicts of these), got a {type(value).__name__}."
    )


def _put(value: Any, arrays: dict[str, np.ndarray]) -> str:
    name = f"{len(arrays):05d}"
    arrays[name] = np.asarray(value)
    return name


def decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """What `encode` was given; arrays are NumPy's."""
    if isinstance(value, list):
        return [decode(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    kind, inner = value["kind"], value["value"]
    if kind == "array":
        return arrays[inner]
    if kind == "empty":
        if 0 not in inner[1]:
            raise ValueError(f"an empty array of shape {inner[1]}")
        return np.zeros(inner[1], inner[0])
    if kind == "bytes":
        return bytes.fromhex(inner)
    if kind == "tuple":
        return tuple(decode(v, arrays) for v in inner)
    return {decode(k, arrays): decode(v, arrays) for k, v in inner}
