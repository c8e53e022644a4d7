"""Data in the forms of other libraries, and models that they are fitted to."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import keras as theirs
import numpy as np

import epochal as keras
from epochal import layers
from support.feeds import N, line


def weights(n: int = N) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 3, n).astype(np.float32)


class Tensor:
    """What a torch tensor is to NumPy."""

    def __init__(self, array: np.ndarray):
        self._array, self.shape = array, array.shape

    def numpy(self) -> np.ndarray:
        return self._array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self._array, dtype=dtype)

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor(self._array[index])

    def __iter__(self) -> Iterator[Tensor]:
        return (Tensor(row) for row in self._array)


class Loader:
    """A torch `DataLoader`: its batches are lists of tensors."""

    def __init__(self, items: list[Any]):
        self.dataset, self.batch_sampler, self._items = object(), object(), items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[list[Tensor]]:
        return ([Tensor(a) for a in item] for item in self._items)


class TheirSequence(theirs.utils.PyDataset):
    """A dataset written for Keras, and left as it is."""

    def __init__(self, items: list[Any]):
        super().__init__(workers=2)
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


@functools.cache
def named() -> Any:
    """A model of two named inputs."""
    a, b = layers.Input((6,), name="a"), layers.Input((4,), name="b")
    model = keras.Model([a, b], layers.Dense(1)(layers.Concatenate()([a, b])))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


@functools.cache
def kept(k: Any) -> Any:
    return line(k, metrics=["mae"])


def oracle() -> Any:
    model = kept(theirs)
    model.set_weights(line().get_weights())
    return model


class Slices:
    """An array on disk that counts what is read, and cannot be read whole."""

    def __init__(self, array: Any):
        self._array, self.shape, self.dtype, self.chunks = array, array.shape, array.dtype, (4,)
        self.reads: list[Any] = []

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        self.reads.append(rows)
        return self._array[rows]

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise AssertionError("read whole")

    @property
    def largest(self) -> int:
        return max(r.stop - r.start if isinstance(r, slice) else len(r) for r in self.reads)
