"""Training data with a value that is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import epochal as keras
from epochal import layers
from support.data import digits

N, M, BAD = 90, 16, 37  # six batches, the last one of 10 rows; row 37 is in batch 2 of an unshuffled epoch
FIRST, LAST = 32, 48  # its rows


def spoiled() -> tuple[np.ndarray, np.ndarray]:
    """The digits with one pixel missing."""
    x, y = digits(N)
    x = x.copy()
    x[BAD, 20] = np.nan
    return x, y


def classifier(k: Any = keras, optimizer: str = "adam", **compiled: Any) -> Any:
    """A network with moving statistics, the same one every time."""
    k.utils.set_random_seed(3)
    model = k.Sequential(
        [
            k.layers.Input((64,)),
            k.layers.Dense(8, name="hidden"),
            k.layers.BatchNormalization(name="normalized"),
            k.layers.Dense(10, name="scores"),
        ]
    )
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], **compiled)
    return model


def arrays_of(model: Any) -> list[np.ndarray]:
    """All that an update changes: weights, moving statistics, the optimizer's state with its count of updates."""
    return [np.asarray(a) for a in [*model.get_weights(), *jax.tree.leaves(model.optimizer.state)]]


def batches(x: np.ndarray, y: np.ndarray, epochs: int = 1) -> Iterator[Any]:
    for _ in range(epochs):
        for i in range(0, len(x), M):
            yield x[i : i + M], y[i : i + M]


def trained(model: Any, x: np.ndarray, y: np.ndarray, form: str = "arrays", epochs: int = 2, **named: Any) -> Any:
    if form == "arrays":
        return model.fit(x, y, batch_size=M, epochs=epochs, shuffle=False, verbose=0, **named)
    per_epoch = -(-len(x) // M)
    return model.fit(batches(x, y, epochs), steps_per_epoch=per_epoch, epochs=epochs, verbose=0, **named)


class Own(keras.Model):
    """A model with a step of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.out = layers.Dense(10, name="out")

    def call(self, x: Any) -> Any:
        return self.out(x)

    def train_step(self, state: Any, batch: Any) -> Any:
        state, logs = super().train_step(state, batch)
        return state, {"own": logs["loss"]}
