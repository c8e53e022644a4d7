"""Gradients of single examples, or of small groups, at frozen weights; reduced to two numbers each."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from epochal.data.feeds.block import Batch
from epochal.engine.execution import execute
from epochal.engine.programs import Programs, pass_key
from epochal.engine.state import CopiedArrays, Parts, TrainState
from epochal.engine.step import TrainStep
from epochal.random import SeedState
from epochal.runtime.interrupts import Interrupts
from epochal.runtime.program import Program

CHUNK_BYTES = 64 * 2**20  # for the gradients that are in memory together
MOST_TOGETHER = 128


def chunk_size(parts: Parts) -> int:
    """How many gradients are in memory at a time."""
    size = sum(a.nbytes for a in parts.collect()[0])
    return max(1, min(MOST_TOGETHER, CHUNK_BYTES // max(size, 1)))


def squares_and_products(
    programs: Programs,
    data: tuple[Any, Any, Any],
    ids: np.ndarray,
    seed: int,
    chunk: int,
    scale: list[Array] | None = None,
    state: TrainState | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """|g_i|² and g_i·ḡ of N groups of b examples, float32 (N,) each, at a model's weights, which stay as they are.

    g_i is the gradient of what training minimises on a batch of group i alone: sample weights and masks in it,
    penalties once, dropout with masks of its own, moving statistics frozen. No more than `chunk` of them are ever in
    memory: of more groups they are computed twice, since ḡ is known after the first time only.

    Args:
        programs: the model's.
        data: (x, y, weight) of shapes (N, b, …).
        ids: (N, b) which examples they are.
        seed: of the dropout masks.
        chunk: how many groups at a time.
        scale: what gradients are multiplied with, one array per parameter; None leaves them as they are.
        state: the weights; None: the model's own.
    """
    step = programs.train.step
    program = programs.gradients.setdefault(
        programs.eager, Program(lambda state, *a: (None, _reduced(step, state, *a)), eager=programs.eager)
    )
    arrays = CopiedArrays((programs.test.arrays.read() if state is None else state)._replace(opt=None))
    params, count, draw = arrays.read().params, len(ids), np.array([seed, 0], np.uint32)
    direction: Any = None
    found: Any = ()
    once = count <= chunk
    for _ in range(1 if once else 2):
        total, pieces = None if once else [jnp.zeros_like(p) for p in params], []
        for start in range(0, count, chunk):
            rows = np.minimum(np.arange(start, start + chunk), count - 1)
            real = (np.arange(start, start + chunk) < count).astype(np.float32)
            part = jax.device_put((jax.tree.map(lambda a, rows=rows: a[rows], data), ids[rows].astype(np.uint32), real))
            arguments = (part, draw, direction, total, scale)
            executable = program.executable(arrays.read(), *arguments)
            squares, products, total = execute(executable, arrays, arguments, Interrupts())
            pieces.append((squares, products))
        direction = None if total is None else [t / count for t in total]
        found = tuple(np.concatenate(parts)[:count] for parts in zip(*jax.tree.map(np.asarray, pieces), strict=True))
    return found


def grouped(data: Any, rows: np.ndarray, group: int) -> tuple[Any, np.ndarray]:
    """Arrays of N rows and their numbers as groups of so many, shapes (N / group, group, …)."""
    return jax.tree.map(lambda a: np.asarray(a).reshape(-1, group, *a.shape[1:]), data), rows.reshape(-1, group)


def _reduced(
    step: TrainStep, state: TrainState, part: Any, draw: Any, direction: Any, total: Any, scale: Any
) -> tuple[Array, Array, Any]:
    """|g_i|² and g_i·direction of the groups, and `total` with the gradients of those that are real added.

    Without a direction it is the mean of the real groups' gradients; without a total none is made.
    """
    (data, ids, real), key = part, pass_key(draw)

    def of_one(group: Any) -> list[Array]:
        rows, numbers = group
        gradients = _gradient(step, state, rows, numbers, key)
        return gradients if scale is None else [g * s for g, s in zip(gradients, scale, strict=True)]

    if step.eager:
        groups = [of_one(jax.tree.map(lambda a, i=i: a[i], (data, ids))) for i in range(len(ids))]
        gradients = jax.tree.map(lambda *parts: jnp.stack(parts), *groups)
    elif ids.shape[1] == 1:
        gradients = jax.vmap(of_one)((data, ids))
    else:
        gradients = lax.map(of_one, (data, ids))
    flat = [g.reshape(len(ids), -1) for g in gradients]
    sums = [real.astype(g.dtype) @ g for g in flat]
    along = [s / real.sum() for s in sums] if direction is None else [d.ravel() for d in direction]
    squares = sum((jnp.square(g).sum(axis=1) for g in flat), jnp.zeros(len(ids)))
    products = sum((g @ d for g, d in zip(flat, along, strict=True)), jnp.zeros(len(ids)))
    if total is not None:
        total = [t + s.reshape(t.shape) for t, s in zip(total, sums, strict=True)]
    return squares, products, total


def _gradient(step: TrainStep, state: TrainState, data: Any, ids: Array, key: Array) -> list[Array]:
    """The gradient of what training minimises on a batch of these rows (x, y, weight), one array per parameter."""
    x, y, weight = data
    batch = Batch(x, y, weight, None, jnp.float32(ids.shape[0]), ids)
    own = _own_streams(step.parts, state.buffers, ids[0])

    def loss_of(params: Any) -> Array:
        call = step.call(batch, key)
        call.frozen = True
        return step.loss(params, own, batch, call)[0]

    return list(jax.grad(loss_of)(state.params))


def _own_streams(parts: Parts, buffers: Any, number: Array) -> Any:
    """The buffers, with random streams of a module's own that differ from group to group."""

    def own(node: Any, value: Array) -> Array:
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return jax.random.fold_in(value, number)
        return value.at[-1].add(number.astype(value.dtype)) if isinstance(node, SeedState) else value

    return tuple(own(parts.nodes[i], value) for i, value in zip(parts.kept, buffers, strict=True))
