"""How noisy the gradient of one example is, of a model: prepared here, measured in `plans`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from epochal.critical_batch import NoiseEstimate
from epochal.data.streams.opening import is_stream, made
from epochal.models.input_data import Traversal, prepare
from epochal.plans.noise_scale import NoiseRequest, draw, measure_noise, preconditioner
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
    compiled = training.ready_to("gradient_noise_scale")
    request = NoiseRequest(examples, group, chunk, seed, confidence)
    x = made(x)
    if is_stream(x):
        raise ValueError(
            f"gradient_noise_scale() draws examples at random, which a {type(x).__name__} does not allow: pass arrays."
        )
    if model.stateful_layers():
        raise ValueError("A stateful model's gradient depends on the batches before: there is none of one example.")
    with ExitStack() as closing:
        given = (x, y, sample_weight)
        data = prepare(training, "gradient_noise_scale", given, Traversal(), closing, class_weight)
    rows, drawn = draw(data.first, request)
    drawn = data.weight(drawn)
    programs = training.steps(drawn, compiled)
    scale = None
    if preconditioned:
        scale = preconditioner(compiled.optimizer, model, training.optimizer_fits(programs.parts))
    return measure_noise(programs, drawn, rows, data.first.n, request, scale)
