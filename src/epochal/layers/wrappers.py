"""Layers that run another layer in some way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Shaped

from epochal.layers.base import axes
from epochal.layers.base.layer import Layer, Shape
from epochal.layers.base.tree import walk
from epochal.layers.base.weights import Buffer
from epochal.layers.recurrent.cells import anew
from epochal.registry import checks
from epochal.tracing import forward_pass
from epochal.tracing.masks import set_mask

_SHARED = ("return_sequences", "return_state", "stateful")  # what both layers of a `Bidirectional` must agree in


class Wrapper(Layer):
    """The base of layers that hold another one.

    Args:
        layer: the layer.

    Raises:
        ValueError: something that is no layer.
    """

    def __init__(self, layer: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.layer = checked(layer)

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """A new wrapper of a new layer, with weights of its own."""
        return cls(**{**config, "layer": anew(config["layer"])})

    def build(self, input_shape: Shape) -> None:
        if not self.layer.built:
            self.layer._build_now(input_shape)


class TimeDistributed(Wrapper):
    """Calls a layer on every step of (n, t, …): each step is an input (n, …) of its own.

    A mask stays as it is; the layer is given one only if the mask has more axes than (n, t). Layers with statistics of
    the batch, and layers of a user's, are called step by step; others on all steps at once.

    Args:
        layer: the layer, which returns one array.

    Raises:
        ValueError: something that is no layer, inputs without steps, a mask of another shape.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.TimeDistributed(layers.Conv2D(4, 3))(np.zeros((2, 5, 8, 8, 1))).shape
        (2, 5, 6, 6, 4)
    """

    supports_masking = True

    def build(self, input_shape: Shape) -> None:
        axes.check_rank(self, input_shape, 3, or_more=True)
        super().build((input_shape[0], *input_shape[2:]))

    def call(self, x: Shaped[Array, "n t *axes"], mask: Any = None, training: bool = False) -> Shaped[Array, "n t ..."]:
        axes.check_rank(self, x.shape, 3, or_more=True)
        if mask is not None and mask.shape[:2] != x.shape[:2]:
            raise ValueError(
                f"TimeDistributed {self.name!r} expects a mask of shape {x.shape[:2]}, or more axes; got {mask.shape}."
            )
        inner = mask if mask is not None and mask.ndim > 2 else None
        n, t = x.shape[:2]
        call = forward_pass.current()
        if _each_row_alone(self.layer):
            rows = x.reshape(n * t, *x.shape[2:])
            set_mask(rows, None if inner is None else inner.reshape(n * t, *inner.shape[2:]))
            with nullcontext() if call is None else forward_pass.calling(_for_all_steps(call, n, t)):
                y = self.layer(rows, training=training)
            return y.reshape(n, t, *y.shape[1:])
        steps = []
        for i in range(t):
            step = x[:, i]
            set_mask(step, None if inner is None else inner[:, i])
            with nullcontext() if call is None else forward_pass.calling(_for_step(call, i)):
                steps.append(self.layer(step, training=training))
        return jnp.stack(steps, 1)


class Bidirectional(Layer):
    """Runs a recurrent layer forwards over sequences, a second one backwards, and joins their outputs.

    Outputs are (n, 2 units) with "concat", (n, units) with the other modes; with `return_sequences` (n, t, …) in the
    order of the inputs, and zeros at steps that the mask leaves out. With `return_state` the result is a tuple of the
    output (two outputs, with None), the forward layer's states and the backward layer's. `initial_state` is a list of
    all states, the forward layer's first.

    Args:
        layer: a recurrent layer such as `LSTM(8)`, or one with `go_backwards`, `return_sequences`, `return_state` and
            `stateful` in its arguments. It is not used itself: two layers are made with its arguments.
        merge_mode: "concat", "sum", "mul", "ave", or None for a tuple of both outputs.
        backward_layer: the layer to run backwards, made with `go_backwards=True`; by default one like `layer`.

    Raises:
        ValueError: no layer, an unknown `merge_mode`, or two layers that do not fit together.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Bidirectional(layers.GRU(3, return_sequences=True))(np.zeros((2, 5, 4))).shape
        (2, 5, 6)
    """

    supports_masking = True

    return_sequences: bool
    return_state: bool
    stateful: bool

    def __init__(self, layer: Any, merge_mode: str | None = "concat", backward_layer: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        modes = ("concat", "sum", "mul", "ave")
        self.merge_mode = None if merge_mode is None else checks.choice("merge_mode", merge_mode, modes)
        if not all(hasattr(checked(layer), name) for name in ("go_backwards", *_SHARED)):
            raise ValueError(f"Expected a recurrent layer such as LSTM(8), got {layer!r}.")
        self.forward_layer = _like(layer, "forward_")
        self.backward_layer = (
            _like(layer, "backward_", go_backwards=True) if backward_layer is None else checked(backward_layer)
        )
        if self.forward_layer.go_backwards == self.backward_layer.go_backwards:
            raise ValueError("Expected layer and backward_layer with a different go_backwards.")
        for name in _SHARED:
            setattr(self, name, getattr(self.forward_layer, name))
            if getattr(self.backward_layer, name) != getattr(self, name):
                raise ValueError(f"Expected layer and backward_layer with the same {name}.")
        self.padding_safe = not self.stateful
        for part in self._parts:
            part.zero_output_for_mask = self.return_sequences

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """A new wrapper of new layers, with weights of their own."""
        backward = config.get("backward_layer")
        return cls(**config if backward is None else {**config, "backward_layer": anew(backward)})

    @property
    def _parts(self) -> list[Any]:
        return [self.forward_layer, self.backward_layer]

    def build(self, input_shape: Shape) -> None:
        for part in self._parts:
            if not part.built:
                part._build_now(input_shape)

    def call(
        self, x: Shaped[Array, "n t *axes"], initial_state: Any = None, mask: Any = None, training: bool = False
    ) -> Any:
        given: list[Any] = [None, None]
        if initial_state is not None:
            half = len(initial_state) // 2
            given = [list(initial_state[:half]), list(initial_state[half:])]
        results = [
            part(x, initial_state=state, mask=mask, training=training)
            for part, state in zip(self._parts, given, strict=True)
        ]
        states = ()
        if self.return_state:
            states = tuple(state for result in results for state in result[1:])
            results = [result[0] for result in results]
        if self.return_sequences:
            parts = zip(self._parts, results, strict=True)
            results = [jnp.flip(y, 1) if part.go_backwards else y for part, y in parts]
            for y in results:
                set_mask(y, mask)
        y = self._merge(*results)
        if self.merge_mode is None:
            return (*y, *states)
        return (y, *states) if self.return_state else y

    def _merge(self, there: Array, back: Array) -> Any:
        modes: dict[str | None, Callable[[], Any]] = {
            "concat": lambda: jnp.concatenate([there, back], -1),
            "sum": lambda: there + back,
            "mul": lambda: there * back,
            "ave": lambda: (there + back) / 2,
            None: lambda: (there, back),
        }
        return modes[self.merge_mode]()

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The mask of the steps, if all are returned, for each output; states have none."""
        mask = previous_mask if self.return_sequences else None
        states = [s for part in self._parts for s in part.compute_mask(inputs, None)[1:]] if self.return_state else []
        if self.merge_mode is None:
            return (mask, mask, *states)
        return (mask, *states) if self.return_state else mask

    # -- states

    @property
    def states(self) -> list[Any] | None:
        """The states that stateful layers keep, the forward layer's first; None before their size is known."""
        return None if self.forward_layer.states is None else [s for part in self._parts for s in part.states]

    def fix_batch_size(self, batch_size: int) -> None:
        """Makes the states of stateful layers, see `RNN.fix_batch_size`."""
        for part in self._parts:
            part.fix_batch_size(batch_size)

    def reset_states(self) -> None:
        """Sets the states that stateful layers keep to zero."""
        for part in self._parts:
            part.reset_states()

    reset_state = reset_states


def checked(layer: Any) -> Any:
    """Raises ValueError unless `layer` is a layer, which is returned."""
    if not isinstance(layer, Layer):
        raise ValueError(f"Expected a layer, got {layer!r}.")
    return layer


def _like(layer: Any, prefix: str, **changes: Any) -> Any:
    """A new layer made with the same arguments but for some changes."""
    name = prefix + layer.name.removeprefix(prefix)
    return type(layer).from_config({**layer.get_config(), "name": name, **changes})


def _each_row_alone(layer: Any) -> bool:
    """Whether a batch of all steps gives what the steps give one by one, whatever rows are in it."""
    for part in walk(layer):
        if not isinstance(part, Layer) or not part.padding_safe or part.activity_regularizer is not None:
            return False
        if any(isinstance(value, Buffer) for value in vars(part).values()):
            return False
    return True


def _for_step(call: forward_pass.Call, step: Any) -> forward_pass.Call:
    """The pass of one step, with random draws of its own."""
    return call if call.key is None else dataclasses.replace(call, key=jax.random.fold_in(call.key, step))


def _for_all_steps(call: forward_pass.Call, n: int, t: int) -> forward_pass.Call:
    """The pass of n * t rows: each step of an example has an id of its own, which depends on no other example."""
    rows = None if call.rows is None or len(call.rows) != n else jnp.repeat(call.rows, t)
    if call.key is None:
        return dataclasses.replace(call, rows=rows, ids=None)
    ids = call.ids if call.ids is not None and len(call.ids) == n else jnp.arange(n, dtype=jnp.uint32)

    def of_step(i: Array, step: Array) -> Array:
        return jax.random.bits(jax.random.fold_in(jax.random.fold_in(jax.random.key(0), i), step))

    each = jax.vmap(lambda i: jax.vmap(lambda step: of_step(i, step))(jnp.arange(t)))(ids)
    return dataclasses.replace(call, rows=rows, ids=each.reshape(-1))
