"""Recurrent layers: cells run over the steps of sequences. The scan itself is in `recurrence.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Shaped

from epochal import activations
from epochal.layers.base import axes
from epochal.layers.base.layer import Layer, Shape
from epochal.layers.base.weights import Buffer, only_shapes_count
from epochal.layers.recurrent.cells import (
    GRUCell,
    LSTMCell,
    SimpleRNNCell,
    StackedRNNCells,
    anew,
    check_cell,
    initial_states,
    state_sizes,
)
from epochal.ops.kernels import lstm
from epochal.ops.kernels.recurrence import recur, recur_cell
from epochal.registry import checks

_NAMED_ACTIVATIONS = frozenset(activations.NAMES.values())


class RNN(Layer):
    """Runs a cell over the steps of sequences (n, t, …).

    The output is that of the last step, (n, units), or of all, (n, t, units). A mask, (n, t), says which steps are
    real: at the others the states stay and the last output is repeated.

    A stateful layer starts each batch from the states that the one before ended with, example by example, so all
    batches must have one size: the one of `Input(batch_size=…)`, or else of the first batch.

    Args:
        cell: a cell, or a list of cells that are stacked. A cell is a layer with `state_size` and
            `call(self, x, states) -> (output, states)`.
        return_sequences: return the output of all steps.
        return_state: return a tuple of the output and the last states; with stacked cells, a list of states for each.
        go_backwards: begin at the last step; outputs, and their mask, are then in that order.
        stateful: start from the last states of the batch before.
        unroll: compile each step apart: faster for a few steps, slow to compile for many.
        zero_output_for_mask: with `return_sequences`, put out zeros at steps that are not real.

    Raises:
        ValueError: something that is no cell; inputs without steps; states that do not fit; a stateful layer that is
            given batches of another size.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.RNN([layers.LSTMCell(4), layers.LSTMCell(3)], return_sequences=True)(np.zeros((2, 5, 6))).shape
        (2, 5, 3)
    """

    supports_masking = True

    def __init__(
        self,
        cell: Any,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.cell = StackedRNNCells(cell) if isinstance(cell, list | tuple) else cell
        check_cell(self.cell)
        self.return_sequences, self.return_state = bool(return_sequences), bool(return_state)
        self.go_backwards, self.stateful, self.unroll = bool(go_backwards), bool(stateful), bool(unroll)
        self.zero_output_for_mask = bool(zero_output_for_mask)
        self.padding_safe = not self.stateful  # a padded batch is no batch that comes next
        # In a dict, where `weights` does not look: as in Keras, states are no weights.
        self._states: dict[str, Buffer] = {}
        if self.stateful and (kwargs.get("batch_input_shape") or [None])[0] is not None:
            self.fix_batch_size(kwargs["batch_input_shape"][0])

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """A new layer with a new cell, with weights of its own."""
        cell = config["cell"]
        return cls(**{**config, "cell": [anew(c) for c in cell] if isinstance(cell, list | tuple) else anew(cell)})

    @property
    def _cells(self) -> list[Any]:
        return self.cell.cells if isinstance(self.cell, StackedRNNCells) else [self.cell]

    @property
    def state_size(self) -> list[Any]:
        """The sizes of the states; with stacked cells, those of each cell."""
        return self._by_cell([size for cell in self._cells for size in state_sizes(cell)])

    def _by_cell(self, flat: Sequence[Any]) -> list[Any]:
        """One thing per state as the layer returns states: a list, or with stacked cells a list for each."""
        if not isinstance(self.cell, StackedRNNCells):
            return list(flat)
        left = list(flat)
        return [[left.pop(0) for _ in state_sizes(cell)] for cell in self._cells]

    def build(self, input_shape: Shape) -> None:
        axes.check_rank(self, input_shape, 3, or_more=True)
        if not self.cell.built:
            self.cell.build((input_shape[0], *input_shape[2:]))
            self.cell.built = True
        if self.stateful and input_shape[0] is not None:
            self.fix_batch_size(input_shape[0])

    def call(
        self, x: Shaped[Array, "n t *axes"], initial_state: Any = None, mask: Any = None, training: bool = False
    ) -> Any:
        axes.check_rank(self, x.shape, 3, or_more=True)
        states, real = self._first_states(x, initial_state), None
        if mask is not None:
            mask = jnp.asarray(mask)
            if mask.shape != x.shape[:2]:
                raise ValueError(f"{self._title} expects a mask of shape {x.shape[:2]}; got {mask.shape}.")
            real = jnp.swapaxes(mask, 0, 1)[..., None].astype(bool)
        y, ends = jnp.swapaxes(x, 0, 1), []
        if self.go_backwards:
            y, real = jnp.flip(y, 0), None if real is None else jnp.flip(real, 0)
        for i, cell in enumerate(self._cells):
            sequences = self.return_sequences or i < len(self._cells) - 1
            count = len(state_sizes(cell))
            end, y = self._run(cell, y, states[:count], real, training, sequences)
            states, ends = states[count:], ends + end
        if self.stateful and not only_shapes_count():
            for buffer, state in zip(self._states.values(), ends, strict=True):
                buffer.set_value(state.astype(buffer.get_value().dtype))
        if self.return_sequences:
            if self.zero_output_for_mask and real is not None:
                y = jnp.where(real.reshape(*real.shape[:2], *[1] * (y.ndim - 2)), y, 0)
            y = jnp.swapaxes(y, 0, 1)
        return (y, *self._by_cell(ends)) if self.return_state else y

    def _run(
        self, cell: Any, x: Array, states: list[Array], real: Array | None, training: bool, sequences: bool
    ) -> tuple[list[Array], Array]:
        """A cell's last states, and its output: all, (t, n, …), or the last, (n, …)."""
        if type(cell) in (SimpleRNNCell, LSTMCell, GRUCell):
            drop, recurrent_drop = cell.masks(x[0], training)
            z = cell.project(x, drop)
            start = tuple(state.astype(z.dtype) for state in states)
            kernel, bias = cell.recurrent_weights()
            # A function of the user's may hold weights, whose gradient is found only step by step.
            known = all(function in _NAMED_ACTIVATIONS for function in cell.functions)
            if type(cell) is LSTMCell and cell.usual and real is None and recurrent_drop is None:
                found: Any = lstm.run(z, kernel, start, sequences, self.unroll)
                return list(found[0]), found[0][0] if found[1] is None else found[1]
            options = {"sequences": sequences, "unroll": self.unroll, "one_product": known}
            end, outputs = recur(cell.step, z, kernel, bias, start, real, recurrent_drop, **options)
            return list(end), end[0] if outputs is None else outputs

        def step(x: Array, states: list[Array]) -> Any:
            return cell(x, states, training=training)

        end, outputs = recur_cell(step, x, states, real, unroll=self.unroll)
        return end, outputs if sequences else outputs[-1]

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The mask of the steps, if all are returned, in their order; states have none."""
        mask = previous_mask if self.return_sequences else None
        if mask is not None and self.go_backwards:
            mask = jnp.flip(mask, 1)
        return (mask, *self._by_cell([None] * len(jax.tree.leaves(self.state_size)))) if self.return_state else mask

    # -- states

    def _first_states(self, x: Array, given: Any) -> list[Array]:
        """The states to start from, for all cells in one list."""
        n = len(x)
        if given is None and self.stateful and not only_shapes_count():
            return self._kept_states(x)
        if given is None:
            return [state for cell in self._cells for state in initial_states(cell, n)]
        states = [jnp.asarray(state) for state in jax.tree.leaves(given)]
        sizes = jax.tree.leaves(self.state_size)
        expected, shapes = [(n, size) for size in sizes], [state.shape for state in states]
        if shapes != expected:
            raise ValueError(f"{self._title} expects initial states of shapes {expected}; got {shapes}.")
        return [state.astype(self.compute_dtype) for state in states]

    def _kept_states(self, x: Array) -> list[Array]:
        if self._states or not isinstance(x, Tracer):  # arrays made while tracing cannot be kept
            self.fix_batch_size(len(x))
            return [jnp.asarray(buffer.get_value()) for buffer in self._states.values()]
        raise ValueError(f"{self._title} is stateful and has no batch size yet: give one to Input(batch_size=…).")

    @property
    def states(self) -> list[Buffer] | None:
        """The states that a stateful layer keeps, each (batch size, units); None before their size is known."""
        return self._by_cell(list(self._states.values())) if self._states else None

    def fix_batch_size(self, batch_size: int) -> None:
        """Makes a stateful layer's states, zeros, for batches of so many examples; if they are there, they stay.

        Raises:
            ValueError: they are there for batches of another size.
        """
        checks.whole("batch_size", batch_size)
        kept = len(next(iter(self._states.values())).get_value()) if self._states else batch_size
        if kept != batch_size:
            raise ValueError(f"{self._title} is stateful and expects batches of {kept} examples; got {batch_size}.")
        if not self._states:
            sizes, dtype = jax.tree.leaves(self.state_size), jnp.dtype(self.compute_dtype)
            zeros = (np.zeros((batch_size, size), dtype) for size in sizes)  # NumPy's belong to no trace
            self._states = {str(i): Buffer(value, name="state") for i, value in enumerate(zeros)}

    def reset_states(self, states: Any = None) -> None:
        """Sets the states that a stateful layer keeps to zero, or to `states`: arrays (batch size, units).

        Raises:
            ValueError: another number of states, or other shapes.
        """
        buffers = list(self._states.values())
        values = [jnp.zeros_like(b.get_value()) for b in buffers] if states is None else jax.tree.leaves(states)
        if len(values) != len(buffers):
            raise ValueError(f"{self._title} keeps {len(buffers)} states; got {len(values)}.")
        for buffer, value in zip(buffers, values, strict=True):
            buffer.assign(value)

    reset_state = reset_states

    @property
    def _title(self) -> str:
        return f"{type(self).__name__} {self.name!r}"


def _of_cell(name: str) -> property:
    return property(lambda layer: getattr(layer.cell, name), doc=f"The cell's `{name}`.")


class _CellLayer(RNN):
    """A layer made of one cell: it takes the cell's arguments and has its attributes."""

    units, activation, use_bias = _of_cell("units"), _of_cell("activation"), _of_cell("use_bias")
    dropout, recurrent_dropout = _of_cell("dropout"), _of_cell("recurrent_dropout")
    kernel_initializer, kernel_regularizer = _of_cell("kernel_initializer"), _of_cell("kernel_regularizer")
    recurrent_initializer, recurrent_regularizer = _of_cell("recurrent_initializer"), _of_cell("recurrent_regularizer")
    bias_initializer, bias_regularizer = _of_cell("bias_initializer"), _of_cell("bias_regularizer")

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """A new layer with weights of its own."""
        return cls(**config)

    def build(self, input_shape: Shape) -> None:
        axes.check_rank(self, input_shape, 3)
        super().build(input_shape)


class SimpleRNN(_CellLayer):
    """The plain recurrence over sequences (n, t, features): h = activation(x @ kernel + bias + h @ recurrent_kernel).

    See `RNN` for outputs, masks and states, `SimpleRNNCell` for the weights.

    Args:
        units: size of the state and the output.
        activation: a name or function.
        use_bias: whether a bias is added.
        kernel_initializer: see `epochal.initializers`; likewise the other initializers.
        kernel_regularizer: see `epochal.regularizers`; likewise the other regularizers.
        activity_regularizer: see `Layer`.
        dropout: the part of the inputs that is dropped in training, in [0, 1).
        recurrent_dropout: the part of the state that is dropped in training, in [0, 1). Masks belong to the example and
            are the same at all its steps.
        seed: an integer that changes the masks.
        return_sequences: see `RNN`; likewise return_state, go_backwards, stateful, unroll.

    Raises:
        ValueError: `units` is no integer >= 1, a rate is out of range, an unknown name; inputs or states that do not
            fit, see `RNN`.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.SimpleRNN(3, return_sequences=True)(np.zeros((2, 5, 4))).shape
        (2, 5, 3)
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
        activity_regularizer: Any = None,
        dropout: int | float = 0.0,
        recurrent_dropout: int | float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ):
        cell = SimpleRNNCell(
            units,
            activation,
            use_bias,
            kernel_initializer,
            recurrent_initializer,
            bias_initializer,
            kernel_regularizer,
            recurrent_regularizer,
            bias_regularizer,
            dropout,
            recurrent_dropout,
            seed,
            name="simple_rnn_cell",
            dtype=kwargs.get("dtype"),
        )
        options = (return_sequences, return_state, go_backwards, stateful, unroll)
        super().__init__(cell, *options, activity_regularizer=activity_regularizer, **kwargs)


class LSTM(_CellLayer):
    """Long short-term memory over sequences (n, t, features) (Hochreiter and Schmidhuber 1997).

    See `RNN` for outputs, masks and states (h and the carry c), `LSTMCell` for the weights.

    Args:
        units: size of the state and the output.
        activation: a name or function.
        recurrent_activation: a name or function, of the gates.
        use_bias: whether a bias is added.
        kernel_initializer: see `epochal.initializers`; likewise the other initializers.
        unit_forget_bias: whether the forget gate's bias starts at 1.
        kernel_regularizer: see `epochal.regularizers`; likewise the other regularizers.
        activity_regularizer: see `Layer`.
        dropout: the part of the inputs that is dropped in training, in [0, 1).
        recurrent_dropout: the part of the state that is dropped in training, in [0, 1). Masks belong to the example and
            are the same at all its steps.
        seed: an integer that changes the masks.
        return_sequences: see `RNN`; likewise return_state, go_backwards, stateful, unroll.

    Raises:
        ValueError: `units` is no integer >= 1, a rate is out of range, an unknown name; inputs or states that do not
            fit, see `RNN`.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> output, h, c = layers.LSTM(3, return_state=True)(np.zeros((2, 5, 4)))
        >>> output.shape, c.shape
        ((2, 3), (2, 3))
    """

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
        activity_regularizer: Any = None,
        dropout: int | float = 0.0,
        recurrent_dropout: int | float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        **kwargs: Any,
    ):
        cell = LSTMCell(
            units,
            activation,
            recurrent_activation,
            use_bias,
            kernel_initializer,
            recurrent_initializer,
            bias_initializer,
            unit_forget_bias,
            kernel_regularizer,
            recurrent_regularizer,
            bias_regularizer,
            dropout,
            recurrent_dropout,
            seed,
            name="lstm_cell",
            dtype=kwargs.get("dtype"),
        )
        options = (return_sequences, return_state, go_backwards, stateful, unroll)
        super().__init__(cell, *options, activity_regularizer=activity_regularizer, **kwargs)


class GRU(_CellLayer):
    """Gated recurrent units over sequences (n, t, features) (Cho et al. 2014).

    See `RNN` for outputs, masks and states, `GRUCell` for the weights.

    Args:
        units: size of the state and the output.
        activation: a name or function.
        recurrent_activation: a name or function, of the gates.
        use_bias: whether a bias is added.
        kernel_initializer: see `epochal.initializers`; likewise the other initializers.
        kernel_regularizer: see `epochal.regularizers`; likewise the other regularizers.
        activity_regularizer: see `Layer`.
        dropout: the part of the inputs that is dropped in training, in [0, 1).
        recurrent_dropout: the part of the state that is dropped in training, in [0, 1). Masks belong to the example and
            are the same at all its steps.
        seed: an integer that changes the masks.
        return_sequences: see `RNN`; likewise return_state, go_backwards, stateful, unroll.
        reset_after: whether the reset gate applies after the product with the recurrent kernel, or before.

    Raises:
        ValueError: `units` is no integer >= 1, a rate is out of range, an unknown name; inputs or states that do not
            fit, see `RNN`.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.GRU(3)(np.zeros((2, 5, 4))).shape
        (2, 3)
    """

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
        activity_regularizer: Any = None,
        dropout: int | float = 0.0,
        recurrent_dropout: int | float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        reset_after: bool = True,
        **kwargs: Any,
    ):
        cell = GRUCell(
            units,
            activation,
            recurrent_activation,
            use_bias,
            kernel_initializer,
            recurrent_initializer,
            bias_initializer,
            kernel_regularizer,
            recurrent_regularizer,
            bias_regularizer,
            dropout,
            recurrent_dropout,
            reset_after,
            seed,
            name="gru_cell",
            dtype=kwargs.get("dtype"),
        )
        options = (return_sequences, return_state, go_backwards, stateful, unroll)
        super().__init__(cell, *options, activity_regularizer=activity_regularizer, **kwargs)
