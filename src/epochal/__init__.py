"""Keras-style model training for JAX. `import epochal as keras`."""

from epochal import (
    activations,
    backend,
    callbacks,
    critical_batch,
    initializers,
    layers,
    losses,
    metrics,
    mixed_precision,
    models,
    ops,
    optimizers,
    random,
    regularizers,
    saving,
    utils,
)
from epochal.functional import Functional as _Functional  # noqa: F401  (makes `Model(inputs, outputs)` work)
from epochal.initializers import Initializer
from epochal.layers import Input, Layer
from epochal.layers.graph import SymbolicTensor as KerasTensor
from epochal.layers.weights import Variable
from epochal.losses import Loss
from epochal.metrics import Metric
from epochal.mixed_precision import DTypePolicy
from epochal.model import Model
from epochal.noise import gradient_noise_scale
from epochal.nonfinite import NonFiniteError
from epochal.optimizers import Optimizer, scale_learning_rate
from epochal.planning import plan_batch_size
from epochal.regularizers import Regularizer
from epochal.reproduce import replay
from epochal.sequential import Sequential
from epochal.study import batch_size_study

__version__ = "0.1.0"


def version() -> str:
    """The version, as `__version__`."""
    return __version__


__all__ = [
    "DTypePolicy",
    "Initializer",
    "Input",
    "KerasTensor",
    "Layer",
    "Loss",
    "Metric",
    "Model",
    "NonFiniteError",
    "Optimizer",
    "Regularizer",
    "Sequential",
    "Variable",
    "activations",
    "backend",
    "batch_size_study",
    "callbacks",
    "critical_batch",
    "gradient_noise_scale",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "mixed_precision",
    "models",
    "ops",
    "optimizers",
    "plan_batch_size",
    "random",
    "regularizers",
    "replay",
    "saving",
    "scale_learning_rate",
    "utils",
    "version",
]
