"""Activation functions that have arguments, as layers; the shape of the input stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Shaped

from epochal import activations, initializers, regularizers
from epochal.layers.base import axes
from epochal.layers.base.layer import Layer, Shape
from epochal.registry import checks

_INF = float("inf")


class ReLU(Layer):
    """max(x, 0), with variations: max_value above, negative_slope * (x - threshold) below the threshold.

    Args:
        max_value: the largest output; no limit when None.
        negative_slope: the slope below the threshold.
        threshold: values up to here count as negative.

    Raises:
        ValueError: a negative argument.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.ReLU(max_value=6)(np.array([[-1.0, 2.0, 9.0]])).tolist()
        [[0.0, 2.0, 6.0]]
    """

    supports_masking = True

    def __init__(
        self,
        max_value: int | float | None = None,
        negative_slope: int | float = 0.0,
        threshold: int | float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.max_value = None if max_value is None else checks.between("max_value", max_value, 0, _INF)
        self.negative_slope = checks.between("negative_slope", negative_slope, 0, _INF)
        self.threshold = checks.between("threshold", threshold, 0, _INF)

    def call(self, x: Shaped[Array, "*axes"]) -> Shaped[Array, "*axes"]:
        return activations.relu(x, self.negative_slope, self.max_value, self.threshold)


class LeakyReLU(Layer):
    """x where it is positive, negative_slope * x elsewhere (Maas et al. 2013).

    Args:
        negative_slope: the slope below 0.
        alpha: Keras 2's name of `negative_slope`.

    Raises:
        ValueError: a negative slope.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.LeakyReLU(0.5)(np.array([[-1.0, 2.0]])).tolist()
        [[-0.5, 2.0]]
    """

    supports_masking = True

    def __init__(self, negative_slope: int | float = 0.3, *, alpha: int | float | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        slope = negative_slope if alpha is None else alpha
        self.negative_slope = checks.between("negative_slope", slope, 0, _INF)

    def call(self, x: Shaped[Array, "*axes"]) -> Shaped[Array, "*axes"]:
        return jax.nn.leaky_relu(x, self.negative_slope)


class ELU(Layer):
    """x where it is positive, alpha * (exp(x) - 1) elsewhere (Clevert et al. 2016).

    Args:
        alpha: minus the limit for x towards minus infinity.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.ELU()(np.array([[0.0, 2.0]])).tolist()
        [[0.0, 2.0]]
    """

    supports_masking = True

    def __init__(self, alpha: int | float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.alpha = checks.between("alpha", alpha, -_INF, _INF)

    def call(self, x: Shaped[Array, "*axes"]) -> Shaped[Array, "*axes"]:
        return jax.nn.elu(x, self.alpha)


class PReLU(Layer):
    """x where it is positive, alpha * x elsewhere, with a learned alpha (He et al. 2015).

    Weights: alpha, of one example's shape, with 1 in place of the shared axes.

    Args:
        alpha_initializer: see `epochal.initializers`.
        alpha_regularizer: see `epochal.regularizers`.
        shared_axes: axes along which alpha is the same; 1 is the first after the batch's.

    Raises:
        ValueError: axes that the inputs do not have, or of unknown size.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.PReLU(shared_axes=[1, 2])(np.zeros((2, 5, 5, 3))).shape
        (2, 5, 5, 3)
    """

    supports_masking = True

    def __init__(
        self,
        alpha_initializer: Any = "zeros",
        alpha_regularizer: Any = None,
        *,
        shared_axes: int | Sequence[int] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.alpha_initializer = initializers.get(alpha_initializer)
        self.alpha_regularizer = regularizers.get(alpha_regularizer)
        self.shared_axes = () if shared_axes is None else checks.positions("shared_axes", shared_axes)
        self.alpha: Any = None

    def build(self, input_shape: Shape) -> None:
        shared = axes.check_axes(self, input_shape, self.shared_axes)
        shape = [1 if a in shared else axes.known_size(self, input_shape, a) for a in range(1, len(input_shape))]
        self.alpha = self.add_weight("alpha", shape, None, self.alpha_initializer, self.alpha_regularizer)

    def call(self, x: Shaped[Array, "*axes"]) -> Float[Array, "*axes"]:
        return jax.nn.relu(x) - self.alpha.get_value() * jax.nn.relu(-x)


class Softmax(Layer):
    """exp(x), scaled to the sum 1 along an axis.

    Args:
        axis: the axis, or several that are taken together.

    Raises:
        ValueError: axes that the inputs do not have.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Softmax()(np.array([[1.0, 1.0]])).tolist()
        [[0.5, 0.5]]
    """

    supports_masking = True

    def __init__(self, axis: int | Sequence[int] = -1, **kwargs: Any):
        super().__init__(**kwargs)
        self.axis = checks.positions("axis", axis)

    def call(self, x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
        return jnp.asarray(jax.nn.softmax(x, axis=axes.check_axes(self, x.shape, self.axis)))
