"""What a pass adds up, batch by batch, on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal.data.feeds.block import Batch
from epochal.support.types import Logs


def chosen(bad: Array, before: Any, after: Any) -> Any:
    """All arrays of `before` where an update is left out, else those of `after`."""
    return jax.tree.map(lambda old, new: jnp.where(bad, old, new), before, after)


class Tally(NamedTuple):
    """What a pass has come to so far.

    Attributes:
        sums: (2, k), the additive statistics as a high and a low part, see `accumulate`.
        states: label -> state of each metric that is not a sum, such as a user's own with `update_state`.
        skips: what is known of updates left out, a `nonfinite.Record`; None where none are.
        noise: (2, 7), what `critical_batch.moments_of_batches` takes, of batches that are run in pieces, as a high and
            a low part; None where nobody asks.
    """

    sums: Array | np.ndarray
    states: dict[str, Any]
    skips: Any = None
    noise: Any = None


class Means:
    """Reports what a model's own `train_step` logs: means over the pass, weighted by the batches' sizes.

    Args:
        logs: name -> shape and type of what a step logs; empty before that is known.

    Raises:
        ValueError: something logged is not one number.
    """

    def __init__(self, logs: Mapping[str, Any] | None = None):
        for name, spec in (logs or {}).items():
            if math.prod(spec.shape) != 1:
                raise ValueError(f"Expected train_step() to log numbers; {name!r} has the shape {spec.shape}.")
        self.labels = list(logs or {})
        self.start = Tally(np.zeros((2, len(self.labels) + 1), np.float32), {})

    def measure(self, logs: Mapping[str, Any], batch: Batch, tally: Tally, left_out: Array | None = None) -> Tally:
        """The tally after a batch; see `Objective.measure`."""
        values = [jnp.asarray(logs[label], jnp.float32).reshape(()) * batch.size for label in self.labels]
        return tally._replace(sums=accumulate(tally.sums, jnp.stack([*values, batch.size]), left_out))

    def read(self, tally: Tally) -> Logs:
        """The means so far; NaN where every batch was left out. Waits for the device."""
        *totals, count = np.asarray(tally.sums, np.float64).sum(axis=0)
        return {
            label: float(total / count) if count else math.nan for label, total in zip(self.labels, totals, strict=True)
        }


def _mean(sums: Mapping[str, np.ndarray]) -> float:
    return float(sums["total"] / sums["count"]) if sums["count"] else math.nan  # every batch was left out


def _number(value: Any) -> Any:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array


def accumulate(sums: Array | np.ndarray, batch: Array, left_out: Array | None = None) -> Array:
    """Adds a batch's statistics (k,) to running sums (2, k): a high and a low part, so that nothing is rounded away.

    Where `left_out` is true the sums stay as they are.

    Two-sum (Knuth, TAOCP 4.2.2): the low part holds the exact error of each addition, whichever way the steps are cut
    into executions. A plain float32 sum would stop counting at 2**24 examples.
    """
    high, low = sums[0], sums[1]
    new = high + batch
    back = new - high
    error = (high - (new - back)) + (batch - back)
    after = jnp.stack([new, low + error])
    return after if left_out is None else jnp.where(left_out, sums, after)
