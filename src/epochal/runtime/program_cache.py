"""Compiled programs on disk, so that the second start of a script compiles nothing: JAX's persistent cache, set up."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import tempfile
from pathlib import Path

import filelock
import jax
import platformdirs

from epochal.support.warn import warn

VARIABLE = "EPOCHAL_CACHE"
MAX_BYTES = 32 * 2**20  # some 1,500 programs; JAX lists them all whenever it adds one
MIN_COMPILE_SECONDS = 0.05  # what compiles faster is not worth that


@functools.cache
def keep_programs() -> None:
    """Called before the first program is compiled: from then on JAX keeps programs in the user's cache folder.

    Where the user has set `jax_compilation_cache_dir` or switched `jax_enable_compilation_cache` off, nothing is
    changed. `EPOCHAL_CACHE` names another folder, or is "off". A folder that cannot be written, or that others may
    write to (programs in it are run), is not used: silently, unless the user has named it.
    """
    given = os.environ.get(VARIABLE)
    decided = jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    if decided or _off(given):
        return
    top = Path(given).expanduser() if given else platformdirs.user_cache_path("epochal", appauthor=False)
    folder = top / f"programs-{_processor()}"
    reason = _unusable(folder)
    if reason is None:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
        jax.config.update("jax_compilation_cache_dir", str(folder))
    elif given:
        warn(
            f"{VARIABLE}={given}: compiled programs cannot be kept there ({reason}), so every start compiles them "
            f"again. Choose a folder of your own, or {VARIABLE}=off.",
        )


def _off(given: str | None) -> bool:
    return given is not None and given.lower() in ("off", "0", "")


def _processor() -> str:
    """Names the kind of processor: programs for another one may not run, or give other last bits."""
    lines: set[str] = set()
    try:
        named = ("model name", "flags", "CPU part", "Features")
        lines.update(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(named))
    except OSError:  # no Linux
        lines.add(platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(repr(sorted(lines)).encode()).hexdigest()[:12]}"


def _unusable(folder: Path) -> str | None:
    """Why programs cannot be kept in a folder; None where they can."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid"):
            found = folder.stat()
            if found.st_uid != os.getuid() or found.st_mode & 0o022:
                return "others may write to it"
        with filelock.FileLock(folder / ".lockfile", timeout=5), tempfile.TemporaryFile(dir=folder):  # the cache's lock
            _remove_unfinished(folder)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _remove_unfinished(folder: Path) -> None:
    """A process that was killed while it wrote a program leaves it without the time that JAX writes next."""
    names = {path.name for path in folder.iterdir()}
    for name in names:
        if name.endswith("-cache") and f"{name.removesuffix('-cache')}-atime" not in names:
            (folder / name).unlink(missing_ok=True)
