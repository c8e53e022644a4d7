"""Checks of single arguments; each error says what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from epochal.registry.lookup import unknown


def is_count(value: Any) -> bool:
    """Whether `value` is an integer >= 1."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def whole(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int.

    Raises:
        ValueError: it is not an integer, or is less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"Expected {name} to be an integer >= {least}, got {value!r}.")
    return int(value)


def sizes(name: str, value: Any, rank: int, least: int = 1) -> tuple[int, ...]:
    """`value`, one integer or one for each of `rank` axes, as a tuple.

    Raises:
        ValueError: another number of them, or one that is not an integer >= `least`.
    """
    many = (value,) * rank if np.ndim(value) == 0 else tuple(value)
    if len(many) != rank:
        raise ValueError(f"Expected {name} to be an integer or {rank} of them, got {value!r}.")
    return tuple(whole(name, v, least) for v in many)


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """`value` in lower case.

    Raises:
        ValueError: it is none of `allowed`; the message names the nearest.
    """
    if not isinstance(value, str):
        raise ValueError(f"Expected {name} to be one of {', '.join(map(repr, allowed))}, got {value!r}.")
    if value.lower() not in allowed:
        raise ValueError(unknown(name, value, list(allowed)))
    return value.lower()


def data_format(value: Any) -> str:
    """`"channels_last"` (also for None) or `"channels_first"`."""
    return choice("data_format", "channels_last" if value is None else value, ("channels_last", "channels_first"))


def between(name: str, value: Any, low: int | float, high: int | float, *, closed: bool = False) -> float:
    """`value`, a number in [low, high), or in [low, high] when `closed`.

    Raises:
        ValueError: it is not.
    """
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not (low <= value < high or (closed and value == high)):
        end = "]" if closed else ")"
        raise ValueError(f"Expected {name} to be a number in [{low:g}, {high:g}{end}, got {value!r}.")
    return float(value)


def position(name: str, value: Any) -> int:
    """`value`, one axis, checked to be an integer.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"Expected {name} to be an integer, got {value!r}.")
    return int(value)


def positions(name: str, value: Any) -> int | tuple[int, ...]:
    """`value`, an axis or several, checked to be integers.

    Raises:
        ValueError: one is not an integer.
    """
    if np.ndim(value) == 0:
        return position(name, value)
    if not len(value):
        raise ValueError(f"Expected {name} to be an integer or several, got {value!r}.")
    return tuple(position(name, v) for v in value)
