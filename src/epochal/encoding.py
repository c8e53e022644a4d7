"""Class labels as one-hot rows."""

from __future__ import annotations

from typing import Any

import numpy as np


def to_categorical(x: Any, num_classes: int | None = None) -> np.ndarray:
    """One-hot rows of integer classes.

    Args:
        x: integers 0 … num_classes-1, any shape; a last axis of length 1 is dropped.
        num_classes: how many classes; the largest label plus one when not given.

    Returns:
        float32, shape (*x.shape, num_classes).

    Raises:
        ValueError: a label that is not an integer in this range.
    """
    labels = np.asarray(x)
    if not np.array_equal(labels, labels.astype(np.int64)):
        raise ValueError(f"Expected integer classes, got {labels.dtype} with other numbers.")
    labels = labels.astype(np.int64)
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if num_classes is None:
        num_classes = int(labels.max()) + 1 if labels.size else 0
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"Expected classes 0 … {num_classes - 1}, got {labels.min()} … {labels.max()}.")
    return np.eye(num_classes, dtype=np.float32)[labels]
