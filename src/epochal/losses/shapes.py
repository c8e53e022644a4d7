"""How targets, weights and predictions fit together: by what their shapes say, never by broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Num, Shaped


@runtime_checkable
class _HasArray(Protocol):
    """Anything NumPy can read: tables, tensors of other libraries."""

    def __array__(self) -> np.ndarray: ...


ArrayLike: TypeAlias = Array | np.ndarray | np.generic | bool | int | float | Sequence[Any] | _HasArray
Number: TypeAlias = int | float


def aligned(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Shaped[Array, " n *dims"], Shaped[Array, " n *dims"]]:
    """Targets and predictions of one and the same shape, examples first; nothing is ever broadcast.

    Args:
        y_true: targets of `y_pred`'s shape, or without its last dimension where that is 1.
        y_pred: predictions, shape (n, ...). Of rank 1 they become (n, 1).

    Raises:
        ValueError: the shapes disagree; the message names both.
    """
    y, p = jnp.asarray(y_true), jnp.asarray(y_pred)
    shapes = y.shape, p.shape
    if p.ndim == 1:
        p = p[:, None]
    if y.ndim == p.ndim - 1 and p.shape[-1] == 1:
        y = y[..., None]
    if y.shape != p.shape:
        hint = ""
        if y.shape in (p.shape[:-1], (*p.shape[:-1], 1)):
            hint = " Integer labels need a sparse loss or metric, such as 'sparse_categorical_crossentropy'."
        raise ValueError(f"Expected targets of the predictions' shape {shapes[1]}, got {shapes[0]}.{hint}")
    return y, p


def paired(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Shaped[Array, " *s"], Shaped[Array, " *s"]]:
    """`aligned`, but what is of rank 1 on both sides stays so: a function takes it as a single example."""
    y, p = jnp.asarray(y_true), jnp.asarray(y_pred)
    return (y, p) if y.shape == p.shape else aligned(y, p)


def class_labels(y_true: ArrayLike, y_pred: ArrayLike, axis: int = -1) -> tuple[Num[Array, "*d"], Shaped[Array, "*p"]]:
    """Class numbers of shape `y_pred.shape` without `axis`, beside the predictions.

    Args:
        y_true: class numbers, of that shape or with a dimension of 1 in the place of `axis`.
        y_pred: a probability or logit per class along `axis`.

    Raises:
        ValueError: any other shape; the message names both.
    """
    y, p = jnp.asarray(y_true), jnp.asarray(y_pred)
    if p.ndim < 1:
        raise ValueError("Expected predictions with a dimension of classes, got a scalar.")
    axis, given = axis % p.ndim, y.shape
    expected = p.shape[:axis] + p.shape[axis + 1 :]
    if y.ndim == p.ndim and y.shape[axis] == 1:
        y = y.squeeze(axis)
    if y.shape != expected:
        hint = ""
        if given == p.shape:
            hint = " One-hot rows need a categorical loss or metric, such as 'categorical_crossentropy'."
        raise ValueError(f"Expected class numbers of shape {expected} for predictions of {p.shape}, got {given}.{hint}")
    return y, p


def kind_by_shape(y_shape: Sequence[int | None], pred_shape: Sequence[int | None]) -> str:
    """How these targets belong to these predictions: "binary", "sparse" or "categorical".

    Predictions with one value per position are binary; targets of lower rank, or with a last dimension of 1 against
    more, are class numbers; anything else is a one-hot or probability vector.
    """
    if len(pred_shape) < 2 or pred_shape[-1] == 1:
        return "binary"
    return "sparse" if len(y_shape) < len(pred_shape) or y_shape[-1] == 1 else "categorical"


def broadcast_weights(weights: ArrayLike, shape: Sequence[int]) -> Float[Array, " ..."]:
    """Weights aligned from the left and broadcast to values of `shape`.

    Args:
        weights: shape (n,), (n, t), or either with a trailing 1.
        shape: the values' shape, (n, ...).

    Raises:
        ValueError: the weights do not fit; the message names both shapes.
    """
    given = jnp.asarray(weights, jnp.float32)
    w = given
    while w.ndim > len(shape) and w.shape[-1] == 1:
        w = w[..., 0]
    w = w.reshape(w.shape + (1,) * (len(shape) - w.ndim))
    if w.ndim != len(shape) or any(a not in (1, b) for a, b in zip(w.shape, shape, strict=True)):
        raise ValueError(f"Expected sample weights that fit values of shape {tuple(shape)}, got shape {given.shape}.")
    return jnp.broadcast_to(w, tuple(shape))


def rank_matched(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Shaped[Array, " ..."], Shaped[Array, " ..."]]:
    """Targets (n, ...) as (n, ..., 1) where the predictions are (n, ..., 1); everything else as it is."""
    y, p = jnp.asarray(y_true), jnp.asarray(y_pred)
    return (y[..., None] if y.ndim > 0 and p.shape == (*y.shape, 1) else y), p
