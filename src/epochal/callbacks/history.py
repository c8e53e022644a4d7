"""The record of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from epochal.callbacks.callback import Callback
from epochal.plans.plan import BatchPlan
from epochal.support.types import Logs


class History(Callback):
    """What `fit` returns.

    Attributes:
        history: name -> one value per epoch run, in the order of the logs.
        epoch: the indices of these epochs.
        params: `verbose`, `epochs`, `steps`, `batch_size`.
        plan: of `fit(batch_size="auto")`, how the batch size was chosen; else None.
        skipped: how many updates were skipped with `on_nonfinite="skip"`.
        seconds: of the whole fit; of a run that goes on, since it did, like what follows.
        compile_seconds: of it, spent on compiling.
        programs: how many programs of each kind ("train", "test", "predict") the model has compiled for this data.
        examples_per_second: training examples per second outside of compiling, validation time included.
        data_wait: the share of the time outside of compiling, 0 … 1, in which the device had nothing to do since data
            was waited for. An estimate, rather too low than too high; near 1 it is the data that sets the pace.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[Any]] = {}
        self.epoch: list[int] = []
        self.plan: BatchPlan | None = None
        self.skipped = 0
        self.seconds = 0.0
        self.compile_seconds = 0.0
        self.programs: dict[str, int] = {}
        self.examples_per_second = self.data_wait = 0.0

    def state_dict(self) -> dict[str, Any]:
        plan = None if self.plan is None else self.plan.to_dict()
        history = {name: _packed(values) for name, values in self.history.items()}
        return {"history": history, "epoch": np.array(self.epoch, np.int64), "skipped": self.skipped, "plan": plan}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = {name: _unpacked(values) for name, values in state["history"].items()}
        self.epoch = _unpacked(state["epoch"])
        self.skipped = state.get("skipped", 0)
        plan = state.get("plan")
        self.plan = None if plan is None else BatchPlan.from_dict(plan)

    def receive_entries(self, values: Mapping[str, Any], width: int | None) -> None:
        if "skipped" in values:
            self.skipped += int(values["skipped"].count)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)

    def finish(self, seconds: float, compile_seconds: float, examples: int, waited: float) -> None:
        """Notes how long the fit took, however it ended, on how many examples, and how much of it was waiting."""
        self.seconds, self.compile_seconds = seconds, compile_seconds
        running = max(seconds - compile_seconds, 1e-9)
        self.examples_per_second, self.data_wait = examples / running, min(waited / running, 1.0)

    def plot(self, path: str | Path | None = None) -> Any:
        """Curves of every value against the epoch, training and validation together.

        Args:
            path: where to write a picture; the suffix says in which format.

        Returns:
            a matplotlib `Figure`.
        """
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        names = [n for n in self.history if not n.startswith("val_")]
        figure = Figure(figsize=(5 * max(len(names), 1), 3.6), layout="constrained")
        for i, name in enumerate(names):
            axes = figure.add_subplot(1, len(names), i + 1)
            epochs = [e + 1 for e in self.epoch]
            for key, label in ((name, "training"), (f"val_{name}", "validation")):
                values = self.history.get(key)
                if values:
                    axes.plot(epochs[-len(values) :], values, label=label, marker="." if len(values) < 30 else None)
            axes.set(xlabel="epoch", title=name)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
        if path is not None:
            figure.savefig(path)
        return figure

    def __repr__(self) -> str:
        last = {name: values[-1] for name, values in self.history.items()}
        return f"<History of {len(self.epoch)} epochs, last {last}>"


def _packed(values: list[Any]) -> Any:
    """Floats as an array: as JSON, those of thousands of epochs take milliseconds of every checkpoint."""
    return np.array(values) if {type(value) for value in values} == {float} else values


def _unpacked(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else values
