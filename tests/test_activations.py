"""Activations: the same values and gradients as Keras's."""

import inspect

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from epochal import activations
from epochal.registry.serialize import deserialize, serialize

X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32) * 4
PLAIN = sorted(set(activations.NAMES) - {"threshold", "sparsemax"})  # Keras 3.15's sparsemax is wrong, see below


@pytest.mark.parametrize("name", PLAIN)
def test_values_and_gradients_are_those_of_keras(name):
    ours, back = jax.vjp(activations.get(name), jnp.asarray(X))
    theirs, keras_back = jax.vjp(keras.activations.get(name), jnp.asarray(X))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    weights = jnp.ones_like(theirs)
    np.testing.assert_allclose(back(weights)[0], keras_back(weights)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("relu", {"negative_slope": 0.3}),
        ("relu", {"max_value": 2.5}),
        ("relu", {"max_value": 6}),
        ("relu", {"threshold": 1.5}),
        ("relu", {"threshold": -1.5, "max_value": 3.0}),
        ("relu", {"negative_slope": 0.3, "max_value": 2.5, "threshold": 1.0}),
        ("relu", {"negative_slope": 0.3, "max_value": 2.5}),
        ("leaky_relu", {"negative_slope": 0.05}),
        ("elu", {"alpha": 0.5}),
        ("celu", {"alpha": 0.5}),
        ("gelu", {"approximate": True}),
        ("softmax", {"axis": 0}),
        ("softmax", {"axis": (0, 1)}),
        ("log_softmax", {"axis": 0}),
        ("glu", {"axis": 1}),
        ("squareplus", {"b": 1.0}),
        ("hard_shrink", {"threshold": 1.0}),
        ("soft_shrink", {"threshold": 1.0}),
        ("threshold", {"threshold": 1.0, "default_value": -2.0}),
    ],
)
def test_arguments_mean_what_they_mean_in_keras(name, arguments):
    ours = getattr(activations, name)(X, **arguments)
    np.testing.assert_allclose(ours, getattr(keras.activations, name)(X, **arguments), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("axis", [0, -1])
def test_sparsemax_is_the_nearest_probability_vector(axis):
    """Keras 3.15 adds up the partial sums of all kept values where only the last one belongs: its result sums to 3."""
    y = np.asarray(activations.sparsemax(X, axis=axis), np.float64)
    np.testing.assert_allclose(y.sum(axis), 1, rtol=1e-6)
    # x - y is one number, tau, wherever y > 0, and x is below tau elsewhere.
    tau = (X - y).max(axis, where=y > 0, initial=-np.inf, keepdims=True)
    np.testing.assert_allclose(np.maximum(X - tau, 0), y, atol=1e-6)


@pytest.mark.parametrize("name", PLAIN)
def test_defaults_are_those_of_keras(name):
    theirs = inspect.signature(keras.activations.get(name)).parameters
    ours = inspect.signature(activations.get(name)).parameters
    assert {k: p.default for k, p in ours.items()} == {k: p.default for k, p in theirs.items()}


def test_every_activation_of_keras_is_here():
    theirs = {n for n, f in vars(keras.activations).items() if inspect.isfunction(f)} - {
        "get",
        "serialize",
        "deserialize",
    }
    assert theirs <= set(activations.NAMES)


@pytest.mark.parametrize("name", sorted(activations.NAMES))
def test_written_down_and_read(name):
    function = activations.get(name)
    assert deserialize(serialize(function)) is function
    assert activations.get(serialize(function)) is function


def test_get():
    assert activations.get(None) is activations.linear
    assert activations.get(jnp.sin) is jnp.sin
    assert activations.swish is activations.get("silu")
    with pytest.raises(ValueError, match=r"Unknown activation 'rellu'.*'relu'"):
        activations.get("rellu")
    with pytest.raises(ValueError, match="got 3"):
        activations.get(3)


def test_glu_needs_halves():
    with pytest.raises(ValueError, match="even size"):
        activations.glu(X[:, :5])


@pytest.mark.parametrize("name", PLAIN)
def test_half_precision_stays(name):
    x = jax.ShapeDtypeStruct((5, 6), jnp.bfloat16)
    assert jax.eval_shape(activations.get(name), x).dtype == jnp.bfloat16
