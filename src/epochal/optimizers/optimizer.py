"""The optimizer: two pure functions, `init` and `update`, on an object that holds settings and the current state."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import io_callback
from jaxtyping import Float, Int

from epochal.optimizers.schedules import LearningRateSchedule
from epochal.registry.configurable import Configurable
from epochal.registry.lookup import unknown

Slots = dict[str, Any]  # what a rule keeps for one parameter, e.g. {"momentum": array}
Arrays = Sequence[Array | np.ndarray]

_OPTIONS = (
    *("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "ema_momentum"),
    *("ema_overwrite_frequency", "loss_scale_factor", "gradient_accumulation_steps", "name"),
)


class OptState(NamedTuple):
    """All of an optimizer that changes from step to step.

    Attributes:
        iterations: how many updates have been made.
        learning_rate: the rate of the next update; an argument of compiled programs: changing it compiles nothing.
        slots: one dict per parameter, in their order; an Optax state for `OptaxOptimizer`.
    """

    iterations: Int[Array, ""]
    learning_rate: Float[Array, ""]
    slots: Any


class Rate(float):
    """A learning rate: a number with the ways of Keras's variables."""

    _optimizer: Any

    def __new__(cls, value: Any, optimizer: Any) -> Rate:
        rate = super().__new__(cls, value)
        rate._optimizer = optimizer
        return rate

    def assign(self, value: Any) -> None:
        """Sets the optimizer's learning rate."""
        self._optimizer.learning_rate = value

    def numpy(self) -> np.ndarray:
        """The number as a NumPy array."""
        return np.asarray(self, np.float32)

    @property
    def value(self) -> float:
        """The number."""
        return float(self)


class Optimizer(Configurable):
    """The base of all optimizers. A rule of one's own overrides `new_slots` and `step`, both pure.

    Args:
        learning_rate: a number >= 0, a `schedules.LearningRateSchedule`, any function of the step (such as Optax's
            schedules), or a function without arguments, which Python calls at every step.
        weight_decay: each update first takes weight_decay * learning_rate * parameter off the parameter.
        clipnorm: the norm of each parameter's gradient is cut to this.
        clipvalue: every number in the gradients is cut to ± this.
        global_clipnorm: the norm of all gradients together is cut to this.
        use_ema: keep a moving average of the parameters, see `averages`.
        ema_momentum: average = ema_momentum * average + (1 - ema_momentum) * parameter.
        ema_overwrite_frequency: every so many updates the parameters are replaced by their averages; None is never.
        loss_scale_factor: not supported; must be None.
        gradient_accumulation_steps: not supported; must be None. `compile(micro_batch_size=…)` saves the same memory.
        name: a name; the class's in lower case when not given.

    Attributes:
        state: the current `OptState`; None before the first fit.
        revision: changes when a program compiled with this optimizer no longer fits its settings.

    Raises:
        ValueError: a value out of its range, or two ways of clipping at once.
        TypeError: an argument that does not exist.
    """

    _saved_family = "optimizers"

    def __init__(
        self,
        learning_rate: Any = 0.001,
        *,
        weight_decay: Any = None,
        clipnorm: Any = None,
        clipvalue: Any = None,
        global_clipnorm: Any = None,
        use_ema: bool = False,
        ema_momentum: Any = 0.99,
        ema_overwrite_frequency: Any = None,
        loss_scale_factor: Any = None,
        gradient_accumulation_steps: Any = None,
        name: str | None = None,
        **others: Any,
    ):
        self._reject(others)
        self.name = name if name is not None else type(self).__name__.lower()
        self.state: OptState | None = None
        self._names: list[str] | None = None
        self._variables: list[Any] | None = None
        self._undecayed: tuple[str, ...] = ()
        self._undecayed_variables: tuple[Any, ...] = ()
        self._rate = 0.0
        self._schedule: Callable | None = None  # of the step
        self._source: Callable | None = None  # without arguments
        self._set_rate(learning_rate)
        self.weight_decay = weight_decay
        self.clipnorm = clipnorm
        self.clipvalue = clipvalue
        self.global_clipnorm = global_clipnorm
        self.use_ema = use_ema
        self.ema_momentum = ema_momentum
        self.ema_overwrite_frequency = ema_overwrite_frequency
        self.loss_scale_factor = loss_scale_factor
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self._check_options()

    # -- what a rule overrides

    def new_slots(self, param: Array, name: str) -> Slots:
        """What the rule keeps for one parameter, before the first update.

        Args:
            param: the parameter, any shape.
            name: its path, such as "dense/kernel"; empty when `bind` was not called.
        """
        return {}

    def step(self, grad: Array, slots: Slots, param: Array, rate: Array, t: Array) -> tuple[Array, Slots]:
        """The parameter and its slots after one update.

        Args:
            grad: the gradient, clipped; same shape and type as `param`.
            slots: as `new_slots` made them.
            param: the parameter, weight decay applied.
            rate: the learning rate, a scalar of the parameter's type.
            t: the number of this update, from 1, a float scalar.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step(self, grad, slots, param, rate, t)")

    def decay_of(self, slots: Slots) -> Any:
        """The weight decay of a parameter with these slots; None is none."""
        return self.weight_decay

    # -- the two pure functions

    def init(self, params: Arrays) -> OptState:
        """The state before the first update of `params`."""
        names = self._names_of(params)
        slots = [self.new_slots(jnp.asarray(p), name) for p, name in zip(params, names, strict=True)]
        if self.use_ema:
            slots = [{**s, "average": jnp.zeros_like(p)} for s, p in zip(slots, params, strict=True)]
        iterations = jnp.zeros((), jnp.int32)
        return OptState(iterations, jnp.asarray(self._rate_at(iterations), jnp.float32), slots)

    def update(
        self, grads: Arrays, state: OptState, params: Arrays, value: Array | None = None
    ) -> tuple[list[Array], OptState]:
        """The parameters and the state after one update.

        Args:
            grads: the gradients, one per parameter, of the same shapes.
            state: from `init` or an earlier update.
            params: the parameters.
            value: the loss; only some Optax transformations want it.
        """
        rate, following = self._rates(state)
        grads = self._clip([jnp.asarray(g, p.dtype) for g, p in zip(grads, params, strict=True)])
        undecayed = self._leaves_alone(params)
        new_params, new_slots = [], []
        for grad, slots, param, alone in zip(grads, state.slots, params, undecayed, strict=True):
            param, slots = self._update_one(grad, slots, jnp.asarray(param), rate, state.iterations, alone)
            new_params.append(param)
            new_slots.append(slots)
        return new_params, OptState(state.iterations + 1, following, new_slots)

    def _update_one(
        self, grad: Array, slots: Slots, param: Array, rate: Array, iterations: Array, undecayed: bool
    ) -> tuple[Array, Slots]:
        t = (iterations + 1).astype(jnp.promote_types(param.dtype, jnp.float32))
        rate = rate.astype(param.dtype)
        decay = self.decay_of(slots)
        old = {k: v for k, v in slots.items() if k != "average"}
        start = param if undecayed or decay is None else param - param * decay * rate
        new, kept = self.step(grad, old, start, rate, t)
        new = new.astype(param.dtype)
        kept = jax.tree.map(lambda after, before: after.astype(before.dtype), kept, old)
        if self.use_ema:
            momentum = jnp.where(iterations == 0, 0, self.ema_momentum).astype(param.dtype)
            average = momentum * slots["average"] + (1 - momentum) * new
            kept["average"] = average
            if self.ema_overwrite_frequency is not None:
                new = jnp.where((iterations + 1) % self.ema_overwrite_frequency == 0, average, new)
        return new, kept

    def averages(self, state: OptState) -> list[Array] | None:
        """The moving averages of the parameters, which a fit ends with in their place; None unless `use_ema`."""
        return [slots["average"] for slots in state.slots] if self.use_ema else None

    def carry(self, state: OptState, old_names: Sequence[str], params: Arrays) -> OptState:
        """`state` for another list of parameters, those bound now: what was kept for a parameter stays with it.

        Args:
            state: made for the parameters named `old_names`.
            old_names: their names, in order.
            params: the parameters now trained, in the order of the bound names. New ones start with fresh slots.
        """
        place = {name: i for i, name in enumerate(old_names)}
        names = self._names_of(params)
        if not all(names):
            raise ValueError("Call bind(names) with the names of the parameters first.")

        def per_parameter(node: Any) -> bool:
            return isinstance(node, list) and len(node) == len(old_names)

        def pick(old: Any, fresh: Any) -> Any:
            return (
                [old[place[n]] if n in place else f for n, f in zip(names, fresh, strict=True)]
                if per_parameter(old)
                else old
            )

        fresh = self.init(params)
        return state._replace(slots=jax.tree.map(pick, state.slots, fresh.slots, is_leaf=per_parameter))

    # -- names of parameters

    def bind(self, names: Sequence[str], variables: Sequence[Any] | None = None) -> None:
        """Tells the optimizer what its parameters are called, in their order; called before `init`.

        Args:
            names: paths such as "dense/kernel".
            variables: the model's variables, for `exclude_from_weight_decay(var_list=…)`.
        """
        self._names = list(names)
        self._variables = None if variables is None else list(variables)

    @property
    def bound(self) -> list[Any]:
        """The model's variables, in the order of the parameters; empty before the first fit."""
        return list(self._variables or ())

    def exclude_from_weight_decay(
        self, var_list: Sequence[Any] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Keeps weight decay away from some parameters; called before training starts.

        Args:
            var_list: variables of the model.
            var_names: regular expressions; a parameter is left out if one is found in its path, such as "dense/bias".

        Raises:
            ValueError: training has started.
        """
        if self.state is not None:
            raise ValueError("Call exclude_from_weight_decay() before the first fit.")
        self._undecayed = tuple(var_names or ())
        self._undecayed_variables = tuple(var_list or ())
        self._changed()

    def _names_of(self, params: Arrays) -> list[str]:
        names = [""] * len(params) if self._names is None else self._names
        if len(names) != len(params):
            raise ValueError(f"Expected {len(names)} parameters, as many as names in bind(), got {len(params)}.")
        return names

    def _leaves_alone(self, params: Arrays) -> list[bool]:
        """For each parameter, whether weight decay leaves it out."""
        names = self._names_of(params)
        if self._undecayed and self._names is None:
            raise ValueError("exclude_from_weight_decay(var_names=…) needs the parameters' names: call bind(names).")
        if self._undecayed_variables and self._variables is None:
            raise ValueError("exclude_from_weight_decay(var_list=…) needs the variables: call bind(names, variables).")
        out = {id(v) for v in self._undecayed_variables}
        variables = self._variables if self._variables is not None else names
        return [
            id(v) in out or any(re.search(p, n) for p in self._undecayed) for n, v in zip(names, variables, strict=True)
        ]

    # -- the learning rate

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update, also where a schedule rules.

        Setting it takes effect at the next step, without compiling. A schedule may replace a number, not the reverse.

        Raises:
            ValueError: set to a negative number or something that is no number.
            TypeError: set to a number while a schedule or function rules.
        """
        if self.scheduled:
            return Rate(self._rate_at(np.int32(self.iterations)), self)
        if self.state is None or np.float32(self._rate) == np.asarray(self.state.learning_rate):
            return Rate(self._rate, self)  # not rounded to float32
        return Rate(self.state.learning_rate, self)

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if self.scheduled and not callable(value):
            raise TypeError(
                "This optimizer's learning rate follows a schedule and cannot be set to a number. "
                "Make the optimizer with a number as learning_rate to change it during training."
            )
        self._set_rate(value)
        if self.state is not None:
            rate = self._rate_at(np.int32(self.iterations))
            self.state = self.state._replace(learning_rate=placed_like(self.state.learning_rate, rate))

    @property
    def scheduled(self) -> bool:
        """Whether a schedule or a function rules the learning rate."""
        return self._schedule is not None or self._source is not None

    @property
    def lr(self) -> float:
        """The same as `learning_rate`."""
        return self.learning_rate

    @lr.setter
    def lr(self, value: Any) -> None:
        self.learning_rate = value

    @property
    def iterations(self) -> int:
        """How many updates have been made."""
        return 0 if self.state is None else int(self.state.iterations)

    def _set_rate(self, value: Any) -> None:
        if callable(value):
            takes_step = isinstance(value, LearningRateSchedule) or _accepts(value, 0)
            if not takes_step and not _accepts(value):
                raise ValueError(f"Expected learning_rate to be a function of the step or of nothing, got {value!r}.")
            self._schedule, self._source = (value, None) if takes_step else (None, value)
            self._changed()
        else:
            self._rate = checked_rate(value)

    def _rate_at(self, iterations: Any) -> Any:
        if self._schedule is not None:
            return self._schedule(iterations)
        return self._rate if self._source is None else self._source()

    def _rates(self, state: OptState) -> tuple[Array, Array]:
        """The learning rate of this update and, as far as it is known, that of the next one."""
        if self._schedule is not None:
            rates = self._schedule(state.iterations), self._schedule(state.iterations + 1)
            return jnp.asarray(rates[0], jnp.float32), jnp.asarray(rates[1], jnp.float32)
        if self._source is not None:
            source = self._source
            shape = jax.ShapeDtypeStruct((), jnp.float32)
            rate = io_callback(lambda: np.asarray(source(), np.float32), shape)
            return rate, rate
        return state.learning_rate, state.learning_rate

    # -- clipping

    def _clip(self, grads: list[Array]) -> list[Array]:
        if self.clipvalue is not None:
            return [jnp.clip(g, -self.clipvalue, self.clipvalue) for g in grads]
        if self.clipnorm is not None:
            return [g * (self.clipnorm / jnp.maximum(_norm([g]), self.clipnorm)).astype(g.dtype) for g in grads]
        if self.global_clipnorm is not None and grads:
            factor = self.global_clipnorm / jnp.maximum(_norm(grads), self.global_clipnorm)
            return [g * factor.astype(g.dtype) for g in grads]
        return grads

    # -- settings

    @property
    def revision(self) -> int:
        """A count of changes to settings that are fixed in a compiled program."""
        return self.__dict__.get("_revision", 0)

    def _changed(self) -> None:
        object.__setattr__(self, "_revision", self.revision + 1)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if not name.startswith("_") and name not in ("state", "learning_rate", "lr", "name"):
            self._changed()

    def get_config(self) -> dict[str, Any]:
        """All settings by name, as they are now."""
        own = inspect.signature(type(self).__init__).parameters
        config = super().get_config()
        config |= {k: getattr(self, k) for k in (*own, *_OPTIONS) if k in self.__dict__}
        ruler = self._schedule if self._schedule is not None else self._source
        return {**config, "learning_rate": float(self.learning_rate) if ruler is None else ruler}

    def _reject(self, others: dict[str, Any]) -> None:
        for name, value in others.items():
            if name == "decay":
                advice = f"Use learning_rate=schedules.InverseTimeDecay(learning_rate, 1, {value!r})."
            elif name == "lr":
                advice = "Use learning_rate."
            else:
                own = [p for p in inspect.signature(type(self).__init__).parameters if p not in ("self", "options")]
                advice = unknown("argument", name, [*own, *_OPTIONS])
            raise TypeError(f"{type(self).__name__} takes no argument {name!r}. {advice}")

    def _check_options(self) -> None:
        clips = {k: getattr(self, k) for k in ("clipnorm", "clipvalue", "global_clipnorm")}
        clips = {k: v for k, v in clips.items() if v is not None}
        if len(clips) > 1:
            raise ValueError(f"Expected one of clipnorm, clipvalue and global_clipnorm, got {clips}.")
        for name, value in clips.items():
            if not _is_number(value) or not value > 0:
                raise ValueError(f"Expected a number > 0 for {name}, got {value!r}.")
        decay = self.weight_decay
        if decay is not None and (not _is_number(decay) or not decay >= 0):
            raise ValueError(f"Expected a number >= 0 for weight_decay, got {decay!r}.")
        if self.use_ema:
            self._check_ema()
        if self.loss_scale_factor is not None:
            raise ValueError("loss_scale_factor is not supported yet; use float32 or bfloat16, which need no scaling.")
        if self.gradient_accumulation_steps is not None:
            raise ValueError(
                "gradient_accumulation_steps is not supported; use a larger batch_size with "
                "compile(micro_batch_size=…), which needs as little memory and weighs all examples alike."
            )

    def _check_ema(self) -> None:
        if not _is_number(self.ema_momentum) or not 0 <= self.ema_momentum <= 1:
            raise ValueError(f"Expected ema_momentum between 0 and 1, got {self.ema_momentum!r}.")
        every = self.ema_overwrite_frequency
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ValueError(f"Expected an integer >= 1 or None for ema_overwrite_frequency, got {every!r}.")


def placed_like(old: Array, value: Any) -> Array:
    """`value` as an array with the type and on the devices of `old`, so that it fits a program compiled for that."""
    new = jnp.asarray(np.asarray(value), old.dtype)
    return jax.device_put(new, old.sharding) if old.committed else new


def _norm(arrays: Sequence[Array]) -> Array:
    return jnp.sqrt(sum(jnp.square(a).sum() for a in arrays))


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float | np.number) or (isinstance(value, np.ndarray | Array) and value.ndim == 0)


def checked_rate(value: Any) -> float:
    """`value` as a learning rate; ValueError if it is none."""
    if not _is_number(value) or not math.isfinite(value) or value < 0:
        raise ValueError(f"Expected a finite number >= 0, a schedule or a function as learning_rate, got {value!r}.")
    return float(value)


def _accepts(function: Callable, *arguments: Any) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # a function that does not tell its arguments, written in C
        return bool(arguments)
    return True
