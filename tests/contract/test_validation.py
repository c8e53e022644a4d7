"""Section G (validation) of the training contract; which rows a split takes is in data/test_examples.py."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import keras as theirs
import numpy as np
import pytest
from support.data import diabetes
from support.feeds import FORMS, Listed, M, N, Plain, batches, errors, forever, line, still

import epochal as keras

X, Y = diabetes(N)
ITEMS = batches(X, Y)  # 6 batches, the last one short


def approx(value: Any) -> Any:
    return pytest.approx(value, rel=1e-6)


def each() -> np.ndarray:
    """The loss of every example, for a model that training does not change."""
    return errors(still(), X, Y)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_G1_the_last_rows_are_held_out_before_any_shuffle_with_their_weights(kind: str, tmp_path: Any) -> None:
    w = np.linspace(0.5, 2, N).astype(np.float32)
    x = X
    if kind == "disk":
        x = np.memmap(tmp_path / "x", "float32", "w+", shape=X.shape)
        x[:] = X
    cut = 33  # floor(42 * 0.8)
    for shuffle in (True, False):
        history = still().fit(
            x, Y, sample_weight=w, validation_split=0.2, epochs=2, shuffle=shuffle, batch_size=M, verbose=0
        )
        assert history.history["loss"] == approx([(w * each())[:cut].mean()] * 2)
        assert history.history["val_loss"] == approx([(w * each())[cut:].mean()] * 2)
        assert history.params["steps"] == 5


def test_G1_class_weights_are_for_training_only() -> None:
    x, y = X, (Y > 0).astype(np.int32)
    history = still().fit(x, y, class_weight={0: 3.0, 1: 3.0}, validation_split=0.5, verbose=0).history
    each = errors(still(), x, y)
    assert (history["loss"], history["val_loss"]) == (approx([3 * each[:21].mean()]), approx([each[21:].mean()]))


@pytest.mark.parametrize("form", FORMS)
def test_G1_a_split_needs_arrays(form: str) -> None:
    with pytest.raises(ValueError, match="validation_split needs arrays"):
        still().fit(FORMS[form](ITEMS), validation_split=0.2, verbose=0)


def test_G1_validation_data_overrides_the_split() -> None:
    history = still().fit(X, Y, validation_split=0.5, validation_data=(X[:8], Y[:8]), verbose=0).history
    assert history["loss"] == approx([each().mean()])
    assert history["val_loss"] == approx([each()[:8].mean()])


VALIDATION: dict[str, Callable[[], Any]] = {
    "pair": lambda: (X, Y),
    "list": lambda: [X, Y],
    "weighted": lambda: (X, Y, np.full(N, 2.0)),
    "dataset": lambda: Plain(ITEMS),
    "sequence": lambda: Listed(ITEMS),
    "weighted batches": lambda: Plain([(*item, np.full(len(item[1]), 2.0)) for item in ITEMS]),
}


@pytest.mark.parametrize("name", VALIDATION)
@pytest.mark.parametrize("trained_on", ["arrays", "dataset"])
def test_G2_every_form_of_validation_data(name: str, trained_on: str) -> None:
    given = (X[:8], Y[:8]) if trained_on == "arrays" else (Plain(ITEMS[:1]),)
    history = still().fit(*given, validation_data=VALIDATION[name](), epochs=2, verbose=0).history
    assert history["val_loss"] == approx([each().mean() * (2 if "weighted" in name else 1)] * 2)


def test_G2_a_generator_that_ends_validates_one_epoch() -> None:
    with pytest.warns(UserWarning, match="no batch came, so the epoch has no val_ values"):
        history = still().fit(X, Y, validation_data=iter(ITEMS), epochs=2, verbose=0)
    assert history.history["val_loss"] == approx([each().mean()])
    assert history.epoch == [0, 1]


@pytest.mark.parametrize(("given", "tested"), [({}, 6), ({"validation_batch_size": 20}, 3), ({"batch_size": None}, 2)])
def test_G2_the_batch_size_of_validation_is_that_of_training(given: dict[str, Any], tested: int) -> None:
    ends: list[int] = []
    watch = keras.callbacks.LambdaCallback(on_test_batch_end=lambda batch, logs: ends.append(batch))
    still().fit(X, Y, **{"batch_size": M, **given}, validation_data=(X, Y), callbacks=watch, verbose=0)
    assert ends == list(range(tested))


@pytest.mark.parametrize("form", ["dataset", "sequence", "generator"])
def test_G2_batches_bring_their_own_size(form: str) -> None:
    with pytest.raises(ValueError, match="batch_size beside a"):
        still().fit(X, Y, validation_data=FORMS[form](ITEMS), validation_batch_size=8, verbose=0)


class Odd:
    def __contains__(self, epoch: int) -> bool:
        return epoch % 2 == 1


FREQUENCIES = [(1, {1, 2, 3, 4, 5}), (3, {3}), (9, set()), ([2, 5], {2, 5}), ((1,), {1}), ({4, 9}, {4})]
FREQUENCIES += [(range(1, 6, 2), {1, 3, 5}), (Odd(), {1, 3, 5}), (np.array([2]), {2}), ({3: "x"}, {3})]


@pytest.mark.parametrize(("freq", "due"), FREQUENCIES)
def test_G3_validation_freq_is_a_number_or_any_container_of_epochs_counted_from_1(freq: Any, due: set[int]) -> None:
    validated = {}
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: validated.update({epoch + 1: list(logs)}))
    history = (
        still().fit(X, Y, epochs=5, validation_data=(X, Y), validation_freq=freq, callbacks=watch, verbose=0).history
    )
    assert validated == {e: ["loss", "val_loss"] if e in due else ["loss"] for e in range(1, 6)}
    assert len(history.get("val_loss", [])) == len(due)


def test_G3_epochs_are_counted_from_the_first_also_after_initial_epoch() -> None:
    history = still().fit(X, Y, initial_epoch=3, epochs=8, validation_data=(X, Y), validation_freq=4, verbose=0)
    assert len(history.history["val_loss"]) == 2  # epochs 4 and 8


@pytest.mark.parametrize("freq", [0, -1, 2.0, "1", None, True])
def test_G3_what_is_no_frequency(freq: Any) -> None:
    with pytest.raises(ValueError, match=rf"validation_freq to be .* got {freq!r}"):
        still().fit(X, Y, validation_data=(X, Y), validation_freq=freq, verbose=0)


def test_G3_keras_takes_lists_only() -> None:
    with pytest.raises(ValueError, match="list or int"):
        line(theirs).fit(X, Y[:, None], validation_data=(X, Y[:, None]), validation_freq={1}, verbose=0)


@pytest.mark.parametrize("make", [lambda: (X, Y), lambda: Plain(ITEMS), lambda: Listed(ITEMS)])
def test_G4_validation_steps_score_the_same_first_batches_of_what_starts_again(make: Callable[[], Any]) -> None:
    data = make()
    history = still().fit(X, Y, batch_size=M, epochs=3, validation_data=data, validation_steps=2, verbose=0).history
    assert history["val_loss"] == approx([each()[: 2 * M].mean()] * 3)
    if isinstance(data, Plain):
        assert data.fetched == 6
    if isinstance(data, Listed):
        assert data.asked == [0, 1] * 3


def test_G4_more_steps_than_batches_are_all_batches() -> None:
    for data in ((X, Y), Listed(ITEMS), Plain(ITEMS)):
        history = still().fit(X, Y, validation_data=data, batch_size=M, validation_steps=9, epochs=2, verbose=0)
        assert history.history["val_loss"] == approx([each().mean()] * 2)


def test_G4_a_generator_gives_its_next_batches_and_none_twice() -> None:
    def two_of(first: int) -> float:
        return np.concatenate([errors(still(), *ITEMS[i % 6]) for i in (first, first + 1)]).mean()

    history = still().fit(X, Y, validation_data=forever(ITEMS), validation_steps=2, epochs=4, verbose=0).history
    assert history["val_loss"] == approx([two_of(0), two_of(2), two_of(4), two_of(0)])
    lengths: list[list[str]] = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: lengths.append(list(logs)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = (
            still()
            .fit(X, Y, validation_data=iter(ITEMS[:5]), validation_steps=2, epochs=4, callbacks=watch, verbose=0)
            .history
        )
    assert history["val_loss"] == approx([two_of(0), two_of(2)])
    assert lengths == [["loss", "val_loss"]] * 2 + [["loss"]] * 2
    said = ["1 of 2 batches came", "no batch came"]
    assert [part in str(w.message) for part, w in zip(said, caught, strict=True)] == [True, True]


def test_G4_keras_replays_batches() -> None:
    items = [(x, y[:, None]) for x, y in ITEMS[:3]]
    model, data = line(theirs), (item for item in items)
    history = model.fit(X, Y[:, None], validation_data=data, validation_steps=2, epochs=4, verbose=0).history
    assert len(history["val_loss"]) == 4  # of three batches


class Nosy(keras.callbacks.Callback):
    """Evaluates and predicts other data inside every hook."""

    def __init__(self) -> None:
        self._busy = False
        for name in vars(keras.callbacks.Callback):
            if name.startswith("on_"):
                setattr(self, name, self._look)

    def _look(self, *arguments: Any) -> None:
        if not self._busy:
            self._busy = True
            self.model.evaluate(X[:3], Y[:3] + 9, verbose=0, callbacks=[self])
            self.model.predict(X[:3], verbose=0, callbacks=[self])
            self.model.test_on_batch(X[:3], Y[:3] + 9)
            self._busy = False


def test_G5_evaluate_and_predict_inside_any_hook_change_nothing() -> None:
    runs = []
    model = line(metrics=["mae"], optimizer=keras.optimizers.Adam(0.01))
    start = model.get_weights()
    for callbacks in ([], [Nosy()]):
        keras.utils.set_random_seed(4)
        model.set_weights(start)
        model.compile(keras.optimizers.Adam(0.01), "mse", ["mae"])
        seen: list[dict[str, float]] = []
        watch = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs, seen=seen: seen.append(dict(logs)),
            on_test_batch_end=lambda batch, logs, seen=seen: seen.append(dict(logs)),
        )
        history = model.fit(
            X, Y, batch_size=M, epochs=2, validation_split=0.4, verbose=0, callbacks=[*callbacks, watch]
        )
        trained = [logs for logs in seen if logs["loss"] < 20]  # what the nosy one evaluates has larger losses
        runs.append((history.history, trained, [w.tolist() for w in model.get_weights()]))
    assert len(runs[0][1]) == 2 * (4 + 3)
    assert runs[0] == runs[1]


def test_G5_keras_mixes_them() -> None:
    class Looks(theirs.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.evaluate(X[:3], Y[:3, None] + 9, verbose=0)

    losses = []
    for callbacks in ([], [Looks()]):
        model = line(theirs, optimizer=theirs.optimizers.SGD(0.0))
        losses.append(model.fit(X, Y[:, None], batch_size=M, verbose=0, callbacks=callbacks).history["loss"][0])
    assert losses[1] != pytest.approx(losses[0], rel=1e-2)


SOURCES: dict[str, Callable[[], dict[str, Any]]] = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": M, "validation_split": 0.3},
    "sequence": lambda: {"x": Listed(ITEMS), "validation_data": Listed(ITEMS)},
    "dataset": lambda: {"x": Plain(ITEMS), "validation_data": Plain(ITEMS)},
    "generator": lambda: {
        "x": forever(ITEMS),
        "steps_per_epoch": 5,
        "validation_data": forever(ITEMS),
        "validation_steps": 4,
    },
}


@pytest.mark.parametrize("kind", SOURCES)
def test_G6_live_arrays_and_executables_stay_as_many_from_epoch_to_epoch(kind: str) -> None:
    model = still()
    counts: list[tuple[int, int]] = []

    def count(epoch: int, logs: Any) -> None:
        counts.append((len(jax.live_arrays()), sum(model.programs().values())))

    watch = keras.callbacks.LambdaCallback(on_epoch_end=count)
    model.fit(**SOURCES[kind](), epochs=12, verbose=0, callbacks=watch)
    assert max(counts[4:]) <= max(counts[1:4])


def test_G6_methods_leave_no_arrays_behind() -> None:
    model = still()
    counts = []
    for _ in range(5):
        model.fit(X, Y, batch_size=M, epochs=2, validation_split=0.3, verbose=0)
        model.evaluate(X, Y, verbose=0)
        model.predict(X, verbose=0)
        counts.append(len(jax.live_arrays()))
    assert counts[-1] <= counts[1]


SOAK = """
    import gc, sys
    sys.path.insert(0, sys.argv[1])
    import numpy as np
    import epochal as keras
    from support.feeds import M, Plain, batches, line

    def resident():
        gc.collect()
        lines = open("/proc/self/status").read().splitlines()
        return next(int(text.split()[1]) for text in lines if text.startswith("RssAnon:"))

    x = np.random.default_rng(0).normal(size=(4096, 256)).astype("float32")
    y = x[:, 0]
    model = line(features=256, metrics=["mae"])
    data = {
        "arrays": {"x": x, "y": y, "validation_split": 0.3},
        "dataset": {"x": Plain(batches(x, y, size=64)), "validation_data": Plain(batches(x, y, size=64))},
    }[sys.argv[2]]
    for epochs in (300, 300):
        model.fit(**data, epochs=epochs, verbose=0)
        print(resident())
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_G6_resident_memory_does_not_grow(kind: str) -> None:
    """300 epochs on 4 MB of data: a copy left behind in one of a hundred would be seen."""
    command = [sys.executable, "-c", textwrap.dedent(SOAK), str(Path(__file__).parents[1]), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    early, late = map(int, done.stdout.split())
    assert late - early < 8192  # kB
