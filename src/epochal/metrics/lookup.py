"""Metrics by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from epochal import losses
from epochal.losses import Loss, kind_by_shape
from epochal.metrics.confusion import (
    AUC,
    FalseNegatives,
    FalsePositives,
    Precision,
    PrecisionAtRecall,
    Recall,
    RecallAtPrecision,
    SensitivityAtSpecificity,
    SpecificityAtSensitivity,
    TrueNegatives,
    TruePositives,
)
from epochal.metrics.iou import BinaryIoU, IoU, MeanIoU, OneHotIoU, OneHotMeanIoU
from epochal.metrics.means import (
    Accuracy,
    BinaryAccuracy,
    BinaryCrossentropy,
    CategoricalAccuracy,
    CategoricalCrossentropy,
    CategoricalHinge,
    ConcordanceCorrelation,
    CosineSimilarity,
    Hinge,
    KLDivergence,
    LogCoshError,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    PearsonCorrelation,
    Poisson,
    RootMeanSquaredError,
    SparseCategoricalAccuracy,
    SparseCategoricalCrossentropy,
    SparseTopKCategoricalAccuracy,
    SquaredHinge,
    TopKCategoricalAccuracy,
    accuracy,
    binary_accuracy,
    categorical_accuracy,
    concordance_correlation,
    cosine_similarity,
    pearson_correlation,
    sparse_categorical_accuracy,
    sparse_top_k_categorical_accuracy,
    top_k_categorical_accuracy,
)
from epochal.metrics.metric import Mean, MeanMetricWrapper, MeanOfLoss, Metric, Sum
from epochal.metrics.scores import F1Score, FBetaScore, R2Score
from epochal.registry.configurable import register_functions
from epochal.registry.lookup import find
from epochal.registry.naming import snake_case

_CLASSES: tuple[type[Metric], ...] = (
    AUC,
    Accuracy,
    BinaryAccuracy,
    BinaryCrossentropy,
    BinaryIoU,
    CategoricalAccuracy,
    CategoricalCrossentropy,
    CategoricalHinge,
    ConcordanceCorrelation,
    CosineSimilarity,
    F1Score,
    FBetaScore,
    FalseNegatives,
    FalsePositives,
    Hinge,
    IoU,
    KLDivergence,
    LogCoshError,
    Mean,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanIoU,
    MeanMetricWrapper,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    OneHotIoU,
    OneHotMeanIoU,
    PearsonCorrelation,
    Poisson,
    Precision,
    PrecisionAtRecall,
    R2Score,
    Recall,
    RecallAtPrecision,
    RootMeanSquaredError,
    SensitivityAtSpecificity,
    SparseCategoricalAccuracy,
    SparseCategoricalCrossentropy,
    SparseTopKCategoricalAccuracy,
    SpecificityAtSensitivity,
    SquaredHinge,
    Sum,
    TopKCategoricalAccuracy,
    TrueNegatives,
    TruePositives,
)
_FUNCTIONS = (
    accuracy,
    binary_accuracy,
    categorical_accuracy,
    concordance_correlation,
    cosine_similarity,
    pearson_correlation,
    sparse_categorical_accuracy,
    sparse_top_k_categorical_accuracy,
    top_k_categorical_accuracy,
)
_BY_KIND: dict[str, Callable[..., Metric]] = {
    "binary": BinaryAccuracy,
    "sparse": SparseCategoricalAccuracy,
    "categorical": CategoricalAccuracy,
}


def _required(cls: type[Metric]) -> list[str]:
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]


def _mean_of(loss: type[Loss]) -> Callable[..., Metric]:
    return lambda name: MeanOfLoss(loss(), name)


def _that_says_what_it_needs(cls: type[Metric], arguments: list[str]) -> Callable[..., Metric]:
    def complain(name: str) -> Metric:
        form = f"{cls.__name__}({', '.join(f'{a}=…' for a in arguments)})"
        raise ValueError(f"Metric {name!r} needs arguments: pass {form} in place of the name.")

    return complain


def _table() -> dict[str, Callable[..., Metric]]:
    """Name -> maker(name=…). Every loss is a metric too; where both have a name, the metric's meaning stands."""
    table: dict[str, Callable[..., Metric]] = {name: _mean_of(cls) for name, cls in losses.TABLE.items()}
    for cls in _CLASSES:
        arguments = _required(cls)
        make = _that_says_what_it_needs(cls, arguments) if arguments else cls
        table |= {cls.__name__: make, snake_case(cls.__name__): make}
    return table | {"acc": Accuracy}


TABLE = _table()

register_functions("metrics", {f.__name__: f for f in _FUNCTIONS})


def get(identifier: Any) -> Metric | None:
    """The metric that `identifier` stands for.

    Args:
        identifier: a name ("mse", "AUC"), which becomes the metric's name as it was typed; a function
            fn(y_true, y_pred) or a `Loss`, whose values are averaged; a `Metric`; or a class of these. None is None.

    Raises:
        ValueError: an unknown name (the message has the nearest ones), the name of a metric that needs arguments, or
            something else altogether.
    """
    if identifier is None or isinstance(identifier, Metric):
        return identifier
    if isinstance(identifier, str):
        return find("metric", identifier, TABLE)(name=identifier)
    if inspect.isclass(identifier) and issubclass(identifier, Metric | Loss):
        return get(identifier())
    if not callable(identifier) or inspect.isclass(identifier):
        raise ValueError(f"Expected a metric: a name, a function fn(y_true, y_pred) or a Metric, got {identifier!r}.")
    loss = losses.get(identifier)
    if loss is None or (isinstance(loss, losses.LossFunctionWrapper) and loss is not identifier):
        return MeanMetricWrapper(identifier)
    return MeanOfLoss(loss)


def resolve(identifier: Any, y_shape: Sequence[int | None], pred_shape: Sequence[int | None]) -> Metric:
    """The metric that `identifier` stands for, where "accuracy" and "acc" are chosen by shape.

    Args:
        identifier: as for `get`; "accuracy" and "acc" become binary, sparse categorical or categorical accuracy under
            the name that was typed.
        y_shape: shape of the targets, the batch dimension included.
        pred_shape: shape of the predictions, the batch dimension included.

    Raises:
        ValueError: as for `get`, and for None.
    """
    if isinstance(identifier, str) and identifier in ("accuracy", "acc"):
        return _BY_KIND[kind_by_shape(y_shape, pred_shape)](name=identifier)
    metric = get(identifier)
    if metric is None:
        raise ValueError("Expected a metric, got None.")
    return metric
