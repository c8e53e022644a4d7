"""Symbolic tensors: what a layer returns when it is called on an `Input`, and the graph that such calls leave."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from epochal.registry.configurable import register_functions

Shape = tuple[int | None, ...]

_ids = itertools.count()

# Stand-ins for axes whose size is not known while shapes are computed. What comes out different for the two sets of
# sizes depends on them, and is unknown as well.
_BATCH = (2, 3)
_OPEN = (11, 13)


class Node:
    """One call: a layer (or a plain function) on arguments that hold symbolic tensors.

    Attributes:
        call: the layer or function.
        args, kwargs: its arguments.
        outputs: the symbolic tensors that it returned, in their structure.
    """

    def __init__(self, call: Any, args: tuple, kwargs: dict[str, Any]):
        self.call, self.args, self.kwargs = call, args, kwargs
        self.outputs: Any = None


class SymbolicTensor:
    """The promise of an array in a model that is being put together.

    Attributes:
        shape: its shape, None for the batch's axis and for axes that vary.
        dtype: its type's name.
        name: the input's name, or that of the layer that makes it.
        node: the call that makes it; None for an input of a model.
    """

    def __init__(self, shape: Shape, dtype: Any, name: str, node: Node | None = None):
        self.shape, self.dtype, self.name, self.node = tuple(shape), jnp.dtype(dtype).name, name, node
        self.id = next(_ids)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __repr__(self) -> str:
        return f"<SymbolicTensor {self.name!r} shape={self.shape} dtype={self.dtype}>"

    def __iter__(self) -> Any:
        raise TypeError(f"{self!r} has no values yet: it cannot be looped over. Use a layer, or epochal.ops.")

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} has no values yet: it cannot decide an if. Use a layer, or epochal.ops.where.")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"{self!r} has no values yet: NumPy cannot take it. Use a layer, or epochal.ops.")

    def __getitem__(self, index: Any) -> Any:
        return apply(operator.getitem, self, index)


@dataclass
class SymbolicCall:
    """Inputs and outputs of a call on symbolic tensors."""

    inputs: Any
    outputs: Any


class LastCall:
    """What a layer keeps of its last calls. Opaque: Flax must not walk into it, nor see that it changes.

    Attributes:
        tensors: of the last call on symbolic tensors; None before.
        losses: scalars that were added in the last call outside of any step.
    """

    def __init__(self) -> None:
        self.tensors: SymbolicCall | None = None
        self.losses: list[Array] = []


def _operator(function: Callable, swapped: bool = False) -> Callable:
    def method(self: SymbolicTensor, other: Any) -> Any:
        return apply(function, other, self) if swapped else apply(function, self, other)

    return method


_TWO_SIDED = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
_COMPARISONS = ("lt", "le", "gt", "ge")
for _name in _TWO_SIDED:
    _function = getattr(operator, _name)
    setattr(SymbolicTensor, f"__{_name}__", _operator(_function))
    setattr(SymbolicTensor, f"__r{_name}__", _operator(_function, swapped=True))
for _name in _COMPARISONS:
    setattr(SymbolicTensor, f"__{_name}__", _operator(getattr(operator, _name)))
SymbolicTensor.__neg__ = lambda self: apply(operator.neg, self)  # type: ignore[attr-defined]
SymbolicTensor.__abs__ = lambda self: apply(operator.abs, self)  # type: ignore[attr-defined]

register_functions(
    "operators", {name: getattr(operator, name) for name in (*_TWO_SIDED, *_COMPARISONS, "neg", "abs", "getitem")}
)


def is_shape(node: Any) -> bool:
    """Whether `node` is a shape, and not a list of shapes."""
    return isinstance(node, tuple | list) and all(size is None or isinstance(size, int) for size in node)


def is_symbolic(value: Any) -> bool:
    """Whether there is a symbolic tensor in a structure."""
    return any(isinstance(leaf, SymbolicTensor) for leaf in jax.tree.leaves(value))


def apply(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """`function` of the arguments; with symbolic ones among them, a call to be made later."""
    if not is_symbolic((args, kwargs)):
        return function(*args, **kwargs)
    return record(function, args, kwargs, infer(function, args, kwargs), getattr(function, "__name__", "function"))


def record(call: Any, args: tuple, kwargs: dict[str, Any], specs: Any, name: str) -> Any:
    """Symbolic tensors for what `call` will return, as `specs` (from `infer`) describe it."""
    node = Node(call, args, kwargs)
    node.outputs = jax.tree.map(lambda spec: SymbolicTensor(spec.shape, spec.dtype, name, node), specs)
    return node.outputs


class Spec:
    """A shape, None for axes of unknown size, and a type."""

    def __init__(self, shape: Shape, dtype: Any):
        self.shape, self.dtype = shape, dtype


def infer(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What a call returns, as a structure of `Spec`s; nothing is computed."""
    leaves = [leaf for leaf in jax.tree.leaves((args, kwargs)) if isinstance(leaf, SymbolicTensor)]
    first = _with_sizes(function, args, kwargs, 0)
    if not any(None in leaf.shape for leaf in leaves):
        return jax.tree.map(lambda a: Spec(tuple(a.shape), a.dtype), first)
    second = _with_sizes(function, args, kwargs, 1)

    def join(a: Any, b: Any) -> Spec:
        return Spec(tuple(m if m == n else None for m, n in zip(a.shape, b.shape, strict=True)), a.dtype)

    return jax.tree.map(join, first, second)


def _with_sizes(function: Callable, args: tuple, kwargs: dict[str, Any], which: int) -> Any:
    def struct(tensor: SymbolicTensor) -> jax.ShapeDtypeStruct:
        sizes = (s if s is not None else (_OPEN if i else _BATCH)[which] for i, s in enumerate(tensor.shape))
        return jax.ShapeDtypeStruct(tuple(sizes), tensor.dtype)

    leaves, structure = jax.tree.flatten((args, kwargs))
    symbolic = {i: struct(leaf) for i, leaf in enumerate(leaves) if isinstance(leaf, SymbolicTensor)}

    def call(values: dict[int, Any]) -> Any:
        a, k = jax.tree.unflatten(structure, [values.get(i, leaf) for i, leaf in enumerate(leaves)])
        return function(*a, **k)

    return jax.eval_shape(call, symbolic)
