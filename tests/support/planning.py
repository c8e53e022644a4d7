"""A small network to plan for, and all that planning must leave as it was."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import epochal as keras
from epochal.random import seed_state
from support.same import same


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
