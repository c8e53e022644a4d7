"""The arrays of layers, and how they get their first values: together, in one compiled call."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from epochal import initializers, mixed_precision
from epochal.layers.base.inputs import as_input
from epochal.random import next_key
from epochal.runtime import program_cache
from epochal.tracing import forward_pass

_made = itertools.count()  # weights are listed in the order they were made


class _Assignable:
    """Keras's ways to read and change a variable."""

    def set_value(self: Any, value: Any, **kwargs: Any) -> None:
        """Replaces the value; not in a pass that only builds layers."""
        call = forward_pass.current()
        if call is None or not call.dry:
            super().set_value(value, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]

    def assign(self: Any, value: Any) -> None:
        """Replaces the value; the shape must stay."""
        assign(self, value)

    def assign_add(self: Any, value: Any) -> None:
        """Adds to the value."""
        assign(self, self.get_raw_value() + value)

    def assign_sub(self: Any, value: Any) -> None:
        """Takes from the value."""
        assign(self, self.get_raw_value() - value)

    def numpy(self: Any) -> np.ndarray:
        """The value as a NumPy array."""
        return np.asarray(self.get_value())

    @property
    def value(self: Any) -> Any:
        """The value as a JAX array."""
        return self.get_value()

    @value.setter
    def value(self: Any, value: Any) -> None:
        assign(self, value)


class Weight(_Assignable, nnx.Param):
    """An array that training changes. Its value is read in the type that the layer under way computes in."""

    def get_value(self, **kwargs: Any) -> Any:
        """The value."""
        return mixed_precision.as_read(super().get_value(**kwargs))


class Buffer(_Assignable, nnx.Variable):
    """An array that belongs to a layer but is not trained: moving statistics and the like."""


def Variable(
    initializer: Any,
    shape: Sequence[int] | None = None,
    dtype: Any = None,
    trainable: bool = True,
    name: str = "variable",
) -> Any:
    """An array for a layer to keep as an attribute, made without `add_weight`.

    Args:
        initializer: the value; or what makes it of `shape`: an initializer's name, or a function of (shape, dtype).
        shape: its shape, where `initializer` makes it.
        dtype: its type; the value's, or float32.
        trainable: whether training may change it.
        name: its name in the layer.

    Raises:
        ValueError: an initializer without a shape.

    Example:
        >>> from epochal import Variable
        >>> seen = Variable(0.0, trainable=False)
        >>> seen.assign_add(2.0)
        >>> float(seen.value)
        2.0
    """
    if callable(initializer) or isinstance(initializer, str):
        if shape is None:
            raise ValueError(f"Expected a shape for a Variable made by {initializer!r}.")
        made, sizes, kind = initializers.get(initializer), tuple(shape), jnp.dtype(dtype or "float32")
    else:
        value = as_input(initializer) if dtype is None else jnp.asarray(initializer, dtype)
        made, sizes, kind = (lambda shape, dtype: value), value.shape, value.dtype
    return new_weight(Weight if trainable else Buffer, name, sizes, kind, made, None)


def assign(variable: nnx.Variable, value: Any) -> None:
    """Replaces a variable's value.

    Raises:
        ValueError: another shape.
    """
    old = variable.get_raw_value()
    new = jnp.asarray(value, old.dtype)
    if new.shape != old.shape:
        name = variable.get_metadata().get("name", "weight")
        raise ValueError(f"Expected shape {old.shape} for {name!r}, got {new.shape}.")
    if only_shapes_count() and isinstance(new, Tracer):
        return
    variable.set_value(new)
    pending, call = _pending.get(), forward_pass.current()
    if pending is not None and call is not None and call.building:  # what `build` assigns is not drawn any more
        pending[:] = [item for item in pending if item.variable is not variable]


@dataclass
class _Pending:
    variable: nnx.Variable
    initializer: Callable
    shape: tuple[int, ...]
    dtype: Any


_pending: contextvars.ContextVar[list[_Pending] | None] = contextvars.ContextVar("epochal_pending", default=None)


def new_weight(
    kind: type[Weight] | type[Buffer], name: str, shape: tuple[int, ...], dtype: Any, initializer: Any, regularizer: Any
) -> Any:
    """A variable with these properties; its value is drawn at once, or with the others of `weights_in_one_draw`."""
    pending = _pending.get()
    if pending is None:
        value = initializers.draw(initializer, shape, dtype, next_key())
    else:
        value = np.broadcast_to(np.zeros((), dtype), shape)  # takes no memory; replaced by the draw
    variable = kind(value, name=name, made=next(_made), regularizer=regularizer)
    if pending is not None:
        pending.append(_Pending(variable, initializer, shape, dtype))
    return variable


# Weights of layers that were called on symbolic tensors: they are drawn together when the model is made.
_undrawn: dict[int, _Pending] = {}
_undrawn_lock = threading.Lock()


@contextlib.contextmanager
def weights_in_one_draw(later: bool = False) -> Iterator[None]:
    """Weights made inside get their values together in one compiled call: at the end, or at the next `draw_weights`."""
    if _pending.get() is not None:  # an outer block draws
        yield
        return
    pending: list[_Pending] = []
    token = _pending.set(pending)
    try:
        yield
    finally:
        _pending.reset(token)
    if later:
        with _undrawn_lock:
            _undrawn.update({id(item.variable): item for item in pending})
    else:
        draw(pending)


@contextlib.contextmanager
def weights_given_later() -> Iterator[list[_Pending]]:
    """Weights made inside take no memory and are not drawn: the block gives them their values, or calls `draw`.

    What is yielded lists them.
    """
    pending: list[_Pending] = []
    token = _pending.set(pending)
    try:
        yield pending
    finally:
        _pending.reset(token)


def only_shapes_count() -> bool:
    """Whether layers are being built, so that what calls compute is thrown away and the batch is a stand-in."""
    return _pending.get() is not None


def weights_wait() -> bool:
    """Whether some weights, of whichever layers, have no values yet though nobody is about to draw them."""
    return bool(_undrawn) and _pending.get() is None


def draw_weights(variables: Iterable[nnx.Variable]) -> None:
    """Gives values to those of these that still wait for them; others wait on, so that a model's draw is its own."""
    if _undrawn:
        with _undrawn_lock:
            pending = [_undrawn.pop(id(v)) for v in variables if id(v) in _undrawn]
        draw(pending)


def draw(pending: list[_Pending]) -> None:
    """Gives these their values, in one compiled call."""
    if not pending:
        return
    program_cache.keep_programs()
    wanted = [(item.initializer, item.shape, item.dtype) for item in pending]
    drawn = jax.jit(lambda key: initializers.draw_together(wanted, key))(next_key())
    for item, value in zip(pending, drawn, strict=True):
        item.variable.set_value(value)


def outside_of_trace(function: Callable, *args: Any) -> None:
    """Runs `function` as if no JAX trace were under way, so that the arrays it makes belong to none.

    JAX's trace is a property of the thread: a new thread has none. What is set by context variables goes along.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(contextvars.copy_context().run, function, *args).result()
