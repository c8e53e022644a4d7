"""The textbook's picture, computed: full-batch, mini-batch and stochastic descent on the same loss of two weights."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from epochal import layers, optimizers
from epochal.callbacks import LambdaCallback
from epochal.data.examples import Examples
from epochal.models.sequential import Sequential
from epochal.random import set_random_seed

UPDATES = 60
_MIDDLE = 32
_MOST_ROWS = 2000
_CORRELATED = 0.9  # more, and the valley is too narrow to draw


def two_columns(examples: Examples) -> tuple[np.ndarray, np.ndarray, tuple[int, int], str] | None:
    """Two columns of the inputs and one number to predict, all standardised; None where there are no two.

    The first column is the one most correlated with the target, the second the one most correlated with the first, but
    not more than 0.9. Of classes the target is whether an example is of the most frequent one.

    Returns:
        (n, 2) and (n,) float64, the columns' numbers (the inputs of an example being flattened), and what is predicted.
    """
    x = np.asarray(jax.tree.leaves(examples.x)[0])[:_MOST_ROWS].reshape(min(examples.n, _MOST_ROWS), -1)
    target, what = _target(np.asarray(jax.tree.leaves(examples.y)[0])[:_MOST_ROWS])
    if not np.issubdtype(x.dtype, np.number):
        return None
    x = np.asarray(x, np.float64)
    varied = np.flatnonzero((x.std(axis=0) > 1e-6) & np.isfinite(x).all(axis=0))
    if len(varied) < 2 or target.std() == 0:
        return None
    z, t = _standard(x[:, varied]), _standard(target)
    first = int(np.argmax(np.abs(t @ z)))
    beside = np.abs(z[:, first] @ z) / len(z)
    second = int(np.argmax(np.where(beside <= _CORRELATED, beside, -1.0)))
    if second == first:
        return None
    return z[:, [first, second]], t, (int(varied[first]), int(varied[second])), what


def _target(y: np.ndarray) -> tuple[np.ndarray, str]:
    y = y.reshape(len(y), -1)
    if y.shape[1] > 1:
        column = int(np.argmax(y.sum(axis=0)))
        return y[:, column].astype(np.float64), f"output {column} of the targets"
    if np.issubdtype(y.dtype, np.integer):
        values, counts = np.unique(y, return_counts=True)
        return (y[:, 0] == values[counts.argmax()]).astype(
            np.float64
        ), f"whether the class is {values[counts.argmax()]}"
    return y[:, 0].astype(np.float64), "the target"


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(axis=0)) / values.std(axis=0)


def descend(examples: Examples) -> dict[str, Any] | None:
    """Least squares with two weights: 60 updates from one point at one learning rate, with three batch sizes.

    Returns:
        JSON data: `hessian` (2, 2), `best` (2,), `least` (loss there), `rate`, `columns`, `predicts`, and `paths`,
        batch size -> 61 points; None where the inputs have no two columns for it.
    """
    found = two_columns(examples)
    if found is None:
        return None
    z, t, columns, what = found
    hessian = 2 * z.T @ z / len(z)  # of the mean squared error
    best = np.linalg.solve(hessian, 2 * z.T @ t / len(z))
    values, vectors = np.linalg.eigh(hessian)
    begin = best + vectors @ (np.array([1.6, 1.0]) * max(1.0, float(np.abs(best).max())))
    rate = float(f"{0.2 / values[1]:.3g}")
    set_random_seed(0)
    model = Sequential([layers.Dense(1, use_bias=False, input_shape=(2,))])
    model.compile(optimizers.SGD(rate), "mse")
    paths = {}
    for size in sorted({1, min(_MIDDLE, len(z)), len(z)}):
        model.set_weights([begin[:, None].astype(np.float32)])
        path = [begin.tolist()]
        note = LambdaCallback(
            on_train_batch_end=lambda batch, logs, path=path: path.append(model.get_weights()[0][:, 0].tolist())
        )
        model.fit(
            z.astype(np.float32),
            t.astype(np.float32),
            batch_size=size,
            steps_per_epoch=UPDATES,
            verbose=0,
            callbacks=[note],
        )
        paths[str(size)] = path
    least = float(np.mean((z @ best - t) ** 2))
    return {
        "hessian": hessian.tolist(),
        "best": best.tolist(),
        "least": least,
        "rate": rate,
        "columns": list(columns),
        "predicts": what,
        "examples": len(z),
        "paths": paths,
    }
