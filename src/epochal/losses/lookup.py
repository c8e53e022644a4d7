"""Losses by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from epochal.losses.classes import (
    CTC,
    BinaryCrossentropy,
    BinaryFocalCrossentropy,
    CategoricalCrossentropy,
    CategoricalFocalCrossentropy,
    CategoricalGeneralizedCrossEntropy,
    CategoricalHinge,
    CosineSimilarity,
    Crossentropy,
    Dice,
    Hinge,
    Huber,
    KLDivergence,
    LogCosh,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    Poisson,
    SparseCategoricalCrossentropy,
    SquaredHinge,
    Tversky,
)
from epochal.losses.functions import (
    binary_crossentropy,
    binary_focal_crossentropy,
    categorical_crossentropy,
    categorical_focal_crossentropy,
    categorical_generalized_cross_entropy,
    categorical_hinge,
    cosine_similarity,
    ctc,
    dice,
    hinge,
    huber,
    kl_divergence,
    log_cosh,
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    mean_squared_logarithmic_error,
    poisson,
    sparse_categorical_crossentropy,
    squared_hinge,
    tversky,
)
from epochal.losses.loss import Loss, LossFunctionWrapper
from epochal.registry.configurable import register_functions
from epochal.registry.lookup import find

bce = BCE = binary_crossentropy
kld = KLD = kullback_leibler_divergence = kl_divergence
mae = MAE = mean_absolute_error
mape = MAPE = mean_absolute_percentage_error
mse = MSE = mean_squared_error
msle = MSLE = mean_squared_logarithmic_error
logcosh = log_cosh

# The one table of names: function -> its class and its further names.
_FAMILIES: dict[Callable[..., Any], tuple[type[Loss], tuple[str, ...]]] = {
    binary_crossentropy: (BinaryCrossentropy, ("bce", "BCE")),
    binary_focal_crossentropy: (BinaryFocalCrossentropy, ()),
    categorical_crossentropy: (CategoricalCrossentropy, ()),
    categorical_focal_crossentropy: (CategoricalFocalCrossentropy, ()),
    categorical_generalized_cross_entropy: (CategoricalGeneralizedCrossEntropy, ()),
    categorical_hinge: (CategoricalHinge, ()),
    cosine_similarity: (CosineSimilarity, ()),
    ctc: (CTC, ()),
    dice: (Dice, ()),
    hinge: (Hinge, ()),
    huber: (Huber, ("huber_loss",)),
    kl_divergence: (KLDivergence, ("kld", "KLD", "kullback_leibler_divergence")),
    log_cosh: (LogCosh, ("logcosh",)),
    mean_absolute_error: (MeanAbsoluteError, ("mae", "MAE")),
    mean_absolute_percentage_error: (MeanAbsolutePercentageError, ("mape", "MAPE")),
    mean_squared_error: (MeanSquaredError, ("mse", "MSE")),
    mean_squared_logarithmic_error: (MeanSquaredLogarithmicError, ("msle", "MSLE")),
    poisson: (Poisson, ()),
    sparse_categorical_crossentropy: (SparseCategoricalCrossentropy, ()),
    squared_hinge: (SquaredHinge, ()),
    tversky: (Tversky, ()),
}

TABLE: dict[str, type[Loss]] = {
    name: cls for function, (cls, others) in _FAMILIES.items() for name in (function.__name__, cls.__name__, *others)
} | {"ce": Crossentropy, "crossentropy": Crossentropy, "Crossentropy": Crossentropy}

register_functions("losses", {function.__name__: function for function in _FAMILIES})


def get(identifier: Any) -> Loss | None:
    """The loss that `identifier` stands for.

    Args:
        identifier: a name ("mse", "MeanSquaredError"), a function fn(y_true, y_pred), a `Loss` or a class of these;
            "ce" and "crossentropy" choose the crossentropy by the shapes they meet. None is None.

    Raises:
        ValueError: an unknown name (the message has the nearest ones), or something else altogether.
    """
    if identifier is None or isinstance(identifier, Loss):
        return identifier
    if isinstance(identifier, str):
        return find("loss", identifier, TABLE)()
    if inspect.isclass(identifier) and issubclass(identifier, Loss):
        return identifier()
    if inspect.isfunction(identifier) and identifier in _FAMILIES:
        return _FAMILIES[identifier][0](name=identifier.__name__)  # pyright: ignore[reportCallIssue]
    if callable(identifier) and not inspect.isclass(identifier):
        return LossFunctionWrapper(identifier)
    raise ValueError(f"Expected a loss: a name, a function fn(y_true, y_pred) or a Loss, got {identifier!r}.")
