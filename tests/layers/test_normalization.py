"""Batch normalization where Keras promises nothing: padding, frozen layers, an axis 0 that is no batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.layer_cases import close, draw, everything, functional, keras_functional, pair

from epochal import layers
from epochal.layers import normalization
from epochal.tracing import forward_pass


def keras_weights(layer):
    return [np.asarray(v.value) for v in layer.weights]  # get_weights() warns with NumPy 2


def test_moving_statistics_after_three_calls():
    ours, theirs, _ = pair(("BatchNormalization", {"momentum": 0.9}, (3, 5)))
    for i in range(3):
        x = draw((3, 5), str(i))
        ours(x, training=True)
        theirs(x, training=True)
    close(ours.get_weights(), keras_weights(theirs))


@pytest.mark.parametrize("real", [4, 1])
def test_padding_rows_leave_batch_statistics_alone(real):
    ours, theirs, _ = pair(("BatchNormalization", {}, (3, 5)))
    x = draw((3, 5), "padded", rows=real)
    padded = np.concatenate([x, np.full((3, 3, 5), 100, "float32")])
    context = forward_pass.Call(training=True, rows=jnp.asarray([1.0] * real + [0.0] * 3))
    call, weights = functional(ours)

    def real_rows(weights, x, training=False):
        y, buffers = call(weights, x, training, context if training else None)
        return y[:real], buffers

    got = everything(real_rows, weights, padded, True)
    want = everything(*keras_functional(theirs), x, True)
    close(got[:3], want[:3])
    close(got[3][0], want[3][0])
    close(got[3][1][:real], want[3][1])
    close(got[3][1][real:], np.zeros((3, 3, 5)))


def test_batch_normalization_of_padding_alone_moves_nothing():
    layer = layers.BatchNormalization()
    layer(np.ones((2, 3)))
    with forward_pass.calling(forward_pass.Call(training=True, rows=jnp.zeros(2))):
        assert np.isfinite(layer(np.ones((2, 3)))).all()
    close(layer.get_weights()[2:], [np.zeros(3), np.ones(3)])


def test_batch_normalization_of_another_axis_0_takes_all_rows():
    layer, plain = layers.BatchNormalization(), layers.BatchNormalization()
    x = draw((3,), rows=8)
    with forward_pass.calling(forward_pass.Call(training=True, rows=jnp.asarray([1.0, 0.0]))):
        got = layer(x)
    close(got, plain(x, training=True))


def test_frozen_batch_normalization_uses_moving_statistics():
    layer = layers.BatchNormalization(trainable=False)
    x = draw((3,))
    close(layer(x, training=True), layer(x, training=False))
    close(layer.get_weights()[2:], [np.zeros(3), np.ones(3)])


@pytest.mark.parametrize("real", [None, np.array([True, False, True, True]).reshape(4, 1, 1)], ids=["all", "some"])
def test_batch_normalization_has_the_derivative_of_its_formula(real):
    def formula(x, gamma, beta):
        rows = x if real is None else x[real.ravel()]
        mean, variance = rows.mean((0, 1), keepdims=True), rows.var((0, 1), keepdims=True)
        return (x - mean) / jnp.sqrt(variance + 1e-3) * gamma + beta, mean, variance

    def ours(x, gamma, beta):
        return normalization._standardize(x, gamma, beta, real, (0, 1), 1e-3)

    rng = np.random.default_rng(0)
    args = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((4, 3, 2), (1, 1, 2), (1, 1, 2))]

    def everything_of(function):
        along = jax.jvp(function, tuple(args), tuple(jnp.flip(a, -1) for a in args))
        back = jax.vjp(function, *args)[1](tuple(jnp.sin(a) for a in along[0]))
        hessian = jax.jacfwd(jax.grad(lambda x: jnp.sin(function(x, *args[1:])[0]).sum()))(args[0])
        return jax.tree.leaves((along, back, hessian))

    for got, want in zip(everything_of(ours), everything_of(formula), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
