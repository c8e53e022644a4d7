"""The layer that makes masks of data."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Shaped

from epochal.layers.base import axes
from epochal.layers.base.layer import Layer, Shape
from epochal.registry import checks


class Masking(Layer):
    """Marks steps whose features all equal `mask_value` as not real, and sets them to 0: (n, t, features) stays.

    Layers behind it that know what to do with a mask, (n, t), skip these steps; so do the loss and the metrics.

    Args:
        mask_value: the value, a number.

    Raises:
        ValueError: `mask_value` is no number, or inputs without features.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> from epochal.tracing.masks import get_mask
        >>> y = layers.Masking(-1.0)(np.array([[[1.0, -1.0], [-1.0, -1.0]]]))
        >>> y.tolist(), get_mask(y).tolist()
        ([[[1.0, -1.0], [0.0, 0.0]]], [[True, False]])
    """

    supports_masking = True

    def __init__(self, mask_value: int | float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.mask_value = checks.between("mask_value", mask_value, -math.inf, math.inf, closed=True)

    def build(self, input_shape: Shape) -> None:
        axes.check_rank(self, input_shape, 2, or_more=True)

    def call(self, x: Shaped[Array, "*axes"]) -> Shaped[Array, "*axes"]:
        return jnp.where(self.compute_mask(x, None)[..., None], x, jnp.zeros((), x.dtype))

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """(n, t): where a feature differs from `mask_value`."""
        return jnp.any(inputs != self.mask_value, -1)
