"""The finished fits of a study on disk, a line each: a study that is killed goes on with the first that is missing."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

IDENTITY, FITS, LOCK = "study.json", "fits.jsonl", ".lock"


class Store:
    """Results by key in a folder.

    A result is written as one line with one system call, and is on disk when `put` returns. A line that a crash has cut
    off is the last one, and is dropped when the folder is read.

    Args:
        folder: made if it is not there.
        identity: what must be the same for results to be of use: name -> JSON data.

    Raises:
        ValueError: the folder holds a study of something else, or no study.
        RuntimeError: another process writes to it.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]):
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = folder / FITS, FileLock(folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise RuntimeError(
                f"Another process runs a study in {folder}. Wait for it, or choose another out."
            ) from error
        try:
            _check_identity(folder, identity)
            self.results = _read(self._path)
        except BaseException:
            self.close()
            raise

    def put(self, key: str, result: dict[str, Any]) -> None:
        """Keeps a result."""
        line = json.dumps({"key": key, **result}, allow_nan=False) + "\n"
        with self._path.open("ab", buffering=0) as file:
            file.write(line.encode())
            os.fsync(file.fileno())
        self.results[key] = result

    def close(self) -> None:
        """Lets others write to the folder."""
        self._lock.release()


def key_of(settings: dict[str, Any]) -> str:
    """A name for results with these settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _check_identity(folder: Path, identity: dict[str, Any]) -> None:
    path = folder / IDENTITY
    if not path.exists():
        if (folder / FITS).exists():
            raise ValueError(f"{folder} has {FITS} without {IDENTITY}: put it back, or choose another out.")
        temporary = path.with_name(f".{IDENTITY}.tmp")
        temporary.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in identity if found.get(name) != identity[name]]
    if changed:
        raise ValueError(
            f"{folder} holds a study of another kind ({', '.join(changed)} differ): its fits cannot be mixed with new "
            "ones. Choose another out, or remove the folder."
        )


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    results = {}
    for line in whole.splitlines():
        result = json.loads(line)
        results[result.pop("key")] = result
    return results
