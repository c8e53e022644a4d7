"""The update rules, with Keras's defaults and Keras's arithmetic.

`OptaxRule`s are Optax's own transformations. The others are written out because Optax does something else: its Adam
family corrects both moments before epsilon is added, and its momentum leaves the learning rate out, so that a change of
the rate reaches the past gradients too.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax
from jax import Array

from epochal.optimizers.optimizer import Optimizer, Slots

Number = int | float


class OptaxRule(Optimizer):
    """A rule that is parameter - learning rate * (what an Optax transformation makes of the gradient)."""

    def transformation(self) -> optax.GradientTransformation:
        """The Optax transformation, without the learning rate."""
        raise NotImplementedError

    def new_slots(self, param: Array, name: str) -> Slots:
        return {"optax": self.transformation().init(param)}

    def step(self, grad: Array, slots: Slots, param: Array, rate: Array, t: Array) -> tuple[Array, Slots]:
        update: Any
        update, state = self.transformation().update(grad, slots["optax"], param)
        return param - rate * update, {"optax": state}


class SGD(Optimizer):
    """Gradient descent: v = momentum * v - rate * g; w += v, or w += momentum * v - rate * g with `nesterov`.

    Args:
        learning_rate: see `Optimizer`.
        momentum: between 0 and 1.
        nesterov: look ahead along the momentum (Sutskever et al. 2013, equations 3 and 4, written in the moved point).
        options: see `Optimizer`.

    Raises:
        ValueError: `momentum` outside of 0 … 1.
    """

    def __init__(self, learning_rate: Any = 0.01, momentum: Any = 0.0, nesterov: bool = False, **options: Any):
        super().__init__(learning_rate, **options)
        if isinstance(momentum, bool | str) or not 0 <= momentum <= 1:
            raise ValueError(f"Expected momentum between 0 and 1, got {momentum!r}.")
        self.momentum = momentum
        self.nesterov = nesterov

    def new_slots(self, param: Array, name: str) -> Slots:
        return {"momentum": jnp.zeros_like(param)} if self.momentum else {}

    def step(self, grad: Array, slots: Slots, param: Array, rate: Array, t: Array) -> tuple[Array, Slots]:
        if not self.momentum:
            return param - rate * grad, {}
        v = slots["momentum"] * self.momentum - rate * grad
        move = v * self.momentum - rate * grad if self.nesterov else v
        return param + move, {"momentum": v}


class Adam(Optimizer):
    """Adam in the efficient order of Kingma and Ba 2015, end of section 2: epsilon is added to the uncorrected root.

    m += (1 - beta_1) * (g - m); v += (1 - beta_2) * (g² - v);
    w -= rate * sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon).

    Args:
        learning_rate: see `Optimizer`.
        beta_1: how slowly the mean gradient changes.
        beta_2: how slowly the mean squared gradient changes.
        epsilon: keeps the division finite.
        amsgrad: use the largest v so far (Reddi et al. 2018).
        options: see `Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-7,
        amsgrad: bool = False,
        **options: Any,
    ):
        super().__init__(learning_rate, **options)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.amsgrad = amsgrad

    def new_slots(self, param: Array, name: str) -> Slots:
        kinds = ("momentum", "velocity", "velocity_hat") if self.amsgrad else ("momentum", "velocity")
        return {kind: jnp.zeros_like(param) for kind in kinds}

    def step(self, grad: Array, slots: Slots, param: Array, rate: Array, t: Array) -> tuple[Array, Slots]:
        alpha = rate * jnp.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        kept = moments(grad, slots, self.beta_1, self.beta_2)
        v = kept["velocity"]
        if self.amsgrad:
            v = kept["velocity_hat"] = jnp.maximum(slots["velocity_hat"], v)
        return param - kept["momentum"] * alpha / (jnp.sqrt(v) + self.epsilon), kept


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Args:
        learning_rate: see `Optimizer`.
        weight_decay: see `Optimizer`; must be a number.
        beta_1: how slowly the mean gradient changes.
        beta_2: how slowly the mean squared gradient changes.
        epsilon: keeps the division finite.
        amsgrad: use the largest v so far (Reddi et al. 2018).
        options: see `Optimizer`.

    Raises:
        ValueError: `weight_decay` is None.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: Any = 0.004,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-7,
        amsgrad: bool = False,
        **options: Any,
    ):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay=weight_decay, **options)
        if weight_decay is None:
            raise ValueError("Expected a number for weight_decay, got None; Adam is AdamW without it.")


class Adamax(Optimizer):
    """Adam with the largest gradient instead of the mean squared one (Kingma and Ba 2015, algorithm 2).

    Args:
        learning_rate: see `Optimizer`.
        beta_1: how slowly the mean gradient changes.
        beta_2: how slowly the largest gradient is forgotten.
        epsilon: keeps the division finite.
        options: see `Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-7,
        **options: Any,
    ):
        super().__init__(learning_rate, **options)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def new_slots(self, param: Array, name: str) -> Slots:
        return {"momentum": jnp.zeros_like(param), "norm": jnp.zeros_like(param)}

    def step(self, grad: Array, slots: Slots, param: Array, rate: Array, t: Array) -> tuple[Array, Slots]:
        m = slots["momentum"] + (grad - slots["momentum"]) * (1 - self.beta_1)
        u = jnp.maximum(self.beta_2 * slots["norm"], jnp.abs(grad))  # Optax adds epsilon in here
        return param - rate * m / ((1 - self.beta_1**t) * (u + self.epsilon)), {"momentum": m, "norm": u}


class Nadam(Optimizer):
    """Adam with Nesterov momentum that grows with the steps (Dozat 2016, algorithm 2 with its schedule of momentum).

    Args:
        learning_rate: see `Optimizer`.
        beta_1: how slowly the mean gradient changes.
        beta_2: how slowly the mean squared gradient changes.
        epsilon: keeps the division finite.
        options: see `Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-7,
        **options: Any,
    ):
        super().__init__(learning_rate, **options)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def new_slots(self, param: Array, name: str) -> Slots:
        product = jnp.ones((), jnp.promote_types(param.dtype, jnp.float32))
        return {"momentum": jnp.zeros_like(param), "velocity": jnp.zeros_like(param), "product": product}

    def step(self, grad: Array, slots: Slots, param: Array, rate: Array, t: Array) -> tuple[Array, Slots]:
        now = self.beta_1 * (1 - 0.5 * 0.96**t)
        following = self.beta_1 * (1 - 0.5 * 0.96 ** (t + 1))
        product = slots["product"] * now
        kept = moments(grad, slots, self.beta_1, self.beta_2)
        m_hat = following * kept["momentum"] / (1 - product * following) + (1 - now) * grad / (1 - product)
        v_hat = kept["velocity"] / (1 - self.beta_2**t)
        return param - rate * m_hat / (jnp.sqrt(v_hat) + self.epsilon), {**kept, "product": product}


class Lamb(OptaxRule):
    """Adam whose step has the parameter's own norm (You et al. 2020, algorithm 2).

    Args:
        learning_rate: see `Optimizer`.
        beta_1: how slowly the mean gradient changes.
        beta_2: how slowly the mean squared gradient changes.
        epsilon: keeps the division finite.
        options: see `Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: Number = 0.9,
        beta_2: Number = 0.999,
        epsilon: Number = 1e-7,
        **options: Any,
    ):
        super().__init__(learning_rate, **options)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def transformation(self) -> optax.GradientTransformation:
        return optax.chain(optax.scale_by_adam(self.beta_1, self.beta_2, self.epsilon), optax.scale_by_trust_ratio())


class RMSprop(OptaxRule):
    """The gradient divided by the root of its mean square (Hinton 2012, lecture 6), with momentum if wanted.

    Args:
        learning_rate: see `Optimizer`.
        rho: how slowly the mean square changes.
        momentum: of the steps, each taken with the learning rate of its time.
        epsilon: is added under the root.
        centered: take the mean gradient's square off the mean square (Graves 2013, equations 38 to 42).
        options: see `Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: Number = 0.9,
        momentum: Number = 0.0,
        epsilon: Number = 1e-7,
        centered: bool = False,
        **options: Any,
    ):
        super().__init__(learning_rate, **options)
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered

    def transformation(self) -> optax.GradientTransformation:
        return (optax.scale_by_stddev if self.centered else optax.scale_by_rms)(self.rho, self.epsilon)

    def new_slots(self, param: Array, name: str) -> Slots:
        momentum = {"momentum": jnp.zeros_like(param)} if self.momentum else {}
        return super().new_slots(param, name) | momentum

    def step(self, grad: Array, slots: Slots, param: Array, rate: Array, t: Array) -> tuple[Array, Slots]:
        update: Any
        update, state = self.transformation().update(grad, slots["optax"], param)
        if not self.momentum:
            return param - rate * update, {"optax": state}
        m = self.momentum * slots["momentum"] + rate * update
        return param - m, {"optax": state, "momentum": m}


class Adagrad(OptaxRule):
    """The gradient divided by the root of the sum of all squares so far (Duchi et al. 2011).

    Args:
        learning_rate: see `Optimizer`.
        initial_accumulator_value: where the sum starts.
        epsilon: is added under the root.
        options: see `Optimizer`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: Number = 0.1,
        epsilon: Number = 1e-7,
        **options: Any,
    ):
        super().__init__(learning_rate, **options)
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon

    def transformation(self) -> optax.GradientTransformation:
        return optax.scale_by_rss(self.initial_accumulator_value, self.epsilon)


class Adadelta(OptaxRule):
    """The gradient times the ratio of the root mean squares of steps and gradients (Zeiler 2012, algorithm 1).

    Args:
        learning_rate: see `Optimizer`; the paper's is 1.
        rho: how slowly the mean squares change.
        epsilon: is added under both roots.
        options: see `Optimizer`.
    """

    def __init__(self, learning_rate: Any = 0.001, rho: Number = 0.95, epsilon: Number = 1e-7, **options: Any):
        super().__init__(learning_rate, **options)
        self.rho = rho
        self.epsilon = epsilon

    def transformation(self) -> optax.GradientTransformation:
        return optax.scale_by_adadelta(self.rho, self.epsilon)


class Lion(OptaxRule):
    """Steps of one size in the direction of the sign of the momentum (Chen et al. 2023, algorithm 2).

    Args:
        learning_rate: see `Optimizer`; a third to a tenth of what suits Adam.
        beta_1: the weight of the momentum in the step.
        beta_2: how slowly the momentum changes.
        options: see `Optimizer`.

    Raises:
        ValueError: `beta_1` is not above 0 and at most 1.
    """

    def __init__(self, learning_rate: Any = 0.001, beta_1: Number = 0.9, beta_2: Number = 0.99, **options: Any):
        super().__init__(learning_rate, **options)
        if not 0 < beta_1 <= 1:
            raise ValueError(f"Expected beta_1 above 0 and at most 1, got {beta_1!r}.")
        self.beta_1 = beta_1
        self.beta_2 = beta_2

    def transformation(self) -> optax.GradientTransformation:
        return optax.scale_by_lion(self.beta_1, self.beta_2)


def moments(grad: Array, slots: Slots, beta_1: Number, beta_2: Number) -> Slots:
    """The running means of the gradient and of its square, one update on."""
    m, v = slots["momentum"], slots["velocity"]
    return {"momentum": m + (grad - m) * (1 - beta_1), "velocity": v + (jnp.square(grad) - v) * (1 - beta_2)}
