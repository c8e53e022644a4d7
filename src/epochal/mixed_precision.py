"""In which type layers keep their weights, and in which they compute: dtype policies, as in Keras."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

__all__ = [
    "DTypePolicy",
    "Policy",
    "dtype_policy",
    "get",
    "global_policy",
    "set_dtype_policy",
    "set_global_policy",
]


def __dir__() -> list[str]:
    return list(__all__)


class DTypePolicy:
    """The type of a layer's weights, and the type it computes in.

    Args:
        name: a type for both; or "mixed_bfloat16": weights in float32, and bfloat16 to compute in, which has the range
            of float32, so that nothing need be scaled.

    Raises:
        ValueError: another name. "mixed_float16" is one: its range is so small that the loss would have to be scaled.

    Example:
        >>> from epochal import mixed_precision
        >>> policy = mixed_precision.DTypePolicy("mixed_bfloat16")
        >>> policy.compute_dtype, policy.variable_dtype
        ('bfloat16', 'float32')
    """

    def __init__(self, name: str):
        if name == "mixed_float16":
            raise ValueError(
                'Expected a dtype policy that needs no loss scaling, got "mixed_float16": use "mixed_bfloat16", which '
                "has the range of float32."
            )
        mixed = name == "mixed_bfloat16"
        try:
            kind = "float32" if mixed else jnp.dtype(name).name
        except TypeError as error:
            raise ValueError(f'Expected a dtype policy such as "float32" or "mixed_bfloat16", got {name!r}.') from error
        self.name = name if mixed else kind
        self.compute_dtype, self.variable_dtype = ("bfloat16" if mixed else kind), kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DTypePolicy) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"<DTypePolicy {self.name!r}>"


Policy = DTypePolicy
_global = DTypePolicy("float32")


def dtype_policy() -> DTypePolicy:
    """The policy of layers that are made without `dtype`; "float32" where none was set."""
    return _global


def set_dtype_policy(policy: Any) -> None:
    """Sets the policy of layers that are made from here on without `dtype`; layers that are there keep theirs.

    Args:
        policy: a `DTypePolicy` or its name.

    Raises:
        ValueError: no policy.

    Example:
        >>> from epochal import layers, mixed_precision
        >>> mixed_precision.set_global_policy("mixed_bfloat16")
        >>> layers.Dense(3).compute_dtype
        'bfloat16'
        >>> mixed_precision.set_global_policy("float32")
    """
    global _global
    _global = get(policy)


global_policy, set_global_policy = dtype_policy, set_dtype_policy


def get(given: Any) -> DTypePolicy:
    """A policy from its name, a type's name, a policy, or None for the global one.

    Raises:
        ValueError: none of these.
    """
    if given is None:
        return _global
    if isinstance(given, DTypePolicy):
        return given
    name = given if isinstance(given, str) else jnp.dtype(given).name
    return DTypePolicy(name)


# What weights are read as, in the layer that is being called; None reads them as they are.
_reading: contextvars.ContextVar[Any] = contextvars.ContextVar("epochal_reading", default=None)


@contextlib.contextmanager
def computing(policy: DTypePolicy) -> Iterator[None]:
    """Inside, weights are read in the type that the policy computes in."""
    mixed = policy.compute_dtype != policy.variable_dtype
    token = _reading.set(jnp.dtype(policy.compute_dtype) if mixed else None)
    try:
        yield
    finally:
        _reading.reset(token)


def as_read(value: Any) -> Any:
    """A weight's value as the layer that is being called reads it."""
    kind = _reading.get()
    return value if kind is None or not jnp.issubdtype(value.dtype, jnp.floating) else value.astype(kind)
