"""A stack of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from epochal.layers import Input, InputLayer
from epochal.layers.base.layer import Layer
from epochal.models.model import Model
from epochal.tracing.symbolic import SymbolicCall, SymbolicTensor


class _InStack(SymbolicCall):
    """Tensors of a `Sequential` or of a layer in it, made when they are asked for."""

    def __init__(self, model: Sequential, item: Layer):
        self._model, self._item = model, item

    def _made(self) -> SymbolicCall:
        self._model._make_tensors()
        return self._item.last_symbolic_call()

    @property
    def inputs(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As of `SymbolicCall`."""
        return self._made().inputs

    @property
    def outputs(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As of `SymbolicCall`."""
        return self._made().outputs


class Sequential(Model):
    """Layers that are called one after the other.

    The model is built at once when the first item is an `Input` or a layer with `input_shape`; otherwise at its first
    data, or by `build(input_shape)`.

    Args:
        layers: layers, models or Flax modules; `Input(shape)` may come first.
        name: the model's name.

    Raises:
        TypeError: an item that is none of these.

    Example:
        >>> from epochal import Sequential, layers
        >>> model = Sequential([layers.Dense(8, activation="relu", input_shape=(4,)), layers.Dense(1)])
        >>> model.count_params()
        49
    """

    _saved_family = "sequential"
    casts_inputs = False

    def __init__(self, layers: Sequence[Any] | None = None, name: str | None = None, trainable: bool = True):
        super().__init__(name=name, trainable=trainable)
        self.layers: list[nnx.Module] = []
        self._input: SymbolicTensor | None = None
        for layer in layers or ():
            self._append(layer)
        self._build_if_known()

    def add(self, layer: Any) -> None:
        """Adds a layer at the end; a model that was built builds it for the output of the one before."""
        self._append(layer)
        self._build_if_known()

    def pop(self) -> Any:
        """Removes the last layer and returns it."""
        if not self.layers:
            raise ValueError(f"Model {self.name!r} has no layers to remove.")
        layer = self.layers.pop()
        self._build_if_known()
        return layer

    def _append(self, layer: Any) -> None:
        layer = layer.output if isinstance(layer, InputLayer) else layer
        if isinstance(layer, SymbolicTensor):
            if self.layers:
                raise ValueError("Input must be the first item of a Sequential.")
            if layer.node is not None:
                raise ValueError(
                    f"Expected layers in a Sequential, got {layer!r}: make a graph with Model(inputs, outputs)."
                )
            self._input = layer
            return
        if not isinstance(layer, nnx.Module):
            hint = " Add () to make a layer of the class." if isinstance(layer, type) else ""
            raise TypeError(f"Expected a layer, a model or a flax.nnx.Module, got {layer!r}.{hint}")
        names = [getattr(item, "name", None) for item in self.layers]
        if isinstance(layer, Layer) and layer.name in names and layer not in self.layers:
            raise ValueError(f"A layer named {layer.name!r} is in model {self.name!r} already; names must differ.")
        self.layers.append(layer)

    def _build_if_known(self) -> None:
        shape = self._known_input_shape()
        self._offer_tensors()
        if shape is not None and self.layers:
            self._build(shape)

    def _make_tensors(self) -> None:
        """Calls the layers on a symbolic input, so that a graph can go on from any of them.

        Raises:
            AttributeError: the input's shape is not known yet, or a Flax module is among the layers.
        """
        first = last = self._input if self._input is not None else Input(self._example_shape())
        for layer in self.layers:
            if not isinstance(layer, Layer):
                raise AttributeError(f"Model {self.name!r} has a Flax module, a {type(layer).__name__}: no tensors.")
            last = layer(last)
        self._last_call.tensors = SymbolicCall(first, last)

    def _example_shape(self) -> Any:
        shape = self._known_input_shape()
        return shape if shape is not None else self.input_shape[1:]

    def _offer_tensors(self) -> None:
        """Lets the model and its layers have tensors, which are made when someone asks for them."""
        self._last_call.tensors = _InStack(self, self)
        for layer in self.layers:
            if isinstance(layer, Layer):
                layer.offer_symbolic_call(_InStack(self, layer))

    @property
    def inputs(self) -> list[SymbolicTensor]:
        """The symbolic input, in a list."""
        return jax.tree.leaves(self.input)

    @property
    def outputs(self) -> list[SymbolicTensor]:
        """The symbolic outputs."""
        return jax.tree.leaves(self.output)

    def _known_input_shape(self) -> tuple[int | None, ...] | None:
        if self._input is not None:
            return self._input.shape[1:]
        first = self.layers[0] if self.layers else None
        return first.given_input_shape if isinstance(first, Layer) else None

    def _declared_shape(self) -> tuple[int | None, ...] | None:
        return self._known_input_shape()

    def _build(self, shape: tuple[int | None, ...]) -> None:
        if any(size is None for size in shape):
            return  # an axis is open: the first data decides
        dtype = self._input.dtype if self._input is not None else "float32"
        self.build_from(jax.ShapeDtypeStruct((2, *shape), jnp.dtype(dtype)))
        if self._input is not None and self._input.shape[0] is not None:
            self.fix_batch_size(self._input.shape[0])

    def call(self, x: Any) -> Any:
        if not self.layers:
            raise ValueError(f"Model {self.name!r} has no layers; add some first.")
        for layer in self.layers:
            x = layer(x)  # pyright: ignore[reportCallIssue]
        return x

    def names_of(self, outputs: Any) -> list[str]:
        """The last layer's name."""
        names = super().names_of(outputs)
        return [getattr(self.layers[-1], "name", names[0])] if len(names) == 1 else names

    @property
    def input_shape(self) -> Any:
        """The shape of a batch of inputs, the batch axis as None; known once the model is built."""
        if self._training.inputs is None:
            raise AttributeError(f"Model {self.name!r} has no input shape yet: build it first.")
        return jax.tree.map(lambda s: (None, *s.shape[1:]), self._training.inputs)

    def get_config(self) -> dict[str, Any]:
        tensor = self._input
        first = None if tensor is None else {"batch_shape": tensor.shape, "dtype": tensor.dtype, "name": tensor.name}
        return {"input": first, "layers": list(self.layers), "name": self.name, "trainable": self.trainable}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Sequential:
        """A new model of new layers, with weights of their own."""
        arguments = {k: v for k, v in config.items() if k != "input"}
        first = [] if config.get("input") is None else [Input(**config["input"])]
        layers = [type(item).from_config(item.get_config()) for item in config["layers"]]
        return cls(**{**arguments, "layers": [*first, *layers]})
