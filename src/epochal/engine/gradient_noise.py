"""The gradient's noise, told by the micro-batches of batches that train: an entry of the tally."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal.critical_batch import of_pieces
from epochal.engine.objective.tally import Entry, Update, accumulate


class GradientNoise(Entry):
    """Sums of what the micro-batches of some batches tell of the gradient's noise.

    The value is (2, 7), what `critical_batch.moments_of_batches` takes, as a high and a low part.

    Args:
        periods: each maps rows per micro-batch to in one of how many batches it is to be measured; 0: in none.
    """

    name = "noise"
    sampled = True

    def __init__(self, *periods: Callable[[int], int]):
        self._periods = periods

    def start(self, done: int = 0) -> np.ndarray:
        return np.zeros((2, 7), np.float32)

    def period(self, width: int | None) -> int:
        """The least that is asked for; whole batches tell nothing."""
        return 0 if width is None else min(filter(None, (ask(width) for ask in self._periods)), default=0)

    def trace_key(self, width: int | None) -> Any:
        return self.name, self.period(width)

    def start_piece(self) -> Array:
        return jnp.zeros(())

    def add_piece(self, carry: Array, gradients: Sequence[Array], rows: Array, size: Array) -> Array:
        """|g|² of the micro-batches' own mean losses, averaged with their numbers of examples as weights."""
        return carry + square(gradients) * size / rows

    def add(self, value: Any, update: Update) -> Array:
        """Penalties are the same in every micro-batch: they are no noise, but belong to the mean gradient."""
        if update.count is None:
            return value
        large, size = square(update.unpenalized), update.size
        grad_sq, trace = of_pieces(update.pieces[self.name], large, jnp.maximum(update.count, 2), size)
        grad_sq = grad_sq + square(update.gradients) - large
        values = [jnp.ones(()), size, grad_sq, trace, grad_sq**2, grad_sq * trace, trace**2]
        return accumulate(value, jnp.where(update.count > 1, jnp.stack(values), 0))

    def joined(self, other: Entry) -> GradientNoise:
        return GradientNoise(*self._periods, *other._periods) if isinstance(other, GradientNoise) else self


def square(gradients: Sequence[Array]) -> Array:
    """|g|² of a gradient, one array per parameter."""
    # By columns first: XLA does not vectorize the sum of all on a CPU.
    columns = (jnp.square(g).sum(axis=0, dtype=jnp.float32) for g in gradients)
    return sum((column.sum() for column in columns), jnp.zeros(()))
