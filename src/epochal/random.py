"""Where random numbers come from: one global seed, from which every unseeded draw takes the next key."""

from __future__ import annotations

import random as python_random
import secrets
import threading

import jax
import numpy as np


class SeedStream:
    """Seeds in a fixed order from a first one: the same first seed gives the same sequence."""

    def __init__(self, seed: int):
        self.seed = seed
        self._drawn = 0
        self._lock = threading.Lock()

    def next_seed(self) -> int:
        """A 32-bit seed that differs from the ones before it."""
        with self._lock:
            self._drawn += 1
            drawn = self._drawn
        return int(np.random.SeedSequence((self.seed, drawn)).generate_state(1)[0])


_global = SeedStream(secrets.randbits(32))


def set_random_seed(seed: int) -> None:
    """Seeds Python's, NumPy's and epochal's random numbers, so that a script gives the same result each time.

    Args:
        seed: an integer in 0 … 2**32 - 1.

    Raises:
        ValueError: `seed` is not such an integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= int(seed) < 2**32:
        raise ValueError(f"Expected a seed between 0 and 2**32 - 1, got {seed!r}.")
    global _global
    python_random.seed(int(seed))
    np.random.seed(int(seed))  # noqa: NPY002  (Keras promises the legacy global generator too)
    _global = SeedStream(int(seed))


def next_seed() -> int:
    """The next seed of the global stream."""
    return _global.next_seed()


def next_key() -> jax.Array:
    """The next random key of the global stream."""
    return jax.random.key(next_seed())
