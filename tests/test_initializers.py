"""Initializers: Keras's names, fan rules and numbers; bounds and moments in closed form."""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras.src.initializers.random_initializers import compute_fans

from epochal import initializers
from epochal.random import SeedStream, set_random_seed
from epochal.registry.serialize import deserialize, serialize

PRESETS = ["glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "lecun_normal", "lecun_uniform"]
RANDOM = [*PRESETS, "random_normal", "random_uniform", "truncated_normal", "variance_scaling", "orthogonal"]
KEY = jax.random.key(3)


@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_gives_the_numbers_of_keras(name):
    ours = initializers.NAMES[name](seed=11)((4, 3, 5))
    theirs = keras.initializers.get({"class_name": name, "config": {"seed": 11}})((4, 3, 5))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("RandomNormal", {"mean": 1.0, "stddev": 2.0}),
        ("TruncatedNormal", {"mean": 1.0, "stddev": 2.0}),
        ("RandomUniform", {"minval": -1.0, "maxval": 3.0}),
        ("VarianceScaling", {"scale": 2.5, "mode": "fan_out", "distribution": "untruncated_normal"}),
        ("VarianceScaling", {"scale": 2.5, "mode": "fan_avg", "distribution": "normal"}),
        ("VarianceScaling", {"distribution": "uniform", "input_axes": [0], "output_axes": [1, 2]}),
        ("GlorotUniform", {"input_axes": [0], "output_axes": [1, 2]}),
        ("Orthogonal", {"gain": 3.0}),
    ],
)
def test_arguments_mean_what_they_mean_in_keras(name, arguments):
    ours = getattr(initializers, name)(**arguments, seed=5)
    theirs = getattr(keras.initializers, name)(**arguments, seed=5)
    np.testing.assert_allclose(ours((4, 3, 5)), theirs((4, 3, 5)), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(deserialize(serialize(ours))((4, 3, 5)), ours((4, 3, 5)))


def test_constants():
    np.testing.assert_array_equal(initializers.Zeros()((2, 3)), np.zeros((2, 3)))
    np.testing.assert_array_equal(initializers.Ones()((2, 3)), np.ones((2, 3)))
    np.testing.assert_array_equal(initializers.Constant(2.5)((2, 3)), np.full((2, 3), 2.5))
    np.testing.assert_array_equal(initializers.Constant([1, 2, 3])((2, 3)), [[1, 2, 3]] * 2)
    np.testing.assert_array_equal(initializers.Identity(2.0)((2, 3)), 2 * np.eye(2, 3))
    with pytest.raises(ValueError, match="broadcasts"):
        initializers.Constant([1, 2])((2, 3))
    with pytest.raises(ValueError, match="2 axes"):
        initializers.Identity()((2, 3, 4))


@given(st.lists(st.integers(1, 9), max_size=5))
def test_fans_are_those_of_keras(shape):
    assert initializers.fans(shape) == compute_fans(tuple(shape))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("shape", [(200, 300), (3, 3, 40, 50)])
def test_moments_and_bounds(name, shape):
    fan_in, fan_out = initializers.fans(shape)
    variance = {"glorot": 2 / (fan_in + fan_out), "he": 2 / fan_in, "lecun": 1 / fan_in}[name.split("_")[0]]
    drawn = np.asarray(initializers.get(name)(shape, key=KEY), np.float64)
    n = drawn.size
    assert abs(drawn.mean()) < 5 * math.sqrt(variance / n)
    assert abs(drawn.var() / variance - 1) < 5 * math.sqrt(2 / n)
    half_widths = {"uniform": math.sqrt(3 * variance), "normal": 2 * math.sqrt(variance) / 0.87962566103423978}
    bound = half_widths[name.split("_")[1]]
    assert 0.98 * bound < np.abs(drawn).max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("shape", [(5, 5), (8, 3), (3, 8), (2, 2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_orthogonal_matrices_are_orthogonal(shape, dtype):
    drawn = initializers.Orthogonal(gain=2.0)(shape, dtype, KEY)
    assert drawn.dtype == dtype
    matrix = np.asarray(drawn, np.float64).reshape(-1, shape[-1])
    product = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-5 if dtype == "float32" else 0.06)


@pytest.mark.parametrize("name", RANDOM)
def test_where_randomness_comes_from(name):
    make = initializers.NAMES[name]
    same = np.testing.assert_array_equal
    seeded = make(seed=1)
    same(seeded((4, 5)), seeded((4, 5), key=KEY))  # the seed alone decides
    same(make()((4, 5), key=KEY), make()((4, 5), key=KEY))
    assert not np.array_equal(make()((4, 5), key=KEY), make()((4, 5), key=jax.random.key(4)))
    free = make()
    set_random_seed(1)
    first, second = free((4, 5)), free((4, 5))
    set_random_seed(1)
    same(free((4, 5)), first)
    assert not np.array_equal(first, second)
    stream, again = make(seed=SeedStream(2)), make(seed=SeedStream(2))
    first = stream((4, 5))
    same(again((4, 5)), first)
    assert not np.array_equal(stream((4, 5)), first)


@pytest.mark.parametrize("bad", ["7", 1.5, True])
def test_bad_seeds(bad):
    with pytest.raises(ValueError, match="seed"):
        initializers.HeNormal(seed=bad)


def test_bad_variance_scaling():
    with pytest.raises(ValueError, match="scale above 0"):
        initializers.VarianceScaling(scale=0)
    with pytest.raises(ValueError, match=r"Unknown mode 'fan_inn'.*'fan_in'"):
        initializers.VarianceScaling(mode="fan_inn")
    with pytest.raises(ValueError, match="distribution"):
        initializers.VarianceScaling(distribution="cauchy")


@pytest.mark.parametrize("name", [*RANDOM, "zeros", "ones", "constant", "identity"])
def test_draw_is_the_same_compiled(name):
    initializer = initializers.get(name)
    drawn = initializers.draw(initializer, (4, 5), "float32", KEY)
    compiled = jax.jit(lambda key: initializers.draw(initializer, (4, 5), "float32", key))(KEY)
    np.testing.assert_allclose(drawn, compiled, rtol=1e-5, atol=1e-6)
    half = jax.eval_shape(lambda key: initializers.draw(initializer, (4, 5), "bfloat16", key), KEY)
    assert half.dtype == jnp.bfloat16


class Halves(initializers.Initializer):
    """As a user of Keras writes one."""

    def __call__(self, shape, dtype=None):
        return jnp.full(shape, 0.5, dtype)


class Anything(initializers.Initializer):
    def __call__(self, shape, dtype=None, **kwargs):
        return jnp.full(shape, 0.5, dtype)


@pytest.mark.parametrize(
    "function",
    [
        lambda shape, dtype: np.full(shape, 0.5, dtype),
        lambda shape, dtype=None: jnp.full(shape, 0.5, dtype),
        lambda shape: np.full(shape, 0.5),
        lambda shape: np.full(shape, 0.5).tolist(),
        functools.partial(np.full, fill_value=0.5),
        jax.nn.initializers.constant(0.5),
        Halves(),
        Anything(),
        keras.initializers.Constant(0.5),
    ],
)
def test_draw_calls_functions_of_users(function):
    initializer = initializers.get(function)
    for drawn in (
        initializers.draw(initializer, (2, 3), "float32", KEY),
        jax.jit(lambda key: initializers.draw(initializer, (2, 3), "float32", key))(KEY),
    ):
        assert isinstance(drawn, jax.Array)
        assert drawn.dtype == jnp.float32
        np.testing.assert_array_equal(drawn, np.full((2, 3), 0.5))


def test_draw_checks_the_shape():
    with pytest.raises(ValueError, match=r"Expected an array of shape \(2, 3\).*got \(3,\)"):
        initializers.draw(lambda shape: np.zeros(shape[1:]), (2, 3), "float32", KEY)


def test_get():
    assert initializers.get(None) is None
    assert isinstance(initializers.get("he_normal"), initializers.HeNormal)
    assert isinstance(initializers.get("HeNormal"), initializers.HeNormal)
    assert isinstance(initializers.get("uniform"), initializers.RandomUniform)
    assert isinstance(initializers.get(initializers.Ones), initializers.Ones)
    made = initializers.Constant(3.0)
    assert initializers.get(made) is made
    assert initializers.get({"class_name": "Constant", "config": {"value": 3.0}}).value == 3.0
    assert initializers.get(serialize(made)).value == 3.0
    np.testing.assert_array_equal(initializers.get(np.arange(6.0).reshape(2, 3))((2, 3)), [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(ValueError, match=r"Unknown initializer 'glorot_unifrom'.*'glorot_uniform'"):
        initializers.get("glorot_unifrom")
    with pytest.raises(ValueError, match="got 3"):
        initializers.get(3)


def test_names_and_defaults_are_those_of_keras():
    classes = {n: c for n, c in vars(keras.initializers).items() if inspect.isclass(c) and "STFT" not in n}
    del classes["Initializer"]
    for name, theirs in classes.items():
        if name == "stft":
            continue
        ours = initializers.NAMES[name]
        assert issubclass(ours, initializers.Initializer)
        named = inspect.signature(theirs.__init__).parameters.items()
        found = {k: p.default for k, p in inspect.signature(ours.__init__).parameters.items()}
        assert {k: p.default for k, p in named} == found, name


def test_drawn_together_each_has_its_own_distribution_and_seeded_ones_their_own_draw() -> None:
    wanted = [
        (initializers.GlorotUniform(), (200, 100), "float32"),
        (initializers.HeNormal(), (300, 50), "float32"),
        (initializers.Zeros(), (7,), "float32"),
        (initializers.GlorotUniform(), (200, 100), "float32"),
        (initializers.RandomNormal(3.0, 0.5), (100, 100), "float32"),
        (initializers.GlorotUniform(seed=5), (20, 10), "float32"),
        (initializers.Orthogonal(), (6, 6), "float32"),
        (lambda shape, dtype: np.full(shape, 2.0), (3,), "float32"),
    ]
    drawn = [np.asarray(a) for a in jax.jit(lambda key: initializers.draw_together(wanted, key))(jax.random.key(0))]
    assert [a.shape for a in drawn] == [shape for _, shape, _ in wanted]
    assert abs(drawn[0]).max() <= np.sqrt(6 / 300)
    assert drawn[0].std() == pytest.approx(np.sqrt(2 / 300), rel=0.02)
    assert drawn[1].std() == pytest.approx(np.sqrt(2 / 300), rel=0.03)
    assert (drawn[2] == 0).all()
    assert abs(np.corrcoef(drawn[0].ravel(), drawn[3].ravel())[0, 1]) < 0.03
    assert drawn[4].mean() == pytest.approx(3.0, abs=0.02)
    np.testing.assert_allclose(drawn[5], initializers.GlorotUniform(seed=5)((20, 10)), atol=1e-7)
    np.testing.assert_allclose(drawn[6] @ drawn[6].T, np.eye(6), atol=1e-5)
    assert (drawn[7] == 2).all()
