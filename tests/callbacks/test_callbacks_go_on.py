"""The callbacks that come along, in a run that was broken off: what they leave behind is that of one that was not."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.boards import read, scalars
from support.broken_off import Broken
from support.data import digits
from support.server import Server

import epochal as keras
from epochal import callbacks, layers
from epochal.callbacks import tensorboard

pytestmark = pytest.mark.optimized  # bits are compared

N, M, EPOCHS = 100, 20, 5
X, Y = digits(N)
END = "on_epoch_end"


class BreakOff(callbacks.Callback):
    """Ends a run at the first call of a hook in an epoch; of a batch's hook, at the call for this batch."""

    def __init__(self, hook: str, epoch: int, batch: int = 0):
        self.at, self.epoch = (epoch, batch), 0
        setattr(self, hook, self.end if hook == END else self.at_batch)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def at_batch(self, batch: int, logs: Any = None) -> None:
        if self.at == (self.epoch, batch):
            raise Broken

    def end(self, epoch: int, logs: Any = None) -> None:
        self.at_batch(0)


def model_with_averages() -> keras.Sequential:
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [layers.Dropout(0.2, input_shape=(64,)), layers.Dense(10, "softmax", name="out")], name="net"
    )
    model.compile(keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.8), "ce", ["accuracy"])
    return model


def all_of_them(folder: Path, port: int, swap: bool) -> list[callbacks.Callback]:
    """One of each kind that has a state, writes, or changes what the others see."""

    def note(epoch: int, logs: Any) -> None:
        logs["noted"] = epoch**2

    return [
        callbacks.SwapEMAWeights(swap_on_epoch=swap),
        callbacks.NoiseScale(every=2, examples=48),
        callbacks.LearningRateScheduler(lambda epoch, rate: 0.9 * rate),
        callbacks.ReduceLROnPlateau("loss", factor=0.7, patience=1, min_delta=0.6, cooldown=1),
        callbacks.BatchSizeSchedule("plateau", monitor="loss", patience=2, min_delta=0.6, factor=1.25),
        callbacks.LambdaCallback(on_epoch_end=note),
        callbacks.EarlyStopping("val_loss", min_delta=0.3, patience=3, restore_best_weights=swap),
        callbacks.TerminateOnNaN(),
        callbacks.ProgbarLogger(),
        callbacks.CSVLogger(folder / "log.csv"),
        callbacks.RemoteMonitor(f"http://127.0.0.1:{port}", f"/{folder.name}", send_as_json=True),
        callbacks.ModelCheckpoint(folder / "{epoch}-{batch}.safetensors", save_weights_only=True, save_freq=7),
        callbacks.ModelCheckpoint(folder / "best-{epoch}.safetensors", "loss", 0, True, True),
        callbacks.TensorBoard(folder / "board", histogram_freq=1, update_freq=2),
        callbacks.History(),
    ]


def run(folder: Path, port: int, swap: bool, every: Any = None, *breaks: callbacks.Callback) -> dict[str, Any]:
    """What is left of a run with all callbacks."""
    folder.mkdir(exist_ok=True)
    used = all_of_them(folder, port, swap)
    backup = [] if every is None else [callbacks.BackupAndRestore(folder / "backup", every)]
    model = model_with_averages()
    fit: dict[str, Any] = {"batch_size": M, "epochs": EPOCHS, "validation_data": (X[:40], Y[:40]), "verbose": 0}
    history: Any = model.fit(X, Y, **fit, callbacks=callbacks.CallbackList([*used, *breaks, *backup]))
    assert str(history.history) == str(used[-1].history)
    optimizer = model.optimizer
    return {
        "history": str(history.history),  # with NaN before the first measurement, which is not NaN
        "epochs": history.epoch,
        "weights": [w.tolist() for w in model.get_weights()],
        "averages": [np.asarray(a).tolist() for a in optimizer.averages(optimizer.state)],
        "rate": optimizer.learning_rate,
        "csv": (folder / "log.csv").read_text(),
        "models": {p.name: p.read_bytes() for p in folder.glob("*.safetensors")},
        "board": {name: events(folder / "board" / name) for name in ("train", "validation")},
    }


def events(folder: Path) -> dict[str, Any]:
    """All that TensorBoard reads, in its order."""
    found: dict[str, Any] = dict(scalars(folder))
    board = read(folder)
    for tag in board.Tags()["histograms"]:
        found[tag] = [(e.step, str(e.histogram_value)) for e in board.Histograms(tag)]
    return found


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bool, Server], dict[str, Any]]]:
    """What is left of a run that nothing broke off, and what it sent."""
    made: dict[bool, dict[str, Any]] = {}

    def get(swap: bool, to: Server) -> dict[str, Any]:
        if swap not in made:
            made[swap] = run(tmp_path_factory.mktemp("whole") / "run", to.server_port, swap)
            made[swap]["sent"] = [body for path, _, body in to.seen if path == "/run"]
        return made[swap]

    return get


BREAKS: dict[str, tuple[bool, Any, list[BreakOff]]] = {
    "in an epoch": (True, 1, [BreakOff("on_train_batch_begin", 1, 2), BreakOff("on_train_batch_begin", 3, 1)]),
    "in a validation": (False, 1, [BreakOff("on_test_batch_begin", 2), BreakOff("on_test_batch_begin", 3)]),
    "in the epoch behind the first checkpoint": (True, "epoch", [BreakOff("on_train_batch_begin", 1, 2)]),
    "behind an epoch": (True, 1, [BreakOff(END, 2)]),
    "long after a checkpoint": (False, 6, [BreakOff("on_train_batch_begin", 2, 1)]),
}


@pytest.mark.parametrize("where", BREAKS)
def test_all_callbacks_go_on_where_they_were(where: str, whole_run: Any, server: Server, tmp_path: Path) -> None:
    swap, every, breaks = BREAKS[where]
    whole = dict(whole_run(swap, server))
    sent = whole.pop("sent")
    for end in breaks:
        with pytest.raises(Broken):
            run(tmp_path / "again", server.server_port, swap, every, end)
    again = run(tmp_path / "again", server.server_port, swap, every)
    for part in whole:
        assert again[part] == whole[part], part
    came = [body for path, _, body in server.seen if path == "/again"]
    if where.startswith("in "):  # no epoch has ended behind the last checkpoint
        assert came == sent
    else:  # an epoch that is trained again is sent again, with the same values
        assert len(came) > len(sent)
        assert list(dict.fromkeys(came)) == sent


def test_all_that_come_along_are_shown_to_go_on(tmp_path: Path) -> None:
    shown = {type(callback).__name__ for callback in all_of_them(tmp_path, 0, True)}
    assert shown | {"Callback", "CallbackList", "BackupAndRestore"} == set(callbacks.__all__)


def test_training_that_NaN_has_ended_stays_ended(tmp_path: Path) -> None:
    def train(kept: str, *more: Any) -> tuple[Any, Any]:
        model = model_with_averages()
        backup = callbacks.BackupAndRestore(tmp_path / kept, 1, delete_checkpoint=False)
        fit: dict[str, Any] = {"batch_size": M, "epochs": 3, "shuffle": False, "verbose": 0}
        used = [callbacks.TerminateOnNaN(), *more, backup]
        return model, model.fit(x, Y, **fit, callbacks=used)

    x = X.copy()
    x[50] = math.nan  # in the third batch
    whole, _ = train("whole")
    with pytest.raises(Broken):
        train("again", BreakOff("on_train_batch_begin", 0, 1))
    for _ in range(2):  # the second time there is nothing left to do
        again, history = train("again")
        assert again.optimizer.iterations == whole.optimizer.iterations == 3
        assert history.epoch == [0]


# -- TensorBoard


def board_of(folder: Path, batches: int, *more: Any, **fit: Any) -> None:
    """Batches are counted as well, so that the file is written to in mid-epoch."""
    ends = [BreakOff("on_train_batch_begin", *divmod(batches, N // M))] if batches else []
    board = callbacks.TensorBoard(folder / "board", update_freq=1, **fit)
    used = [board, *ends, *more, callbacks.BackupAndRestore(folder / "backup", 3)]
    model_with_averages().fit(X, Y, batch_size=M, epochs=2, verbose=0, callbacks=used)


def test_a_board_that_goes_on_leaves_files_of_others_alone(tmp_path: Path) -> None:
    board_of(tmp_path, 0)  # of an earlier training
    earlier = {p: p.read_bytes() for p in tmp_path.rglob("events.*")}
    assert len(earlier) == 1
    with pytest.raises(Broken):
        board_of(tmp_path, 8)
    (broken,) = {*tmp_path.rglob("events.*")} - {*earlier}
    written = broken.stat().st_size
    board_of(tmp_path, 0)
    assert {p: p.read_bytes() for p in earlier} == earlier
    assert broken.stat().st_size < written
    steps = [step for step, _ in scalars(tmp_path / "board" / "train")["batch_loss"]]
    assert sorted(steps) == sorted(2 * [*range(1, 11)])  # files of one second come in any order


def test_a_board_goes_on_in_another_folder(tmp_path: Path) -> None:
    """As of a script whose folder has the time in its name."""
    with pytest.raises(Broken):
        board_of(tmp_path, 8)
    (tmp_path / "board").rename(tmp_path / "earlier")
    board_of(tmp_path, 0)
    steps = [[step for step, _ in scalars(tmp_path / name / "train")["batch_loss"]] for name in ("earlier", "board")]
    assert steps == [[*range(1, 9)], [*range(7, 11)]]


def test_what_a_board_has_written_is_on_disk_at_once(tmp_path: Path) -> None:
    seen = []
    look = callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(scalars(tmp_path / "board" / "train")["batch_loss"][-1][0])
    )
    board_of(tmp_path, 0, look)
    assert seen == [*range(1, 11)]


def test_steps_per_second_of_an_epoch_that_goes_on_count_the_time_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(tensorboard, "time", types.SimpleNamespace(perf_counter=lambda: clock[0], time=lambda: 0.0))

    class Slow(callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            clock[0] += 2.0

    with pytest.raises(Broken):
        board_of(tmp_path, 4, Slow(), write_steps_per_second=True)
    clock[0] += 1000.0
    board_of(tmp_path, 0, Slow(), write_steps_per_second=True)
    assert [v for _, v in scalars(tmp_path / "board" / "train")["epoch_steps_per_second"]] == [0.5, 0.5]


@pytest.mark.parametrize("name", ["*", "out", "0123456", "0123456/"])
def test_names_of_files_that_are_none_are_refused(name: str, tmp_path: Path) -> None:
    """Of a checkpoint that a stranger has made: it would decide which files are cut."""
    board = callbacks.TensorBoard(tmp_path)
    with pytest.raises(ValueError, match="eight hexadecimal digits"):
        board.load_state_dict({**board.state_dict(), "run": name})
