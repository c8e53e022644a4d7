"""Keras's `utils` by name."""

from epochal.backend import clear_session
from epochal.data.streams.pydataset import DatasetCreator, InputContext, PyDataset, Sequence
from epochal.random import set_random_seed
from epochal.registry.configurable import custom_object_scope, get_custom_objects
from epochal.saving import CustomObjectScope, register_keras_serializable
from epochal.utils.encoding import normalize, to_categorical
from epochal.utils.sequences import pad_sequences, timeseries_dataset_from_array
from epochal.utils.splitting import split_dataset

__all__ = [
    "CustomObjectScope",
    "DatasetCreator",
    "InputContext",
    "PyDataset",
    "Sequence",
    "clear_session",
    "custom_object_scope",
    "get_custom_objects",
    "normalize",
    "pad_sequences",
    "register_keras_serializable",
    "set_random_seed",
    "split_dataset",
    "timeseries_dataset_from_array",
    "to_categorical",
]


def __dir__() -> list[str]:
    return list(__all__)
