"""Writes the files of this folder with the epochal that is imported, and says how its models and runs are made.

    PYTHONPATH=SRC_OF_AN_EPOCHAL python tests/golden/write.py FOLDER

The models and the data are without chance where a digest is kept of them (the study), so that they are the same on
every machine.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import epochal as keras
from epochal import layers

# -- data: formulas, the same everywhere

ROWS = 24


def features(rows: int = ROWS) -> np.ndarray:
    """(rows, 4) numbers between -1 and 1."""
    return ((np.arange(rows * 4).reshape(rows, 4) * 7919 % 101) / 50 - 1).astype("float32")


def labels(rows: int = ROWS) -> np.ndarray:
    """(rows,) classes 0, 1 and 2."""
    return (np.argmax(features(rows)[:, :3], axis=1)).astype("int32")


def images() -> np.ndarray:
    """(24, 6, 6, 1) numbers between -1 and 1."""
    return ((np.arange(ROWS * 36).reshape(ROWS, 6, 6, 1) * 6007 % 89) / 44 - 1).astype("float32")


# -- models


@keras.saving.register_keras_serializable("golden")
class Twice(keras.Model):
    """A layer of the user's, which is called twice."""

    def __init__(self, units: int = 4, **named: Any):
        super().__init__(**named)
        self.inner = layers.Dense(units, activation="tanh")
        self.last = layers.Dense(3)

    def call(self, x: Any) -> Any:
        """(batch, units) -> (batch, 3)."""
        return self.last(self.inner(self.inner(x)))


def sequential() -> Any:
    """Normalization by batches, masks of dropout and Adam's slots."""
    stack = [
        layers.Input((4,)),
        layers.Dense(6, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-3)),
        layers.BatchNormalization(),
        layers.Dropout(0.2),
        layers.Dense(3, activation="softmax"),
    ]
    model = keras.Sequential(stack, name="golden_sequential")
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    return model


def functional() -> Any:
    """Two inputs, a shared layer, ops, two outputs, and a schedule of the learning rate."""
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    shared = layers.Dense(4, activation="gelu", name="shared")
    both = layers.Concatenate(name="both")([shared(a), keras.ops.tanh(shared(b) * 2.0)])
    outputs = {"kind": layers.Dense(3, name="kind")(both), "size": layers.Dense(1, name="size")(both)}
    model = keras.Model({"a": a, "b": b}, outputs, name="golden_functional")
    rate = keras.optimizers.schedules.ExponentialDecay(0.05, 10, 0.9)
    loss = {"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "size": keras.losses.Huber(0.5)}
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss, {"size": [keras.metrics.MeanAbsoluteError()]})
    return model


def subclass() -> Any:
    """A class of the user's."""
    model = Twice(name="golden_twice")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.01), loss, ["accuracy"])
    return model


def convolutional() -> Any:
    """Layers for images and sequences, initializers, statistics of the data, a metric with variables."""
    scale = layers.Normalization(mean=np.zeros(1, "float32"), variance=np.full(1, 0.25, "float32"))
    stack = [
        layers.Input((6, 6, 1)),
        scale,
        layers.Conv2D(2, 3, padding="same", kernel_initializer=keras.initializers.HeNormal(seed=3)),
        layers.LayerNormalization(),
        layers.MaxPooling2D(),
        layers.Reshape((9, 2)),
        layers.Bidirectional(layers.LSTM(2, kernel_initializer="orthogonal")),
        layers.Dense(1, activation="sigmoid", bias_initializer=keras.initializers.Constant(0.1)),
    ]
    model = keras.Sequential(stack, name="golden_convolutional")
    model.compile("rmsprop", keras.losses.BinaryCrossentropy(label_smoothing=0.1), [keras.metrics.AUC(50, name="auc")])
    return model


MODELS = {f.__name__: f for f in (sequential, functional, subclass, convolutional)}


def given_to(name: str) -> tuple[Any, Any]:
    """x and y of a model's training."""
    x, y = features(), labels()
    if name == "functional":
        return {"a": x[:, :2], "b": x[:, 2:]}, {"kind": y, "size": x[:, :1]}
    if name == "convolutional":
        return images(), (y > 0).astype("float32")[:, None]
    return x, y


def numbers_of(name: str, path: Path) -> dict[str, np.ndarray]:
    """What a model that is read from a path must give: its predictions, and its weights after one more update."""
    keras.utils.set_random_seed(5)  # before it is read: a model draws the seed of its masks when it is made
    model = keras.saving.load_model(path)
    x, y = given_to(name)
    predicted = model.predict(x, verbose=0)
    found = predicted if isinstance(predicted, dict) else {"output": predicted}
    found = {f"{name}/predict/{key}": np.asarray(value) for key, value in found.items()}
    found[f"{name}/iterations"] = np.asarray(int(model.optimizer.iterations))
    model.train_on_batch(x, y)
    return found | {f"{name}/updated/{i}": w for i, w in enumerate(model.get_weights())}


def write_models(folder: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Each of these models as a folder and as one file, and one model's weights; returns `numbers_of` them."""
    folder.mkdir(parents=True)
    numbers: dict[str, np.ndarray] = {}
    for name in names:
        keras.utils.set_random_seed(1)
        model = MODELS[name]()
        model.fit(*given_to(name), batch_size=8, epochs=2, verbose=0)
        model.save(folder / name)
        model.save(folder / f"{name}.keras")
        if name == "sequential":
            model.save_weights(folder / "sequential.safetensors")
        numbers |= numbers_of(name, folder / name)
    return numbers


# -- a run that was broken off within an epoch


class Broken(Exception):
    """What ends the run."""


class BreakOff(keras.callbacks.Callback):
    """Ends the run as this batch of this epoch begins."""

    def __init__(self, epoch: int, batch: int):
        self.place, self.epoch = (epoch, batch), 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remembers the epoch."""
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Raises Broken at its place."""
        if (self.epoch, batch) == self.place:
            raise Broken


def train(folder: Path | None, *callbacks: Any) -> Any:
    """A run of three epochs of six batches of four, in pieces of two, with an update in each that is left out.

    Args:
        folder: of its backup; None for a run that is not kept.
        callbacks: more of them.

    Returns:
        the model.
    """
    keras.utils.set_random_seed(3)
    stack = [
        layers.Input((4,)),
        layers.Dense(5, "relu"),
        layers.Dropout(0.2, name="dropout"),
        layers.Dense(3, "softmax"),
    ]
    model = keras.Sequential(stack)
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"], micro_batch_size=2, on_nonfinite="skip")
    x = features()
    x[1] = np.nan  # a row of one batch in each epoch
    backup = [] if folder is None else [keras.callbacks.BackupAndRestore(folder, 2, delete_checkpoint=False, keep=1)]
    called = [keras.callbacks.NoiseScale(every=1), *backup, *callbacks]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*skipped")
        warnings.filterwarnings("ignore", ".*another environment")  # another JAX than the one that wrote the files
        model.fit(x, labels(), batch_size=4, epochs=3, verbose=0, callbacks=called)
    return model


def write_checkpoint(folder: Path) -> None:
    """The backup of a run that ended within its second epoch, behind the update that was left out."""
    try:
        train(folder, BreakOff(1, 5))
    except Broken:
        (folder / "run.json").unlink(missing_ok=True)
        return
    raise AssertionError("the run was to be broken off")


# -- run folders of the command line

FIT = ["--batch-size", "8", "--epochs", "4", "--no-plot", "--verbose", "0"]


def write_table(path: Path) -> None:
    """40 rows of four numbers, a word and a class, as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "d", "word", "kind"])
        for row, label in zip(features(40).tolist(), labels(40).tolist(), strict=True):
            values = [round(value, 3) for value in row]
            writer.writerow([*values, ["red", "green"][int(values[0] > 0)], ["small", "middle", "large"][label]])


@contextmanager
def interrupted_in(epoch: int) -> Iterator[None]:
    """Every fit is interrupted as this epoch begins, as by Ctrl-C."""
    fit = keras.Model.fit

    def interrupt(begun: int, logs: Any = None) -> None:
        if begun == epoch:
            raise KeyboardInterrupt

    def cut(self: Any, *args: Any, callbacks: Any = (), **named: Any) -> Any:
        stop = keras.callbacks.LambdaCallback(on_epoch_begin=interrupt)
        return fit(self, *args, callbacks=[*callbacks, stop], **named)

    keras.Model.fit = cut  # type: ignore[method-assign]
    try:
        yield
    finally:
        keras.Model.fit = fit  # type: ignore[method-assign]


def write_runs(folder: Path) -> None:
    """`command_line/whole` came to its end, `command_line/cut` was interrupted in its third epoch."""
    from epochal.cli import main

    (folder / "command_line").mkdir()
    write_table(folder / "command_line" / "table.csv")
    with chdir(folder / "command_line"):
        assert main(["fit", "table.csv", *FIT, "--run-dir", "whole"]) == 0
        with interrupted_in(2):
            assert main(["fit", "table.csv", *FIT, "--run-dir", "cut"]) == 130
        assert main(["predict", "whole", "table.csv", "-o", "predicted.csv"]) == 0
    begun = folder / "command_line" / "cut" / "backup" / "begun.json"
    begun.write_text(json.dumps({**json.loads(begun.read_text()), "directory": "."}))


# -- a study


def studied() -> Any:
    """A model whose first weights are a formula."""
    first = keras.initializers.Constant(np.arange(12, dtype="float32").reshape(4, 3) / 12)
    model = keras.Sequential([layers.Input((4,)), layers.Dense(3, "softmax", kernel_initializer=first)])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", ["accuracy"])
    return model


def study(folder: Path) -> Any:
    """Two sizes, one seed."""
    settings: dict[str, Any] = {"batch_sizes": (4, "full"), "epochs": 2, "updates": 12, "seeds": 1, "target": 0.5}
    return keras.batch_size_study(
        studied, features(), labels(), learning_rates="fixed", out=folder, verbose=0, **settings
    )


# -- names


def registered() -> dict[str, list[str]]:
    """The names under which epochal's own classes and functions are written down."""
    try:
        from epochal.registry import configurable as registry
    except ImportError:  # before the rooms
        import epochal.config as registry

    ours = {
        "functional",
        "initializers",
        "layers",
        "losses",
        "metrics",
        "model",
        "optimizers",
        "random",
        "regularizers",
    }
    ours |= {"random", "regularizers", "sequential", "activations", "operators", "ops"}
    tables = {"classes": registry._REGISTRY, "functions": registry._FUNCTIONS}
    return {what: sorted(n for n in table if n.split("/")[0] in ours) for what, table in tables.items()}


def names_in(folder: Path) -> dict[str, Any]:
    """The names in the files of a folder that `write` wrote: keys of dicts, in which values are kept."""
    try:
        from epochal.runs.store import Store
    except ImportError:  # before the rooms
        from epochal.checkpoint import Store

    found: dict[str, Any] = dict(registered())
    store = Store(folder / "checkpoint").newest()
    assert store is not None
    found["checkpoint"] = sorted(store.content)
    found["callbacks"] = {name: sorted(state or {}) for name, state in store.content["callbacks"]}
    runs = folder / "command_line"
    lines = [json.loads(line) for line in (runs / "whole" / "log.jsonl").read_text().splitlines()]
    found["log"] = {line["event"]: list(line) for line in lines}
    found["summary"] = list(json.loads((runs / "whole" / "summary.json").read_text()))
    found["begun"] = list(json.loads((runs / "cut" / "backup" / "begun.json").read_text()))
    found["options"] = list(json.loads((runs / "cut" / "backup" / "begun.json").read_text())["options"])
    found["run"] = sorted(p.name for p in (runs / "whole").iterdir())
    found["model"] = sorted(p.name for p in (folder / "models" / "sequential").iterdir())
    found["study"] = list(json.loads((folder / "study" / "study.json").read_text()))
    fits = [json.loads(line) for line in (folder / "study" / "fits.jsonl").read_text().splitlines()]
    found["fits"] = sorted({name for fit in fits for name in fit})
    return found


def write(folder: Path, models: Iterable[str] = tuple(MODELS)) -> None:
    """Everything, with these models."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = write_models(folder / "models", models)
    np.savez_compressed(folder / "numbers.npz", **numbers)
    write_checkpoint(folder / "checkpoint")
    write_runs(folder)
    table = study(folder / "study").table
    (folder / "study" / ".lock").unlink(missing_ok=True)
    (folder / "study_table.json").write_text(json.dumps(table, indent=1) + "\n")
    (folder / "names.json").write_text(json.dumps(names_in(folder), indent=1) + "\n")


if __name__ == "__main__":
    os.environ["EPOCHAL_CACHE"] = "off"
    write(Path(sys.argv[1]).absolute())
