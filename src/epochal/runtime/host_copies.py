"""Copies of arrays in the host's memory, and back on the device."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def device_dtype(array: Any) -> Any:
    return jax.dtypes.canonicalize_dtype(array.dtype)


def plain_data(array: Any) -> Any:
    return jax.random.key_data(array) if _is_key(array) else array


def to_host(array: Any) -> np.ndarray:
    """A copy: training takes over the memory of the array itself."""
    return np.array(plain_data(array), copy=True)


def placed_like(values: list[np.ndarray], old: Any) -> tuple[Array, ...]:
    """Values as arrays of the kind and on the devices of the old ones, so that they fit programs compiled for these."""
    placed = []
    for value, like in zip(values, old, strict=True):
        if _is_key(like):
            new = jax.random.wrap_key_data(jnp.array(value), impl=jax.random.key_impl(like))
        else:
            new = jnp.array(value, like.dtype)
        placed.append(jax.device_put(new, like.sharding) if getattr(like, "committed", False) else new)
    return tuple(placed)


def host_copy(tree: Any) -> Any:
    """Copies of arrays in the host's memory; of random keys their data."""
    return jax.tree.map(lambda a: np.array(jax.random.key_data(a) if _is_key(a) else a), tree)


def on_device(copy: Any, like: Any) -> Any:
    """What `host_copy` made of the arrays `like`, where they were; these may have been donated since."""

    def back(data: np.ndarray, array: Array) -> Array:
        if _is_key(array):
            return jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(array))
        return jax.device_put(data, array.sharding)

    return jax.tree.map(back, copy, like)


def _is_key(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def spec_of(array: Any) -> jax.ShapeDtypeStruct:
    """Shape and type on the device of a batch of such rows; how many rows does not matter, so it is always 2."""
    return jax.ShapeDtypeStruct((2, *array.shape[1:]), device_dtype(array))
