"""Batches that are run in micro-batches: the result is that of the whole batch, in the memory of a piece."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from support.data import diabetes, digits
from support.micro_batches import assert_same, classifier
from support.same import same

import epochal as keras
from epochal.data.examples import as_examples
from epochal.data.feeds.array_feed import ArrayFeed
from epochal.data.feeds.block import Stretch
from epochal.display.progress import Display
from epochal.engine.loop import advance
from epochal.engine.pacing import AllSteps
from epochal.engine.runners import TrainRunner
from epochal.models.input_data import align
from epochal.models.trainer import training_of
from epochal.runtime.interrupts import Interrupts

layers, losses = keras.layers, keras.losses

N, M = 110, 25  # five batches of 25, the last of 10


def images(n: int = N) -> dict[str, Any]:
    x, y = digits(n)
    return {"x": x, "y": y}


def sequences() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digits read row by row, some broken off: x (N, 8, 8), 0 behind the end; their sums of rows (N, 8, 1); classes."""
    x, y = digits(N)
    x = x.reshape(N, 8, 8).copy()
    lengths = np.random.default_rng(0).integers(1, 9, N)
    x[np.arange(8) >= lengths[:, None]] = 0
    return x, x.sum(-1, keepdims=True) / 8, y


class Squares(layers.Layer):
    """Adds the mean square of its inputs to the loss."""

    def call(self, x: Any) -> Any:
        self.add_loss(0.1 * jnp.mean(x**2))
        return x


class Right(keras.metrics.Metric):
    """A metric with a state of its own, which knows nothing of padding."""

    def __init__(self, name: str = "right"):
        super().__init__(name=name)
        self.count = self.add_variable(shape=(), initializer="zeros", name="count")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.count.assign_add(jnp.sum(jnp.argmax(y_pred, -1) == y_true.reshape(-1)))

    def result(self) -> Any:
        return self.count


def logarithm(y_true: Any, y_pred: Any) -> Any:
    """A loss of one's own, a value per example."""
    return -jnp.log(jnp.take_along_axis(y_pred, y_true.reshape(-1, 1), 1)[:, 0])


# -- the same result. Each case is a model, made for a micro-batch size, and what it is fitted with.


def weighted(**micro: Any) -> tuple[Any, dict[str, Any]]:
    # Adam divides a gradient by its own size: one near zero is rounding made large. A large epsilon does not.
    optimizer = keras.optimizers.Adam(0.03, epsilon=0.01, clipnorm=0.1, use_ema=True)
    model = classifier(layers.Dropout(0.3), optimizer=optimizer, weighted_metrics=["ce"], **micro)
    return model, {**images(), "sample_weight": np.linspace(0, 2, N, dtype=np.float32), "class_weight": {3: 2.0}}


def own_code(**micro: Any) -> tuple[Any, dict[str, Any]]:
    return classifier(loss=logarithm, metrics=[Right(), "accuracy"], **micro), images()


def penalties(**micro: Any) -> tuple[Any, dict[str, Any]]:
    active = layers.Dense(8, activity_regularizer=keras.regularizers.L1(0.01))
    return classifier(active, Squares(), optimizer="sgd", **micro), images()


def some_classes_ignored(**micro: Any) -> tuple[Any, dict[str, Any]]:
    return classifier(loss=losses.SparseCategoricalCrossentropy(ignore_class=3), **micro), images()


def divided_by_weights(**micro: Any) -> tuple[Any, dict[str, Any]]:
    loss = losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
    return classifier(loss=loss, **micro), {**images(), "sample_weight": np.linspace(0, 2, N, dtype=np.float32)}


def several_outputs(**micro: Any) -> tuple[Any, dict[str, Any]]:
    """Outputs whose losses divide by other numbers: positions that a mask leaves, examples, nothing."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8))
    steps = layers.SimpleRNN(6, return_sequences=True, recurrent_dropout=0.2)(layers.Masking()(inputs))
    sums = layers.Dense(1, name="sums")(steps)
    digit = layers.Dense(10, activation="softmax", name="digit")(layers.GlobalAveragePooling1D()(steps))
    total = layers.Dense(1, name="total")(layers.Flatten()(inputs))
    model = keras.Model(inputs, {"sums": sums, "digit": digit, "total": total})
    compiled = {"sums": "mse", "digit": "ce", "total": losses.MeanSquaredError(reduction="sum")}
    weights = {"sums": 3.0, "digit": 1.0, "total": 0.01}
    model.compile("adam", compiled, {"sums": ["mae"], "digit": ["accuracy"]}, weights, **micro)
    x, y, classes = sequences()
    return model, {"x": x, "y": {"sums": y, "digit": classes, "total": y.sum(1)}}


def mask_made_by_weights(**micro: Any) -> tuple[Any, dict[str, Any]]:
    """How many positions count is known once the batch has gone through the first layer."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [layers.Dense(2, activation="relu", input_shape=(8, 8)), layers.Dropout(0.2), layers.Masking(), layers.Dense(1)]
    )
    model.compile("sgd", "mse", ["mae"], **micro)
    x, y, _ = sequences()
    return model, {"x": x, "y": y}


class Stream:
    """Batches that can be gone over again."""

    def __iter__(self) -> Iterator[Any]:
        data = images()
        return ((data["x"][i : i + M], data["y"][i : i + M]) for i in range(0, N, M))


def batches_of_a_stream(**micro: Any) -> tuple[Any, dict[str, Any]]:
    return classifier(layers.Dropout(0.3), **micro), {"x": Stream()}


def updates_left_out(**micro: Any) -> tuple[Any, dict[str, Any]]:
    data = images()
    x = data["x"].copy()
    x[31] = np.nan
    return classifier(on_nonfinite="skip", **micro), {**data, "x": x, "shuffle": False}


CASES = [
    weighted,
    own_code,
    penalties,
    some_classes_ignored,
    divided_by_weights,
    several_outputs,
    mask_made_by_weights,
    batches_of_a_stream,
    updates_left_out,
]


def trained(case: Callable, micro_batch_size: Any, epochs: int = 2) -> tuple[Any, Any, dict[str, float]]:
    model, given = case(micro_batch_size=micro_batch_size)
    size = {} if case is batches_of_a_stream else {"batch_size": M}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Epoch .: 1 update was skipped")
        history = model.fit(**given, **size, epochs=epochs, verbose=0)
    scored = {name: given[name] for name in ("x", "y", "sample_weight") if name in given}
    return model, history, model.evaluate(**scored, **size, verbose=0, return_dict=True)


whole = functools.cache(lambda case: trained(case, "auto"))


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] if c in (own_code, mask_made_by_weights) else []) for c in CASES]
)
@pytest.mark.parametrize("size", [4])  # five pieces of 4 or 5, of the last batch two or three
def test_a_batch_in_pieces_has_the_result_of_the_whole(case: Callable, size: int) -> None:
    found = trained(case, size)
    assert found[0].programs()["train"] == whole(case)[0].programs()["train"] <= 2
    assert_same(found, whole(case))


@pytest.mark.parametrize("size", range(1, 7))
def test_pieces_of_any_size_have_the_result_of_the_whole(size: int) -> None:
    """Batches of 6 and a last one of 1."""

    def case(**micro: Any) -> tuple[Any, dict[str, Any]]:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([layers.Dense(1, input_shape=(10,), kernel_regularizer="l2")])
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", ["mae"], **micro)
        x, y = diabetes(73)
        return model, {"x": x, "y": y, "batch_size": 6, "verbose": 0}

    models = []
    for micro in (size, None):
        model, given = case(micro_batch_size=micro)
        models.append((model, model.fit(**given), {}))
    assert_same(*models)


def test_pieces_run_as_plain_python_have_the_result_of_the_whole() -> None:
    x, y = digits(20)
    found = []
    for size, eager in ((3, True), (None, False)):
        model = classifier(run_eagerly=eager, micro_batch_size=size)
        found.append((model, model.fit(x, y, batch_size=8, verbose=0), {}))
    assert_same(*found)


def test_train_on_batch_takes_a_batch_in_pieces() -> None:
    x, y = digits(20)
    found = []
    for size in (6, None):
        model = classifier(micro_batch_size=size)
        found.append([model.train_on_batch(x, y)[0], model.test_on_batch(x, y)[0], *model.get_weights()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-8)


# -- programs


def test_a_batch_no_larger_than_a_micro_batch_is_run_as_ever() -> None:
    found = [trained(weighted, size, epochs=1) for size in (M, None)]
    for a, b in zip(*(model.get_weights() for model, _, _ in found), strict=True):
        assert np.array_equal(a, b)
    assert found[0][1].history == found[1][1].history


def test_one_program_runs_batches_of_all_sizes_in_pieces() -> None:
    x, y = digits(60)
    sizes = np.array([5, 20, 10, 3, 22], np.int32)
    models = []
    for _ in range(2):
        models.append(classifier(layers.Dropout(0.3)))
        models[-1].fit(x[:5], y[:5], batch_size=5, verbose=0)  # for the programs and the optimizer's state
    model, whole_model = models
    (programs,), (others,) = (training_of(m).programs.values() for m in models)
    runner, other = TrainRunner(programs.train, True, 7, 1), TrainRunner(others.train, True, 7, 1)
    examples = align(training_of(model), as_examples(x, y, method="fit"))
    ((block, _, _),) = ArrayFeed(examples, 60, False, 0, False).epoch(0)
    starts = np.cumsum([0, *sizes[:-1]], dtype=np.int32)
    together = block._replace(
        order=block.order.reshape(1, -1), sizes=sizes, passes=np.zeros(5, np.uint32), starts=jnp.asarray(starts)
    )
    programs.train.most = 5  # rows at once
    (tally, rest) = advance(runner, [Stretch(together, 0, sizes)], None, AllSteps(), Display(), Interrupts())
    assert rest is None
    assert tally is not None
    assert runner.read(tally)["loss"] > 0
    for start, size in zip(starts, sizes, strict=True):
        order = jnp.arange(start, start + size, dtype=jnp.int32)[None]
        one = block._replace(order=order, sizes=np.array([size]), passes=np.zeros(1, np.uint32))
        advance(other, [Stretch(one, 0, np.array([size]))], None, AllSteps(), Display(), Interrupts())
    assert_same((model, keras.callbacks.History(), {}), (whole_model, keras.callbacks.History(), {}))
    assert runner.program.executables == 1


def test_a_run_goes_on_in_other_micro_batches(tmp_path: Any) -> None:
    backup = keras.callbacks.BackupAndRestore(tmp_path / "kept", save_freq=2, delete_checkpoint=False)
    stop = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ends(batch))

    def ends(batch: int) -> None:
        if batch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classifier(layers.Dropout(0.3), micro_batch_size=8).fit(
            **images(), batch_size=M, epochs=2, verbose=0, callbacks=[backup, stop]
        )
    found = []
    for size, goes_on in ((4, tmp_path / "kept"), (None, None)):
        model = classifier(layers.Dropout(0.3), micro_batch_size=size)
        found.append((model, model.fit(**images(), batch_size=M, epochs=2, verbose=0, resume_from=goes_on), {}))
    assert_same(*found)


# -- what cannot be cut


class OwnLoss(keras.Sequential):
    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        return jnp.mean((y - y_pred) ** 2)


class OwnStep(keras.Sequential):
    def train_step(self, state: Any, batch: Any) -> Any:
        return super().train_step(state, batch)


def one_number(y_true: Any, y_pred: Any) -> Any:
    return jnp.mean((y_true - y_pred) ** 2)


@pytest.mark.parametrize(
    ("cls", "loss", "message"),
    [
        (OwnLoss, "mse", r"compute_loss\(\) takes whole batches: pass a loss"),
        (OwnStep, "mse", r"train_step\(\) takes whole batches: do without"),
        (keras.Sequential, one_number, "output 'dense.*' is one number for a whole batch.*one value per example"),
    ],
)
def test_what_takes_whole_batches_is_refused_before_any_weight_changes(cls: Any, loss: Any, message: str) -> None:
    x, y = diabetes(20)
    model = cls([layers.Dense(1, input_shape=(10,))])
    model.compile("sgd", loss, micro_batch_size=4)
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.fit(x, y[:, None], batch_size=10, verbose=0)
    assert same(model.get_weights(), before)
    model.fit(x, y[:, None], batch_size=4, verbose=0)  # nothing is cut


def test_stateful_layers_take_whole_batches() -> None:
    x, y, _ = sequences()
    model = keras.Sequential([layers.SimpleRNN(2, stateful=True, return_sequences=True), layers.Dense(1)])
    model.compile("sgd", "mse", micro_batch_size=4)
    with pytest.raises(
        ValueError, match=r"a state per row of the whole batch.*SimpleRNN 'simple_rnn.*smaller batch_size"
    ):
        model.fit(x[:20], y[:20], batch_size=10, verbose=0)


@pytest.mark.parametrize("given", [0, -1, True, 2.5, "small"])
def test_a_micro_batch_size_is_checked_at_compile(given: Any) -> None:
    with pytest.raises(ValueError, match=r'micro_batch_size to be "auto", None or an int >= 1, got'):
        classifier(micro_batch_size=given)


def test_batch_normalization_is_told_of_once_with_its_name() -> None:
    model = classifier(layers.BatchNormalization(name="centred"), micro_batch_size=4)
    with pytest.warns(UserWarning, match=r"of 4 examples, over which BatchNormalization 'centred'.*GroupNorm"):
        model.fit(**images(16), batch_size=8, verbose=0)
    model.fit(**images(16), batch_size=8, verbose=0)  # a second warning would be an error


def test_code_that_may_look_across_the_batch_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    classifier(Squares(name="squares"), micro_batch_size=4).fit(**images(16), batch_size=8, verbose=2)
    said = "taking Squares 'squares' to treat every example alone and what 'squares' adds with add_loss() for a mean"
    assert capsys.readouterr().out.count(said) == 1
