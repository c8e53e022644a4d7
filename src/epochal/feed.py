"""Batches of a fixed shape, ready for a compiled loop over steps."""

from __future__ import annotations

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
    """

    x: Any
    y: Any
    weight: Any
    rows: Array | None
    size: Array
    ids: Array


class Block(NamedTuple):
    """Steps that one compiled program can run: `order[i]` are the rows of `data` that step i takes.

    Attributes:
        data: (x, y, weight), arrays on the device.
        order: (steps, m) int32 rows of `data`.
        sizes: (steps,) int32, how many of the m are examples.
    """

    data: tuple[Any, Any, Any]
    order: Array
    sizes: Array

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
    return Batch(x, y, weight, mask, size.astype(jnp.float32), rows.astype(jnp.uint32))


class ArrayFeed:
    """Arrays in memory: they go to the device once; an epoch is an order of their rows.

    Args:
        examples: the data.
        batch_size: m.
        shuffle: True (a new order every epoch), "batch" or False.
        seed: of the order.
        exact_tail: give a short last batch its true shape (another compiled program) instead of padding it.
    """

    def __init__(self, examples: Examples, batch_size: int, shuffle: bool | str, seed: int, exact_tail: bool):
        self.n = examples.n
        self.batch_size = min(batch_size, examples.n)
        self.shuffle = shuffle
        self.seed = seed
        self.exact_tail = exact_tail
        self.data = jax.device_put((examples.x, examples.y, examples.weight))

    @property
    def steps(self) -> int:
        """Batches per epoch: ceil(n / m)."""
        return -(-self.n // self.batch_size)

    @property
    def padded(self) -> bool:
        """Whether a batch may hold padding."""
        return not self.exact_tail and self.n % self.batch_size != 0

    def epoch(self, epoch: int) -> Iterator[Block]:
        """The blocks of one epoch: one, or two when a short last batch keeps its own shape."""
        order = self._order(epoch)
        m, full = self.batch_size, self.n // self.batch_size
        tail = self.n - full * m
        if self.padded:
            order = np.concatenate([order, np.full(m - tail, order[-1], order.dtype)])
            yield self._block(order.reshape(-1, m), tail)
            return
        if full:
            yield self._block(order[: full * m].reshape(full, m), m)
        if tail:
            yield self._block(order[None, full * m :], tail)

    def _block(self, order: np.ndarray, last_size: int) -> Block:
        """The steps of `order` (steps, m): full batches, but for the last, which holds `last_size` examples."""
        sizes = np.full(len(order), order.shape[1], np.int32)
        sizes[-1] = last_size
        return Block(self.data, *jax.device_put((order, sizes)))

    def _order(self, epoch: int) -> np.ndarray:
        if self.shuffle == "batch":
            return block_order(self.n, self.batch_size, self.seed, epoch)
        if self.shuffle:
            return epoch_order(self.n, self.seed, epoch)
        return np.arange(self.n, dtype=np.int32)
