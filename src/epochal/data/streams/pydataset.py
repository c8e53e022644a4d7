"""Data that users write as classes: batches by number (`PyDataset`), and datasets made per input pipeline."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class PyDataset:
    """Batches by number: override `__len__` and `__getitem__`. Also called `Sequence`.

    A batch is what `__getitem__(i)` returns: `x`, `(x,)`, `(x, y)` or `(x, y, sample_weight)`. The order of batches
    changes every epoch with `fit(shuffle=True)`; `on_epoch_end` is called once after every epoch.

    Args:
        workers: how many threads or processes make batches ahead of training; with 1 thread, batches are made in turn
            with it.
        use_multiprocessing: processes instead of threads. The object is copied to each of them after every
            `on_epoch_end` that changed it.
        max_queue_size: how many batches may be made ahead.
        timeout: seconds that one batch may take in a worker before it counts as hung.

    Example:
        >>> import numpy as np
        >>> import epochal as keras
        >>> class Squares(keras.utils.PyDataset):
        ...     def __len__(self):
        ...         return 3
        ...     def __getitem__(self, i):
        ...         x = np.arange(4.0) + 4 * i
        ...         return x[:, None], x[:, None] ** 2
        >>> model = keras.Sequential([keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> len(model.fit(Squares(workers=2), epochs=2, verbose=0).history["loss"])
        2
    """

    workers = 1
    use_multiprocessing = False
    max_queue_size = 10
    timeout = 600.0

    def __init__(
        self,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
        timeout: float = 600.0,
    ):
        self.workers, self.use_multiprocessing = workers, use_multiprocessing
        self.max_queue_size, self.timeout = max_queue_size, timeout

    def __len__(self) -> int:
        """The number of batches."""
        raise NotImplementedError(f"{type(self).__name__} needs a __len__(self): the number of its batches.")

    @property
    def num_batches(self) -> int | None:
        """The number of batches: what `__len__` says. An override may say None, for batches without end."""
        return len(self)

    def __getitem__(self, index: int) -> Any:
        """Batch number `index`, from 0."""
        raise NotImplementedError(f"{type(self).__name__} needs a __getitem__(self, index): batch number `index`.")

    def on_epoch_end(self) -> None:
        """Called once after every epoch, before the next one's first batch is made."""

    def on_epoch_begin(self) -> None:
        """Called once before every epoch."""

    def __iter__(self) -> Any:
        number = self.num_batches
        return (self[i] for i in (itertools.count() if number is None else range(number)))


Sequence = PyDataset


@dataclass(frozen=True)
class InputContext:
    """What a `DatasetCreator` knows of the process it makes data for.

    Args:
        num_input_pipelines: how many processes read data.
        input_pipeline_id: which of them this is, from 0.
        num_replicas_in_sync: how many devices train together.
    """

    num_input_pipelines: int = 1
    input_pipeline_id: int = 0
    num_replicas_in_sync: int = 1

    def get_per_replica_batch_size(self, global_batch_size: int) -> int:
        """The part of a batch of `global_batch_size` examples that one device takes.

        Raises:
            ValueError: the batch cannot be cut into equal parts.
        """
        if global_batch_size % self.num_replicas_in_sync:
            raise ValueError(
                f"Expected a batch size that {self.num_replicas_in_sync} devices can share, got {global_batch_size}."
            )
        return global_batch_size // self.num_replicas_in_sync


class DatasetCreator:
    """A function that makes the dataset where it is read: `fit(DatasetCreator(make), steps_per_epoch=…)`.

    Args:
        dataset_fn: called with an `InputContext`; returns any data that `fit` takes as `x`.
        input_options: taken for Keras's sake; tells nothing here.

    Raises:
        TypeError: `dataset_fn` cannot be called, or makes no dataset.
    """

    def __init__(self, dataset_fn: Callable[[InputContext], Any], input_options: Any = None):
        if not callable(dataset_fn):
            raise TypeError(f"Expected dataset_fn to be a function of an InputContext, got {dataset_fn!r}.")
        self.dataset_fn, self.input_options = dataset_fn, input_options

    def __call__(self, context: InputContext) -> Any:
        """The dataset for one input pipeline."""
        made = self.dataset_fn(context)
        if not hasattr(made, "__iter__") and not hasattr(made, "__getitem__"):
            raise TypeError(f"Expected dataset_fn to return a dataset, got a {type(made).__name__}.")
        return made
