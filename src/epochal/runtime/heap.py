"""Memory that the process keeps from one execution to the next, with the GNU C library.

XLA allocates what a program works in anew for every execution. glibc asks the kernel for each block above 32 MiB and
gives it back when it is freed, so that the kernel clears and maps all its pages again: of the 59 ms of a step with
99 MB (the transformer of `benchmarks/peers.py`) that took more than 20. While a fit runs, such blocks come from the
heap, which keeps them for as long as the program lives; then what is free goes back to the kernel.

`EPOCHAL_HEAP=off` leaves the C library as it is. Elsewhere than on glibc nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from typing import Any

LARGE = 32 << 20  # bytes: the largest block that glibc itself ever takes from the heap (DEFAULT_MMAP_THRESHOLD_MAX)

# Parameters of mallopt(3), and their values in a process that has freed a large block once.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: LARGE, _TRIM_THRESHOLD: 2 * LARGE}
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}

_lock = threading.RLock()  # a program may die while another takes it
_keeping = False
_holders: list[int] = []  # one for each living program that is held


def _glibc() -> Any:
    """The C library, where it is GNU's and may be told what to do."""
    if os.environ.get("EPOCHAL_HEAP", "").lower() in ("off", "0") or os.name != "posix":
        return None
    library = ctypes.CDLL(None)
    needed = ("gnu_get_libc_version", "mallopt", "malloc_trim")
    return library if all(hasattr(library, name) for name in needed) else None


_library = _glibc()
if _library is not None:
    # Threads that are started from now on, XLA's among them, share the main heap: their own could hold no large block.
    _library.mallopt(_ARENA_MAX, 1)


def hold(program: Any) -> bool:
    """Whether the memory that runs of `program` free is kept, for as long as `program` is alive. See `keep`."""
    if _library is None:
        return False
    _holders.append(1)
    weakref.finalize(program, _let_go).atexit = False
    return True


def keep() -> None:
    """From now on large blocks come from the heap, which keeps them when they are freed."""
    global _keeping
    if not _keeping:
        with _lock:
            _set(_KEEPING)
            _keeping = True


def pause() -> None:
    """From now on large blocks that the heap has no room for are not its own. A fit in another thread goes on."""
    global _keeping
    if _keeping:
        with _lock:
            _set({_MMAP_MAX: _USUAL[_MMAP_MAX]})
            _keeping = False


class _Usage(ctypes.Structure):
    """`struct mallinfo2`, see mallinfo(3)."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")),
        *((name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")),
    )


def room() -> int:
    """Bytes that are free in the heap, and that the process has all the same: blocks below 32 MiB may find room there.

    Elsewhere than on glibc 2.33 or later they are not known and 0.
    """
    if _library is None or not hasattr(_library, "mallinfo2"):
        return 0
    usage = _library.mallinfo2
    usage.restype = _Usage
    return usage().fordblks


def give_back() -> None:
    """Gives the kernel what is free and can be given back, so that it counts as free."""
    if _library is not None:
        with _lock:
            _library.malloc_trim(0)


def _let_go() -> None:
    """Gives the kernel what is free, when no program needs it any more."""
    global _keeping
    with _lock:
        _holders.pop()
        if not _holders:
            _set(_USUAL)
            _keeping = False
            _library.malloc_trim(0)


def _set(parameters: dict[int, int]) -> None:
    for parameter, value in parameters.items():
        _library.mallopt(parameter, value)
