"""What layers are called with, as JAX arrays."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def is_numbers(x: Any) -> bool:
    """Whether a list or tuple holds numbers (or lists of them), and so is one array and not several inputs."""
    return isinstance(x, list | tuple) and bool(x) and all(isinstance(i, int | float) or is_numbers(i) for i in x)


def as_input(x: Any) -> Any:
    """An array-like as a JAX array: floats become float32, integers stay integers; JAX's own values pass unchanged."""
    if isinstance(x, Array | jax.ShapeDtypeStruct):
        return x
    array = np.asarray(x)
    return jnp.asarray(array, jnp.float32) if array.dtype.kind == "f" else jnp.asarray(array)
