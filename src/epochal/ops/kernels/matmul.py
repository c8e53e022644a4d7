"""The product of an array's last axis with a kernel, in the form that is fast."""

from __future__ import annotations

from typing import Any

from jax import Array
from jaxtyping import Shaped


def multiply(x: Shaped[Array, "*axes i"], kernel: Any) -> Shaped[Array, "*axes o"]:
    """x @ kernel for a kernel (i, o), cast to the kernel's type.

    It is done on one matrix: the kernel's gradient, a sum over all other axes of `x`, takes XLA twice the time on CPU
    where there are several of them (9.7 against 4.2 ms for 32 x 64 x 128 -> 512).
    """
    x = x.astype(kernel.dtype)
    if x.ndim <= 2:
        return x @ kernel
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])
