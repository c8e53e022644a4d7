"""Names for layers that were given none."""

from __future__ import annotations

from collections import Counter

_name_counts: Counter[str] = Counter()


def fresh_name(base: str) -> str:
    """`base` the first time it is asked for, then `base_1`, `base_2`, …"""
    seen = _name_counts[base]
    _name_counts[base] += 1
    return base if seen == 0 else f"{base}_{seen}"


def forget_names() -> None:
    """The next layers are named as in a new process."""
    _name_counts.clear()
