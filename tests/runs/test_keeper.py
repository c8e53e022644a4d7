"""When a run is kept, and that it costs little."""

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.broken_off import Batched, Broken, N, dense
from support.data import diabetes, digits

from epochal.callbacks import BackupAndRestore
from epochal.engine import session
from epochal.runs import keeper, snapshot
from epochal.runs import store as store_file
from epochal.runs.store import Store


class Written(Store):
    """Notes what it would write."""

    busy = False  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__("nowhere")
        self.places: list[tuple[int, int]] = []

    def write(self, epoch: int, batch: int, content: dict[str, Any]) -> None:
        self.places.append((epoch, batch))


class Nothing(snapshot.Run):
    """A run of which nothing is kept, which takes so many seconds of a clock."""

    def __init__(self, clock: list[float]) -> None:
        self.clock, self.seconds = clock, 0.0

    def kept(self, mark: session.Mark) -> dict[str, Any]:
        self.clock[0] += self.seconds
        return {}


def kept_at(monkeypatch: pytest.MonkeyPatch, seconds: float | None) -> tuple[Written, Nothing, Callable[..., None]]:
    """What a `Backup` writes, of which run, and what takes it to an epoch and a batch (None: its end) at a time."""
    clock = [0.0]
    monkeypatch.setattr(keeper, "time", types.SimpleNamespace(perf_counter=lambda: clock[0]))
    store, run = Written(), Nothing(clock)
    backup = keeper.Backup(store, run, None, seconds, final=False)

    def at(now: float, epoch: int, batch: int | None = None) -> None:
        clock[0], mark = now, session.Mark(epoch, batch or 0, {})
        backup.mark(mark) if batch is not None else backup.epoch_end(mark, last=False)

    return store, run, at


def test_save_freq_in_seconds_keeps_the_run_at_the_first_look_behind_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BackupAndRestore("backup", "30s").seconds == 30
    store, _, at = kept_at(monkeypatch, 30)
    for now, batch in [(10, 1), (29.9, 2), (31, 3), (60, 4), (61.5, 5)]:
        at(now, 0, batch)
    assert store.places == [(0, 3), (0, 5)]


def test_save_freq_epoch_leaves_out_what_would_take_more_than_1_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    store, run, at = kept_at(monkeypatch, None)
    at(1, 1)  # the first in any case
    store.write_seconds = 0.25
    at(50, 2)
    at(51, 3)  # the first one is made up for
    at(75, 4)
    at(76, 5)
    store.busy = True  # the last one is still being written
    at(190, 6)
    store.busy, run.seconds = False, 0.25
    at(191, 7)  # ends at 191.25; from now on gathering takes as long as writing
    at(241, 8)
    at(241.25, 9)
    assert store.places == [(1, 0), (3, 0), (5, 0), (7, 0), (9, 0)]


def test_a_checkpoint_is_written_while_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on = threading.Event()
    monkeypatch.setattr(store_file, "write", lambda path, content: may_go_on.wait(60))
    store = Store(tmp_path)
    store.write(0, 1, {})
    assert store.busy
    may_go_on.set()
    store.wait()
    assert not store.busy
    store.close()


@pytest.mark.parametrize("save_freq", [0, -1, True, "s", "epochs", "3m", 2.5])
def test_save_freq_and_keep_are_checked(save_freq: Any) -> None:
    with pytest.raises(ValueError, match="save_freq"):
        BackupAndRestore("backup", save_freq)
    with pytest.raises(ValueError, match="keep"):
        BackupAndRestore("backup", keep=0)


def test_keras_replays_the_epoch_that_was_broken_off(tmp_path: Path) -> None:
    """15 updates instead of 10: what Keras keeps in mid-epoch has no place in the data."""
    import keras as theirs

    x, y = diabetes(50)
    updates = []
    for first in (True, False):
        model = theirs.Sequential([theirs.layers.Input((10,)), theirs.layers.Dense(1)])
        model.compile("sgd", "mse")
        stop = theirs.callbacks.LambdaCallback(on_train_batch_end=_broken_at(5) if first else None)
        callbacks = [theirs.callbacks.BackupAndRestore(tmp_path / "theirs", save_freq=5), stop]
        with contextlib.suppress(Broken):
            model.fit(x, y[:, None], batch_size=5, epochs=1, verbose=0, callbacks=callbacks)
        updates.append(int(model.optimizer.iterations))
    assert updates == [5, 15]


def _broken_at(batch: int) -> Callable:
    def stop(number: int, logs: Any = None) -> None:
        if number + 1 == batch:
            raise Broken

    return stop


def test_a_run_that_is_not_kept_asks_no_data_for_its_state() -> None:
    class Costly(Batched):
        def state_dict(self) -> dict[str, Any]:
            raise AssertionError("asked for its state")

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise AssertionError("given a state")

    assert len(dense().fit(Costly(*digits(N)), epochs=2, verbose=0).epoch) == 2
