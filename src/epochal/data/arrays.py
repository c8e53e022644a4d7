"""Array-likes, tables and arrays on disk as arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

Tree = Any  # an array, or lists, tuples and dicts of arrays

ACCEPTED = (
    "arrays (NumPy, JAX, or anything with __array__), lists of numbers, lists or dicts of arrays, tables, a dataset or "
    "generator of batches, or an epochal.utils.PyDataset"
)


class Lazy:
    """Rows of an array on disk (`np.memmap`, h5py, zarr), read only where they are asked for.

    Args:
        array: has `shape`, `dtype`, and `[start:stop]` and `[rows]` along its first axis.
        start, stop: the rows of `array` that these are.
        view: indices applied to what was read, such as (..., None).

    Attributes:
        shape, dtype: of the rows as they are handed on: floats as float32, integers of at most 32 bits.
    """

    def __init__(self, array: Any, start: int = 0, stop: int | None = None, view: tuple = ()):
        self._array, self._start, self._view = array, start, view
        self._stop = array.shape[0] if stop is None else stop
        one = np.broadcast_to(np.zeros((), array.dtype), (0, *array.shape[1:]))
        sample = self._finish(one)
        self.shape, self.dtype = (self._stop - self._start, *sample.shape[1:]), sample.dtype
        self.ndim = len(self.shape)

    def __getitem__(self, index: Any) -> Any:
        """A part of the rows by a slice of step 1, or the same rows seen in another way; still not read."""
        if isinstance(index, slice):
            start, stop, _ = index.indices(self.shape[0])
            return Lazy(self._array, self._start + start, self._start + max(stop, start), self._view)
        return Lazy(self._array, self._start, self._stop, (*self._view, index))

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows, in this order. What lies in one piece is read in one piece."""
        wanted = rows + self._start
        low, high = int(wanted.min()), int(wanted.max()) + 1
        if high - low == len(rows):
            return self._finish(np.asarray(self._array[low:high])[wanted - low])
        order = np.argsort(wanted)  # h5py takes numbers of rows in growing order only
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return self._finish(np.asarray(self._array[wanted[order]])[back])

    def _finish(self, read: np.ndarray) -> Any:
        array = _array(np.asarray(read), "x")
        for index in self._view:
            array = array[index]
        return array


def is_lazy(value: Any) -> bool:
    """Whether `value` is an array on disk, which must never be read whole."""
    if isinstance(value, np.memmap | Lazy):
        return True
    on_disk = ("shape", "dtype", "chunks", "__getitem__", "__len__")  # h5py's and zarr's, and those of their like
    return all(hasattr(value, name) for name in on_disk)


def read_rows(tree: Any, rows: np.ndarray) -> Any:
    """These rows of every array in a structure, in memory."""
    return jax.tree.map(lambda a: a.read(rows) if isinstance(a, Lazy) else np.asarray(a)[rows], tree)


def plain_arrays(tree: Tree, name: str) -> tuple[list[Any], Any] | None:
    """The arrays of a list, tuple or dict as `as_examples` makes them, and its structure; None for anything else.

    One array, or None, counts as a structure too.
    """
    parts = list(tree.values() if type(tree) is dict else tree) if type(tree) in (list, tuple, dict) else [tree]
    if not parts:
        return None
    for part in parts:
        if part is None:
            continue
        if not (type(part) is np.ndarray or isinstance(part, jax.Array)) or part.ndim == 0:
            return None
    leaves, structure = jax.tree.flatten(as_arrays(tree, name))
    return list(map(finite_weights, leaves)) if name == "sample_weight" else leaves, structure


def finite_weights(weights: Any) -> Any:
    """Sample weights as float32. A single one that is no number would make the model's weights so."""
    if isinstance(weights, Lazy):
        return weights
    array = np.asarray(weights, np.float32)
    if not np.isfinite(array).all():
        wrong = array[~np.isfinite(array)][0]
        raise ValueError(f"Expected finite numbers in sample_weight, got {wrong}. Give 0 to leave an example out.")
    return array


def as_arrays(tree: Any, name: str) -> Any:
    """An array, or a list, tuple or dict of some, with equal rows and of types that JAX computes with.

    Raises:
        ValueError: something that is no array of numbers; the message calls it `name`.
    """
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        return {k: as_arrays(v, f"{name}[{k!r}]") for k, v in tree.items()}
    if isinstance(tree, list | tuple) and _holds_arrays(tree):
        return type(tree)(as_arrays(v, f"{name}[{i}]") for i, v in enumerate(tree))
    return _array(tree, name)


def _holds_arrays(items: list | tuple) -> bool:
    """A list of arrays (some may be None) is several inputs; a list of numbers or of lists of numbers is one array."""
    arrays = [a for a in items if a is not None]
    return bool(arrays) and all(hasattr(a, "shape") and len(a.shape) > 0 for a in arrays)


_KEPT = frozenset(map(np.dtype, ("float32", "int32", "int16", "int8", "uint16", "uint8", "bool")))  # types, as they are


def _array(value: Any, name: str) -> Any:
    if type(value) is np.ndarray and value.dtype in _KEPT and value.ndim:
        return value
    if is_lazy(value):
        return Lazy(value)
    if isinstance(value, jax.Array):
        array = value
    else:
        value = _from_table(value)
        try:
            array = np.asarray(value)
        except ValueError as error:  # ragged lists
            raise ValueError(
                f"Expected {name} to be an array of equal rows, got {described(value)}. Pad rows of different lengths "
                "first: see utils.pad_sequences."
            ) from error
        array = _without_object_dtype(array, name)
    if array.ndim == 0:
        raise ValueError(
            f"Expected {name} to be an array with one row per example, got the single value {value!r}. A dataset must "
            "give batches: see its batch()."
        )
    if array.dtype.kind == "f" and array.dtype != np.float32:
        return array.astype(np.float32)
    return _narrow(array, name) if array.dtype.name in ("int64", "uint32", "uint64") else array


def _from_table(value: Any) -> Any:
    """A table that is no array by itself, as a matrix with a column per column of the table."""
    if hasattr(value, "__array__"):
        return value
    if hasattr(value, "__arrow_c_stream__"):
        try:
            import polars
        except ImportError as error:
            raise ImportError(
                f"Reading a {type(value).__name__} needs polars: pip install 'epochal[data]', or pass a NumPy array."
            ) from error
        return polars.DataFrame(value).to_numpy()
    if hasattr(value, "__dataframe__"):
        table = value.__dataframe__()
        return np.stack([_column(table.get_column(i)) for i in range(table.num_columns())], axis=1)
    return value


def _column(column: Any) -> np.ndarray:
    """A column of numbers by the data frame interchange protocol, which polars 2 and pandas 4 read no more."""
    parts = []
    for chunk in column.get_chunks():
        buffer, (kind, bits, *_) = chunk.get_buffers()["data"]
        if kind not in (0, 1, 2) or chunk.null_count:
            raise ValueError(f"Expected a table of numbers without gaps, got a column of {column.dtype}.")
        memory = (ctypes.c_byte * buffer.bufsize).from_address(buffer.ptr)
        start, kind_and_bytes = chunk.offset * bits // 8, f"{'iuf'[kind]}{bits // 8}"
        parts.append(np.frombuffer(memory, kind_and_bytes, chunk.size(), start).copy())
    return np.concatenate(parts)


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
    advice = "Encode text as integers first." if array.dtype.kind in "OSUT" else "Convert it to floats first."
    raise ValueError(
        f"Expected numbers in {name}, got {array.dtype} (first value: {array.reshape(-1)[:1].tolist()}). {advice}"
    )


def refuse_unknown(x: Any, method: str) -> None:
    """Raises ValueError where `x`, given to the model's `method`, is None or neither arrays nor batches."""
    if x is None:
        raise ValueError(f"{method}() needs data: expected x, got None.")
    if not is_arrays(x):
        raise ValueError(f"Expected x of {method}() to be {ACCEPTED}; got {described(x)}.")


def is_arrays(x: Any) -> bool:
    """Whether `x` is an array, something like one, or a list or dict that may hold some."""
    if isinstance(x, str | bytes) or hasattr(x, "__next__"):
        return False
    protocols = ("__array__", "__array_interface__", "__dlpack__", "__arrow_c_stream__", "__dataframe__")
    return isinstance(x, list | tuple | Mapping | Lazy) or is_lazy(x) or any(hasattr(x, p) for p in protocols)


def named_arrays(name: str, tree: Any) -> list[tuple[str, Any]]:
    """The arrays of a structure with what to call them, such as "x['left']"."""
    return [(name + jax.tree_util.keystr(path), a) for path, a in jax.tree_util.tree_flatten_with_path(tree)[0]]


def described(value: Any) -> str:
    """What messages say of a value: its type, and its shape or how its text begins."""
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else f" {str(value)[:60]!r}")
