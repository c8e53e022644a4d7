"""Keras's `models` by name."""

from epochal.model import Model
from epochal.saving import load_model, save_model
from epochal.sequential import Sequential

__all__ = ["Model", "Sequential", "load_model", "save_model"]
