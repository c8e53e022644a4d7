"""The engine: how steps are put together to executions, what overlaps, and what a fit tells of its time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from support.data import digits
from support.models import small
from support.same import same

import epochal as keras
from epochal.data.examples import as_examples
from epochal.data.feeds import stream_feed
from epochal.data.feeds.array_feed import ArrayFeed
from epochal.engine import loop, pacing, session
from epochal.engine.objective.tally import Tally
from epochal.models import fitting

layers = keras.layers


class Watching(keras.callbacks.Callback):
    """Observes batches, so that training runs step by step."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches.append(batch)


class Batches(keras.utils.PyDataset):
    def __init__(self, x: np.ndarray, y: np.ndarray):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self) -> int:
        return -(-len(self.x) // 16)

    def __getitem__(self, i: int) -> Any:
        return self.x[16 * i : 16 * i + 16], self.y[16 * i : 16 * i + 16]


def in_memory(x: np.ndarray, y: np.ndarray, folder: Path) -> dict[str, Any]:
    return {"x": x, "y": y, "batch_size": 16}


def made_by_number(x: np.ndarray, y: np.ndarray, folder: Path) -> dict[str, Any]:
    return {"x": Batches(x, y)}


def on_disk(x: np.ndarray, y: np.ndarray, folder: Path) -> dict[str, Any]:
    np.save(folder / "x.npy", x)
    return {"x": np.load(folder / "x.npy", mmap_mode="r"), "y": y, "batch_size": 16}


def drawn(x: np.ndarray, y: np.ndarray, folder: Path) -> dict[str, Any]:
    one_pass = [Batches(x, y)[i] for i in range(13)]
    return {"x": itertools.chain.from_iterable(itertools.repeat(one_pass)), "steps_per_epoch": 13}


@pytest.mark.parametrize("kind", [in_memory, made_by_number, on_disk, drawn])
def test_A3_weights_and_history_are_bit_identical_with_and_without_observers_for_data_of_every_kind(
    kind: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = digits(200)

    def run(slice_seconds: float = pacing.Pacer.SLICE, observer: Any = None, **arguments: Any) -> tuple[list, dict]:
        monkeypatch.setattr(pacing.Pacer, "SLICE", slice_seconds)
        model = small(dropout=0.2, **arguments)
        history = model.fit(**kind(x, y, tmp_path), epochs=2, verbose=0, callbacks=observer)
        return model.get_weights(), history.history

    weights, history = run()
    watching = Watching()
    runs = [run(observer=watching), run(observer=Watching(), steps_per_execution=4), run(slice_seconds=0.0)]
    runs.append(run(slice_seconds=1e9, steps_per_execution=5))
    for other, other_history in runs:
        assert same(weights, other)
        assert other_history == history
    assert watching.batches == [*range(13), *range(13)]


def in_chunks(monkeypatch: pytest.MonkeyPatch, chunked: bool) -> None:
    """The device has room for none of the data, or for all of it."""
    monkeypatch.setattr(ArrayFeed, "CHUNK_BYTES", 16 * 2000 if chunked else 2**23)
    monkeypatch.setattr(ArrayFeed, "SHARE", 0.0 if chunked else 0.5)


def mixed(normalization: Any = layers.BatchNormalization, **compile_arguments: Any) -> keras.Sequential:
    """Random masks, statistics over the batch, convolutions, and a metric that is taken relative to a first row."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            layers.Input((64,)),
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            normalization(),
            layers.Dropout(0.2),
            layers.Dense(1),
        ]
    )
    model.compile("adam", "mse", ["r2_score"], **compile_arguments)
    return model


@pytest.mark.parametrize("micro", [None, 8])
def test_A3_weights_and_history_are_bit_identical_with_data_on_the_device_and_in_chunks(
    micro: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = digits(330)
    weight, runs = np.linspace(0, 2, 330, dtype=np.float32), []
    grow = keras.callbacks.BatchSizeSchedule({1: 32})
    for chunked in (False, True):
        in_chunks(monkeypatch, chunked)
        model = mixed(layers.LayerNormalization if micro else layers.BatchNormalization, micro_batch_size=micro)
        given = {"batch_size": 16, "sample_weight": weight, "validation_split": 0.1, "callbacks": grow, "verbose": 0}
        history = model.fit(x, y.astype(np.float32), epochs=3, **given)
        score = model.evaluate(x, y.astype(np.float32), verbose=0)
        runs.append((model.get_weights(), history.history, score, history.programs))
    (weights, history, score, programs), (other_weights, *other) = runs
    assert same(weights, other_weights)
    assert other == [history, pytest.approx(score, rel=1e-6), programs]


@pytest.mark.parametrize("order", [(False, True), (True, False)])
def test_A3_a_run_begun_with_data_on_the_device_goes_on_in_chunks_and_the_other_way_round(
    order: tuple[bool, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 7 and self.model.optimizer.iterations > 21:
                raise OSError("enough")

    x, y = digits(330)

    def run(chunked: bool, *callbacks: Any) -> keras.Sequential:
        in_chunks(monkeypatch, chunked)
        model = mixed()
        model.fit(x, y.astype(np.float32), batch_size=16, epochs=3, verbose=0, callbacks=list(callbacks))
        return model

    backup = keras.callbacks.BackupAndRestore(tmp_path, save_freq=3)
    with pytest.raises(OSError, match="enough"):
        run(order[0], Stop(), backup)
    went_on = run(order[1], backup).get_weights()
    assert same(run(order[0]).get_weights(), went_on)


def test_arrays_go_to_the_device_once_where_they_take_at_most_half_of_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = np.zeros((300, 20000), np.float32)  # 24 MB

    def chunked(limit: str, data: Any = x, batch_size: int = 16) -> bool:
        monkeypatch.setenv("EPOCHAL_MEMORY_LIMIT", limit)
        return ArrayFeed(as_examples(data), batch_size, True, 0, False).chunked

    assert not chunked("48MB")
    assert chunked("47MB")
    assert not chunked("47MB", x[:200])  # no more than chunks would take
    assert not chunked("47MB", batch_size=150)
    assert not chunked("47MB", jax.device_put(x))  # there already


def test_A3_the_next_chunk_is_read_while_a_step_computes_with_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """They meet: the first step of a chunk waits for the reader of the next one, and this reader for the step."""
    meeting = threading.Barrier(2, timeout=60)
    met: dict[str, list[int]] = {"reads": [], "computes": []}
    monkeypatch.setattr(ArrayFeed, "CHUNK_BYTES", 32 * 65 * 4)  # two batches

    def meet(what: str, chunk: int) -> None:
        if chunk not in met[what]:
            met[what].append(chunk)
            meeting.wait()

    class Disk:
        def __init__(self, array: np.ndarray):
            self.array, self.shape, self.dtype, self.chunks = array, array.shape, array.dtype, None

        def __len__(self) -> int:
            return len(self.array)

        def __getitem__(self, rows: Any) -> np.ndarray:
            chunk = int(np.arange(len(self))[rows][0]) // 32
            if chunk and threading.current_thread() is not threading.main_thread():
                meet("reads", chunk)
            return self.array[rows]

    def computing(row: Any) -> np.float32:
        if row < 128:  # behind the last chunk there is nothing to be read
            meet("computes", int(row) // 32)
        return np.float32(0)

    def loss(y_true: Any, y_pred: Any) -> Any:
        found = jax.pure_callback(computing, jax.ShapeDtypeStruct((), np.float32), y_true[0, 0])
        return found + (y_pred**2).mean()

    model = keras.Sequential([layers.Dense(1, input_shape=(64,))])
    model.compile("sgd", loss)
    rows = np.arange(160, dtype=np.float32)[:, None]
    model.fit(Disk(digits(160)[0]), rows, batch_size=16, shuffle=False, verbose=0)
    assert met == {"reads": [1, 2, 3, 4], "computes": [0, 1, 2, 3]}


def test_A3_the_time_slice_cuts_long_executions_also_where_a_number_of_steps_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = []
    execute = loop.execute

    def spy(executable: Any, arrays: Any, arguments: tuple, interrupts: Any, donates: bool) -> Any:
        first, last = arguments[-2:]
        counts.append(int(last - first))
        return execute(executable, arrays, arguments, interrupts, donates)

    monkeypatch.setattr(loop, "execute", spy)
    monkeypatch.setattr(pacing.Pacer, "SLICE", 0.0)
    watching = Watching()
    small(dropout=0.2, steps_per_execution=10).fit(*digits(400), batch_size=16, verbose=0, callbacks=watching)
    assert set(counts) == {1}
    assert watching.batches == [9, 19, 24]


class Machine:
    """A device whose steps take a given time, and a host with batches that take theirs, by a clock of their own.

    Attributes:
        now: on the clock, in seconds.
        end: when the device is through.
        lengths: of the executions.
    """

    def __init__(self, step: float, patch: pytest.MonkeyPatch, busy: bool = False):
        self.step, self.now, self.end, self._busy = step, 0.0, 0.0, busy
        self.lengths: list[float] = []
        self._ends: dict[int, float] = {}
        self._tallies: list[Any] = []  # kept, so that no two have the same id
        execute, wait = loop.execute, jax.block_until_ready

        def timed(executable: Any, arrays: Any, arguments: tuple, interrupts: Any, donates: bool) -> Any:
            tally = execute(executable, arrays, arguments, interrupts, donates)
            first, last = arguments[-2:]
            self._tallies.append(tally)
            self.lengths.append(int(last - first) * self.step)
            self.end = self._ends[id(tally.sums)] = max(self.end, self.now) + self.lengths[-1]
            self.now += 1.0 if self._busy and len(self.lengths) % 10 == 5 else 1e-4
            return tally

        def waited(tree: Any) -> Any:
            if isinstance(tree, Tally):
                self.now = max(self.now, self._ends[id(tree.sums)])
            return wait(tree)

        for module in (session, pacing, stream_feed):
            patch.setattr(module, "time", self)
        patch.setattr(jax, "block_until_ready", waited)
        patch.setattr(loop, "execute", timed)
        patch.setattr(pacing.Execution, "ready", property(lambda flight: self._ends[id(flight.tally.sums)] <= self.now))

    def perf_counter(self) -> float:
        return self.now

    def batches(self, seconds: float) -> Iterator[Any]:
        x, y = digits(16)
        while True:
            self.now += seconds
            yield x, y


@pytest.mark.parametrize(("step", "steps"), [(1e-4, 20000), (1e-3, 2000), (3e-2, 50), (2.0, 30)])
def test_A3_no_execution_is_longer_than_100_ms_or_a_step_also_after_the_host_was_busy_with_something_else(
    step: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(step, monkeypatch, busy=True)
    small(dropout=0.2).fit(*digits(64), batch_size=1, steps_per_epoch=steps, verbose=0)
    assert max(machine.lengths) <= max(0.1, step)
    assert np.median(machine.lengths) >= 0.03


@pytest.mark.parametrize(
    ("step", "ratio"), [(1e-3, 1.0), (2e-2, 0.1), (2e-2, 0.75), (2e-2, 1.0), (2e-2, 2.0), (0.5, 1.0)]
)
def test_A3_making_batches_and_computing_overlap(step: float, ratio: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """n steps take n times the longer of the two, but for the first block and the last, not n times the sum."""
    machine, steps = Machine(step, monkeypatch), 200
    small(dropout=0.2).fit(machine.batches(ratio * step), steps_per_epoch=steps, verbose=0)
    assert machine.end <= 1.1 * steps * max(ratio, 1) * step + 0.3


def test_a_history_tells_examples_per_second_and_the_share_of_time_the_device_waited_for_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock goes on where data is made, and nowhere else."""
    clock = SimpleNamespace(now=0.0)
    clock.perf_counter = lambda: clock.now
    for module in (session, pacing, fitting):
        monkeypatch.setattr(module, "time", clock)
    x, y = digits(32)

    def batches() -> Iterator[Any]:
        while True:
            clock.now += 10.0
            yield x, y

    history = small(dropout=0.2).fit(batches(), epochs=2, steps_per_epoch=5, verbose=0)
    assert history.seconds == 100
    running = history.seconds - history.compile_seconds
    assert history.examples_per_second == pytest.approx(320 / running)
    assert history.data_wait == pytest.approx(min(90 / running, 1))  # the first batch is drawn before training begins
    assert small(dropout=0.2).fit(x, y, epochs=2, verbose=0).data_wait == 0


def test_an_interrupted_fit_counts_the_examples_it_has_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 2:
                raise OSError("enough")

    x, y = digits(96)
    model = small(dropout=0.2)
    with pytest.raises(OSError, match="enough"):
        model.fit(x, y, batch_size=16, verbose=0, callbacks=Stop())
    assert model.history is not None
    running = model.history.seconds - model.history.compile_seconds
    assert model.history.examples_per_second * running == pytest.approx(48)


def test_a_profile_of_the_first_steps_is_written_and_changes_nothing(tmp_path: Path) -> None:
    x, y = digits(96)
    plain = small(dropout=0.2)
    plain.fit(x, y, epochs=2, verbose=0)
    profiled = small(dropout=0.2)
    profiled.fit(x, y, epochs=2, verbose=0, profile=tmp_path / "made" / "here")
    assert [f.stat().st_size > 1000 for f in (tmp_path / "made" / "here").rglob("*.xplane.pb")] == [True]
    assert same(plain.get_weights(), profiled.get_weights())


@pytest.mark.parametrize("profile", ["file", 3])
def test_a_profile_that_cannot_be_written_is_refused_before_training(profile: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    x, y = digits(32)
    model = small(dropout=0.2)
    with pytest.raises(ValueError, match="Expected profile to be a folder"):
        model.fit(x, y, verbose=0, profile=tmp_path / profile if isinstance(profile, str) else profile)
    assert model.optimizer.iterations == 0
