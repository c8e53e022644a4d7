"""Optimizers: how gradients change parameters. Keras's names, defaults and arithmetic; Optax's transformations too."""

from epochal.optimizers import schedules
from epochal.optimizers.adafactor import Adafactor
from epochal.optimizers.batch_scaling import scale_learning_rate
from epochal.optimizers.from_optax import OptaxOptimizer
from epochal.optimizers.ftrl import Ftrl
from epochal.optimizers.lookup import get
from epochal.optimizers.muon import Muon
from epochal.optimizers.optimizer import Optimizer, OptState
from epochal.optimizers.rules import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Lamb, Lion, Nadam, RMSprop

__all__ = [
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Ftrl",
    "Lamb",
    "Lion",
    "Muon",
    "Nadam",
    "OptState",
    "OptaxOptimizer",
    "Optimizer",
    "RMSprop",
    "get",
    "scale_learning_rate",
    "schedules",
]


def __dir__() -> list[str]:
    return list(__all__)
