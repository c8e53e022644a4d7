"""A step of a run that was kept, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.data import digits
from support.same import same
from support.spoiled import FIRST, LAST, M, N, Own, arrays_of, batches, classifier, spoiled, trained

import epochal as keras
from epochal import layers
from epochal.callbacks import BackupAndRestore, LambdaCallback


@pytest.mark.parametrize("form", ["arrays", "generator"])
def test_replay_makes_the_step_again(form: str, tmp_path: Path) -> None:
    x, y = spoiled()
    keep = BackupAndRestore(tmp_path, save_freq=2)
    whole = classifier(on_nonfinite="raise")
    with pytest.raises(keras.NonFiniteError) as error:
        trained(whole, x, y, form, callbacks=[keep])
    model = classifier()
    kept = sorted(path.name for path in tmp_path.iterdir())
    data: tuple = (x, y)
    named: dict[str, Any] = {"batch_size": M, "shuffle": False}
    if form == "generator":
        data, named = (batches(x, y, 2),), {"steps_per_epoch": 6}
    assert error.value.epoch is not None
    step = keras.replay(model, tmp_path, *data, epoch=error.value.epoch, batch=error.value.batch, **named)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    assert same(arrays_of(model), arrays_of(whole))  # as before the step
    np.testing.assert_array_equal(step.x, x[FIRST:LAST])
    np.testing.assert_array_equal(step.y[0].ravel(), y[FIRST:LAST])
    assert step.not_finite == error.value.values
    assert np.isnan(step.loss)
    assert (step.examples is None) == (form == "generator")


class Rows(layers.Layer):
    """Notes how many rows it is traced with."""

    seen: set[int] = set()  # noqa: RUF012

    def call(self, x: Any) -> Any:
        self.seen.add(x.shape[0])
        return x


def dropping(piece: int | None = None) -> Any:
    keras.utils.set_random_seed(3)
    inner = [layers.Dropout(0.5), Rows(), layers.Dense(1, name="out", use_bias=False)]
    model = keras.Sequential([layers.Input((64,)), *inner])
    model.compile(keras.optimizers.SGD(0.1), "mse", micro_batch_size=piece)
    return model


@pytest.mark.parametrize("piece", [None, 5])
def test_replay_has_the_masks_the_rows_and_the_pieces_that_the_step_had(piece: int | None, tmp_path: Path) -> None:
    x, y = digits(N)
    y = y.astype(np.float32)
    weights: list[np.ndarray] = []
    watch = LambdaCallback(on_train_batch_begin=lambda batch, logs: weights.append(whole.get_weights()[0]))
    keep = BackupAndRestore(tmp_path, save_freq=4, delete_checkpoint=False, keep=9)
    whole = dropping(piece)
    whole.fit(x, y, batch_size=M, epochs=2, verbose=0, callbacks=[watch, keep])
    Rows.seen.clear()
    for epoch, batch in ((0, 4), (1, 1), (1, 4)):  # from before it, from the epoch before, and a shuffled epoch's
        model = dropping(piece)
        step = keras.replay(model, tmp_path, x, y, epoch=epoch, batch=batch, batch_size=M)
        assert (max(Rows.seen) < M) == (piece is not None)
        before, after = weights[6 * epoch + batch], weights[6 * epoch + batch + 1]
        np.testing.assert_array_equal(model.get_weights()[0], before)
        np.testing.assert_allclose(before - 0.1 * step.gradients["out/kernel"], after, rtol=1e-6, atol=1e-7)
        assert step.examples is not None
        np.testing.assert_array_equal(step.x, x[step.examples])
        residual = step.predictions[0][:, 0] - y[step.examples]
        assert step.loss == pytest.approx(np.mean(residual**2), rel=1e-5)
        assert step.not_finite == []


def test_replay_says_what_it_cannot_do(tmp_path: Path) -> None:
    x, y = digits(N)
    keep = BackupAndRestore(tmp_path, save_freq=2, delete_checkpoint=False)
    model = classifier()
    model.fit(x, y, batch_size=M, verbose=0, callbacks=[keep])
    with pytest.raises(ValueError, match=r"from before batch 1 of epoch 0 \(both from 0\), found none"):
        keras.replay(model, tmp_path, x, y, epoch=0, batch=1, batch_size=M)
    with pytest.raises(ValueError, match=r"no batch 6 in epoch 0"):
        keras.replay(classifier(), tmp_path, x, y, epoch=0, batch=6, batch_size=M)
    with pytest.raises(ValueError, match=r"without BackupAndRestore"):
        keras.replay(model, tmp_path, x, y, epoch=0, batch=4, batch_size=M, callbacks=[keep])
    own = Own()
    own.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"train_step\(\) of its own"):
        keras.replay(own, tmp_path, x, y, epoch=0, batch=4)
    model.fit(x, y, batch_size=M, epochs=1, verbose=0)  # and a fit runs to its end again
    assert len(model.history.epoch) == 1
