"""Keras's `backend` by name, as far as it says how numbers are kept; here nothing of that can be set."""

from __future__ import annotations

import gc

from epochal.losses.functions import EPSILON
from epochal.registry.naming import forget_names

__all__ = [
    "backend",
    "clear_session",
    "epsilon",
    "floatx",
    "image_data_format",
]


def __dir__() -> list[str]:
    return list(__all__)


def backend() -> str:
    """What computes: "jax"."""
    return "jax"


def floatx() -> str:
    """The type of weights and results where none is given: "float32"."""
    return "float32"


def epsilon() -> float:
    """The small number that keeps logarithms and quotients finite: 1e-7."""
    return EPSILON


def image_data_format() -> str:
    """Where layers look for channels when not told: "channels_last"."""
    return "channels_last"


def clear_session(free_memory: bool = True) -> None:
    """Layers made from here on are named as in a new process ("dense", "dense_1", …).

    There is no other global state to clear: models that are used no more are freed like all objects.

    Args:
        free_memory: also collect garbage, which may take seconds.
    """
    forget_names()
    if free_memory:
        gc.collect()
