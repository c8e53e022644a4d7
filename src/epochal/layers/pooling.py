"""Pooling layers. The windows' mathematics, and the choice of its formulation, is in `convolution.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array
from jaxtyping import Shaped

from epochal.layers.base.axes import check_rank
from epochal.layers.base.layer import Layer, Shape
from epochal.ops.kernels.convolution import average_pool, max_pool
from epochal.registry import checks

Size = int | Sequence[int]


class _Pooled(Layer):
    """What pooling layers share: the rank of their inputs and the place of the channels."""

    rank: ClassVar[int] = 0
    data_format = "channels_last"

    def build(self, input_shape: Shape) -> None:
        check_rank(self, input_shape, self.rank + 2)

    @property
    def _channel_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1


class _Pooling(_Pooled):
    def __init__(
        self,
        pool_size: Size,
        strides: Size | None = None,
        padding: str = "valid",
        data_format: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.pool_size = checks.sizes("pool_size", pool_size, self.rank)
        self.strides = self.pool_size if strides is None else checks.sizes("strides", strides, self.rank)
        self.padding = checks.choice("padding", padding, ("valid", "same"))
        self.data_format = checks.data_format(data_format)

    def call(self, x: Shaped[Array, "n ..."]) -> Shaped[Array, "n ..."]:
        check_rank(self, x.shape, self.rank + 2)
        y = self._pool(jnp.moveaxis(x, self._channel_axis, -1))
        return jnp.moveaxis(y, -1, self._channel_axis)

    def _pool(self, x: Array) -> Array:
        raise NotImplementedError


class _Max(_Pooling):
    def __init__(
        self,
        pool_size: Size = 2,
        strides: Size | None = None,
        padding: str = "valid",
        data_format: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(pool_size, strides, padding, data_format, **kwargs)

    def _pool(self, x: Array) -> Array:
        return max_pool(x, self.pool_size, self.strides, self.padding)


class _Average(_Pooling):
    def _pool(self, x: Array) -> Array:
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(self.compute_dtype)
        return average_pool(x, self.pool_size, self.strides, self.padding)


class MaxPooling1D(_Max):
    """The largest value in each window over time: (n, steps, channels) -> (n, new steps, channels).

    Takes `MaxPooling2D`'s arguments, sizes being one integer.
    """

    rank = 1


class MaxPooling2D(_Max):
    """The largest value in each window: (n, height, width, channels) -> (n, new height, new width, channels).

    Where several values of a window are equal the gradient goes to the first.

    Args:
        pool_size: height and width of the window, or one integer for both.
        strides: cells between neighbouring windows; the window's size when None.
        padding: "valid": whole windows only; "same": ceil(size / stride) windows, those at the edge being smaller.
        data_format: "channels_last" (also when None) or "channels_first".

    Raises:
        ValueError: a size below 1, an unknown padding, inputs of another rank or smaller than the window.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.MaxPooling2D()(np.arange(16.0).reshape(1, 4, 4, 1)).ravel().tolist()
        [5.0, 7.0, 13.0, 15.0]
    """

    rank = 2


class MaxPooling3D(_Max):
    """The largest value in each window: (n, depth, height, width, channels) -> (n, …, channels).

    Takes `MaxPooling2D`'s arguments, sizes being three integers or one for all.
    """

    rank = 3


class AveragePooling1D(_Average):
    """The mean of each window over time: (n, steps, channels) -> (n, new steps, channels).

    Takes `AveragePooling2D`'s arguments, sizes being one integer.
    """

    rank = 1

    def __init__(
        self,
        pool_size: Size = 2,
        strides: Size | None = None,
        padding: str = "valid",
        data_format: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(pool_size, strides, padding, data_format, **kwargs)


class AveragePooling2D(_Average):
    """The mean of each window: (n, height, width, channels) -> (n, new height, new width, channels).

    Args:
        pool_size: height and width of the window, or one integer for both.
        strides: cells between neighbouring windows; the window's size when None.
        padding: "valid": whole windows only; "same": ceil(size / stride) windows, those at the edge being means over
            the cells that are there.
        data_format: "channels_last" (also when None) or "channels_first".

    Raises:
        ValueError: a size below 1, an unknown padding, inputs of another rank or smaller than the window.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.AveragePooling2D(2)(np.arange(16.0).reshape(1, 4, 4, 1)).ravel().tolist()
        [2.5, 4.5, 10.5, 12.5]
    """

    rank = 2


class AveragePooling3D(_Average):
    """The mean of each window: (n, depth, height, width, channels) -> (n, …, channels).

    Takes `AveragePooling2D`'s arguments, sizes being three integers or one for all.
    """

    rank = 3


class _GlobalPooling(_Pooled):
    def __init__(self, data_format: str | None = None, keepdims: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.data_format = checks.data_format(data_format)
        self.keepdims = bool(keepdims)

    def call(self, x: Shaped[Array, "n ..."]) -> Shaped[Array, "n ..."]:
        check_rank(self, x.shape, self.rank + 2)
        first = 1 if self.data_format == "channels_last" else 2
        return self._pool(x, tuple(range(first, first + self.rank)))

    def _pool(self, x: Array, axes: tuple[int, ...]) -> Array:
        raise NotImplementedError


class _GlobalMax(_GlobalPooling):
    def _pool(self, x: Array, axes: tuple[int, ...]) -> Array:
        return jnp.max(x, axes, keepdims=self.keepdims)


class _GlobalAverage(_GlobalPooling):
    def _pool(self, x: Array, axes: tuple[int, ...]) -> Array:
        return jnp.mean(x, axes, keepdims=self.keepdims)


class GlobalMaxPooling1D(_GlobalMax):
    """The largest value over all steps: (n, steps, channels) -> (n, channels).

    Where several values are equal the gradient is shared among them, as in Keras.

    Args:
        data_format: "channels_last" (also when None) or "channels_first".
        keepdims: keeps the axes of space, with size 1.

    Raises:
        ValueError: an unknown `data_format`, or inputs of another rank.
    """

    rank = 1


class GlobalMaxPooling2D(_GlobalMax):
    """The largest value over height and width: (n, height, width, channels) -> (n, channels).

    Takes `GlobalMaxPooling1D`'s arguments.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.GlobalMaxPooling2D(keepdims=True)(np.zeros((2, 4, 4, 3))).shape
        (2, 1, 1, 3)
    """

    rank = 2


class GlobalMaxPooling3D(_GlobalMax):
    """The largest value over depth, height and width: (n, depth, height, width, channels) -> (n, channels).

    Takes `GlobalMaxPooling1D`'s arguments.
    """

    rank = 3


class GlobalAveragePooling1D(_GlobalAverage):
    """The mean over all steps: (n, steps, channels) -> (n, channels).

    Args:
        data_format: "channels_last" (also when None) or "channels_first".
        keepdims: keeps the axes of space, with size 1.

    Raises:
        ValueError: an unknown `data_format`, or inputs of another rank.
    """

    rank = 1

    def call(self, x: Shaped[Array, "n ..."], mask: Any = None) -> Shaped[Array, "n ..."]:
        """The mean over the steps that `mask`, (n, steps), keeps; over all without one."""
        if mask is None:
            return super().call(x)
        check_rank(self, x.shape, 3)
        steps = 1 if self.data_format == "channels_last" else 2
        kept = jnp.expand_dims(mask.astype(x.dtype), 3 - steps)
        return jnp.sum(x * kept, steps, keepdims=self.keepdims) / jnp.sum(kept, steps, keepdims=self.keepdims)


class GlobalAveragePooling2D(_GlobalAverage):
    """The mean over height and width: (n, height, width, channels) -> (n, channels).

    Takes `GlobalAveragePooling1D`'s arguments.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.GlobalAveragePooling2D()(np.zeros((2, 4, 4, 3))).shape
        (2, 3)
    """

    rank = 2


class GlobalAveragePooling3D(_GlobalAverage):
    """The mean over depth, height and width: (n, depth, height, width, channels) -> (n, channels).

    Takes `GlobalAveragePooling1D`'s arguments.
    """

    rank = 3


MaxPool1D, MaxPool2D, MaxPool3D = MaxPooling1D, MaxPooling2D, MaxPooling3D
AvgPool1D, AvgPool2D, AvgPool3D = AveragePooling1D, AveragePooling2D, AveragePooling3D
GlobalMaxPool1D, GlobalMaxPool2D, GlobalMaxPool3D = GlobalMaxPooling1D, GlobalMaxPooling2D, GlobalMaxPooling3D
GlobalAvgPool1D, GlobalAvgPool2D = GlobalAveragePooling1D, GlobalAveragePooling2D
GlobalAvgPool3D = GlobalAveragePooling3D
