"""Metrics with variables of their own, as Keras's: alone, as pure functions under `jax.jit`, and in training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import keras as real
import numpy as np
import pytest
from support.data import breast_cancer

import epochal as keras
from epochal.metrics import Mean, Metric

rng = np.random.default_rng(5)
Y = (rng.random((30, 1)) < 0.4).astype(np.float32)
P = np.clip(Y * 0.4 + rng.random((30, 1)) * 0.6, 0, 1).astype(np.float32)
W = rng.random(30).astype(np.float32)
BATCHES = [slice(0, 8), slice(8, 16), slice(16, 30)]


def true_positives(k: Any) -> Any:
    class TruePositives(k.metrics.Metric):
        """The example of Keras's own documentation, in other words."""

        def __init__(self, name: str = "hits") -> None:
            super().__init__(name=name)
            self.hits = self.add_variable(shape=(), initializer="zeros", name="hits")
            self.seen = self.add_weight(shape=(), initializer="zeros", name="seen")

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            hit = k.ops.logical_and(y_true > 0.5, y_pred > 0.5)
            hit = k.ops.cast(hit, "float32")
            if sample_weight is not None:
                hit = hit * k.ops.reshape(sample_weight, (-1, 1))
            self.hits.assign(self.hits + k.ops.sum(hit))
            self.seen.assign_add(k.ops.cast(k.ops.shape(y_true)[0], "float32"))

        def result(self) -> Any:
            return self.hits / k.ops.maximum(self.seen, 1.0)

    return TruePositives()


def f1_of_parts(k: Any) -> Any:
    class F1(k.metrics.Metric):
        """Metrics in a metric, and several results."""

        def __init__(self, name: str = "f1") -> None:
            super().__init__(name=name)
            self.precision = k.metrics.Precision()
            self.others = [k.metrics.Recall()]
            self.batches = self.add_variable(shape=(), initializer="zeros")

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            self.precision.update_state(y_true, y_pred, sample_weight)
            self.others[0].update_state(y_true, y_pred, sample_weight)
            self.batches.assign_add(1.0)

        def result(self) -> Any:
            p, r = self.precision.result(), self.others[0].result()
            return {"f1": 2 * p * r / (p + r + 1e-7), "recall": r, "batches": self.batches + 0}

        def reset_state(self) -> None:
            self.precision.reset_state()
            self.others[0].reset_state()
            self.batches.assign(0.0)

    return F1()


def percent(k: Any) -> Any:
    class Percent(k.metrics.Mean):
        """A built-in metric extended."""

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            super().update_state(k.ops.abs(y_true - y_pred)[:, 0], sample_weight)

        def result(self) -> Any:
            return 100 * super().result()

    return Percent(name="percent")


def confusion(k: Any) -> Any:
    class Confusion(k.metrics.Metric):
        """A matrix of counts."""

        def __init__(self) -> None:
            super().__init__(name="confusion")
            self.table = self.add_variable(shape=(2, 2), initializer="zeros", dtype="int32", name="table")

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            y, p = (k.ops.cast(a[:, 0] > 0.5, "int32") for a in (y_true, y_pred))
            self.table.assign(k.ops.scatter_update(self.table, k.ops.stack([y, p], -1), k.ops.ones_like(y), "add"))

        def result(self) -> Any:
            return self.table[0, 1] + self.table[1, 0]

    return Confusion()


MAKERS = [true_positives, f1_of_parts, percent, confusion]


def as_floats(value: Any) -> Any:
    return jax.tree.map(lambda v: float(np.asarray(v)), dict(value) if isinstance(value, dict) else value)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_alone_the_numbers_are_keras_s(maker: Any, weighted: bool) -> None:
    ours, theirs = maker(keras), maker(real)
    for _ in range(2):
        for rows in BATCHES:
            weight = (W[rows],) if weighted else ()
            ours.update_state(Y[rows], P[rows], *weight)
            theirs.update_state(Y[rows], P[rows], *weight)
            found, expected = as_floats(ours.result()), as_floats(theirs.result())
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
        ours.reset_state()
        theirs.reset_state()


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_as_pure_functions_the_numbers_are_those_of_the_running_state(maker: Any, weighted: bool) -> None:
    metric, alone = maker(keras), maker(keras)
    assert not metric.additive
    update = jax.jit(metric.update)
    state = metric.initial(jax.ShapeDtypeStruct((2, 1), jnp.float32), jax.ShapeDtypeStruct((2, 1), jnp.float32))
    for rows in BATCHES:
        weight = W[rows] if weighted else None
        state = update(state, Y[rows], P[rows], weight)
        alone.update_state(Y[rows], P[rows], *(() if weight is None else (weight,)))
    found = metric.value(state)
    assert all(type(v) is float for v in jax.tree.leaves(found))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, as_floats(alone.result()))


def test_the_state_keeps_its_structure_so_that_a_loop_can_carry_it() -> None:
    metric = f1_of_parts(keras)
    state = metric.initial(Y[:6], P[:6])
    y, p = jnp.asarray(Y).reshape(5, 6, 1), jnp.asarray(P).reshape(5, 6, 1)
    after = jax.jit(lambda s: jax.lax.fori_loop(0, 5, lambda i, s: metric.update(s, y[i], p[i]), s))(state)
    alone = f1_of_parts(keras)
    alone(Y, P)
    assert metric.value(after)["f1"] == pytest.approx(alone.result()["f1"], rel=1e-6)
    assert metric.value(after)["batches"] == 5


def test_pure_functions_leave_the_running_state_alone() -> None:
    metric = true_positives(keras)
    metric.update_state(Y, P)
    before = float(metric.result())
    state = metric.initial(Y, P)
    assert metric.value(state) == 0
    metric.value(metric.update(state, Y[:3], P[:3]))
    with pytest.raises(TypeError):
        metric.update(state, None, P)
    assert float(metric.result()) == before


def test_the_state_starts_as_reset_state_leaves_it() -> None:
    class Smallest(Metric):
        def __init__(self) -> None:
            super().__init__(name="smallest")
            self.least = self.add_variable(initializer=keras.initializers.Constant(5.0))

        def update_state(self, y_true: Any, y_pred: Any) -> None:
            self.least.assign(jnp.minimum(self.least.value, y_pred.min()))

        def result(self) -> Any:
            return self.least

    class FromOne(Smallest):
        def reset_state(self) -> None:
            self.least.assign(1.0)

    assert Smallest().value(Smallest().initial(Y, P)) == 5  # Keras's reset_state() puts 0, whatever came first
    assert FromOne().value(FromOne().initial(Y, P)) == 1
    metric = Smallest()
    assert metric(Y, P) == P.min()
    metric.reset_state()
    assert metric.result() == 5


def test_variables_act_as_arrays() -> None:
    metric = Metric(name="m")
    v = metric.add_variable((2,), "ones", name="pair")
    assert metric.variables == [v]
    expected = np.outer([2, 0, 3, 0.5, -1, 2, 1], [1, 1])
    np.testing.assert_array_equal([v + 1, 1 - v, v * 3, v / 2, -v, 2**v, v // 1], expected)
    np.testing.assert_array_equal((v + v) @ v, 4)
    assert (v == 1).all()
    assert not (v != 1).any()
    assert (v.shape, v.ndim, v.dtype) == ((2,), 1, jnp.float32)
    np.testing.assert_array_equal(jnp.cumsum(v), [1, 2])  # JAX's functions take it
    np.testing.assert_array_equal(jnp.asarray(v), v.numpy())
    v.assign([3, 4])
    v.assign_sub(jnp.ones(2))
    assert [int(v[0]), float(v[1])] == [2, 3]
    assert isinstance(v.value, jax.Array)
    with pytest.raises(ValueError, match=r"shape \(2,\) for the variable 'pair', got \(3,\)"):
        v.assign(np.ones(3))
    assert "pair" in repr(v)
    scalar = metric.add_weight()
    assert not scalar
    assert {scalar: 1}[scalar] == 1


def test_what_is_missing_is_named() -> None:
    class Half(Metric):
        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None: ...

    class OtherHalf(Metric):
        def result(self) -> float:
            return 0.0

    with pytest.raises(NotImplementedError, match=r"Half needs a method result\(self\)"):
        Half().result()
    with pytest.raises(NotImplementedError, match="OtherHalf needs a method stats"):
        OtherHalf().update_state(Y, P)
    with pytest.raises(NotImplementedError, match=r"needs a method value"):
        Metric().value({})


def test_which_metrics_are_additive() -> None:
    assert Metric.additive
    assert Mean().additive
    assert keras.metrics.AUC().additive
    extended = percent(keras)
    assert not extended.additive

    class Sums(type(extended)):
        """Additive again: sums of its own."""

        def stats(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            return {"total": jnp.sum(y_pred), "count": jnp.asarray(2.0)}

        def value(self, sums: Any) -> float:
            return float(sums["total"] / sums["count"])

    summed = Sums()
    assert summed.additive
    assert summed.value(summed.update(summed.initial(Y, P), Y, P)) == pytest.approx(P.sum() / 2, rel=1e-6)


def test_C6_in_training_a_metric_with_variables_says_what_it_says_alone() -> None:
    x, y = breast_cancer(100)
    model = keras.Sequential([keras.Input((30,)), keras.layers.Dense(1, activation="sigmoid")])
    metrics = {"metrics": [true_positives(keras), "mae"], "weighted_metrics": [percent(keras)]}
    model.compile("sgd", "binary_crossentropy", **metrics)
    weight = np.linspace(0.5, 2, 100).astype(np.float32)
    found = model.evaluate(x, y, sample_weight=weight, batch_size=32, verbose=0, return_dict=True)
    p = model.predict(x, verbose=0)
    assert found["hits"] == pytest.approx(np.mean((p[:, 0] > 0.5) & (y == 1)), rel=1e-5)
    assert found["percent"] == pytest.approx(100 * np.average(np.abs(p[:, 0] - y), weights=weight), rel=1e-5)
    # y is (n,) and p (n, 1): Keras lets them broadcast to (n, n) here
    history = model.fit(x, y, batch_size=32, epochs=2, verbose=0).history
    assert list(history) == ["loss", "hits", "mae", "percent"]
    assert all(0 < value < 1 for value in history["hits"])  # starts anew in each epoch
