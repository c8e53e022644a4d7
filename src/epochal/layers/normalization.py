"""Normalization layers: outputs have the inputs' shape."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Shaped

from epochal import initializers, regularizers
from epochal.layers.base.axes import check_axes, check_size, known_size
from epochal.layers.base.layer import Layer, Shape
from epochal.registry import checks
from epochal.tracing import forward_pass


class _Affine(Layer):
    """What the normalizations share: a scale gamma and an offset beta."""

    supports_masking = True

    def _set_affine(self, center: bool, scale: bool, beta: tuple[Any, Any], gamma: tuple[Any, Any]) -> None:
        self.center, self.scale = bool(center), bool(scale)
        self.beta_initializer, self.beta_regularizer = initializers.get(beta[0]), regularizers.get(beta[1])
        self.gamma_initializer, self.gamma_regularizer = initializers.get(gamma[0]), regularizers.get(gamma[1])
        self.gamma: Any = None
        self.beta: Any = None

    def _add_affine(self, shape: Sequence[int]) -> None:
        if self.scale:
            self.gamma = self.add_weight("gamma", shape, None, self.gamma_initializer, self.gamma_regularizer)
        if self.center:
            self.beta = self.add_weight("beta", shape, None, self.beta_initializer, self.beta_regularizer)

    def _normalize(self, x: Array, mean: Any, variance: Any, epsilon: int | float, shape: Sequence[int]) -> Array:
        """(x - mean) / sqrt(variance + epsilon) * gamma + beta, the weights reshaped to `shape`."""
        factor = lax.rsqrt(variance + epsilon)
        if self.gamma is not None:
            factor = factor * self.gamma.get_value().reshape(shape).astype(x.dtype)
        y = (x - mean) * factor
        return y if self.beta is None else y + self.beta.get_value().reshape(shape).astype(x.dtype)


class BatchNormalization(_Affine):
    """Normalizes each channel by its mean and variance over the batch (Ioffe and Szegedy 2015).

    In training the batch's own mean and biased variance are taken, over the real examples: rows that only pad a batch
    do not count. They also move the moving statistics: moving = momentum * moving + (1 - momentum) * batch. Otherwise,
    and while the layer is frozen (`trainable = False`), the moving statistics are taken.
    Weights, all (channels,): gamma, beta, moving_mean, moving_variance.

    Args:
        axis: the axis of the channels.
        momentum: how slowly the moving statistics move, in [0, 1].
        epsilon: added to the variance.
        center: whether beta is added.
        scale: whether gamma is multiplied.
        beta_initializer: see `epochal.initializers`; likewise the other initializers.
        beta_regularizer: see `epochal.regularizers`; likewise gamma's.

    Raises:
        ValueError: momentum or epsilon out of range; inputs without a known size along `axis`.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.BatchNormalization()(np.array([[1.0], [3.0]]), training=True).round(2).tolist()
        [[-1.0], [1.0]]
    """

    across_batch = True

    def __init__(
        self,
        axis: int = -1,
        momentum: int | float = 0.99,
        epsilon: int | float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.axis = checks.position("axis", axis)
        self.momentum = checks.between("momentum", momentum, 0, 1, closed=True)
        self.epsilon = checks.between("epsilon", epsilon, 0, float("inf"))
        self._set_affine(center, scale, (beta_initializer, beta_regularizer), (gamma_initializer, gamma_regularizer))
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)

    def build(self, input_shape: Shape) -> None:
        shape = (known_size(self, input_shape, self.axis),)
        self._add_affine(shape)
        self.moving_mean = self.add_weight("moving_mean", shape, None, self.moving_mean_initializer, trainable=False)
        self.moving_variance = self.add_weight(
            "moving_variance", shape, None, self.moving_variance_initializer, trainable=False
        )

    def call(self, x: Shaped[Array, "*axes"], training: bool = False, mask: Any = None) -> Float[Array, "*axes"]:
        check_size(self, "channels", self.moving_mean.shape[0], x.shape[self.axis])
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        shape = [1] * x.ndim
        shape[self.axis] = -1
        known = forward_pass.current()
        if training and self.trainable and not (known is not None and known.frozen):
            return self._by_batch(wide, mask, shape).astype(self.compute_dtype)
        mean, variance = (v.get_value().reshape(shape) for v in (self.moving_mean, self.moving_variance))
        y = self._normalize(wide, mean.astype(wide.dtype), variance.astype(wide.dtype), self.epsilon, shape)
        return y.astype(self.compute_dtype)

    def _by_batch(self, x: Array, mask: Any, shape: Sequence[int]) -> Array:
        """Normalizes with the batch's mean and variance over what is real; moves the moving statistics.

        Not real are rows that pad the batch, and positions that `mask`, (n, t), leaves out.
        """
        axes = tuple(a for a in range(x.ndim) if a != self.axis % x.ndim)
        call = forward_pass.current()
        rows = call.rows if call is not None else None
        momentum: int | float | Array = self.momentum
        padded = rows is not None and rows.shape[0] == x.shape[0] and self.axis % x.ndim != 0
        real = None
        if padded or mask is not None:
            real = jnp.ones([1] * x.ndim, bool)
            for known in (rows if padded else None, mask):
                if known is not None:
                    real = real & (known > 0).reshape(*known.shape, *[1] * (x.ndim - known.ndim))
            momentum = jnp.where(real.any(), momentum, 1)  # a part of a batch that is all padding moves nothing
        weights = [None if w is None else w.get_value().reshape(shape).astype(x.dtype) for w in (self.gamma, self.beta)]
        sizes = [x.shape[a] if n == -1 else 1 for a, n in enumerate(shape)]
        gamma = jnp.ones(sizes, x.dtype) if weights[0] is None else weights[0]
        beta = jnp.zeros(sizes, x.dtype) if weights[1] is None else weights[1]
        y, mean, variance = _standardize(x, gamma, beta, real, axes, self.epsilon)
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            old = moving.get_value()
            new = old.astype(x.dtype) * momentum + now.reshape(-1) * (1 - momentum)
            moving.set_value(new.astype(old.dtype))
        return y


def _mean(x: Array, real: Any, axes: tuple[int, ...]) -> Array:
    """The mean over the axes, kept with size 1, of what is real; all is when `real`, broadcast to `x`, is None."""
    if real is None:
        return x.mean(axes, keepdims=True)
    per_place = math.prod(x.shape[a] for a in axes) // real.size  # values of a channel that one entry of `real` is for
    count = jnp.maximum(real.sum(), 1).astype(x.dtype) * per_place
    return jnp.where(real, x, 0).sum(axes, keepdims=True) / count


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def _standardize(
    x: Any, gamma: Any, beta: Any, real: Any, axes: tuple[int, ...], epsilon: int | float
) -> tuple[Array, Array, Array]:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta; mean and biased variance over the axes.

    The derivative is written such that the gradient adds up two things for each channel, the gradient and its product
    with the normalized inputs, in a pass over memory each, and makes that of `x` of them in a third. JAX's own has six.
    """
    mean = _mean(x, real, axes)
    variance = _mean(jnp.square(x - mean), real, axes)
    return (x - mean) * (lax.rsqrt(variance + epsilon) * gamma) + beta, mean, variance


@_standardize.defjvp
def _standardize_derivative(axes: tuple[int, ...], epsilon: int | float, primals: Any, tangents: Any) -> Any:
    (x, gamma, _, real), (dx, dgamma, dbeta, _) = primals, tangents
    y, mean, variance = _standardize(*primals, axes, epsilon)
    root = lax.rsqrt(variance + epsilon)
    normal = (x - mean) * root
    dmean, along = _mean(dx, real, axes), _mean(normal * dx, real, axes)
    factor = gamma * root
    dy = factor * dx + normal * (dgamma - factor * along) + (dbeta - factor * dmean)
    return (y, mean, variance), (dy, dmean, 2 * along / root)


class LayerNormalization(_Affine):
    """Normalizes each example by its own mean and variance along an axis or several (Ba et al. 2016).

    Weights, of the shape of these axes: gamma, beta.

    Args:
        axis: the axis, or several.
        epsilon: added to the variance.
        center: whether beta is added.
        scale: whether gamma is multiplied.
        beta_initializer: see `epochal.initializers`; likewise gamma's.
        beta_regularizer: see `epochal.regularizers`; likewise gamma's.

    Raises:
        ValueError: a negative epsilon; inputs without a known size along the axes.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.LayerNormalization()(np.array([[1.0, 3.0]])).round(2).tolist()
        [[-1.0, 1.0]]
    """

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        epsilon: int | float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.axis = checks.positions("axis", axis)
        self.epsilon = checks.between("epsilon", epsilon, 0, float("inf"))
        self._set_affine(center, scale, (beta_initializer, beta_regularizer), (gamma_initializer, gamma_regularizer))

    def build(self, input_shape: Shape) -> None:
        axes = check_axes(self, input_shape, self.axis)
        self._add_affine([known_size(self, input_shape, a) for a in axes])

    def call(self, x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
        axes = check_axes(self, x.shape, self.axis)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        shape = [n if a in axes else 1 for a, n in enumerate(x.shape)]
        mean, variance = wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True)
        return self._normalize(wide, mean, variance, self.epsilon, shape).astype(self.compute_dtype)


class UnitNormalization(Layer):
    """Divides each vector along an axis, or each array along several, by its length (the 2-norm).

    Args:
        axis: the axis, or several.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.UnitNormalization()(np.array([[3.0, 4.0]])).round(3).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """

    supports_masking = True

    def __init__(self, axis: int | Sequence[int] = -1, **kwargs: Any):
        super().__init__(**kwargs)
        self.axis = axis if isinstance(axis, int) else tuple(axis)

    def call(self, x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
        squares = jnp.square(x).sum(self.axis, keepdims=True)
        return x * lax.rsqrt(jnp.maximum(squares, 1e-12**2))


class GroupNormalization(_Affine):
    """Normalizes groups of each example's channels by their own mean and variance (Wu and He 2018).

    Weights, (channels,): gamma, beta.

    Args:
        groups: number of groups; -1 makes every channel one (instance normalization).
        axis: the axis of the channels.
        epsilon: added to the variance.
        center: whether beta is added.
        scale: whether gamma is multiplied.
        beta_initializer: see `epochal.initializers`; likewise gamma's.
        beta_regularizer: see `epochal.regularizers`; likewise gamma's.

    Raises:
        ValueError: `groups` is neither -1 nor an integer >= 1, or does not divide the channels.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.GroupNormalization(groups=2)(np.zeros((2, 5, 5, 4))).shape
        (2, 5, 5, 4)
    """

    def __init__(
        self,
        groups: int = 32,
        axis: int = -1,
        epsilon: int | float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.groups = -1 if groups == -1 else checks.whole("groups", groups)
        self.axis = checks.position("axis", axis)
        self.epsilon = checks.between("epsilon", epsilon, 0, float("inf"))
        self._set_affine(center, scale, (beta_initializer, beta_regularizer), (gamma_initializer, gamma_regularizer))

    def build(self, input_shape: Shape) -> None:
        channels = known_size(self, input_shape, self.axis)
        if self.groups != -1 and channels % self.groups:
            raise ValueError(
                f"GroupNormalization {self.name!r} expects a multiple of groups={self.groups} channels; "
                f"got shape {input_shape}."
            )
        self._add_affine((channels,))

    def call(self, x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
        axis = self.axis % x.ndim
        groups = x.shape[axis] if self.groups == -1 else self.groups
        split = (groups, x.shape[axis] // groups)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(*x.shape[:axis], *split, *x.shape[axis + 1 :])
        axes = tuple(a for a in range(1, wide.ndim) if a != axis)
        shape = [1] * axis + list(split) + [1] * (x.ndim - axis - 1)
        mean, variance = wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True)
        return self._normalize(wide, mean, variance, self.epsilon, shape).reshape(x.shape).astype(self.compute_dtype)


class RMSNormalization(Layer):
    """x / sqrt(mean(x²) + epsilon) * scale, along an axis or several (Zhang and Sennrich 2019).

    Weights, of the shape of these axes: scale.

    Args:
        axis: the axis, or several.
        epsilon: added to the mean square.

    Raises:
        ValueError: a negative epsilon; inputs without a known size along the axes.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.RMSNormalization()(np.array([[2.0, 2.0]])).round(2).tolist()
        [[1.0, 1.0]]
    """

    def __init__(self, axis: int | Sequence[int] = -1, epsilon: int | float = 1e-6, **kwargs: Any):
        super().__init__(**kwargs)
        self.axis = checks.positions("axis", axis)
        self.epsilon = checks.between("epsilon", epsilon, 0, float("inf"))

    def build(self, input_shape: Shape) -> None:
        axes = check_axes(self, input_shape, self.axis)
        shape = [known_size(self, input_shape, a) for a in axes]
        self.scale = self.add_weight("scale", shape, initializer="ones")

    def call(self, x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
        axes = check_axes(self, x.shape, self.axis)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        shape = [n if a in axes else 1 for a, n in enumerate(x.shape)]
        size = lax.rsqrt(jnp.square(wide).mean(axes, keepdims=True) + self.epsilon)
        return (wide * size * self.scale.get_value().reshape(shape).astype(wide.dtype)).astype(self.compute_dtype)
