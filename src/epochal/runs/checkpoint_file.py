"""One checkpoint on disk: written whole, read only when it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from epochal.runs.codec import decode, encode

FORMAT = 1  # a newer one is refused, since it may mean something else
# What Orbax and the file system raise for files that are missing, cut short or changed, and for a full disk.
STORAGE_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError)
# And what else they, and `decode`, raise for files that nobody's `write` has made.
_UNREADABLE = (*STORAGE_ERRORS, ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError)


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
