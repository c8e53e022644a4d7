"""Whether data has the shapes that a model was built for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax


def check_inputs(name: str, expected: Any, x: Any) -> None:
    """Raises ValueError when data has another structure or shape than the model was built for."""
    want, got = jax.tree_util.tree_flatten_with_path(expected)[0], jax.tree_util.tree_flatten_with_path(x)[0]
    if [p for p, _ in want] != [p for p, _ in got]:
        kind = f"a {type(x).__name__} of {len(got)}" if not hasattr(x, "shape") else "one array"
        wanted = "one array" if hasattr(expected, "shape") else f"a {type(expected).__name__} of {len(want)}"
        raise ValueError(f"Expected {wanted} as x for model {name!r}, got {kind}.")
    for (path, spec), (_, array) in zip(want, got, strict=True):
        if spec.shape[1:] != tuple(array.shape[1:]):
            raise ValueError(described_inputs("x" + jax.tree_util.keystr(path), name, spec.shape, array.shape))


def same_shapes(expected: Any, x: Any) -> bool:
    """Whether data has the structure and, but for the number of rows, the shapes of `expected`."""
    want, structure = jax.tree.flatten(expected)
    got, other = jax.tree.flatten(x)
    return structure == other and all(a.shape[1:] == tuple(b.shape[1:]) for a, b in zip(want, got, strict=True))


def fits_declared(shape: Sequence[int | None] | None, x: Any) -> bool:
    """Whether an input agrees with the declared shape of one example; always, where none was declared."""
    if shape is None:
        return True
    sizes = x.shape[1:] if hasattr(x, "shape") else ()
    return len(sizes) == len(shape) and all(a in (None, b) for a, b in zip(shape, sizes, strict=True))


def described_inputs(label: str, model: str, expected: Sequence[int | None], found: Sequence[int]) -> str:
    """The sentence that says which shape an input of a model should have had."""
    shape = ", ".join(["n", *["any" if size is None else str(size) for size in expected[1:]]])
    return f"Expected {label} of shape ({shape}) for model {model!r}, got {tuple(found)}."


def with_rank(array: Any, shape: Sequence[int | None]) -> Any:
    """(n,) as (n, 1) for an input of shape (n, 1), and the reverse, as Keras does; everything else as it is."""
    if array.ndim == len(shape) - 1 and shape[-1] == 1:
        return array[..., None]
    if array.ndim == len(shape) + 1 and array.shape[-1] == 1:
        return array[..., 0]
    return array
