"""A run that was broken off goes on where it was, and ends with the bits of one that was not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from support import broken_off
from support.broken_off import (
    Again,
    Batched,
    Broken,
    M,
    N,
    Reshuffled,
    assert_same_run,
    assert_weights,
    dense,
    endless,
    run,
    shuffled_by_grain,
)
from support.data import digits

import epochal as keras
from epochal import layers
from epochal.callbacks import BackupAndRestore, Callback

# The classes of these files go to processes with their code: importing the files there would take a second more.
for module in (broken_off, sys.modules[__name__]):
    cloudpickle.register_pickle_by_value(module)

KINDS = ("arrays", "steps", "disk", "sequence", "workers", "generator", "iterable", "iterable steps", "stateful")


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
        assert_same_run(resumed, whole)
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
    assert_same_run(run("grain", tmp_path / "again", every=4), whole)
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
        assert_same_run(resumed, whole)
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
    assert_same_run(run("arrays", folder, every=3), whole)


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
    assert_same_run(run("arrays", tmp_path / "again", every=3, make=make), whole)


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
    assert_same_run(run(kind, tmp_path / "again", every=4, x=make(x, y, broken=False)), whole_run(kind))


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
