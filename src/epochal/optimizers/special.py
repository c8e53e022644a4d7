"""Update rules that look at a parameter's shape or name, FTRL, and any Optax transformation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from epochal.optimizers.base import Arrays, Optimizer, OptState, Slots, checked_rate, placed_like
from epochal.optimizers.rules import moments

Number = int | float


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


class OptaxOptimizer(Optimizer):
    """Any Optax gradient transformation as an optimizer.

    `learning_rate` can be read and set if the transformation was made with `optax.inject_hyperparams`.

    Args:
        transformation: the whole update, learning rate and sign included, such as `optax.adam(1e-3)`.
        name: a name.
    """

    def __init__(self, transformation: optax.GradientTransformation, name: str | None = None):
        super().__init__(0.0, name=name or "optax")
        self.transformation = transformation
        self._waiting: float | None = None  # a learning rate set before there was a state

    def init(self, params: Arrays) -> OptState:
        """The state before the first update of `params`."""
        self._names_of(params)
        slots = self.transformation.init([jnp.asarray(p) for p in params])
        if self._waiting is not None:
            slots = _with_rate(slots, self._waiting)
        rate = _rate_in(slots)
        rate = jnp.array(jnp.nan if rate is None else rate, jnp.float32)  # a copy: the state is donated
        return OptState(jnp.zeros((), jnp.int32), rate, slots)

    def update(
        self, grads: Arrays, state: OptState, params: Arrays, value: Array | None = None
    ) -> tuple[list[Array], OptState]:
        """The parameters and the state after one update; arguments as for `Optimizer.update`."""
        transformation = optax.with_extra_args_support(self.transformation)
        extra = {} if value is None else {"value": value}
        grads = [jnp.asarray(g, p.dtype) for g, p in zip(grads, params, strict=True)]
        updates, slots = transformation.update(grads, state.slots, list(params), **extra)
        rate = _rate_in(slots)
        rate = state.learning_rate if rate is None else jnp.asarray(rate, jnp.float32)
        new_params: Any = optax.apply_updates([jnp.asarray(p) for p in params], updates)
        return new_params, OptState(state.iterations + 1, rate, slots)

    @property
    def learning_rate(self) -> float:
        """The learning rate that `optax.inject_hyperparams` keeps in the state.

        Raises:
            AttributeError: there is none.
            TypeError: set while an Optax schedule rules.
        """
        if self.state is None and self._waiting is not None:
            return self._waiting
        rate = _rate_in(self._slots())
        if rate is None:
            raise AttributeError(
                "The learning rate is inside the Optax transformation. To read or change it, make the transformation "
                "with optax.inject_hyperparams, e.g. optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)."
            )
        return float(rate)

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        _ = self.learning_rate  # raises if there is none
        if _scheduled(self._slots()):
            raise TypeError(
                "This transformation's learning rate follows an Optax schedule and cannot be set to a number."
            )
        rate = checked_rate(value)
        if self.state is None:
            self._waiting = rate
        else:
            slots = _with_rate(self.state.slots, rate)
            placed = placed_like(self.state.learning_rate, rate)
            self.state = self.state._replace(learning_rate=placed, slots=slots)

    def _slots(self) -> Any:
        return self.transformation.init([]) if self.state is None else self.state.slots

    def get_config(self) -> dict[str, Any]:
        """The transformation and the name; the transformation cannot be written down."""
        return {"transformation": self.transformation, "name": self.name}


def _rate_in(slots: Any) -> Any:
    """The learning rate among the injected hyper-parameters in an Optax state; None if there is none."""
    found = [
        value for holder in _holders(slots) for name, value in holder.hyperparams.items() if name == "learning_rate"
    ]
    return found[0] if found else None


def _with_rate(slots: Any, rate: float) -> Any:
    def replaced(node: Any) -> Any:
        if not _injects(node) or "learning_rate" not in node.hyperparams:
            return node
        new = placed_like(jnp.asarray(node.hyperparams["learning_rate"]), rate)
        return node._replace(hyperparams={**node.hyperparams, "learning_rate": new})

    return jax.tree.map(replaced, slots, is_leaf=_injects)


def _scheduled(slots: Any) -> bool:
    return any("learning_rate" in getattr(holder, "hyperparams_states", {}) for holder in _holders(slots))


def _holders(slots: Any) -> list[Any]:
    return [node for node in jax.tree.leaves(slots, is_leaf=_injects) if _injects(node)]


def _injects(node: Any) -> bool:
    return hasattr(node, "hyperparams") and hasattr(node, "_replace")


def _rms(x: Array) -> Array:
    return jnp.sqrt(jnp.square(x).mean())
