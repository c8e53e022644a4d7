"""Optax transformations as optimizers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from epochal.optimizers.optimizer import Arrays, Optimizer, OptState, checked_rate, placed_like


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
