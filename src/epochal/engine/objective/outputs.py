"""A model's outputs by name, one array each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from epochal.activations import get_origin, set_origin
from epochal.tracing.masks import get_mask, set_mask


@dataclass(frozen=True)
class Output:
    """One output of the model: its name, and shape and type of a batch of its targets (None: none) and predictions."""

    name: str
    target: jax.ShapeDtypeStruct | None
    prediction: jax.ShapeDtypeStruct


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Says in which loss, metric or argument the error is; shapes are those of any number n of examples."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {str(error).replace('(2,', '(n,')}") from error


def beside(predictions: Sequence[Any]) -> list[Any]:
    """What is known of predictions beside their values: masks, and logits they are the softmax of.

    `jax.grad` and its like hand out new arrays: it has to be taken out of them with these, and `put_back`.
    """
    return [(get_mask(p), get_origin(p)) for p in predictions]


def put_back(predictions: Sequence[Any], known: Sequence[Any]) -> None:
    """Says of predictions what was known of them as `beside` gave it."""
    for prediction, (mask, origin) in zip(predictions, known, strict=True):
        set_mask(prediction, mask)
        set_origin(prediction, origin)


def widened(prediction: Any) -> Any:
    """A prediction in 16-bit floats as float32, in which losses and metrics are computed; its mask stays with it."""
    if not jnp.issubdtype(prediction.dtype, jnp.floating) or jnp.dtype(prediction.dtype).itemsize > 2:
        return prediction
    new = prediction.astype(jnp.float32)
    set_mask(new, get_mask(prediction))
    return new


def as_list(predictions: Any, names: Sequence[str]) -> list[Any]:
    """A model's return value as one array per output, in the order of `names`."""
    if isinstance(predictions, dict):
        return [predictions[name] for name in names]
    if isinstance(predictions, list | tuple):
        return list(predictions)
    return [predictions]
