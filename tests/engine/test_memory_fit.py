"""Batches that are cut since memory lacks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.data import diabetes, digits
from support.micro_batches import assert_same, classifier
from support.same import same

import epochal as keras
from epochal.engine import loop, out_of_memory
from epochal.runtime import memory

layers, losses = keras.layers, keras.losses


def greedy(most: int) -> Any:
    """A loss that takes 2**62 bytes for more than `most` examples at a time."""

    def loss(y_true: Any, y_pred: Any) -> Any:
        found = jnp.mean((y_true - y_pred) ** 2, axis=-1)
        if y_pred.shape[0] <= most:
            return found
        numbers = jax.lax.broadcasted_iota(jnp.float32, (2**30, 2**30), 1) * jax.lax.stop_gradient(y_pred[0, 0])
        return found + jnp.sort(jnp.sin(numbers), axis=1).sum()

    return loss


def line(**compile_arguments: Any) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([layers.Dense(1, input_shape=(10,))])
    model.compile(optimizer=keras.optimizers.Adam(0.01), **compile_arguments)
    return model


def test_running_out_of_memory_loses_no_step(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("EPOCHAL_MEMORY_LIMIT", "9000000 TB")  # so that it is tried
    x, y = diabetes(40)
    found = []
    for loss in (greedy(6), "mse"):
        model = line(loss=loss)
        history = model.fit(x, y[:, None], batch_size=20, epochs=2, verbose=2, shuffle=False)
        found.append((model, history, {"loss": model.evaluate(x, y[:, None], batch_size=40, verbose=0)}))
    assert_same(*found)
    said = capsys.readouterr().out
    assert said.count("A batch of 20 examples does not fit into the memory (RESOURCE_EXHAUSTED") == 1
    assert said.count("it is run in micro-batches of 5, with the same result") == 1
    assert found[0][0].optimizer.iterations == 4


def test_a_step_near_the_limit_runs_alone_and_a_second_time_if_the_one_before_still_has_its_memory(
    monkeypatch: Any, capsys: Any
) -> None:
    x, y = diabetes(40)
    real, failed, steps = loop.execute, [], []

    def late(executable: Any, arrays: Any, arguments: tuple, interrupts: Any, donates: bool) -> Any:
        first, last = arguments[-2:]
        steps.append(last - first)
        if len(steps) == 3:
            failed.append(True)
            raise jax.errors.JaxRuntimeError(
                "INTERNAL: Error dispatching computation: Out of memory allocating 9 bytes."
            )
        return real(executable, arrays, arguments, interrupts, donates)

    found = []
    for near in (True, False):
        model = line(loss="mse")
        with monkeypatch.context() as patch:
            if near:
                patch.setattr(out_of_memory, "LAG", 0)
                patch.setattr(loop, "execute", late)
                patch.setattr(memory, "limit", lambda **given: memory.Limit(3000, "the test"))
                patch.setattr(memory, "step_bytes", lambda *given: 2000)  # more than half
            history = model.fit(x, y[:, None], batch_size=10, epochs=2, verbose=2, shuffle=False)
        found.append((model, history, {"loss": 0.0}))
    assert_same(*found)
    assert failed == [True]
    assert steps == [1] * 9  # 8 steps, one of them twice
    assert "does not fit" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("micro", "message"),
    [
        ("auto", "A micro-batch of 1 example does not fit into the memory .*there is no smaller one"),
        (None, "A batch of 20 examples does not fit .*micro_batch_size=None forbids to cut it"),
    ],
)
def test_where_nothing_fits_an_error_says_so_and_the_weights_are_kept(
    monkeypatch: Any, micro: Any, message: str
) -> None:
    monkeypatch.setenv("EPOCHAL_MEMORY_LIMIT", "9000000 TB")
    x, y = diabetes(20)
    model = line(loss=greedy(0), micro_batch_size=micro)
    before = model.get_weights()
    with pytest.raises(MemoryError, match=message):
        model.fit(x, y[:, None], batch_size=20, verbose=0)
    assert same(model.get_weights(), before)


def test_a_batch_that_is_known_not_to_fit_is_cut_before_it_runs(monkeypatch: Any, capsys: Any) -> None:
    x, y = digits(512)
    found = []
    for limit in ("400 kB", "1 GB"):
        monkeypatch.setenv("EPOCHAL_MEMORY_LIMIT", limit)
        model = classifier()
        found.append((model, model.fit(x, y, batch_size=512, epochs=2, verbose=2), {}))
        assert model.programs()["train"] > 1 if limit == "400 kB" else model.programs()["train"] == 1
    assert_same(*found)
    said = capsys.readouterr().out
    assert said.count("more than 400 kB (EPOCHAL_MEMORY_LIMIT): it is run in micro-batches of") == 1
    model = classifier(micro_batch_size=None)
    monkeypatch.setenv("EPOCHAL_MEMORY_LIMIT", "400 kB")
    with pytest.raises(MemoryError, match=r"None forbids to cut it. A batch of \d+ fits; or compile with"):
        model.fit(x, y, batch_size=512, verbose=0)


class Greedy(layers.Layer):
    """Takes 2**62 bytes for more than six examples at a time."""

    def call(self, x: Any) -> Any:
        return x + greedy(6)(x, x)[:, None]


def test_predictions_and_evaluations_that_run_out_of_memory_go_on_in_smaller_pieces(
    monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("EPOCHAL_MEMORY_LIMIT", "9000000 TB")  # so that it is tried
    x, y = diabetes(50)
    weights = None
    for quick in (False, True):  # nobody looks at batches: a single one
        found = []
        for middle in ([Greedy()], []):
            model = keras.Sequential([layers.Dense(1, input_shape=(10,)), *middle])
            model.compile("sgd", "mse")
            model.set_weights(model.get_weights() if weights is None else weights)
            weights = model.get_weights()
            size, verbose = ("full", 0) if quick else (20, 2)
            outputs = [model.predict(x, batch_size=size, verbose=verbose) for _ in range(2)]
            assert np.array_equal(*outputs)
            found.append((outputs[0], model.evaluate(x, y[:, None], batch_size=size, verbose=verbose)))
        np.testing.assert_allclose(*(outputs for outputs, _ in found), rtol=1e-5, atol=1e-6)
        assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)
    said = capsys.readouterr().out
    assert said.count("does not fit into the memory (RESOURCE_EXHAUSTED") == said.count("predicted in pieces of 5") + 2
    assert said.count("A batch of 20 examples does not fit") == 2  # once in predict, once in evaluate
    assert said.count("it is predicted in pieces of 5") == 1


def test_where_no_prediction_fits_an_error_says_so(monkeypatch: Any) -> None:
    monkeypatch.setenv("EPOCHAL_MEMORY_LIMIT", "9000000 TB")
    monkeypatch.setitem(Greedy.call.__globals__, "greedy", lambda most, real=greedy: real(0))
    model = keras.Sequential([layers.Dense(1, input_shape=(10,)), Greedy()])
    with pytest.raises(
        MemoryError, match=r"A batch of 8 examples does not fit .*cannot be predicted in smaller pieces"
    ):
        model.predict(diabetes(8)[0], verbose=0)


@pytest.mark.parametrize("verbose", [0, 2])
def test_predictions_that_do_not_fit_are_made_in_pieces(monkeypatch: Any, verbose: int) -> None:
    x, _ = digits(500)
    model = keras.Sequential([layers.Dense(512, activation="relu", input_shape=(64,)), layers.Dense(10)])
    expected = model.predict(x, batch_size=50, verbose=0)
    monkeypatch.setenv("EPOCHAL_MEMORY_LIMIT", "900 kB")
    found = model.predict(x, batch_size="full", verbose=verbose)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert model.programs()["predict"] > 2  # the whole was compiled, and then pieces of it
