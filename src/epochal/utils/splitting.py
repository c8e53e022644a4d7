"""A dataset cut in two."""

from __future__ import annotations

import random as python_random
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from epochal.data.streams.pydataset import PyDataset
from epochal.random import next_seed


class Part:
    """One side of a split: samples, or batches of them. May be gone through again and again.

    Args:
        samples: in order; each an array, or a tuple or dict of arrays.
        batch_size: samples in a batch, joined along a new first axis; None gives single samples.
    """

    def __init__(self, samples: Sequence[Any], batch_size: int | None = None):
        self._samples, self._batch_size = samples, batch_size

    def batch(self, batch_size: int) -> Part:
        """The same samples in batches of `batch_size`, as `fit` takes them."""
        if batch_size < 1:
            raise ValueError(f"Expected batch_size of 1 or more, got {batch_size!r}.")
        return Part(self._samples, batch_size)

    def __len__(self) -> int:
        """How many samples (or batches) there are."""
        return -(-len(self._samples) // (self._batch_size or 1))

    def __iter__(self) -> Iterator[Any]:
        if self._batch_size is None:
            yield from self._samples
            return
        for first in range(0, len(self._samples), self._batch_size):
            rows = self._samples[first : first + self._batch_size]
            yield jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *rows)


def split_dataset(
    dataset: Any,
    left_size: int | float | None = None,
    right_size: int | float | None = None,
    shuffle: bool = False,
    seed: int | None = None,
) -> tuple[Part, Part]:
    """Cuts a dataset into a left and a right part.

    Args:
        dataset: an array; a list or tuple of arrays with equally many rows, or a dict of them (a sample is a row of
            each); a list of samples; something with `__getitem__` and `__len__` that gives samples, such as a torch
            `Dataset`; a `PyDataset`; or anything that can be gone through. If what these give has equally many rows in
            all its arrays, it is batches: they are taken apart, and the parts give batches of the first one's size.
        left_size, right_size: how many samples, or (a float between 0 and 1) which part of them. One may be left out:
            it is the rest. The left part is the first samples, the right part the last.
        shuffle: shuffle the samples before.
        seed: an integer that the order depends on; with the same one Keras shuffles alike.

    Returns:
        two parts: iterables of samples, with `batch(batch_size)` to make batches of them for `fit`.

    Raises:
        TypeError: a dataset that cannot be gone through, or a size that is no number.
        ValueError: no size, sizes that do not fit the dataset, or an empty part.

    Example:
        >>> from epochal.utils import split_dataset
        >>> train, test = split_dataset([1, 2, 3, 4, 5], left_size=0.8)
        >>> len(train), [int(sample) for sample in test]
        (4, [5])
    """
    samples, batch_size = _samples(dataset)
    left, right = _sizes(left_size, right_size, len(samples))
    if shuffle:
        python_random.Random(next_seed() if seed is None else seed).shuffle(samples)
    return Part(samples[:left], batch_size), Part(samples[len(samples) - right :], batch_size)


def _samples(dataset: Any) -> tuple[list[Any], int | None]:
    """All samples, and the size of the batches that they came in, or None."""
    if _rows(dataset) is not None:
        return _taken_apart(dataset), None
    if isinstance(dataset, list | tuple):
        if dataset and all(len(getattr(column, "shape", ())) for column in dataset):
            shapes = ", ".join(str(column.shape) for column in dataset)
            raise ValueError(f"Expected arrays with equally many rows, got the shapes {shapes}.")
        return [tuple(s) if isinstance(s, list) else s for s in dataset], None
    numbered = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if numbered and not hasattr(dataset, "__iter__"):
        items = [dataset[i] for i in range(len(dataset))]
        if not isinstance(dataset, PyDataset):
            return items, None
    elif hasattr(dataset, "__iter__"):
        items = list(dataset)
    else:
        raise TypeError(f"Expected arrays, samples or a dataset to split, got a {type(dataset).__name__}.")
    if items and all(_rows(item) is not None for item in items):
        return [sample for item in items for sample in _taken_apart(item)], _rows(items[0])
    return items, None


def _rows(tree: Any) -> int | None:
    """How many rows all arrays of a structure have; None where they differ, or something in it is no array."""
    leaves = jax.tree.leaves(tree)
    if not leaves or not all(hasattr(leaf, "shape") and len(leaf.shape) for leaf in leaves):
        return None
    sizes = {leaf.shape[0] for leaf in leaves}
    return sizes.pop() if len(sizes) == 1 else None


def _taken_apart(batch: Any) -> list[Any]:
    arrays = jax.tree.map(np.asarray, tuple(batch) if isinstance(batch, list) else batch)
    return [jax.tree.map(lambda a: a[i], arrays) for i in range(_rows(arrays) or 0)]  # noqa: B023


def _sizes(left: Any, right: Any, total: int) -> tuple[int, int]:
    if left is None and right is None:
        raise ValueError("Expected left_size or right_size, or both; got neither.")
    first, second = _count("left_size", left, total), _count("right_size", right, total)
    first = total - (second or 0) if first is None else first
    second = total - first if second is None else second
    if min(first, second) < 1 or first + second > total:
        raise ValueError(
            f"Expected two parts of {total} samples that are not empty, got left_size={left!r} and "
            f"right_size={right!r}: {first} and {second} samples."
        )
    return first, second


def _count(name: str, size: Any, total: int) -> int | None:
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int | float | np.number):
        raise TypeError(f"Expected {name} to be an integer, a float between 0 and 1 or None, got {size!r}.")
    is_part = isinstance(size, float | np.floating)
    if not 0 < size < (1 if is_part else total):
        raise ValueError(f"Expected {name} between 0 and {1 if is_part else total}, both excluded, got {size!r}.")
    return round(float(size) * total) if is_part else int(size)
