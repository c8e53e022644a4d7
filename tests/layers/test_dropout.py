"""Layers of noise: it belongs to the example, comes in training only, and has the moments promised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epochal import layers
from epochal.random import set_random_seed
from epochal.tracing import forward_pass

# most of these tests' time is compiling
FAST_TO_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def draw(shape, rows=4):
    return np.random.default_rng(0).normal(size=(rows, *shape)).astype("float32")


def in_pass(layer, x, ids, *, key=0, rows=None):
    def run(x, ids):
        with forward_pass.calling(forward_pass.Call(training=True, rows=rows, ids=ids, key=jax.random.key(key))):
            return layer(x)

    layer._ensure_built(x)
    return np.asarray(jax.jit(run, compiler_options=FAST_TO_COMPILE)(x, jnp.asarray(ids, jnp.uint32)))


def noise_layers():
    return [
        (layers.Dropout(0.5, name="a"), (20, 10)),
        (layers.Dropout(0.5, noise_shape=(None, 1, 10), name="a"), (20, 10)),
        (layers.SpatialDropout1D(0.5, name="a"), (5, 40)),
        (layers.SpatialDropout2D(0.5, name="a"), (5, 4, 40)),
        (layers.GaussianNoise(0.5, name="a"), (20, 10)),
        (layers.GaussianDropout(0.5, name="a"), (20, 10)),
        (layers.Dropout(0.5, seed=3, name="a"), (20, 10)),
    ]


each_noise = pytest.mark.parametrize("number", range(len(noise_layers())))


@each_noise
def test_noise_belongs_to_the_example(number):
    layer, shape = noise_layers()[number]
    x, ids = draw(shape, rows=6), np.array([10, 3, 7, 2**32 - 1, 0, 5])
    whole = in_pass(layer, x, ids)
    cut = [in_pass(layer, x[a:b], ids[a:b]) for a, b in ((0, 2), (2, 6))]
    np.testing.assert_array_equal(np.concatenate(cut), whole)
    np.testing.assert_array_equal(in_pass(layer, x[::-1], ids[::-1])[::-1], whole)
    np.testing.assert_array_equal(in_pass(noise_layers()[number][0], x, ids), whole)
    assert (in_pass(layer, x, ids, key=1) != whole).any()
    ratio = in_pass(layer, np.ones_like(x), ids)
    assert (ratio[0] != ratio[1]).any()
    other = type(layer).from_config({**layer.get_config(), "name": "b"})
    assert (in_pass(other, x, ids) != whole).any()
    seeded = type(layer).from_config({**layer.get_config(), "seed": 4})
    assert (in_pass(seeded, x, ids) != whole).any()


@each_noise
def test_no_noise_outside_of_training(number):
    layer, shape = noise_layers()[number]
    x = draw(shape)
    np.testing.assert_array_equal(layer(x), x)
    with forward_pass.calling(forward_pass.Call(training=True)):  # no key: shapes are being computed
        np.testing.assert_array_equal(layer(x), x)
    set_random_seed(1)
    first = layer(x, training=True)
    assert (first != x).any()
    assert (layer(x, training=True) != first).any()
    set_random_seed(1)
    np.testing.assert_array_equal(layer(x, training=True), first)


def test_dropout_rate_and_scale():
    x = np.ones((50, 400), "float32")
    y = in_pass(layers.Dropout(0.2), x, np.arange(50))
    assert set(np.unique(y)) == {0.0, np.float32(1.25)}
    assert abs((y == 0).mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / y.size)
    assert in_pass(layers.Dropout(0), x, np.arange(50)) is not None
    np.testing.assert_array_equal(in_pass(layers.Dropout(0), x, np.arange(50)), x)


def test_gaussian_moments():
    x = np.ones((50, 400), "float32")
    y = in_pass(layers.GaussianDropout(0.2), x, np.arange(50))
    assert abs(y.mean() - 1) < 0.02
    assert abs(y.std() - 0.5) < 0.02
    assert abs(in_pass(layers.GaussianNoise(2.0), x, np.arange(50)).std() - 2) < 0.05


def test_noise_shape():
    x = np.ones((6, 20, 10), "float32")
    together = in_pass(layers.Dropout(0.5, noise_shape=(None, 1, None)), x, np.arange(6))
    assert (together == together[:, :1]).all()
    assert (together != together[:1]).any()
    spatial = in_pass(layers.SpatialDropout1D(0.5), x, np.arange(6))
    assert (spatial == spatial[:, :1]).all()
    layer = layers.Dropout(0.5, noise_shape=(1, 20, 10), name="a")
    batch = in_pass(layer, x, np.arange(6))
    assert (batch == batch[:1]).all()
    np.testing.assert_array_equal(in_pass(layer, x[:1], [5]), batch[:1])
    with pytest.raises(ValueError, match="noise_shape"):
        in_pass(layers.Dropout(0.5, noise_shape=(None, 3, 10)), x, np.arange(6))


def test_noise_of_another_axis_0_is_one_draw():
    layer = layers.Dropout(0.5, name="a")
    x = np.ones((12, 10), "float32")
    y = in_pass(layer, x, np.arange(6), rows=jnp.ones(6))
    assert (y[0] != y[1]).any()
    np.testing.assert_array_equal(in_pass(layer, x, np.arange(6) + 6, rows=jnp.ones(6)), y)
