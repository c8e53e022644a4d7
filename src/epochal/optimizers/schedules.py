"""Learning rates that change with the step: Keras's schedules. Each is a pure function of the step, counted from 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from epochal.registry.configurable import Configurable

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
]

Number = int | float
Rate = Float[Array, ""]


class LearningRateSchedule(Configurable):
    """The base of all schedules: an object called with a step, which gives the learning rate of that step."""

    _saved_family = "optimizers"

    def __call__(self, step: Any) -> Any:
        """The learning rate of `step`, an integer scalar, possibly traced by JAX."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__(self, step)")


class ExponentialDecay(LearningRateSchedule):
    """initial_learning_rate * decay_rate ** (step / decay_steps).

    Args:
        initial_learning_rate: the rate of step 0.
        decay_steps: after this many steps the rate has been multiplied by `decay_rate` once.
        decay_rate: a factor.
        staircase: round step / decay_steps down.
        name: kept for Keras's sake.

    Raises:
        ValueError: `decay_steps` is not positive.
    """

    def __init__(
        self,
        initial_learning_rate: Number,
        decay_steps: Number,
        decay_rate: Number,
        staircase: bool = False,
        name: str | None = "ExponentialDecay",
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive("decay_steps", decay_steps)
        self.decay_rate = decay_rate
        self.staircase = staircase
        self.name = name

    def __call__(self, step: Any) -> Rate:
        periods = _float(step) / self.decay_steps
        periods = jnp.floor(periods) if self.staircase else periods
        return self.initial_learning_rate * jnp.power(_float(self.decay_rate), periods)


class InverseTimeDecay(LearningRateSchedule):
    """initial_learning_rate / (1 + decay_rate * step / decay_steps).

    Args:
        initial_learning_rate: the rate of step 0.
        decay_steps: the unit in which steps are counted.
        decay_rate: a number.
        staircase: round step / decay_steps down.
        name: kept for Keras's sake.

    Raises:
        ValueError: `decay_steps` is not positive.
    """

    def __init__(
        self,
        initial_learning_rate: Number,
        decay_steps: Number,
        decay_rate: Number,
        staircase: bool = False,
        name: str | None = "InverseTimeDecay",
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive("decay_steps", decay_steps)
        self.decay_rate = decay_rate
        self.staircase = staircase
        self.name = name

    def __call__(self, step: Any) -> Rate:
        periods = _float(step) / self.decay_steps
        periods = jnp.floor(periods) if self.staircase else periods
        return self.initial_learning_rate / (1 + self.decay_rate * periods)


class PiecewiseConstantDecay(LearningRateSchedule):
    """values[i] from step boundaries[i - 1] + 1 to step boundaries[i].

    Args:
        boundaries: the last steps of all pieces but the last, increasing.
        values: the learning rates, one more than boundaries.
        name: kept for Keras's sake.

    Raises:
        ValueError: the lengths do not fit, or the boundaries do not increase.
    """

    def __init__(self, boundaries: Sequence[Number], values: Sequence[Number], name: str | None = "PiecewiseConstant"):
        if len(boundaries) != len(values) - 1:
            raise ValueError(f"Expected one more value than boundaries, got {len(values)} and {len(boundaries)}.")
        if any(a >= b for a, b in pairwise(boundaries)):
            raise ValueError(f"Expected increasing boundaries, got {list(boundaries)}.")
        self.boundaries = boundaries
        self.values = values
        self.name = name

    def __call__(self, step: Any) -> Rate:
        passed = sum((jnp.asarray(step > b, jnp.int32) for b in self.boundaries), jnp.int32(0))
        return jnp.asarray(self.values, jnp.float32)[passed]


class PolynomialDecay(LearningRateSchedule):
    """From initial_learning_rate to end_learning_rate in decay_steps, as (1 - step / decay_steps) ** power.

    Args:
        initial_learning_rate: the rate of step 0.
        decay_steps: how long the decay takes.
        end_learning_rate: the rate at its end, and afterwards.
        power: 1 is a straight line.
        cycle: instead of staying at the end, stretch the decay to the next multiple of `decay_steps`.
        name: kept for Keras's sake.

    Raises:
        ValueError: `decay_steps` is not positive.
    """

    def __init__(
        self,
        initial_learning_rate: Number,
        decay_steps: Number,
        end_learning_rate: Number = 0.0001,
        power: Number = 1.0,
        cycle: bool = False,
        name: str | None = "PolynomialDecay",
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive("decay_steps", decay_steps)
        self.end_learning_rate = end_learning_rate
        self.power = power
        self.cycle = cycle
        self.name = name

    def __call__(self, step: Any) -> Rate:
        step, length = _float(step), _float(self.decay_steps)
        if self.cycle:
            length = length * jnp.maximum(1, jnp.ceil(step / length))
        left = 1 - jnp.minimum(step, length) / length
        return (self.initial_learning_rate - self.end_learning_rate) * left**self.power + self.end_learning_rate


class CosineDecay(LearningRateSchedule):
    """Half a cosine wave down, after a straight line up if wanted (Loshchilov and Hutter 2017; Goyal et al. 2017).

    Args:
        initial_learning_rate: the rate of step 0.
        decay_steps: how long the decay takes, not counting the warmup.
        alpha: the rate at the end, as a fraction of the rate where the decay began.
        name: kept for Keras's sake.
        warmup_target: the rate at the end of the warmup; None means no warmup.
        warmup_steps: how long the warmup takes.

    Raises:
        ValueError: `decay_steps` is not positive.
    """

    def __init__(
        self,
        initial_learning_rate: Number,
        decay_steps: Number,
        alpha: Number = 0.0,
        name: str | None = "CosineDecay",
        warmup_target: Number | None = None,
        warmup_steps: Number = 0,
    ):
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive("decay_steps", decay_steps)
        self.alpha = alpha
        self.name = name
        self.warmup_target = warmup_target
        self.warmup_steps = warmup_steps

    def __call__(self, step: Any) -> Rate:
        step = _float(step)
        if self.warmup_target is None:
            return self._decayed(self.initial_learning_rate, step)
        climbed = (self.warmup_target - self.initial_learning_rate) * (step / max(self.warmup_steps, 1))
        decayed = self._decayed(self.warmup_target, step - self.warmup_steps)
        return jnp.where(step < self.warmup_steps, climbed + self.initial_learning_rate, decayed)

    def _decayed(self, start: Number, step: Array) -> Array:
        return start * _cosine(jnp.minimum(step, self.decay_steps) / self.decay_steps, self.alpha)


class CosineDecayRestarts(LearningRateSchedule):
    """Half cosine waves down, one after the other (Loshchilov and Hutter 2017, equation 5).

    Args:
        initial_learning_rate: the rate of step 0.
        first_decay_steps: the length of the first wave.
        t_mul: each wave is longer than the one before by this factor.
        m_mul: each wave starts lower than the one before by this factor.
        alpha: the lowest rate, as a fraction of `initial_learning_rate`.
        name: kept for Keras's sake.

    Raises:
        ValueError: `first_decay_steps` is not positive.
    """

    def __init__(
        self,
        initial_learning_rate: Number,
        first_decay_steps: Number,
        t_mul: Number = 2.0,
        m_mul: Number = 1.0,
        alpha: Number = 0.0,
        name: str | None = "SGDRDecay",
    ):
        self.initial_learning_rate = initial_learning_rate
        self.first_decay_steps = _positive("first_decay_steps", first_decay_steps)
        self.t_mul = t_mul
        self.m_mul = m_mul
        self.alpha = alpha
        self.name = name

    def __call__(self, step: Any) -> Rate:
        waves = _float(step) / self.first_decay_steps  # in lengths of the first wave
        if self.t_mul == 1:
            number = jnp.floor(waves)
            within = waves - number
        else:  # waves 0 … k-1 take 1 + t + … + t**(k-1) = (1 - t**k) / (1 - t) together
            t = _float(self.t_mul)
            number = jnp.floor(jnp.log(1 - waves * (1 - t)) / jnp.log(t))
            within = (waves - (1 - t**number) / (1 - t)) / t**number
        return self.initial_learning_rate * _cosine(within, self.alpha, _float(self.m_mul) ** number)


def _cosine(fraction: Array, alpha: Number, height: Any = 1.0) -> Array:
    return (1 - alpha) * (0.5 * height * (1 + jnp.cos(math.pi * fraction))) + alpha


def _float(value: Any) -> Array:
    return jnp.asarray(value, jnp.float32)


def _positive(name: str, value: Number) -> Number:
    if not value > 0:
        raise ValueError(f"Expected {name} > 0, got {value!r}.")
    return value
