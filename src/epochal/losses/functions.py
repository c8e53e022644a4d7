"""The mathematics of the losses: pure functions of targets and predictions, with Keras's numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float

from epochal import activations
from epochal.losses.shapes import ArrayLike, Number, class_labels, paired
from epochal.support.warn import warn

# Keras's `backend.epsilon()`: probabilities are clipped to epsilon … 1 - epsilon before a logarithm.
EPSILON = 1e-7
# What that does to the logarithm, in float32.
LOG_RANGE = float(np.log(np.float32(EPSILON))), float(np.log(np.float32(1.0 - EPSILON)))


def _floating(y_pred: ArrayLike) -> Float[Array, " ..."]:
    """Predictions in float32 at least: in bfloat16, 1 - epsilon would be 1."""
    p = jnp.asarray(y_pred)
    return p.astype(jnp.promote_types(p.dtype, jnp.float32))


def _pair(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Both as floats of one shape."""
    y, p = paired(y_true, _floating(y_pred))
    return y.astype(p.dtype), p


# -- regression


def mean_squared_error(y_true: ArrayLike, y_pred: ArrayLike) -> Float[Array, " ..."]:
    """Mean over the last axis of (y - p)²: (n, ..., d) and (n, ..., d) -> (n, ...)."""
    y, p = _pair(y_true, y_pred)
    return jnp.mean(jnp.square(y - p), axis=-1)


def mean_absolute_error(y_true: ArrayLike, y_pred: ArrayLike) -> Float[Array, " ..."]:
    """Mean over the last axis of |y - p|: (n, ..., d) and (n, ..., d) -> (n, ...)."""
    y, p = _pair(y_true, y_pred)
    return jnp.mean(jnp.abs(y - p), axis=-1)


def mean_absolute_percentage_error(y_true: ArrayLike, y_pred: ArrayLike) -> Float[Array, " ..."]:
    """Mean over the last axis of |y - p| / max(|y|, 1e-7), in percent: (n, ..., d) -> (n, ...)."""
    y, p = _pair(y_true, y_pred)
    return 100.0 * jnp.mean(jnp.abs((y - p) / jnp.maximum(jnp.abs(y), EPSILON)), axis=-1)


def mean_squared_logarithmic_error(y_true: ArrayLike, y_pred: ArrayLike) -> Float[Array, " ..."]:
    """Mean over the last axis of (log(1 + y) - log(1 + p))², both at least 1e-7: (n, ..., d) -> (n, ...)."""
    y, p = _pair(y_true, y_pred)
    return jnp.mean(jnp.square(jnp.log1p(jnp.maximum(p, EPSILON)) - jnp.log1p(jnp.maximum(y, EPSILON))), axis=-1)


def huber(y_true: ArrayLike, y_pred: ArrayLike, delta: Number = 1.0) -> Float[Array, " ..."]:
    """Mean over the last axis of ½e² up to |e| = `delta`, linear beyond (Huber 1964): (n, ..., d) -> (n, ...)."""
    y, p = _pair(y_true, y_pred)
    return jnp.mean(optax.huber_loss(p, y, delta=delta), axis=-1)


def log_cosh(y_true: ArrayLike, y_pred: ArrayLike) -> Float[Array, " ..."]:
    """Mean over the last axis of log(cosh(p - y)): (n, ..., d) -> (n, ...)."""
    y, p = _pair(y_true, y_pred)
    return jnp.mean(optax.log_cosh(p, y), axis=-1)


def poisson(y_true: ArrayLike, y_pred: ArrayLike) -> Float[Array, " ..."]:
    """Mean over the last axis of p - y log(p + 1e-7), where p is a rate: (n, ..., d) -> (n, ...)."""
    y, p = _pair(y_true, y_pred)
    return jnp.mean(p - y * jnp.log(p + EPSILON), axis=-1)


def cosine_similarity(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> Float[Array, " ..."]:
    """Minus the cosine between targets and predictions along `axis`; 0 where either is a zero vector.

    The gradient at a zero vector is 0; Keras's is NaN.
    """
    y, p = _pair(y_true, y_pred)
    return -jnp.sum(_unit(y, axis) * _unit(p, axis), axis=axis)


def _unit(x: Float[Array, "*s"], axis: int) -> Float[Array, "*s"]:
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=axis, keepdims=True), EPSILON**2))


# -- classes


def binary_crossentropy(
    y_true: ArrayLike, y_pred: ArrayLike, from_logits: bool = False, label_smoothing: Number = 0.0, axis: int = -1
) -> Float[Array, " ..."]:
    """Mean over `axis` of -y log p - (1 - y) log(1 - p): (n, ..., d) -> (n, ...).

    Args:
        y_true: probabilities, 0 … 1.
        y_pred: probabilities, or logits if `from_logits`.
        label_smoothing: s moves the targets to y (1 - s) + s / 2.
        axis: the axis of the mean.
    """
    y, p = _pair(y_true, y_pred)
    return jnp.mean(_binary_entropy(_smoothed(y, label_smoothing, 2), p, from_logits), axis=axis)


def binary_focal_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    apply_class_balancing: bool = False,
    alpha: Number = 0.25,
    gamma: Number = 2.0,
    from_logits: bool = False,
    label_smoothing: Number = 0.0,
    axis: int = -1,
) -> Float[Array, " ..."]:
    """Binary crossentropy times (1 - p of the true class)**gamma (Lin et al. 2017, arXiv:1708.02002).

    With logits it stays exact and differentiable however large they are; Keras's value stops at 16.1 there, without a
    gradient.

    Args:
        y_true: probabilities, 0 … 1, shape (n, ..., d).
        y_pred: probabilities, or logits if `from_logits`, of the same shape.
        apply_class_balancing: weighs class 1 by `alpha` and class 0 by 1 - `alpha`.
        alpha: the weight of class 1.
        gamma: how much easy examples are discounted; 0 is plain crossentropy.
        label_smoothing: s moves the targets to y (1 - s) + s / 2.
        axis: the axis of the mean.
    """
    y, p = _pair(y_true, y_pred)
    y = _smoothed(y, label_smoothing, 2)
    entropy = _binary_entropy(y, p, from_logits)
    chance, miss = (jax.nn.sigmoid(p), jax.nn.sigmoid(-p)) if from_logits else (p, 1.0 - p)
    values = jnp.power(y * miss + (1.0 - y) * chance, gamma) * entropy
    if apply_class_balancing:
        values = values * (y * alpha + (1.0 - y) * (1.0 - alpha))
    return jnp.mean(values, axis=axis)


def categorical_crossentropy(
    y_true: ArrayLike, y_pred: ArrayLike, from_logits: bool = False, label_smoothing: Number = 0.0, axis: int = -1
) -> Float[Array, " ..."]:
    """-sum over the classes of y log p: (n, ..., c) -> (n, ...).

    Smoothing divides by the number of classes along `axis`; Keras divides by the last dimension, whatever `axis` is.

    Args:
        y_true: one-hot or probability vectors.
        y_pred: probabilities (brought to the sum 1), or logits if `from_logits`.
        label_smoothing: s moves the targets to y (1 - s) + s / classes.
        axis: the axis of the classes.
    """
    y, p = _pair(y_true, y_pred)
    _warn_of_one_class("categorical_crossentropy", p, axis)
    y = _smoothed(y, label_smoothing, p.shape[axis])
    logits = None if from_logits else _logits_of(y_pred, axis)
    return -jnp.sum(_times_log(y, _log_chances(p, from_logits, axis, logits)), axis=axis)


def categorical_focal_crossentropy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    alpha: Any = 0.25,
    gamma: Number = 2.0,
    from_logits: bool = False,
    label_smoothing: Number = 0.0,
    axis: int = -1,
) -> Float[Array, " ..."]:
    """Categorical crossentropy with every class's term times alpha (1 - p)**gamma (Lin et al. 2017, arXiv:1708.02002).

    With logits it stays exact and differentiable however large they are; Keras's value stops at 16.1 alpha there.

    Args:
        y_true: one-hot or probability vectors, shape (n, ..., c).
        y_pred: probabilities (brought to the sum 1), or logits if `from_logits`, of the same shape.
        alpha: one weight, or one per class.
        gamma: how much easy examples are discounted.
        label_smoothing: s moves the targets to y (1 - s) + s / classes.
        axis: the axis of the classes.
    """
    y, p = _pair(y_true, y_pred)
    _warn_of_one_class("categorical_focal_crossentropy", p, axis)
    y = _smoothed(y, label_smoothing, p.shape[axis])
    logs = _log_chances(p, from_logits, axis, None if from_logits else _logits_of(y_pred, axis))
    discount = jnp.asarray(alpha, p.dtype) * jnp.power(-jnp.expm1(logs), gamma)
    return -jnp.sum(discount * _times_log(y, logs), axis=axis)


def sparse_categorical_crossentropy(
    y_true: ArrayLike, y_pred: ArrayLike, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1
) -> Float[Array, " ..."]:
    """-log of the probability of the true class: (n, ...) and (n, ..., c) -> (n, ...).

    A class number out of range costs 0, since compiled code cannot raise; `check_labels` finds it beforehand.

    Args:
        y_true: class numbers, shape (n, ...) or (n, ..., 1).
        y_pred: probabilities (brought to the sum 1), or logits if `from_logits`.
        ignore_class: positions with this class number cost 0.
        axis: the axis of the classes.

    Raises:
        ValueError: targets of another shape.
    """
    labels, p = class_labels(y_true, _floating(y_pred), axis)
    labels = labels.astype(jnp.int32)
    logits = p if from_logits else _logits_of(y_pred, axis)
    known = (labels >= 0) & (labels < p.shape[axis])
    if ignore_class is not None:
        # Also in the predictions, so that a NaN at an ignored position reaches neither the loss nor the gradient.
        known &= labels != ignore_class
        p = jnp.where(jnp.expand_dims(known, axis), p, 1.0)
        logits = None if logits is None else jnp.where(jnp.expand_dims(known, axis), logits, 1.0)
    if logits is None:
        total = jnp.squeeze(jnp.sum(p, axis=axis, keepdims=True), axis)
        logs = jnp.log(jnp.clip(_picked(p, labels, axis) / total, EPSILON, 1.0 - EPSILON))
    else:
        logs = _picked(logits, labels, axis) - jax.nn.logsumexp(logits, axis=axis)
        logs = logs if from_logits else jnp.clip(logs, *LOG_RANGE)
    return jnp.where(known, -logs, 0.0)


def _picked(values: Float[Array, "*s"], labels: Array, axis: int) -> Float[Array, " ..."]:
    """The values at the labels along `axis`; 0 at labels out of range.

    Choosing, not multiplying by one-hot: a class that is masked with a logit of -inf must not make 0 * inf.
    """
    classes = jax.lax.broadcasted_iota(jnp.int32, values.shape, axis % values.ndim)
    return jnp.sum(jnp.where(jnp.expand_dims(labels, axis) == classes, values, 0.0), axis=axis)


def categorical_generalized_cross_entropy(y_true: ArrayLike, y_pred: ArrayLike, q: Number) -> Float[Array, " ..."]:
    """(1 - p**q) / q for the probability p of the true class (Zhang & Sabuncu 2018, arXiv:1805.07836): -> (n, ...)."""
    labels, p = class_labels(y_true, _floating(y_pred))
    chance = jnp.sum(p * jax.nn.one_hot(labels.astype(jnp.int32), p.shape[-1], dtype=p.dtype), axis=-1)
    return (1.0 - jnp.power(chance, q)) / q


def kl_divergence(y_true: ArrayLike, y_pred: ArrayLike) -> Float[Array, " ..."]:
    """Sum over the last axis of y log(y / p), both clipped to 1e-7 … 1: (n, ..., c) -> (n, ...)."""
    y, p = (jnp.clip(a, EPSILON, 1.0) for a in _pair(y_true, y_pred))
    return jnp.sum(y * jnp.log(y / p), axis=-1)


def hinge(y_true: ArrayLike, y_pred: ArrayLike) -> Float[Array, " ..."]:
    """Mean over the last axis of max(1 - y p, 0), y in {-1, 1} or {0, 1}: (n, ..., d) -> (n, ...).

    A 0 counts as -1. Keras decides that by looking at the whole batch; here it depends on the label alone.
    """
    y, p = _pair(y_true, y_pred)
    return jnp.mean(jnp.maximum(1.0 - _signs(y) * p, 0.0), axis=-1)


def squared_hinge(y_true: ArrayLike, y_pred: ArrayLike) -> Float[Array, " ..."]:
    """Mean over the last axis of max(1 - y p, 0)², y in {-1, 1} or {0, 1}: (n, ..., d) -> (n, ...)."""
    y, p = _pair(y_true, y_pred)
    return jnp.mean(jnp.square(jnp.maximum(1.0 - _signs(y) * p, 0.0)), axis=-1)


def categorical_hinge(y_true: ArrayLike, y_pred: ArrayLike) -> Float[Array, " ..."]:
    """max(1 + the best wrong score - the right score, 0), y one-hot: (n, ..., c) -> (n, ...)."""
    y, p = _pair(y_true, y_pred)
    return jnp.maximum(jnp.max((1.0 - y) * p, axis=-1) - jnp.sum(y * p, axis=-1) + 1.0, 0.0)


def dice(y_true: ArrayLike, y_pred: ArrayLike, axis: Any = None) -> Float[Array, " ..."]:
    """1 - 2 sum(y p) / (sum y + sum p + 1e-7), with the sums over `axis` (all axes when None)."""
    y, p = _pair(y_true, y_pred)
    return 1.0 - 2.0 * jnp.sum(y * p, axis=axis) / (jnp.sum(y, axis=axis) + jnp.sum(p, axis=axis) + EPSILON)


def tversky(
    y_true: ArrayLike, y_pred: ArrayLike, alpha: Number = 0.5, beta: Number = 0.5, axis: Any = None
) -> Float[Array, " ..."]:
    """1 - the Tversky index (Salehi et al. 2017, arXiv:1706.05721), with the sums over `axis` (all axes when None).

    Args:
        y_true: the truth, 0 … 1.
        y_pred: predictions of the same shape, 0 … 1.
        alpha: the weight of what was missed, (1 - p) y. These are Keras's numbers; its documentation says the reverse.
        beta: the weight of false alarms, p (1 - y).
    """
    y, p = _pair(y_true, y_pred)
    hit, missed, alarm = (jnp.sum(a, axis=axis) for a in (y * p, (1.0 - p) * y, p * (1.0 - y)))
    return 1.0 - hit / (hit + alpha * missed + beta * alarm + EPSILON)


def ctc(y_true: ArrayLike, y_pred: ArrayLike) -> Float[Array, " n"]:
    """Connectionist temporal classification (Graves et al. 2006): -log of the probability of a label sequence.

    Args:
        y_true: class numbers from 1 on, shape (n, l), padded with 0 at the end.
        y_pred: logits, shape (n, t, c), where class 0 is the blank.

    Raises:
        ValueError: other ranks or numbers of rows.
    """
    y, p = jnp.asarray(y_true), _floating(y_pred)
    if y.ndim != 2 or p.ndim != 3 or y.shape[0] != p.shape[0]:
        raise ValueError(f"Expected labels (n, length) and logits (n, time, classes), got {y.shape} and {p.shape}.")
    length = jnp.sum(y != 0, axis=-1, keepdims=True)
    padding = (jnp.arange(y.shape[1]) >= length).astype(p.dtype)
    return optax.ctc_loss(p, jnp.zeros(p.shape[:2], p.dtype), y.astype(jnp.int32), padding)


def _smoothed(y: Float[Array, "*s"], smoothing: Number, classes: int) -> Float[Array, "*s"]:
    return y * (1.0 - smoothing) + smoothing / classes


def _binary_entropy(y: Float[Array, "*s"], p: Float[Array, "*s"], from_logits: bool) -> Float[Array, "*s"]:
    if from_logits:
        return optax.sigmoid_binary_cross_entropy(p, y)
    p = jnp.clip(p, EPSILON, 1.0 - EPSILON)
    return -(y * jnp.log(p) + (1.0 - y) * jnp.log(1.0 - p))


def _logits_of(y_pred: ArrayLike, axis: int) -> Float[Array, " ..."] | None:
    """What probabilities are the softmax of, where that is known: a logarithm of an exponential costs two passes."""
    logits = activations.logits_of(y_pred, axis)
    return None if logits is None else _floating(logits)


def _log_chances(
    p: Float[Array, "*s"], from_logits: bool, axis: int, logits: Float[Array, "*s"] | None = None
) -> Float[Array, "*s"]:
    if from_logits:
        return jax.nn.log_softmax(p, axis=axis)
    if logits is not None:
        return jnp.clip(jax.nn.log_softmax(logits, axis=axis), *LOG_RANGE)
    return jnp.log(jnp.clip(p / jnp.sum(p, axis=axis, keepdims=True), EPSILON, 1.0 - EPSILON))


def _times_log(y: Float[Array, "*s"], logs: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """y * logs where 0 * -inf is 0, as for a class that is masked with a logit of -inf."""
    return jnp.where(y == 0, 0.0, y * logs)


def _signs(y: Float[Array, "*s"]) -> Float[Array, "*s"]:
    return jnp.where(y == 0, -1.0, y)


def _warn_of_one_class(name: str, p: Float[Array, " ..."], axis: int) -> None:
    if p.shape[axis] == 1:
        message = f"{name} of one class is always 0 (predictions {p.shape}). For two classes use binary_crossentropy."
        warn(message)
