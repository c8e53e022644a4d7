"""Small models that several rooms train."""

from __future__ import annotations

from typing import Any

import epochal as keras
from epochal import layers
from epochal.models.trainer import training_of


def small(
    seed: int = 0, *, dropout: float = 0.0, batch_norm: bool = False, **compile_arguments: Any
) -> keras.Sequential:
    """A classifier of the digits with 16 hidden units, the same one for the same seed."""
    keras.utils.set_random_seed(seed)
    middle: list[Any] = [layers.Dropout(dropout)] if dropout else []
    middle += [layers.BatchNormalization()] if batch_norm else []
    model = keras.Sequential(
        [layers.Dense(16, activation="relu", input_shape=(64,)), *middle, layers.Dense(10, activation="softmax")]
    )
    model.compile(**{"optimizer": "adam", "loss": "ce", "metrics": ["accuracy"], **compile_arguments})
    return model


def only_programs(model: Any) -> Any:
    """The programs of a model that has been trained with one kind of targets."""
    (programs,) = training_of(model).programs.values()
    return programs
