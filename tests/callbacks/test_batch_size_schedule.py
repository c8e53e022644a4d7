"""Batches that change their size between epochs, and learning rates that follow the batch size."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.broken_off import Broken
from support.data import diabetes
from support.same import same

import epochal as keras
from epochal import layers, scale_learning_rate
from epochal.callbacks import BackupAndRestore, BatchSizeSchedule, Callback, LambdaCallback, NoiseScale
from epochal.display import progress as display
from epochal.display.progress import Bar
from epochal.display.screens import Paper

pytestmark = pytest.mark.optimized  # bits are compared

N = 100


def linear(optimizer: Any = None, drop: float = 0.2) -> Any:
    keras.utils.set_random_seed(3)
    hidden = [layers.Dense(8, activation="relu"), layers.Dropout(drop)]
    model = keras.Sequential([*hidden, layers.Dense(1)])
    model.compile(optimizer or keras.optimizers.SGD(0.01, momentum=0.9), "mse", metrics=["mae"])
    return model


def fitted(model: Any, epochs: int, callbacks: Any = (), n: int = N, **named: Any) -> Any:
    x, y = diabetes(n)
    keras.utils.set_random_seed(5)
    given = {"batch_size": 8, "verbose": 0, **named}
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **given)


class Pairs:
    """A dataset of batches of ten."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self.batches = [(x[i : i + 10], y[i : i + 10]) for i in range(0, len(x), 10)]

    def __iter__(self) -> Any:
        return iter(self.batches)


class Reported(Callback):
    """Puts numbers into the logs."""

    def __init__(self, **values: Any):
        self.values = values

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs.update({name: row[epoch] for name, row in self.values.items()})


def by_epoch(values: list[float]) -> Any:
    return lambda epoch: values[epoch]


# -- the schedule


@pytest.mark.parametrize("shuffle", [True, "batch", False])
def test_a_schedule_is_a_sequence_of_fits(shuffle: Any) -> None:
    """To the bit: the same examples in the same batches, with the same masks; short last batches too."""
    one, many = linear(), linear()
    history = fitted(one, 5, [BatchSizeSchedule({2: 32, 4: "full"})], shuffle=shuffle)
    losses: list[float] = []
    for first, last, size in ((0, 2, 8), (2, 4, 32), (4, 5, 100)):
        part = fitted(many, last, initial_epoch=first, batch_size=size, shuffle=shuffle)
        losses += part.history["loss"]
    assert same(one.get_weights(), many.get_weights())
    assert history.history["loss"] == losses
    assert history.history["batch_size"] == [8, 8, 32, 32, 100]
    assert history.programs["train"] == 3  # one for each size


def test_sizes_that_come_again_compile_nothing() -> None:
    sizes = [16, 32, 16, 64, 32, 16]
    history = fitted(linear(), 6, [BatchSizeSchedule(lambda epoch: sizes[epoch])])
    assert history.history["batch_size"] == sizes
    assert history.programs["train"] == 3


def test_multiples_of_the_micro_batch_share_one_program() -> None:
    """And the results are those of whole batches, with a short last batch and a short last piece."""
    schedule: dict[int, Any] = {1: 32, 2: 64, 3: 16}
    whole, pieces = linear(), linear()
    pieces.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", metrics=["mae"], micro_batch_size=8)
    expected = fitted(whole, 4, [BatchSizeSchedule(schedule)], batch_size=16, n=N - 1)
    found = fitted(pieces, 4, [BatchSizeSchedule(schedule)], batch_size=16, n=N - 1)
    assert found.history["batch_size"] == expected.history["batch_size"] == [16, 32, 64, 16]
    assert found.programs["train"] == 1
    assert expected.programs["train"] == 3
    assert found.history["loss"] == pytest.approx(expected.history["loss"], rel=1e-5)
    weights = zip(whole.get_weights(), pieces.get_weights(), strict=True)
    assert all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in weights)
    other = linear()
    other.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", micro_batch_size=8)
    assert fitted(other, 3, [BatchSizeSchedule({1: 20, 2: 32})]).programs["train"] == 2  # 20 is no multiple


def test_every_epoch_has_every_example_once_and_the_right_number_of_steps() -> None:
    seen: list[list[int]] = []

    class Steps(Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            seen.append([self.params["steps"], self.params["batch_size"], 0])

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen[-1][2] += 1

    rows: list[Any] = []

    class Rows(BatchSizeSchedule):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            batches = [self._feed.found(epoch, b)[0] for b in range(self._feed.steps)]
            rows.append(np.concatenate(batches))
            super().on_epoch_end(epoch, logs)

    fitted(linear(), 4, [Rows({1: 30, 2: 7, 3: 64}), Steps()])
    assert seen == [[13, 8, 13], [4, 30, 4], [15, 7, 15], [2, 64, 2]]
    assert all(sorted(r.tolist()) == list(range(N)) for r in rows)
    assert len({tuple(r.tolist()) for r in rows}) == 4  # each in an order of its own


def test_the_time_left_is_that_of_the_steps_with_the_new_batch_size(monkeypatch: Any) -> None:
    """As the bar shows it, where every batch takes two seconds of its clock."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(display, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    shown: list[tuple[str, ...]] = []

    class Sheet(Paper):
        def show(self, *groups: Any) -> None:
            bar, left = groups[0][0].split(), [part for part in groups[0] if part.endswith(" left")]
            shown.extend((bar[0], bar[-1], part) for part in left)

    class Paced(Bar):
        def progress(self, kind: str, done: int, *rest: Any) -> None:
            clock.now = self._start + 2 * done
            super().progress(kind, done, *rest)

    monkeypatch.setattr("epochal.models.fitting.display_for", lambda verbose: Paced(Sheet()))
    each_batch = LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    fitted(linear(), 3, [BatchSizeSchedule({1: 30, 2: 5}), each_batch])
    expected = {("6/13", "12s", "14s left"), ("11/13", "22s", "4.0s left")}
    expected |= {("1/4", "2.0s", "6.0s left"), ("2/4", "4.0s", "4.0s left")}
    expected |= {("2/20", "4.0s", "36s left"), ("15/20", "30s", "10s left")}
    assert expected <= set(shown)
    assert {bar.split("/")[1] for bar, *_ in shown} == {"13", "4", "20"}


def test_steps_per_epoch_go_on_in_the_stream_of_passes() -> None:
    taken: list[Any] = []

    class Rows(BatchSizeSchedule):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            taken.extend(self._feed.found(epoch, b)[0] for b in range(self._feed.steps))
            super().on_epoch_end(epoch, logs)

    fitted(linear(), 4, [Rows({1: 20, 2: 5})], steps_per_epoch=5, n=50, batch_size=10)
    sizes = [len(rows) for rows in taken]
    assert sizes == [10] * 5 + [20, 20, 10, 20, 20] + [5, 5, 5, 5, 5] + [5] * 5
    assert sorted(np.concatenate(taken[:5]).tolist()) == list(range(50))
    assert sorted(np.concatenate(taken[5:8]).tolist()) == list(range(50))


def test_by_examples() -> None:
    history = fitted(linear(), 4, [BatchSizeSchedule({150: 20, 300: 50}, by="examples")])
    assert history.history["batch_size"] == [8, 8, 20, 50]  # 100 examples an epoch
    history = fitted(linear(), 6, [BatchSizeSchedule({150: 20, 300: 50}, by="examples")], initial_epoch=2)
    assert history.history["batch_size"] == [20, 50, 50, 50]


def test_a_function_may_look_at_the_size() -> None:
    history = fitted(linear(), 5, [BatchSizeSchedule(lambda epoch, size: size * 2, max_batch_size=50)])
    assert history.history["batch_size"] == [16, 32, 50, 50, 50]


def test_on_a_plateau_batches_grow_where_the_learning_rate_would_fall() -> None:
    values = [5, 4, 4, 4, 3, 3.1, 3.2, 3.3, 3.4, 3.5, 2, 2, 2, 2]
    common = {"monitor": "value", "mode": "min", "patience": 2, "cooldown": 1}
    plateau = keras.callbacks.ReduceLROnPlateau(factor=0.5, **common)
    grows = BatchSizeSchedule("plateau", factor=2, **common)
    history = fitted(linear(), 14, [Reported(value=values), plateau, grows], batch_size=2).history
    falls = [a > b for a, b in zip(history["learning_rate"], history["learning_rate"][1:], strict=False)]
    grown = [a < b for a, b in zip(history["batch_size"], history["batch_size"][1:], strict=False)]
    assert grown == falls
    assert sum(grown) == 4


def test_by_measured_noise_batches_grow_while_the_noise_scale_allows() -> None:
    low = [7.9, 16.1, 100, 3, 31, math.nan, 63.9, 64.0]
    grows = BatchSizeSchedule("noise", max_batch_size=50)
    history = fitted(linear(), 8, [Reported(noise_scale_low=low), grows]).history
    assert history["batch_size"] == [8, 8, 16, 32, 32, 32, 32, 32]
    measured = fitted(linear(drop=0.0), 12, [NoiseScale(every=1), BatchSizeSchedule("noise")], n=442).history
    for e in range(11):
        twice = 2 * measured["batch_size"][e]
        assert measured["batch_size"][e + 1] == (twice if measured["noise_scale_low"][e] >= twice else twice // 2)
    assert measured["batch_size"][-1] > 8


def test_the_learning_rate_follows_by_a_rule_and_is_taken_back() -> None:
    rates: list[float] = []

    def note(epoch: int, logs: Any = None) -> None:
        rates.append(float(model.optimizer.learning_rate))

    for rule, expected in (("linear", [0.01, 0.04, 0.02]), ("sqrt", [0.01, 0.02, 0.01 * math.sqrt(2)])):
        model, rates = linear(), []
        grows = BatchSizeSchedule({1: 32, 2: 16}, lr_scaling=rule)
        fitted(model, 3, [grows, LambdaCallback(on_epoch_end=note)])
        assert rates == pytest.approx(expected, rel=1e-6)
        assert model.optimizer.learning_rate == pytest.approx(0.01, rel=1e-6)
        other = linear()
        follows = keras.callbacks.LearningRateScheduler(by_epoch(expected))
        fitted(other, 3, [BatchSizeSchedule({1: 32, 2: 16}), follows])
        assert all(np.allclose(a, b, rtol=1e-5) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))


class BreakOff(Callback):
    """Ends a run before a batch of an epoch."""

    def __init__(self, epoch: int, batch: int):
        self.at, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) == self.at:
            raise Broken


@pytest.mark.parametrize(
    ("kind", "at"),
    [("epochs", (2, 0)), ("epochs", (3, 2)), ("examples", (3, 2)), ("plateau", (3, 2)), ("noise", (3, 2))],
)
def test_a_run_that_was_broken_off_goes_on_to_the_same_bits(kind: str, at: tuple[int, int], tmp_path: Path) -> None:
    schedules: dict[str, Any] = {"epochs": {1: 16, 3: 20}, "examples": {150: 16, 250: 20}}
    values = [1.0, 2.0, 2.0, 2.0, 2.0, 0.5]

    def callbacks() -> list[Any]:
        by = "examples" if kind == "examples" else "epoch"
        watch = {"monitor": "value", "mode": "min", "patience": 1} if kind == "plateau" else {}
        grows = BatchSizeSchedule(schedules.get(kind, kind), by=by, lr_scaling="sqrt", **watch)
        return [Reported(value=values), NoiseScale(every=2, examples=60), grows]

    size = 2 if kind == "noise" else 8
    whole, broken, again = linear(), linear(), linear()
    expected = fitted(whole, 6, [*callbacks(), BreakOff(9, 9)], batch_size=size)
    backup = BackupAndRestore(tmp_path, save_freq=1)
    with pytest.raises(Broken):
        fitted(broken, 6, [*callbacks(), BreakOff(*at), backup], batch_size=size)
    assert broken.optimizer.learning_rate == pytest.approx(0.01, rel=1e-6)
    found = fitted(again, 6, [*callbacks(), BreakOff(9, 9), backup], batch_size=size)
    assert same(whole.get_weights(), again.get_weights())
    np.testing.assert_equal(found.history, expected.history)
    assert len(set(expected.history["batch_size"])) > 1


def test_what_cannot_change_its_size_is_refused_before_training() -> None:
    x, y = diabetes(20)
    model = linear()
    model.fit(x, y, verbose=0)
    before = model.get_weights()
    for callback in (BatchSizeSchedule({1: 4}), NoiseScale()):
        with pytest.raises(ValueError, match="arrays only"):
            model.fit(Pairs(x, y), verbose=0, callbacks=[callback])
    decay = keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5))
    with pytest.raises(ValueError, match="follows a schedule, which cannot be scaled"):
        linear(decay).fit(x, y, verbose=0, callbacks=[BatchSizeSchedule({1: 4}, lr_scaling="sqrt")])
    assert same(before, model.get_weights())
    stateful = keras.Sequential([keras.Input((5, 2), batch_size=10), layers.LSTM(2, stateful=True), layers.Dense(1)])
    stateful.compile("sgd", "mse")
    with pytest.raises(ValueError, match="its batch size cannot change"):
        stateful.fit(x.reshape(20, 5, 2), y, batch_size=10, verbose=0, callbacks=[BatchSizeSchedule({1: 4})])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plato",), 'Expected schedule to be a dict, a function, "plateau" or "noise"'),
        (({1: 0},), "int >= 1, got 0"),
        (({1: 2.5},), "int >= 1, got 2.5"),
    ],
)
def test_a_schedule_that_is_none_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchSizeSchedule(*arguments)


@pytest.mark.parametrize("named", [{"by": "steps"}, {"factor": 1}, {"lr_scaling": "adam"}, {"lr_scaling": "cube"}])
def test_arguments_of_a_schedule_are_checked(named: Any) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(named))}|rule"):
        BatchSizeSchedule({1: 2}, **named)


# -- rules for the learning rate


def test_the_rules() -> None:
    assert scale_learning_rate("linear", 32, 256, 0.1) == pytest.approx(0.8)
    assert scale_learning_rate("sqrt", 32, 512) == 4
    assert scale_learning_rate("adam", 32, 8, 0.001) == pytest.approx(0.0005)
    assert scale_learning_rate("fixed", 32, 8, 0.001) == scale_learning_rate("none", 1, 9, 0.001) == 0.001
    for wrong in (("linaer", 1, 2), (None, 1, 2), ("sqrt", 0, 2), ("sqrt", 1, math.inf), ("sqrt", "32", 2)):
        with pytest.raises(ValueError, match=r"rule|batch size > 0"):
            scale_learning_rate(*wrong)


def test_fit_scales_only_where_it_is_asked_to() -> None:
    plain, scaled, by_hand = linear(), linear(), linear(keras.optimizers.SGD(0.02, momentum=0.9))
    for model, named in ((plain, {}), (scaled, {"lr_scaling": "sqrt"}), (by_hand, {})):
        fitted(model, 2, batch_size=128, n=400, **named)
    assert same(scaled.get_weights(), by_hand.get_weights())  # √(128 / 32) = 2
    assert not same(scaled.get_weights(), plain.get_weights())
    assert float(scaled.optimizer.learning_rate) == 0.01  # as it was
    fitted(scaled, 2, batch_size=128, n=400, lr_scaling="sqrt")
    fitted(by_hand, 2, batch_size=128, n=400)
    assert same(scaled.get_weights(), by_hand.get_weights())  # and not scaled twice

    def fail(epoch: int, logs: Any = None) -> None:
        model.optimizer.learning_rate = 0.005  # from 0.02
        raise Broken

    model = linear()
    with pytest.raises(Broken):
        fitted(model, 2, [LambdaCallback(on_epoch_end=fail)], batch_size=128, n=400, lr_scaling="sqrt")
    assert float(model.optimizer.learning_rate) == pytest.approx(0.0025)


def test_adam_is_scaled_with_its_betas_and_epsilon() -> None:
    """Malladi et al. 2022, definition 2: k = 4."""
    adam = keras.optimizers.Adam(0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-4)
    scaled = linear(adam)
    by_hand = linear(keras.optimizers.Adam(0.002, beta_1=0.6, beta_2=0.996, epsilon=5e-5))
    fitted(scaled, 2, batch_size=128, n=400, lr_scaling="adam")
    fitted(by_hand, 2, batch_size=128, n=400)
    assert all(np.allclose(a, b, rtol=1e-5) for a, b in zip(scaled.get_weights(), by_hand.get_weights(), strict=True))
    assert (adam.beta_1, adam.beta_2, adam.epsilon, float(adam.learning_rate)) == (0.9, 0.999, 1e-4, 0.001)


def test_a_rule_that_cannot_be_applied_is_refused() -> None:
    x, y = diabetes(400)
    with pytest.raises(ValueError, match="Unknown rule 'squrt'"):
        linear().fit(x, y, lr_scaling="squrt")
    with pytest.raises(ValueError, match="for Adam, AdamW and Nadam; this optimizer is SGD"):
        linear().fit(x, y, lr_scaling="adam")
    with pytest.raises(ValueError, match=r"grow less than 10 times, got 12\.5 times"):
        linear("adam").fit(x, y, batch_size="full", lr_scaling="adam")
    with pytest.raises(ValueError, match="lr_scaling needs a batch size"):
        linear().fit(Pairs(x, y), lr_scaling="sqrt")
    import optax

    with pytest.raises(ValueError, match=r"cannot be scaled.*inject_hyperparams"):
        linear(optax.sgd(0.1)).fit(x, y, lr_scaling="sqrt")
