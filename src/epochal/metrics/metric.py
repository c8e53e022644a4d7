"""What a metric is: additive sums over examples, or variables of its own, and the number they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Shaped

from epochal import initializers
from epochal.losses.loss import Loss
from epochal.losses.shapes import ArrayLike, broadcast_weights, rank_matched
from epochal.metrics.variables import MetricVariable
from epochal.random import next_key
from epochal.registry.configurable import Configurable
from epochal.registry.naming import function_name, snake_case
from epochal.tracing import forward_pass

Stats: TypeAlias = dict[str, Array]
# The same, summed up on the host: float64 arrays, or NumPy's numbers.
Sums: TypeAlias = Mapping[str, Any]
# What a metric comes to: a number, or one per threshold or class.
Value: TypeAlias = float | np.ndarray


class Metric(Configurable):
    """The base of all metrics. There are two ways to write one of your own.

    Additive: override `stats` and `value`. `stats` runs inside compiled code, once per batch; the sums are added up
    over batches, devices and hosts, and `value` makes the number of them at the end. So a metric is exact however the
    data is cut into batches.

    Keras's: make variables with `add_variable` in `__init__`, and override `update_state`, `result` and, should the
    variables not start each epoch at their first values, `reset_state`. `update_state` is traced and compiled like a
    layer's `call`. `result` gives a number, an array, or a dict of them by name. Metrics held as attributes, or in
    lists and dicts there, are part of the state.

    Args:
        dtype: the type of variables, float32 when not given; sums are float32 on the device and float64 on the host.
        name: the name in logs; the class's name in snake case by default.

    Example:
        >>> import epochal as keras
        >>> class Positives(keras.Metric):
        ...     def __init__(self, name="positives"):
        ...         super().__init__(name=name)
        ...         self.count = self.add_variable(shape=(), initializer="zeros", name="count")
        ...
        ...     def update_state(self, y_true, y_pred, sample_weight=None):
        ...         self.count.assign_add((y_pred > 0.5).sum())
        ...
        ...     def result(self):
        ...         return self.count
    """

    _saved_family = "metrics"

    # Whether the metric is made of sums: a class that overrides `update_state` or `result` is not.
    additive = True

    # Whether the value stays the same when one number is taken off all targets and predictions (of an output). If so,
    # training takes the first target off, and float32 sums stay exact where the targets' mean is far from 0.
    shift_invariant = False

    # What update_state has summed up, on the host; None before the first update.
    _sums: Any = None

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if "stats" in vars(cls):
            cls.additive, cls._value_of_sums = True, Metric._value_of_sums
        elif cls.additive and ("update_state" in vars(cls) or "result" in vars(cls)):
            # Of a metric that extends an additive one, such as Keras's `Mean`: `value` takes the whole state from here
            # on, and what the sums in it come to is asked for by `result`.
            cls.additive, cls._value_of_sums, cls.value = False, cls.value, Metric.value

    def __init__(self, dtype: Any = None, name: str | None = None):
        self.name = name or snake_case(type(self).__name__)
        self.dtype = dtype
        self._variables: list[MetricVariable] = []

    # -- what a metric with a state of its own uses

    def add_variable(
        self,
        shape: Sequence[int] = (),
        initializer: Any = "zeros",
        dtype: Any = None,
        aggregation: str = "sum",
        name: str | None = None,
    ) -> MetricVariable:
        """A new array of the metric's state, to be kept as an attribute.

        Args:
            shape: its shape.
            initializer: its first value: a name, an `epochal.initializers` object or a function of (shape, dtype).
            dtype: its type; the metric's when not given.
            aggregation: kept for Keras's sake.
            name: for error messages.
        """
        sizes, found = tuple(shape), initializers.get(initializer) or initializers.Zeros()
        value = initializers.draw(found, sizes, dtype or self.dtype or "float32", next_key())
        variable = MetricVariable(value, name or "variable")
        self._variables.append(variable)
        return variable

    def add_weight(
        self, shape: Sequence[int] = (), initializer: Any = None, dtype: Any = None, name: str | None = None
    ) -> MetricVariable:
        """`add_variable` by its older name."""
        return self.add_variable(shape, initializer, dtype, name=name)

    @property
    def variables(self) -> list[MetricVariable]:
        """The variables of the metric, and of the metrics that it holds."""
        return [variable for metric in self._family() for variable in metric._variables]

    def _family(self) -> list[Metric]:
        """The metric and those that it holds, at whatever depth, each once."""
        found: list[Metric] = [self]
        for metric in found:
            found += [m for m in _metrics_in(list(vars(metric).values())) if not any(m is other for other in found)]
        return found

    # -- two pure functions

    def stats(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Stats:
        """The sums of a batch: name -> array. Those of two batches, added, are those of both.

        Args:
            y_true: targets, shape (n, ...).
            y_pred: predictions, shape (n, ...).
            sample_weight: weights aligned from the left: (n,) or (n, t, ...). A weight of 0 must leave no trace.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method stats(self, y_true, y_pred, sample_weight).")

    def value(self, sums: Sums) -> Any:
        """The metric of all examples, from their sums; NumPy on the host, without warnings where nothing was summed.

        Of a metric that is not additive: from the state that `update` returned; a dict where `result` gives one.
        """
        if self.additive:
            raise NotImplementedError(f"{type(self).__name__} needs a method value(self, sums).")
        state = {
            "variables": [jnp.asarray(v) for v in sums["variables"]],
            "sums": jax.tree.map(lambda s: np.asarray(s, np.float64), sums["sums"]),
        }
        with self._holding(state):
            return _on_host(self.result())

    def _value_of_sums(self, sums: Sums) -> Value:
        return self.value(sums)

    # -- the same as a running state

    def initial(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The state before any example. The arguments tell shapes and types only; `jax.ShapeDtypeStruct`s will do."""
        if self.additive:
            return _zeros(forward_pass.shapes_of(self.stats, y_true, y_pred, sample_weight))
        first = {"variables": [v.first for v in self.variables], "sums": [None] * len(self._family())}
        with self._holding(first):
            self.reset_state()
            start = self._state()
        if all(type(metric).stats is Metric.stats for metric in self._family()):
            return start
        # Sums of additive metrics that this one holds or extends: their shapes are known once a batch was seen.
        after = forward_pass.shapes_of(lambda *batch: self._after(start, *batch), y_true, y_pred, sample_weight)
        return {**start, "sums": _zeros(after["sums"])}

    def update(self, state: Any, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The state after a batch: `state` plus the batch's sums, or what `update_state` makes of it."""
        if self.additive:
            return jax.tree.map(jnp.add, state, self.stats(y_true, y_pred, sample_weight))
        after = self._after(state, y_true, y_pred, sample_weight)
        return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), after, state)

    def _after(self, state: Any, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        y, p = rank_matched(y_true, y_pred)  # Keras hands targets (n,) on beside predictions (n, 1), which broadcast
        with self._holding(state):
            self.update_state(y, p, *(() if sample_weight is None else (sample_weight,)))
            return self._state()

    def _state(self) -> Any:
        """The values of all variables, and the sums of all additive metrics inside (None before any batch)."""
        return {"variables": [v.value for v in self.variables], "sums": [m._sums for m in self._family()]}

    def _put(self, state: Any) -> None:
        for variable, value in zip(self.variables, state["variables"], strict=True):
            variable.value = value
        for metric, sums in zip(self._family(), state["sums"], strict=True):
            metric._sums = sums

    @contextmanager
    def _holding(self, state: Any) -> Iterator[None]:
        """Inside, this is the metric's state; the running one is back afterwards."""
        before = self._state()
        try:
            self._put(state)
            yield
        finally:
            self._put(before)

    # -- Keras's face

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Adds a batch: the arguments of `stats`."""
        sums: Any = self.stats(*args, **kwargs)
        if not any(isinstance(s, Tracer) for s in jax.tree.leaves((sums, self._sums))):
            sums = jax.tree.map(lambda s: np.asarray(s, np.float64), sums)
        self._sums = sums if self._sums is None else jax.tree.map(lambda a, b: a + b, self._sums, sums)

    def result(self) -> Any:
        """The metric of all batches since the last reset; 0.0 before the first."""
        if type(self)._value_of_sums is Metric.value:
            raise NotImplementedError(f"{type(self).__name__} needs a method result(self).")
        return 0.0 if self._sums is None else self._value_of_sums(self._sums)

    def reset_state(self) -> None:
        """Forgets all batches; variables go back to their first values (Keras: to 0)."""
        for metric in self._family():
            metric._sums = None
            for variable in metric._variables:
                variable.assign(variable.first)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Adds a batch and returns the result so far."""
        self.update_state(*args, **kwargs)
        return self.result()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}>"


def _metrics_in(value: Any) -> Iterator[Metric]:
    if isinstance(value, Metric):
        yield value
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _metrics_in(item)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, jax.dtypes.canonicalize_dtype(s.dtype)), shapes)


def _on_host(value: Any) -> Value | dict[str, Value]:
    """What a `result` returned as numbers and NumPy arrays."""
    if isinstance(value, Mapping):
        return {name: np.asarray(v) if np.ndim(v) else float(v) for name, v in value.items()}
    return np.asarray(value) if np.ndim(value) else float(value)


def weighted(values: Shaped[Array, "*s"], sample_weight: Any) -> Shaped[Array, "*s"]:
    """Values times weights, where 0 * NaN is 0: what stands in a padding row never shows."""
    if sample_weight is None:
        return values
    weights = broadcast_weights(sample_weight, values.shape)
    return jnp.where(weights == 0, 0, values * weights)


def mean_stats(values: ArrayLike, sample_weight: Any = None) -> Stats:
    """The sums of a weighted mean: values times weights, and weights; several positions of an example are averaged."""
    numbers = jnp.atleast_1d(jnp.asarray(values)).astype(jnp.float32)
    inner = tuple(range(1, numbers.ndim))
    total = jnp.sum(jnp.mean(weighted(numbers, sample_weight), axis=inner))
    if sample_weight is None:
        return {"total": total, "count": jnp.asarray(numbers.shape[0], jnp.float32)}
    weights = broadcast_weights(sample_weight, numbers.shape)
    return {"total": total, "count": jnp.sum(jnp.mean(weights, axis=inner))}


def ratio(a: Any, b: Any) -> Any:
    """a / b in float64, and 0 where b is 0."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b != 0)


class Mean(Metric):
    """The weighted mean of the values it is given; 0 for none."""

    def __init__(self, name: str | None = "mean", dtype: Any = None):
        super().__init__(dtype, name)

    def stats(self, values: Any, sample_weight: Any = None) -> Stats:  # pyright: ignore[reportIncompatibleMethodOverride]
        return mean_stats(values, sample_weight)

    def value(self, sums: Sums) -> Value:
        return float(ratio(sums["total"], sums["count"]))


class Sum(Metric):
    """The weighted sum of the values it is given."""

    def __init__(self, name: str | None = "sum", dtype: Any = None):
        super().__init__(dtype, name)

    def stats(self, values: Any, sample_weight: Any = None) -> Stats:  # pyright: ignore[reportIncompatibleMethodOverride]
        numbers = jnp.atleast_1d(jnp.asarray(values)).astype(jnp.float32)
        return {"total": jnp.sum(weighted(numbers, sample_weight))}

    def value(self, sums: Sums) -> Value:
        return float(sums["total"])


class MeanMetricWrapper(Metric):
    """The mean of what a function fn(y_true, y_pred, **kwargs) gives.

    Args:
        fn: gives a value per example (and position). One number for the batch counts as the value of each of its
            examples, so that a short last batch has its due weight; Keras takes the mean of the batches' numbers.
        name: the function's `__name__` by default.
        kwargs: passed on to `fn`.
    """

    def __init__(self, fn: Callable[..., Any], name: str | None = None, dtype: Any = None, **kwargs: Any):
        super().__init__(dtype, name or function_name(fn))
        self.fn = fn
        self._kwargs = kwargs

    def stats(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Stats:
        y, p = rank_matched(y_true, y_pred)
        return mean_stats(_per_example(self.fn(y, p, **self._kwargs), p), sample_weight)

    def value(self, sums: Sums) -> Value:
        return float(ratio(sums["total"], sums["count"]))


class MeanOfLoss(Metric):
    """The mean of a loss's values per example.

    Args:
        loss: any loss; its reduction does not matter here.
        name: the loss's name by default.
    """

    def __init__(self, loss: Loss, name: str | None = None, dtype: Any = None):
        super().__init__(dtype, name or loss.name)
        self.loss = loss
        self.fn = getattr(loss, "fn", loss)

    def stats(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Stats:
        y, p = rank_matched(y_true, y_pred)
        values = _per_example(self.loss.call(y, p), p)
        return mean_stats(values, _only_valid(values, sample_weight, self.loss.valid(y, p)))

    def value(self, sums: Sums) -> Value:
        return float(ratio(sums["total"], sums["count"]))


def _per_example(values: Any, y_pred: Array) -> Array:
    values = jnp.asarray(values)
    return jnp.broadcast_to(values, y_pred.shape[:1]) if values.ndim == 0 else values


def _only_valid(values: Array, sample_weight: Any, valid: Bool[Array, " ..."] | None) -> Any:
    if valid is None:
        return sample_weight
    return valid if sample_weight is None else broadcast_weights(sample_weight, values.shape) * valid
