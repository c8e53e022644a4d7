"""Regularizers: Keras's values, defaults and names."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from epochal import regularizers
from epochal.registry.serialize import deserialize, serialize

X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("L1", {}),
        ("L1", {"l1": 0.3}),
        ("L2", {}),
        ("L2", {"l2": 0.3}),
        ("L1L2", {}),
        ("L1L2", {"l1": 0.1, "l2": 0.2}),
        ("L1L2", {"l1": None, "l2": 1}),
        ("OrthogonalRegularizer", {}),
        ("OrthogonalRegularizer", {"factor": 0.5, "mode": "columns"}),
        ("l1", {"l1": 0.3}),
        ("l2", {"l2": 0.3}),
        ("l1_l2", {"l1": 0.3, "l2": 0.3}),
    ],
)
def test_values_are_those_of_keras(name, arguments):
    ours = getattr(regularizers, name)(**arguments)
    theirs = getattr(keras.regularizers, name)(**arguments)
    np.testing.assert_allclose(ours(jnp.asarray(X)), theirs(jnp.asarray(X)), rtol=1e-6)
    again = deserialize(serialize(ours))
    assert type(again) is type(ours)
    assert again(X) == ours(X)


def test_closed_forms():
    x = jnp.array([[1.0, -2.0], [3.0, 0.5]])
    assert float(regularizers.L1(0.1)(x)) == pytest.approx(0.65)
    assert float(regularizers.L2(0.1)(x)) == pytest.approx(1.425)
    assert float(regularizers.OrthogonalRegularizer(1.0)(jnp.eye(3))) == 0
    assert float(regularizers.OrthogonalRegularizer(1.0)(jnp.ones((3, 2)))) == pytest.approx(1.0)


def test_get():
    x = jnp.ones((2, 2))
    assert regularizers.get(None) is None
    assert float(regularizers.get("l1")(x)) == pytest.approx(0.04)
    assert float(regularizers.get("L2")(x)) == pytest.approx(0.04)
    assert float(regularizers.get("l1_l2")(x)) == pytest.approx(0.08)
    assert float(regularizers.get(regularizers.l1)(x)) == pytest.approx(0.04)
    assert float(regularizers.get(regularizers.L2)(x)) == pytest.approx(0.04)
    assert float(regularizers.get({"class_name": "L2", "config": {"l2": 1.0}})(x)) == pytest.approx(4)
    assert float(regularizers.get(serialize(regularizers.l2(1.0)))(x)) == pytest.approx(4)
    assert regularizers.get(jnp.sum) is jnp.sum
    with pytest.raises(ValueError, match=r"Unknown regularizer 'l3'. Did you mean .*'l"):
        regularizers.get("l3")
    with pytest.raises(ValueError, match=r"got 0\.1"):
        regularizers.get(0.1)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), "0.1", True])
def test_bad_factors(bad):
    with pytest.raises(ValueError, match="finite number >= 0"):
        regularizers.L1(bad)
    with pytest.raises(ValueError, match="finite number >= 0"):
        regularizers.OrthogonalRegularizer(bad)


def test_orthogonal_regularizer_needs_a_matrix_and_a_mode():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        regularizers.OrthogonalRegularizer()(jnp.ones(3))
    with pytest.raises(ValueError, match="row"):
        regularizers.OrthogonalRegularizer(mode="row")


@pytest.mark.parametrize("name", ["l1", "l2", "l1_l2", "orthogonal_regularizer"])
def test_gradients_are_finite_at_zero(name):
    gradient = jax.jit(jax.grad(regularizers.get(name)))(jnp.zeros((3, 4)))
    assert bool(jnp.isfinite(gradient).all())


def test_type_stays():
    assert regularizers.get("l1_l2")(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16
