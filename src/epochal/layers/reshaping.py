"""Layers that move, repeat, add or cut off cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Shaped

from epochal.layers.base import axes
from epochal.layers.base.layer import Layer, Shape
from epochal.registry import checks

Edges = int | Sequence[int | Sequence[int]]


class Permute(Layer):
    """Gives the axes another order.

    Args:
        dims: for each axis of the output the input's, counted from 1, without the batch's.

    Raises:
        ValueError: `dims` is no order of 1 … k, or inputs of another rank.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Permute((2, 1))(np.zeros((5, 3, 4))).shape
        (5, 4, 3)
    """

    def __init__(self, dims: Sequence[int], **kwargs: Any):
        super().__init__(**kwargs)
        self.dims = tuple(dims)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ValueError(f"Expected dims to be the numbers from 1 in some order, got {dims!r}.")

    def call(self, x: Shaped[Array, "n ..."]) -> Shaped[Array, "n ..."]:
        axes.check_rank(self, x.shape, len(self.dims) + 1)
        return jnp.transpose(x, (0, *self.dims))


class RepeatVector(Layer):
    """Repeats each example along a new axis: (n, features) -> (n, times, features).

    Args:
        n: how many times.

    Raises:
        ValueError: `n` is no integer >= 1, or inputs of another rank.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.RepeatVector(3)(np.zeros((5, 4))).shape
        (5, 3, 4)
    """

    def __init__(self, n: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.n = checks.whole("n", n)

    def call(self, x: Shaped[Array, "n ..."]) -> Shaped[Array, "n ..."]:
        axes.check_rank(self, x.shape, 2)
        return jnp.broadcast_to(x[:, None], (len(x), self.n, x.shape[1]))


class _Spatial(Layer):
    """What layers share that change the size of space."""

    rank: ClassVar[int] = 0
    data_format = "channels_last"

    def build(self, input_shape: Shape) -> None:
        axes.check_rank(self, input_shape, self.rank + 2)

    @property
    def _first(self) -> int:
        """The first axis of space."""
        return 2 if self.data_format == "channels_first" else 1

    def _edges(self, name: str, value: Any) -> tuple[tuple[int, int], ...]:
        """Cells before and after along each axis of space: from one integer, one per axis, or a pair per axis."""
        if self.rank == 1 and np.shape(value) == (2,):
            value = (value,)
        one = np.ndim(value) == 0
        if not one and len(value) != self.rank:
            raise ValueError(f"Expected {name} to be an integer, or {self.rank} of them or of pairs, got {value!r}.")
        pairs = [checks.sizes(name, v, 2, 0) for v in ([value] * self.rank if one else value)]
        return tuple((before, after) for before, after in pairs)


class _ZeroPadding(_Spatial):
    def __init__(self, padding: Edges = 1, data_format: str | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.padding = self._edges("padding", padding)
        self.data_format = checks.data_format(data_format)

    def call(self, x: Shaped[Array, "n ..."]) -> Shaped[Array, "n ..."]:
        axes.check_rank(self, x.shape, self.rank + 2)
        before = self._first
        return jnp.pad(x, [(0, 0)] * before + list(self.padding) + [(0, 0)] * (x.ndim - before - self.rank))


class ZeroPadding1D(_ZeroPadding):
    """Adds zeros before and after (n, steps, channels) inputs.

    Args:
        padding: steps to add on both sides, or a pair (before, after).
        data_format: "channels_last" (also when None) or "channels_first".

    Raises:
        ValueError: negative or too many numbers, or inputs of another rank.
    """

    rank = 1


class ZeroPadding2D(_ZeroPadding):
    """Adds zeros around (n, height, width, channels) inputs.

    Args:
        padding: cells to add on all sides; or one for height and one for width; or a pair (before, after) for each.
        data_format: "channels_last" (also when None) or "channels_first".

    Raises:
        ValueError: negative or too many numbers, or inputs of another rank.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.ZeroPadding2D(((1, 0), (2, 2)))(np.zeros((1, 4, 4, 3))).shape
        (1, 5, 8, 3)
    """

    rank = 2


class ZeroPadding3D(_ZeroPadding):
    """Adds zeros around (n, depth, height, width, channels) inputs; takes `ZeroPadding2D`'s arguments."""

    rank = 3


class _Cropping(_Spatial):
    def __init__(self, cropping: Edges, data_format: str | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.cropping = self._edges("cropping", cropping)
        self.data_format = checks.data_format(data_format)

    def call(self, x: Shaped[Array, "n ..."]) -> Shaped[Array, "n ..."]:
        axes.check_rank(self, x.shape, self.rank + 2)
        for axis, (before, after) in enumerate(self.cropping, self._first):
            if before + after >= x.shape[axis]:
                raise ValueError(
                    f"{type(self).__name__} {self.name!r} expects more than {before + after} cells along axis {axis}; "
                    f"got shape {x.shape}."
                )
            x = jax.lax.slice_in_dim(x, before, x.shape[axis] - after, axis=axis)
        return x


class Cropping1D(_Cropping):
    """Cuts steps off both ends of (n, steps, channels) inputs.

    Args:
        cropping: steps to cut off on both sides, or a pair (before, after).

    Raises:
        ValueError: negative or too many numbers, inputs of another rank, or nothing left.
    """

    rank = 1

    def __init__(self, cropping: Edges = (1, 1), **kwargs: Any):
        super().__init__(cropping, **kwargs)


class Cropping2D(_Cropping):
    """Cuts cells off the edges of (n, height, width, channels) inputs.

    Args:
        cropping: cells to cut off on all sides; or one number for height and one for width; or a pair (before,
            after) for each.
        data_format: "channels_last" (also when None) or "channels_first".

    Raises:
        ValueError: negative or too many numbers, inputs of another rank, or nothing left.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Cropping2D((1, 0))(np.zeros((1, 4, 4, 3))).shape
        (1, 2, 4, 3)
    """

    rank = 2

    def __init__(self, cropping: Edges = 0, data_format: str | None = None, **kwargs: Any):
        super().__init__(cropping, data_format, **kwargs)


class Cropping3D(_Cropping):
    """Cuts cells off the edges of (n, depth, height, width, channels) inputs; takes `Cropping2D`'s arguments."""

    rank = 3

    def __init__(self, cropping: Edges = 1, data_format: str | None = None, **kwargs: Any):
        super().__init__(cropping, data_format, **kwargs)


class _UpSampling(_Spatial):
    def __init__(self, size: int | Sequence[int] = 2, data_format: str | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = checks.sizes("size", size, self.rank)
        self.data_format = checks.data_format(data_format)

    def call(self, x: Shaped[Array, "n ..."]) -> Shaped[Array, "n ..."]:
        axes.check_rank(self, x.shape, self.rank + 2)
        for axis, times in enumerate(self.size, self._first):
            # not jnp.repeat, whose gradient scatters
            shape = (*x.shape[: axis + 1], times, *x.shape[axis + 1 :])
            wide = jnp.broadcast_to(jnp.expand_dims(x, axis + 1), shape)
            x = wide.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
        return x


class UpSampling1D(_UpSampling):
    """Repeats each step of (n, steps, channels) inputs.

    Args:
        size: how many times.

    Raises:
        ValueError: `size` is no integer >= 1, or inputs of another rank.
    """

    rank = 1

    def __init__(self, size: int = 2, **kwargs: Any):
        super().__init__(checks.whole("size", size), **kwargs)


class UpSampling2D(_UpSampling):
    """Makes (n, height, width, channels) inputs larger.

    Args:
        size: how many times, or one number for height and one for width.
        data_format: "channels_last" (also when None) or "channels_first".
        interpolation: "nearest" repeats cells; "bilinear", "bicubic", "lanczos3" and "lanczos5" draw between them.

    Raises:
        ValueError: a size below 1, an unknown interpolation, or inputs of another rank.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.UpSampling2D((2, 3))(np.zeros((1, 4, 4, 3))).shape
        (1, 8, 12, 3)
    """

    rank = 2

    def __init__(
        self,
        size: int | Sequence[int] = (2, 2),
        data_format: str | None = None,
        interpolation: str = "nearest",
        **kwargs: Any,
    ):
        super().__init__(size, data_format, **kwargs)
        methods = ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5")
        self.interpolation = checks.choice("interpolation", interpolation, methods)

    def call(self, x: Shaped[Array, "n ..."]) -> Shaped[Array, "n ..."]:
        if self.interpolation == "nearest":
            return super().call(x)
        axes.check_rank(self, x.shape, 4)
        return self._resize(x.astype(jnp.promote_types(x.dtype, self.dtype)))

    def _resize(self, x: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        shape = list(x.shape)
        for axis, times in enumerate(self.size, self._first):
            shape[axis] *= times
        return jax.image.resize(x, tuple(shape), self.interpolation, antialias=False)


class UpSampling3D(_UpSampling):
    """Repeats the cells of (n, depth, height, width, channels) inputs.

    Args:
        size: how many times, or one number for each axis.
        data_format: "channels_last" (also when None) or "channels_first".

    Raises:
        ValueError: a size below 1, or inputs of another rank.
    """

    rank = 3
