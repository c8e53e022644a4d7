"""Data that comes in batches: which kinds there are, and how the batches of an epoch are drawn from each."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from epochal.data import arrays, examples
from epochal.data.examples import Examples
from epochal.data.order import epoch_order
from epochal.data.streams.indexed import Made, Workforce
from epochal.data.streams.iterable import Iterated, OneShot
from epochal.data.streams.pydataset import DatasetCreator, InputContext, PyDataset
from epochal.data.streams.stream import Stream
from epochal.data.streams.torch_loader import Loader, is_loader


def made(x: Any) -> Any:
    """`x`, or what a `DatasetCreator` makes for this process."""
    if not isinstance(x, DatasetCreator):
        return x
    processes = jax.process_count()
    return x(InputContext(processes, jax.process_index(), processes))


def is_stream(x: Any) -> bool:
    """Whether `x` comes in batches, and is not arrays."""
    if x is None or isinstance(x, str | bytes | Mapping) or (arrays.is_arrays(x) and not _is_sequence(x)):
        return False
    return _is_sequence(x) or hasattr(x, "__iter__") or hasattr(x, "__next__")


def as_stream(
    x: Any,
    method: str,
    limit: int | None,
    *,
    shuffle: Any = False,
    seed: int = 0,
    again: bool = True,
    workforce: Workforce | None = None,
    keeps_state: bool = False,
) -> Stream:
    """The batches of a dataset, `PyDataset`, generator or iterator.

    Args:
        x: the data.
        method: who takes it, for messages.
        limit: batches per epoch; None is one pass.
        shuffle, seed: of the order of a `PyDataset`'s batches; other data comes as it comes.
        again: see `Iterated`.
        workforce: who makes a `PyDataset`'s batches.
        keeps_state: see `Stream`.
    """
    stream = _stream_of(x, method, limit, shuffle, seed, again, workforce or Workforce())
    stream.keeps_state = keeps_state
    return stream


def _stream_of(
    x: Any, method: str, limit: int | None, shuffle: Any, seed: int, again: bool, workforce: Workforce
) -> Stream:
    def read(element: Any) -> Examples:
        return element_examples(element, method)

    if _is_sequence(x):
        workers = workforce.of(x)
        return Made(x, read, limit, again, lambda n, number: _order(n, bool(shuffle), seed, number), workers)
    if hasattr(x, "__next__"):
        return OneShot(x, read, limit)
    return Iterated(Loader(x) if is_loader(x) else x, read, limit, again)


def _order(length: int, shuffle: bool, seed: int, number: int) -> Sequence[int]:
    if shuffle and length < sys.maxsize:
        return epoch_order(length, seed, number).tolist()
    return range(length)


def element_examples(element: Any, method: str) -> Examples:
    """A batch that a dataset gave: a tuple of one to three is x, y, sample_weight; anything else is x.

    Raises:
        ValueError: a tuple of another length, or a namedtuple; or no examples in it.
    """
    if not isinstance(element, tuple):
        return examples.as_examples(element, method=method)
    fields = getattr(element, "_fields", None)
    if fields is not None:
        raise ValueError(
            f"The dataset gave a namedtuple with the fields {fields}: whether that is x alone or (x, y) cannot be "
            "told. Give a plain tuple (x, y), or a dict for several inputs."
        )
    if len(element) not in (1, 2, 3):
        raise ValueError(
            f"Expected batches (x,), (x, y) or (x, y, sample_weight), the dataset gave a tuple of {len(element)}."
        )
    return examples.as_examples(*element, method=method)


def _is_sequence(x: Any) -> bool:
    """A `PyDataset`, Keras's or ours, or a class written like one."""
    counted = hasattr(x, "__len__") or hasattr(type(x), "num_batches")
    return isinstance(x, PyDataset) or (counted and hasattr(x, "__getitem__") and hasattr(x, "on_epoch_end"))
