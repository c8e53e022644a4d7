"""What callbacks are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from epochal.engine.objective.tally import Entry
from epochal.support.types import Logs


class Callback:
    """Called at fixed moments of training, testing and predicting; override the hooks you need.

    Overriding a train-batch hook makes training run one step at a time (or `steps_per_execution`), so that the hook
    sees every step; epoch hooks cost nothing.

    Attributes:
        model: the model; its weights are current at every hook.
        params: `verbose`, `epochs`, `steps`, `batch_size`.
    """

    keeps_run = False  # whether it has the run kept on disk
    model: Any = None
    params: dict[str, Any] = {}  # noqa: RUF012  (replaced by set_params, never changed)

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on after a crash needs to know: numbers, strings, arrays, lists and dicts of these.

        It is saved with the run (see `BackupAndRestore`) and given back to `load_state_dict`. Nothing by default.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what `state_dict` gave; called after `on_train_begin`, where a run goes on."""

    def set_model(self, model: Any) -> None:
        """Called once before training."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called once before training."""
        self.params = params

    def set_run(self, steps: Any, feed: Any) -> None:
        """Called once before `fit` trains, with its programs and its data (`Programs`, `Feed`). Not in Keras.

        What a callback cannot do with them it says here, as a ValueError: nothing has changed yet.
        """

    def entry(self) -> Entry | None:
        """What is to be carried along in the tally of training, such as the largest gradient; None: nothing.

        Asked once per fit, before it trains. Not in Keras.
        """
        return None

    def receive_entries(self, values: Mapping[str, Any], width: int | None) -> None:
        """After a pass of training, before the epoch ends. Not in Keras.

        Args:
            values: name -> value of each entry of the tally.
            width: rows per micro-batch; None where batches were whole.
        """

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last epoch, with its logs."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before epoch `epoch` (the first is 0)."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After epoch `epoch`; `logs` is one dict for all callbacks, and what is added to it reaches the History."""

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Another name for `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Another name for `on_train_batch_end`."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before batch `batch` of the epoch."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After batch `batch`, with running values over the epoch so far."""
        self.on_batch_end(batch, logs)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before an evaluation, also a validation inside `fit`."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """After an evaluation, with its values."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before batch `batch` of an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After batch `batch` of an evaluation, with running values."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Before a prediction."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """After a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before batch `batch` of a prediction."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After batch `batch` of a prediction, with `{"outputs": predictions}`."""

    def on_exception(self, error: BaseException) -> None:
        """After an exception, Ctrl-C included, has ended the method: no other hook follows. Not in Keras.

        For what must be set right or closed in any case.
        """
