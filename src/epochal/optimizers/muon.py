"""Update rules that look at a parameter's shape or name, FTRL, and any Optax transformation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from epochal.optimizers.optimizer import Optimizer, Slots
from epochal.optimizers.rules import moments

Number = int | float


class Muon(Optimizer):
    """For matrices, momentum made orthogonal (Jordan et al. 2024); Adam for all other parameters and embeddings.

    The optimizer must know the parameters' names (`bind`): embeddings are told by "embedding" in their path.

    Args:
        learning_rate: see `Optimizer`.
        adam_beta_1: Adam's beta_1.
        adam_beta_2: Adam's beta_2.
        adam_weight_decay: the weight decay of the parameters that Adam changes; None is none.
        epsilon: Adam's.
        weight_decay: the weight decay of the other parameters; None is none.
        exclude_layers: regular expressions; parameters with one in their path are left to Adam.
        exclude_embeddings: leave embeddings to Adam.
        muon_a: the factor of x in the iteration that makes a matrix orthogonal.
        muon_b: the factor of (x xᵀ) x.
        muon_c: the factor of (x xᵀ)² x.
        adam_lr_ratio: Adam's learning rate, as a multiple of `learning_rate`.
        momentum: of the gradients.
        ns_steps: how often the iteration is repeated.
        nesterov: look ahead along the momentum.
        rms_rate: the root mean square of a step's entries before the learning rate, as with Adam (Liu et al. 2025,
            equation 4); None leaves the orthogonal matrix as it is.
        options: see `Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        adam_beta_1: Number = 0.9,
        adam_beta_2: Number = 0.999,
        adam_weight_decay: Number | None = 0.004,
        epsilon: Number = 1e-7,
        weight_decay: Any = 0.004,
        *,
        exclude_layers: Sequence[str] | None = None,
        exclude_embeddings: bool = True,
        muon_a: Number = 3.4445,
        muon_b: Number = -4.7750,
        muon_c: Number = 2.0315,
        adam_lr_ratio: Number = 1,
        momentum: Number = 0.95,
        ns_steps: int = 5,
        nesterov: bool = True,
        rms_rate: Number | None = 0.2,
        **options: Any,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **options)
        self.adam_beta_1 = adam_beta_1
        self.adam_beta_2 = adam_beta_2
        self.adam_weight_decay = adam_weight_decay
        self.epsilon = epsilon
        self.exclude_layers = list(exclude_layers or [])
        self.exclude_embeddings = exclude_embeddings
        self.muon_a = muon_a
        self.muon_b = muon_b
        self.muon_c = muon_c
        self.adam_lr_ratio = adam_lr_ratio
        self.momentum = momentum
        self.ns_steps = ns_steps
        self.nesterov = nesterov
        self.rms_rate = rms_rate

    def new_slots(self, param: Array, name: str) -> Slots:
        # Which rule changes a parameter is decided here, once: Adam's parameters are those with a "velocity".
        kinds = ("momentum", "velocity") if self._left_to_adam(param, name) else ("momentum",)
        return {kind: jnp.zeros_like(param) for kind in kinds}

    def _left_to_adam(self, param: Array, name: str) -> bool:
        if param.ndim != 2:
            return True
        if not name and (self.exclude_embeddings or self.exclude_layers):
            raise ValueError(
                "Muon chooses parameters by name: call bind(names) before init, or exclude_embeddings=False."
            )
        if self.exclude_embeddings and "embedding" in name.lower():
            return True
        return any(re.search(pattern, name) for pattern in self.exclude_layers)

    def decay_of(self, slots: Slots) -> Any:
        """The weight decay of a parameter with these slots; None is none."""
        return self.adam_weight_decay if "velocity" in slots else self.weight_decay

    def step(self, grad: Array, slots: Slots, param: Array, rate: Array, t: Array) -> tuple[Array, Slots]:
        if "velocity" in slots:
            alpha = rate * self.adam_lr_ratio * jnp.sqrt(1 - self.adam_beta_2**t) / (1 - self.adam_beta_1**t)
            kept = moments(grad, slots, self.adam_beta_1, self.adam_beta_2)
            return param - kept["momentum"] * alpha / (jnp.sqrt(kept["velocity"]) + self.epsilon), kept
        m = grad + self.momentum * slots["momentum"]
        move = self._orthogonal(grad + self.momentum * m if self.nesterov else m)
        scale = 1.0 if self.rms_rate is None else max(param.shape) ** 0.5 * self.rms_rate
        return param - rate * scale * move, {"momentum": m}

    def _orthogonal(self, x: Array) -> Array:
        """Roughly U Vᵀ of x = U S Vᵀ, by a Newton-Schulz iteration of odd polynomials."""
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        x = x / (jnp.linalg.norm(x) + 1e-7)
        for _ in range(self.ns_steps):
            a = x @ x.T
            x = self.muon_a * x + (self.muon_b * a + self.muon_c * a @ a) @ x
        return x.T if tall else x
