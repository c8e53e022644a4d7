"""Section F (epochs, steps) of the training contract.

More of it in data/test_feeds.py, engine/test_programs.py and models/test_model.py.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras as theirs
import numpy as np
import pytest
from support.data import diabetes
from support.feeds import FORMS, Listed, M, N, Plain, batches, errors, forever, line, still

import epochal as keras

ITEMS = batches(*diabetes(N))  # 6 batches, the last one short


def loss_of(model: Any, numbers: list[int], items: list[Any] = ITEMS) -> float:
    """The loss of an epoch of these batches, for a model that training does not change."""
    found = [errors(model, *items[i]) for i in numbers]
    return np.concatenate(found).mean()


def losses(model: Any, epochs: list[list[int]]) -> Any:
    return pytest.approx([loss_of(model, numbers) for numbers in epochs], rel=1e-6)


class Hooks(keras.callbacks.Callback):
    """Notes when training begins and ends, and every epoch in between."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.seen.append("begin")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        self.seen.append("end")


@pytest.mark.parametrize(("first", "last"), [(0, 0), (2, 2), (5, 3)])
@pytest.mark.parametrize("form", ["arrays", *FORMS])
def test_F1_no_epochs_are_no_training_but_its_begin_and_end(form: str, first: int, last: int) -> None:
    model, hooks = still(), Hooks()
    given = diabetes(N) if form == "arrays" else (FORMS[form](ITEMS),)
    before = model.optimizer.iterations
    history = model.fit(*given, epochs=last, initial_epoch=first, verbose=0, callbacks=hooks)
    assert hooks.seen == ["begin", "end"]
    assert (history.epoch, history.history, model.optimizer.iterations) == ([], {}, before)


@pytest.mark.parametrize("form", ["arrays", "dataset", "sequence"])
def test_F1_epochs_is_the_last_index(form: str) -> None:
    hooks = Hooks()
    given = diabetes(N) if form == "arrays" else (FORMS[form](ITEMS),)
    history = still().fit(*given, epochs=5, initial_epoch=3, verbose=0, callbacks=hooks)
    assert hooks.seen == ["begin", 3, 4, "end"]
    assert history.epoch == [3, 4]
    assert len(history.history["loss"]) == 2
    assert history.params["epochs"] == 5


@pytest.mark.parametrize("name", ["epochs", "initial_epoch"])
@pytest.mark.parametrize("value", [-1, 1.0, "2", None, True])
def test_F1_epochs_that_are_no_number_of_epochs(name: str, value: Any) -> None:
    source = iter(ITEMS)
    with pytest.raises(ValueError, match=rf"Expected {name} to be an int >= 0, got {value!r}"):
        still().fit(source, **{name: value}, verbose=0)
    assert next(source) is ITEMS[0]  # nothing was taken


def test_F4_a_dataset_starts_afresh_each_epoch_without_steps_per_epoch() -> None:
    for make in (Plain, Listed):
        model, data = still(), make(ITEMS)
        history = model.fit(data, epochs=3, shuffle=False, verbose=0).history
        assert history["loss"] == losses(model, [list(range(6))] * 3)
        if isinstance(data, Plain):
            assert data.fetched == 18
        else:
            assert (data.asked, data.ends) == (list(range(6)) * 3, 3)


@pytest.mark.parametrize("make", [Plain, Listed])
@pytest.mark.parametrize("steps", [4, 9])
def test_F4_with_steps_per_epoch_the_stream_goes_on_and_starts_again_when_dry(make: Any, steps: int) -> None:
    model, data = still(), make(ITEMS)
    stream = list(itertools.islice(itertools.cycle(range(6)), 4 * steps))
    epochs = [stream[i : i + steps] for i in range(0, 4 * steps, steps)]
    before = model.optimizer.iterations
    history = model.fit(data, epochs=4, steps_per_epoch=steps, shuffle=False, verbose=0)
    assert history.history["loss"] == losses(model, epochs)
    assert model.optimizer.iterations - before == 4 * steps
    assert history.params["steps"] == steps
    if isinstance(data, Plain):
        assert data.fetched == 4 * steps
    else:
        assert (data.asked, data.ends) == (stream, 4)


def test_F4_a_dataset_that_shrinks_to_nothing_ends_training() -> None:
    class Shrinking(Plain):
        def __iter__(self) -> Iterator[Any]:
            yield from super().__iter__()
            self.items = self.items[:-3]

    model = still()
    with pytest.warns(UserWarning, match="after 9 batches: training ends with epoch 2 of 5"):
        history = model.fit(Shrinking(ITEMS), epochs=5, verbose=0).history
    assert history["loss"] == losses(model, [list(range(6)), [0, 1, 2]])


DRY: dict[str, tuple[dict[str, Any], list[list[int]], str | None]] = {
    # arguments, batches of each epoch, what is said
    "in an epoch": ({"steps_per_epoch": 4, "epochs": 5}, [[0, 1, 2, 3], [4, 5]], "6 batches of the 20 needed"),
    "between epochs": ({"steps_per_epoch": 3, "epochs": 5}, [[0, 1, 2], [3, 4, 5]], "6 batches of the 15 needed"),
    "in the last": ({"steps_per_epoch": 4, "epochs": 2}, [[0, 1, 2, 3], [4, 5]], "6 batches of the 8 needed"),
    "in a resumed": (
        {"steps_per_epoch": 4, "epochs": 9, "initial_epoch": 7},
        [[0, 1, 2, 3], [4, 5]],
        "of the 8 needed",
    ),
    "just enough": ({"steps_per_epoch": 3, "epochs": 2}, [[0, 1, 2], [3, 4, 5]], None),
    "one epoch": ({}, [[0, 1, 2, 3, 4, 5]], None),
    "several epochs": ({"epochs": 3}, [[0, 1, 2, 3, 4, 5]], "after 6 batches: training ends with epoch 1 of 3"),
}


@pytest.mark.parametrize("name", DRY)
@pytest.mark.parametrize("make", [lambda: (item for item in ITEMS), lambda: map(tuple, ITEMS)])
def test_F5_dry_generator_ends_training(name: str, make: Callable[[], Any]) -> None:
    """The epoch in hand is completed with what came, validated and told; no batch is trained on twice."""
    arguments, epochs, said = DRY[name]
    model, hooks = still(), Hooks()
    before = model.optimizer.iterations
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(make(), validation_data=ITEMS[0], verbose=0, callbacks=hooks, **arguments)
    assert [said in str(w.message) for w in caught] == ([True] if said else [])
    first = arguments.get("initial_epoch", 0)
    assert history.epoch == list(range(first, first + len(epochs)))
    assert history.history["loss"] == losses(model, epochs)
    assert len(history.history["val_loss"]) == len(epochs)
    assert hooks.seen == ["begin", *history.epoch, "end"]
    assert model.optimizer.iterations - before == 6


def test_F5_observed_step_by_step_it_is_the_same() -> None:
    ends: list[int] = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends.append(batch))
    with pytest.warns(UserWarning, match="6 batches of the 8 needed"):
        still().fit(iter(ITEMS), steps_per_epoch=4, epochs=2, verbose=0, callbacks=watch)
    assert ends == [0, 1, 2, 3, 0, 1]


def test_F5_keras_trains_on_remembered_batches() -> None:
    items = [(x, y[:, None]) for x, y in ITEMS]
    model = line(theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit((item for item in items), steps_per_epoch=4, epochs=5, verbose=0)
    assert int(model.optimizer.iterations.value) > len(items)


class Endless(Listed):
    num_batches = None

    def __getitem__(self, i: int) -> Any:
        return super().__getitem__(i % len(self.items))


class EndlessSet(Plain):
    def __iter__(self) -> Iterator[Any]:
        return forever(self.items)


@pytest.mark.parametrize("make", [forever, Endless, EndlessSet])
def test_F6_data_without_end_makes_one_epoch_that_stop_training_ends(make: Callable[[list[Any]], Any]) -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 14

    model = still()
    history = model.fit(make(ITEMS), epochs=3, verbose=0, validation_data=ITEMS[0], callbacks=Stop())
    assert history.epoch == [0]
    assert history.history["loss"] == losses(model, [[i % 6 for i in range(15)]])
    assert history.params["steps"] is None
    assert "without end" in (keras.Model.fit.__doc__ or "")


def test_F6_with_steps_it_goes_on_from_epoch_to_epoch() -> None:
    for make in (forever, Endless, EndlessSet):
        model = still()
        history = model.fit(make(ITEMS), epochs=3, steps_per_epoch=M - 1, shuffle=False, verbose=0).history
        assert history["loss"] == losses(model, [[i % 6 for i in range(7 * e, 7 * e + 7)] for e in range(3)])
