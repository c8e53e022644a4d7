"""A small network to plan for, and all that planning must leave as it was."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import epochal as keras
from epochal.critical_batch import NoiseEstimate
from epochal.plans.measurements import Measurements
from epochal.random import seed_state
from epochal.runtime.memory import Limit
from support.same import same

SIZES = (4, 16, 64, 256, 1024)


def noise(value: float, low: float | None = None, high: float | None = None) -> NoiseEstimate:
    return NoiseEstimate(
        value, value / 2 if low is None else low, value * 2 if high is None else high, 1.0, value, 1000
    )


def measured(
    a: float = 245e-6,
    b: float = 1e-6,
    critical: float | None = 39.0,
    n: int = 100_000,
    per_row: int = 1000,
    **changed: Any,
) -> Measurements:
    """Steps of a + b m seconds that need 1 MB + per_row * m bytes."""
    given: dict[str, Any] = {
        "n": n,
        "seconds": {m: a + b * m for m in SIZES},
        "epoch_seconds": 0.0,
        "bytes": {m: 1_000_000 + per_row * m for m in SIZES},
        "limit": Limit(10**9, "the test"),
        "noise": None if critical is None else noise(critical),
        "trained": 100,
    }
    return Measurements(**{**given, **changed})


def network(units: int = 16, dropout: float = 0.2) -> Any:
    layers = [keras.layers.Dense(units, activation="relu"), keras.layers.Dropout(dropout)]
    model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def everything(model: Any) -> list[Any]:
    """All that training changes, and what random numbers come next."""
    optimizer = model.optimizer
    state = [] if optimizer.state is None else jax.tree.leaves(optimizer.state)
    return [np.array(a) for a in [*model.get_weights(), *model._training.parts().collect()[1], *state]] + [seed_state()]


def unchanged(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists of `everything` agree to the last bit."""
    *arrays, seeds = a
    *others, other_seeds = b
    equal = same(arrays, others)
    return equal and repr(seeds) == repr(other_seeds)
