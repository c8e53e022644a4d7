"""Layers that make one array of several. They are called with a list: `Add()([a, b])`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from epochal.layers.base.axes import check_axes
from epochal.layers.base.layer import Layer, Shape
from epochal.registry import checks


class _Merge(Layer):
    """What layers with a list of inputs share."""

    supports_masking = True

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """A position is real where it is in any of the inputs; there is no mask when one of them has none."""
        if previous_mask is None or any(m is None for m in previous_mask):
            return None
        return functools.reduce(jnp.logical_or, previous_mask)

    def build(self, input_shape: Any) -> None:
        self._check(_shapes(self, input_shape))

    def call(self, x: Sequence[Array]) -> Array:
        self._check(_shapes(self, [a.shape for a in x]))
        return self._merge(list(x))

    def _check(self, shapes: list[Shape]) -> None:
        """Raises ValueError unless the layer can merge inputs of these shapes."""

    def _merge(self, parts: list[Array]) -> Array:
        raise NotImplementedError


def _shapes(layer: Layer, shapes: Any) -> list[Shape]:
    if not isinstance(shapes, list | tuple) or not shapes or not all(isinstance(s, list | tuple) for s in shapes):
        raise ValueError(f"{type(layer).__name__} {layer.name!r} expects a list of inputs; got one of shape {shapes}.")
    return [tuple(s) for s in shapes]


class _Elementwise(_Merge):
    """Merges value by value. Axes of size 1 are repeated; missing ones are put in after the batch's."""

    exactly: ClassVar[int | None] = None
    two: ClassVar[Callable[[Array, Array], Array]]  # merges two inputs

    def _check(self, shapes: list[Shape]) -> None:
        if self.exactly is not None and len(shapes) != self.exactly:
            raise ValueError(
                f"{type(self).__name__} {self.name!r} expects {self.exactly} inputs; got {len(shapes)}: {shapes}."
            )
        rank = max(map(len, shapes))
        aligned = [(*s[:1], *[1] * (rank - len(s)), *s[1:]) for s in shapes]
        for sizes in zip(*aligned, strict=True):
            if len({n for n in sizes if n not in (1, None)}) > 1:
                raise ValueError(
                    f"{type(self).__name__} {self.name!r} expects inputs of one shape, or of sizes 1; got {shapes}."
                )

    def _merge(self, parts: list[Array]) -> Array:
        rank = max(a.ndim for a in parts)
        return self._join([a.reshape(*a.shape[:1], *[1] * (rank - a.ndim), *a.shape[1:]) for a in parts])

    def _join(self, parts: list[Array]) -> Array:
        return functools.reduce(type(self).two, parts)


class Add(_Elementwise):
    """The sum of the inputs, value by value.

    Raises:
        ValueError: not a list, or shapes that do not fit together.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Add()([np.array([[1.0]]), np.array([[2.0, 3.0]])]).tolist()
        [[3.0, 4.0]]
    """

    two = staticmethod(jnp.add)


class Subtract(_Elementwise):
    """The first of two inputs less the second, value by value.

    Raises:
        ValueError: not a list of two, or shapes that do not fit together.
    """

    exactly = 2
    two = staticmethod(jnp.subtract)


class Multiply(_Elementwise):
    """The product of the inputs, value by value.

    Raises:
        ValueError: not a list, or shapes that do not fit together.
    """

    two = staticmethod(jnp.multiply)


class Average(_Elementwise):
    """The mean of the inputs, value by value.

    Raises:
        ValueError: not a list, or shapes that do not fit together.
    """

    two = staticmethod(jnp.add)

    def _join(self, parts: list[Array]) -> Array:
        return super()._join(parts) / len(parts)


class Maximum(_Elementwise):
    """The largest of the inputs, value by value.

    Raises:
        ValueError: not a list, or shapes that do not fit together.
    """

    two = staticmethod(jnp.maximum)


class Minimum(_Elementwise):
    """The smallest of the inputs, value by value.

    Raises:
        ValueError: not a list, or shapes that do not fit together.
    """

    two = staticmethod(jnp.minimum)


class Concatenate(_Merge):
    """The inputs one after the other along an axis.

    Args:
        axis: the axis, which may have another size in each input.

    Raises:
        ValueError: not a list, or shapes that differ in other axes.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Concatenate()([np.zeros((2, 3)), np.zeros((2, 4))]).shape
        (2, 7)
    """

    def __init__(self, axis: int = -1, **kwargs: Any):
        super().__init__(**kwargs)
        self.axis = checks.position("axis", axis)

    def _check(self, shapes: list[Shape]) -> None:
        (axis,) = check_axes(self, shapes[0], self.axis)
        others = {(*s[:axis], *s[axis + 1 :]) for s in shapes}
        if len({len(s) for s in shapes}) > 1 or len(others) > 1:
            raise ValueError(
                f"Concatenate {self.name!r} expects inputs that differ in axis {self.axis} only; got {shapes}."
            )

    def _merge(self, parts: list[Array]) -> Array:
        return jnp.concatenate(parts, self.axis)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The masks one after the other; along the features, a position is real where it is in any of the inputs."""
        if previous_mask is None or all(m is None for m in previous_mask):
            return None
        wide = [
            jnp.broadcast_to(True if m is None else m.reshape(*m.shape, *[1] * (x.ndim - m.ndim)), x.shape)
            for x, m in zip(inputs, previous_mask, strict=True)
        ]
        return jnp.concatenate(wide, self.axis).any(-1)


class Dot(_Merge):
    """The product of two inputs, summed over one axis of each: (n, a…, k) and (n, k, b…) -> (n, a…, b…).

    Two inputs (n, k) give (n, 1).

    Args:
        axes: the axis to sum over, or one for each input; not the batch's.
        normalize: divides each input by its length along its axis first, which gives the cosine of their angle.

    Raises:
        ValueError: not two axes, not a list of two inputs, or axes of different sizes.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Dot(axes=1)([np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])]).tolist()
        [[11.0]]
    """

    supports_masking = False

    def __init__(self, axes: int | Sequence[int], normalize: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        given = checks.positions("axes", axes)
        self.axes = (given, given) if isinstance(given, int) else given
        if len(self.axes) != 2:
            raise ValueError(f"Expected axes to be one or two integers, got {axes!r}.")
        self.normalize = bool(normalize)

    def _check(self, shapes: list[Shape]) -> None:
        if len(shapes) != 2:
            raise ValueError(f"Dot {self.name!r} expects 2 inputs; got {len(shapes)}: {shapes}.")
        axes = [check_axes(self, s, a)[0] for s, a in zip(shapes, self.axes, strict=True)]
        sizes = [s[a] for s, a in zip(shapes, axes, strict=True)]
        if 0 in axes or (None not in sizes and sizes[0] != sizes[1]):
            raise ValueError(
                f"Dot {self.name!r} expects axes {self.axes} of one size, without the batch's; got {shapes}."
            )

    def _merge(self, parts: list[Array]) -> Array:
        moved = [jnp.moveaxis(a, axis, -1) for a, axis in zip(parts, self.axes, strict=True)]
        if self.normalize:
            moved = [a * jax.lax.rsqrt(jnp.maximum(jnp.square(a).sum(-1, keepdims=True), 1e-12)) for a in moved]
        a, b = moved
        left, right = a.reshape(len(a), -1, a.shape[-1]), b.reshape(len(b), -1, b.shape[-1])
        y = jnp.einsum("nak,nbk->nab", left, right).reshape(len(a), *a.shape[1:-1], *b.shape[1:-1])
        return y[:, None] if y.ndim == 1 else y


# -- as functions, of arrays or of symbolic tensors


def add(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """The sum of the inputs, value by value; see `Add`."""
    return Add(**kwargs)(inputs)


def subtract(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """The first of two inputs less the second; see `Subtract`."""
    return Subtract(**kwargs)(inputs)


def multiply(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """The product of the inputs, value by value; see `Multiply`."""
    return Multiply(**kwargs)(inputs)


def average(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """The mean of the inputs, value by value; see `Average`."""
    return Average(**kwargs)(inputs)


def maximum(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """The largest of the inputs, value by value; see `Maximum`."""
    return Maximum(**kwargs)(inputs)


def minimum(inputs: Sequence[Any], **kwargs: Any) -> Any:
    """The smallest of the inputs, value by value; see `Minimum`."""
    return Minimum(**kwargs)(inputs)


def concatenate(inputs: Sequence[Any], axis: int = -1, **kwargs: Any) -> Any:
    """The inputs one after the other along `axis`; see `Concatenate`."""
    return Concatenate(axis, **kwargs)(inputs)


def dot(inputs: Sequence[Any], axes: int | Sequence[int], normalize: bool = False, **kwargs: Any) -> Any:
    """The product of two inputs, summed over one axis of each; see `Dot`."""
    return Dot(axes, normalize, **kwargs)(inputs)
