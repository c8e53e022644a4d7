"""Layers that add noise in training and pass inputs on unchanged otherwise.

Noise is drawn per example, with a key made of the pass and the example's id: an example meets the same noise however
the data are cut into batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from epochal.layers.base import axes
from epochal.layers.base.layer import Layer, Shape
from epochal.random import next_key
from epochal.registry import checks
from epochal.tracing import forward_pass

Draw = Callable[[Array, tuple[int, ...]], Array]


class _Noise(Layer):
    """What layers of noise share: the seed, and drawing row by row."""

    _shared = False  # whether all examples meet the same noise

    supports_masking = True

    def _set_seed(self, seed: Any) -> None:
        self.seed = None if seed is None else checks.whole("seed", seed, 0) % 2**32

    def _noise(self, draw: Draw, shape: tuple[int, ...], rows: int) -> Array | None:
        """`draw(key, shape)` for inputs of so many rows, drawn row by row; None in a pass that has no keys.

        Rows that are not the batch's (a layer may have reshaped them) get one draw in all, which depends on no example.
        """
        call = forward_pass.current()
        if call is None:
            return draw(self._seeded(next_key()), shape)
        batch = next((a.shape[0] for a in (call.ids, call.rows) if a is not None), rows)
        if batch == rows and not self._shared:
            keys = forward_pass.row_keys(self.stream, rows)
            return None if keys is None else jax.vmap(lambda key: draw(self._seeded(key), shape[1:]))(keys)
        keys = forward_pass.row_keys(self.stream, batch + 1)  # not the number of ids: keys by position
        return None if keys is None else draw(self._seeded(keys[0]), shape)

    def _seeded(self, key: Array) -> Array:
        return key if self.seed is None else jax.random.fold_in(key, np.uint32(self.seed))


class Dropout(_Noise):
    """Sets a random part of the values to 0 in training, and scales the others by 1 / (1 - rate).

    Srivastava et al. 2014.

    Args:
        rate: the part that is dropped, in [0, 1).
        noise_shape: shape of the mask, where it is not the input's: 1 for axes along which values are dropped together,
            None for the input's size. The first is the batch's axis; what is neither 1 nor None there means the batch.
        seed: an integer that changes the masks.

    Raises:
        ValueError: `rate` or `noise_shape` out of range, or a `noise_shape` that does not fit the input.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Dropout(0.5)(np.array([[1.0, 2.0]])).tolist()
        [[1.0, 2.0]]
    """

    def __init__(
        self, rate: int | float, noise_shape: Sequence[int | None] | None = None, seed: int | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.rate = checks.between("rate", rate, 0, 1)
        self.noise_shape: tuple[int | None, ...] | None = None
        if noise_shape is not None:
            if isinstance(noise_shape, str) or not isinstance(noise_shape, Sequence):
                raise ValueError(f"Expected noise_shape to be several integers or None, got {noise_shape!r}.")
            self.noise_shape = tuple(None if n is None else checks.whole("noise_shape", n) for n in noise_shape)
            self._shared = self.noise_shape[:1] == (1,)
        self._set_seed(seed)

    def call(self, x: Float[Array, "*axes"], training: bool = False) -> Float[Array, "*axes"]:
        if not training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = self._noise(lambda key, shape: jax.random.bernoulli(key, keep, shape), self._mask_shape(x.shape), len(x))
        return x if mask is None else jnp.where(mask, x / keep, jnp.zeros((), x.dtype))

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.noise_shape is None:
            return shape
        given = (1 if self.noise_shape[0] == 1 else None, *self.noise_shape[1:])
        if len(given) != len(shape) or any(g not in (None, 1, n) for g, n in zip(given, shape, strict=False)):
            raise ValueError(
                f"Dropout {self.name!r} expects inputs that fit noise_shape={self.noise_shape}; got {shape}."
            )
        return tuple(n if g is None else g for g, n in zip(given, shape, strict=True))


class _SpatialDropout(Dropout):
    rank = 0

    def __init__(self, rate: int | float, seed: int | None = None, **kwargs: Any):
        super().__init__(rate, seed=seed, **kwargs)
        self.data_format = "channels_last"

    def build(self, input_shape: Shape) -> None:
        axes.check_rank(self, input_shape, self.rank + 2)

    def _mask_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        ones = (1,) * self.rank
        return (*shape[:2], *ones) if self.data_format == "channels_first" else (shape[0], *ones, shape[-1])


class SpatialDropout1D(_SpatialDropout):
    """`Dropout` of whole channels of (n, steps, channels) inputs (Tompson et al. 2015).

    Args:
        rate: the part of the channels that is dropped, in [0, 1).
        seed: an integer that changes the masks.

    Raises:
        ValueError: `rate` out of range, or inputs of another rank.
    """

    rank = 1


class SpatialDropout2D(_SpatialDropout):
    """`Dropout` of whole channels of (n, height, width, channels) inputs (Tompson et al. 2015).

    Args:
        rate: the part of the channels that is dropped, in [0, 1).
        data_format: "channels_last" (also when None) or "channels_first".
        seed: an integer that changes the masks.

    Raises:
        ValueError: `rate` out of range, an unknown `data_format`, or inputs of another rank.
    """

    rank = 2

    def __init__(self, rate: int | float, data_format: str | None = None, seed: int | None = None, **kwargs: Any):
        super().__init__(rate, seed=seed, **kwargs)
        self.data_format = checks.data_format(data_format)


class SpatialDropout3D(SpatialDropout2D):
    """`Dropout` of whole channels of (n, depth, height, width, channels) inputs, as `SpatialDropout2D`."""

    rank = 3


class GaussianNoise(_Noise):
    """Adds normal noise of mean 0 in training; the shape stays.

    Args:
        stddev: the noise's standard deviation, >= 0.
        seed: an integer that changes the noise.

    Raises:
        ValueError: `stddev` is negative.
    """

    def __init__(self, stddev: int | float, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.stddev = checks.between("stddev", stddev, 0, math.inf)
        self._set_seed(seed)

    def call(self, x: Float[Array, "*axes"], training: bool = False) -> Float[Array, "*axes"]:
        if not training or self.stddev == 0:
            return x
        noise = self._noise(lambda key, shape: jax.random.normal(key, shape, x.dtype), x.shape, len(x))
        return x if noise is None else x + self.stddev * noise


class GaussianDropout(_Noise):
    """Multiplies by normal noise of mean 1 in training; the shape stays (Srivastava et al. 2014, section 10).

    Args:
        rate: the noise's standard deviation is sqrt(rate / (1 - rate)), as the mask's of `Dropout(rate)`; in [0, 1).
        seed: an integer that changes the noise.

    Raises:
        ValueError: `rate` out of range.
    """

    def __init__(self, rate: int | float, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = checks.between("rate", rate, 0, 1)
        self._set_seed(seed)

    def call(self, x: Float[Array, "*axes"], training: bool = False) -> Float[Array, "*axes"]:
        if not training or self.rate == 0:
            return x
        stddev = math.sqrt(self.rate / (1 - self.rate))
        noise = self._noise(lambda key, shape: jax.random.normal(key, shape, x.dtype), x.shape, len(x))
        return x if noise is None else x * (1 + stddev * noise)
