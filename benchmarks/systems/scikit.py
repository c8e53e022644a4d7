"""scikit-learn's MLPClassifier."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.neural_network import MLPClassifier

from systems.work import Candidates, NoSuchCall, Run, Work


def make(system: str, work: Work) -> Candidates:
    """The runs of a work.

    Raises:
        NoSuchCall: the model is no MLP.
    """
    if work.kind != "mlp":
        raise NoSuchCall("it knows MLPs only")
    return {"": _run(work)}


def _run(work: Work) -> Run:
    warnings.filterwarnings("ignore")  # it says that it has not converged
    x, y = work.data()
    options = {"hidden_layer_sizes": work.sizes[1:-1], "batch_size": work.m, "tol": 0.0, "n_iter_no_change": 10**6}
    model = MLPClassifier(**options)
    classes = np.arange(work.classes)
    if work.task == "fit":
        return lambda epochs: model.set_params(max_iter=epochs).fit(x, y)
    model.partial_fit(x, y, classes)

    def train(calls: int) -> None:
        for _ in range(calls):
            model.partial_fit(x, y, classes)

    def predict(calls: int) -> None:
        for _ in range(calls):
            model.predict_proba(x)

    return {"predict": predict, "predict_on_batch": predict, "train_on_batch": train}[work.task]
