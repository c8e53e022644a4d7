"""Sizes that share programs, and the chunks that `predict` runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from epochal.data import arrays
from epochal.data.arrays import Tree
from epochal.data.examples import Examples


def array_chunks(examples: Examples, size: int, padded: bool) -> Iterator[tuple[Any, int]]:
    """Pieces of x with the number of true rows in each; short ones are padded to the size of a full one."""
    width = shared_rows(size) if size == examples.n else size
    for start in range(0, examples.n, size):
        piece = examples.rows(start, min(start + size, examples.n))
        x = arrays.read_rows(piece.x, np.arange(piece.n)) if piece.lazy else piece.x
        yield (widened(x, piece.n, width) if padded else x), piece.n


def stream_chunks(batches: Iterator[Examples], padded: bool) -> Iterator[tuple[Any, int]]:
    """The same for batches as they come: shorter ones are padded to the size of the largest so far."""
    width = 0
    for batch in batches:
        width = max(width, batch.n)
        yield (widened(batch.x, batch.n, width) if padded else batch.x), batch.n


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
