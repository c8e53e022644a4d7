"""The layer: a `flax.nnx.Module` with Keras's names, built at its first input."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.core import Tracer

from epochal import initializers, mixed_precision, regularizers
from epochal.layers.base.building import dry_call, flax_in_inference, left_unbuilt
from epochal.layers.base.inputs import as_input, is_numbers
from epochal.layers.base.tree import Node, Tracked, children, tracked
from epochal.layers.base.weights import (
    Buffer,
    Weight,
    assign,
    draw_weights,
    new_weight,
    outside_of_trace,
    weights_in_one_draw,
    weights_wait,
)
from epochal.random import next_key
from epochal.registry.configurable import Configurable
from epochal.registry.naming import fresh_name, snake_case
from epochal.tracing import forward_pass
from epochal.tracing.masks import get_mask, masks_of, set_mask, set_masks
from epochal.tracing.symbolic import LastCall, SymbolicCall, SymbolicTensor, infer, is_shape, is_symbolic, record

Shape = tuple[int | None, ...]


@functools.cache
def _parameters(cls: type) -> frozenset[str]:
    """The names of the arguments of `cls.call`."""
    return frozenset(inspect.signature(cls.call).parameters)  # pyright: ignore[reportAttributeAccessIssue]


class Layer(Configurable, Node):
    """A layer in Keras's sense: `__init__`, `build(input_shape)`, `call(x, training=…)`.

    Args:
        name: the layer's name; one is made from the class when not given.
        trainable: False freezes the layer's weights, from the next fit on.
        dtype: the type of the weights, or a policy such as "mixed_bfloat16"; the global one when not given.
        input_shape: shape of one example; on the first layer of a `Sequential` it builds the model at once.
        input_dim: short for `input_shape=(input_dim,)`.
        batch_input_shape: `input_shape` with the batch's axis in front.
        activity_regularizer: a regularizer of the output, divided by the batch size and added to the loss.
    """

    _saved_family = "layers"

    # Whether row i of the output depends on row i of the input alone, or on other rows only through means that leave
    # padding out (`forward_pass.Call.rows`). True for epochal's own layers; a user's class is not assumed to be.
    padding_safe = False
    # Whether a row's output in training depends on the other rows of the batch all the same, padding left out.
    across_batch = False
    # Whether a mask that comes with the input makes sense for the output, see `compute_mask`.
    supports_masking = False
    # Whether floating inputs are brought to `compute_dtype`; models that pass them on to layers leave that to these.
    casts_inputs = True

    def __init_subclass__(cls, **kwargs: Any):
        # Lists and dicts of layers as plain attributes need this, and Flax does not inherit it.
        super().__init_subclass__(**{"pytree": False, **kwargs})
        if "padding_safe" not in vars(cls):
            cls.padding_safe = cls.__module__.startswith("epochal.")

    def __init__(
        self,
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
        input_shape: Sequence[int | None] | None = None,
        input_dim: int | None = None,
        batch_input_shape: Sequence[int | None] | None = None,
        activity_regularizer: Any = None,
    ):
        self.name = name if name is not None else fresh_name(snake_case(type(self).__name__))
        self._policy = mixed_precision.get(dtype)
        self.built = False
        self.activity_regularizer = regularizers.get(activity_regularizer)
        self._trainable = bool(trainable)
        self._output_shape: Any = None
        self._last_call = LastCall()
        self._place = ""  # where the layer is in the model that is trained, see `tree.name_places`
        if batch_input_shape is not None:
            input_shape = tuple(batch_input_shape)[1:]
        elif input_dim is not None:
            input_shape = (input_dim,)
        self.given_input_shape = None if input_shape is None else tuple(input_shape)

    # -- what a subclass writes

    def build(self, input_shape: Shape) -> None:
        """Makes the weights for inputs of `input_shape` (the batch axis first, as None)."""

    def call(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The layer's mathematics; may take `training` and `mask`."""
        raise NotImplementedError(f"{type(self).__name__} has no call(self, x)")

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The mask of the output, for `inputs` with the mask `previous_mask` (None: they have none).

        Called when the layer's `supports_masking` is true; without it a mask ends at the layer.
        """
        return previous_mask

    # -- what a subclass uses

    def add_weight(
        self,
        name: str | None = None,
        shape: Sequence[int] = (),
        dtype: Any = None,
        initializer: Any = "glorot_uniform",
        regularizer: Any = None,
        trainable: bool = True,
    ) -> Any:
        """A new array of the layer, to be kept as an attribute.

        Args:
            name: its name in the layer, such as "kernel".
            shape: its shape.
            dtype: its type; the layer's when not given.
            initializer: a name, an `epochal.initializers` object or a function of (shape, dtype).
            regularizer: added to the loss while the weight is trainable.
            trainable: False for arrays that the optimizer must leave alone.
        """
        return new_weight(
            Weight if trainable else Buffer,
            name or "weight",
            tuple(int(s) for s in shape),
            jnp.dtype(dtype or self.dtype),
            initializers.get("glorot_uniform" if initializer is None else initializer),
            regularizers.get(regularizer),
        )

    def add_loss(self, loss: Any) -> None:
        """Adds a scalar, or a list of them, to the loss of the pass that is running.

        Raises:
            ValueError: an array of another shape.
        """
        self._add(loss)
        if (call := forward_pass.current()) is not None:
            call.adders.append(self.name)

    def _add(self, loss: Any) -> None:
        call = forward_pass.current()
        for value in map(jnp.asarray, jax.tree.leaves(loss)):
            if value.shape != ():
                raise ValueError(f"Expected a scalar in add_loss() of {self.name!r}, got shape {value.shape}.")
            if call is not None:
                call.losses.append(value)

    @property
    def losses(self) -> list[Array]:
        """Scalars to add to a loss of one's own: those of `add_loss`, and what regularizers of the weights come to.

        In a training step those of the whole model; elsewhere those of the layer's last call.
        """
        call = forward_pass.current()
        if call is not None:
            return list(call.losses)
        regularized = [(v, v.get_metadata().get("regularizer")) for v in self.trainable_weights]
        return [*self._last_call.losses, *[r(v.get_value()) for v, r in regularized if r is not None]]

    @property
    def dtype_policy(self) -> mixed_precision.DTypePolicy:
        """In which type weights are kept, and in which the layer computes.

        Raises:
            ValueError: set to one with another type of weights than the layer has.
        """
        return self._policy

    @dtype_policy.setter
    def dtype_policy(self, policy: Any) -> None:
        new = mixed_precision.get(policy)
        self.check_policy(new)
        self._policy = new

    def check_policy(self, policy: mixed_precision.DTypePolicy) -> None:
        """Raises ValueError where the layer has weights of another type than the policy's."""
        if self.built and policy.variable_dtype != self.dtype and tracked(self):
            raise ValueError(
                f"Layer {self.name!r} has weights in {self.dtype}; {policy.name!r} keeps them in "
                f"{policy.variable_dtype}. Make the layer anew with dtype={policy.name!r}."
            )

    @property
    def dtype(self) -> str:
        """The type of the weights."""
        return self._policy.variable_dtype

    @property
    def compute_dtype(self) -> str:
        """The type that the layer computes in: its inputs are brought to it, and its weights are read in it."""
        return self._policy.compute_dtype

    variable_dtype = dtype

    @property
    def stream(self) -> str:
        """What the layer's random draws are keyed by: its place in the model, so that a second model like the first
        draws the same; its name outside of one."""
        return self._place or self.name

    # -- calling

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        if is_symbolic((x, args, kwargs)):
            return self._call_symbolically(x, args, kwargs)
        x = as_input(x) if is_numbers(x) else jax.tree.map(as_input, x)
        self._ensure_built(x)
        with self._pass(kwargs.get("training")) as call:
            return self._called(call, x, args, kwargs)

    @contextlib.contextmanager
    def _pass(self, training: bool | None) -> Iterator[forward_pass.Call]:
        """The pass that a call is part of; `training` given to the layer holds for the layers in it too.

        Noise that is asked for in `evaluate` and `predict` is the same each time; of a model that is called, new.
        """
        outer = forward_pass.current()
        call = forward_pass.Call(alone=True) if outer is None else outer
        if training is not None and (training != call.training or outer is None):
            key = call.key
            if training and key is None:
                key = next_key() if call.alone else jax.random.key(0)
            call = dataclasses.replace(call, training=training, key=key)  # shares the list of losses
        with forward_pass.calling(call):
            yield call
        if outer is None:
            self._last_call.losses = call.losses

    def _called(self, call: forward_pass.Call, x: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        takes = _parameters(type(self))
        kwargs.pop("training", None)
        if "training" in takes:
            kwargs["training"] = call.training
        masks = masks_of(x)
        if masks is not None and "mask" in takes and kwargs.get("mask") is None:
            kwargs["mask"] = masks
        with mixed_precision.computing(self._policy):
            y = self.call(*self._cast((x, *args)) if self.casts_inputs else (x, *args), **kwargs)
        self._hand_on(x, masks if masks is not None else kwargs.get("mask"), y)
        if self._output_shape is None:  # past Flax's check while tracing: a shape belongs to no trace
            object.__setattr__(self, "_output_shape", jax.tree.map(lambda a: (None, *a.shape[1:]), y))
        if self.activity_regularizer is not None:
            self._regularize_activity(y)
        return y

    def _cast(self, given: Any) -> Any:
        """Floating inputs in the type that the layer computes in; masks stay with them."""
        kind = jnp.dtype(self.compute_dtype)

        def cast(leaf: Any) -> Any:
            kinds = (getattr(leaf, "dtype", kind), kind)
            if kinds[0] == kind or not all(jnp.issubdtype(k, jnp.floating) for k in kinds):
                return leaf
            new = leaf.astype(kind)
            set_mask(new, get_mask(leaf))
            return new

        return jax.tree.map(cast, given)

    def _hand_on(self, x: Any, masks: Any, y: Any) -> None:
        """Gives the output its mask. One that the layers inside have given stays."""
        if self.supports_masking and all(get_mask(leaf) is None for leaf in jax.tree.leaves(y)):
            output_masks = self.compute_mask(x, masks)
            if output_masks is not None:
                set_masks(y, output_masks)

    def _call_symbolically(self, x: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Builds the layer and notes the call in the graph of a model to be."""
        outputs = record(self, (x, *args), kwargs, self._infer(x, args, kwargs), self.name)
        self._output_shape = jax.tree.map(lambda t: t.shape, outputs)
        self._last_call.tensors = SymbolicCall(x, outputs)
        return outputs

    def _infer(self, x: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Shapes and types of what a call on symbolic tensors returns; the layer is built for them."""

        def forward(*a: Any, **k: Any) -> Any:
            with forward_pass.calling(forward_pass.Call()):
                return self(*a, **k)

        with weights_in_one_draw(later=True), flax_in_inference(self):
            if not self.built:
                self._build_now(jax.tree.map(lambda a: a.shape, x))
            found = infer(forward, (x, *args), kwargs)
            if left_unbuilt(self):
                infer(dry_call(self), (x, *args), kwargs)
            return found

    @property
    def input(self) -> Any:
        """The symbolic tensor(s) that the layer was last called on."""
        return self.last_symbolic_call().inputs

    @property
    def output(self) -> Any:
        """The symbolic tensor(s) that the layer last returned."""
        return self.last_symbolic_call().outputs

    def last_symbolic_call(self) -> SymbolicCall:
        """The layer's last call on symbolic tensors.

        Raises:
            AttributeError: there was none.
        """
        if self._last_call.tensors is None:
            raise AttributeError(f"Layer {self.name!r} was never called on an Input: it has no tensors.")
        return self._last_call.tensors

    def offer_symbolic_call(self, call: SymbolicCall) -> None:
        """Takes `call` for the layer's last call on symbolic tensors, unless there was one."""
        if self._last_call.tensors is None:
            self._last_call.tensors = call

    def _ensure_built(self, x: Any) -> None:
        traced = any(isinstance(a, Tracer) for a in jax.tree.leaves(x))
        if self.built:
            if weights_wait() and not traced:  # called on symbolic tensors before, and now on numbers
                draw_weights(t.variable for t in tracked(self))
            return
        shapes = jax.tree.map(lambda a: (None, *a.shape[1:]), x)
        if traced:
            outside_of_trace(self._build_now, shapes)
        else:
            self._build_now(shapes)

    def _build_now(self, shapes: Any) -> None:
        kept = mixed_precision.computing(mixed_precision.get(self.dtype))  # weights are read as they are
        with weights_in_one_draw(), forward_pass.calling(forward_pass.Call(building=True)), kept:
            self.build(shapes)
        self.built = True

    def _regularize_activity(self, y: Any) -> None:
        call, regularizer = forward_pass.current(), self.activity_regularizer
        if call is None or regularizer is None:
            return
        for part in jax.tree.leaves(y):
            if call.rows is None:
                self._add(regularizer(part) / part.shape[0])
            else:  # padding counts for nothing
                rows = call.rows.reshape(-1, *[1] * (part.ndim - 1))
                self._add(regularizer(part * rows) / jnp.maximum(call.rows.sum(), 1))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the output for an input of `input_shape` (or a structure of shapes); unknown axes are None."""
        x = jax.tree.map(lambda shape: SymbolicTensor(shape, self.dtype, "x"), input_shape, is_leaf=is_shape)
        return jax.tree.map(lambda spec: spec.shape, self._infer(x, (), {}))

    @property
    def output_shape(self) -> Any:
        """The shape of the output, the batch axis as None; known once the layer has been called."""
        if self._output_shape is None:
            raise AttributeError(f"Layer {self.name!r} has no output shape yet: build or call it first.")
        return self._output_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, with the name in any case: the layer made from them draws the same masks."""
        config = {**super().get_config(), "name": self.name}
        if config.get("dtype") is not None or self._policy.name != "float32":
            config["dtype"] = self._policy.name
        return config if self.trainable else {**config, "trainable": False}

    # -- weights

    @property
    def trainable(self) -> bool:
        """Whether training may change the weights of the layer and of the layers in it."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self.set_own_trainable(value)
        for child in children(self):
            if isinstance(child, Layer):
                child.trainable = value

    def set_own_trainable(self, value: bool) -> None:
        """Sets `trainable` of this layer alone: the layers in it keep flags of their own."""
        self._trainable = bool(value)

    @property
    def weights(self) -> list[nnx.Variable]:
        """All arrays of the layer and the layers in it, in Keras's order."""
        return [t.variable for t in self._tracked()]

    variables = weights

    def _tracked(self) -> list[Tracked]:
        found = tracked(self)
        draw_weights(t.variable for t in found)
        return found

    @property
    def trainable_weights(self) -> list[nnx.Variable]:
        """The arrays that training changes."""
        return [t.variable for t in self._tracked() if t.trainable]

    trainable_variables = trainable_weights

    @property
    def non_trainable_weights(self) -> list[nnx.Variable]:
        """The arrays that training leaves alone: frozen ones, and statistics that layers keep themselves."""
        return [t.variable for t in self._tracked() if not t.trainable]

    non_trainable_variables = non_trainable_weights

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all arrays, in Keras's order."""
        return [np.asarray(v.get_value()).copy() for v in self.weights]

    def set_weights(self, weights: Any) -> None:
        """Replaces all arrays; `weights` as `get_weights()` returns them, from this or a Keras layer.

        Raises:
            ValueError: another number of arrays, another shape, or no numbers; nothing is changed then.
        """
        variables = self.weights
        if not isinstance(weights, Sequence):
            raise ValueError(f"Expected a list of arrays as get_weights() returns it, got {type(weights).__name__}.")
        if len(weights) != len(variables):
            hint = "" if self.built else " The layer has no weights yet: build it, or call it on data first."
            raise ValueError(f"Expected {len(variables)} arrays for {self.name!r}, got {len(weights)}.{hint}")
        for item, value in zip(tracked(self), weights, strict=True):
            if tuple(np.shape(value)) != item.variable.shape:
                raise ValueError(f"Expected shape {item.variable.shape} for {item.path!r}, got {np.shape(value)}.")
            if (dtype := np.asarray(value).dtype).kind in "OSU":
                raise ValueError(f"Expected numbers for {item.path!r}, got {dtype}.")
        for variable, value in zip(variables, weights, strict=True):
            assign(variable, value)

    def count_params(self) -> int:
        """How many numbers the weights hold."""
        return sum(int(np.prod(v.shape)) for v in self.weights)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    __str__ = __repr__
