"""Times, amounts of memory and lists as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def duration(seconds: float) -> str:
    """`0.4s`, `12s`, `1:05`, `2:03:04`."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def per_step(seconds: float) -> str:
    """`12µs/step`, `3.1ms/step`, `2.5s/step`."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f}µs/step"
    return f"{seconds * 1e3:.3g}ms/step" if seconds < 1 else f"{seconds:.1f}s/step"


def short(number: float) -> str:
    """Three digits: `0.25`, `57`, `4.56k`, `760k`, `1.2M`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * limit:
            return f"{_three_digits(number / limit)}{unit}"
    return _three_digits(number)


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 99.95 else f"{number:.3g}"


def metric_value(value: Any) -> str:
    """The value of a loss or metric as progress shows it."""
    if isinstance(value, np.ndarray):
        return np.array2string(value, precision=4)
    if not isinstance(value, int | float | np.number):
        return str(value)
    if abs(value) >= 1e5:
        return f"{value:.6g}"
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.2e}"


def listed(words: Sequence[str], most: int) -> str:
    """`a, b, … (7 more)`."""
    return ", ".join(words[:most]) + (f", … ({len(words) - most} more)" if len(words) > most else "")
