"""Runs that are broken off and go on: data of every kind, and what is left of a run."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import epochal as keras
from epochal import layers
from epochal.callbacks import BackupAndRestore, Callback
from epochal.runs.store import Store
from support.data import digits
from support.same import same

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


def assert_same_run(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Asserts that two runs have left the same, to the last bit."""
    for part in a:
        if part != "data":
            assert a[part] == b[part], part


def assert_weights(model: Any, expected: list[np.ndarray]) -> None:
    assert same(model.get_weights(), expected)


def sha256_of(found: dict[str, Any]) -> str:
    text = json.dumps({part: value for part, value in found.items() if part != "data"})
    return hashlib.sha256(text.encode()).hexdigest()


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*"))


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
    assert same(model.get_weights(), again.get_weights())
