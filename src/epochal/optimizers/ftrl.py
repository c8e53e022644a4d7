"""FTRL-proximal."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from epochal.optimizers.muon import Number
from epochal.optimizers.optimizer import Optimizer, Slots


class Ftrl(Optimizer):
    """Follow the regularized leader (McMahan et al. 2013, algorithm 1), for sparse linear models.

    Args:
        learning_rate: see `Optimizer`.
        learning_rate_power: how the rate falls with the sum of squared gradients; at most 0.
        initial_accumulator_value: where that sum starts.
        l1_regularization_strength: makes weights exactly 0.
        l2_regularization_strength: makes weights smaller.
        l2_shrinkage_regularization_strength: an L2 penalty added to the gradient.
        beta: the paper's beta.
        options: see `Optimizer`.

    Raises:
        ValueError: a strength below 0, or a power above 0.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        learning_rate_power: Number = -0.5,
        initial_accumulator_value: Number = 0.1,
        l1_regularization_strength: Number = 0.0,
        l2_regularization_strength: Number = 0.0,
        l2_shrinkage_regularization_strength: Number = 0.0,
        beta: Number = 0.0,
        **options: Any,
    ):
        super().__init__(learning_rate, **options)
        self.learning_rate_power = learning_rate_power
        self.initial_accumulator_value = initial_accumulator_value
        self.l1_regularization_strength = l1_regularization_strength
        self.l2_regularization_strength = l2_regularization_strength
        self.l2_shrinkage_regularization_strength = l2_shrinkage_regularization_strength
        self.beta = beta
        if learning_rate_power > 0:
            raise ValueError(f"Expected learning_rate_power <= 0, got {learning_rate_power!r}.")
        for name in (
            "l1_regularization_strength",
            "l2_regularization_strength",
            "l2_shrinkage_regularization_strength",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Expected {name} >= 0, got {getattr(self, name)!r}.")
        if not initial_accumulator_value >= 0:
            raise ValueError(f"Expected initial_accumulator_value >= 0, got {initial_accumulator_value!r}.")

    def new_slots(self, param: Array, name: str) -> Slots:
        return {"accumulator": jnp.full_like(param, self.initial_accumulator_value), "linear": jnp.zeros_like(param)}

    def step(self, grad: Array, slots: Slots, param: Array, rate: Array, t: Array) -> tuple[Array, Slots]:
        before = slots["accumulator"]
        after = before + jnp.square(grad)
        power = -self.learning_rate_power
        shrunk = grad + 2 * self.l2_shrinkage_regularization_strength * param
        linear = slots["linear"] + shrunk - (after**power - before**power) / rate * param
        quadratic = after**power / rate + 2 * (self.l2_regularization_strength + self.beta / (2 * rate))
        l1 = self.l1_regularization_strength
        return (jnp.clip(linear, -l1, l1) - linear) / quadratic, {"accumulator": after, "linear": linear}
