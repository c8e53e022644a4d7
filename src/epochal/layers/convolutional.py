"""Convolution layers. The mathematics, and the choice of its formulation, is in `convolution.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Shaped

from epochal import activations, initializers, regularizers
from epochal.layers.base import axes
from epochal.layers.base.layer import Layer, Shape
from epochal.ops.kernels.convolution import convolve, convolve_transposed
from epochal.registry import checks

Size = int | Sequence[int]


class _Convolution(Layer):
    """What all convolution layers share: their window, the place of the channels, bias and activation."""

    rank: ClassVar[int] = 0
    paddings: ClassVar[tuple[str, ...]] = ("valid", "same")

    def _set_window(self, kernel_size: Any, strides: Any, padding: Any, data_format: Any, dilation_rate: Any) -> None:
        self.kernel_size = checks.sizes("kernel_size", kernel_size, self.rank)
        self.strides = checks.sizes("strides", strides, self.rank)
        self.padding = checks.choice("padding", padding, self.paddings)
        self.data_format = checks.data_format(data_format)
        self.dilation_rate = checks.sizes("dilation_rate", dilation_rate, self.rank)
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(f"Expected strides or dilation_rate to be 1, got {strides!r} and {dilation_rate!r}.")

    def _set_output(self, activation: Any, use_bias: bool, bias_initializer: Any, bias_regularizer: Any) -> None:
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.bias_initializer = initializers.get(bias_initializer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel: Any = None
        self.bias: Any = None

    @property
    def _channel_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def _channels_in(self, input_shape: Shape) -> int:
        axes.check_rank(self, input_shape, self.rank + 2)
        return axes.known_size(self, input_shape, self._channel_axis)

    def _add_bias(self, channels: int) -> None:
        if self.use_bias:
            self.bias = self.add_weight("bias", (channels,), None, self.bias_initializer, self.bias_regularizer)

    def _channels_last(self, x: Array, channels: int) -> Array:
        axes.check_rank(self, x.shape, self.rank + 2)
        axes.check_size(self, "channels", channels, x.shape[self._channel_axis])
        return jnp.moveaxis(x, self._channel_axis, -1)

    def _finish(self, y: Array) -> Array:
        if self.bias is not None:
            y = y + self.bias.get_value()
        return self.activation(jnp.moveaxis(y, -1, self._channel_axis))


class _Conv(_Convolution):
    """An N-dimensional convolution.

    Args:
        filters: number of output channels.
        kernel_size: the kernel's cells along each axis of space.
        strides: cells between neighbouring outputs.
        padding: "valid" (none), "same" (as many outputs as inputs at stride 1), and in 1D "causal" (all before).
        data_format: "channels_last" (also when None) or "channels_first".
        dilation_rate: cells between neighbouring kernel cells; not together with strides.
        groups: cuts channels and filters into as many groups, each convolved by itself.
        activation: a name or function, applied to the output.
        use_bias: whether a bias is added for each filter.
        kernel_initializer: see `epochal.initializers`.
        bias_initializer: see `epochal.initializers`.
        kernel_regularizer: see `epochal.regularizers`.
        bias_regularizer: see `epochal.regularizers`.
        activity_regularizer: see `Layer`.

    Raises:
        ValueError: a size below 1, groups that do not divide filters or channels, an unknown padding.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Size = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.filters = checks.whole("filters", filters)
        self.groups = checks.whole("groups", groups)
        if self.filters % self.groups:
            raise ValueError(f"Expected filters to be a multiple of groups={groups}, got filters={filters}.")
        self._set_window(kernel_size, strides, padding, data_format, dilation_rate)
        self._set_output(activation, use_bias, bias_initializer, bias_regularizer)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)

    def build(self, input_shape: Shape) -> None:
        channels = self._channels_in(input_shape)
        if channels % self.groups:
            raise ValueError(
                f"{type(self).__name__} {self.name!r} expects a multiple of groups={self.groups} channels; "
                f"got shape {input_shape}."
            )
        shape = (*self.kernel_size, channels // self.groups, self.filters)
        self.kernel = self.add_weight("kernel", shape, None, self.kernel_initializer, self.kernel_regularizer)
        self._add_bias(self.filters)

    def call(self, x: Shaped[Array, "n ..."]) -> Float[Array, "n ..."]:
        kernel = self.kernel.get_value()
        x = self._channels_last(x, kernel.shape[-2] * self.groups)
        return self._finish(convolve(x, kernel, self.strides, self.padding, self.dilation_rate, self.groups))


class Conv1D(_Conv):
    """Convolution over time: (n, steps, channels) -> (n, new steps, filters).

    Takes `Conv2D`'s arguments, sizes being one integer, and also padding "causal": output t sees inputs up to t only.
    Weights: kernel (size, channels / groups, filters), bias (filters,).

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Conv1D(4, 3, padding="causal")(np.zeros((2, 10, 5))).shape
        (2, 10, 4)
    """

    rank = 1
    paddings = ("valid", "same", "causal")


class Conv2D(_Conv):
    """Convolution over images: (n, height, width, channels) -> (n, new height, new width, filters).

    Weights: kernel (height, width, channels / groups, filters), bias (filters,).

    Args:
        filters: number of output channels.
        kernel_size: height and width of the kernel, or one integer for both; likewise the other sizes.
        strides: cells between neighbouring outputs.
        padding: "valid" (none) or "same" (as many outputs as inputs at stride 1).
        data_format: "channels_last" (also when None) or "channels_first": (n, channels, height, width).
        dilation_rate: cells between neighbouring kernel cells; not together with strides.
        groups: cuts channels and filters into as many groups, each convolved by itself.
        activation: a name or function, applied to the output.
        use_bias: whether a bias is added for each filter.
        kernel_initializer: see `epochal.initializers`; likewise the other initializers and regularizers.

    Raises:
        ValueError: a size below 1, groups that do not divide filters or channels, an unknown padding, inputs smaller
            than the kernel.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Conv2D(8, 3, activation="relu")(np.zeros((2, 28, 28, 1))).shape
        (2, 26, 26, 8)
    """

    rank = 2


class Conv3D(_Conv):
    """Convolution over volumes: (n, depth, height, width, channels) -> (n, …, filters).

    Takes `Conv2D`'s arguments, sizes being three integers or one for all.
    Weights: kernel (depth, height, width, channels / groups, filters), bias (filters,).

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Conv3D(4, 2)(np.zeros((1, 5, 6, 7, 3))).shape
        (1, 4, 5, 6, 4)
    """

    rank = 3


class _ConvTranspose(_Convolution):
    """The transpose of a convolution: what its gradient does to its output's shape, with learned weights."""

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        output_padding: Size | None = None,
        data_format: str | None = None,
        dilation_rate: Size = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.filters = checks.whole("filters", filters)
        self._set_window(kernel_size, strides, padding, data_format, dilation_rate)
        self.output_padding = None
        if output_padding is not None:
            self.output_padding = checks.sizes("output_padding", output_padding, self.rank, 0)
            if any(p >= s for p, s in zip(self.output_padding, self.strides, strict=True)):
                raise ValueError(f"Expected output_padding below strides={strides!r}, got {output_padding!r}.")
        self._set_output(activation, use_bias, bias_initializer, bias_regularizer)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)

    def build(self, input_shape: Shape) -> None:
        shape = (*self.kernel_size, self.filters, self._channels_in(input_shape))
        self.kernel = self.add_weight("kernel", shape, None, self.kernel_initializer, self.kernel_regularizer)
        self._add_bias(self.filters)

    def call(self, x: Shaped[Array, "n ..."]) -> Float[Array, "n ..."]:
        kernel = self.kernel.get_value()
        x = self._channels_last(x, kernel.shape[-1])
        return self._finish(
            convolve_transposed(x, kernel, self.strides, self.padding, self.dilation_rate, self.output_padding)
        )


class Conv1DTranspose(_ConvTranspose):
    """Transposed convolution over time: (n, steps, channels) -> (n, steps * stride, filters) with padding "same".

    Takes `Conv2DTranspose`'s arguments, sizes being one integer. Weights: kernel (size, filters, channels), bias.
    """

    rank = 1


class Conv2DTranspose(_ConvTranspose):
    """Transposed convolution over images, which makes them larger: the gradient of a `Conv2D` by its input.

    Inputs (n, height, width, channels); outputs (n, height * stride, width * stride, filters) with padding "same", and
    max(kernel size - stride, 0) more along each axis with "valid". Weights: kernel (height, width, filters, channels),
    bias (filters,).

    Args:
        filters: number of output channels.
        kernel_size: height and width of the kernel, or one integer for both; likewise the other sizes.
        strides: output cells for each input cell.
        padding: "valid" or "same".
        output_padding: cells more than the smallest output that the padding allows, below strides; when None, as many
            as give the sizes above.
        data_format: "channels_last" (also when None) or "channels_first".
        dilation_rate: cells between neighbouring kernel cells; not together with strides.
        activation: a name or function, applied to the output.
        use_bias: whether a bias is added for each filter.
        kernel_initializer: see `epochal.initializers`; likewise the other initializers and regularizers.

    Raises:
        ValueError: a size below 1, an unknown padding, output_padding not below strides.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Conv2DTranspose(8, 3, strides=2, padding="same")(np.zeros((2, 7, 7, 4))).shape
        (2, 14, 14, 8)
    """

    rank = 2


class Conv3DTranspose(_ConvTranspose):
    """Transposed convolution over volumes: (n, depth, height, width, channels) -> (n, …, filters).

    Takes `Conv2DTranspose`'s arguments, sizes being three integers or one for all.
    Weights: kernel (depth, height, width, filters, channels), bias (filters,).

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Conv3DTranspose(4, 2, strides=2)(np.zeros((1, 3, 4, 5, 2))).shape
        (1, 6, 8, 10, 4)
    """

    rank = 3


class _DepthwiseConv(_Convolution):
    """A convolution of each channel by itself."""

    def __init__(
        self,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        data_format: str | None = None,
        dilation_rate: Size = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.depth_multiplier = checks.whole("depth_multiplier", depth_multiplier)
        self._set_window(kernel_size, strides, padding, data_format, dilation_rate)
        self._set_output(activation, use_bias, bias_initializer, bias_regularizer)
        self.depthwise_initializer = initializers.get(depthwise_initializer)
        self.depthwise_regularizer = regularizers.get(depthwise_regularizer)

    def build(self, input_shape: Shape) -> None:
        channels = self._channels_in(input_shape)
        shape = (*self.kernel_size, channels, self.depth_multiplier)
        self.kernel = self.add_weight("kernel", shape, None, self.depthwise_initializer, self.depthwise_regularizer)
        self._add_bias(channels * self.depth_multiplier)

    def call(self, x: Shaped[Array, "n ..."]) -> Float[Array, "n ..."]:
        kernel = self.kernel.get_value()
        x = self._channels_last(x, kernel.shape[-2])
        return self._finish(_depthwise(x, kernel, self.strides, self.padding, self.dilation_rate))


class DepthwiseConv1D(_DepthwiseConv):
    """Convolution over time of each channel by itself: (n, steps, channels) -> (n, new steps, channels * multiplier).

    Takes `DepthwiseConv2D`'s arguments, sizes being one integer. Weights: kernel (size, channels, multiplier), bias.
    """

    rank = 1


class DepthwiseConv2D(_DepthwiseConv):
    """Convolution over images of each channel by itself: (n, h, w, channels) -> (n, …, channels * depth_multiplier).

    Weights: kernel (height, width, channels, depth_multiplier), bias (channels * depth_multiplier,).

    Args:
        kernel_size: height and width of the kernel, or one integer for both; likewise the other sizes.
        strides: cells between neighbouring outputs.
        padding: "valid" or "same".
        depth_multiplier: output channels for each input channel.
        data_format: "channels_last" (also when None) or "channels_first".
        dilation_rate: cells between neighbouring kernel cells; not together with strides.
        activation: a name or function, applied to the output.
        use_bias: whether a bias is added for each output channel.
        depthwise_initializer: see `epochal.initializers`; likewise the other initializers and regularizers.

    Raises:
        ValueError: a size below 1, an unknown padding, inputs smaller than the kernel.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.DepthwiseConv2D(3, depth_multiplier=2)(np.zeros((2, 8, 8, 5))).shape
        (2, 6, 6, 10)
    """

    rank = 2


class _SeparableConv(_Convolution):
    """A depthwise convolution followed by one of a single cell, which mixes the channels."""

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Size = 1,
        depth_multiplier: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.filters = checks.whole("filters", filters)
        self.depth_multiplier = checks.whole("depth_multiplier", depth_multiplier)
        self._set_window(kernel_size, strides, padding, data_format, dilation_rate)
        self._set_output(activation, use_bias, bias_initializer, bias_regularizer)
        self.depthwise_initializer = initializers.get(depthwise_initializer)
        self.depthwise_regularizer = regularizers.get(depthwise_regularizer)
        self.pointwise_initializer = initializers.get(pointwise_initializer)
        self.pointwise_regularizer = regularizers.get(pointwise_regularizer)

    def build(self, input_shape: Shape) -> None:
        channels = self._channels_in(input_shape)
        deep = (*self.kernel_size, channels, self.depth_multiplier)
        self.depthwise_kernel = self.add_weight(
            "depthwise_kernel", deep, None, self.depthwise_initializer, self.depthwise_regularizer
        )
        point = (*[1] * self.rank, math.prod(deep[-2:]), self.filters)
        self.pointwise_kernel = self.add_weight(
            "pointwise_kernel", point, None, self.pointwise_initializer, self.pointwise_regularizer
        )
        self._add_bias(self.filters)

    def call(self, x: Shaped[Array, "n ..."]) -> Float[Array, "n ..."]:
        depthwise = self.depthwise_kernel.get_value()
        x = self._channels_last(x, depthwise.shape[-2])
        y = _depthwise(x, depthwise, self.strides, self.padding, self.dilation_rate)
        return self._finish(convolve(y, self.pointwise_kernel.get_value(), (1,) * self.rank))


class SeparableConv1D(_SeparableConv):
    """`DepthwiseConv1D`, then a convolution of one cell: (n, steps, channels) -> (n, new steps, filters).

    Takes `SeparableConv2D`'s arguments, sizes being one integer.
    """

    rank = 1


class SeparableConv2D(_SeparableConv):
    """`DepthwiseConv2D`, then a convolution of one cell: (n, height, width, channels) -> (n, …, filters).

    Weights: depthwise_kernel (height, width, channels, depth_multiplier), pointwise_kernel (1, 1, channels *
    depth_multiplier, filters), bias (filters,).

    Args:
        filters: number of output channels.
        kernel_size: height and width of the kernel, or one integer for both; likewise the other sizes.
        strides: cells between neighbouring outputs.
        padding: "valid" or "same".
        data_format: "channels_last" (also when None) or "channels_first".
        dilation_rate: cells between neighbouring kernel cells; not together with strides.
        depth_multiplier: channels that the first convolution makes of each input channel.
        activation: a name or function, applied to the output.
        use_bias: whether a bias is added for each filter.
        depthwise_initializer: see `epochal.initializers`; likewise the other initializers and regularizers.

    Raises:
        ValueError: a size below 1, an unknown padding, inputs smaller than the kernel.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.SeparableConv2D(6, 3)(np.zeros((2, 8, 8, 5))).shape
        (2, 6, 6, 6)
    """

    rank = 2


def _depthwise(x: Array, kernel: Any, strides: Sequence[int], padding: str, dilation: Sequence[int]) -> Array:
    channels, multiplier = kernel.shape[-2:]
    kernel = kernel.reshape(*kernel.shape[:-2], 1, channels * multiplier)
    return convolve(x, kernel, strides, padding, dilation, groups=channels)


Convolution1D, Convolution2D, Convolution3D = Conv1D, Conv2D, Conv3D
Convolution1DTranspose, Convolution2DTranspose = Conv1DTranspose, Conv2DTranspose
Convolution3DTranspose = Conv3DTranspose
SeparableConvolution1D, SeparableConvolution2D = SeparableConv1D, SeparableConv2D
