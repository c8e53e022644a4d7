"""Models and weights on disk: JSON for what a model is, safetensors for its numbers. Reading runs no code of a file."""

from __future__ import annotations

from epochal.registry.configurable import custom_object_scope as custom_object_scope
from epochal.registry.configurable import get_custom_objects as get_custom_objects
from epochal.registry.configurable import register_keras_serializable
from epochal.registry.serialize import deserialize, serialize
from epochal.saving.model_files import clone_model, load_model, model_from_json, save_model, to_json
from epochal.saving.weight_files import load_weights, save_weights

__all__ = [
    "CustomObjectScope",
    "clone_model",
    "custom_object_scope",
    "deserialize_keras_object",
    "get_custom_objects",
    "load_model",
    "load_weights",
    "model_from_json",
    "register_keras_serializable",
    "save_model",
    "save_weights",
    "serialize_keras_object",
    "to_json",
]


def __dir__() -> list[str]:
    return list(__all__)


CustomObjectScope = custom_object_scope
serialize_keras_object, deserialize_keras_object = serialize, deserialize
