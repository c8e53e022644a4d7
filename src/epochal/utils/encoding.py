"""Arrays brought to another form: class labels as one-hot rows, vectors to length 1."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array


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


def normalize(x: Any, axis: int | None = -1, order: int | float = 2) -> np.ndarray | Array:
    """`x` divided by its norm along `axis`; vectors of zeros stay.

    Args:
        x: any shape; one of JAX's arrays, or anything that NumPy reads.
        axis: the axis of the vectors (Keras fails for axis 0 of a NumPy array); None takes all values as one vector.
        order: of the norm: 2 is Euclid's, 1 the sum of sizes.

    Returns:
        floats of the same shape: one of JAX's arrays if that was given, else NumPy's.
    """
    library: Any = jnp if isinstance(x, Array) else np
    values = library.asarray(x)
    vectors = values.reshape(-1) if axis is None else values
    norm = library.linalg.norm(vectors, order, -1 if axis is None else axis, keepdims=axis is not None)
    return values / library.where(norm == 0, 1, norm)
