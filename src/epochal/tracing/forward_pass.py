"""What a layer may know of the call it is in, while a step is traced: the mode, which rows are real, random keys.

The step sets one `Call` around the model's forward pass; layers read it with `current()`. It is a context variable, so
two models may be traced in two threads at once.
"""

from __future__ import annotations

import contextlib
import contextvars
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


@dataclass
class Call:
    """One forward pass over a batch of m rows.

    Attributes:
        training: whether layers act as in training (dropout on, batch statistics).
        rows: (m,) float32, 1 for a real example and 0 for padding; None when all rows are real.
        ids: (m,) uint32 example ids; None when unknown. Random masks are drawn per id, so that they do not depend on
            how examples are cut into batches.
        key: the key of this pass over the data (it changes with the epoch); None when nothing random may be drawn.
        alone: whether this is a layer called outside of any step, so that random keys may come of the global stream.
        building: whether a layer is being built.
        dry: whether variables are to stay as they are, since the pass is there to build layers only.
        frozen: whether moving statistics stay as they are, and are normalised with, in training too.
        losses: scalars added to the loss during the pass, by `Layer.add_loss` and activity regularizers.
        adders: names of the layers that have called `add_loss`.
        objective: (y, y_pred, sample_weight) -> the compiled loss of the batch, penalties included; None outside of a
            model's own step.
        default_step: (state, batch) -> (state, logs), what `train_step` is without an override; None outside of one.
    """

    training: bool = False
    rows: Array | None = None
    ids: Array | None = None
    key: Array | None = None
    alone: bool = False
    building: bool = False
    dry: bool = False
    frozen: bool = False
    losses: list[Array] = field(default_factory=list)
    adders: list[str] = field(default_factory=list)
    objective: Callable[[Any, Any, Any], Array] | None = None
    default_step: Callable[[Any, Any], tuple[Any, dict[str, Any]]] | None = None


_current: contextvars.ContextVar[Call | None] = contextvars.ContextVar("epochal_call", default=None)


def current() -> Call | None:
    """The pass that is being traced, or None outside of any."""
    return _current.get()


@contextlib.contextmanager
def calling(call: Call) -> Iterator[Call]:
    """Makes `call` the current pass."""
    token = _current.set(call)
    try:
        yield call
    finally:
        _current.reset(token)


def shapes_of(function: Callable, *arguments: Any) -> Any:
    """What `function` returns for these, found by shapes alone; or by calling it, when they are arrays.

    Steps that run as plain Python must not be traced for shapes either: a user's NumPy in them would refuse.
    """
    by_shape = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(arguments))
    return jax.eval_shape(function, *arguments) if by_shape else function(*arguments)


def row_keys(stream: str, rows: int) -> Array | None:
    """One random key per row for the layer called `stream`, shape (rows,); None when the pass has none to give.

    The key depends on the pass, the stream's name and the example's id alone: the mask drawn with it is the same
    whichever batch the example falls into.
    """
    call = _current.get()
    if call is None or call.key is None:
        return None
    key = jax.random.fold_in(call.key, zlib.crc32(stream.encode()))
    ids = call.ids if call.ids is not None and call.ids.shape[0] == rows else jnp.arange(rows, dtype=jnp.uint32)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)
