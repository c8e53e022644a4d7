"""Keras's `models` by name."""

from epochal.models.functional import Functional as _Functional  # noqa: F401  (makes `Model(inputs, outputs)` work)
from epochal.models.model import Model
from epochal.models.sequential import Sequential
from epochal.saving import clone_model, load_model, model_from_json, save_model

__all__ = ["Model", "Sequential", "clone_model", "load_model", "model_from_json", "save_model"]


def __dir__() -> list[str]:
    return list(__all__)
