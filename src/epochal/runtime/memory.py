"""How much memory a compiled program needs, before it runs, and how much there is."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from epochal.runtime import heap

VARIABLE = "EPOCHAL_MEMORY_LIMIT"
# Of what is free, this part is planned with: the rest is for what other threads and programs take meanwhile, and for
# compiling, which needs some tens of megabytes itself.
SHARE = 0.9
# Bytes that are planned with per byte that the compiler reports. On a CPU, steps of a transformer and an MLP ran in 3
# and 5 % more memory than is reported, of an embedding in 6 % less, of a CNN with BatchNormalization (1.4 GB) in 7 to
# 10 % more (`benchmarks/RESULTS-memory.md`). With 1.08 no prediction is more than 2 % too low or 15 % too high.
# Elsewhere not measured.
CALIBRATION = {"cpu": 1.08}
_ELSEWHERE = 1.0
_UNLIMITED = 2**60  # version 1 of cgroups writes "no limit" as the largest number of pages
_UNITS = {
    "": 1,
    **{f"{p}{u}": b**e for e, p in enumerate("kmgt", 1) for u, b in (("", 1000), ("b", 1000), ("ib", 1024))},
}


class Limit(NamedTuple):
    """How much memory training may take.

    Attributes:
        bytes: so many.
        source: where the number comes from, in words.
    """

    bytes: int
    source: str


def program_bytes(compiled: Any, platform: str | None = None) -> int:
    """Bytes that a run of a compiled program needs: its arguments, its results, and what it works in, times
    `CALIBRATION`.

    Compile for `jax.ShapeDtypeStruct`s to learn it of arguments that are not there. Results that take over the memory
    of donated arguments count once.

    Args:
        compiled: of `jax.jit(f).lower(…).compile()`.
        platform: of its devices; None is JAX's default one.
    """
    found = compiled.memory_analysis()
    reported = (
        found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes
    )
    return int(reported * CALIBRATION.get(platform or jax.default_backend(), _ELSEWHERE))


def step_bytes(compiled: Any, state: Any) -> int:
    """Bytes that the first run of a training step needs: the program's, and on a CPU those of the copy of `state` that
    is put back if the memory turns out not to suffice."""
    return program_bytes(compiled) + (tree_bytes(state) if jax.default_backend() == "cpu" else 0)


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays (or shapes) in a pytree."""
    return sum(int(leaf.size) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def limit(given: Any = None, *, held: int = 0, copied: int = 0, root: Path = Path("/")) -> Limit:
    """How many bytes training may take in all.

    The first of: `given`; the environment's EPOCHAL_MEMORY_LIMIT; what the device says of itself; the least that the
    control group (versions 1 and 2), RLIMIT_AS and the machine (MemAvailable) leave. Of what the last two kinds leave,
    0.9 times; what is there already needs no reserve.

    Args:
        given: bytes, or text such as "600MB" and "2GiB"; None looks for it.
        held: bytes of arrays that are there already and count as training's.
        copied: bytes of small arrays that training makes. As far as the C library's heap has room for them, they need
            no further address space.
        root: of the file system that /proc and /sys are looked for in.

    Raises:
        ValueError: `given` or EPOCHAL_MEMORY_LIMIT is no number of bytes > 0.
    """
    if given is not None:
        return Limit(parsed(given, "memory_limit"), "memory_limit")
    if os.environ.get(VARIABLE):
        return Limit(parsed(os.environ[VARIABLE], VARIABLE), VARIABLE)
    on_device = _device_free()
    found = list(_free(root, copied)) if on_device is None else [(on_device, "the device's memory")]
    if not found:
        return Limit(sys.maxsize, "no limit is known on this machine")
    free, source = min(found)
    return Limit(int(SHARE * max(free, 0)) + held, source)


def parsed(given: Any, name: str) -> int:
    """Bytes from an int, or from text with a unit: kB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB of 1024.

    Raises:
        ValueError: something else, or not > 0; `name` says whose value it is.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([a-z]*)\s*", str(given).lower().removesuffix(".0"))
    unit = None if match is None or isinstance(given, bool) else _UNITS.get("" if match[2] == "b" else match[2])
    size = 0 if match is None or unit is None else int(float(match[1]) * unit)
    if size < 1:
        raise ValueError(
            f'Expected {name} to be a number of bytes > 0, or text such as "600MB" or "2GiB", got {given!r}.'
        )
    return size


def is_lacking(error: Exception) -> bool:
    """Whether a program failed for want of memory: on a CPU the error of one that others wait for has another code."""
    return "RESOURCE_EXHAUSTED" in str(error) or "Out of memory allocating" in str(error)


def _device_free() -> int | None:
    """What the device's allocator may still hand out; None on devices that do not say, like CPUs."""
    stats = jax.local_devices()[0].memory_stats()
    if not stats or "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0)


def _free(root: Path, copied: int) -> Iterator[tuple[int, str]]:
    """Bytes that the host leaves, by whatever limits it."""
    status = _fields(root / "proc/self/status")
    address_space = _address_space_limit()
    if address_space is not None and "VmSize" in status:
        yield address_space - status["VmSize"] + min(copied, heap.room()), "RLIMIT_AS (ulimit -v)"
    machine = _fields(root / "proc/meminfo")
    if "MemAvailable" in machine:
        yield machine["MemAvailable"], "the machine's available memory"
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2, "half of the machine's memory"
    yield from ((free, "the control group's memory limit") for free in _control_groups(root))


def _address_space_limit() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _control_groups(root: Path) -> Iterator[int]:
    """What the groups that this process is in, and those around them, leave; file caches count as free."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        inside = Path(path.strip("/"))
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        # Inside a container the path may be the host's, and the group the one that is mounted.
        for folder in (mount / inside, *(mount / parent for parent in inside.parents)):
            most, used = (_number(folder / name) for name in names)
            if most is not None and used is not None and most < _UNLIMITED:
                stat = dict(line.split(" ", 1) for line in _lines(folder / "memory.stat"))
                cached = stat.get("total_inactive_file", stat.get("inactive_file", "0"))
                yield most - used + int(cached)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # not on this system, or not for this user
        return []


def _number(path: Path) -> int | None:
    text = (_lines(path) or [""])[0]
    return int(text) if text.isdigit() else None  # "max" is no limit


def _fields(path: Path) -> dict[str, int]:
    """`Name:  123 kB` lines, in bytes."""
    found = (re.fullmatch(r"(\w+):\s+(\d+) kB", line) for line in _lines(path))
    return {match[1]: int(match[2]) * 1024 for match in found if match is not None}
