"""Weights as safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from epochal.layers.base.tree import tracked
from epochal.saving.archive import UNREADABLE, check_target, damage, read_file, write_atomically


def save_weights(model: Any, path: str | Path, overwrite: bool = True) -> None:
    """Writes all weights to one safetensors file, named by their place in the model.

    Raises:
        FileExistsError: something is there, and `overwrite` is False.
        ValueError: the model has no weights yet.
    """
    target = Path(path)
    check_target(target, overwrite)
    content = weights_as_bytes(model)
    write_atomically(target, lambda temporary: temporary.write_bytes(content))


def load_weights(model: Any, path: str | Path) -> None:
    """Reads weights into a model of the same layers, in their order.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a damaged file, or weights that do not fit; nothing is changed then.
    """
    source = Path(path)
    put_weights(model, tensors_in(read_file(source), source), str(source))


def weights_as_bytes(model: Any) -> bytes:
    """The content of a file with all weights, named by their place in the model.

    Raises:
        ValueError: the model has no weights yet.
    """
    found = tracked(model)
    if not found:
        raise ValueError(f"Model {model.name!r} has no weights yet: train it, or give its first layer input_shape.")
    return as_safetensors({f"{i:05d}/{t.path}": t.variable.get_value() for i, t in enumerate(found)})


def as_safetensors(arrays: Mapping[str, Any]) -> bytes:
    """The content of a safetensors file with these arrays by name."""
    import safetensors.numpy

    return safetensors.numpy.save({k: np.ascontiguousarray(v).reshape(np.shape(v)) for k, v in arrays.items()})


def tensors_in(content: bytes, name: Path) -> list[tuple[str, np.ndarray]]:
    """The arrays of a safetensors file with their names, by which they are sorted.

    Raises:
        ValueError: the file `name` is damaged.
    """
    import safetensors.numpy

    try:
        arrays = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, *UNREADABLE) as error:
        raise ValueError(
            f"{name} is not a whole safetensors file: {error}. Expected what save_weights() wrote."
        ) from error
    return sorted(arrays.items())


def put_weights(model: Any, tensors: list[tuple[str, np.ndarray]], source: str) -> None:
    """Sets all weights of a model, in their order, to the arrays that `source` has.

    Raises:
        ValueError: another number of arrays, other shapes, or no numbers; nothing is changed then.
    """
    found = tracked(model)
    if len(found) != len(tensors):
        raise ValueError(f"Expected {len(found)} weights for model {model.name!r}, {source} has {len(tensors)}.")
    for item, (name, value) in zip(found, tensors, strict=True):
        if item.variable.shape != value.shape:
            raise ValueError(f"Expected shape {item.variable.shape} for {item.path!r}, got {value.shape} ({name!r}).")
    with damage(Path(source), "its weights cannot be used"):
        values = [jnp.asarray(v, i.variable.get_value().dtype) for i, (_, v) in zip(found, tensors, strict=True)]
    for item, value in zip(found, values, strict=True):
        item.variable.set_value(value)
