"""Layers inside layers, and the variables they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from flax import nnx

from epochal import mixed_precision
from epochal.registry.configurable import named_arguments


class Node(nnx.Module):
    """What tells epochal's layers from Flax's own modules; `Layer` extends it."""

    name: str
    trainable: bool
    built: bool
    dtype_policy: Any
    _place: str

    def check_policy(self, policy: Any) -> None:
        """Raises ValueError for a dtype policy that the layer cannot take."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Tracked:
    """A weight with its place: `path` is `layer/…/name`; `trainable` says whether training changes it."""

    variable: nnx.Variable
    path: str
    trainable: bool


def children(layer: nnx.Module) -> Iterator[nnx.Module]:
    """The layers that `layer` holds as attributes, or in lists, tuples and dicts there, in the order they were set."""
    for name, value in vars(layer).items():
        if not name.startswith("_pytree"):
            yield from _modules_in(value)


def _modules_in(value: Any) -> Iterator[nnx.Module]:
    if isinstance(value, nnx.Module):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _modules_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _modules_in(item)


def walk(module: nnx.Module) -> Iterator[nnx.Module]:
    """`module` and all layers in it."""
    yield module
    if isinstance(module, Node):
        for child in children(module):
            yield from walk(child)


def set_policy(module: nnx.Module, policy: Any) -> None:
    """Gives all layers in `module` that were made without `dtype` this policy.

    Raises:
        ValueError: no policy, or one with another type of weights; no layer has changed then.
    """
    new = mixed_precision.get(policy)
    found = [layer for layer in walk(module) if isinstance(layer, Node)]
    free = [layer for layer in found if named_arguments(layer).get("dtype") is None]
    for layer in free:
        layer.check_policy(new)
    for layer in free:
        layer.dtype_policy = new


def tracked(module: nnx.Module) -> list[Tracked]:
    """Every weight of `module` once: per layer the trainable kind first, in the order they were made."""
    found: dict[int, Tracked] = {}
    _track(module, "", True, found)
    return list(found.values())


def _track(module: nnx.Module, prefix: str, trainable: bool, found: dict[int, Tracked]) -> None:
    if not isinstance(module, Node):  # a Flax module: its own order
        for path, node in nnx.iter_graph(module):
            if isinstance(node, nnx.Variable) and not isinstance(node, nnx.RngState):
                name = prefix + "/".join(str(p) for p in path)
                found.setdefault(id(node), Tracked(node, name, trainable and isinstance(node, nnx.Param)))
        return
    trainable = trainable and module.trainable
    own = [v for k, v in vars(module).items() if isinstance(v, nnx.Variable)]
    own += [v for k, a in vars(module).items() if isinstance(a, list | tuple) for v in a if isinstance(v, nnx.Variable)]
    own.sort(key=lambda v: (not isinstance(v, nnx.Param), v.get_metadata().get("made", 0)))
    for v in own:
        name = f"{prefix}{v.get_metadata().get('name', 'weight')}"
        found.setdefault(id(v), Tracked(v, name, trainable and isinstance(v, nnx.Param)))
    for child in children(module):
        _track(child, f"{prefix}{getattr(child, 'name', type(child).__name__)}/", trainable, found)


def flax_modules(module: nnx.Module) -> Iterator[nnx.Module]:
    """The outermost modules in `module` that are Flax's and not epochal's."""
    if not isinstance(module, Node):
        yield module
        return
    for child in children(module):
        yield from flax_modules(child)


def name_places(module: nnx.Module, place: str = "model") -> None:
    """Tells every layer in `module` where it is: "model/0/2" is the third layer in the first."""
    if isinstance(module, Node):
        module._place = place
        for i, child in enumerate(children(module)):
            name_places(child, f"{place}/{i}")
