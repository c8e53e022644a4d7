"""Losses whose gradient noise is known, and gradients of single examples."""

from __future__ import annotations

from typing import Any

import numpy as np

import epochal as keras
from epochal import layers
from epochal.critical_batch import (
    noise_scale,
)

# x ~ N(0, H), y ~ N(0, 1), δ = ½: with q = δᵀHδ, B = 1 + tr(H) (q + 1) / |Hδ|², shared/design/batch-size.md.
IDENTITY, HARMONIC = np.ones(10), 1 / np.arange(1, 11)
TRUTHS = [(IDENTITY, 15.0), (HARMONIC, 14.095)]


def regression(h: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, 10)) * np.sqrt(h), random.normal(size=n)


def gradients_of(x: np.ndarray, y: np.ndarray, weights: Any = 0.5) -> np.ndarray:
    """(n, d), those of ½ (x·w - y)²."""
    return x * (x @ np.full(x.shape[1], weights) - y)[:, None]


def scale_of(gradients: np.ndarray, **named: Any) -> Any:
    return noise_scale(np.square(gradients).sum(1), gradients @ gradients.mean(0), **named)


def linear(features: int, weights: float = 0.5, optimizer: Any = "sgd") -> Any:
    model = keras.Sequential([layers.Dense(1, use_bias=False, input_shape=(features,))])
    model.compile(optimizer, "mse")
    model.set_weights([np.full((features, 1), weights, np.float32)])
    return model
