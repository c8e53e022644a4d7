"""Evaluating with the moving averages of the weights."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from epochal.callbacks.callback import Callback
from epochal.support.types import Logs


class SwapEMAWeights(Callback):
    """Puts the moving averages of the weights into the model for evaluations, validations and predictions.

    The optimizer keeps them when it is made with `use_ema=True`. After an evaluation the weights are back exactly, also
    after an exception. However long it trains, `fit` leaves the averages in the model at its end.

    Args:
        swap_on_epoch: have the averages in the model between epochs as well, so that callbacks that come after this one
            see them in `on_epoch_end`: a `ModelCheckpoint` then writes them.

    Raises:
        ValueError: the optimizer keeps no averages, or has none yet.
    """

    def __init__(self, swap_on_epoch: bool = False):
        self.swap_on_epoch = swap_on_epoch
        self._weights: list[Any] | None = None  # the model's own, while the averages are in it

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self._weights = None
        if not getattr(model.optimizer, "use_ema", False):
            raise ValueError(
                "SwapEMAWeights needs a compiled model whose optimizer keeps averages: "
                f"compile(optimizer=Adam(use_ema=True), …). Got {model.optimizer!r}."
            )

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._weights = None if state["weights"] is None else [jnp.array(w) for w in state["weights"]]

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._swap_back()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.swap_on_epoch:
            self._swap()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._weights = None  # the averages stay

    def on_test_begin(self, logs: Logs | None = None) -> None:
        self._swap()

    def on_test_end(self, logs: Logs | None = None) -> None:
        self._swap_back()

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        self._swap()

    def on_predict_end(self, logs: Logs | None = None) -> None:
        self._swap_back()

    def on_exception(self, error: BaseException) -> None:
        self._swap_back()

    def _swap(self) -> None:
        if self._weights is not None:
            return
        optimizer = self.model.optimizer
        if not optimizer.iterations:
            raise ValueError("SwapEMAWeights has no averages of the weights yet: call fit() first.")
        variables = optimizer.bound
        self._weights = [variable.get_value() for variable in variables]
        for variable, average in zip(variables, optimizer.averages(optimizer.state), strict=True):
            variable.set_value(jnp.array(average, copy=True))  # training takes over the memory of the optimizer's own

    def _swap_back(self) -> None:
        if self._weights is None:
            return
        for variable, value in zip(self.model.optimizer.bound, self._weights, strict=True):
            variable.set_value(value)
        self._weights = None
