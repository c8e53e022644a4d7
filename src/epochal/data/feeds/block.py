"""Batches on the device: `Block`, and pure functions that take batches out of one."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


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
        passes: (steps,) uint32, added to the ids of a step's examples, so that every pass draws other masks.
        ids: ids of the rows of `data`, uint32; None: they are the rows' numbers.
        pivot: one row of targets per output, the same for all blocks of a pass; see `Metric.shift_invariant`.
        starts: (steps,) int32, for batches that are run in pieces: where in the flattened `order` each begins, so that
            their sizes may differ; None: every m rows.
    """

    data: tuple[Any, Any, Any]
    order: Array
    sizes: Array
    passes: Array
    ids: Array | None
    pivot: Any
    starts: Array | None = None


def take(block: Block, step: Array | int, padded: bool) -> Batch:
    """Batch number `step` of the block. Pure; called inside the compiled loop."""
    rows = jax.lax.dynamic_index_in_dim(block.order, step, keepdims=False)
    return _batch(block, step, rows, block.sizes[step], padded)


def take_piece(block: Block, step: Array | int, start: Array | int, width: int, padded: bool) -> Batch:
    """`width` rows of batch number `step` from its row `start` on, as a batch of their own; padded behind its end."""
    size = block.sizes[step]
    first = step * block.order.shape[1] if block.starts is None else block.starts[step]
    within = jnp.minimum(start + jnp.arange(width, dtype=jnp.int32), size - 1)
    rows = jnp.take(block.order.reshape(-1), first + within, mode="clip")
    return _batch(block, step, rows, jnp.clip(size - start, 0, width), padded)


def _batch(block: Block, step: Array | int, rows: Array, size: Array, padded: bool) -> Batch:
    x, y, weight = jax.tree.map(lambda a: jnp.take(a, rows, axis=0, mode="clip"), block.data)
    mask = (jnp.arange(rows.shape[0]) < size).astype(jnp.float32) if padded else None
    ids = (rows if block.ids is None else block.ids[rows]).astype(jnp.uint32) + block.passes[step]
    return Batch(x, y, weight, mask, size.astype(jnp.float32), ids, block.pivot)


# A pass's number times this, modulo 2**32, is added to the examples' ids. The factor is odd and large: ids of different
# examples and passes do not meet.
PASS_FACTOR = 2654435769


class Stretch(NamedTuple):
    """Steps to be run: those of a block from `first` on.

    Attributes:
        block: what they are steps of.
        first: those before it are through already.
        sizes: how many examples each batch of the block has, on the host.
    """

    block: Block
    first: int
    sizes: np.ndarray
