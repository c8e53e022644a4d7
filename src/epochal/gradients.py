"""Gradients of single examples at frozen weights, reduced to two numbers each."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal import scope
from epochal.feed import Batch
from epochal.program import Program
from epochal.random import SeedState
from epochal.state import Parts
from epochal.step import Steps, pass_key

CHUNK_BYTES = 64 * 2**20  # for the gradients of as many examples as are computed together
MOST_TOGETHER = 128


def chunk_size(parts: Parts) -> int:
    """How many examples' gradients are computed at a time."""
    size = sum(a.nbytes for a in parts.collect()[0])
    return max(1, min(MOST_TOGETHER, CHUNK_BYTES // size))


def squares_and_products(
    steps: Steps, data: tuple[Any, Any, Any], ids: np.ndarray, seed: int, chunk: int, scale: list[Array] | None
) -> tuple[np.ndarray, np.ndarray]:
    """|g_i|² and g_i·ḡ of N examples, float32 (N,) each, at the model's current weights, which stay as they are.

    g_i is the gradient of what training minimises on a batch of example i alone: sample weights and masks in it,
    penalties once, dropout with a mask of its own, moving statistics frozen. The gradients are computed twice, since ḡ
    is known after the first time only; so no more than `chunk` of them are ever in memory.

    Args:
        steps: the model's programs.
        data: (x, y, weight) with N rows each.
        ids: (N,) which examples they are.
        seed: of the dropout masks.
        chunk: how many examples at a time.
        scale: what gradients are multiplied with, one array per parameter; None leaves them as they are.
    """
    program = steps.kept.setdefault("gradients", Program(lambda *a: _reduced(steps, *a), eager=steps.eager))
    state, count, draw = steps.parts.collect(), len(ids), np.array([seed, 0], np.uint32)
    direction: Any = [jnp.zeros_like(p) for p in state[0]]
    found: Any = ()
    for _ in range(2):
        total, pieces = [jnp.zeros_like(p) for p in state[0]], []
        for start in range(0, count, chunk):
            rows = np.minimum(np.arange(start, start + chunk), count - 1)
            real = (np.arange(start, start + chunk) < count).astype(np.float32)
            part = jax.device_put((jax.tree.map(lambda a, rows=rows: a[rows], data), ids[rows].astype(np.uint32), real))
            arguments = (*state, part, draw, direction, total, scale)
            squares, products, total = program.executable(*arguments)(*arguments)
            pieces.append((squares, products))
        direction = [t / count for t in total]
        found = tuple(np.concatenate(parts)[:count] for parts in zip(*jax.tree.map(np.asarray, pieces), strict=True))
    return found


def _reduced(
    steps: Steps, params: Any, buffers: Any, part: Any, draw: Any, direction: Any, total: Any, scale: Any
) -> tuple[Array, Array, Any]:
    """|g_i|² and g_i·direction of the rows, and `total` with the gradients of those that are real added."""
    (data, ids, real), key = part, pass_key(draw)

    def of_one(row: Any, number: Array) -> tuple[Array, Array, Any]:
        gradients = gradient_of_one(steps, params, buffers, row, number, key)
        if scale is not None:
            gradients = [g * s for g, s in zip(gradients, scale, strict=True)]
        square = sum((jnp.sum(jnp.square(g)) for g in gradients), jnp.zeros(()))
        product = sum((jnp.sum(g * d) for g, d in zip(gradients, direction, strict=True)), jnp.zeros(()))
        return square, product, gradients

    if steps.eager:
        rows = [of_one(jax.tree.map(lambda a, i=i: a[i], data), ids[i]) for i in range(len(ids))]
        squares, products, gradients = jax.tree.map(lambda *parts: jnp.stack(parts), *rows)
    else:
        squares, products, gradients = jax.vmap(of_one)(data, ids)
    total = [t + jnp.tensordot(real.astype(g.dtype), g, 1) for t, g in zip(total, gradients, strict=True)]
    return squares, products, total


def gradient_of_one(steps: Steps, params: Any, buffers: Any, row: Any, number: Array, key: Array) -> list[Array]:
    """The gradient of what training minimises on a batch of one row (x, y, weight), one array per parameter."""
    x, y, weight = jax.tree.map(lambda a: a[None], row)
    batch = Batch(x, y, weight, None, jnp.ones(()), number[None])
    own = _own_streams(steps.parts, buffers, number)

    def loss_of(params: Any) -> Array:
        call = steps.call(batch, key)
        call.frozen = True
        with scope.calling(call):
            module, predictions, _ = steps.forward(params, own, batch.x, call)
            return steps.total_loss(module, predictions, batch, call)

    return list(jax.grad(loss_of)(params))


def _own_streams(parts: Parts, buffers: Any, number: Array) -> Any:
    """The buffers, with random streams of a module's own that differ from example to example."""

    def own(node: Any, value: Array) -> Array:
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return jax.random.fold_in(value, number)
        return value.at[-1].add(number.astype(value.dtype)) if isinstance(node, SeedState) else value

    return tuple(own(parts.nodes[i], value) for i, value in zip(parts.kept, buffers, strict=True))
