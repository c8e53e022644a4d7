"""The gradient noise scale of a model at its current weights, from its programs and examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from epochal.critical_batch import NoiseEstimate, noise_scale
from epochal.data.arrays import read_rows
from epochal.data.examples import Examples
from epochal.engine.example_gradients import chunk_size, grouped, squares_and_products
from epochal.engine.objective.labels import check_labels
from epochal.engine.programs import Programs
from epochal.layers import BatchNormalization
from epochal.optimizers import Adam, Nadam, Optimizer
from epochal.registry.checks import is_count


@dataclass(frozen=True)
class NoiseRequest:
    """How noise is to be measured.

    Attributes:
        examples, group, chunk, seed, confidence: as `gradient_noise_scale` takes them.

    Raises:
        ValueError: an argument out of its range.
    """

    examples: Any = 2048
    group: Any = None
    chunk: Any = None
    seed: int = 0
    confidence: Any = 0.95

    def __post_init__(self) -> None:
        for name, value in (("examples", self.examples), ("group", self.group), ("chunk", self.chunk)):
            if not (is_count(value) or (name != "examples" and value is None)):
                raise ValueError(f"Expected {name} to be an int >= 1, got {value!r}.")
        if not isinstance(self.confidence, float) or not 0 < self.confidence < 1:
            raise ValueError(f"Expected confidence between 0 and 1, such as 0.95, got {self.confidence!r}.")

    def groups(self, n: int) -> tuple[int, int]:
        """How many of n examples are drawn, and of how many the mean gradient is taken at once.

        Raises:
            ValueError: they are too few.
        """
        count = min(int(self.examples), n)
        size = int(self.group) if self.group is not None else max(1, min(16, count // 128))
        if count // size < 3:
            raise ValueError(f"Expected at least 3 gradients, got {count} examples in groups of {size}.")
        return count - count % size, size


def draw(examples: Examples, request: NoiseRequest) -> tuple[np.ndarray, Examples]:
    """Examples drawn at random without replacement, read into memory: their row numbers, and they themselves.

    Raises:
        ValueError: there are too few of them.
    """
    count, _ = request.groups(examples.n)
    rows = np.random.default_rng(request.seed).choice(examples.n, count, replace=False)
    return rows, Examples(*read_rows((examples.x, examples.y, examples.weight), rows), n=len(rows))


def measure_noise(
    programs: Programs,
    drawn: Examples,
    rows: np.ndarray,
    n: int,
    request: NoiseRequest,
    scale: list[Array] | None = None,
) -> NoiseEstimate:
    """The gradient noise scale at the model's current weights, which stay as they are.

    Args:
        programs: the model's.
        drawn: examples in the model's form, in memory, with the weights of their classes.
        rows: their numbers.
        n: of how many examples they were drawn.
        request: how it is to be measured.
        scale: what gradients are multiplied with, one array per parameter; None leaves them as they are.

    Raises:
        ValueError: labels that the losses cannot take, or gradients that are not finite.
    """
    check_labels(programs.objective, drawn)
    _, size = request.groups(n)
    arrays, ids = grouped((drawn.x, drawn.y, drawn.weight), rows, size)
    together = min(int(request.chunk) if request.chunk is not None else chunk_size(programs.parts), len(ids))
    squares, products = squares_and_products(programs, arrays, ids, request.seed, together, scale)
    broken = ids[~np.isfinite(squares)]
    if len(broken):
        raise ValueError(
            f"{len(broken)} of {len(ids)} gradients are not finite (first that of rows {broken[0].tolist()} of x): "
            "look for NaN in the data, or start from weights with a finite loss."
        )
    return noise_scale(squares, products, group=size, n=n, confidence=request.confidence)


def preconditioner(optimizer: Optimizer, model: Any, fits: bool) -> list[Array]:
    """What Adam multiplies each gradient with, up to a factor that all share.

    Args:
        optimizer: with the state that it has.
        model: whose gradients it has seen.
        fits: whether its state is that of the weights that train now.

    Raises:
        ValueError: an optimizer that keeps no such thing, or of other gradients than those that are measured.
    """
    if not isinstance(optimizer, Adam | Nadam):
        raise ValueError(
            f"preconditioned=True needs Adam, AdamW or Nadam, which keep the gradients' mean squares; this model has "
            f"{type(optimizer).__name__}."
        )
    if any(isinstance(node, BatchNormalization | nnx.BatchNorm) for _, node in nnx.iter_graph(model)):
        raise ValueError(
            "preconditioned=True does not work with batch normalization: Adam's state is of gradients with the batch's "
            "statistics, the gradient of one example is taken with the moving ones."
        )
    state = optimizer.state
    if state is None or not optimizer.iterations or not fits:
        raise ValueError("preconditioned=True needs the optimizer's state for these weights: train some steps first.")
    kind = "velocity_hat" if getattr(optimizer, "amsgrad", False) else "velocity"
    # Adam adds epsilon to the uncorrected root, Nadam to the corrected one.
    correction = 1.0 if isinstance(optimizer, Adam) else 1 - optimizer.beta_2 ** int(state.iterations)
    return [1 / (jnp.sqrt(slots[kind] / correction) + optimizer.epsilon) for slots in state.slots]
