"""Draws by seed, against Keras's; and seeds as the state of a layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import keras as real
import numpy as np
import pytest
from support.data import diabetes

import epochal as keras
from epochal import random
from epochal.registry.serialize import deserialize, serialize

ONES = np.ones((4, 3), np.float32)
LOGITS = np.log(np.array([[0.1, 0.9], [0.5, 0.5]], np.float32))
DRAWS: dict[str, Any] = {
    "normal": ((2, 3), 1.0, 2.0),
    "truncated_normal": ((2, 3), 1.0, 2.0),
    "uniform": ((3,), 1, 2),
    "randint": ((5,), 0, 9),
    "categorical": (LOGITS, 7),
    "gamma": ((3,), 2.0),
    "beta": ((3,), 2.0, 3.0),
    "binomial": ((4,), 10.0, 0.3),
    "dropout": (ONES, 0.5),
    "shuffle": (np.arange(12.0, dtype=np.float32).reshape(4, 3),),
}


@pytest.mark.parametrize("name", sorted(DRAWS))
def test_the_same_seed_draws_keras_s_numbers(name: str) -> None:
    ours, theirs = getattr(random, name), getattr(real.random, name)
    mine, others = random.SeedGenerator(5), real.random.SeedGenerator(5)
    for seed, other in ((3, 3), (mine, others), (mine, others)):
        found, expected = ours(*DRAWS[name], seed=seed), theirs(*DRAWS[name], seed=other)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_without_a_seed_every_draw_is_new_and_the_global_seed_repeats_them() -> None:
    keras.utils.set_random_seed(7)
    first = [random.uniform((20,)) for _ in range(2)]
    keras.utils.set_random_seed(7)
    again = [random.uniform((20,)) for _ in range(2)]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(*first)


def test_a_draw_without_a_seed_is_refused_in_compiled_code() -> None:
    with pytest.raises(ValueError, match="SeedGenerator an attribute"):
        jax.jit(lambda: random.normal((2,)))()
    jax.jit(lambda key: random.normal((2,), seed=key))(jax.random.key(1))


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True, "a"])
def test_a_seed_that_is_none_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed between 0 and"):
        random.SeedGenerator(seed)
    with pytest.raises(ValueError, match="a SeedGenerator or None"):
        random.normal((2,), seed=seed)


def test_dropout_and_its_arguments() -> None:
    together = np.asarray(random.dropout(np.ones((50, 8), np.float32), 0.5, noise_shape=(None, 1), seed=1))
    assert set(np.unique(together)) == {0.0, 2.0}
    assert (together == together[:, :1]).all()
    np.testing.assert_array_equal(random.dropout(ONES, 0), ONES)
    np.testing.assert_array_equal(random.dropout(ONES, 1), 0 * ONES)
    with pytest.raises(ValueError, match=r"1\.5"):
        random.dropout(ONES, 1.5)


def test_a_generator_goes_through_json() -> None:
    copy = deserialize(serialize(random.SeedGenerator(9)))
    np.testing.assert_array_equal(random.normal((3,), seed=copy), random.normal((3,), seed=9))


def noisy(k: Any) -> Any:
    class Noisy(k.layers.Layer):
        """Adds noise, in training and out of it."""

        def __init__(self) -> None:
            super().__init__()
            self.seeds = k.random.SeedGenerator(3)

        def call(self, x: Any) -> Any:
            return x + 0.1 * k.random.normal(k.ops.shape(x)[1:], seed=self.seeds)

    return k.Sequential([k.Input((10,)), k.layers.Dense(4, activation="tanh"), Noisy(), k.layers.Dense(1)])


def test_in_training_every_step_draws_what_keras_draws() -> None:
    x, y = diabetes(96)
    theirs, ours = noisy(real), noisy(keras)
    assert len(ours.get_weights()) == len(theirs.get_weights()) == 4
    assert ours.layers[1].weights == []
    ours.set_weights(theirs.get_weights())
    fit = {"batch_size": 32, "epochs": 3, "shuffle": False, "verbose": 0}
    for model in (theirs, ours):
        model.compile("adam", "mse")
    expected = theirs.fit(x, y, **fit).history["loss"]
    np.testing.assert_allclose(ours.fit(x, y, **fit).history["loss"], expected, rtol=1e-5)
    np.testing.assert_array_equal(ours.layers[1].seeds.state.get_value(), [3, 9])  # 3 epochs of 3 batches
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_evaluation_draws_for_each_batch_and_leaves_the_state() -> None:
    class Draw(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.seeds = random.SeedGenerator(3)

        def call(self, x: Any) -> Any:
            return 0 * x + random.uniform((), seed=self.seeds)

    drawn = []

    def note(y: Any, p: Any) -> Any:
        jax.debug.callback(lambda value: drawn.append(float(value)), p[0, 0])
        return jnp.square(y - p)

    model = keras.Sequential([keras.Input((1,)), Draw()])
    model.compile("sgd", note)
    x = np.zeros((6, 1), np.float32)
    first = model.evaluate(x, x, batch_size=2, verbose=0)
    jax.effects_barrier()
    assert len(set(drawn)) == 3
    assert model.evaluate(x, x, batch_size=2, verbose=0) == first
    np.testing.assert_array_equal(model.layers[0].seeds.state.get_value(), [3, 0])


def test_called_by_itself_a_layer_goes_on_drawing() -> None:
    layer = noisy(keras).layers[1]
    assert not np.array_equal(layer(np.zeros((2, 4))), layer(np.zeros((2, 4))))
    np.testing.assert_array_equal(layer.seeds.state.get_value(), [3, 2])
    assert layer.compute_output_shape((None, 4)) == (None, 4)
    np.testing.assert_array_equal(layer.seeds.state.get_value(), [3, 2])


def test_generators_in_a_list_are_part_of_the_model_too() -> None:
    class Two(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.seeds = [random.SeedGenerator(1), random.SeedGenerator(2)]

        def call(self, x: Any, training: bool = False) -> Any:
            for seeds in self.seeds:
                x = random.dropout(x, 0.5, seed=seeds) if training else x
            return x

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), Two()])
    model.compile("sgd", "mse")
    model.fit(ONES, ONES[:, :2], batch_size=2, epochs=1, verbose=0)
    states = [seeds.state.get_value().tolist() for seeds in model.layers[1].seeds]
    assert states == [[1, 2], [2, 2]]
