"""Layers that bring raw inputs to a scale fit for training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Shaped

from epochal.layers.base import axes
from epochal.layers.base.layer import Layer, Shape
from epochal.registry import checks

_ROWS = 65_536  # rows of an array that are read at once
_EPSILON = 1e-7  # the smallest standard deviation, Keras's backend epsilon


class Normalization(Layer):
    """(x - mean) / sqrt(variance), with the mean and variance of data shown to `adapt`, or given.

    Weights, unless the statistics are given: mean and variance (the sizes of `axis`), count ().

    Args:
        axis: the axis, or several, along which each position has statistics of its own; None for one of each in all.
        mean: the mean, of a shape that broadcasts to the axes' sizes; together with `variance`.
        variance: the variance, of the same shape.
        invert: computes x * sqrt(variance) + mean instead.

    Raises:
        ValueError: only one of `mean` and `variance`, other shapes, or inputs without a known size along the axes.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> scale = layers.Normalization()
        >>> scale.adapt(np.array([[1.0], [3.0]]))
        >>> scale(np.array([[5.0]])).tolist()
        [[3.0]]
    """

    supports_masking = True

    def __init__(
        self,
        axis: int | Sequence[int] | None = -1,
        mean: Any = None,
        variance: Any = None,
        invert: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.axis = () if axis is None or np.size(axis) == 0 else checks.positions("axis", axis)
        self.invert = bool(invert)
        if (mean is None) != (variance is None) or np.shape(mean) != np.shape(variance):
            raise ValueError(f"Expected mean and variance of one shape, or neither, got {mean!r} and {variance!r}.")
        if np.ndim(mean) > np.size(self.axis):
            raise ValueError(f"Expected a mean with at most {np.size(self.axis)} axes, got shape {np.shape(mean)}.")
        # as tuples, since Flax takes an array in a module for state
        self._given = None if mean is None else (_frozen(mean), _frozen(variance))
        self._kept: tuple[int, ...] = ()
        self.adapt_mean: Any = None
        self.adapt_variance: Any = None
        self.count: Any = None

    def build(self, input_shape: Shape) -> None:
        self._kept = axes.check_axes(self, input_shape, self.axis)
        shape = tuple(axes.known_size(self, input_shape, a) for a in self._kept)
        if self._given is None:
            self.adapt_mean = self.add_weight("mean", shape, initializer="zeros", trainable=False)
            self.adapt_variance = self.add_weight("variance", shape, initializer="ones", trainable=False)
            self.count = self.add_weight("count", (), "int32", initializer="zeros", trainable=False)
            return
        if np.broadcast_shapes(np.shape(self._given[0]), shape) != shape:
            raise ValueError(
                f"Normalization {self.name!r} has statistics of shape {np.shape(self._given[0])}; got {input_shape}."
            )

    def adapt(self, data: Any) -> None:
        """Takes the mean and variance of `data`; what was taken before is forgotten.

        Args:
            data: an array (n, …), or an iterable of batches (m, …) or tuples that begin with one; it is read once, a
                part at a time.

        Raises:
            ValueError: no data, batches of different shapes, or statistics that were given already.
        """
        if self._given is not None:
            raise ValueError(
                f"Normalization {self.name!r} was given its mean and variance; adapt() cannot change them."
            )
        count, mean, squares = 0, np.float64(0), np.float64(0)
        for batch in _batches(data):
            if not self.built:
                self._build_now((None, *batch.shape[1:]))
            axes.check_axes(self, batch.shape, self.axis)
            found = tuple(batch.shape[a] for a in self._kept)
            if found != self.adapt_mean.shape:
                raise ValueError(
                    f"Expected batches with sizes {self.adapt_mean.shape} along axis {self.axis!r}, got {found}."
                )
            rest = tuple(a for a in range(batch.ndim) if a not in self._kept)
            here = batch.size // int(np.prod(found))
            if here == 0:
                continue
            # Chan et al. 1979: means and sums of squares of two parts, joined
            new_mean = batch.mean(rest, dtype=np.float64)
            apart = new_mean - mean
            squares = squares + batch.var(rest, dtype=np.float64) * here + apart**2 * (count * here / (count + here))
            mean = mean + apart * (here / (count + here))
            count += here
        if count == 0:
            raise ValueError("Expected data with at least one row, got none.")
        self.adapt_mean.assign(mean)
        self.adapt_variance.assign(squares / count)

    @property
    def mean(self) -> Array:
        """The mean, of the sizes of `axis`."""
        return jnp.asarray(
            self._given[0] if self._given is not None else self.adapt_mean.get_value(), self.compute_dtype
        )

    @property
    def variance(self) -> Array:
        """The variance, of the sizes of `axis`."""
        return jnp.asarray(
            self._given[1] if self._given is not None else self.adapt_variance.get_value(), self.compute_dtype
        )

    def call(self, x: Shaped[Array, "*axes"]) -> Float[Array, "*axes"]:
        kept = tuple(x.shape[a] for a in self._kept)
        shape = [n if a in self._kept else 1 for a, n in enumerate(x.shape)]
        mean, variance = (jnp.broadcast_to(v, kept).reshape(shape) for v in (self.mean, self.variance))
        deviation = jnp.maximum(jnp.sqrt(variance), _EPSILON)
        x = x.astype(self.compute_dtype)
        return x * deviation + mean if self.invert else (x - mean) / deviation


class Rescaling(Layer):
    """x * scale + offset, as a float; the shape stays.

    Args:
        scale: a number, or an array that broadcasts to the inputs, such as one number for each channel.
        offset: likewise.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Rescaling(1 / 255)(np.array([[0, 255]], dtype="uint8")).tolist()
        [[0.0, 1.0]]
    """

    supports_masking = True

    def __init__(self, scale: Any, offset: Any = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.scale, self.offset = _frozen(scale), _frozen(offset)

    def call(self, x: Shaped[Array, "*axes"]) -> Float[Array, "*axes"]:
        scale, offset = jnp.asarray(self.scale, self.compute_dtype), jnp.asarray(self.offset, self.compute_dtype)
        return x.astype(self.compute_dtype) * scale + offset


def _frozen(value: Any) -> Any:
    """Nested tuples of numbers."""
    nested = np.asarray(value, np.float64).tolist()

    def freeze(part: Any) -> Any:
        return tuple(map(freeze, part)) if isinstance(part, list) else part

    return freeze(nested)


def _batches(data: Any) -> Iterator[np.ndarray]:
    """`data` as arrays: an array in parts, anything else batch by batch."""
    rows: Any = data
    if isinstance(data, list | tuple) and not any(_is_batch(part) for part in data):
        rows = np.asarray(data)
    if hasattr(rows, "shape"):  # sliced, since it may be a file on disk
        if len(rows.shape) == 0:
            raise ValueError(f"Expected an array with an axis of rows, got {data!r}.")
        for start in range(0, rows.shape[0], _ROWS):
            yield np.asarray(rows[start : start + _ROWS])
        return
    items: Iterable[Any] = data if hasattr(data, "__iter__") else (data[i] for i in range(len(data)))
    for item in items:
        pair = isinstance(item, tuple) or (isinstance(item, list) and _is_batch(item))
        yield np.asarray(item[0] if pair else item)


def _is_batch(item: Any) -> bool:
    """Whether `item` is an array, or a tuple or list with one."""
    return hasattr(item, "shape") or (isinstance(item, list | tuple) and any(hasattr(part, "shape") for part in item))
