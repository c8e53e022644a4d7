"""What is said to input that cannot be: the kind of error, its words, and that it changes nothing.

Every case goes to one and the same trained model, which must be the same to the last bit afterwards, and train on.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas
import pytest
from support.data import digits

import epochal as keras
from epochal import layers

X, Y = digits(64)
Call = Callable[[Any], Any]
Cases = dict[str, tuple[Call, type[Exception], list[str]]]


@functools.cache
def classifier() -> Any:
    model = keras.Sequential(
        [layers.Dense(8, activation="relu", input_shape=(64,)), layers.Dense(10, activation="softmax", name="out")],
        name="net",
    )
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    model.fit(X, Y, verbose=0)
    return model


@functools.cache
def folder() -> Path:
    """Files that are not what they are taken for."""
    path = Path(tempfile.mkdtemp())
    (path / "notes.txt").write_text("no weights at all")
    other = keras.Sequential([layers.Dense(3, input_shape=(64,)), layers.Dense(10)])
    other.save_weights(path / "other.safetensors")
    classifier().save_weights(path / "own.safetensors")
    return path


class Batches(keras.utils.Sequence):
    def __init__(self, batch: Any):
        super().__init__()
        self.batch = batch

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> Any:
        return self.batch


class Endless(keras.utils.Sequence):
    def __getitem__(self, i: int) -> Any:
        return X[:8], Y[:8]


def batches(*items: Any) -> Iterator[Any]:
    yield from items


def fit(**arguments: Any) -> Call:
    return lambda model: model.fit(**{"x": X, "y": Y, "verbose": 0, **arguments})


def other_y(y: np.ndarray) -> Call:
    return fit(y=y)


def compiled(*arguments: Any, **keywords: Any) -> Call:
    return lambda model: model.compile(*arguments, **keywords)


NO_DATA = ["Expected x of fit()", "arrays", "generator", "PyDataset", "got"]
BATCH_SIZE = ['"auto", "full" or an int >= 1, got']

NAMES: Cases = {
    "keyword of fit": (fit(batchsize=3), TypeError, ["unexpected keyword", "'batchsize'"]),
    "keyword of compile": (compiled("adam", "mse", metric=["mae"]), TypeError, ["unexpected keyword", "'metric'"]),
    "optimizer": (compiled("adm"), ValueError, ["Unknown optimizer 'adm'", "'adam'"]),
    "optimizer, a number": (compiled(0.01), ValueError, ["Expected the name of an optimizer", "got 0.01"]),
    "loss": (compiled("adam", "mean_sqared_error"), ValueError, ["Unknown loss", "'mean_squared_error'"]),
    "loss, a number": (compiled("adam", 3), ValueError, ["Expected a loss: a name, a function", "got 3"]),
    "metric": (compiled("adam", "mse", ["acuracy"]), ValueError, ["Unknown metric 'acuracy'", "'accuracy'"]),
    "metric without arguments": (compiled("adam", "mse", ["MeanIoU"]), ValueError, ["MeanIoU(num_classes=…)"]),
    "steps per execution": (compiled(steps_per_execution=0), ValueError, ["steps_per_execution", "int >= 1, got 0"]),
    "learning rate": (
        lambda model: setattr(model.optimizer, "learning_rate", float("nan")),
        ValueError,
        ["Expected a finite number >= 0", "learning_rate, got nan"],
    ),
    "activation": (lambda model: layers.Dense(3, activation="rellu"), ValueError, ["'rellu'", "Did you mean 'relu'"]),
    "units": (lambda model: layers.Dense(0), ValueError, ["units", "integer >= 1, got 0"]),
    "layer": (lambda model: model.get_layer("uot"), ValueError, ["'uot' in model 'net'", "['dense", "'out']"]),
    "no layer": (lambda model: model.get_layer(), ValueError, ["get_layer(name)", "got neither"]),
}

DATA: Cases = {
    "no x": (fit(x=None), ValueError, ["fit() needs data: expected x, got None"]),
    "a path": (fit(x="digits.csv", y=None), ValueError, [*NO_DATA, "'digits.csv'"]),
    "a number": (fit(x=5, y=None), ValueError, [*NO_DATA, "int '5'"]),
    "a function": (fit(x=lambda: batches((X, Y)), y=None), ValueError, [*NO_DATA, "function"]),
    "width": (fit(x=X[:, :5]), ValueError, ["x of shape (n, 64) for model 'net', got (64, 5)"]),
    "rank": (fit(x=X.reshape(-1, 8, 8)), ValueError, ["x of shape (n, 64) for model 'net', got (64, 8, 8)"]),
    "one column": (fit(x=X[:, 0]), ValueError, ["x of shape (n, 64) for model 'net', got (64,)"]),
    "two inputs": (fit(x=[X, X]), ValueError, ["Expected one array as x for model 'net', got a list of 2"]),
    "a dict": (fit(x={"a": X}), ValueError, ["Expected one array as x for model 'net', got a dict of 1"]),
    "sizes": (fit(y=Y[:-1]), ValueError, ["the same number of examples", "fit(), got x: 64, y: 63"]),
    "empty": (fit(x=X[:0], y=Y[:0]), ValueError, ["at least one example in fit(), got none (shape (0, 64))"]),
    "an empty list": (fit(x=[], y=[]), ValueError, ["at least one example in fit(), got none"]),
    "ragged": (fit(x=[[1.0, 2.0], [3.0]], y=[0, 1]), ValueError, ["x to be an array of equal rows", "pad_sequences"]),
    "text": (fit(x=X.astype(str)), ValueError, ["Expected numbers in x, got <U32", "['0.0']", "Encode text"]),
    "a table with text": (
        fit(x=pandas.DataFrame({"a": ["u", "v"]}), y=[0, 1]),
        ValueError,
        ["Expected numbers in x, got object", "['u']", "Encode text"],
    ),
    "dates": (fit(x=np.full((64, 64), np.datetime64("2020-01-01"))), ValueError, ["got datetime64", "to floats first"]),
    "complex": (fit(x=X.astype(complex)), ValueError, ["got complex128", "Convert it to floats first"]),
    "large integers": (fit(x=np.full((64, 64), 2**40)), ValueError, ["at most 32 bits in x", "1099511627776"]),
    "no targets": (fit(y=None), ValueError, ["Output 'out' has the loss", "no targets: expected y"]),
    "label too large": (other_y(Y + 1), ValueError, ["class numbers 0 … 9", "10 classes; y holds 10"]),
    "label negative": (other_y(Y - 1), ValueError, ["class numbers 0 … 9", "y holds -1"]),
    "label between": (other_y(Y + 0.5), ValueError, ["class numbers 0 … 9", "y holds 0.5, 1.5"]),
    "label NaN": (other_y(np.where(Y == 3, np.nan, Y)), ValueError, ["class numbers 0 … 9", "y holds nan"]),
    "labels as text": (other_y(Y.astype(str)), ValueError, ["Expected numbers in y, got <U11", "Encode text"]),
    "one-hot": (
        other_y(np.eye(10)[Y]),
        ValueError,
        ["'out'", "class numbers of shape (n,)", "got (n, 10)", "'categorical_crossentropy'"],
    ),
    "two columns of labels": (other_y(np.stack([Y, Y], 1)), ValueError, ["shape (n,)", "(n, 10), got (n, 2)"]),
    "targets for another output": (fit(y={"uot": Y}), ValueError, ["'uot' in y; the outputs are ['out']"]),
    "targets for two outputs": (fit(y=[Y, Y]), ValueError, ["one array per output (['out']), got 2 arrays"]),
    "an empty generator": (fit(x=batches(), y=None), ValueError, ["at least one batch in fit()", "gave none"]),
    "targets beside a generator": (fit(x=batches((X, Y))), ValueError, ["y beside a generator", "expected None"]),
    "batch size beside a generator": (
        fit(x=batches((X, Y)), y=None, batch_size=8),
        ValueError,
        ["batch_size beside a generator", "expected None"],
    ),
    "split of a generator": (
        fit(x=batches((X, Y)), y=None, validation_split=0.2),
        ValueError,
        ["validation_split needs arrays, got a generator", "validation_data instead"],
    ),
    "sizes in a generator": (fit(x=batches((X, Y[:3])), y=None), ValueError, ["fit(), got x: 64, y: 3"]),
    "single examples": (
        fit(x=batches((X[0], Y[0])), y=None),
        ValueError,
        ["Expected y to be an array", "single value", "batch()"],
    ),
    "four in a batch": (fit(x=Batches((X, Y, None, None)), y=None), ValueError, ["(x, y, sample_weight)", "of 4"]),
    "a Sequence without length": (fit(x=Endless(), y=None), NotImplementedError, ["Endless needs a __len__"]),
}

ARGUMENTS: Cases = {
    **{f"batch size {v!r}": (fit(batch_size=v), ValueError, [*BATCH_SIZE, repr(v)]) for v in (0, "big", 16.0, True)},
    **{f"epochs {v!r}": (fit(epochs=v), ValueError, [f"epochs to be an int >= 0, got {v!r}"]) for v in (-1, 2.5, "3")},
    "initial epoch": (fit(initial_epoch=-1), ValueError, ["initial_epoch to be an int >= 0, got -1"]),
    "steps per epoch": (fit(steps_per_epoch=0), ValueError, ["steps_per_epoch to be None or an int >= 1", "got 0"]),
    "verbose": (fit(verbose="loud"), ValueError, ['verbose to be "auto", 0, 1 or 2, got', "'loud'"]),
    "shuffle": (fit(shuffle="rows"), ValueError, ['shuffle to be True, False or "batch", got', "'rows'"]),
    "workers": (fit(x=Batches((X, Y)), y=None, workers=-1), ValueError, ["workers to be an int >= 0, got -1"]),
    "view": (fit(view_metrics=True), ValueError, ["view_metrics", "got True"]),
    **{
        f"split {v!r}": (fit(validation_split=v), ValueError, ["validation_split between 0 and 1", f"got {v!r}"])
        for v in (1.0, -0.1, 20, "0.2")
    },
    "split that leaves none": (
        fit(validation_split=0.999),
        ValueError,
        ["validation_split=0.999 of 64 examples leaves none for training", "another split"],
    ),
    "validation data": (fit(validation_data=X), ValueError, ["(x, y) or (x, y, sample_weight)", "(64, 64)"]),
    "four validation arrays": (fit(validation_data=(X, Y, Y, Y)), ValueError, ["validation_data", "a tuple of 4"]),
    "validation width": (fit(validation_data=(X[:, :5], Y)), ValueError, ["validation_data", "(n, 64)", "(64, 5)"]),
    "validation labels": (fit(validation_data=(X, Y + 1)), ValueError, ["validation_data", "y holds 10"]),
    "validation sizes": (fit(validation_data=(X, Y[:3])), ValueError, ["validation_data", "x: 64, y: 3"]),
    "validation batch size": (
        fit(validation_data=(X, Y), validation_batch_size=0),
        ValueError,
        ["validation_batch_size", *BATCH_SIZE],
    ),
    "validation steps": (
        fit(validation_data=(X, Y), validation_steps=-1),
        ValueError,
        ["validation_steps to be None or an int >= 1, got -1"],
    ),
    "validation freq": (fit(validation_freq=0), ValueError, ["validation_freq to be an int >= 1", "got 0"]),
    "weights of another shape": (
        fit(sample_weight=np.ones((64, 3))),
        ValueError,
        ["'out'", "sample weights that fit values of shape", "got shape (32, 3)"],
    ),
    "weights of another length": (fit(sample_weight=np.ones(63)), ValueError, ["y: 64, sample_weight: 63"]),
    "one weight": (fit(sample_weight=2.0), ValueError, ["sample_weight to be an array", "single value 2.0"]),
    "weights NaN": (
        fit(sample_weight=np.where(Y == 3, np.nan, 1.0)),
        ValueError,
        ["finite numbers in sample_weight, got nan", "Give 0"],
    ),
    "weights as text": (fit(sample_weight=["a"] * 64), ValueError, ["Expected numbers in sample_weight", "['a']"]),
    "weights for another output": (fit(sample_weight={"uot": np.ones(64)}), ValueError, ["'uot'", "['out']"]),
    "class weights by text": (fit(class_weight={"a": 1.0}), ValueError, ["integers as keys of class_weight, got 'a'"]),
    "class weights, a list": (fit(class_weight=[1.0, 2.0]), ValueError, ["a dict of class -> weight, got [1.0, 2.0]"]),
    "class weights, a word": (fit(class_weight="balanced"), ValueError, ["a dict of class -> weight", "'balanced'"]),
    **{
        f"class weight {v!r}": (
            fit(class_weight={3: v}),
            ValueError,
            [f"finite numbers as values of class_weight, got {v!r} for class 3"],
        )
        for v in ("x", None, float("nan"))
    },
    "a class of callbacks": (
        fit(callbacks=[keras.callbacks.EarlyStopping]),
        TypeError,
        ["Expected callbacks", "EarlyStopping", "add ()"],
    ),
    "a function for a callback": (fit(callbacks=print), TypeError, ["Expected callbacks", "print"]),
}

METHODS: Cases = {
    "evaluate, width": (lambda m: m.evaluate(X[:, :3], Y), ValueError, ["(n, 64)", "(64, 3)"]),
    "evaluate, labels": (lambda m: m.evaluate(X, Y + 1), ValueError, ["10 classes; y holds 10"]),
    "evaluate, steps": (lambda m: m.evaluate(X, Y, steps=0), ValueError, ["steps", "int >= 1, got 0"]),
    "predict, width": (lambda m: m.predict(X[:, :3]), ValueError, ["(n, 64)", "(64, 3)"]),
    "predict, nothing": (lambda m: m.predict(None), ValueError, ["predict() needs data", "got None"]),
    "predict, empty": (lambda m: m.predict(X[:0]), ValueError, ["at least one example in predict()", "(0, 64)"]),
    "one batch, sizes": (lambda m: m.train_on_batch(X, Y[:3]), ValueError, ["train_on_batch(), got x: 64, y: 3"]),
    "one batch, labels": (lambda m: m.train_on_batch(X, Y + 1), ValueError, ["10 classes; y holds 10"]),
    "one batch, weights": (lambda m: m.train_on_batch(X, Y, np.ones((64, 3))), ValueError, ["(64,)", "(64, 3)"]),
    "one batch, class weights": (
        lambda m: m.train_on_batch(X, Y, class_weight=[1]),
        ValueError,
        ["a dict of class -> weight, got [1]"],
    ),
    "one batch, a generator": (
        lambda m: m.train_on_batch(batches((X, Y))),
        ValueError,
        ["Expected x of train_on_batch()", "got generator"],
    ),
    "fit inside jit": (
        lambda m: jax.jit(lambda x: m.fit(x, Y))(X),
        RuntimeError,
        ["fit() was called while JAX is tracing", "outside of jit"],
    ),
    "predict inside jit": (
        lambda m: jax.jit(m.predict)(X),
        RuntimeError,
        ["predict() was called while JAX is tracing"],
    ),
    "fit before compile": (
        lambda m: keras.Sequential([layers.Dense(1)]).fit(X, Y),
        RuntimeError,
        ["Call compile(optimizer=…, loss=…) before fit()"],
    ),
    "evaluate before compile": (
        lambda m: keras.Sequential([layers.Dense(1)]).evaluate(X, Y),
        RuntimeError,
        ["before evaluate()"],
    ),
    "no layers": (lambda m: keras.Sequential(name="bare").predict(X), ValueError, ["'bare' has no layers", "add some"]),
}

WEIGHTS: Cases = {
    "too few": (lambda m: m.set_weights(m.get_weights()[:2]), ValueError, ["Expected 4 arrays for 'net', got 2"]),
    "another shape": (
        lambda m: m.set_weights([*[w + 1 for w in m.get_weights()[:3]], np.ones(9)]),
        ValueError,
        ["shape (10,) for 'out/bias', got (9,)"],
    ),
    "text": (
        lambda m: m.set_weights([*[w + 1 for w in m.get_weights()[:3]], np.array(["a"] * 10)]),
        ValueError,
        ["Expected numbers for 'out/bias', got <U1"],
    ),
    "nothing": (lambda m: m.set_weights(None), ValueError, ["Expected a list of arrays", "get_weights()", "NoneType"]),
    "before the first data": (
        lambda m: keras.Sequential([layers.Dense(1)]).set_weights([np.ones(1)]),
        ValueError,
        ["Expected 0 arrays", "no weights yet: build it"],
    ),
    "no file of weights": (lambda m: m.load_weights(folder() / "none"), FileNotFoundError, ["No file", "none"]),
    "text for weights": (
        lambda m: m.load_weights(folder() / "notes.txt"),
        ValueError,
        ["notes.txt is not a whole safetensors file", "save_weights()"],
    ),
    "weights of another model": (
        lambda m: m.load_weights(folder() / "other.safetensors"),
        ValueError,
        ["Expected shape (64, 8)", "got (64, 3)"],
    ),
    "no model": (lambda m: keras.models.load_model(folder() / "none.keras"), FileNotFoundError, ["No model at"]),
    "text for a model": (
        lambda m: keras.models.load_model(folder() / "notes.txt"),
        ValueError,
        ["notes.txt is not a model saved by epochal", "save()"],
    ),
    "weights for a model": (
        lambda m: keras.models.load_model(folder() / "own.safetensors"),
        ValueError,
        ["not a model saved by epochal", "load_weights()"],
    ),
    "over a file": (
        lambda m: m.save_weights(folder() / "own.safetensors", overwrite=False),
        FileExistsError,
        ["exists already", "overwrite=True"],
    ),
}

CASES: Cases = {
    f"{part}: {name}": case
    for part, cases in [
        ("names", NAMES),
        ("data", DATA),
        ("arguments", ARGUMENTS),
        ("methods", METHODS),
        ("weights", WEIGHTS),
    ]
    for name, case in cases.items()
}


def state(model: Any) -> tuple[int, list[bytes]]:
    """Iteration, weights and the optimizer's state, to the last bit."""
    leaves = [*model.get_weights(), *jax.tree.leaves(model.optimizer.state)]
    return int(model.optimizer.iterations), [np.asarray(leaf).tobytes() for leaf in leaves]


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_explained_and_changes_nothing(name: str, recwarn: pytest.WarningsRecorder) -> None:
    call, kind, words = CASES[name]
    model = classifier()
    folder()
    before, programs = state(model), model.programs()["train"]
    with pytest.raises(Exception) as caught:
        call(model)
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert [word for word in words if word not in message] == [], message
    assert message.count("\n") < 3
    assert state(model) == before
    history = model.fit(X, Y, verbose=0).history
    assert list(history) == ["loss", "accuracy"]
    assert np.isfinite(history["loss"]).all()
    assert model.optimizer.iterations == before[0] + 2
    assert any(a != b for a, b in zip(state(model)[1], before[1], strict=True))
    assert model.programs()["train"] == programs == 1
