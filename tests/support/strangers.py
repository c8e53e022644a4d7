"""Reading under watch: it ends with a result or a clean error, and does nothing else."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from epochal.runs.checkpoint_file import BrokenCheckpoint

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class", "socket.connect")


class Hang(BaseException):
    """Reading takes half a minute."""


class _Watch:
    """What reading does besides; an audit hook cannot be taken away again, so there is one for all tests."""

    on = False
    seen: list[str] = []  # noqa: RUF012

    @classmethod
    def hook(cls, event: str, arguments: Any) -> None:
        if cls.on and event in FORBIDDEN:
            cls.seen.append(event)


sys.addaudithook(_Watch.hook)


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Inside, only what reading is for may happen: no file is written, nothing is run, and it ends."""

    def hang(*_: Any) -> None:
        raise Hang

    before = listing(folder.parent)
    old = signal.signal(signal.SIGALRM, hang)
    signal.alarm(30)
    _Watch.on, _Watch.seen = True, []
    try:
        yield
    finally:
        _Watch.on = False
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    assert _Watch.seen == []
    assert listing(folder.parent) == before


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(p), p.lstat().st_mtime_ns) for p in folder.rglob("*"))


def ends_cleanly(folder: Path, reading: Callable[[], Any]) -> str | None:
    """What the error says; None where there was none."""
    found: Exception | None = None
    with watched(folder):
        try:
            reading()
        except (ValueError, OSError, BrokenCheckpoint) as error:
            found = error
    if found is None:
        return None
    assert type(found).__module__ in ("builtins", BrokenCheckpoint.__module__), found
    assert not isinstance(found, UnicodeError)
    assert len(str(found)) > 10
    return str(found)
