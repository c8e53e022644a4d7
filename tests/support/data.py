"""Real data for the tests, scaled; all of it ships with scikit-learn."""

from __future__ import annotations

import functools

import numpy as np
from sklearn import datasets


@functools.cache
def digits(n: int = 1797) -> tuple[np.ndarray, np.ndarray]:
    """x (n, 64) in 0 … 1, y (n,) in 0 … 9."""
    x, y = datasets.load_digits(return_X_y=True)
    return (x[:n] / 16).astype(np.float32), y[:n].astype(np.int32)


@functools.cache
def diabetes(n: int = 442) -> tuple[np.ndarray, np.ndarray]:
    """x (n, 10) standardised, y (n,) standardised."""
    x, y = datasets.load_diabetes(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    y = (y - y.mean()) / y.std()
    return x[:n].astype(np.float32), y[:n].astype(np.float32)


@functools.cache
def breast_cancer(n: int = 569) -> tuple[np.ndarray, np.ndarray]:
    """x (n, 30) standardised, y (n,) 0 or 1."""
    x, y = datasets.load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    return x[:n].astype(np.float32), y[:n].astype(np.int32)
