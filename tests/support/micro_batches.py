"""A classifier that is run in micro-batches, and what must be the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import epochal as keras
from epochal import layers


def classifier(*middle: Any, **compile_arguments: Any) -> Any:
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            layers.Dense(16, activation="relu", input_shape=(64,), kernel_regularizer=keras.regularizers.L2(0.01)),
            *middle,
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(**{"optimizer": "adam", "loss": "ce", "metrics": ["accuracy"], **compile_arguments})
    return model


def assert_same(found: Any, expected: Any, rtol: float = 1e-6) -> None:
    """Weights differ by at most so much of the largest in their array, values by so much of themselves."""
    (model, history, values), (other, same_history, same_values) = found, expected
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        assert np.abs(a - b).max() <= rtol * np.abs(b).max()
    assert history.skipped == same_history.skipped
    for name, series in same_history.history.items():
        np.testing.assert_allclose(history.history[name], series, rtol=2e-6, err_msg=name)
    assert {n: v for n, v in values.items() if np.isfinite(v)} == pytest.approx(
        {n: v for n, v in same_values.items() if np.isfinite(v)}, rel=2e-6
    )
