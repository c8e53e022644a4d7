"""What networks are made of: activations, convolution, pooling, normalization, crossentropies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from epochal import activations
from epochal.losses.functions import EPSILON
from epochal.ops.kernels import convolution
from epochal.ops.wrap import Axis, axes, op, tensor, unary

# fmt: off
__all__ = [
    "average_pool", "batch_normalization", "binary_crossentropy", "categorical_crossentropy", "celu", "conv",
    "conv_transpose", "depth_to_space", "depthwise_conv", "dot_product_attention", "elu", "gelu", "glu",
    "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "layer_normalization", "leaky_relu",
    "log_sigmoid", "log_softmax", "max_pool", "moments", "multi_hot", "normalize", "one_hot", "polar", "psnr",
    "relu", "relu6", "rms_normalization", "selu", "separable_conv", "sigmoid", "silu", "soft_shrink", "softmax",
    "softplus", "softsign", "space_to_depth", "sparse_categorical_crossentropy", "sparse_plus", "sparse_sigmoid",
    "sparsemax", "squareplus", "swish", "tanh_shrink", "threshold",
]

# fmt: on

Sizes = int | Sequence[int]


# -- activations

hard_sigmoid = unary(jax.nn.hard_sigmoid)
hard_silu = unary(jax.nn.hard_silu)
hard_swish = unary(jax.nn.hard_silu, "hard_swish")
hard_tanh = unary(jax.nn.hard_tanh)
log_sigmoid = unary(jax.nn.log_sigmoid)
relu = unary(jax.nn.relu)
relu6 = unary(jax.nn.relu6)
selu = unary(jax.nn.selu)
sigmoid = unary(jax.nn.sigmoid)
silu = unary(jax.nn.silu)
softplus = unary(jax.nn.softplus)
softsign = unary(jax.nn.soft_sign, "softsign")
sparse_plus = unary(jax.nn.sparse_plus)
sparse_sigmoid = unary(jax.nn.sparse_sigmoid)
swish = unary(jax.nn.silu, "swish")


@op
def celu(x: Any, alpha: Any = 1.0) -> Array:
    """x where it is positive, alpha * (exp(x / alpha) - 1) elsewhere."""
    return jax.nn.celu(tensor(x), alpha)


@op
def elu(x: Any, alpha: Any = 1.0) -> Array:
    """x where it is positive, alpha * (exp(x) - 1) elsewhere."""
    return jax.nn.elu(tensor(x), alpha)


@op
def gelu(x: Any, approximate: bool = True) -> Array:
    """x times the normal distribution function of x, or its tanh approximation."""
    return jax.nn.gelu(tensor(x), approximate)


@op
def glu(x: Any, axis: int = -1) -> Array:
    """a * sigmoid(b), where a and b are the halves of x along `axis`."""
    return jax.nn.glu(tensor(x), axis)


@op
def hard_shrink(x: Any, threshold: Any = 0.5) -> Array:
    """x where |x| > threshold, else 0."""
    return activations.hard_shrink(jnp.asarray(x), threshold)


@op
def leaky_relu(x: Any, negative_slope: Any = 0.2) -> Array:
    """x where it is positive, negative_slope * x elsewhere."""
    return jax.nn.leaky_relu(tensor(x), negative_slope)


@op
def soft_shrink(x: Any, threshold: Any = 0.5) -> Array:
    """x moved towards 0 by `threshold`; 0 where |x| is smaller."""
    return activations.soft_shrink(jnp.asarray(x), threshold)


@op
def softmax(x: Any, axis: Axis = -1) -> Array:
    """exp(x) divided by its sum over `axis` (None: over all axes)."""
    return jax.nn.softmax(tensor(x), axes(axis))


@op
def log_softmax(x: Any, axis: Axis = -1) -> Array:
    """The logarithm of `softmax`."""
    return jax.nn.log_softmax(tensor(x), axes(axis))


@op
def sparsemax(x: Any, axis: int = -1) -> Array:
    """The probability vector nearest to x along `axis`."""
    return activations.sparsemax(jnp.asarray(x), axis)


@op
def squareplus(x: Any, b: Any = 4) -> Array:
    """(x + sqrt(x² + b)) / 2."""
    return jax.nn.squareplus(tensor(x), b)


@op
def tanh_shrink(x: Any) -> Array:
    """x - tanh(x)."""
    return activations.tanh_shrink(jnp.asarray(x))


@op
def threshold(x: Any, threshold: Any, default_value: Any) -> Array:
    """x where it is above `threshold`, else `default_value`."""
    return activations.threshold(jnp.asarray(x), threshold, default_value)


# -- classes


def _dense(sparse: bool) -> None:
    if sparse:
        raise ValueError("Expected sparse=False: epochal's arrays are dense.")


@op
def one_hot(x: Any, num_classes: int, axis: int = -1, dtype: Any = None, sparse: bool = False) -> Array:
    """Class numbers as vectors with a 1 in their place along a new axis; all 0 for numbers out of range."""
    _dense(sparse)
    return jax.nn.one_hot(tensor(x), num_classes, axis=axis, dtype=dtype or "float32")


@op
def multi_hot(
    inputs: Any, num_classes: int | None = None, axis: int = -1, dtype: Any = None, sparse: bool = False
) -> Array:
    """Lists of class numbers (n, k) as vectors with a 1 in each of their places, (n, num_classes).

    Raises:
        ValueError: `num_classes` is not given.
    """
    _dense(sparse)
    if num_classes is None:
        raise ValueError("Expected num_classes for multi_hot().")
    x = jnp.asarray(inputs)
    return jnp.max(jax.nn.one_hot(x, num_classes, axis=axis, dtype=dtype or "float32"), axis=min(x.ndim - 1, 1))


def _same_shapes(target: Any, output: Any) -> tuple[Array, Array]:
    y, p = jnp.asarray(target), jnp.asarray(output)
    if y.shape != p.shape:
        raise ValueError(f"Expected a target of the output's shape {p.shape}, got {y.shape}.")
    return y, p


def _log_probabilities(output: Array, from_logits: bool, axis: int) -> Array:
    if from_logits:
        return jax.nn.log_softmax(output, axis)
    return jnp.log(jnp.clip(output / jnp.sum(output, axis, keepdims=True), EPSILON, 1 - EPSILON))


@op
def binary_crossentropy(target: Any, output: Any, from_logits: bool = False) -> Array:
    """-y log p - (1 - y) log(1 - p), element by element.

    Args:
        target: probabilities.
        output: probabilities, or logits if `from_logits`; of the target's shape.

    Raises:
        ValueError: the shapes differ.
    """
    y, p = _same_shapes(target, output)
    if from_logits:
        return -y * jax.nn.log_sigmoid(p) - (1.0 - y) * jax.nn.log_sigmoid(-p)
    p = jnp.clip(p, EPSILON, 1.0 - EPSILON)
    return -y * jnp.log(p) - (1.0 - y) * jnp.log(1.0 - p)


@op
def categorical_crossentropy(target: Any, output: Any, from_logits: bool = False, axis: int = -1) -> Array:
    """-sum of y log p along `axis`.

    Args:
        target: a probability per class along `axis`.
        output: probabilities, which are divided by their sum, or logits if `from_logits`; of the target's shape.
        axis: the classes' axis.

    Raises:
        ValueError: the shapes differ.
    """
    y, p = _same_shapes(target, output)
    return -jnp.sum(y * _log_probabilities(p, from_logits, axis), axis)


@op
def sparse_categorical_crossentropy(target: Any, output: Any, from_logits: bool = False, axis: int = -1) -> Array:
    """-log p of the class that is true.

    Args:
        target: class numbers, of the output's shape without its last axis, or with 1 in its place.
        output: probabilities, which are divided by their sum, or logits if `from_logits`.
        axis: the classes' axis.

    Raises:
        ValueError: the shapes do not fit.
    """
    y, p = jnp.asarray(target, jnp.int32), jnp.asarray(output)
    y = y[..., 0] if y.ndim == p.ndim and y.shape[-1] == 1 else y
    if y.shape != p.shape[:-1]:
        raise ValueError(f"Expected class numbers of shape {p.shape[:-1]} for an output of {p.shape}, got {y.shape}.")
    chosen = jax.nn.one_hot(y, p.shape[axis], axis=axis)
    return -jnp.sum(chosen * _log_probabilities(p, from_logits, axis), axis)


# -- normalization


@op
def moments(x: Any, axes: Axis, keepdims: bool = False, synchronized: bool = False) -> tuple[Array, Array]:
    """Mean and variance along `axes`.

    Raises:
        ValueError: `synchronized` is asked for.
    """
    if synchronized:
        raise ValueError("Expected synchronized=False: an array is one, on however many devices.")
    array, along = jnp.asarray(x), tuple(axes) if isinstance(axes, list) else axes
    return jnp.mean(array, along, keepdims=keepdims), jnp.var(array, along, keepdims=keepdims)


@op
def batch_normalization(
    x: Any,
    mean: Any,
    variance: Any,
    axis: int,
    offset: Any = None,
    scale: Any = None,
    epsilon: float = 1e-3,
) -> Array:
    """(x - mean) / sqrt(variance + epsilon) * scale + offset, all of them along `axis` of x."""
    array = jnp.asarray(x)
    shape = [1] * array.ndim
    shape[axis] = array.shape[axis]
    factor = jax.lax.rsqrt(jnp.asarray(variance) + epsilon) * (1 if scale is None else jnp.asarray(scale))
    start = (0 if offset is None else jnp.asarray(offset)) - jnp.asarray(mean) * factor
    return array * factor.reshape(shape) + start.reshape(shape)


def _along(x: Array, parameter: Any, axis: Any) -> Array:
    """A parameter that broadcasts against x along several axes, or one that is not the last."""
    value = jnp.asarray(parameter, x.dtype)
    places = {a % x.ndim for a in ((axis,) if isinstance(axis, int) else axis)}
    if value.ndim == x.ndim or places == {x.ndim - 1}:
        return value
    return value.reshape([n if i in places else 1 for i, n in enumerate(x.shape)])


@op
def layer_normalization(x: Any, gamma: Any = None, beta: Any = None, axis: Any = -1, epsilon: Any = None) -> Array:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, where mean and variance are those along `axis`."""
    given = jnp.asarray(x)
    array = given.astype(jnp.promote_types(given.dtype, jnp.float32))
    mean, variance = (f(array, axes(axis), keepdims=True) for f in (jnp.mean, jnp.var))
    y = (array - mean) * jax.lax.rsqrt(variance + (EPSILON if epsilon is None else epsilon))
    y = y if gamma is None else y * _along(array, gamma, axis)
    y = y if beta is None else y + _along(array, beta, axis)
    return y.astype(given.dtype)


@op
def rms_normalization(x: Any, scale: Any = None, axis: Any = -1, epsilon: Any = None) -> Array:
    """x / sqrt(mean of x² along `axis` + epsilon) * scale."""
    given = jnp.asarray(x)
    array = given.astype(jnp.promote_types(given.dtype, jnp.float32))
    square = jnp.mean(jnp.square(array), axes(axis), keepdims=True)
    y = array * jax.lax.rsqrt(square + (EPSILON if epsilon is None else epsilon))
    return (y if scale is None else y * jnp.asarray(scale, y.dtype)).astype(given.dtype)


@op
def normalize(x: Any, axis: Axis = -1, order: int = 2, epsilon: Any = None) -> Array:
    """x divided by its norm along `axis`, or by epsilon (1e-7 when not given) where the norm is smaller."""
    array = jnp.asarray(x)
    norm = jnp.linalg.norm(array, order, axes(axis), keepdims=True)
    return array / jnp.maximum(norm, EPSILON if epsilon is None else epsilon)


@op
def psnr(x1: Any, x2: Any, max_val: Any) -> Array:
    """The peak signal-to-noise ratio in decibel: 10 log10(max_val² / mean squared difference).

    Raises:
        ValueError: the shapes differ.
    """
    a, b = _same_shapes(x1, x2)
    return 20 * jnp.log10(jnp.asarray(max_val, jnp.float32)) - 10 * jnp.log10(jnp.mean(jnp.square(a - b)))


@op
def polar(abs_: Any, angle: Any) -> Array:
    """The complex number of this size and angle."""
    size, turn = jnp.asarray(abs_), jnp.asarray(angle)
    return jax.lax.complex(size * jnp.cos(turn), size * jnp.sin(turn))


# -- convolution and pooling. `data_format` is "channels_last" (also when None) or "channels_first".


def _last(x: Any, data_format: str | None) -> Array:
    """Inputs with their channels last."""
    if data_format not in (None, "channels_last", "channels_first"):
        raise ValueError(f"Expected data_format 'channels_last' or 'channels_first', got {data_format!r}.")
    array = jnp.asarray(x)
    return jnp.moveaxis(array, 1, -1) if data_format == "channels_first" else array


def _back(y: Array, data_format: str | None) -> Array:
    return jnp.moveaxis(y, -1, 1) if data_format == "channels_first" else y


def _sizes(value: Sizes, like: Array) -> tuple[int, ...]:
    """A number for each axis of space."""
    rank = like.ndim - 2
    return (value,) * rank if isinstance(value, int) else tuple(value)


@op
def conv(
    inputs: Any,
    kernel: Any,
    strides: Sizes = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Sizes = 1,
) -> Array:
    """The convolution of inputs (n, *space, c) with a kernel (*window, c / groups, filters).

    Raises:
        ValueError: an unknown `data_format`, or a kernel that does not fit into the inputs.
    """
    x, w = _last(inputs, data_format), jnp.asarray(kernel)
    groups = x.shape[-1] // w.shape[-2]
    y = convolution.convolve(x, w, _sizes(strides, x), padding, _sizes(dilation_rate, x), groups)
    return _back(y, data_format)


@op
def depthwise_conv(
    inputs: Any,
    kernel: Any,
    strides: Sizes = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Sizes = 1,
) -> Array:
    """`conv` of each channel with filters of its own: kernel (*window, c, filters per channel)."""
    x, w = _last(inputs, data_format), jnp.asarray(kernel)
    w = w.reshape(*w.shape[:-2], 1, -1)
    y = convolution.convolve(x, w, _sizes(strides, x), padding, _sizes(dilation_rate, x), x.shape[-1])
    return _back(y, data_format)


@op
def separable_conv(
    inputs: Any,
    depthwise_kernel: Any,
    pointwise_kernel: Any,
    strides: Sizes = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Sizes = 1,
) -> Array:
    """`depthwise_conv`, then `conv` with a kernel of one cell."""
    x = _last(inputs, data_format)
    y = depthwise_conv(x, depthwise_kernel, strides, padding, None, dilation_rate)
    return _back(conv(y, pointwise_kernel), data_format)


@op
def conv_transpose(
    inputs: Any,
    kernel: Any,
    strides: Sizes = 1,
    padding: str = "valid",
    output_padding: Sizes | None = None,
    data_format: str | None = None,
    dilation_rate: Sizes = 1,
) -> Array:
    """The transpose of `conv`, to a larger space: inputs (n, *space, c), kernel (*window, filters, c)."""
    x, w = _last(inputs, data_format), jnp.asarray(kernel)
    extra = None if output_padding is None else _sizes(output_padding, x)
    y = convolution.convolve_transposed(x, w, _sizes(strides, x), padding, _sizes(dilation_rate, x), extra)
    return _back(y, data_format)


@op
def max_pool(
    inputs: Any,
    pool_size: Sizes,
    strides: Sizes | None = None,
    padding: str = "valid",
    data_format: str | None = None,
) -> Array:
    """The largest value in each window, `strides` (the window's size when not given) apart."""
    x = _last(inputs, data_format)
    window = _sizes(pool_size, x)
    y = convolution.max_pool(x, window, window if strides is None else _sizes(strides, x), padding)
    return _back(y, data_format)


@op
def average_pool(
    inputs: Any,
    pool_size: Sizes,
    strides: Sizes | None = None,
    padding: str = "valid",
    data_format: str | None = None,
) -> Array:
    """The mean of each window, `strides` (the window's size when not given) apart."""
    x = _last(inputs, data_format)
    window = _sizes(pool_size, x)
    y = convolution.average_pool(x, window, window if strides is None else _sizes(strides, x), padding)
    return _back(y, data_format)


@op
def depth_to_space(x: Any, block_size: int, data_format: str = "channels_last") -> Array:
    """Channels as blocks of space, (n, h, w, c b²) -> (n, h b, w b, c): a block's cells are b² neighbouring groups of
    channels (with channels first: each channel's b² parts)."""
    array, b = jnp.asarray(x), block_size
    if data_format == "channels_first":
        n, c, h, w = array.shape
        y = array.reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
        return y.reshape(n, c // b**2, h * b, w * b)
    n, h, w, c = array.shape
    return array.reshape(n, h, w, b, b, c // b**2).transpose(0, 1, 3, 2, 4, 5).reshape(n, h * b, w * b, c // b**2)


@op
def space_to_depth(x: Any, block_size: int, data_format: str = "channels_last") -> Array:
    """The inverse of `depth_to_space`."""
    array, b = jnp.asarray(x), block_size
    if data_format == "channels_first":
        n, c, h, w = array.shape
        y = array.reshape(n, c, h // b, b, w // b, b).transpose(0, 1, 3, 5, 2, 4)
        return y.reshape(n, c * b**2, h // b, w // b)
    n, h, w, c = array.shape
    return array.reshape(n, h // b, b, w // b, b, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // b, w // b, c * b**2)


@op
def dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    scale: Any = None,
    is_causal: bool = False,
) -> Array:
    """softmax(query keyᵀ * scale + bias) value, for each head (Vaswani et al. 2017).

    Args:
        query: (n, t, heads, d).
        key: (n, s, heads, d), or of fewer heads that divide the query's.
        value: of the key's shape.
        bias: added to the logits, broadcast to (n, heads, t, s).
        mask: bool, True where a query may see a key; broadcast to (n, heads, t, s).
        scale: 1 / sqrt(d) when not given.
        is_causal: a query sees keys up to its own place only.
    """
    q, k, v = (jnp.asarray(a) for a in (query, key, value))
    return jax.nn.dot_product_attention(q, k, v, bias, mask, scale=scale, is_causal=is_causal)
