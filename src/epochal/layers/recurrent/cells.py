"""Cells of recurrent layers: what they do in one step. `RNN` in `recurrent.py` runs them over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Shaped

from epochal import activations, initializers, regularizers
from epochal.layers.base import axes
from epochal.layers.base.layer import Layer, Shape
from epochal.layers.dropout import _Noise
from epochal.ops.kernels.matmul import multiply
from epochal.ops.kernels.recurrence import Product, in_loop, products
from epochal.registry import checks


class _Cell(_Noise):
    """What the cells share: the kernels, and dropout whose masks stay the same over all steps of a sequence.

    Its step is split in two, so that `RNN` can do the first part for all steps at once: `project` the inputs, then
    `step`.
    """

    gates = 1  # how many units' worth of columns the kernels have, for each unit
    state_count = 1

    def _set(self, units: int, activation: Any, use_bias: bool, dropout: Any, recurrent_dropout: Any, seed: Any):
        self.units = checks.whole("units", units)
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.dropout = checks.between("dropout", dropout, 0, 1)
        self.recurrent_dropout = checks.between("recurrent_dropout", recurrent_dropout, 0, 1)
        self._set_seed(seed)
        self.kernel: Any = None
        self.recurrent_kernel: Any = None
        self.bias: Any = None

    def _set_weights(self, kernel: Sequence[Any], recurrent: Sequence[Any], bias: Sequence[Any]) -> None:
        """Takes the initializer and regularizer of each weight."""
        self.kernel_initializer, self.kernel_regularizer = initializers.get(kernel[0]), regularizers.get(kernel[1])
        self.recurrent_initializer = initializers.get(recurrent[0])
        self.recurrent_regularizer = regularizers.get(recurrent[1])
        self.bias_initializer, self.bias_regularizer = initializers.get(bias[0]), regularizers.get(bias[1])

    @property
    def state_size(self) -> int | list[int]:
        """The size of the state, or of each where there are several."""
        return self.units if self.state_count == 1 else [self.units] * self.state_count

    @property
    def output_size(self) -> int:
        """The size of the output."""
        return self.units

    def get_initial_state(self, batch_size: int) -> list[Array]:
        """The states that a sequence starts from: zeros, each (batch_size, units)."""
        return [jnp.zeros((batch_size, self.units), self.compute_dtype)] * self.state_count

    def build(self, input_shape: Shape) -> None:
        axes.check_rank(self, input_shape, 2)
        columns = self.gates * self.units
        shape = (axes.known_size(self, input_shape, -1), columns)
        self.kernel = self.add_weight("kernel", shape, None, self.kernel_initializer, self.kernel_regularizer)
        self.recurrent_kernel = self.add_weight(
            "recurrent_kernel", (self.units, columns), None, self.recurrent_initializer, self.recurrent_regularizer
        )
        if self.use_bias:
            initializer = self._first_bias()
            self.bias = self.add_weight("bias", self._bias_shape(), None, initializer, self.bias_regularizer)

    def _bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.units,)

    def _first_bias(self) -> Any:
        return self.bias_initializer

    def call(self, x: Shaped[Array, "n features"], states: Any, training: bool = False) -> tuple[Any, Any]:
        """One step: the output, and the states after it, as a list or, where `states` is an array, an array."""
        alone = not isinstance(states, list | tuple)
        before = tuple(jnp.asarray(s) for s in ([states] if alone else states))
        drop, recurrent_drop = self.masks(x, training)
        kernel, bias = self.recurrent_weights()
        new = self.step(self.project(x, drop), before, products(kernel, bias, recurrent_drop, {}))
        return new[0], new[0] if alone else list(new)

    # -- the parts of a step

    def masks(self, x: Array, training: bool) -> tuple[Array | None, Array | None]:
        """Factors for the inputs, (1 or gates, n, features), and for the state, (gates, n, units).

        None for no dropout. With recurrent dropout each gate has masks of its own.
        """
        if not training:
            return None, None
        n, features = len(x), x.shape[-1]
        count = self.gates if self.recurrent_dropout else 1
        drop = self._factors(0, self.dropout, (n, count, features))
        return drop, self._factors(1, self.recurrent_dropout, (n, self.gates, self.units))

    def _factors(self, which: int, rate: float, shape: tuple[int, ...]) -> Array | None:
        if rate == 0:
            return None

        def draw(key: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.bernoulli(jax.random.fold_in(key, which), 1 - rate, shape)

        kept = self._noise(draw, shape, shape[0])
        return None if kept is None else jnp.swapaxes(kept.astype(self.compute_dtype) / (1 - rate), 0, 1)

    def project(self, x: Array, drop: Array | None) -> Array:
        """(…, n, features) -> (…, n, gates * units): what the inputs add to the gates, with the bias."""
        kernel = self.kernel.get_value()
        axes.check_size(self, "features", kernel.shape[0], x.shape[-1])
        x = x.astype(kernel.dtype)
        if drop is None:
            z = multiply(x, kernel)
        else:
            parts = jnp.split(kernel, len(drop), 1)
            z = jnp.concatenate([multiply(x * mask, part) for mask, part in zip(drop, parts, strict=True)], -1)
        bias = self._input_bias()
        return z if bias is None else z + bias

    def _input_bias(self) -> Any:
        return None if self.bias is None else self.bias.get_value()

    def recurrent_weights(self) -> tuple[Any, Any]:
        """The recurrent kernel, and the bias that is added to its product."""
        return self.recurrent_kernel.get_value(), None

    def step(self, z: Array, states: tuple[Array, ...], product: Product) -> tuple[Array, ...]:
        """The states after a step, of which the first is the output.

        Args:
            z: (n, gates * units), from `project`.
            states: those before, each (n, units).
            product: see `recurrence`.
        """
        raise NotImplementedError

    @property
    def functions(self) -> list[Callable]:
        """The activation functions."""
        return [self.activation]


class SimpleRNNCell(_Cell):
    """One step of `SimpleRNN`: activation(x @ kernel + bias + state @ recurrent_kernel).

    Called as `cell(x, states)`, x (n, features), a list of states (n, units); returns the output (n, units) and a list
    of the new states. Weights: kernel (features, units), recurrent_kernel (units, units), bias (units,).

    Args:
        units: size of the state and the output.
        activation: a name or function.
        use_bias: whether a bias is added.
        kernel_initializer: see `epochal.initializers`; likewise the other initializers.
        kernel_regularizer: see `epochal.regularizers`; likewise the other regularizers.
        dropout: the part of the inputs that is dropped in training, in [0, 1).
        recurrent_dropout: the part of the state that is dropped in training, in [0, 1).
        seed: an integer that changes the masks.

    Raises:
        ValueError: `units` is no integer >= 1, a rate is out of range, an unknown name.
    """

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        dropout: int | float = 0.0,
        recurrent_dropout: int | float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._set(units, activation, use_bias, dropout, recurrent_dropout, seed)
        self._set_weights(
            (kernel_initializer, kernel_regularizer),
            (recurrent_initializer, recurrent_regularizer),
            (bias_initializer, bias_regularizer),
        )

    def step(self, z: Array, states: tuple[Array, ...], product: Product) -> tuple[Array, ...]:
        return (in_loop(self.activation)(z + product(states[0], 0, 1)),)


class _GatedCell(_Cell):
    """A cell with gates, which have an activation of their own."""

    recurrent_activation: Callable

    @property
    def functions(self) -> list[Callable]:
        return [self.activation, self.recurrent_activation]


class LSTMCell(_GatedCell):
    """One step of `LSTM` (Hochreiter and Schmidhuber 1997).

    Called as `cell(x, [h, c])`, x (n, features), the output h and the carry c (n, units); returns the new h and
    [h, c]. Weights: kernel (features, 4 units), recurrent_kernel (units, 4 units), bias (4 units,), their columns in
    the order input gate, forget gate, candidate, output gate.

    Args:
        units: size of the states and the output.
        activation: a name or function, of the candidate and the carry.
        recurrent_activation: a name or function, of the gates.
        use_bias: whether a bias is added.
        kernel_initializer: see `epochal.initializers`; likewise the other initializers.
        unit_forget_bias: whether the forget gate's bias starts at 1.
        kernel_regularizer: see `epochal.regularizers`; likewise the other regularizers.
        dropout: the part of the inputs that is dropped in training, in [0, 1).
        recurrent_dropout: the part of the state that is dropped in training, in [0, 1).
        seed: an integer that changes the masks.

    Raises:
        ValueError: `units` is no integer >= 1, a rate is out of range, an unknown name.
    """

    gates, state_count = 4, 2

    @property
    def usual(self) -> bool:
        """Whether the activations are those of the paper and the defaults, for which `lstm.run` does the same."""
        return self.functions == [activations.tanh, activations.sigmoid]

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        dropout: int | float = 0.0,
        recurrent_dropout: int | float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._set(units, activation, use_bias, dropout, recurrent_dropout, seed)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.unit_forget_bias = bool(unit_forget_bias)
        self._set_weights(
            (kernel_initializer, kernel_regularizer),
            (recurrent_initializer, recurrent_regularizer),
            (bias_initializer, bias_regularizer),
        )

    def _first_bias(self) -> Any:
        if not self.unit_forget_bias:
            return self.bias_initializer
        others: Any = self.bias_initializer
        units = self.units

        def first_bias(shape: tuple[int, ...], dtype: Any, key: Array) -> Array:
            drawn = initializers.draw(others, (3 * units,), dtype, key)
            return jnp.concatenate([drawn[:units], jnp.ones(units, dtype), drawn[units:]])

        return first_bias

    def step(self, z: Array, states: tuple[Array, ...], product: Product) -> tuple[Array, ...]:
        activation, gate = in_loop(self.activation), in_loop(self.recurrent_activation)
        h, carry = states
        i, f, candidate, o = jnp.split(z + product(h, 0, 4), 4, -1)
        carry = gate(f) * carry + gate(i) * activation(candidate)
        return gate(o) * activation(carry), carry


class GRUCell(_GatedCell):
    """One step of `GRU` (Cho et al. 2014).

    Called as `cell(x, [h])`, x (n, features), h (n, units); returns the new h and [h]. Weights: kernel
    (features, 3 units), recurrent_kernel (units, 3 units), bias (2, 3 units), one for each kernel, or (3 units,)
    without `reset_after`; their columns in the order update gate, reset gate, candidate.

    Args:
        units: size of the state and the output.
        activation: a name or function, of the candidate.
        recurrent_activation: a name or function, of the gates.
        use_bias: whether a bias is added.
        kernel_initializer: see `epochal.initializers`; likewise the other initializers.
        kernel_regularizer: see `epochal.regularizers`; likewise the other regularizers.
        dropout: the part of the inputs that is dropped in training, in [0, 1).
        recurrent_dropout: the part of the state that is dropped in training, in [0, 1).
        reset_after: whether the reset gate applies after the product with the recurrent kernel, or before.
        seed: an integer that changes the masks.

    Raises:
        ValueError: `units` is no integer >= 1, a rate is out of range, an unknown name.
    """

    gates = 3

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        dropout: int | float = 0.0,
        recurrent_dropout: int | float = 0.0,
        reset_after: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._set(units, activation, use_bias, dropout, recurrent_dropout, seed)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.reset_after = bool(reset_after)
        self._set_weights(
            (kernel_initializer, kernel_regularizer),
            (recurrent_initializer, recurrent_regularizer),
            (bias_initializer, bias_regularizer),
        )

    def _bias_shape(self) -> tuple[int, ...]:
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def _input_bias(self) -> Any:
        bias = super()._input_bias()
        return bias[0] if bias is not None and self.reset_after else bias

    def recurrent_weights(self) -> tuple[Any, Any]:
        bias = self.bias.get_value()[1] if self.bias is not None and self.reset_after else None
        return self.recurrent_kernel.get_value(), bias

    def step(self, z: Array, states: tuple[Array, ...], product: Product) -> tuple[Array, ...]:
        activation, gate = in_loop(self.activation), in_loop(self.recurrent_activation)
        (h,), units = states, self.units
        x_gates, x_candidate = z[:, : 2 * units], z[:, 2 * units :]
        if self.reset_after:
            recurrent = product(h, 0, 3)
            update, reset = jnp.split(gate(x_gates + recurrent[:, : 2 * units]), 2, -1)
            candidate = activation(x_candidate + reset * recurrent[:, 2 * units :])
        else:
            update, reset = jnp.split(gate(x_gates + product(h, 0, 2)), 2, -1)
            candidate = activation(x_candidate + product(reset * h, 2, 3))
        return (update * h + (1 - update) * candidate,)


class StackedRNNCells(Layer):
    """Several cells, one upon the other, as one cell: each takes the output of the one before.

    Args:
        cells: the cells; an `RNN` of them takes the same list itself.

    Raises:
        ValueError: an item that is no cell.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> cells = layers.StackedRNNCells([layers.LSTMCell(4), layers.GRUCell(3)])
        >>> layers.RNN(cells)(np.zeros((2, 5, 6))).shape
        (2, 3)
    """

    def __init__(self, cells: Sequence[Any], **kwargs: Any):
        super().__init__(**kwargs)
        for cell in cells:
            check_cell(cell)
        self.cells = list(cells)

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """New cells, with weights of their own."""
        return cls(**{**config, "cells": [anew(cell) for cell in config["cells"]]})

    @property
    def state_size(self) -> list[Any]:
        """The state sizes of each cell."""
        return [cell.state_size for cell in self.cells]

    @property
    def output_size(self) -> int:
        """The size of the last cell's output."""
        return output_size(self.cells[-1])

    def get_initial_state(self, batch_size: int) -> list[Any]:
        """The first states of each cell."""
        return [initial_states(cell, batch_size) for cell in self.cells]

    def build(self, input_shape: Shape) -> None:
        for cell in self.cells:
            if not cell.built:
                cell.build(input_shape)
                cell.built = True
            input_shape = (input_shape[0], output_size(cell))

    def call(self, x: Float[Array, "n ..."], states: Any, training: bool = False) -> tuple[Any, list[Any]]:
        """One step: the last cell's output, and each cell's new states."""
        new = []
        for cell, before in zip(self.cells, states, strict=True):
            x, after = cell(x, before, training=training)
            new.append(after)
        return x, new


def check_cell(cell: Any) -> None:
    """Raises ValueError unless `cell` is a layer that has `state_size`, as cells of recurrent layers do."""
    if not isinstance(cell, Layer) or not hasattr(cell, "state_size"):
        raise ValueError(
            "Expected a cell: a layer with state_size and call(self, x, states) -> (output, states); "
            f"got {cell!r}. Use SimpleRNNCell, LSTMCell or GRUCell, or write such a class."
        )


def state_sizes(cell: Any) -> list[int]:
    """The size of each of a cell's states."""
    size = cell.state_size
    return list(size) if isinstance(size, list | tuple) else [size]


def output_size(cell: Any) -> int:
    """The size of a cell's output: the first state's where the cell does not say."""
    size = getattr(cell, "output_size", None)
    return state_sizes(cell)[0] if size is None else size


def initial_states(cell: Any, batch_size: int) -> list[Array]:
    """What a cell starts from, each (batch_size, size): its own choice, or zeros."""
    if not hasattr(cell, "get_initial_state"):
        return [jnp.zeros((batch_size, size), getattr(cell, "compute_dtype", cell.dtype)) for size in state_sizes(cell)]
    states = cell.get_initial_state(batch_size=batch_size)
    return list(states) if isinstance(states, list | tuple) else [states]


def anew(layer: Any) -> Any:
    """A new layer made with the same arguments, with weights of its own."""
    return type(layer).from_config(layer.get_config())
