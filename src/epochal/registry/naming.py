"""Names for layers that were given none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

_name_counts: Counter[str] = Counter()


def fresh_name(base: str) -> str:
    """`base` the first time it is asked for, then `base_1`, `base_2`, …"""
    seen = _name_counts[base]
    _name_counts[base] += 1
    return base if seen == 0 else f"{base}_{seen}"


def forget_names() -> None:
    """The next layers are named as in a new process."""
    _name_counts.clear()


def snake_case(name: str) -> str:
    """MeanSquaredError -> mean_squared_error: how Keras names an object that was given no name."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def function_name(fn: Callable[..., Any]) -> str:
    """The name of a function in logs: its `__name__`, or of its class if it is an object."""
    return getattr(fn, "__name__", None) or snake_case(type(fn).__name__)
