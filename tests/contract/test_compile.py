"""Section A (compile) of the training contract: each rule is a test that bears its number."""

from __future__ import annotations

import functools
import inspect
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import keras as theirs
import numpy as np
import pytest
from support.data import diabetes
from support.same import same

import epochal as keras
from epochal import layers
from epochal.engine import loop, pacing

pytestmark = pytest.mark.optimized  # bits are compared

X, Y = diabetes(40)
M = 8  # 5 batches


def line(k: Any = keras, **compile_arguments: Any) -> Any:
    model = k.Sequential([k.layers.Input((10,)), k.layers.Dense(3), k.layers.Dense(1)])
    model.set_weights([np.linspace(-1, 1, np.prod(w.shape), dtype=np.float32).reshape(w.shape) for w in model.weights])
    model.compile(**{"optimizer": "sgd", "loss": "mse", **compile_arguments})
    return model


# -- the signature


def test_A_compile_has_the_arguments_of_keras() -> None:
    known = inspect.signature(keras.Model.compile).parameters
    wanted = inspect.signature(theirs.Model.compile).parameters
    # our additions, which change no result of Keras
    assert {*wanted, "on_nonfinite", "micro_batch_size", "dtype"} == set(known)
    defaults = [known[name].default for name in ("on_nonfinite", "micro_batch_size", "dtype")]
    assert defaults == ["ignore", "auto", None]
    assert list(known)[:6] == ["self", "optimizer", "loss", "metrics", "loss_weights", "weighted_metrics"]  # of Keras 2
    assert known["steps_per_execution"].default == "auto"
    assert known["jit_compile"].default is True
    assert {n for n, p in known.items() if p.kind is p.KEYWORD_ONLY} == {
        "jit_compile",
        "auto_scale_loss",
        "on_nonfinite",
        "micro_batch_size",
        "dtype",
    }


@pytest.mark.parametrize(("value", "eager"), [(True, False), ("auto", False), (False, True)])
def test_A_jit_compile_False_is_run_eagerly(value: Any, eager: bool) -> None:
    assert line(jit_compile=value, auto_scale_loss=False).run_eagerly is eager
    assert line(jit_compile=value, run_eagerly=True).run_eagerly


def test_A_jit_compile_is_checked() -> None:
    model = line()
    with pytest.raises(ValueError, match=r"jit_compile.*'yes'"):
        model.compile("adam", "mse", jit_compile="yes")
    assert model.optimizer.name == "sgd"


# -- A2


def test_A2_a_compile_that_fails_leaves_the_last_one() -> None:
    model = line()
    for arguments in ({"loss": "msee"}, {"metrics": ["maee"]}, {"optimizer": "adm"}, {"steps_per_execution": 0}):
        with pytest.raises(ValueError, match=r"Unknown|Expected"):
            model.compile(**{"optimizer": "adam", "loss": "mse", **arguments})
    assert model.optimizer.name == "sgd"
    assert list(model.fit(X, Y, verbose=0).history) == ["loss"]


# -- A3


class Hooks:
    """Indices of train-batch hooks."""

    def __init__(self, k: Any):
        self.begins, self.ends = [], []
        self.callback = k.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: self.begins.append(batch),
            on_train_batch_end=lambda batch, logs: self.ends.append(batch),
        )


def test_A3_keras_counts_a_batch_that_there_is_not() -> None:
    hooks = Hooks(theirs)
    line(theirs, steps_per_execution=2).fit(X, Y, batch_size=M, verbose=0, callbacks=[hooks.callback])
    assert hooks.ends == [1, 3, 5]


def test_A3_keras_runs_a_fourth_step_for_steps_per_epoch_3() -> None:
    model = line(theirs, steps_per_execution=2)
    model.fit(X, Y, batch_size=M, steps_per_epoch=3, verbose=0)
    assert int(model.optimizer.iterations) == 4


def watched_run(steps_per_execution: Any) -> tuple[Any, Hooks]:
    keras.utils.set_random_seed(0)
    hooks = Hooks(keras)
    model = line(steps_per_execution=steps_per_execution, metrics=["mae"], weighted_metrics=["mape"])
    data = {"validation_data": (X[:11], Y[:11]), "batch_size": M, "epochs": 2}
    history = model.fit(X, Y, **data, verbose=0, callbacks=hooks.callback).history
    weights = [w.tolist() for w in model.get_weights()]
    return (history, weights, int(model.optimizer.iterations)), hooks


one_at_a_time = functools.cache(lambda: watched_run(1))


@pytest.mark.parametrize("given", [2, 7, "auto"])
def test_A3_batch_hooks_are_numbered_and_nothing_in_the_result_changes(given: Any) -> None:
    result, hooks = watched_run(given)
    assert result == one_at_a_time()[0]
    assert result[2] == 10
    n = 1 if given == "auto" else given
    assert hooks.begins == list(range(0, 5, n)) * 2
    assert hooks.ends == [min(i + n, 5) - 1 for i in range(0, 5, n)] * 2


@pytest.mark.parametrize("form", ["arrays", "generator"])
def test_A3_steps_per_epoch_3_runs_3_with_2_per_execution(form: str) -> None:
    hooks = Hooks(keras)
    model = line(steps_per_execution=2)
    batches = ((X[i : i + M], Y[i : i + M]) for i in [0, 8, 16, 24, 32] * 2)
    data = {"x": X, "y": Y, "batch_size": M} if form == "arrays" else {"x": batches}
    model.fit(**data, steps_per_epoch=3, epochs=2, verbose=0, callbacks=hooks.callback)
    assert model.optimizer.iterations == 6
    assert hooks.ends == [1, 2] * 2
    if form == "generator":
        assert len(list(batches)) == 4  # nothing was fetched in vain


def test_A3_auto_runs_one_step_per_call_when_a_callback_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    executions: list[int] = []
    execute = loop.execute

    def run(executable: Any, arrays: Any, arguments: tuple, interrupts: Any, donates: bool) -> Any:
        first, last = arguments[-2:]
        executions.append(int(last - first))
        return execute(executable, arrays, arguments, interrupts, donates)

    monkeypatch.setattr(loop, "execute", run)
    monkeypatch.setattr(pacing.Pacer, "SLICE", 1e9)
    model = line()
    model.fit(X, Y, batch_size=1, verbose=0, callbacks=Hooks(keras).callback)
    assert executions == [1] * 40
    executions.clear()
    epochs_only = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None)
    model.fit(X, Y, batch_size=1, verbose=0, callbacks=epochs_only)
    assert sum(executions) == 40
    assert len(executions) < 10


# -- A4


class Looking(layers.Layer):
    """Reads its input with NumPy, which only works where nothing is traced."""

    seen: ClassVar[list[np.ndarray]] = []

    def call(self, x: Any) -> Any:
        self.seen.append(np.asarray(x))
        return x * float(np.sign(np.asarray(x)).max())


def absolute_error(y_true: Any, y_pred: Any) -> Any:
    seen = np.asarray(y_true)
    print("loss of", len(seen), "targets", y_pred.mean())
    return jnp.abs(y_pred - seen)[:, 0]


class Largest(keras.metrics.Metric):
    def __init__(self) -> None:
        super().__init__(name="largest")
        self.found = self.add_variable((), "zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.found.assign(max(float(self.found), float(np.max(np.asarray(y_true)))))

    def result(self) -> Any:
        return self.found


def unbuilt(looking: Any) -> Any:
    return keras.Sequential([looking, layers.Dense(1)])


def subclass(looking: Any) -> Any:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.looking, self.dense = looking, layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.dense(self.looking(x))

    return Net()


@pytest.mark.parametrize("make", [unbuilt, subclass])
def test_A4_print_and_numpy_work_in_call_and_loss_and_metric(make: Any, capsys: pytest.CaptureFixture) -> None:
    looking = Looking()
    model = make(looking)
    model.compile("sgd", absolute_error, metrics=[Largest()], run_eagerly=True)
    history = model.fit(X[:12], Y[:12], batch_size=M, shuffle=False, verbose=0).history
    assert [len(a) for a in looking.seen][-2:] == [8, 4]
    np.testing.assert_array_equal(looking.seen[-1], X[8:12])
    printed = capsys.readouterr().out
    assert [line[:7] for line in printed.splitlines()] == ["loss of"] * 2  # once per batch and not for shapes
    assert "loss of 8 targets" in printed
    assert "loss of 4 targets" in printed
    assert "primal=" in printed  # the value, and not a shape alone
    assert history["largest"] == [pytest.approx(float(Y[:12].max()))]
    assert model.evaluate(X[:12], Y[:12], verbose=0)[1] == pytest.approx(float(Y[:12].max()))
    assert model.predict(X[:4], verbose=0).shape == (4, 1)
    model.train_on_batch(X[:4], Y[:4])
    assert len(looking.seen[-1]) == 4


def test_A4_keras_traces_all_the_same() -> None:
    class Sign(theirs.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * float(np.sign(np.asarray(x)).max())

    model = theirs.Sequential([Sign(), theirs.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(RuntimeError, match="Unable to automatically build"):
        model.fit(X, Y, verbose=0)


def test_A4_the_property_switches_between_eager_and_compiled() -> None:
    class Spy(layers.Layer):
        def call(self, x: Any) -> Any:
            kinds.append(isinstance(x, jax.core.Tracer))
            return x

    kinds: list[bool] = []
    x, y = X[:8], Y[:8]
    model = keras.Sequential([Spy(), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    assert model.run_eagerly is False
    results = []
    for eager in (False, True, False):
        model.run_eagerly = eager
        kinds.clear()
        history = model.fit(x, y, verbose=0).history
        evaluated, predicted = model.evaluate(x, y, verbose=0), model.predict(x, verbose=0)
        assert not (eager and any(kinds))
        assert eager or all(kinds)
        results.append((history["loss"][0], evaluated, predicted))
    for other in results[1:]:
        np.testing.assert_allclose(other[0], results[0][0], rtol=1e-5)
        np.testing.assert_allclose(other[1], results[0][1], rtol=1e-5)
        np.testing.assert_allclose(other[2], results[0][2], rtol=1e-5)


def test_A4_finding_shapes_changes_no_variable_of_a_layer() -> None:
    class Counting(layers.Layer):
        def build(self, input_shape: Any) -> None:
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x: Any) -> Any:
            self.calls.assign_add(1.0)
            return x

    for eager in (False, True):
        model = keras.Sequential([Counting(), layers.Dense(1)])
        model.compile("sgd", "mse", run_eagerly=eager)
        model.fit(X, Y, batch_size=M, epochs=2, verbose=0)
        assert model.layers[0].calls.numpy() == 10


def test_A4_an_own_train_step_is_not_traced_either() -> None:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.dense(x)

        def train_step(self, state: Any, batch: Any) -> Any:
            return state, {"largest": float(np.asarray(batch.x).max())}

    model = Net()
    model.compile("sgd", "mse", run_eagerly=True)
    history = model.fit(X[:8], Y[:8], batch_size=8, verbose=0).history
    assert history == {"largest": [pytest.approx(float(X[:8].max()))]}


# -- A5


def test_A5_compiling_resets_no_weights_and_the_same_optimizer_goes_on() -> None:
    model = line(optimizer=keras.optimizers.Adam(0.01))
    model.fit(X, Y, batch_size=M, verbose=0)
    weights, optimizer = model.get_weights(), model.optimizer
    model.compile(optimizer, "mae")
    assert same(weights, model.get_weights())
    model.fit(X, Y, batch_size=M, verbose=0)
    assert model.optimizer.iterations == 10
    model.compile(keras.optimizers.Adam(0.01), "mae")
    model.fit(X, Y, batch_size=M, verbose=0)
    assert model.optimizer.iterations == 5


def test_A5_two_fits_are_as_one_of_keras() -> None:
    ours, other = (line(k, optimizer=k.optimizers.Adam(0.01)) for k in (keras, theirs))
    for model in (ours, other):
        for _ in range(2):
            model.fit(X, Y, batch_size=M, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


# -- A6


def test_A6_keras_cannot_freeze_after_a_fit() -> None:
    model = line(theirs)
    model.fit(X, Y, verbose=0)
    model.layers[0].trainable = False
    with pytest.raises(ValueError, match="optimizer_variables"):
        model.fit(X, Y, verbose=0)


def test_A6_freezing_after_a_fit_keeps_the_optimizer_and_the_summary_follows() -> None:
    model = line(optimizer=keras.optimizers.Adam(0.01))
    model.fit(X, Y, batch_size=M, verbose=0)
    model.layers[0].trainable = False
    text: list[str] = []
    model.summary(print_fn=text.append)
    assert "Trained: 4" in text[0]
    assert "Not trained: 33" in text[0]
    frozen = model.layers[0].get_weights()
    model.fit(X, Y, batch_size=M, verbose=0)
    assert same(frozen, model.layers[0].get_weights())
    assert model.optimizer.iterations == 10
    assert [tuple(w.shape) for w in model.trainable_weights] == [(3, 1), (1,)]
    model.trainable = False
    with pytest.raises(ValueError, match="nothing to train"):
        model.fit(X, Y, verbose=0)
    model.trainable = True
    model.summary(print_fn=text.append)
    assert "Trained: 37" in text[1]
