"""A run that was broken off goes on where it was, and ends with the bits of one that was not."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from data import diabetes, digits

import epochal as keras
from epochal import layers
from epochal.callbacks import BackupAndRestore, Callback
from epochal.engine import session
from epochal.runs import checkpoint_file, keeper, snapshot
from epochal.runs.checkpoint_file import read, write
from epochal.runs.store import Store

N, M, EPOCHS = 100, 16, 5


class Broken(Exception):
    """What ends a run in these tests."""


class BreakOff(Callback):
    """Ends a run behind so many batches, as a crash would."""

    def __init__(self, batches: int):
        self.batches = batches

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self.batches == 0:
            raise Broken
        self.batches -= 1


class Counts(Callback):
    """A callback of a user's, with a state."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.seen.append((epoch, -1))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append((self.seen[-1][0], batch))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class Batched(keras.utils.PyDataset):
    """The digits in batches, in an order that `on_epoch_end` changes."""

    def __init__(self, x: np.ndarray, y: np.ndarray, **named: Any):
        super().__init__(**named)
        self.x, self.y = x, y
        self.random = np.random.default_rng(0)
        self.order = np.arange(len(x))

    def __len__(self) -> int:
        return -(-len(self.x) // M)

    def __getitem__(self, index: int) -> Any:
        rows = self.order[index * M : (index + 1) * M]
        return self.x[rows], self.y[rows]

    def on_epoch_end(self) -> None:
        self.random.shuffle(self.order)


def endless(x: np.ndarray, y: np.ndarray) -> Iterator[Any]:
    for i in itertools.cycle(range(0, len(x), M)):
        yield x[i : i + M], y[i : i + M]


class Again:
    """A dataset that can be gone over again and again."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self.batches = [(x[i : i + M], y[i : i + M]) for i in range(0, len(x), M)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class Stateful(Again):
    """One that knows where it is, as torchdata's loaders do."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        super().__init__(x, y)
        self.at, self.loaded, self.given = 0, 0, 0

    def __iter__(self) -> Iterator[Any]:
        while self.at < len(self.batches):
            self.at, self.given = self.at + 1, self.given + 1
            yield self.batches[self.at - 1]
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at, self.loaded = state["at"], self.loaded + 1


class Generator:
    """Random numbers with a state, as torch's generators."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)

    def get_state(self) -> Any:
        return self.random.bit_generator.state

    def set_state(self, state: Any) -> None:
        self.random.bit_generator.state = state


class Loader:
    """As torchdata's: a state that leaves out what a pass draws besides its order, and lists for tuples."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self.dataset, self.batch_sampler, self.generator = (x, y), None, Generator(3)
        self.at, self.loaded, self.given, self.resumed = 0, 0, 0, None

    def __len__(self) -> int:
        return -(-N // M)

    def __iter__(self) -> Iterator[Any]:
        self.at = 0
        if self.resumed is not None:
            self.generator.set_state(self.resumed["begun"])
            self.at = self.resumed["at"]
        self.begun = self.generator.get_state()
        order = self.generator.random.permutation(N)
        if self.resumed is None:
            self.generator.random.integers(100)  # for workers
        self.resumed = None
        return self.rows(order)

    def rows(self, order: np.ndarray) -> Iterator[Any]:
        while self.at < len(self):
            rows = order[self.at * M : (self.at + 1) * M]
            self.at, self.given = self.at + 1, self.given + 1
            yield [array[rows] for array in self.dataset]

    def state_dict(self) -> dict[str, Any]:
        return {"begun": self.begun, "at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.resumed, self.loaded = state, self.loaded + 1


class Stateless(Loader):
    """As torch's own."""

    state_dict = load_state_dict = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name in ("state_dict", "load_state_dict"):
            raise AttributeError(name)
        return super().__getattribute__(name)


class Reshuffled(Again):
    """Every pass comes in an order of its own, by random numbers that nothing puts back."""

    def __init__(self, x: np.ndarray, y: np.ndarray, seed: int | None = 0):
        super().__init__(x, y)
        self.random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.batches) - 1  # without the short one

    def __iter__(self) -> Iterator[Any]:
        for i in self.random.permutation(len(self)):
            yield self.batches[i][0] + self.random.normal(scale=0.01, size=(M, 1)), self.batches[i][1]


def shuffled_by_grain(x: np.ndarray, y: np.ndarray) -> Any:
    import grain

    return grain.MapDataset.range(len(x)).shuffle(seed=3).map(lambda i: (x[i], y[i])).batch(M).to_iter_dataset()


def on_disk(array: np.ndarray, path: Path) -> np.ndarray:
    np.save(path, array)
    return np.load(path, mmap_mode="r")


KINDS = ("arrays", "steps", "disk", "sequence", "workers", "generator", "iterable", "iterable steps", "stateful")


def data(kind: str, folder: Path) -> dict[str, Any]:
    x, y = digits(N)
    held = {"validation_data": (x[:30], y[:30])}
    folder.mkdir(exist_ok=True)
    made: dict[str, Callable[[], dict[str, Any]]] = {
        "arrays": lambda: {"x": x, "y": y, "batch_size": M, "validation_split": 0.2},
        "steps": lambda: {"x": x, "y": y, "batch_size": M, "steps_per_epoch": 5, **held},
        "disk": lambda: {"x": on_disk(x, folder / "x.npy"), "y": y, "batch_size": M, "shuffle": "batch", **held},
        "sequence": lambda: {"x": Batched(x, y), **held},
        "workers": lambda: {"x": Batched(x, y, workers=2), **held},
        "generator": lambda: (
            {"x": endless(x, y), "steps_per_epoch": 6, "validation_data": endless(x, y)} | {"validation_steps": 2}
        ),
        "iterable": lambda: {"x": Again(x, y), **held},
        "iterable steps": lambda: {"x": Again(x, y), "steps_per_epoch": 5, **held},
        "stateful": lambda: {"x": Stateful(x, y), **held},
        "loader": lambda: {"x": Loader(x, y), **held},
        "stateless loader": lambda: {"x": Stateless(x, y), **held},
        "reshuffled": lambda: {"x": Reshuffled(x, y), **held},
        "grain": lambda: {"x": shuffled_by_grain(x, y), **held},
    }
    return made[kind]()


def dense() -> Any:
    """Random masks, statistics over the batch, a state of its own in the optimizer."""
    model = keras.Sequential(
        [
            layers.Dense(8, activation="relu", input_shape=(64,)),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    return model


def run(
    kind: str,
    folder: Path,
    batches: int | None = None,
    every: Any = None,
    make: Callable[[], Any] = dense,
    **others: Any,
) -> dict[str, Any]:
    """What is left of a run; broken off behind so many batches, kept `every` so often; `others` replaces arguments."""
    keras.utils.set_random_seed(4)
    model = make()
    given, counts = {**data(kind, folder), **others}, Counts()
    callbacks = [
        counts,
        keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(patience=1, factor=0.3, min_delta=0.2),
        keras.callbacks.CSVLogger(folder / "log.csv"),
    ]
    if every is not None:
        callbacks.append(BackupAndRestore(folder / "backup", every))
    if batches is not None:
        callbacks.append(BreakOff(batches))
    history = model.fit(**given, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    return {
        "weights": [w.tolist() for w in model.get_weights()],
        "optimizer": [np.asarray(a).tolist() for a in jax.tree.leaves(model.optimizer.state)],
        "history": history.history,
        "epochs": history.epoch,
        "seen": counts.seen,
        "csv": (folder / "log.csv").read_text(),
        "data": given["x"],
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    for part in a:
        if part != "data":
            assert a[part] == b[part], part


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What is left of a run that nothing broke off, by kind of data."""
    return functools.cache(lambda kind: run(kind, tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_broken_off_ends_like_one_that_was_not(kind: str, whole_run: Any, tmp_path: Path) -> None:
    whole = whole_run(kind)
    breaks: list[tuple[int, Any]] = [(3, 2), (9, "epoch"), (17, 4)]  # in the first epoch, between epochs, in the third
    if kind == "arrays":
        breaks += [(0, 1), (8, 5), (8, 7)]
    for number, (batches, every) in enumerate(breaks):
        folder = tmp_path / str(number)
        with pytest.raises(Broken):
            run(kind, folder, batches, every)
        kept = list((folder / "backup").glob("epoch-*"))
        assert kept or batches == 0
        resumed = run(kind, folder, every=every)
        same(resumed, whole)
        assert not list((folder / "backup").glob("epoch-*"))  # a run that came to its end needs them no more
        if kind == "stateful" and batches == 17:
            assert resumed["data"].loaded == 1
            # It went behind batch 16 without reading all again, but for the first batch, which is looked at before.
            assert resumed["data"].given == whole["data"].given - 16 + 1


def test_a_grain_dataset_goes_on_by_its_own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iterator = type(iter(shuffled_by_grain(*digits(N))))
    states, put_back = [], iterator.set_state

    def spy(self: Any, state: Any) -> None:
        states.append(state)
        put_back(self, state)

    monkeypatch.setattr(iterator, "set_state", spy)
    whole = run("grain", tmp_path / "whole")
    assert states == []
    with pytest.raises(Broken):
        run("grain", tmp_path / "again", 17, 4)  # behind batch 16: two of the third epoch
    same(run("grain", tmp_path / "again", every=4), whole)
    assert [state["next_index"] for state in states] == [2]


@pytest.mark.parametrize("kind", ["loader", "stateless loader", "reshuffled"])
def test_data_whose_passes_differ_go_on_in_any_pass(kind: str, tmp_path: Path) -> None:
    whole = run(kind, tmp_path / "whole")
    per_pass = len(whole["data"])
    for batches, every in [(per_pass + 3, per_pass + 2), (2 * per_pass + 3, 2 * per_pass + 2), (per_pass, per_pass)]:
        folder = tmp_path / str(batches)
        with pytest.raises(Broken):
            run(kind, folder, batches, every)
        resumed = run(kind, folder, every=every)
        same(resumed, whole)
        if kind == "loader":  # by its own state: read again is but the first batch, which is looked at before
            assert resumed["data"].loaded == 1
            assert resumed["data"].given == whole["data"].given - every + 1


def test_data_that_come_in_another_order_are_told_of(tmp_path: Path) -> None:
    x, y = digits(N)
    with pytest.raises(Broken):
        run("reshuffled", tmp_path, 9, 8)
    with pytest.warns(
        UserWarning, match="The Reshuffled gives other batches than it gave before the run was broken off"
    ):
        run("reshuffled", tmp_path, x=Reshuffled(x, y, seed=9), every=8)


def test_a_run_may_be_broken_off_many_times(tmp_path: Path) -> None:
    whole = run("arrays", tmp_path / "whole")
    folder = tmp_path / "often"
    for _ in range(4):
        with pytest.raises(Broken):
            run("arrays", folder, 4, 3)
    same(run("arrays", folder, every=3), whole)


def mixed() -> Any:
    model = dense()
    metrics = ["accuracy"]
    model.compile(keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy", metrics, dtype="mixed_bfloat16")
    return model


def in_pieces(size: int = 4) -> Any:
    model = keras.Sequential([layers.Dense(8, "relu", input_shape=(64,)), layers.Dropout(0.3), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, ["accuracy"], micro_batch_size=size)
    return model


@pytest.mark.parametrize("make", [mixed, in_pieces])
def test_computing_in_bfloat16_or_in_micro_batches_changes_none_of_it(make: Any, tmp_path: Path) -> None:
    whole = run("arrays", tmp_path / "whole", make=make)
    with pytest.raises(Broken):
        run("arrays", tmp_path / "again", 8, 3, make=make)  # behind batch 3 of the second epoch
    same(run("arrays", tmp_path / "again", every=3, make=make), whole)


# -- exceptions in what the user wrote


class Unreadable(Exception):
    """Of a user's; its `args` do not make it once more."""

    def __init__(self, path: str, code: int):
        super().__init__(f"{path} cannot be read ({code})")
        self.code = code


class Spoiled(Batched):
    """Batch 3 of the second epoch cannot be read, while `broken`."""

    def __init__(self, *arrays: Any, broken: bool = True, **named: Any):
        super().__init__(*arrays, **named)
        self.broken, self.epoch = broken, 0

    def __getitem__(self, index: int) -> Any:
        if self.broken and (self.epoch, index) == (1, 3):
            raise Unreadable("data/10.npz", 7)
        return super().__getitem__(index)

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        self.epoch += 1


class SpoiledAgain(Again):
    """The same of a dataset that is iterated over."""

    def __init__(self, x: np.ndarray, y: np.ndarray, broken: bool = True):
        super().__init__(x, y)
        self.broken, self.passes = broken, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        for i, batch in enumerate(self.batches):
            if self.broken and (self.passes, i) == (2, 3):
                raise Unreadable("data/10.npz", 7)
            yield batch


def spoiled_generator(x: np.ndarray, y: np.ndarray, broken: bool = True) -> Iterator[Any]:
    for i, batch in enumerate(endless(x, y)):
        if broken and i == 10:
            raise Unreadable("data/10.npz", 7)
        yield batch


PROCESSES = {"workers": 1, "use_multiprocessing": True}
SPOILED: dict[str, tuple[str, Callable[..., Any], int]] = {
    # form -> kind of data, how it is made, batches done before the one that cannot be read
    "generator": ("generator", spoiled_generator, 10),
    "dataset": ("iterable", SpoiledAgain, 10),
    "sequence": ("sequence", Spoiled, 10),
    "threads": ("sequence", lambda *a, **named: Spoiled(*a, workers=2, **named), 10),
    "processes": ("sequence", lambda *a, **named: Spoiled(*a, **PROCESSES, **named), 10),
}


@pytest.mark.parametrize("form", SPOILED)
def test_an_exception_in_the_data_reaches_the_user_as_it_is_and_loses_nothing(
    form: str, whole_run: Any, tmp_path: Path
) -> None:
    kind, make, done = SPOILED[form]
    x, y = digits(N)
    models: list[Any] = []

    def model() -> Any:
        models.append(dense())
        return models[-1]

    with pytest.raises(Unreadable) as error:
        run(kind, tmp_path / "again", every=4, make=model, x=make(x, y))
    assert type(error.value) is Unreadable
    assert (str(error.value), error.value.code) == ("data/10.npz cannot be read (7)", 7)
    notes = ["A worker asked for Spoiled.__getitem__(3)."] if form in ("threads", "processes") else []
    assert getattr(error.value, "__notes__", []) == notes
    with pytest.raises(Broken):
        run(kind, tmp_path / "before", done, make=model)
    assert_weights(models[0], models[1].get_weights())  # of its last complete step
    assert models[0].optimizer.iterations == done
    same(run(kind, tmp_path / "again", every=4, x=make(x, y, broken=False)), whole_run(kind))


@pytest.mark.parametrize("hook", ["on_epoch_end", "on_test_batch_begin"])
def test_an_exception_in_a_hook_reaches_the_user_as_it_is_and_loses_nothing(hook: str, tmp_path: Path) -> None:
    def fit(folder: Path, broken: bool) -> tuple[Any, Any]:
        keras.utils.set_random_seed(4)
        model, calls = dense(), []

        def act(number: int, logs: Any = None) -> None:
            calls.append(number)
            if broken and len(calls) == 2:
                raise Unreadable("report.txt", 3)

        watch = Callback()
        setattr(watch, hook, act)
        fit = {"batch_size": M, "epochs": 3, "validation_data": (x[:30], y[:30]), "verbose": 0}
        history = model.fit(x, y, **fit, callbacks=[watch, BackupAndRestore(folder, 4)])
        return history.history, [w.tolist() for w in model.get_weights()]

    x, y = digits(N)
    whole = fit(tmp_path / "whole", False)
    with pytest.raises(Unreadable) as error:
        fit(tmp_path / "again", True)
    assert (str(error.value), error.value.code) == ("report.txt cannot be read (3)", 3)
    assert getattr(error.value, "__notes__", []) == []
    assert fit(tmp_path / "again", False) == whole


def assert_weights(model: Any, expected: list[np.ndarray]) -> None:
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), expected, strict=True))


# -- killed for real


SCRIPT = """
import sys, pathlib
sys.path.insert(0, {tests!r})
from test_resume import run, sha256_of
print("ready", flush=True)
print("end", sha256_of(run({kind!r}, pathlib.Path({folder!r}), every={every!r})), flush=True)
"""


def start(kind: str, folder: Path, every: Any) -> subprocess.Popen:
    """The run as a process of its own."""
    script = SCRIPT.format(tests=str(Path(__file__).parent), kind=kind, folder=str(folder), every=every)
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)


def ending(process: subprocess.Popen) -> str:
    return process.communicate()[0].split("end ")[-1].strip()


def sha256_of(found: dict[str, Any]) -> str:
    text = json.dumps({part: value for part, value in found.items() if part != "data"})
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_run_that_is_killed_five_times_ends_with_the_same_sha256(whole_run: Any, tmp_path: Path) -> None:
    """`benchmarks/kill_test.py` does it a hundred times, with more kinds of runs."""
    whole = sha256_of(whole_run("arrays"))
    random = np.random.default_rng(0)
    kills = 0
    while kills < 5:
        process = start("arrays", tmp_path / "killed", 2)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        kept = tmp_path / "killed" / "backup"
        before = set(kept.glob("epoch-*")) if kept.exists() else set()
        while process.poll() is None and not (kept.exists() and set(kept.glob("epoch-*")) - before):
            time.sleep(0.005)  # until there is something new, finished or not
        time.sleep(random.uniform(0, 0.1))
        process.kill()
        process.communicate()
        kills += 1
        if len(list(kept.glob("epoch-*"))) == 0:  # it had come to its end
            shutil.rmtree(tmp_path / "killed")
    assert ending(start("arrays", tmp_path / "killed", 2)) == whole
    assert len(whole) == 64


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_signal_keeps_the_run_once_more_before_it_ends(number: int, code: int, tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_resume import *
        class Tell(Callback):
            def on_train_batch_end(self, batch, logs=None):
                print("batch", flush=True)
                time.sleep(0.05)
        model = dense()
        x, y = digits(N)
        model.fit(x, y, epochs=1000, verbose=0, callbacks=[Tell(), BackupAndRestore({str(tmp_path)!r}, 10**9)])
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    for _ in range(6):
        assert process.stdout.readline() == "batch\n"
    process.send_signal(number)
    shown = 6 + process.communicate()[0].count("batch")
    assert process.returncode in (code, -number)
    (kept,) = tmp_path.glob("epoch-*")
    content = read(kept)
    assert content["epoch"] * -(-N // 32) + content["batch"] == shown  # where it ended, not where it was last due


# -- another batch size, other data


class Numbers(keras.utils.PyDataset):
    """The numbers 0 … 46 in batches of 5, in another order every epoch."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        ids = np.arange(47)[index * 5 : (index + 1) * 5]
        return ids[:, None] * 1.0, ids


def trained_on(model: Any, folder: Path, batches: int, **fit: Any) -> list[int]:
    """The ids of the examples that training saw, in its order, until it was broken off or ended."""
    seen: list[int] = []

    def look(y_true: Any, y_pred: Any) -> Any:
        if not isinstance(y_true, jax.core.Tracer):
            seen.extend(np.asarray(y_true).astype(int).ravel().tolist())
        return (y_pred - y_true[:, None]) ** 2

    model.compile(keras.optimizers.SGD(0.0), look, run_eagerly=True)
    callbacks = [BackupAndRestore(folder, 1, delete_checkpoint=False), BreakOff(batches)]
    with contextlib.suppress(Broken):
        model.fit(**fit, verbose=0, callbacks=callbacks)
    return seen


def once_per_epoch(n: int, epochs: int, breaks: int, folder: Path, change: Callable[[Any], dict[str, Any]]) -> None:
    """Trains with other settings after each break, and looks at the examples of every epoch."""
    random = np.random.default_rng(1)
    model = keras.Sequential([layers.Dense(1, input_shape=(1,))])
    keras.utils.set_random_seed(1)
    seen: list[int] = []
    for _ in range(breaks):
        seen += trained_on(model, folder, int(random.integers(1, 4)), epochs=epochs, **change(random))
    assert len(seen) < n * epochs  # the breaks were within the run
    seen += trained_on(model, folder, -1, epochs=epochs, **change(random))
    assert len(seen) == n * epochs
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


@pytest.mark.parametrize("shuffle", [True, "batch", False])
def test_with_another_batch_size_every_example_comes_once_per_epoch(shuffle: Any, tmp_path: Path) -> None:
    ids = np.arange(17)
    data = {"x": ids[:, None] * 1.0, "y": ids, "shuffle": shuffle}
    once_per_epoch(17, 2, 3, tmp_path, lambda random: {**data, "batch_size": int(random.integers(1, 4))})


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", [True, "batch", False])
def test_thirty_other_batch_sizes(shuffle: Any, tmp_path: Path) -> None:
    ids = np.arange(97)
    data = {"x": ids[:, None] * 1.0, "y": ids, "shuffle": shuffle}
    once_per_epoch(97, 5, 30, tmp_path, lambda random: {**data, "batch_size": int(random.integers(1, 12))})


@pytest.mark.slow
def test_thirty_other_numbers_of_workers(tmp_path: Path) -> None:
    once_per_epoch(47, 8, 30, tmp_path, lambda random: {"x": Numbers(), "workers": int(random.integers(0, 4))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:-1], y[:-1]), "training data differ: examples was 100, is 99"),
        (lambda x, y: (x + 1, y), "training data differ: digest"),
        (lambda x, y: (x, y * 1.0), "training data differ: arrays"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(change: Any, message: str, tmp_path: Path) -> None:
    x, y = digits(N)
    backup = BackupAndRestore(tmp_path, 1)
    with pytest.raises(Broken):
        dense().fit(x, y, verbose=0, callbacks=[backup, BreakOff(2)])
    model = dense()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.fit(*change(x, y), verbose=0, callbacks=[backup])
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_run_does_not_go_on_with_another_model_or_optimizer(tmp_path: Path) -> None:
    x, y = digits(N)
    backup = BackupAndRestore(tmp_path, 1)
    with pytest.raises(Broken):
        dense().fit(x, y, verbose=0, callbacks=[backup, BreakOff(2)])
    other = keras.Sequential([layers.Dense(10, activation="softmax", input_shape=(64,))])
    other.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="its weights differ: there were 6, there are 2"):
        other.fit(x, y, verbose=0, callbacks=[backup])
    model = dense()
    model.compile("rmsprop", "sparse_categorical_crossentropy", ["accuracy"])
    with pytest.raises(ValueError, match="optimizer's state differ"):
        model.fit(x, y, verbose=0, callbacks=[backup])


def test_another_environment_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits(N)
    backup = BackupAndRestore(tmp_path, 1)
    with pytest.raises(Broken):
        dense().fit(x, y, verbose=0, callbacks=[backup, BreakOff(2)])
    monkeypatch.setenv("XLA_FLAGS", "--xla_other")
    with pytest.warns(UserWarning, match=r"another environment \(XLA_FLAGS .* --xla_other\)"):
        dense().fit(x, y, verbose=0, callbacks=[backup])


def test_a_run_goes_on_with_another_count_of_devices(whole_run: Any, tmp_path: Path) -> None:
    """From one to two, and from two to one; the process with two breaks the other run off."""
    more, fewer = tmp_path / "more", tmp_path / "fewer"
    with pytest.raises(Broken):
        run("arrays", more, 8, 3)
    script = f"""
import json, sys, warnings
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_resume import *
assert jax.device_count() == 2
with pytest.raises(Broken):
    run("arrays", Path({str(fewer)!r}), 8, 3)
with pytest.warns(UserWarning, match="another environment .*devices 1 → 2"):
    found = run("arrays", Path({str(more)!r}), every=3)
found.pop("data")
print(json.dumps(found))
"""
    two = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=two)
    assert ended.returncode == 0, ended.stderr[-3000:]
    whole = json.loads(json.dumps({**whole_run("arrays"), "data": None}))
    same(whole, json.loads(ended.stdout))
    with pytest.warns(UserWarning, match="another environment .*devices 2 → 1"):
        same(run("arrays", fewer, every=3), whole_run("arrays"))


def test_fit_resume_from_goes_on_from_another_folder_and_leaves_it(tmp_path: Path) -> None:
    x, y = digits(N)
    fit: dict[str, Any] = {"x": x, "y": y, "epochs": 3, "verbose": 0}
    keras.utils.set_random_seed(2)
    model = dense()
    whole = model.fit(**fit).history
    keras.utils.set_random_seed(2)
    with pytest.raises(Broken):
        dense().fit(**fit, callbacks=[BackupAndRestore(tmp_path, 1), BreakOff(6)])
    kept = sorted(tmp_path.iterdir())
    again = dense()
    assert again.fit(**fit, resume_from=tmp_path).history == whole
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))
    assert sorted(tmp_path.iterdir()) == kept
    with pytest.raises(ValueError, match="found none"):
        again.fit(**fit, resume_from=tmp_path / "nothing")


def test_fit_goes_on_from_what_ModelCheckpoint_wrote(tmp_path: Path) -> None:
    """The callbacks behind it in the list have seen the epoch too, and BackupAndRestore may be there as well."""
    x, y = digits(N)

    def fit(saver: Any, resume_from: Any = None, **named: Any) -> tuple[Any, Any]:
        keras.utils.set_random_seed(2)
        model, counts = dense(), Counts()
        plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=1, factor=0.3, min_delta=1.0)
        callbacks = [saver, plateau, counts, *named.pop("callbacks", [])]
        history = model.fit(x, y, verbose=0, callbacks=callbacks, resume_from=resume_from, **{"epochs": 4, **named})
        weights = [w.tolist() for w in model.get_weights()]
        return history.history, (weights, counts.seen, float(model.optimizer.learning_rate))

    def saver(name: str, **named: Any) -> Any:
        return keras.callbacks.ModelCheckpoint(tmp_path / name, "loss", save_state=True, **named)

    whole = fit(saver("{epoch}.keras"))
    assert whole[1][2] < 1e-3
    for epoch in (1, 2, 4):
        again = fit(saver("again.keras"), tmp_path / f"{epoch}.keras")
        assert again == whole
    kept = read(*(tmp_path / "2.keras.run").glob("epoch-*"))
    arrays = {np.asarray(a).tobytes() for a in [*kept["params"], *kept["buffers"]]}
    assert all(w.tobytes() in arrays for w in keras.models.load_model(tmp_path / "2.keras").get_weights())
    # The best of all alone, with another callback that ends the run, and its own backup.
    best = saver("best.keras", save_best_only=True)
    with pytest.raises(Broken):
        fit(best, callbacks=[BreakOff(9), BackupAndRestore(tmp_path / "backup", 1)])
    assert len(list((tmp_path / "best.keras.run").glob("epoch-*"))) == 1
    assert fit(saver("best.keras", save_best_only=True), tmp_path / "best.keras") == whole
    with pytest.raises(ValueError, match=r'save_state .* expected save_freq="epoch", got 3'):
        saver("x.keras", save_freq=3)


def test_a_finished_run_that_is_kept_trains_no_more(tmp_path: Path) -> None:
    x, y = digits(N)
    backup = BackupAndRestore(tmp_path, delete_checkpoint=False)
    model = dense()
    whole = model.fit(x, y, epochs=2, verbose=0, callbacks=[backup]).history
    again = dense()
    assert again.fit(x, y, epochs=2, verbose=0, callbacks=[backup]).history == whole
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))
    longer = again.fit(x, y, epochs=3, verbose=0, callbacks=[backup]).history["loss"]
    assert longer[:2] == whole["loss"]
    assert len(longer) == 3


def test_messages_say_where_a_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    x, y = digits(N)
    backup = BackupAndRestore(tmp_path, 1)
    with pytest.raises(Broken):
        dense().fit(endless(x, y), steps_per_epoch=7, epochs=2, verbose=0, callbacks=[backup, BreakOff(9)])
    capsys.readouterr()
    dense().fit(endless(x, y), steps_per_epoch=7, epochs=2, verbose=2, callbacks=[backup])
    shown = capsys.readouterr().out
    assert "epoch 2, behind batch 2." in shown
    assert "9 batches of the generator are read again and skipped" in shown


# -- folders


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*"))


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


BREAKS: dict[str, Callable[[Path], Any]] = {
    "cut short": lambda path: os.truncate(largest_file(path), largest_file(path).stat().st_size // 2),
    "emptied": lambda path: os.truncate(largest_file(path), 0),
    "a file is missing": lambda path: largest_file(path).unlink(),
    "all files are missing": lambda path: [shutil.rmtree(p) for p in path.iterdir() if p.is_dir()],
    "a number is another": lambda path: _changed(path / "data" / "metadata"),
    "no JSON": lambda path: (path / "data" / "metadata").write_text("{"),
    "another program's": lambda path: _written_by_another(path),
}


def _written_by_another(path: Path) -> None:
    """A whole checkpoint of Orbax, with nothing of ours in it."""
    shutil.rmtree(path)
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(data=ocp.JsonCheckpointHandler())) as writer:
        writer.save(path, args=ocp.args.Composite(data=ocp.args.JsonSave({"step": 3})))


def _changed(path: Path) -> None:
    text = path.read_text()
    assert '"seed"' in text
    path.write_text(text.replace('"batch", ', '"batch",  ').replace('"trained", false', '"trained", true'))


@pytest.mark.parametrize("damage", BREAKS)
def test_a_broken_newest_checkpoint_is_skipped_for_the_one_before(damage: str, tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"epoch-{number:06d}-batch-{0:09d}", content(number))
    store = Store(tmp_path)
    old, new = checkpoints(tmp_path)
    intact = store.newest()
    assert intact is not None
    assert (intact.path, str(intact.content)) == (new, str(content(1)))
    BREAKS[damage](new)
    with pytest.warns(UserWarning, match=f"{new.name} .* is broken .*going on from {old.name}"):
        found = store.newest()
    assert found is not None
    assert found.path == old
    BREAKS[damage](old)
    with pytest.raises(ValueError, match=r"No checkpoint in .* can be read"):
        store.newest()


def content(number: int) -> dict[str, Any]:
    return {
        "trained": False,
        "seed": number,
        "a": [np.arange(10_000.0) + number],
        "batch": {(1, "b"): b"\x00", "c": 2.5},
    }


def test_what_is_written_is_read(tmp_path: Path) -> None:
    values = {
        "numbers": [1, -2.5e-300, float("inf"), True, None, "ä"],
        "tuple": (1, (2, [])),
        "arrays": {
            "f": np.array(1.5, np.float32),
            "b": np.array([True]),
            "u": np.zeros(3, np.uint32),
            "e": np.zeros((0, 2)),
        },
        3: b"\xff",
    }
    write(tmp_path / "epoch-000000-batch-000000000", values)
    found = read(tmp_path / "epoch-000000-batch-000000000")
    assert str(found) == str(values)
    assert found["arrays"]["u"].dtype == np.uint32
    with pytest.raises(TypeError, match="got a set"):
        write(tmp_path / "other", {"a": {1, 2}})


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "epoch-000000-batch-000000000"
    monkeypatch.setattr("epochal.runs.checkpoint_file.FORMAT", 2)
    write(path, content(1))
    monkeypatch.setattr("epochal.runs.checkpoint_file.FORMAT", 1)
    message = f"Checkpoint {path} has format 2, this epochal reads up to 1: update epochal"
    model = dense()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.fit(*digits(N), verbose=0, callbacks=[BackupAndRestore(tmp_path)])
    assert_weights(model, before)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    x, y = digits(N)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "epoch-notes").mkdir()
    dense().fit(x, y, verbose=0, callbacks=[BackupAndRestore(tmp_path, 1)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-notes", "notes.txt", "run.lock"]


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    holder = (
        f"import time; from epochal.runs.store import Store; store = Store({str(tmp_path)!r}); store.lock(); "
        "print(1, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    x, y = digits(N)
    with pytest.raises(RuntimeError, match=rf"Another run writes to .*process {process.pid} on "):
        dense().fit(x, y, verbose=0, callbacks=[BackupAndRestore(tmp_path)])
    process.kill()  # and a killed one holds it no more
    process.communicate()
    dense().fit(x, y, verbose=0, callbacks=[BackupAndRestore(tmp_path)])


def test_a_full_disk_ends_no_training_and_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    write(tmp_path / f"epoch-{0:06d}-batch-{0:09d}", content(0))
    store = Store(tmp_path)
    assert store.newest() is not None
    script = f"""
import resource, signal, warnings
import numpy as np
from epochal.checkpoint import Store
store = Store({str(tmp_path)!r})
assert store.newest() is not None
store.write(1, 0, {{"a": np.random.default_rng(0).normal(size=1000)}})
store.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a disk that takes no more than that in one file
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    store.write(2, 0, {{"a": np.random.default_rng(0).normal(size=1_000_000)}})
    store.wait()
print(caught[0].message)
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "could not be written" in shown
    assert "the last good checkpoint is epoch-000001-batch-000000000" in shown
    assert [p.name for p in checkpoints(tmp_path)] == ["epoch-000000-batch-000000000", "epoch-000001-batch-000000000"]


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    x, y = digits(N)
    with pytest.raises(OSError, match=r"BackupAndRestore cannot write to .*file/backup: .*Choose another backup_dir"):
        dense().fit(x, y, verbose=0, callbacks=[BackupAndRestore(tmp_path / "file" / "backup")])


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
    monkeypatch.setattr(checkpoint_file, "write", lambda path, content: may_go_on.wait(60))
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


# -- disks


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """A small file system of its own in a folder, where that is permitted; yields whether it is."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    permitted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield permitted
    finally:
        if permitted:
            subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """`test_a_full_disk_…` shows the same where nothing may be mounted."""
    folder = tmp_path / "disk"
    with mounted(folder, "size=1m") as permitted:
        if not permitted:
            return
        # In a process of its own: Orbax leaves threads behind that complain of its event loop when they fail in turn.
        script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_resume as t; "
        script += f"t.trains_on_a_full_disk(t.Path({str(folder)!r})); print('whole')"
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert ended.stdout == "whole\n", ended.stderr[-3000:]


def trains_on_a_full_disk(folder: Path) -> None:
    x, y = digits(N)

    def fill(epoch: int, logs: Any = None) -> None:
        if epoch == 2:
            while not checkpoints(folder / "backup") or list(folder.glob("backup/*tmp*")):
                time.sleep(0.01)  # one is still being written
            with contextlib.suppress(OSError), (folder / "other").open("wb", 0) as file:
                while True:
                    file.write(bytes(1000))

    fit: dict[str, Any] = {"x": x, "y": y, "epochs": 4, "batch_size": M, "verbose": 0}
    backup = BackupAndRestore(folder / "backup", 4, delete_checkpoint=False)
    keras.utils.set_random_seed(4)
    model = dense()
    callbacks = [backup, keras.callbacks.LambdaCallback(on_epoch_begin=fill)]
    message = "could not be written .* Training goes on; the last good checkpoint is epoch-"
    with pytest.warns(UserWarning, match=message) as told:
        history = model.fit(**fit, callbacks=callbacks)
    assert len(history.history["loss"]) == 4
    found = Store(folder / "backup").newest()
    assert found is not None
    assert f"checkpoint is {found.path.name}" in str(told[-1].message)
    (folder / "other").unlink()  # and there is room again: the run goes on from there, to the same end
    keras.utils.set_random_seed(4)
    again = dense()
    assert again.fit(**fit, callbacks=[backup]).history == history.history
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))


def test_a_disk_that_is_read_only_is_refused_before_training(tmp_path: Path) -> None:
    x, y = digits(N)
    model = dense()
    before = model.get_weights()
    with mounted(tmp_path / "disk", "ro") as permitted:
        folder = tmp_path / "disk" if permitted else Path("/proc")  # where nobody can make a folder either
        with pytest.raises(OSError, match=f"BackupAndRestore cannot write to {folder}/backup: .*another backup_dir"):
            model.fit(x, y, verbose=0, callbacks=[BackupAndRestore(folder / "backup")])
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_run_that_is_not_kept_asks_no_data_for_its_state() -> None:
    class Costly(Batched):
        def state_dict(self) -> dict[str, Any]:
            raise AssertionError("asked for its state")

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise AssertionError("given a state")

    assert len(dense().fit(Costly(*digits(N)), epochs=2, verbose=0).epoch) == 2
