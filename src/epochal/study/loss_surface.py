"""The loss as a surface over the weights: its gradients, how they scatter, and how sharply it rises around a point.

Layers act as in evaluation here: no dropout, moving statistics as they are. So the loss is a function of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from epochal.data.examples import Examples
from epochal.data.feeds.block import Batch
from epochal.engine.step import TestStep

KESKAR_RADIUS = 1e-3  # Keskar et al. 2017, epsilon
ADAPTIVE_RADIUS = 1e-2  # of every weight's own size
_ASCENT_STEPS = 20


class Scatter(NamedTuple):
    """How batch gradients lie around the mean gradient at one point.

    Attributes:
        std: root of the mean squared distance |g_B - g| of batch gradients from the mean one.
        predicted: the same by sqrt(S² / m (1 - m/n)).
        cosine: mean cosine of batch gradients with the mean one.
    """

    std: float
    predicted: float
    cosine: float


class Surface:
    """The mean loss of some examples as a function of the trained weights, penalties included.

    Weights and gradients are vectors here: all arrays in their order, one behind the other.

    Args:
        step: a step of evaluation of the model.
        examples: on the device.
        params: weights, for their shapes.
    """

    def __init__(self, step: TestStep, examples: Examples, params: Sequence[Any]):
        self.n = examples.n
        self._data = (examples.x, examples.y, examples.weight)
        pivot = jax.tree.map(lambda a: a[:1], examples.y)
        shapes = [(a.shape, a.dtype) for a in params]
        ends = np.cumsum([int(np.prod(shape)) for shape, _ in shapes])[:-1]

        def loss(vector: Any, buffers: Any, data: Any, rows: Any) -> Any:
            parts = jnp.split(vector, ends)
            params = tuple(p.reshape(shape).astype(dtype) for p, (shape, dtype) in zip(parts, shapes, strict=True))
            x, y, weight = jax.tree.map(lambda a: jnp.take(a, rows, axis=0), data)
            m = rows.shape[0]
            batch = Batch(x, y, weight, None, jnp.float32(m), rows.astype(jnp.uint32), pivot)
            return step.loss(params, buffers, batch, step.call(batch, None))[0]

        def scatter(vector: Any, buffers: Any, data: Any, table: Any, mean: Any) -> Any:
            def one(rows: Any) -> Any:
                gradient = jax.grad(loss)(vector, buffers, data, rows)
                apart = gradient - mean
                size = jnp.sqrt((gradient @ gradient) * (mean @ mean))
                return apart @ apart, jnp.where(size > 0, gradient @ mean / size, 0.0)

            return lax.map(one, table)

        self._value_and_grad = jax.jit(jax.value_and_grad(loss))
        self._scatter = jax.jit(scatter)

    def value_and_grad(self, vector: np.ndarray, buffers: Any) -> tuple[float, np.ndarray]:
        """The loss of all the examples, and its gradient."""
        rows = np.arange(self.n, dtype=np.int32)
        value, gradient = self._value_and_grad(vector.astype(np.float32), buffers, self._data, rows)
        return float(value), np.asarray(gradient, np.float64)

    def variance(self, vector: np.ndarray, buffers: Any) -> float:
        """S² = sum |g_i - g|² / (n - 1): how far the single examples' gradients are from their mean."""
        apart, _ = self._distances(vector, buffers, np.arange(self.n)[:, None])
        return float(apart.sum() / max(self.n - 1, 1))

    def scatter(
        self, vector: np.ndarray, buffers: Any, sizes: Sequence[int], draws: Sequence[int], seed: int
    ) -> list[Scatter]:
        """For each batch size the scatter of so many batches, drawn without replacement, around the mean gradient.

        The variance of a mean of m of n examples is S²/m (1 - m/n): 1/m as long as m is small against n, 0 at m = n.
        """
        s2, generator = self.variance(vector, buffers), np.random.default_rng(seed)
        found = []
        for m, count in zip(sizes, draws, strict=True):
            if m == 1:  # all the batches there are, by the program that `variance` has
                table = np.arange(self.n)[:, None]
            else:
                table = np.stack([generator.permutation(self.n)[:m] for _ in range(1 if m == self.n else count)])
            apart, cosines = self._distances(vector, buffers, table)
            predicted = np.sqrt(s2 / m * (1 - m / self.n))
            found.append(Scatter(float(np.sqrt(apart.mean())), float(predicted), float(cosines.mean())))
        return found

    def _distances(self, vector: np.ndarray, buffers: Any, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = self.value_and_grad(vector, buffers)[1].astype(np.float32)
        found = self._scatter(vector.astype(np.float32), buffers, self._data, table.astype(np.int32), mean)
        return np.asarray(found[0], np.float64), np.asarray(found[1], np.float64)

    def sharpness(self, vector: np.ndarray, buffers: Any) -> tuple[float, float]:
        """Adaptive sharpness and Keskar's, see `adaptive_radius` and `keskar_radius`."""

        def at(point: np.ndarray) -> tuple[float, np.ndarray]:
            return self.value_and_grad(point, buffers)

        adaptive = highest_rise(at, vector, adaptive_radius(vector))
        keskar = highest_rise(at, vector, keskar_radius(vector))
        return adaptive, 100 * keskar / (1 + at(vector)[0])


def adaptive_radius(vector: np.ndarray) -> np.ndarray:
    """Per weight, 1 % of its own size: adaptive sharpness (Kwon et al. 2021) in the maximum norm, with eta = 0.

    Rescaling the weights of neighbouring layers against each other, so that the network computes the same, leaves the
    rise within this box as it is.
    """
    return ADAPTIVE_RADIUS * np.abs(vector)


def keskar_radius(vector: np.ndarray) -> np.ndarray:
    """Per weight, 0.001 (|w| + 1): the box of Keskar et al. 2017, whose sharpness is 100 · rise / (1 + loss)."""
    return KESKAR_RADIUS * (np.abs(vector) + 1)


def highest_rise(
    value_and_grad: Callable[[np.ndarray], tuple[float, np.ndarray]], centre: np.ndarray, radius: np.ndarray
) -> float:
    """How much a function rises at most within a box around a point, by two searches; the higher find counts.

    Both find a lower bound: gradient ascent by signs, 20 steps that shrink from the whole box to a tenth of it, and 10
    iterations of L-BFGS-B as in Keskar et al. 2017.

    Args:
        value_and_grad: point -> value and gradient.
        centre: of the box, (k,).
        radius: half its width for every number, (k,).
    """
    base = value_and_grad(centre)[0]
    return max(_by_signs(value_and_grad, centre, radius), _by_lbfgs(value_and_grad, centre, radius)) - base


def _by_signs(value_and_grad: Callable, centre: np.ndarray, radius: np.ndarray) -> float:
    point, highest = centre, -np.inf
    for k in range(_ASCENT_STEPS + 1):
        value, gradient = value_and_grad(point)
        highest = max(highest, value)
        step = max(0.1, 1 - k / 10)
        point = np.clip(point + step * radius * np.sign(gradient), centre - radius, centre + radius)
    return highest


def _by_lbfgs(value_and_grad: Callable, centre: np.ndarray, radius: np.ndarray) -> float:
    from scipy.optimize import Bounds, minimize

    inside = radius > 0
    if not inside.any():
        return value_and_grad(centre)[0]

    def falling(z: np.ndarray) -> tuple[float, np.ndarray]:  # in units of the radius, so that all sides are alike
        value, gradient = value_and_grad(centre + radius * z)
        return -value, -gradient * radius

    one: Any = np.ones(len(centre))
    bounds = Bounds(-one, one)
    start = np.zeros(len(centre))
    return -float(minimize(falling, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 10}).fun)


def flat(arrays: Sequence[Any]) -> np.ndarray:
    """Arrays as one vector, float64."""
    return np.concatenate([np.asarray(a, np.float64).reshape(-1) for a in arrays])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the angle between two vectors; 0 if one has no length."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size > 0 else 0.0
