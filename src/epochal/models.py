"""Keras's `models` by name."""

from epochal.model import Model
from epochal.saving import clone_model, load_model, model_from_json, save_model
from epochal.sequential import Sequential

__all__ = ["Model", "Sequential", "clone_model", "load_model", "model_from_json", "save_model"]
