"""A model's arrays as flat tuples, and back: what lets pure functions train an object."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from epochal.layers.base.layer import Layer
from epochal.layers.base.tree import children, flax_modules, name_places, tracked, walk


class TrainState(NamedTuple):
    """All that changes from step to step, one value.

    Attributes:
        params: the arrays that the optimizer changes.
        buffers: all other arrays of the model: frozen weights, moving statistics, random streams.
        opt: the optimizer's state.
    """

    params: tuple[Array, ...]
    buffers: tuple[Array, ...]
    opt: Any


class Parts:
    """A module taken apart once: the static graph, and its variables in a fixed order.

    Between executions the module's own variables hold the state, so that whoever looks at the model, a callback say,
    sees current weights, and whoever changes them is heard.
    """

    def __init__(self, module: nnx.Module):
        name_places(module)
        self.graph, state = nnx.split(module)
        nodes, _ = jax.tree.flatten(state, is_leaf=lambda node: isinstance(node, nnx.Variable))
        leaves, self.structure = jax.tree.flatten(state)
        if len(nodes) != len(leaves):
            raise ValueError(f"Expected one array in every variable of {type(module).__name__}, found a tree in one.")
        for node in nodes:
            if isinstance(node, nnx.Variable) and isinstance(node.get_raw_value(), np.ndarray):
                node.set_raw_value(jnp.asarray(node.get_raw_value()))  # the first states of stateful layers
        trains = {id(t.variable) for t in tracked(module) if t.trainable}
        self.nodes = nodes
        self.trained = tuple(i for i, node in enumerate(nodes) if id(node) in trains)
        self.kept = tuple(i for i in range(len(nodes)) if i not in set(self.trained))
        # Order in which gradients, optimizer slots and names run: Keras's order of weights.
        rank = {id(t.variable): k for k, t in enumerate(tracked(module))}
        self.trained = tuple(sorted(self.trained, key=lambda i: rank[id(nodes[i])]))
        names = {id(t.variable): t.path for t in tracked(module)}
        self.names = [names[id(nodes[i])] for i in self.trained]
        self.regularizers = [_regularizer(nodes[i]) for i in self.trained]
        # Whether a call without training changes buffers as well: stateful recurrent layers, from batch to batch.
        self.stateful = [_called(layer) for layer in walk(module) if getattr(layer, "stateful", False)]
        self.row_independent = row_independent(module)
        self.across_batch = [_called(part) for part in _all_modules(module) if _across_batch(part)]
        self.unknown = [_called(layer) for layer in walk(module) if isinstance(layer, Layer) and _unknown(layer)]

    def same_program(self, other: Parts | None) -> bool:
        """Whether a program compiled for `other` fits this module: same graph, same arrays trained."""
        return (
            other is not None
            and self.trained == other.trained
            and self.structure == other.structure
            and self.graph == other.graph
        )

    def collect(self) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """The current arrays: those that train, and the others."""
        nodes = self.nodes
        params = [nodes[i].get_raw_value() for i in self.trained]
        # a bare array in the graph is a constant
        buffers = [n.get_raw_value() if isinstance(n, nnx.Variable) else n for n in [nodes[i] for i in self.kept]]
        return tuple(params), tuple(buffers)

    def publish(self, params: tuple[Array, ...], buffers: tuple[Array, ...]) -> None:
        """Makes these the module's arrays; without params, only the others."""
        for i, value in zip(self.trained if params else (), params, strict=True):
            self.nodes[i].set_raw_value(value)
        for i, value in zip(self.kept, buffers, strict=True):
            if isinstance(self.nodes[i], nnx.Variable):  # a bare array in the graph is a constant
                self.nodes[i].set_raw_value(value)

    def assemble(
        self, params: tuple[Array, ...], buffers: tuple[Array, ...], training: bool, frozen: bool = False
    ) -> nnx.Module:
        """A module that holds these arrays, to be called inside a trace; the user's own module is not touched.

        Args:
            params, buffers: the arrays.
            training: how its layers act.
            frozen: see `forward_pass.Call`.
        """
        leaves: list[Any] = [None] * len(self.nodes)
        for i, value in zip(self.trained + self.kept, params + buffers, strict=True):
            leaves[i] = value
        module = nnx.merge(self.graph, jax.tree.unflatten(self.structure, leaves), copy=True)
        _set_mode(module, training, frozen)
        return module

    def buffers_of(self, module: nnx.Module) -> tuple[Array, ...]:
        """The arrays of an assembled module that are not trained, after its call."""
        leaves = jax.tree.leaves(nnx.split(module)[1])
        if len(leaves) != len(self.nodes):
            raise ValueError(
                f"{type(module).__name__} holds {len(leaves)} arrays after its call and held {len(self.nodes)} before. "
                "Make all variables in __init__ or build."
            )
        return tuple(leaves[i] for i in self.kept)


class ModelArrays:
    """The arrays of a model, read and written as one value. Between executions the model's variables hold them.

    Args:
        parts: the model, taken apart.
    """

    def __init__(self, parts: Parts):
        self.parts = parts

    def read(self) -> TrainState:
        """The current arrays; there is no optimizer here."""
        return TrainState(*self.parts.collect(), None)

    def write(self, after: Any) -> None:
        """Puts changed buffers back; None: nothing has changed."""
        if after is not None:
            self.parts.publish((), after)


class TrainedArrays(ModelArrays):
    """The arrays of a model and its optimizer.

    Args:
        parts: the model, taken apart.
        optimizer: holds its own state between executions.
    """

    def __init__(self, parts: Parts, optimizer: Any):
        super().__init__(parts)
        self._optimizer = optimizer

    def read(self) -> TrainState:
        """The current arrays."""
        return TrainState(*self.parts.collect(), self._optimizer.state)

    def write(self, after: TrainState) -> None:
        """Makes these the current arrays."""
        self.parts.publish(after.params, after.buffers)
        self._optimizer.state = after.opt


class CopiedArrays:
    """A state of its own beside the model's, for a training that leaves the model alone.

    Args:
        state: the first one; a program that donates takes it over.
    """

    def __init__(self, state: TrainState):
        self._state = state

    def read(self) -> TrainState:
        """The current arrays."""
        return self._state

    def write(self, after: TrainState | None) -> None:
        """Makes these the current arrays; None: nothing has changed."""
        if after is not None:
            self._state = after


def _regularizer(node: Any) -> Any:
    return node.get_metadata().get("regularizer") if isinstance(node, nnx.Variable) else None


def _set_mode(module: nnx.Module, training: bool, frozen: bool) -> None:
    """Flax modules learn of training through attributes, epochal's layers through `forward_pass.current()`."""
    for part in flax_modules(module):
        if training:
            part.train()
        else:
            part.eval()
        if frozen:
            part.set_attributes(nnx.BatchNorm, use_running_average=True, raise_if_not_found=False)


def row_independent(module: nnx.Module) -> bool:
    """Whether padding rows leave the other rows' outputs alone, for the module and everything in it."""
    if not isinstance(module, Layer):
        return False
    return module.padding_safe and all(row_independent(child) for child in children(module))


def _called(module: nnx.Module) -> str:
    return f"{type(module).__name__} {module.name!r}" if isinstance(module, Layer) else type(module).__name__


def _all_modules(module: nnx.Module) -> Iterator[nnx.Module]:
    """All layers, and the modules in those of them that are Flax's."""
    for layer in walk(module):
        yield from [layer] if isinstance(layer, Layer) else (part for _, part in nnx.iter_modules(layer))


def _across_batch(module: nnx.Module) -> bool:
    """Whether it takes statistics over the batch in training."""
    if isinstance(module, Layer):
        return module.across_batch and module.trainable
    return isinstance(module, nnx.BatchNorm) and not module.use_running_average


def _unknown(layer: Layer) -> bool:
    """Whether it is code of a user's that may do anything across the batch."""
    return not (layer.padding_safe or getattr(layer, "stateful", False))


def parts_of(module: nnx.Module) -> list[tuple[Any, list[Any]]]:
    """Every holder in a module, with the objects it holds: attributes of modules, lists, tuples and dicts.

    As long as they hold the same objects, nothing about the module's structure has changed: values of variables may.
    """
    found: list[tuple[Any, list[Any]]] = []
    waiting: list[Any] = [vars(module)]
    seen = {id(module)}
    while waiting:
        holder = waiting.pop()
        values = list(holder.values() if isinstance(holder, dict) else holder)
        found.append((holder, values))
        for value in values:
            kind = type(value)
            if kind in _leaf_types:
                continue
            if isinstance(value, list | tuple | dict | nnx.Module):
                if id(value) not in seen:
                    seen.add(id(value))
                    waiting.append(vars(value) if isinstance(value, nnx.Module) else value)
            else:
                _leaf_types.add(kind)
    return found


def unchanged(found: list[tuple[Any, list[Any]]]) -> bool:
    """Whether all holders that `parts_of` has found hold the same objects still."""
    for holder, values in found:
        now = holder.values() if isinstance(holder, dict) else holder
        if len(holder) != len(values) or not all(map(operator.is_, now, values)):
            return False
    return True


_leaf_types: set[type] = set()  # types whose objects `parts_of` need not look into
