"""What users pass as data, checked and brought to one form: `Examples`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

Tree = Any  # an array, or lists, tuples and dicts of arrays

ACCEPTED = "arrays (NumPy, JAX, or anything with __array__), lists of numbers, and lists or dicts of arrays"


@dataclass(frozen=True)
class Examples:
    """n examples in memory.

    Attributes:
        x: inputs; every array has n rows.
        y: targets, one array per output of the model; None when there are none.
        weight: sample weights, one (n,) or (n, t) float32 array per output; None when all weigh 1.
        n: the number of examples.
    """

    x: Tree
    y: Tree | None
    weight: Tree | None
    n: int

    def rows(self, start: int, stop: int) -> Examples:
        """Examples start … stop-1."""
        cut = jax.tree.map(lambda a: a[start:stop], (self.x, self.y, self.weight))
        return Examples(*cut, n=stop - start)


def as_examples(x: Any, y: Any = None, sample_weight: Any = None, *, method: str = "fit") -> Examples:
    """Checks and converts arrays: floats become float32, integers stay integers, lists of numbers become arrays.

    Raises:
        ValueError: a kind of data that is not known, no examples at all, or first dimensions that disagree.
    """
    _refuse_unknown(x, method)
    parts = {"x": _arrays(x, "x"), "y": _arrays(y, "y"), "sample_weight": _arrays(sample_weight, "sample_weight")}
    sizes = {name: a.shape[0] for part, tree in parts.items() for name, a in _named(part, tree)}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise ValueError(f"Expected the same number of examples in all arrays of {method}(), got {listed}.")
    n = next(iter(sizes.values()), 0)
    if n == 0:
        raise ValueError(f"Expected at least one example in {method}(), got none (shape {_shapes(parts['x'])}).")
    weight = jax.tree.map(lambda a: np.asarray(a, np.float32), parts["sample_weight"])
    return Examples(parts["x"], parts["y"], weight, n)


def split(examples: Examples, fraction: Any) -> tuple[Examples, Examples]:
    """Training and validation part: validation is the last n - floor(n(1 - fraction)) rows, as in Keras.

    Raises:
        ValueError: `fraction` is not between 0 and 1, or a part would be empty.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise ValueError(f"Expected validation_split between 0 and 1 (both excluded), got {fraction!r}.")
    cut = math.floor(examples.n * (1 - fraction))
    if cut in (0, examples.n):
        side = "training" if cut == 0 else "validation"
        raise ValueError(
            f"validation_split={fraction} of {examples.n} examples leaves none for {side}. "
            "Give more examples, another split, or validation_data."
        )
    return examples.rows(0, cut), examples.rows(cut, examples.n)


def as_validation(data: Any) -> Examples:
    """`validation_data` as examples: a tuple (x, y) or (x, y, sample_weight).

    Raises:
        ValueError: another form.
    """
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise ValueError(f"Expected validation_data=(x, y) or (x, y, sample_weight), got {_describe(data)}.")
    return as_examples(*data, method="validation")


def class_weights(y: Any, class_weight: Mapping[Any, Any], one_hot: bool) -> np.ndarray:
    """One weight per label of y, by its class: the integer itself, or the largest entry of a one-hot row.

    Args:
        y: (n,), (n, 1) integers or (n, k) one-hot rows; (n, t), (n, t, 1) and (n, t, k) for sequences.
        class_weight: class -> weight; classes that are missing weigh 1.
        one_hot: whether the last axis of y holds one-hot rows.

    Raises:
        ValueError: a key that is not an integer, or targets that are not classes.
    """
    for key in class_weight:
        if isinstance(key, bool) or not isinstance(key, int | np.integer):
            raise ValueError(f"Expected integers as keys of class_weight, got {key!r}.")
    labels = np.asarray(y)
    if one_hot:
        labels = labels.argmax(-1)
    elif labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if not np.array_equal(labels, np.round(labels)):
        raise ValueError("class_weight needs classes in y (integers or one-hot rows), got other numbers.")
    weights = np.ones(labels.shape, np.float32)
    for key, value in class_weight.items():
        weights[labels == key] = value
    return weights


def _arrays(tree: Any, name: str) -> Any:
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        return {k: _arrays(v, f"{name}[{k!r}]") for k, v in tree.items()}
    if isinstance(tree, list | tuple) and _holds_arrays(tree):
        return type(tree)(_arrays(v, f"{name}[{i}]") for i, v in enumerate(tree))
    return _array(tree, name)


def _holds_arrays(items: list | tuple) -> bool:
    """A list of arrays (some may be None) is several inputs; a list of numbers or of lists of numbers is one array."""
    arrays = [a for a in items if a is not None]
    return bool(arrays) and all(hasattr(a, "shape") and len(a.shape) > 0 for a in arrays)


def _array(value: Any, name: str) -> Any:
    if isinstance(value, jax.Array):
        array = value
    else:
        try:
            array = np.asarray(value)
        except ValueError as error:  # ragged lists
            raise ValueError(
                f"Expected {name} to be an array of equal rows, got {_describe(value)}: {error}"
            ) from error
        array = _without_object_dtype(array, name)
    if array.ndim == 0:
        raise ValueError(f"Expected {name} to be an array with one row per example, got the single value {value!r}.")
    if array.dtype.kind == "f" and array.dtype != np.float32:
        return array.astype(np.float32)
    return _narrow(array, name) if array.dtype.name in ("int64", "uint32", "uint64") else array


def _narrow(array: Any, name: str) -> Any:
    """JAX computes with 32-bit integers: larger ones are refused, since they would wrap around silently."""
    if array.size and (array.max() > np.iinfo(np.int32).max or array.min() < np.iinfo(np.int32).min):
        raise ValueError(
            f"Expected integers of at most 32 bits in {name}, got {array.max()}; use floats or smaller ids."
        )
    return array.astype(np.int32)


def _without_object_dtype(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind in "biuf" or array.dtype.name == "bfloat16":
        return array
    if array.dtype.kind == "O":  # a data frame with columns of several types
        try:
            return array.astype(np.float32)
        except (TypeError, ValueError):
            pass
    raise ValueError(
        f"Expected numbers in {name}, got {array.dtype} (first value: {array.reshape(-1)[:1].tolist()}). "
        "Encode text as integers first."
    )


def _refuse_unknown(x: Any, method: str) -> None:
    if x is None:
        raise ValueError(f"{method}() needs data: expected x, got None.")
    if isinstance(x, str | bytes) or (isinstance(x, Iterator) or not _array_like(x)):
        raise ValueError(f"Expected x of {method}() to be {ACCEPTED}; got {_describe(x)}.")


def _array_like(x: Any) -> bool:
    protocols = ("__array__", "__array_interface__", "__dlpack__")
    return isinstance(x, list | tuple | Mapping) or any(hasattr(x, p) for p in protocols)


def _named(name: str, tree: Any) -> list[tuple[str, Any]]:
    return [(name + jax.tree_util.keystr(path), a) for path, a in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _shapes(tree: Any) -> Any:
    shapes = jax.tree.map(lambda a: a.shape, tree)
    return shapes


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else f" {str(value)[:60]!r}")
