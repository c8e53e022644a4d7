"""Loops over steps of which a few, spread evenly, are sampled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def sampled_loop(
    first: Any, last: Any, step: Callable, carry: Any, number: Callable[[Any], Array], period: int, eager: bool
) -> Any:
    """`step(i, carry, sampled)` for i = first … last-1; one in `period` is sampled.

    `number(carry)` counts updates. Of each `period` of them in a row one is sampled, drawn by the golden ratio (Weyl
    1916), so in step with no number of batches per epoch. The others run in plain loops between: if each step had to
    look whether it is sampled, it would take up to a tenth more time.
    """

    def next_sampled(carry: Any) -> Array:
        """How many updates later one is sampled."""
        now = number(carry).astype(jnp.uint32)
        row, width = now // period, np.uint32(period)

        def drawn(row: Array) -> Array:
            return row * width + ((((row * np.uint32(2654435769)) >> np.uint32(16)) * width) >> np.uint32(16))

        return (jnp.where(drawn(row) >= now, drawn(row), drawn(row + np.uint32(1))) - now).astype(jnp.int32)

    def loop(first: Any, last: Any, carry: Any, sampled: bool) -> Any:
        if not eager:
            return lax.fori_loop(first, last, lambda i, carry: step(i, carry, sampled), carry)
        for i in range(int(first), int(last)):
            carry = step(i, carry, sampled)
        return carry

    def both(place: Any) -> Any:
        i, carry = place
        at = jnp.minimum(i + next_sampled(carry), last)
        carry = loop(i, at, carry, False)
        end = jnp.minimum(at + 1, last)
        return end, loop(at, end, carry, True)

    place = jnp.asarray(first), carry
    if not eager:
        return lax.while_loop(lambda place: place[0] < last, both, place)[1]
    while place[0] < last:
        place = both(place)
    return place[1]
