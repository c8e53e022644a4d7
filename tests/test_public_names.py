"""The public names, and no more."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import epochal
from epochal import activations, initializers, layers, losses, metrics, optimizers, regularizers


@pytest.mark.parametrize("module", [epochal, layers, epochal.callbacks, epochal.models, epochal.utils])
def test_the_public_names_are_all_and_no_more(module: Any) -> None:
    public = {name for name in vars(module) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(module, name)) and name not in module.__all__}
    assert set(module.__all__) == public - modules


@pytest.mark.parametrize(
    "module", [epochal, layers, losses, metrics, optimizers, activations, initializers, regularizers]
)
def test_all_names_in_all_are_there(module: Any) -> None:
    assert [name for name in getattr(module, "__all__", []) if not hasattr(module, name)] == []
