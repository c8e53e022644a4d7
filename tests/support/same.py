"""Equality to the last bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def same(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    """Whether these are as many arrays with the same shapes and the same values; NaN equals nothing."""
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
