"""The machine: compiled programs, executions, padding, interrupts, threads."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.data import diabetes, digits
from support.models import small
from support.same import same

import epochal as keras
from epochal.data.examples import as_examples
from epochal.data.feeds.array_feed import ArrayFeed
from epochal.data.feeds.block import take
from epochal.engine import loop
from epochal.engine.objective.tally import accumulate

layers = keras.layers


class Compilations:
    """Counts what XLA compiles, whoever asks for it."""

    def __enter__(self) -> Compilations:
        self.count = 0
        self._active = True
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def _listen(self, event: str, seconds: float, **_: Any) -> None:
        if self._active and event == "/jax/core/compile/backend_compile_duration":
            self.count += 1

    def __exit__(self, *_: object) -> None:
        self._active = False


def test_one_train_and_one_test_program_per_fit_with_short_last_batches_and_many_epochs() -> None:
    x, y = digits(250)
    history = small().fit(x, y, batch_size=32, epochs=7, validation_split=0.3, verbose=0)
    assert history.programs == {"train": 1, "test": 1, "predict": 0}


def test_second_fit_compiles_nothing_at_all() -> None:
    x, y = digits(250)
    model = small()
    model.fit(x, y, epochs=2, validation_split=0.3, verbose=0)
    with Compilations() as compiled:
        model.fit(x, y, epochs=3, validation_split=0.3, verbose=0)
    assert compiled.count == 0


def test_changing_the_learning_rate_compiles_nothing() -> None:
    x, y = digits(100)
    model = small()
    model.fit(x, y, verbose=0)
    model.optimizer.learning_rate = 0.5
    with Compilations() as compiled:
        model.fit(x, y, verbose=0)
    assert compiled.count == 0
    assert model.optimizer.learning_rate == 0.5


def test_twenty_predict_sizes_share_at_most_five_programs() -> None:
    x, _ = digits(300)
    model = small()
    sizes = [1, 2, 3, 5, 7, 9, 13, 17, 22, 31, 32, 33, 40, 63, 64, 65, 100, 150, 222, 300]
    whole = model.predict(x, verbose=0)
    for n in sizes:
        np.testing.assert_allclose(model.predict(x[:n], verbose=0), whole[:n], rtol=1e-6, atol=1e-7)
    assert model.programs()["predict"] <= 5


@pytest.mark.parametrize("batch_norm", [False, True])
def test_A3_weights_and_history_are_bit_identical_however_steps_are_cut_into_executions(batch_norm: bool) -> None:
    x, y = digits(250)
    runs = []
    for steps_per_execution in ("auto", 1, 3, 100):
        model = small(dropout=0.2, batch_norm=batch_norm, steps_per_execution=steps_per_execution)
        history = model.fit(x, y, batch_size=16, epochs=3, validation_split=0.2, verbose=0)
        runs.append((model.get_weights(), history.history))
    for weights, history in runs[1:]:
        assert same(weights, runs[0][0])
        assert history == runs[0][1]


def test_A4_eager_steps_give_the_numbers_of_compiled_ones() -> None:
    x, y = digits(60)
    runs = []
    for eager in (False, True):
        model = small(dropout=0.2, run_eagerly=eager)
        history = model.fit(x, y, batch_size=16, epochs=2, verbose=0)
        runs.append((model.get_weights(), history.history))
    for a, b in zip(runs[0][0], runs[1][0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(runs[0][1]["loss"], runs[1][1]["loss"], rtol=1e-5)


def test_A4_eager_steps_run_python_in_call_every_time() -> None:
    seen = []

    class Looking(layers.Layer):
        def call(self, x: Any) -> Any:
            seen.append(x.shape)
            return x

    x, y = digits(64)
    model = keras.Sequential([layers.Dense(10, activation="softmax", input_shape=(64,)), Looking()])
    model.compile("sgd", "ce", run_eagerly=True)
    seen.clear()
    model.fit(x, y, batch_size=16, epochs=1, verbose=0)
    assert seen.count((16, 10)) == 4


def test_F2_a_padded_short_batch_gives_the_update_of_the_short_batch_itself() -> None:
    x, y = digits(50)  # 32 + 18
    padded = small(batch_norm=True, optimizer="sgd")
    padded.fit(x, y, batch_size=32, shuffle=False, verbose=0)
    exact = small(batch_norm=True, optimizer="sgd")
    exact.fit(x[:32], y[:32], batch_size=32, shuffle=False, verbose=0)
    exact.fit(x[32:], y[32:], batch_size=18, shuffle=False, verbose=0)
    for a, b in zip(padded.get_weights(), exact.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)


def test_padding_repeats_rows_of_its_own_batch() -> None:
    """A NaN in another batch must not reach a short one through padding."""
    x = np.arange(10, dtype=np.float32)[:, None]
    feed = ArrayFeed(as_examples(x), 4, False, 0, exact_tail=False)
    ((block, _, _),) = feed.epoch(0)
    batch = take(block, 2, padded=True)
    assert batch.x[:, 0].tolist() == [8, 9, 9, 9]
    assert batch.rows.tolist() == [1, 1, 0, 0]
    assert float(batch.size) == 2


def test_a_loss_of_the_users_own_sees_the_true_short_batch() -> None:
    """It may do anything across the batch, so nothing is padded: its last batch has a program of its own."""
    shapes = []

    def spread(y_true: Any, y_pred: Any) -> Any:
        shapes.append(y_pred.shape[0])
        return jnp.mean((y_true[:, None] - y_pred) ** 2) + 0.1 * jnp.std(y_pred)

    x, y = diabetes(50)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([layers.Dense(1, input_shape=(10,))])
    model.compile("sgd", spread)
    shapes.clear()
    history = model.fit(x, y, batch_size=32, epochs=2, verbose=0)
    assert {32, 18} <= set(shapes)
    assert history.programs["train"] == 2


def test_sums_count_beyond_the_precision_of_float32() -> None:
    """float32 alone stops at 2**24: adding 1 there changes nothing."""
    sums = jnp.array([[2.0**24], [0.0]], jnp.float32)
    sums = jax.jit(lambda s: jax.lax.fori_loop(0, 1000, lambda i, s: accumulate(s, jnp.ones(1)), s))(sums)
    assert np.asarray(sums, np.float64).sum() == 2**24 + 1000


def test_H4_evaluate_does_not_depend_on_the_batch_size() -> None:
    x, y = digits(331)
    model = small(metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(3)])
    model.fit(x, y, verbose=0)
    expected = model.evaluate(x, y, batch_size=331, verbose=0)
    for batch_size in (1, 7, 32, 100, "full"):
        np.testing.assert_allclose(model.evaluate(x, y, batch_size=batch_size, verbose=0), expected, rtol=1e-6)


def test_dropout_masks_do_not_depend_on_how_examples_are_batched() -> None:
    """Full-batch gradients with a plain sum: cutting the examples into batches must give the same masks."""
    x, y = digits(40)

    def losses_with(batch_size: int) -> float:
        model = small(dropout=0.5, optimizer=keras.optimizers.SGD(0.0))
        return model.fit(x, y, batch_size=batch_size, verbose=0).history["loss"][0]

    assert losses_with(40) == pytest.approx(losses_with(8), rel=1e-6)
    assert losses_with(40) == pytest.approx(losses_with(7), rel=1e-6)


def test_a_flax_module_trains_and_its_dropout_and_batch_norm_know_the_mode() -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.a = nnx.Linear(64, 32, rngs=rngs)
            self.norm = nnx.BatchNorm(32, rngs=rngs)
            self.drop = nnx.Dropout(0.2, rngs=rngs)
            self.b = nnx.Linear(32, 10, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.b(self.drop(nnx.relu(self.norm(self.a(x)))))

    x, y = digits(600)
    net = Net(nnx.Rngs(0))
    model = keras.Model(net)
    model.compile(
        keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"]
    )
    before = np.asarray(net.norm.mean[...]).copy()
    history = model.fit(x, y, epochs=8, validation_split=0.2, verbose=0)
    assert history.history["val_accuracy"][-1] > 0.8
    assert not np.allclose(before, net.norm.mean[...])  # the user's own module was trained, statistics included
    np.testing.assert_array_equal(model.predict(x[:9], verbose=0), model.predict(x[:9], verbose=0))


def test_a_layer_may_hold_flax_modules_in_lists() -> None:
    class Stack(layers.Layer):
        def __init__(self, **kwargs: Any):
            super().__init__(**kwargs)
            self.parts = [nnx.Linear(64, 8, rngs=nnx.Rngs(0)), layers.Dense(10, activation="softmax")]

        def call(self, x: Any) -> Any:
            for part in self.parts:
                x = part(x)
            return x

    x, y = digits(200)
    model = keras.Sequential([Stack()])
    model.compile(keras.optimizers.Adam(0.01), "ce", ["accuracy"])
    model.fit(x, y, epochs=6, verbose=0)
    assert model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] > 0.6
    assert len(model.trainable_weights) == 4


def test_A6_frozen_layers_stay_and_thaw_also_after_an_earlier_fit() -> None:
    """Keras on JAX crashes there, see contract/test_compile.py."""
    x, y = digits(100)
    model = small()
    model.fit(x, y, verbose=0)
    model.layers[0].trainable = False
    first = model.layers[0].get_weights()
    last = model.layers[-1].get_weights()
    model.fit(x, y, verbose=0)
    assert same(model.layers[0].get_weights(), first)
    assert not same(model.layers[-1].get_weights(), last)
    model.layers[0].trainable = True
    model.fit(x, y, verbose=0)
    assert not same(model.layers[0].get_weights(), first)


def test_A5_fitting_twice_goes_on_with_the_optimizer_and_compiling_starts_it_anew() -> None:
    x, y = digits(96)
    model = small()
    model.fit(x, y, epochs=2, verbose=0)
    assert model.optimizer.iterations == 6
    model.fit(x, y, epochs=1, verbose=0)
    assert model.optimizer.iterations == 9
    weights = model.get_weights()
    model.compile("adam", "ce")
    assert same(model.get_weights(), weights)
    model.fit(x, y, epochs=1, verbose=0)
    assert model.optimizer.iterations == 3


def test_set_random_seed_makes_a_run_repeatable_and_another_seed_another_run() -> None:
    x, y = digits(100)
    runs = []
    for seed in (3, 3, 4):
        model = small(seed, dropout=0.3)
        model.fit(x, y, epochs=2, verbose=0)
        runs.append(model.get_weights())
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_callbacks_see_and_may_set_weights_at_every_hook() -> None:
    x, y = digits(96)

    class Zero(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.set_weights([np.zeros_like(w) for w in self.model.get_weights()])

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            assert all((w == 0).all() for w in self.model.get_weights())

    model = small()
    model.fit(x, y, epochs=2, verbose=0, callbacks=Zero())
    np.testing.assert_allclose(model.predict(x[:3], verbose=0), 0.1)


def test_H7_ctrl_c_finishes_the_step_and_leaves_a_model_that_goes_on() -> None:
    x, y = digits(640)
    model = small()

    class Press(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 3:
                os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=5, verbose=0, callbacks=[Press()])
    assert signal.getsignal(signal.SIGINT) is handler
    assert model.optimizer.iterations == 4
    assert np.isfinite(model.predict(x[:5], verbose=0)).all()
    model.fit(x, y, verbose=0)
    assert model.optimizer.iterations == 24


@pytest.mark.parametrize("method", ["evaluate", "predict"])
@pytest.mark.parametrize("when", ["in a hook", "while data is waited for"])
def test_H7_ctrl_c_ends_evaluate_and_predict_and_leaves_the_model_as_it_was(method: str, when: str) -> None:
    x, y = digits(96)
    model, kind = small(dropout=0.2), {"evaluate": "test", "predict": "predict"}[method]
    targets = (y,) if method == "evaluate" else ()
    model.fit(x, y, verbose=0)
    run, weights = getattr(model, method), model.get_weights()
    before = run(x, *targets, verbose=0, batch_size=16)
    seen: list[int] = []

    def press(batch: int, logs: Any = None) -> None:
        seen.append(batch)
        if batch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    def pressing() -> Iterator[Any]:
        for i in range(6):
            press(i)
            yield x[16 * i : 16 * i + 16], y[16 * i : 16 * i + 16]

    hooks, handler = keras.callbacks.Callback(), signal.getsignal(signal.SIGINT)
    setattr(hooks, f"on_{kind}_batch_begin", press)
    given: tuple = (pressing(),)
    options: dict[str, Any] = {}
    if when == "in a hook":
        given, options = (x, *targets), {"batch_size": 16, "callbacks": [hooks]}
    with pytest.raises(KeyboardInterrupt):
        run(*given, verbose=0, **options)
    assert seen == [0, 1, 2]
    assert signal.getsignal(signal.SIGINT) is handler
    assert same(model.get_weights(), weights)
    np.testing.assert_array_equal(run(x, *targets, verbose=0, batch_size=16), before)
    model.fit(x, y, verbose=0)
    assert model.optimizer.iterations == 6


def test_H7_an_exception_in_a_callback_keeps_its_type_and_the_model_its_weights() -> None:
    x, y = digits(96)
    model = small()

    class Fail(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        model.fit(x, y, verbose=0, callbacks=[Fail()])
    assert model.optimizer.iterations == 3
    model.fit(x, y, verbose=0)


def test_two_models_train_in_two_threads_without_disturbing_each_other() -> None:
    x, y = digits(200)
    models = [small(seed) for seed in (1, 2)]
    expected = []
    for model in [small(seed) for seed in (1, 2)]:
        model.fit(x, y, epochs=3, shuffle=False, verbose=0)
        expected.append(model.get_weights())
    threads = [
        threading.Thread(target=model.fit, args=(x, y), kwargs={"epochs": 3, "shuffle": False, "verbose": 0})
        for model in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model, weights in zip(models, expected, strict=True):
        assert same(model.get_weights(), weights)


def test_A3_watch_runs_more_steps_at_once_when_nothing_observes_them() -> None:
    x, y = digits(1700)
    lasts = []
    execute = loop.execute

    def spy(executable: Any, arrays: Any, arguments: tuple, interrupts: Any, donates: bool) -> Any:
        first, last = arguments[-2:]
        lasts.append(int(last - first))
        return execute(executable, arrays, arguments, interrupts, donates)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "execute", spy)
        small().fit(x, y, batch_size=1, verbose=0)
    assert sum(lasts) == 1700
    assert max(lasts) > 8


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e6])
def test_r2_is_exact_where_the_targets_are_far_from_zero(mean: float) -> None:
    """Keras's sums of squares lose the variance: diabetes plus a million gives an R2 above 1 there."""
    x, y = diabetes(300)
    y = (16 * y).round().astype(np.float32)
    model = keras.Sequential([layers.Dense(1, input_shape=(10,))])
    model.compile("sgd", "mse", metrics=["r2_score"])
    model.set_weights([np.linspace(-4, 8, 10).round()[:, None], np.array([mean])])
    predicted = model.predict(x, verbose=0)[:, 0].astype(np.float64)
    target = y.astype(np.float64) + mean
    expected = 1 - np.sum((target - predicted) ** 2) / np.sum((target - target.mean()) ** 2)
    found = model.evaluate(x, y + np.float32(mean), verbose=0, return_dict=True)["r2_score"]
    assert found == pytest.approx(expected, abs=1e-4)


def test_keras_layers_that_count_may_use_assign_add() -> None:
    class Counting(layers.Layer):
        def build(self, input_shape: Any) -> None:
            self.calls = self.add_weight("calls", (), initializer="zeros", trainable=False)

        def call(self, x: Any, training: bool = False) -> Any:
            if training:
                self.calls.assign_add(1.0)
            return x

    counting = Counting()
    model = keras.Sequential([layers.Dense(1, input_shape=(10,)), counting])
    model.compile("sgd", "mse")
    model.fit(*diabetes(96), epochs=2, verbose=0)
    assert counting.calls.numpy() == 6


def test_all_first_weights_are_drawn_in_one_compiled_call() -> None:
    def stack(width: int) -> keras.Sequential:
        return keras.Sequential([layers.Input((width,)), *[layers.Dense(width + i, "relu") for i in range(8)]])

    stack(5)  # what making a random key compiles is not counted
    with Compilations() as compiled:
        model = stack(17)
    assert compiled.count == 1
    assert all(w.std() > 0 for w in model.get_weights()[::2])
