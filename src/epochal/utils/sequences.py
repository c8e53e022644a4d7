"""Sequences made ready for training: brought to one length, or cut out of a long one as windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from epochal.data.order import epoch_order
from epochal.random import next_seed


def pad_sequences(
    sequences: Sequence[Any],
    maxlen: int | None = None,
    dtype: Any = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: Any = 0.0,
) -> np.ndarray:
    """Sequences of different lengths as one array, short ones filled up and long ones cut.

    Args:
        sequences: n of them, each a list of numbers, or of arrays of one shape.
        maxlen: the length of all; that of the longest when not given.
        dtype: the result's type.
        padding: where to fill up, "pre" (in front) or "post".
        truncating: where to cut, "pre" or "post".
        value: what to fill up with.

    Returns:
        shape (n, maxlen), or (n, maxlen, ...) for sequences of arrays.

    Raises:
        ValueError: something that is no sequence, shapes that differ, or an unknown `padding` or `truncating`.

    Example:
        >>> from epochal.utils import pad_sequences
        >>> pad_sequences([[1], [2, 3], [4, 5, 6]], maxlen=2).tolist()
        [[0, 1], [2, 3], [5, 6]]
    """
    for name, given in (("padding", padding), ("truncating", truncating)):
        if given not in ("pre", "post"):
            raise ValueError(f"Expected {name} 'pre' or 'post', got {given!r}.")
    if not hasattr(sequences, "__len__") or not all(hasattr(s, "__len__") for s in sequences):
        raise ValueError("Expected a list of sequences; it, or something in it, has no length.")
    if isinstance(value, str) and np.dtype(dtype).kind not in "OUS":
        raise ValueError(f"Expected dtype=object for the value {value!r}, got {dtype!r}.")
    length = max((len(s) for s in sequences), default=0) if maxlen is None else maxlen
    inner = next((np.shape(s)[1:] for s in sequences if len(s)), ())
    padded = np.full((len(sequences), length, *inner), value, dtype)
    for i, sequence in enumerate(sequences):
        part = np.asarray(sequence[max(len(sequence) - length, 0) :] if truncating == "pre" else sequence[:length])
        if len(sequence) and np.shape(sequence)[1:] != inner:
            raise ValueError(f"Expected items of shape {inner} in sequence {i}, got {np.shape(sequence)[1:]}.")
        if len(part):
            place = slice(length - len(part), None) if padding == "pre" else slice(len(part))
            padded[i, place] = part
    return padded


class Windows:
    """Windows of a time series in batches; see `timeseries_dataset_from_array`. May be gone through again and again.

    Args:
        data, targets: arrays of which the rows are taken; targets may be None.
        starts: the first row of each window.
        steps: the rows of a window, counted from its first.
        batch_size: windows in a batch; None gives single windows.
        seed: shuffles the windows, another way in each pass; None leaves them in order.
    """

    def __init__(
        self,
        data: np.ndarray,
        targets: np.ndarray | None,
        starts: np.ndarray,
        steps: np.ndarray,
        batch_size: int | None,
        seed: int | None,
    ):
        self._data, self._targets, self._starts, self._steps = data, targets, starts, steps
        self._batch_size, self._seed, self._passes = batch_size, seed, 0

    def __len__(self) -> int:
        """How many batches (or windows) a pass has."""
        return -(-len(self._starts) // (self._batch_size or 1))

    def __iter__(self) -> Iterator[Any]:
        starts = self._starts
        if self._seed is not None:
            starts = starts[epoch_order(len(starts), self._seed, self._passes)]
            self._passes += 1
        size = self._batch_size or 1
        for first in range(0, len(starts), size):
            yield self._batch(starts[first : first + size])

    def _batch(self, starts: np.ndarray) -> Any:
        x = self._data[starts[:, None] + self._steps]
        parts = (x,) if self._targets is None else (x, self._targets[starts])
        if self._batch_size is None:
            parts = tuple(part[0] for part in parts)
        return parts[0] if self._targets is None else parts


def timeseries_dataset_from_array(
    data: Any,
    targets: Any,
    sequence_length: int,
    sequence_stride: int = 1,
    sampling_rate: int = 1,
    batch_size: int | None = 128,
    shuffle: bool = False,
    seed: int | None = None,
    start_index: int | None = None,
    end_index: int | None = None,
) -> Windows:
    """Windows of a time series as a dataset for `fit`.

    Args:
        data: (steps, ...), one row per point of time.
        targets: `targets[i]` belongs to the window that starts with `data[i]`; None for windows alone.
        sequence_length: rows in a window.
        sequence_stride: rows from the start of a window to the start of the next.
        sampling_rate: rows from one row in a window to the next.
        batch_size: windows in a batch; None gives single windows.
        shuffle: go through the windows in another order in each pass.
        seed: an integer that this order depends on, beside the number of the pass.
        start_index, end_index: use the rows start_index … end_index - 1 only.

    Returns:
        batches of (windows (m, sequence_length, ...), targets (m, ...)), or of windows alone.

    Raises:
        ValueError: numbers below 1, rows outside of the data, or not one whole window.

    Example:
        >>> import numpy as np
        >>> from epochal.utils import timeseries_dataset_from_array
        >>> series = np.arange(6)
        >>> [(x, y)] = timeseries_dataset_from_array(series[:-2], series[2:], sequence_length=2)
        >>> x.tolist(), y.tolist()
        ([[0, 1], [1, 2], [2, 3]], [2, 3, 4])
    """
    whole = {"sequence_length": sequence_length, "sequence_stride": sequence_stride, "sampling_rate": sampling_rate}
    whole |= {} if batch_size is None else {"batch_size": batch_size}
    for name, number in whole.items():
        if number < 1:
            raise ValueError(f"Expected {name} of 1 or more, got {number!r}.")
    start, end = start_index or 0, len(data) if end_index is None else end_index
    if not 0 <= start < end <= len(data):
        raise ValueError(
            f"Expected 0 <= start_index < end_index <= {len(data)}, the length of the data; got {start} and {end}."
        )
    rows = np.asarray(data[start:end])
    values = None if targets is None else np.asarray(targets[start:end])
    count = len(rows) - (sequence_length - 1) * sampling_rate
    count = count if values is None else min(count, len(values))
    if count < 1:
        raise ValueError(
            f"Expected data for one window at least: {(sequence_length - 1) * sampling_rate + 1} rows and a target, "
            f"got {len(rows)} rows" + ("." if values is None else f" and {len(values)} targets.")
        )
    steps = np.arange(sequence_length) * sampling_rate
    order_seed = (next_seed() if seed is None else seed) if shuffle else None
    return Windows(rows, values, np.arange(0, count, sequence_stride), steps, batch_size, order_seed)
