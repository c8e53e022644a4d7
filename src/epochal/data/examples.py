"""What users pass as data, checked and brought to one form: `Examples`."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epochal.data.arrays import (
    Lazy,
    Tree,
    as_arrays,
    described,
    finite_weights,
    named_arrays,
    read_rows,
    refuse_unknown,
)


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
        for name, array in named_arrays(part, tree)
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
    refuse_unknown(x, method)
    parts = {"x": as_arrays(x, "x"), "y": as_arrays(y, "y"), "sample_weight": as_arrays(sample_weight, "sample_weight")}
    sizes = {name: a.shape[0] for part, tree in parts.items() for name, a in named_arrays(part, tree)}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise ValueError(f"Expected the same number of examples in all arrays of {method}(), got {listed}.")
    n = next(iter(sizes.values()), 0)
    if n == 0:
        raise ValueError(f"Expected at least one example in {method}(), got none (shape {_shapes(parts['x'])}).")
    weight = jax.tree.map(finite_weights, parts["sample_weight"])
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
        got = f"a {type(data).__name__} of {len(data)}" if isinstance(data, tuple | list) else described(data)
        raise ValueError(
            f"Expected validation_data=(x, y) or (x, y, sample_weight), a dataset or a generator, got {got}."
        )
    return as_examples(*data)


def _shapes(tree: Any) -> Any:
    shapes = jax.tree.map(lambda a: a.shape, tree)
    return shapes
