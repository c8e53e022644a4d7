"""Keras-style model training for JAX. `import epochal as keras`."""

from epochal import (
    activations,
    backend,
    callbacks,
    initializers,
    layers,
    losses,
    metrics,
    models,
    ops,
    optimizers,
    random,
    regularizers,
    saving,
    utils,
)
from epochal.functional import Functional as _Functional  # noqa: F401  (makes `Model(inputs, outputs)` work)
from epochal.layers import Input, Layer
from epochal.losses import Loss
from epochal.metrics import Metric
from epochal.model import Model
from epochal.optimizers import Optimizer
from epochal.regularizers import Regularizer
from epochal.sequential import Sequential

__version__ = "0.1.0"

__all__ = [
    "Input",
    "Layer",
    "Loss",
    "Metric",
    "Model",
    "Optimizer",
    "Regularizer",
    "Sequential",
    "activations",
    "backend",
    "callbacks",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "ops",
    "optimizers",
    "random",
    "regularizers",
    "saving",
    "utils",
]
