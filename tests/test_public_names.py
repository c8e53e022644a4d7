"""The public names, and no more."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import epochal
from epochal import activations, config, initializers, layers, losses, metrics, optimizers, regularizers
from epochal.engine.objective.objective import _is_ours
from epochal.registry import configurable


def test_the_names_at_the_top_are_those_of_the_table_that_they_are_imported_by() -> None:
    assert [*epochal._PUBLIC, "version"] == epochal.__all__
    assert [name for name in epochal.__all__ if not hasattr(epochal, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'Modle'"):
        epochal.Modle  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("module", [layers, epochal.callbacks, epochal.models, epochal.utils])
def test_the_public_names_are_all_and_no_more(module: Any) -> None:
    public = {name for name in vars(module) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(module, name)) and name not in module.__all__}
    assert set(module.__all__) == public - modules


@pytest.mark.parametrize(
    "module",
    [
        *(epochal, layers, losses, metrics, optimizers, activations, initializers, regularizers, optimizers.schedules),
        *(config, epochal.backend, epochal.critical_batch, epochal.mixed_precision, epochal.random, epochal.saving),
    ],
)
def test_all_names_in_all_are_there_once(module: Any) -> None:
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert len(set(module.__all__)) == len(module.__all__)


OURS = ["epochal.layers.core", "epochal.models.sequential", "epochal.a.new.room"]
USERS = ["mine", "epochal_extras.layers", "__main__"]


@pytest.mark.parametrize("module", OURS + USERS)
@pytest.mark.parametrize(
    ("base", "family"),
    [
        (layers.Layer, "layers"),
        (layers.Dense, "layers"),
        (epochal.Model, "model"),
        (epochal.Sequential, "sequential"),
        (losses.Loss, "losses"),
        (metrics.Metric, "metrics"),
        (optimizers.SGD, "optimizers"),
        (optimizers.schedules.LearningRateSchedule, "optimizers"),
        (initializers.Initializer, "initializers"),
        (regularizers.L1L2, "regularizers"),
    ],
)
def test_a_saved_name_is_of_the_class_and_not_of_its_file(
    base: Any, family: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configurable, "_REGISTRY", dict(configurable._REGISTRY))
    moved = type(base)("Moved", (base,), {"__module__": module})
    ours = module in OURS
    assert configurable.registered_name(moved) == (f"{family}/Moved" if ours else "custom/Moved")
    assert (f"{family}/Moved" in configurable._REGISTRY) is ours


@pytest.mark.parametrize("module", OURS + USERS)
def test_what_is_ours_is_told_by_the_package_wherever_in_it(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding is safe with our layers alone, our mathematics is row by row, and our models build their own layers."""
    monkeypatch.setattr(configurable, "_REGISTRY", dict(configurable._REGISTRY))
    ours = module in OURS
    layer: Any = type(layers.Layer)("Moved", (layers.Layer,), {"__module__": module})
    assert layer.padding_safe is ours

    def distance(y_true: Any, y_pred: Any) -> Any:
        return y_true - y_pred

    distance.__module__ = module
    assert _is_ours(distance) is ours
    assert _is_ours(losses.LossFunctionWrapper(distance)) is ours
    built: list[Any] = []

    def build(self: Any, input_shape: Any) -> None:
        built.append(input_shape)

    build.__module__ = module
    model: Any = type(epochal.Model)("Moved", (epochal.Sequential,), {"__module__": module, "build": build})
    model([layers.Dense(1)])(np.zeros((2, 3), "float32"))
    assert (built == []) is ours
