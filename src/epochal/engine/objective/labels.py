"""Class numbers are checked before anything is trained."""

from __future__ import annotations

import numpy as np

from epochal import losses
from epochal.data.examples import Examples
from epochal.engine.objective.objective import Objective


def check_labels(objective: Objective, *parts: Examples | None) -> None:
    """Class numbers that the model has no output for are refused: in compiled code they would go unnoticed."""
    for examples in parts:
        for i, (output, loss) in enumerate(zip(objective.outputs, objective.losses, strict=True)):
            if examples is not None and examples.y is not None and loss is not None and output.prediction.shape:
                losses.check_labels(loss, np.asarray(examples.y[i]), output.prediction.shape[-1])
