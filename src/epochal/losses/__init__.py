"""Losses: what a prediction costs, one value per example (and position), under Keras's names and with Keras's numbers.

A loss is a pure function of targets and predictions. Weighting, masking and reduction are the caller's, so that a
padded or cut batch trains alike; `Loss.__call__` does them for standalone use.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from epochal.config import register_functions
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
from epochal.losses.loss import Loss, LossFunctionWrapper, function_name, reduce, snake_case
from epochal.losses.named import (
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
from epochal.losses.shapes import aligned, broadcast_weights, class_labels, kind_by_shape, paired, rank_matched
from epochal.names import find

__all__ = [
    "BCE",
    "CTC",
    "KLD",
    "MAE",
    "MAPE",
    "MSE",
    "MSLE",
    "TABLE",
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
    "CategoricalGeneralizedCrossEntropy",
    "CategoricalHinge",
    "CosineSimilarity",
    "Crossentropy",
    "Dice",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "LossFunctionWrapper",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Poisson",
    "SparseCategoricalCrossentropy",
    "SquaredHinge",
    "Tversky",
    "aligned",
    "bce",
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "broadcast_weights",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "categorical_generalized_cross_entropy",
    "categorical_hinge",
    "check_labels",
    "class_labels",
    "cosine_similarity",
    "ctc",
    "dice",
    "function_name",
    "get",
    "hinge",
    "huber",
    "kind_by_shape",
    "kl_divergence",
    "kld",
    "kullback_leibler_divergence",
    "log_cosh",
    "logcosh",
    "mae",
    "mape",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "mse",
    "msle",
    "paired",
    "poisson",
    "rank_matched",
    "reduce",
    "snake_case",
    "sparse_categorical_crossentropy",
    "squared_hinge",
    "tversky",
]

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


def check_labels(loss: Loss | None, y: np.ndarray, n_outputs: int) -> None:
    """Checks on the host what compiled code cannot: that a sparse loss gets classes the model has.

    Args:
        loss: any loss; only those against class numbers are checked.
        y: targets, as NumPy array.
        n_outputs: the number of classes, the last dimension of the predictions.

    Raises:
        ValueError: a class number below 0, from `n_outputs` on, or not whole; the message names the first few.
    """
    y = np.asarray(y)
    if not _is_sparse(loss, y, n_outputs) or y.dtype.kind not in "iufb":
        return
    wrong = (y < 0) | (y >= n_outputs) | (y != np.floor(y))
    ignored = getattr(loss, "ignore_class", None)
    if ignored is not None:
        wrong &= y != ignored
    if wrong.any():
        values = np.unique(y[wrong])
        listed = ", ".join(str(v) for v in values[:5].tolist()) + (", …" if len(values) > 5 else "")
        raise ValueError(
            f"Expected class numbers 0 … {n_outputs - 1}, since the model has {n_outputs} classes; y holds {listed}."
        )


def _is_sparse(loss: Loss | None, y: np.ndarray, n_outputs: int) -> bool:
    if isinstance(loss, Crossentropy):
        # The predictions' rank is not known here; where y could as well be one-hot, it is taken for that.
        return n_outputs > 1 and not (y.ndim > 1 and y.shape[-1] == n_outputs)
    return isinstance(loss, SparseCategoricalCrossentropy | CategoricalGeneralizedCrossEntropy)
