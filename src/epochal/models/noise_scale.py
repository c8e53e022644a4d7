"""How noisy the gradient of one example is, measured on a model: from which batch size on larger ones help little."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from epochal.critical_batch import NoiseEstimate, noise_scale
from epochal.data.arrays import read_rows
from epochal.data.examples import Examples, as_examples
from epochal.data.streams.opening import is_stream, made
from epochal.engine.example_gradients import chunk_size, grouped, squares_and_products
from epochal.engine.objective.labels import check_labels
from epochal.engine.state import Parts
from epochal.layers import BatchNormalization
from epochal.optimizers import Adam, Nadam, Optimizer
from epochal.registry.checks import is_count
from epochal.support.types import Checked


def gradient_noise_scale(
    model: Any,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    class_weight: Checked = None,
    examples: Checked = 2048,
    group: Checked = None,
    chunk: Checked = None,
    seed: int = 0,
    preconditioned: bool = False,
    confidence: Checked = 0.95,
) -> NoiseEstimate:
    """The gradient noise scale of a compiled model at its current weights: tr Σ / |G|², in examples.

    G is the mean gradient of what `fit` minimises, Σ the covariance of one example's. A step with much fewer examples
    than this is mostly noise; one with much more repeats what fewer would tell (McCandlish et al. 2018,
    arXiv:1812.06162). It grows in the course of training. Examples are drawn at random without replacement, so their
    order does not matter; with `sample_weight` and masks, G and Σ are those of the weighted losses. Penalties and
    `add_loss` belong to the loss; weight decay and clipping, which are the optimizer's, do not. Dropout is active, with
    a mask per example. Batch normalization uses its moving statistics, as one example has none of its own.

    Args:
        model: compiled; it is the same afterwards, to the bit.
        x, y, sample_weight, class_weight: arrays as `fit` takes them, n rows; arrays on disk are read where drawn.
        examples: how many to draw, at most n. With N of them, scales up to about N can be told.
        group: how many examples' mean gradient is taken at once: larger groups are computed faster and tell nearly as
            much. None: as many as leave 128 gradients, at most 16.
        chunk: how many gradients are in memory at a time; None: as many as take 64 MB, at most 128.
        seed: of the draw, and of the dropout masks.
        preconditioned: of the gradient as Adam scales it, g / (sqrt(v) + epsilon) with v of the optimizer's state.
        confidence: of the interval.

    Returns:
        a `NoiseEstimate`: `value`, `low`, `high` and what they are made of. Where the mean gradient cannot be told from
        zero the answer is "at least `low`": `high` is infinite.

    Raises:
        RuntimeError: never compiled, or called inside a JAX transformation.
        ValueError: batches in place of arrays, a recurrent model with `stateful=True`, gradients that are not finite,
            `preconditioned` with batch normalization, or an optimizer that is none of Adam's kind or has made no step
            yet, or arguments out of their range.

    Example:
        >>> import epochal as keras
        >>> print(keras.gradient_noise_scale(model, x, y))  # doctest: +SKIP
        noise scale 341 (95 %: 236 … 631), from 1,792 examples
    """
    training = model._training
    recipe = training.ready_to("gradient_noise_scale")
    for name, value in (("examples", examples), ("group", group), ("chunk", chunk)):
        if not (is_count(value) or (name != "examples" and value is None)):
            raise ValueError(f"Expected {name} to be an int >= 1, got {value!r}.")
    if not isinstance(confidence, float) or not 0 < confidence < 1:
        raise ValueError(f"Expected confidence between 0 and 1, such as 0.95, got {confidence!r}.")
    x = made(x)
    if is_stream(x):
        raise ValueError(
            f"gradient_noise_scale() draws examples at random, which a {type(x).__name__} does not allow: pass arrays."
        )
    if model.stateful_layers():
        raise ValueError("A stateful model's gradient depends on the batches before: there is none of one example.")
    data = training.aligned(as_examples(x, y, sample_weight, method="gradient_noise_scale"))
    count = min(int(examples), data.n)
    size = int(group) if group is not None else max(1, min(16, count // 128))
    if count // size < 3:
        raise ValueError(f"Expected at least 3 gradients, got {count} examples in groups of {size}.")
    rows = np.random.default_rng(seed).choice(data.n, count - count % size, replace=False)
    drawn = Examples(*read_rows((data.x, data.y, data.weight), rows), n=len(rows))
    drawn = training.weighted(drawn, class_weight)
    steps = training.steps(drawn, recipe)
    check_labels(steps.objective, drawn)
    scale = _preconditioner(model, steps.parts) if preconditioned else None
    arrays, ids = grouped((drawn.x, drawn.y, drawn.weight), rows, size)
    together = min(int(chunk) if chunk is not None else chunk_size(steps.parts), len(ids))
    squares, products = squares_and_products(steps, arrays, ids, seed, together, scale)
    broken = ids[~np.isfinite(squares)]
    if len(broken):
        raise ValueError(
            f"{len(broken)} of {len(ids)} gradients are not finite (first that of rows {broken[0].tolist()} of x): "
            "look for NaN in the data, or start from weights with a finite loss."
        )
    return noise_scale(squares, products, group=size, n=data.n, confidence=confidence)


def _preconditioner(model: Any, parts: Parts) -> list[Array]:
    """What Adam multiplies each gradient with, up to a factor that all share.

    Raises:
        ValueError: an optimizer that keeps no such thing, or of other gradients than those that are measured.
    """
    optimizer: Optimizer = model.optimizer
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
    if state is None or not optimizer.iterations or not model._training.optimizer_fits(parts):
        raise ValueError("preconditioned=True needs the optimizer's state for these weights: train some steps first.")
    kind = "velocity_hat" if getattr(optimizer, "amsgrad", False) else "velocity"
    # Adam adds epsilon to the uncorrected root, Nadam to the corrected one.
    correction = 1.0 if isinstance(optimizer, Adam) else 1 - optimizer.beta_2 ** int(state.iterations)
    return [1 / (jnp.sqrt(slots[kind] / correction) + optimizer.epsilon) for slots in state.slots]
