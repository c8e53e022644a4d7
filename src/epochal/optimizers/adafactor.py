"""Adafactor: second moments of matrices as a row and a column."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from epochal.optimizers.muon import Number
from epochal.optimizers.optimizer import Optimizer, Slots


class Adafactor(Optimizer):
    """Adam in little memory: only row and column means of squared gradients are kept (Shazeer and Stern 2018).

    Args:
        learning_rate: see `Optimizer`.
        beta_2_decay: the means' decay at update t is 1 - t**beta_2_decay.
        epsilon_1: is added to the squared gradients.
        epsilon_2: the least root mean square that a parameter counts with in the step's size.
        clip_threshold: the largest root mean square of a step, before the learning rate.
        relative_step: keep a constant learning rate below 1 / sqrt(t). Keras 3.15 does so even when this is False.
        options: see `Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_2_decay: Number = -0.8,
        epsilon_1: Number = 1e-30,
        epsilon_2: Number = 1e-3,
        clip_threshold: Number = 1.0,
        relative_step: bool = True,
        **options: Any,
    ):
        super().__init__(learning_rate, **options)
        self.beta_2_decay = beta_2_decay
        self.epsilon_1 = epsilon_1
        self.epsilon_2 = epsilon_2
        self.clip_threshold = clip_threshold
        self.relative_step = relative_step

    def new_slots(self, param: Array, name: str) -> Slots:
        if param.ndim < 2:
            return {"velocity": jnp.zeros_like(param)}
        return {"rows": jnp.zeros_like(param[..., 0]), "columns": jnp.zeros_like(param[..., 0, :])}

    def step(self, grad: Array, slots: Slots, param: Array, rate: Array, t: Array) -> tuple[Array, Slots]:
        if self.relative_step and not self.scheduled:
            rate = jnp.minimum(rate, 1 / jnp.sqrt(t))
        beta = 1 - t**self.beta_2_decay
        squares = jnp.square(grad) + self.epsilon_1
        if param.ndim < 2:
            v = beta * slots["velocity"] + (1 - beta) * squares
            kept = {"velocity": v}
        else:
            rows = beta * slots["rows"] + (1 - beta) * squares.mean(-1)
            columns = beta * slots["columns"] + (1 - beta) * squares.mean(-2)
            v = (rows / rows.mean(-1, keepdims=True))[..., None] * columns[..., None, :]
            kept = {"rows": rows, "columns": columns}
        u = grad / jnp.sqrt(v)
        u = u / jnp.maximum(1, _rms(u) / self.clip_threshold)
        return param - jnp.maximum(self.epsilon_2, _rms(param)) * rate * u, kept


def _rms(x: Array) -> Array:
    return jnp.sqrt(jnp.square(x).mean())
