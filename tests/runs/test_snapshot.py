"""A run goes on with another batch size, in another place; it does not with other data or another model."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support.broken_off import BreakOff, Broken, Counts, N, assert_same_run, dense, endless, run
from support.data import digits
from support.same import same

import epochal as keras
from epochal import layers
from epochal.callbacks import BackupAndRestore
from epochal.runs.checkpoint_file import read


class Numbers(keras.utils.PyDataset):
    """The numbers 0 … 46 in batches of 5, in another order every epoch."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        ids = np.arange(47)[index * 5 : (index + 1) * 5]
        return ids[:, None] * 1.0, ids


def trained_on(model: Any, folder: Path, batches: int, **fit: Any) -> list[int]:
    """The ids of the examples that training saw, in its order, until it was broken off or ended."""
    seen: list[int] = []

    def look(y_true: Any, y_pred: Any) -> Any:
        if not isinstance(y_true, jax.core.Tracer):
            seen.extend(np.asarray(y_true).astype(int).ravel().tolist())
        return (y_pred - y_true[:, None]) ** 2

    model.compile(keras.optimizers.SGD(0.0), look, run_eagerly=True)
    callbacks = [BackupAndRestore(folder, 1, delete_checkpoint=False), BreakOff(batches)]
    with contextlib.suppress(Broken):
        model.fit(**fit, verbose=0, callbacks=callbacks)
    return seen


def once_per_epoch(n: int, epochs: int, breaks: int, folder: Path, change: Callable[[Any], dict[str, Any]]) -> None:
    """Trains with other settings after each break, and looks at the examples of every epoch."""
    random = np.random.default_rng(1)
    model = keras.Sequential([layers.Dense(1, input_shape=(1,))])
    keras.utils.set_random_seed(1)
    seen: list[int] = []
    for _ in range(breaks):
        seen += trained_on(model, folder, int(random.integers(1, 4)), epochs=epochs, **change(random))
    assert len(seen) < n * epochs  # the breaks were within the run
    seen += trained_on(model, folder, -1, epochs=epochs, **change(random))
    assert len(seen) == n * epochs
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


@pytest.mark.parametrize("shuffle", [True, "batch", False])
def test_with_another_batch_size_every_example_comes_once_per_epoch(shuffle: Any, tmp_path: Path) -> None:
    ids = np.arange(17)
    data = {"x": ids[:, None] * 1.0, "y": ids, "shuffle": shuffle}
    once_per_epoch(17, 2, 3, tmp_path, lambda random: {**data, "batch_size": int(random.integers(1, 4))})


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", [True, "batch", False])
def test_thirty_other_batch_sizes(shuffle: Any, tmp_path: Path) -> None:
    ids = np.arange(97)
    data = {"x": ids[:, None] * 1.0, "y": ids, "shuffle": shuffle}
    once_per_epoch(97, 5, 30, tmp_path, lambda random: {**data, "batch_size": int(random.integers(1, 12))})


@pytest.mark.slow
def test_thirty_other_numbers_of_workers(tmp_path: Path) -> None:
    once_per_epoch(47, 8, 30, tmp_path, lambda random: {"x": Numbers(), "workers": int(random.integers(0, 4))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:-1], y[:-1]), "training data differ: examples was 100, is 99"),
        (lambda x, y: (x + 1, y), "training data differ: digest"),
        (lambda x, y: (x, y * 1.0), "training data differ: arrays"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(change: Any, message: str, tmp_path: Path) -> None:
    x, y = digits(N)
    backup = BackupAndRestore(tmp_path, 1)
    with pytest.raises(Broken):
        dense().fit(x, y, verbose=0, callbacks=[backup, BreakOff(2)])
    model = dense()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        model.fit(*change(x, y), verbose=0, callbacks=[backup])
    assert same(before, model.get_weights())


def test_a_run_does_not_go_on_with_another_model_or_optimizer(tmp_path: Path) -> None:
    x, y = digits(N)
    backup = BackupAndRestore(tmp_path, 1)
    with pytest.raises(Broken):
        dense().fit(x, y, verbose=0, callbacks=[backup, BreakOff(2)])
    other = keras.Sequential([layers.Dense(10, activation="softmax", input_shape=(64,))])
    other.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="its weights differ: there were 6, there are 2"):
        other.fit(x, y, verbose=0, callbacks=[backup])
    model = dense()
    model.compile("rmsprop", "sparse_categorical_crossentropy", ["accuracy"])
    with pytest.raises(ValueError, match="optimizer's state differ"):
        model.fit(x, y, verbose=0, callbacks=[backup])


def test_another_environment_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits(N)
    backup = BackupAndRestore(tmp_path, 1)
    with pytest.raises(Broken):
        dense().fit(x, y, verbose=0, callbacks=[backup, BreakOff(2)])
    monkeypatch.setenv("XLA_FLAGS", "--xla_other")
    with pytest.warns(UserWarning, match=r"another environment \(XLA_FLAGS .* --xla_other\)"):
        dense().fit(x, y, verbose=0, callbacks=[backup])


def test_a_run_goes_on_with_another_count_of_devices(whole_run: Any, tmp_path: Path) -> None:
    """From one to two, and from two to one; the process with two breaks the other run off."""
    more, fewer = tmp_path / "more", tmp_path / "fewer"
    with pytest.raises(Broken):
        run("arrays", more, 8, 3)
    script = f"""
import json, sys, warnings
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
import jax, pytest
from support.broken_off import Broken, run
assert jax.device_count() == 2
with pytest.raises(Broken):
    run("arrays", Path({str(fewer)!r}), 8, 3)
with pytest.warns(UserWarning, match="another environment .*devices 1 → 2"):
    found = run("arrays", Path({str(more)!r}), every=3)
found.pop("data")
print(json.dumps(found))
"""
    two = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=two)
    assert ended.returncode == 0, ended.stderr[-3000:]
    whole = json.loads(json.dumps({**whole_run("arrays"), "data": None}))
    assert_same_run(whole, json.loads(ended.stdout))
    with pytest.warns(UserWarning, match="another environment .*devices 2 → 1"):
        assert_same_run(run("arrays", fewer, every=3), whole_run("arrays"))


def test_fit_resume_from_goes_on_from_another_folder_and_leaves_it(tmp_path: Path) -> None:
    x, y = digits(N)
    fit: dict[str, Any] = {"x": x, "y": y, "epochs": 3, "verbose": 0}
    keras.utils.set_random_seed(2)
    model = dense()
    whole = model.fit(**fit).history
    keras.utils.set_random_seed(2)
    with pytest.raises(Broken):
        dense().fit(**fit, callbacks=[BackupAndRestore(tmp_path, 1), BreakOff(6)])
    kept = sorted(tmp_path.iterdir())
    again = dense()
    assert again.fit(**fit, resume_from=tmp_path).history == whole
    assert same(model.get_weights(), again.get_weights())
    assert sorted(tmp_path.iterdir()) == kept
    with pytest.raises(ValueError, match="found none"):
        again.fit(**fit, resume_from=tmp_path / "nothing")


def test_fit_goes_on_from_what_ModelCheckpoint_wrote(tmp_path: Path) -> None:
    """The callbacks behind it in the list have seen the epoch too, and BackupAndRestore may be there as well."""
    x, y = digits(N)

    def fit(saver: Any, resume_from: Any = None, **named: Any) -> tuple[Any, Any]:
        keras.utils.set_random_seed(2)
        model, counts = dense(), Counts()
        plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=1, factor=0.3, min_delta=1.0)
        callbacks = [saver, plateau, counts, *named.pop("callbacks", [])]
        history = model.fit(x, y, verbose=0, callbacks=callbacks, resume_from=resume_from, **{"epochs": 4, **named})
        weights = [w.tolist() for w in model.get_weights()]
        return history.history, (weights, counts.seen, float(model.optimizer.learning_rate))

    def saver(name: str, **named: Any) -> Any:
        return keras.callbacks.ModelCheckpoint(tmp_path / name, "loss", save_state=True, **named)

    whole = fit(saver("{epoch}.keras"))
    assert whole[1][2] < 1e-3
    for epoch in (1, 2, 4):
        again = fit(saver("again.keras"), tmp_path / f"{epoch}.keras")
        assert again == whole
    kept = read(*(tmp_path / "2.keras.run").glob("epoch-*"))
    arrays = {np.asarray(a).tobytes() for a in [*kept["params"], *kept["buffers"]]}
    assert all(w.tobytes() in arrays for w in keras.models.load_model(tmp_path / "2.keras").get_weights())
    # The best of all alone, with another callback that ends the run, and its own backup.
    best = saver("best.keras", save_best_only=True)
    with pytest.raises(Broken):
        fit(best, callbacks=[BreakOff(9), BackupAndRestore(tmp_path / "backup", 1)])
    assert len(list((tmp_path / "best.keras.run").glob("epoch-*"))) == 1
    assert fit(saver("best.keras", save_best_only=True), tmp_path / "best.keras") == whole
    with pytest.raises(ValueError, match=r'save_state .* expected save_freq="epoch", got 3'):
        saver("x.keras", save_freq=3)


def test_a_finished_run_that_is_kept_trains_no_more(tmp_path: Path) -> None:
    x, y = digits(N)
    backup = BackupAndRestore(tmp_path, delete_checkpoint=False)
    model = dense()
    whole = model.fit(x, y, epochs=2, verbose=0, callbacks=[backup]).history
    again = dense()
    assert again.fit(x, y, epochs=2, verbose=0, callbacks=[backup]).history == whole
    assert same(model.get_weights(), again.get_weights())
    longer = again.fit(x, y, epochs=3, verbose=0, callbacks=[backup]).history["loss"]
    assert longer[:2] == whole["loss"]
    assert len(longer) == 3


def test_messages_say_where_a_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    x, y = digits(N)
    backup = BackupAndRestore(tmp_path, 1)
    with pytest.raises(Broken):
        dense().fit(endless(x, y), steps_per_epoch=7, epochs=2, verbose=0, callbacks=[backup, BreakOff(9)])
    capsys.readouterr()
    dense().fit(endless(x, y), steps_per_epoch=7, epochs=2, verbose=2, callbacks=[backup])
    shown = capsys.readouterr().out
    assert "epoch 2, behind batch 2." in shown
    assert "9 batches of the generator are read again and skipped" in shown
