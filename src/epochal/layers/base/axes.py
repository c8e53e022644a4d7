"""Checks of layers' arguments and input shapes; each error says what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence

from epochal.layers.base.layer import Layer, Shape


def check_rank(layer: Layer, shape: Shape, rank: int, *, or_more: bool = False) -> None:
    """Raises ValueError unless inputs of `shape` have `rank` axes, the batch's included."""
    if len(shape) < rank or (len(shape) > rank and not or_more):
        least = "at least " if or_more else ""
        raise ValueError(
            f"{_title(layer)} expects inputs with {least}{rank} axes, the batch's included; got shape {shape}."
        )


def check_axes(layer: Layer, shape: Shape, axis: int | Sequence[int]) -> tuple[int, ...]:
    """The axes as sorted positive numbers.

    Raises:
        ValueError: an axis that inputs of `shape` do not have, or the same one twice.
    """
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    rank = len(shape)
    if any(not -rank <= a < rank for a in axes) or len({a % rank for a in axes}) < len(axes):
        raise ValueError(f"{_title(layer)} expects inputs that have axis {axis!r}; got shape {shape}.")
    return tuple(sorted(a % rank for a in axes))


def known_size(layer: Layer, shape: Shape, axis: int) -> int:
    """The size of an axis that weights are made for.

    Raises:
        ValueError: there is no such axis, or its size is not known.
    """
    size = shape[check_axes(layer, shape, axis)[0]]
    if size is None:
        raise ValueError(f"{_title(layer)} expects a known size of axis {axis}; got shape {shape}.")
    return size


def check_size(layer: Layer, what: str, expected: int, found: int) -> None:
    """Raises ValueError when inputs have not the size that the weights were made for."""
    if expected != found:
        raise ValueError(f"{_title(layer)} was built for {expected} {what}; got inputs with {found}.")


def _title(layer: Layer) -> str:
    return f"{type(layer).__name__} {layer.name!r}"
