"""Keras-style model training for JAX. `import epochal as keras`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from epochal.runtime import heap as _heap  # noqa: F401  (its settings hold for threads that are started after it)

if TYPE_CHECKING:
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
    from epochal.engine.nonfinite import NonFiniteError
    from epochal.initializers import Initializer
    from epochal.layers import Input, Layer
    from epochal.layers.base.weights import Variable
    from epochal.losses import Loss
    from epochal.metrics import Metric
    from epochal.mixed_precision import DTypePolicy
    from epochal.models import Model, Sequential
    from epochal.models.noise_scale import gradient_noise_scale
    from epochal.models.planning import plan_batch_size
    from epochal.models.replaying import replay
    from epochal.optimizers import Optimizer, scale_learning_rate
    from epochal.regularizers import Regularizer
    from epochal.study import batch_size_study
    from epochal.tracing.symbolic import SymbolicTensor as KerasTensor

__version__ = "0.1.0"

# Where each public name is defined. They are imported when they are first used, so that what needs no JAX, such as
# `epochal --help`, does not wait for it.
_PUBLIC = {
    "DTypePolicy": "epochal.mixed_precision.DTypePolicy",
    "Initializer": "epochal.initializers.Initializer",
    "Input": "epochal.layers.Input",
    "KerasTensor": "epochal.tracing.symbolic.SymbolicTensor",
    "Layer": "epochal.layers.Layer",
    "Loss": "epochal.losses.Loss",
    "Metric": "epochal.metrics.Metric",
    "Model": "epochal.models.Model",
    "NonFiniteError": "epochal.engine.nonfinite.NonFiniteError",
    "Optimizer": "epochal.optimizers.Optimizer",
    "Regularizer": "epochal.regularizers.Regularizer",
    "Sequential": "epochal.models.Sequential",
    "Variable": "epochal.layers.base.weights.Variable",
    "activations": "epochal.activations",
    "backend": "epochal.backend",
    "batch_size_study": "epochal.study.batch_size_study",
    "callbacks": "epochal.callbacks",
    "critical_batch": "epochal.critical_batch",
    "gradient_noise_scale": "epochal.models.noise_scale.gradient_noise_scale",
    "initializers": "epochal.initializers",
    "layers": "epochal.layers",
    "losses": "epochal.losses",
    "metrics": "epochal.metrics",
    "mixed_precision": "epochal.mixed_precision",
    "models": "epochal.models",
    "ops": "epochal.ops",
    "optimizers": "epochal.optimizers",
    "plan_batch_size": "epochal.models.planning.plan_batch_size",
    "random": "epochal.random",
    "regularizers": "epochal.regularizers",
    "replay": "epochal.models.replaying.replay",
    "saving": "epochal.saving",
    "scale_learning_rate": "epochal.optimizers.scale_learning_rate",
    "utils": "epochal.utils",
}

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


def version() -> str:
    """The version, as `__version__`."""
    return __version__


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    path = _PUBLIC[name]
    module, _, attribute = path.rpartition(".")
    value = importlib.import_module(path) if module == __name__ else getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
