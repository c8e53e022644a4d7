"""Models made of a graph: `Model(inputs, outputs)` over symbolic tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from epochal.arguments import described_inputs, device_dtype, with_rank
from epochal.config import Configurable
from epochal.layers import Input
from epochal.layers.base import Layer, SymbolicCall, tracked
from epochal.layers.graph import Node, SymbolicTensor
from epochal.layers.weights import draw_weights
from epochal.model import Model


class Ref(Configurable):
    """Stands for tensor number `number` of a graph in the arguments of a call."""

    def __init__(self, number: int):
        self.number = number


@dataclass(frozen=True)
class Step:
    """One call of a graph: a layer by its place in the model's list, or a function."""

    call: Any
    args: Any
    kwargs: Any
    outputs: Any


class Graph:
    """Calls in an order in which they can be made. Opaque to Flax: layers are named by their place in the model."""

    def __init__(self, inputs: Any, outputs: Any):
        self.inputs = [t for t in jax.tree.leaves(inputs) if _symbolic(t, "inputs")]
        wanted = [t for t in jax.tree.leaves(outputs) if _symbolic(t, "outputs")]
        nodes = _nodes_between(self.inputs, wanted)
        self.layers: list[Layer] = []
        for node in nodes:
            if isinstance(node.call, Layer) and not any(node.call is layer for layer in self.layers):
                self.layers.append(node.call)
        self.steps = [self._step(node) for node in nodes]
        self.input_refs, self.output_refs = _refs(inputs), _refs(outputs)

    def _step(self, node: Node) -> Step:
        place = next((i for i, layer in enumerate(self.layers) if layer is node.call), None)
        call = node.call if place is None else place
        return Step(call, _refs(node.args), _refs(node.kwargs), _refs(node.outputs))

    def run(self, layers: list[Any], inputs: list[Any]) -> Any:
        """What the graph makes of `inputs` (one per input, in order) with these layers."""
        values = {tensor.id: value for tensor, value in zip(self.inputs, inputs, strict=True)}

        def fill(template: Any) -> Any:
            return jax.tree.map(lambda leaf: values[leaf.number] if isinstance(leaf, Ref) else leaf, template)

        for step in self.steps:
            call = layers[step.call] if isinstance(step.call, int) else step.call
            result = call(*fill(step.args), **fill(step.kwargs))
            for ref, value in zip(jax.tree.leaves(step.outputs), jax.tree.leaves(result), strict=True):
                values[ref.number] = value
        return fill(self.output_refs)


class Functional(Model):
    """A model from symbolic inputs to symbolic outputs, each a tensor, a list, a tuple or a dict of them.

    Args:
        inputs: `Input`s, or tensors inside another model to start from.
        outputs: what layers returned.
        name: the model's name.

    Raises:
        ValueError: something that is no symbolic tensor, or an output that needs an input that is not given.

    Example:
        >>> import epochal as keras
        >>> x = keras.Input((4,))
        >>> model = keras.Model(x, keras.layers.Dense(2)(x))
        >>> model.count_params()
        10
    """

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, trainable: bool = True):
        super().__init__(name=name, trainable=trainable)
        self._graph = Graph(inputs, outputs)
        self._symbolic_call = SymbolicCall(inputs, outputs)
        self.layers = self._graph.layers
        draw_weights(t.variable for t in tracked(self))
        self._output_shape = jax.tree.map(lambda t: t.shape, outputs)
        self.built = True

    def call(self, x: Any) -> Any:
        return self._graph.run(self.layers, jax.tree.leaves(self.match_inputs(x)))

    # -- names and structure

    @property
    def inputs(self) -> list[SymbolicTensor]:
        """The inputs in order."""
        return list(self._graph.inputs)

    @property
    def outputs(self) -> list[SymbolicTensor]:
        """The outputs in order."""
        return list(jax.tree.leaves(self.output))

    @property
    def input_names(self) -> list[str]:
        """The inputs' names in order; keys of a dict are sorted, as in all trees of JAX and Keras."""
        if isinstance(self.input, Mapping):
            return sorted(self.input)
        return [t.name for t in self.inputs]

    def names_of(self, outputs: Any) -> list[str]:
        """Sorted keys of a dict of outputs; else the names of the layers that make them, numbered where they repeat."""
        if isinstance(self.output, Mapping):
            return sorted(self.output)
        seen: Counter[str] = Counter()
        names = []
        for tensor in self.outputs:
            names.append(tensor.name if not seen[tensor.name] else f"{tensor.name}_{seen[tensor.name]}")
            seen[tensor.name] += 1
        return names

    @property
    def output_names(self) -> list[str]:
        """The outputs' names in order."""
        return self.names_of(None)

    # -- data

    def match_inputs(self, x: Any) -> Any:
        """Data in the structure of the inputs: an array, a list in order, or a dict by the inputs' names.

        Raises:
            ValueError: too few or too many, or a name that is missing; further keys of a dict are left out.
        """
        names, given = self.input_names, x
        if isinstance(x, Mapping):
            missing = [name for name in names if name not in x]
            if missing:
                raise ValueError(f"Expected x with the inputs {names} of model {self.name!r}, found no {missing[0]!r}.")
            given = [x[name] for name in names]
        leaves = jax.tree.leaves(given)
        if len(leaves) != len(names):
            raise ValueError(f"Expected {len(names)} input(s) for model {self.name!r} ({names}), got {len(leaves)}.")
        leaves = [with_rank(a, t.shape) for a, t in zip(leaves, self.inputs, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(self.input), leaves)

    def build_for(self, x: Any) -> None:
        for name, tensor, array in zip(self.input_names, self.inputs, jax.tree.leaves(x), strict=True):
            sizes = tuple(array.shape)[1:]
            same_rank = array.ndim == tensor.ndim
            if not same_rank or any(w not in (None, g) for w, g in zip(tensor.shape[1:], sizes, strict=True)):
                raise ValueError(described_inputs(f"input {name!r}", self.name, tensor.shape, array.shape))
        seen = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape[1:]), device_dtype(a)), x)
        if self._training.inputs != seen:  # axes left open may change from call to call
            self._training.built_for(seen)

    # -- as data

    def get_config(self) -> dict[str, Any]:
        graph = self._graph
        inputs = [{"id": t.id, "shape": list(t.shape), "dtype": t.dtype, "name": t.name} for t in graph.inputs]
        steps = [[s.call, s.args, s.kwargs, s.outputs] for s in graph.steps]
        config = {"layers": graph.layers, "tensors": inputs, "steps": steps, "name": self.name}
        return {**config, "inputs": graph.input_refs, "outputs": graph.output_refs}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """A new model of new layers, with weights of their own."""
        layers = [type(item).from_config(item.get_config()) for item in config["layers"]]
        made: dict[int, Any] = {}
        for spec in config["tensors"]:
            made[spec["id"]] = Input(spec["shape"][1:], dtype=spec["dtype"], name=spec["name"])

        def fill(template: Any) -> Any:
            return jax.tree.map(lambda leaf: made[leaf.number] if isinstance(leaf, Ref) else leaf, template)

        for call, args, kwargs, outputs in config["steps"]:
            result = (layers[call] if isinstance(call, int) else call)(*fill(args), **fill(kwargs))
            for ref, tensor in zip(jax.tree.leaves(outputs), jax.tree.leaves(result), strict=True):
                made[ref.number] = tensor
        return cls(fill(config["inputs"]), fill(config["outputs"]), name=config["name"])


def _symbolic(tensor: Any, what: str) -> bool:
    if not isinstance(tensor, SymbolicTensor):
        raise ValueError(f"Expected {what} of a model to be made with Input() and layers, got {tensor!r}.")
    return True


def _refs(structure: Any) -> Any:
    """The structure with a `Ref` in place of each symbolic tensor."""
    return jax.tree.map(lambda leaf: Ref(leaf.id) if isinstance(leaf, SymbolicTensor) else leaf, structure)


def _nodes_between(inputs: list[SymbolicTensor], outputs: list[SymbolicTensor]) -> list[Node]:
    """The calls that lead from inputs to outputs, in an order in which they can be made."""
    known = {t.id for t in inputs}
    found: dict[int, Node] = {}
    waiting = list(outputs)
    while waiting:
        tensor = waiting.pop()
        if tensor.id in known:
            continue
        if tensor.node is None:
            names = [t.name for t in inputs]
            raise ValueError(f"The outputs need the input {tensor.name!r}, which is not among the inputs {names}.")
        known.add(tensor.id)
        if tensor.node.order not in found:
            found[tensor.node.order] = tensor.node
            leaves = jax.tree.leaves((tensor.node.args, tensor.node.kwargs))
            waiting += [leaf for leaf in leaves if isinstance(leaf, SymbolicTensor)]
    return [found[order] for order in sorted(found)]


Model.functional = Functional
