"""Any nested data as arrays and JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

# -- any data as JSON and arrays


def encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """`value` as JSON data; arrays in it go to `arrays`, and are named by their number.

    Raises:
        TypeError: something that is no data.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        if np.size(value) == 0:  # Orbax refuses these
            return {"kind": "empty", "value": [str(value.dtype), list(value.shape)]}
        return {"kind": "array", "value": _put(value, arrays)}
    if isinstance(value, bytes):
        return {"kind": "bytes", "value": value.hex()}
    if isinstance(value, Mapping):
        pairs = [[encode(k, arrays), encode(v, arrays)] for k, v in value.items()]
        return {"kind": "dict", "value": pairs}
    if isinstance(value, tuple):
        return {"kind": "tuple", "value": [encode(v, arrays) for v in value]}
    if isinstance(value, list):
        return [encode(v, arrays) for v in value]
    raise TypeError(
        f"Expected data to save (numbers, strings, arrays, lists and dicts of these), got a {type(value).__name__}."
    )


def _put(value: Any, arrays: dict[str, np.ndarray]) -> str:
    name = f"{len(arrays):05d}"
    arrays[name] = np.asarray(value)
    return name


def decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """What `encode` was given; arrays are NumPy's."""
    if isinstance(value, list):
        return [decode(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    kind, inner = value["kind"], value["value"]
    if kind == "array":
        return arrays[inner]
    if kind == "empty":
        if 0 not in inner[1]:
            raise ValueError(f"an empty array of shape {inner[1]}")
        return np.zeros(inner[1], inner[0])
    if kind == "bytes":
        return bytes.fromhex(inner)
    if kind == "tuple":
        return tuple(decode(v, arrays) for v in inner)
    return {decode(k, arrays): decode(v, arrays) for k, v in inner}
