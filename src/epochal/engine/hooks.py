"""Protocols for what stands above the engine: whoever watches a run, whoever keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from epochal.engine.moment import Mark
from epochal.engine.objective.tally import Entry
from epochal.support.types import Logs


@runtime_checkable
class Hooks(Protocol):
    """The callbacks of a method call, in their order; `callbacks.CallbackList` is one."""

    @property
    def callbacks(self) -> list[Any]: ...

    def entries(self) -> list[Entry]: ...

    def receive_entries(self, values: Mapping[str, Any], width: int | None) -> None: ...

    @property
    def call(self) -> Callable[..., None]: ...

    def observes(self, kind: str) -> bool: ...

    def set_run(self, steps: Any, feed: Any) -> None: ...

    def on_predict_begin(self, logs: Logs | None = None) -> None: ...

    def on_predict_end(self, logs: Logs | None = None) -> None: ...

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None: ...

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None: ...


@runtime_checkable
class Keeper(Protocol):
    """Keeps a run as it goes."""

    def steps_ahead(self, wanted: int) -> int: ...

    def count(self, steps: int) -> None: ...

    def mark(self, mark: Mark) -> None: ...

    def epoch_end(self, mark: Mark, last: bool) -> None: ...

    def now(self) -> None: ...


@runtime_checkable
class SnapshotKeeper(Protocol):
    """Keeps a run beside the models that are saved."""

    def epoch_end(self, mark: Mark) -> None: ...


@runtime_checkable
class RestoredRun(Protocol):
    """What a run is resumed from."""

    mark: Mark
    stop: bool

    def put_back(self) -> None: ...
