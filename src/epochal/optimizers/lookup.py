"""Optimizers by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import optax

from epochal.optimizers import schedules
from epochal.optimizers.adafactor import Adafactor
from epochal.optimizers.from_optax import OptaxOptimizer
from epochal.optimizers.ftrl import Ftrl
from epochal.optimizers.muon import Muon
from epochal.optimizers.optimizer import Optimizer
from epochal.optimizers.rules import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Lamb, Lion, Nadam, RMSprop
from epochal.optimizers.schedules import LearningRateSchedule
from epochal.registry.lookup import find
from epochal.registry.serialize import deserialize

_CLASSES: tuple[type[Optimizer], ...] = (
    *(SGD, Adam, AdamW, RMSprop, Adagrad, Adadelta, Adamax, Nadam, Ftrl, Lion, Adafactor, Lamb, Muon),
)
NAMES: dict[str, type[Optimizer]] = {cls.__name__.lower(): cls for cls in _CLASSES}


def get(identifier: Any) -> Optimizer:
    """The optimizer meant by `identifier`.

    Args:
        identifier: a name in any case ("adam", "SGD"), an `Optimizer` or its class, an Optax transformation, or a
            configuration as Keras or epochal writes it.

    Raises:
        ValueError: an unknown name, or an object of another kind.
    """
    if isinstance(identifier, Optimizer):
        return identifier
    if isinstance(identifier, str):
        return find("optimizer", identifier.lower(), NAMES)()
    if isinstance(identifier, optax.GradientTransformation):
        return OptaxOptimizer(identifier)
    if inspect.isclass(identifier) and issubclass(identifier, Optimizer):
        return identifier()
    if isinstance(identifier, Mapping):
        if "class_name" in identifier:
            return _from_keras(identifier)
        made = deserialize(dict(identifier))
        if isinstance(made, Optimizer):
            return made
    raise ValueError(f"Expected the name of an optimizer, an Optimizer or an Optax transformation, got {identifier!r}.")


def _from_keras(written: Mapping[str, Any]) -> Optimizer:
    config = dict(written.get("config", {}))
    rate = config.get("learning_rate")
    if isinstance(rate, Mapping) and "class_name" in rate:
        known = {n: c for n, c in vars(schedules).items() if inspect.isclass(c) and issubclass(c, LearningRateSchedule)}
        config["learning_rate"] = find("schedule", rate["class_name"], known)(**rate.get("config", {}))
    return find("optimizer", written["class_name"].lower(), NAMES)(**config)
