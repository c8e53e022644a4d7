"""Sequences with masks, and recurrent layers with given weights."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

N, T, FEATURES = 4, 5, 3
ZEROS = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}
MASK = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]], bool)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def with_weights(layer: Any, *arguments: Any) -> Any:
    """The layer, built, with random weights that depend on their shapes only."""
    layer(*arguments)
    layer.set_weights([draw(*w.shape, seed=i) / 2 for i, w in enumerate(layer.weights)])
    return layer


def close(found: Any, expected: Any, **kwargs: Any) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-5, **kwargs})
