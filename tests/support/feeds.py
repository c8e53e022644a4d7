"""A small model, and real data in every form in which it may come: shared by the contract's tests."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import epochal as keras

N, M = 42, 8  # examples and batch size: the last batch is short


def line(k: Any = keras, features: int = 10, **compile_arguments: Any) -> Any:
    """A linear model with fixed weights."""
    model = k.Sequential([k.layers.Input((features,)), k.layers.Dense(1)])
    model.set_weights([np.linspace(-0.2, 0.3, features, dtype=np.float32)[:, None], np.zeros(1, np.float32)])
    model.compile(**{"optimizer": k.optimizers.SGD(0.05), "loss": "mse", **compile_arguments})
    return model


@functools.cache
def still() -> Any:
    """The same, which training does not change: its losses are known beforehand, and it is compiled once for all."""
    return line(optimizer=keras.optimizers.SGD(0.0))


def batches(*arrays: np.ndarray, size: int = M) -> list[tuple[np.ndarray, ...]]:
    return [tuple(a[i : i + size] for a in arrays) for i in range(0, len(arrays[0]), size)]


class Listed(keras.utils.Sequence):
    """A Sequence over a list of batches that counts what is asked of it."""

    def __init__(self, items: list[Any], **kwargs: Any):
        super().__init__(**kwargs)
        self.items, self.asked, self.ends = items, [], 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        self.asked.append(i)
        return self.items[i]

    def on_epoch_end(self) -> None:
        self.ends += 1


class Plain:
    """The least that a dataset is: an `__iter__`."""

    def __init__(self, items: list[Any]):
        self.items, self.fetched = items, 0

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.fetched += 1
            yield item


def forever(items: list[Any]) -> Iterator[Any]:
    while True:
        yield from items


FORMS: dict[str, Callable[[list[Any]], Any]] = {
    "generator": lambda items: (item for item in items),
    "dataset": Plain,
    "sequence": Listed,
}


def errors(model: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared errors of a linear model, one per example."""
    kernel, bias = model.get_weights()
    return ((x.astype(np.float64) @ kernel + bias)[..., 0] - y) ** 2
