"""`Normalization.adapt`: the statistics of what it is shown, in whatever form."""

import jax.numpy as jnp
import keras
import numpy as np
import pytest

from epochal import layers


def close(a, b, **kwargs):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, **{"rtol": 1e-5, "atol": 1e-5, **kwargs})


def draw(shape, rows=4):
    return np.random.default_rng(0).normal(size=(rows, *shape)).astype("float32")


def test_adapt_equals_keras():
    data = draw((3, 4), rows=50) * 3 + 2
    for axis in (-1, (1, 2), None):
        ours, theirs = layers.Normalization(axis=axis), keras.layers.Normalization(axis=axis)
        ours.adapt(data)
        theirs.adapt(data)
        close(ours.get_weights(), [np.asarray(v.value) for v in theirs.weights])
        close(ours(data), np.asarray(theirs(data)))


def test_adapt_reads_arrays_and_batches_alike():
    data = draw((3,), rows=50) * 1e-2 + 1e3  # a large mean: sums of squares in float32 would lose the variance
    want = [data.astype("float64").mean(0), data.astype("float64").var(0), 0]

    class Batches:
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return data[i * 25 : (i + 1) * 25], np.zeros(25)

    sources = [data, jnp.asarray(data), data.tolist(), [data[:7], data[7:]], (data[i : i + 9] for i in range(0, 50, 9))]
    sources += [Batches(), [(data[:7], None), (data[7:], None)]]
    for source in sources:
        layer = layers.Normalization()
        layer.adapt(source)
        close(layer.get_weights(), want, atol=0)
    layer.adapt(np.zeros((4, 3)))  # forgets
    close(layer.get_weights(), [np.zeros(3), np.zeros(3), 0])


def test_adapt_refuses():
    with pytest.raises(ValueError, match="at least one row"):
        layers.Normalization().adapt(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="sizes"):
        layers.Normalization().adapt([np.zeros((2, 3)), np.zeros((2, 4))])
    with pytest.raises(ValueError, match="was given"):
        layers.Normalization(mean=0, variance=1).adapt(np.zeros((2, 3)))
