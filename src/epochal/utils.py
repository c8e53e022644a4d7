"""Keras's `utils` by name."""

from epochal.encoding import to_categorical
from epochal.random import set_random_seed

__all__ = ["set_random_seed", "to_categorical"]
