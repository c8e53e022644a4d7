"""In which order an epoch visits the examples: a function of the seed and the epoch's number, and of nothing else."""

from __future__ import annotations

import numpy as np

# Written into checkpoints: a changed algorithm gets a new name, so that an old run is never resumed in another order.
ALGORITHM = "pcg64-permutation-1"


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0 … n-1, shape (n,) int32 (int64 from 2**31 examples on), for epoch `epoch` of a run.

    Seed and epoch are hashed together, so that (seed 0, epoch 1) and (seed 1, epoch 0) are unrelated.
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch))))
    order = generator.permutation(n)
    return order.astype(np.int32) if n < 2**31 else order


def block_order(n: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Keras's `shuffle="batch"`: contiguous batches change places, and rows inside each change places too."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, batch_size))))
    full = n // batch_size
    rows = np.arange(full * batch_size).reshape(full, batch_size)[generator.permutation(full)]
    rows = generator.permuted(rows, axis=1).reshape(-1)
    tail = generator.permutation(np.arange(full * batch_size, n))  # the short batch stays last
    return np.concatenate([rows, tail]).astype(np.int32 if n < 2**31 else np.int64)


def batch_rows(n: int, batch_size: int, shuffle: bool | str, seed: int, number: int) -> np.ndarray:
    """All rows in the order in which pass `number` takes them, in batches of `batch_size`."""
    if shuffle == "batch":
        return block_order(n, batch_size, seed, number)
    if shuffle:
        return epoch_order(n, seed, number)
    return np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)
