"""What a study finds of the loss surface, against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.data import breast_cancer, digits

import epochal as keras
from epochal.data.examples import as_examples
from epochal.study import loss_surface
from epochal.study.bench import Bench
from epochal.study.descent import descend


@pytest.fixture(scope="module")
def regression():
    """A linear model of breast_cancer with mean squared error, whose gradients are known: 2 (x·w + b - y) (x, 1)."""
    x, y = breast_cancer(200)

    def build():
        model = keras.Sequential([keras.layers.Dense(1, input_shape=(30,))])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        return model

    bench = Bench(build, (x, y.astype(np.float32), None), 0.2, None, (0,), None)
    for _ in bench.travel(8, 0.01, 0, [20]):
        pass
    surface = loss_surface.Surface(bench.programs.test.step, bench.examples, bench.parts.collect()[0])
    params, buffers = bench.parts.collect()
    return surface, loss_surface.flat(params), buffers, x[:160].astype(np.float64), y[:160].astype(np.float64)


def test_the_scatter_of_batch_gradients_is_that_of_a_sample_without_replacement(regression):
    surface, point, buffers, x, y = regression
    inputs = np.concatenate([x, np.ones((160, 1))], axis=1)
    if len(point) == 31 and surface.n == 160:  # kernel, then bias
        residual = inputs @ point - y
    gradients = 2 * residual[:, None] * inputs
    mean = gradients.mean(axis=0)
    np.testing.assert_allclose(surface.value_and_grad(point, buffers)[1], mean, rtol=1e-4, atol=1e-5)
    s2 = np.square(gradients - mean).sum() / 159
    assert surface.variance(point, buffers) == pytest.approx(s2, rel=1e-4)
    for m, found in zip((1, 4, 40, 160), surface.scatter(point, buffers, (1, 4, 40, 160), [400] * 4, 0), strict=True):
        assert found.predicted == pytest.approx(math.sqrt(s2 / m * (1 - m / 160)), rel=1e-4, abs=1e-9)
        assert found.std == pytest.approx(found.predicted, rel=0.12, abs=1e-4)
    assert found.cosine == pytest.approx(1, abs=1e-6)


def test_the_highest_rise_in_a_box_is_that_of_a_quadratic_and_of_a_plane():
    h, w, radius = np.array([1.0, 4.0, 0.1]), np.array([0.5, -1.0, 2.0]), np.array([0.1, 0.2, 0.3])

    def bowl(point):
        return float(h @ point**2 / 2), h * point

    assert loss_surface.highest_rise(bowl, w, radius) == pytest.approx(
        float(h @ ((np.abs(w) + radius) ** 2 - w**2) / 2)
    )
    slope = np.array([1.0, -2.0, 0.0])
    assert loss_surface.highest_rise(lambda p: (float(slope @ p), slope), w, radius) == pytest.approx(0.1 + 0.4)


def test_adaptive_sharpness_does_not_change_when_layers_are_rescaled_and_keskars_does():
    """ReLU(a W₁ x) · W₂ / a is the same function for every a > 0 (Dinh et al. 2017)."""
    x, y = breast_cancer(80)
    drawn = np.random.default_rng(0)
    first, second = drawn.normal(0, 0.3, (30, 6)), drawn.normal(0, 0.3, 6)

    @jax.jit
    def loss(point):
        hidden = jax.nn.relu(x @ point[:180].reshape(30, 6))
        return jnp.mean((hidden @ point[180:] - y) ** 2)

    slope = jax.jit(jax.value_and_grad(loss))

    def at(point):
        value, gradient = slope(jnp.asarray(point, jnp.float32))
        return float(value), np.asarray(gradient, np.float64)

    found = []
    for a in (1.0, 8.0):
        point = np.concatenate([a * first.ravel(), second / a])
        rises = [
            loss_surface.highest_rise(at, point, r(point))
            for r in (loss_surface.adaptive_radius, loss_surface.keskar_radius)
        ]
        found.append((at(point)[0], *rises))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-3)
    assert found[1][2] > 1.5 * found[0][2]


def test_full_batch_descent_on_two_weights_follows_the_known_iteration():
    found = descend(as_examples(*digits(300)))
    best, hessian = np.array(found["best"]), np.array(found["hessian"])
    path = np.array(found["paths"]["300"])
    expected = [path[0]]
    for _ in range(60):
        expected.append(expected[-1] - found["rate"] * hessian @ (expected[-1] - best))
    np.testing.assert_allclose(path, expected, rtol=1e-4, atol=1e-4)
    lengths = {
        size: np.linalg.norm(np.diff(route, axis=0), axis=1).sum() for size, route in found["paths"].items()
    }  # the noisier, the longer
    assert lengths["1"] > lengths["32"] > lengths["300"]
