"""What users pass as data, checked and brought to one form: `Examples`."""

from __future__ import annotations

import ctypes
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
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


@dataclass(frozen=True)
class Examples:
    """n examples, in memory or `Lazy`.

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

    @property
    def lazy(self) -> bool:
        """Whether a part of them is on disk."""
        return any(isinstance(a, Lazy) for a in jax.tree.leaves((self.x, self.y, self.weight)))

    def read(self) -> Examples:
        """All of them in memory."""
        return Examples(*read_rows((self.x, self.y, self.weight), np.arange(self.n)), n=self.n) if self.lazy else self

    def rows(self, start: int, stop: int) -> Examples:
        """Examples start … stop-1."""
        cut = jax.tree.map(lambda a: a[start:stop], (self.x, self.y, self.weight))
        return Examples(*cut, n=stop - start)


FINGERPRINT_BYTES = 2**20
# Numbers of rows that programs are made for; beyond, a power of two.
LADDER = (1, 8, 32, 128, 512)


def shared_rows(n: int) -> int:
    """How many rows the program has that takes n rows: many numbers of rows share few programs."""
    return next((rows for rows in LADDER if rows >= n), 1 << (n - 1).bit_length())


def widened(tree: Tree, n: int, rows: int) -> Tree:
    """Arrays of n rows with the last one repeated up to `rows` rows, on the host."""
    if n == rows:
        return tree
    repeated = np.minimum(np.arange(rows), n - 1)
    return jax.tree.map(lambda a: np.asarray(a)[repeated], tree)


def found(examples: Examples, rows: np.ndarray | None) -> tuple[np.ndarray, list[int]] | None:
    """These rows, and those of them that hold a number that is not finite; None for rows that are not known."""
    if rows is None:
        return None
    broken = np.zeros(len(rows), bool)
    for array in jax.tree.leaves(read_rows((examples.x, examples.y, examples.weight), rows)):
        if jnp.issubdtype(array.dtype, jnp.inexact):
            broken |= ~np.isfinite(array.reshape(len(rows), -1)).all(axis=1)
    return rows, sorted(rows[broken].tolist())


def fingerprint(examples: Examples) -> dict[str, Any]:
    """What tells these examples from others: their number, their arrays' shapes and types, and a digest of rows.

    The digest is of about 1 MiB of rows spread evenly over the data: of all of them where the data is no larger.
    """
    arrays = {
        name: array
        for part, tree in (("x", examples.x), ("y", examples.y), ("sample_weight", examples.weight))
        for name, array in _named(part, tree)
    }
    row_bytes = sum(math.prod(a.shape[1:]) * np.dtype(a.dtype).itemsize for a in arrays.values())
    count = min(examples.n, max(1, FINGERPRINT_BYTES // max(row_bytes, 1)))
    rows = np.linspace(0, examples.n - 1, count).astype(np.int64)
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(read_rows(array, rows)).tobytes())
    shapes = {name: [*map(int, a.shape), np.dtype(a.dtype).name] for name, a in arrays.items()}
    return {"examples": examples.n, "arrays": shapes, "digest": digest.hexdigest()}


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
    weight = jax.tree.map(_finite, parts["sample_weight"])
    return Examples(parts["x"], parts["y"], weight, n)


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
    leaves, structure = jax.tree.flatten(_arrays(tree, name))
    return list(map(_finite, leaves)) if name == "sample_weight" else leaves, structure


def _finite(weights: Any) -> Any:
    """Sample weights as float32. A single one that is no number would make the model's weights so."""
    if isinstance(weights, Lazy):
        return weights
    array = np.asarray(weights, np.float32)
    if not np.isfinite(array).all():
        wrong = array[~np.isfinite(array)][0]
        raise ValueError(f"Expected finite numbers in sample_weight, got {wrong}. Give 0 to leave an example out.")
    return array


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
        got = f"a {type(data).__name__} of {len(data)}" if isinstance(data, tuple | list) else _describe(data)
        raise ValueError(
            f"Expected validation_data=(x, y) or (x, y, sample_weight), a dataset or a generator, got {got}."
        )
    return as_examples(*data)


def class_weights(y: Any, class_weight: Mapping[Any, Any], one_hot: bool) -> np.ndarray:
    """One weight per label of y, by its class: the integer itself, or the largest entry of a one-hot row.

    Args:
        y: (n,), (n, 1) integers or (n, k) one-hot rows; (n, t), (n, t, 1) and (n, t, k) for sequences.
        class_weight: class -> weight; classes that are missing weigh 1.
        one_hot: whether the last axis of y holds one-hot rows.

    Raises:
        ValueError: a key that is not an integer, or targets that are not classes.
    """
    for key, value in class_weight.items():
        if isinstance(key, bool) or not isinstance(key, int | np.integer):
            raise ValueError(f"Expected integers as keys of class_weight, got {key!r}.")
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"Expected finite numbers as values of class_weight, got {value!r} for class {key}.")
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


def product(a: Any, b: Any) -> np.ndarray:
    """Two arrays of weights multiplied, aligned from the left: (n, t) times (n,) is (n, t)."""
    a, b = np.asarray(a), np.asarray(b)
    rank = max(a.ndim, b.ndim)
    a, b = (w.reshape(*w.shape, *[1] * (rank - w.ndim)) for w in (a, b))
    return a * b


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
                f"Expected {name} to be an array of equal rows, got {_describe(value)}. Pad rows of different lengths "
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


def _refuse_unknown(x: Any, method: str) -> None:
    if x is None:
        raise ValueError(f"{method}() needs data: expected x, got None.")
    if not is_arrays(x):
        raise ValueError(f"Expected x of {method}() to be {ACCEPTED}; got {_describe(x)}.")


def is_arrays(x: Any) -> bool:
    """Whether `x` is an array, something like one, or a list or dict that may hold some."""
    if isinstance(x, str | bytes) or hasattr(x, "__next__"):
        return False
    protocols = ("__array__", "__array_interface__", "__dlpack__", "__arrow_c_stream__", "__dataframe__")
    return isinstance(x, list | tuple | Mapping | Lazy) or is_lazy(x) or any(hasattr(x, p) for p in protocols)


def _named(name: str, tree: Any) -> list[tuple[str, Any]]:
    return [(name + jax.tree_util.keystr(path), a) for path, a in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _shapes(tree: Any) -> Any:
    shapes = jax.tree.map(lambda a: a.shape, tree)
    return shapes


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else f" {str(value)[:60]!r}")
