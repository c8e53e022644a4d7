"""Batches of a fixed shape, ready for a compiled loop over steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal.order import block_order, epoch_order
from epochal.sources import Examples


class Batch(NamedTuple):
    """m rows, of which the first `size` are examples and the rest padding.

    Attributes:
        x, y: arrays with m rows; padding repeats a row of the same batch, so it can never bring a NaN of its own.
        weight: sample weights per output, or None.
        rows: (m,) float32, 1 for an example and 0 for padding; None when the batch has no room for padding.
        size: number of examples, a float32 scalar.
        ids: (m,) uint32 example ids.
        pivot: one row of targets per output, the same for all batches; see `Metric.shift_invariant`.
    """

    x: Any
    y: Any
    weight: Any
    rows: Array | None
    size: Array
    ids: Array
    pivot: Any = None


class Block(NamedTuple):
    """Steps that one compiled program can run: `order[i]` are the rows of `data` that step i takes.

    Attributes:
        data: (x, y, weight), arrays on the device.
        order: (steps, m) int32 rows of `data`.
        sizes: (steps,) int32, how many of the m are examples.
        passes: (steps,) uint32, the pass over the data that the batch belongs to.
    """

    data: tuple[Any, Any, Any]
    order: Array
    sizes: Array
    passes: Array

    @property
    def steps(self) -> int:
        """How many batches the block holds."""
        return self.order.shape[0]


def take(block: Block, step: Array | int, padded: bool) -> Batch:
    """Batch number `step` of the block. Pure; called inside the compiled loop."""
    rows = jax.lax.dynamic_index_in_dim(block.order, step, keepdims=False)
    size = block.sizes[step]
    x, y, weight = jax.tree.map(lambda a: jnp.take(a, rows, axis=0, mode="clip"), block.data)
    mask = (jnp.arange(rows.shape[0]) < size).astype(jnp.float32) if padded else None
    # An example has another id in every pass, so that a second pass in one epoch draws other masks. The factor is odd
    # and large: ids of different examples and passes do not meet.
    ids = rows.astype(jnp.uint32) + block.passes[step] * jnp.uint32(2654435769)
    pivot = jax.tree.map(lambda a: a[:1], block.data[1])
    return Batch(x, y, weight, mask, size.astype(jnp.float32), ids, pivot)


class ArrayFeed:
    """Arrays in memory: they go to the device once; what is fed is an order of their rows.

    The batches form one endless stream: pass 0 over the data, pass 1, …; each pass has ceil(n / m) batches in an order
    of its own. Epoch e takes the batches number e * s … (e + 1) * s - 1, so it depends on no other epoch.

    Args:
        examples: the data.
        batch_size: m.
        shuffle: True (a new order every pass), "batch" or False.
        seed: of the order.
        exact_tail: give a short last batch its true shape (another compiled program) instead of padding it.
        steps: s, the batches of an epoch; None is one pass, -1 an epoch without end.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        shuffle: bool | str,
        seed: int,
        exact_tail: bool,
        steps: int | None = None,
    ):
        self.n = examples.n
        self.batch_size = min(batch_size, examples.n)
        self.shuffle = shuffle
        self.seed = seed
        self.exact_tail = exact_tail
        self._per_pass = -(-self.n // self.batch_size)
        self.steps: int | None = self._per_pass if steps is None else None if steps == -1 else steps
        self.data = jax.device_put((examples.x, examples.y, examples.weight))

    @property
    def padded(self) -> bool:
        """Whether a batch may hold padding."""
        return not self.exact_tail and self.n % self.batch_size != 0

    def epoch(self, epoch: int) -> Iterator[Block]:
        """The blocks of one epoch; more than one where short batches keep their own shape."""
        if self.steps is not None:
            yield from self._blocks(epoch * self.steps, (epoch + 1) * self.steps)
            return
        for number in itertools.count():
            yield from self._blocks(number * self._per_pass, (number + 1) * self._per_pass)

    def _blocks(self, first: int, last: int) -> Iterator[Block]:
        """The batches first … last-1 of the stream."""
        tables, sizes, passes = [], [], []
        for number in range(first // self._per_pass, -(-last // self._per_pass)):
            start = number * self._per_pass
            cut = slice(max(first - start, 0), min(last - start, self._per_pass))
            table, table_sizes = self._pass(number)
            tables.append(table[cut])
            sizes.append(table_sizes[cut])
            passes.append(np.full(len(tables[-1]), number, np.uint32))
        yield from self._cut(np.concatenate(tables), np.concatenate(sizes), np.concatenate(passes))

    def _cut(self, order: np.ndarray, sizes: np.ndarray, passes: np.ndarray) -> Iterator[Block]:
        """One block; with exact tails a block for every run of batches of one size."""
        edges = np.flatnonzero(np.diff(sizes)) + 1 if self.exact_tail else []
        for rows, size, number in zip(*(np.split(a, edges) for a in (order, sizes, passes)), strict=True):
            rows = rows[:, : size[0]] if self.exact_tail else rows
            yield Block(self.data, *jax.device_put((rows, size, number)))

    def _pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of all batches of a pass (steps, m), padded with the last row, and how many of them are examples."""
        order = self._order(number)
        padding = self._per_pass * self.batch_size - self.n
        rows = np.concatenate([order, np.full(padding, order[-1], order.dtype)]).reshape(-1, self.batch_size)
        sizes = np.full(self._per_pass, self.batch_size, np.int32)
        sizes[-1] -= padding
        return rows, sizes

    def _order(self, number: int) -> np.ndarray:
        if self.shuffle == "batch":
            return block_order(self.n, self.batch_size, self.seed, number)
        if self.shuffle:
            return epoch_order(self.n, self.seed, number)
        return np.arange(self.n, dtype=np.int32)
