"""Ops on images (height, width, channels), or batches of them with one more axis in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from epochal.ops.wrap import op

# fmt: off
__all__ = [
    "crop_images", "extract_patches", "pad_images", "resize", "rgb_to_grayscale", "scale_and_translate",
]

# fmt: on

_METHODS = ("bilinear", "nearest", "lanczos3", "lanczos5", "bicubic")


def _last(images: Any, data_format: str | None) -> Array:
    """Images with their channels last."""
    if data_format not in (None, "channels_last", "channels_first"):
        raise ValueError(f"Expected data_format 'channels_last' or 'channels_first', got {data_format!r}.")
    x = jnp.asarray(images)
    if x.ndim not in (3, 4):
        raise ValueError(f"Expected images of rank 3 or a batch of rank 4, got shape {x.shape}.")
    return jnp.moveaxis(x, -3, -1) if data_format == "channels_first" else x


def _back(y: Array, data_format: str | None) -> Array:
    return jnp.moveaxis(y, -1, -3) if data_format == "channels_first" else y


def _cut(x: Array, top: int, left: int, height: int, width: int) -> Array:
    return x[..., top : top + height, left : left + width, :]


def _framed(x: Array, top: int, bottom: int, left: int, right: int, value: Any = 0) -> Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(top, bottom), (left, right), (0, 0)], constant_values=value)


@op
def resize(
    images: Any,
    size: Sequence[int],
    interpolation: str = "bilinear",
    antialias: bool = False,
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    fill_mode: str = "constant",
    fill_value: Any = 0.0,
    data_format: str | None = None,
) -> Array:
    """Images in another size.

    Args:
        images: (height, width, channels) or (n, height, width, channels).
        size: (height, width) of the result.
        interpolation: "bilinear", "nearest", "bicubic", "lanczos3" or "lanczos5".
        antialias: average over what falls together when the result is smaller.
        crop_to_aspect_ratio: first cut the middle out that has the result's proportions.
        pad_to_aspect_ratio: first add to the edges what is missing to the result's proportions.
        fill_mode: "constant".
        fill_value: what is added there.
        data_format: "channels_last" (also when None) or "channels_first".

    Raises:
        ValueError: an argument out of these ranges, or both ways to keep the proportions.
    """
    if interpolation not in _METHODS:
        raise ValueError(f"Expected an interpolation of {_METHODS}, got {interpolation!r}.")
    if fill_mode != "constant" or (crop_to_aspect_ratio and pad_to_aspect_ratio) or len(size) != 2:
        raise ValueError(
            "Expected size=(height, width), fill_mode='constant' and one of crop_to_aspect_ratio and "
            f"pad_to_aspect_ratio, got size={size}, fill_mode={fill_mode!r}, and both: "
            f"{crop_to_aspect_ratio and pad_to_aspect_ratio}."
        )
    x = _last(images, data_format)
    (height, width), (wanted_height, wanted_width) = x.shape[-3:-1], size
    # the sides that go with the other side at the result's proportions
    fit_height, fit_width = width * wanted_height // wanted_width, height * wanted_width // wanted_height
    if crop_to_aspect_ratio:
        h, w = max(min(height, fit_height), 1), max(min(width, fit_width), 1)
        x = _cut(x, (height - h) // 2, (width - w) // 2, h, w)
    elif pad_to_aspect_ratio:
        above, before = max(fit_height - height, 0) // 2, max(fit_width - width, 0) // 2
        x = _framed(x, above, above, before, before, fill_value)
    shape = (*x.shape[:-3], wanted_height, wanted_width, x.shape[-1])
    return _back(jax.image.resize(x, shape, interpolation, antialias=antialias), data_format)


@op
def scale_and_translate(
    images: Any,
    output_shape: Sequence[int],
    scale: Any,
    translation: Any,
    spatial_dims: Sequence[int],
    method: str,
    antialias: bool = True,
) -> Array:
    """Images stretched and moved along the axes `spatial_dims`, as `jax.image.scale_and_translate` does."""
    x, moved = jnp.asarray(images), jnp.asarray(translation)
    dims = tuple(spatial_dims)
    return jax.image.scale_and_translate(x, tuple(output_shape), dims, jnp.asarray(scale), moved, method, antialias)


@op
def rgb_to_grayscale(images: Any, data_format: str | None = None) -> Array:
    """0.2989 red + 0.587 green + 0.114 blue (ITU-R BT.601), (..., 3) -> (..., 1)."""
    x = _last(images, data_format)
    gray = jnp.sum(x * jnp.array([0.2989, 0.5870, 0.1140], jnp.float32), axis=-1, keepdims=True)
    return _back(gray.astype(x.dtype), data_format)


def _margins(size: int, before: int | None, after: int | None, target: int | None, grows: bool) -> tuple[int, int]:
    """What is added (or cut off) at both ends of an axis, from two of the three arguments."""
    if (before is None) + (after is None) + (target is None) != 1:
        raise ValueError(
            f"Expected two of the three: padding or cropping before, after, and the target's size; "
            f"got {before}, {after} and {target}."
        )
    change = 0 if target is None else (target - size if grows else size - target)
    before = change - (after or 0) if before is None else before
    after = change - before if after is None else after
    if min(before, after) < 0 or (not grows and before + after >= size):
        raise ValueError(f"Expected margins that fit an axis of {size}, got {before} and {after}.")
    return before, after


@op
def pad_images(
    images: Any,
    top_padding: int | None = None,
    left_padding: int | None = None,
    bottom_padding: int | None = None,
    right_padding: int | None = None,
    target_height: int | None = None,
    target_width: int | None = None,
    data_format: str | None = None,
) -> Array:
    """Images with zeros around them; of top, bottom and height two are given, of left, right and width too.

    Raises:
        ValueError: other than two of three, or a target smaller than the image.
    """
    x = _last(images, data_format)
    top, bottom = _margins(x.shape[-3], top_padding, bottom_padding, target_height, grows=True)
    left, right = _margins(x.shape[-2], left_padding, right_padding, target_width, grows=True)
    return _back(_framed(x, top, bottom, left, right), data_format)


@op
def crop_images(
    images: Any,
    top_cropping: int | None = None,
    left_cropping: int | None = None,
    bottom_cropping: int | None = None,
    right_cropping: int | None = None,
    target_height: int | None = None,
    target_width: int | None = None,
    data_format: str | None = None,
) -> Array:
    """Images with their edges cut off; of top, bottom and height two are given, of left, right and width too.

    Raises:
        ValueError: other than two of three, or nothing left of the image.
    """
    x = _last(images, data_format)
    top, bottom = _margins(x.shape[-3], top_cropping, bottom_cropping, target_height, grows=False)
    left, right = _margins(x.shape[-2], left_cropping, right_cropping, target_width, grows=False)
    return _back(_cut(x, top, left, x.shape[-3] - top - bottom, x.shape[-2] - left - right), data_format)


@op
def extract_patches(
    images: Any,
    size: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    dilation_rate: int | Sequence[int] = 1,
    padding: str = "valid",
    data_format: str | None = None,
) -> Array:
    """Every patch's cells side by side: (..., height, width, c) -> (..., rows, columns, cells * c).

    Args:
        images: (height, width, channels) or (n, height, width, channels).
        size: a patch's height and width.
        strides: between neighbouring patches; `size` when not given, so that they do not overlap.
        dilation_rate: between neighbouring cells of a patch.
        padding: "valid" or "same".
        data_format: "channels_last" (also when None) or "channels_first".
    """
    window, steps, apart = (_pair(v) for v in (size, size if strides is None else strides, dilation_rate))
    x = _last(images, data_format)
    batch = x if x.ndim == 4 else x[None]
    numbers = ("NHWC", "OIHW", "NHWC")
    found = jax.lax.conv_general_dilated_patches(
        batch, window, steps, padding.upper(), rhs_dilation=apart, dimension_numbers=numbers
    )
    channels = batch.shape[-1]  # JAX puts a channel's cells together, Keras a cell's channels
    y = found.reshape(*found.shape[:-1], channels, -1).swapaxes(-1, -2).reshape(found.shape)
    return _back(y if x.ndim == 4 else y[0], data_format)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
