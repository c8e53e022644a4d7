"""Models made of a graph: `Model(inputs, outputs)` over symbolic tensors."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from epochal.layers import Input, InputLayer
from epochal.layers.base.layer import Layer
from epochal.layers.base.tree import tracked
from epochal.layers.base.weights import draw_weights
from epochal.models.input_specs import described_inputs, with_rank
from epochal.models.model import Model
from epochal.registry.configurable import Configurable, known_as
from epochal.runtime.host_copies import device_dtype
from epochal.tracing.symbolic import Node, SymbolicCall, SymbolicTensor


class Ref(Configurable):
    """Stands for tensor number `number` of a graph in the arguments of a call."""

    _saved_family = "functional"

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
        sources, finished = _sources_of(wanted, self.inputs)
        self.layers: list[Layer] = _layers_as_in_keras(sources, finished, self.inputs)
        self.steps = [self._step(source) for source in finished if isinstance(source, Node)]
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

    _saved_family = "functional"
    casts_inputs = False

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, trainable: bool = True):
        super().__init__(name=name, trainable=trainable)
        self._graph = Graph(inputs, outputs)
        self._last_call.tensors = SymbolicCall(inputs, outputs)
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
    def input_shape(self) -> Any:
        """The shape of a batch of inputs (or a structure of shapes), the batch axis as None."""
        return jax.tree.map(lambda t: t.shape, self.input)

    @property
    def input_names(self) -> list[str]:
        """The inputs' names in order: the keys of a dict of inputs, and the names that `Input` was given."""
        found = jax.tree_util.tree_flatten_with_path(self.input)[0]
        keys = [getattr(path[0], "key", tensor.name) if len(path) == 1 else tensor.name for path, tensor in found]
        return [str(key) for key in keys]

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
            keys = list(self.input) if isinstance(self.input, Mapping) else names
            missing = [key for key in keys if key not in x]
            if missing:
                raise ValueError(f"Expected x with the inputs {keys} of model {self.name!r}, found no {missing[0]!r}.")
            by_key = {key: x[key] for key in keys}
            given = by_key if isinstance(self.input, Mapping) else list(by_key.values())
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
        if not self.trainable:
            config["trainable"] = False
        return {**config, "inputs": graph.input_refs, "outputs": graph.output_refs}

    @staticmethod
    def adopt(model: Any, inputs: Any, outputs: Any, **kwargs: Any) -> None:
        """Makes an object of a subclass of `Model` a graph as well: its class's own methods come first."""
        model.__class__ = _with_graph(type(model))
        Functional.__init__(model, inputs, outputs, **kwargs)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """A new model of new layers, with weights of their own."""
        return cls.from_description(cls, config)

    @staticmethod
    def from_description(made_by: Any, config: Mapping[str, Any]) -> Any:
        """The same by any class that takes `inputs` and `outputs`."""
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
        model = made_by(fill(config["inputs"]), fill(config["outputs"]), name=config["name"])
        model.set_own_trainable(config.get("trainable", True))  # each layer has a flag of its own
        return model


@functools.cache
def _with_graph(cls: type) -> type:
    if issubclass(cls, Functional):
        return cls
    made: Any = type(Functional)(
        cls.__name__, (cls, Functional), {"__module__": cls.__module__, "__doc__": cls.__doc__}
    )
    return known_as(made, cls)


def _symbolic(tensor: Any, what: str) -> bool:
    if not isinstance(tensor, SymbolicTensor):
        raise ValueError(f"Expected {what} of a model to be made with Input() and layers, got {tensor!r}.")
    return True


def _refs(structure: Any) -> Any:
    """The structure with a `Ref` in place of each symbolic tensor."""
    return jax.tree.map(lambda leaf: Ref(leaf.id) if isinstance(leaf, SymbolicTensor) else leaf, structure)


Source = Node | SymbolicTensor  # where a tensor comes from: a call, or the tensor itself when it is an input


def _sources_of(
    outputs: list[SymbolicTensor], inputs: list[SymbolicTensor]
) -> tuple[dict[Source, list[Source]], list[Source]]:
    """Calls and inputs that lead to the outputs, found by going back from these, depth first.

    Returns:
        each with those it needs, as they were met; and all of them, each after what it needs.

    Raises:
        ValueError: an output needs an input that is not given.
    """
    known = {t.id for t in inputs}

    def source(tensor: SymbolicTensor) -> Source:
        if tensor.node is None and tensor.id not in known:
            names = [t.name for t in inputs]
            raise ValueError(f"The outputs need the input {tensor.name!r}, which is not among the inputs {names}.")
        return tensor if tensor.node is None or tensor.id in known else tensor.node

    found: dict[Source, list[Source]] = {}
    finished: list[Source] = []
    waiting = [(source(tensor), False) for tensor in reversed(outputs)]
    while waiting:
        met, done = waiting.pop()
        if done:
            finished.append(met)
        elif met not in found:
            arguments = jax.tree.leaves((met.args, met.kwargs)) if isinstance(met, Node) else []
            found[met] = [source(leaf) for leaf in arguments if isinstance(leaf, SymbolicTensor)]
            waiting += [(met, True), *[(needed, False) for needed in reversed(found[met])]]
    return found, finished


def _layers_as_in_keras(
    sources: dict[Source, list[Source]], finished: list[Source], inputs: list[SymbolicTensor]
) -> list[Layer]:
    """The layers of a graph in Keras's order, so that lists of weights are in Keras's order too.

    The farther from the outputs (in calls, on the longest way) a layer is, the earlier; those equally far come as they
    are met on the way back from the outputs. An input that nothing needs is as near as an output.

    Args:
        sources, finished: what `_sources_of` returned.
        inputs: of the graph; each is a layer in the list.
    """

    def layer(source: Source) -> Any:
        return source.call if isinstance(source, Node) and isinstance(source.call, Layer) else source

    calls: dict[Source, int] = dict.fromkeys(sources, 0)  # the distances
    depths: dict[Any, int] = dict.fromkeys([*(t for t in inputs if t not in sources), *map(layer, sources)], 0)
    for source in reversed(finished):
        depth = depths[layer(source)] = max(calls[source], depths[layer(source)])
        for needed in sources[source]:
            calls[needed] = max(calls[needed], depth + 1)
    ordered = sorted(depths, key=lambda item: -depths[item])
    layers = [InputLayer.of(item) if isinstance(item, SymbolicTensor) else item for item in ordered]
    return [item for item in layers if isinstance(item, Layer)]


Model.functional = Functional
