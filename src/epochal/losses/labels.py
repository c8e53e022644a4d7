"""Class numbers that targets must keep to."""

from __future__ import annotations

import numpy as np

from epochal.losses.classes import CategoricalGeneralizedCrossEntropy, Crossentropy, SparseCategoricalCrossentropy
from epochal.losses.loss import Loss


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
