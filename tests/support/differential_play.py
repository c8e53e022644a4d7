"""A case of the differential suite in the words of one library: its model, what is done with it, what came out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np

import epochal
from support.differential_cases import CLASSES, HEADS, HELD_OUT, OPTIMIZERS, STEPS, TOKENS, Case, in_form
from support.differential_data import LENGTH, Data

# Relative to the value: float32 sums of a hundred terms, in another order, over at most ten steps.
TOLERANCE = 1e-4
# And this much beside it. A weight that has moved by less than its steps' size times the rounding of its gradients has
# no digits of its own to agree in: steps are at most 0.1, gradients are rounded to 1e-7 of terms up to 10 in size, and
# Adam and RMSprop divide small gradients by their own size, which magnifies that tenfold. All data is of size 1.
FLOOR = 1e-5


class KeepsMasks(keras.Model):
    """Keras with the mask in all metrics: it loses it on the way to them (rule B.9)."""

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        compiled = self._compile_metrics
        if compiled is None:
            return self.get_metrics_result()
        if not compiled.built:
            compiled.build(y, y_pred)
        mask = keras.ops.cast(x != 0, "float32")
        targets, predictions = compiled._flatten_y(y), compiled._flatten_y(y_pred)
        weights = [None] if sample_weight is None else compiled._flatten_y(sample_weight)
        weights = weights * len(targets) if len(weights) < len(targets) else weights
        for weighted, groups in ((False, compiled._flat_metrics), (True, compiled._flat_weighted_metrics)):
            for measures, t, p, w in zip(groups, targets, predictions, weights, strict=True):
                if measures:
                    given = keras.ops.reshape(w, (-1, w.size // len(w))) if weighted and w is not None else 1.0
                    measures.update_state(t, p, mask * given)
        return self.get_metrics_result()


def build(k: Any, case: Case) -> Any:
    """The model."""
    layers, family = k.layers, case.family
    if family == "two_inputs":
        given = [k.Input((32,), name="left"), k.Input((32,), name="right")]
        left, right = layers.Dense(6, activation="tanh")(given[0]), layers.Dense(4, activation="sigmoid")(given[1])
        inner = layers.Concatenate()([left, right])
    elif family in TOKENS:
        given = k.Input((LENGTH,), dtype="int32")
        embedded = layers.Embedding(12, 4, mask_zero=True)(given)
        cell = layers.LSTM if family == "lstm" else layers.GRU
        inner = cell(5, return_sequences=family in STEPS)(embedded)
    elif family == "steps":
        given = k.Input((LENGTH, 8))
        inner = layers.Dense(6, activation="tanh")(given)
    elif family == "cnn":
        given = k.Input((8, 8, 1))
        inner = layers.Flatten()(layers.MaxPooling2D(2)(layers.Conv2D(4, 3, activation="tanh")(given)))
    elif family == "batch_norm":
        given = k.Input((64,))
        # No bias: behind it the norm takes any constant off, so its gradient is rounding noise, which Adam blows up.
        normed = layers.BatchNormalization(momentum=0.9)(layers.Dense(6, use_bias=False)(given))
        inner = layers.Activation("elu")(normed)
    else:
        given = k.Input((64,))
        inner = layers.Dense(8, activation="tanh", kernel_regularizer=k.regularizers.L2(0.01))(given)
    outputs = []
    for name, head in zip(case.names, case.heads, strict=True):
        units = HEADS[head].units or (3 if family in STEPS else CLASSES)
        outputs.append(layers.Dense(units, activation=HEADS[head].activation, name=name)(inner))
    kind = KeepsMasks if case.masks else k.Model
    return kind(given, in_form(outputs, case.structure, case.names))


def compile_arguments(k: Any, case: Case) -> dict[str, Any]:
    """What `compile` is given."""
    tables = [HEADS[h] for h in case.heads]
    losses = [t.losses[key](k) if key is not None else None for t, key in zip(tables, case.losses, strict=True)]

    def measures(keys: tuple[tuple[str, ...], ...]) -> Any:
        made = [[t.metrics[key](k) for key in own] for t, own in zip(tables, keys, strict=True)]
        return in_form(made, case.metrics_form, case.names) if any(made) else None

    weights = case.loss_weights
    return {
        "optimizer": OPTIMIZERS[case.optimizer](k),
        "loss": in_form(losses, case.loss_form, case.names),
        "loss_weights": None if weights is None else in_form(weights, case.loss_weights_form, case.names),
        "metrics": measures(case.metrics),
        "weighted_metrics": measures(case.weighted_metrics),
    }


def play(k: Any, model: Any, case: Case) -> dict[str, Any]:
    """Everything a case does with one library."""
    data = Data.of(case)
    model.compile(**compile_arguments(k, case))
    span = {"epochs": case.epochs, "initial_epoch": case.initial_epoch, "steps_per_epoch": case.steps_per_epoch}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(**data.training(k), **data.validation(k), **span, shuffle=False, verbose=0)
    x, y, *weight = some = data.rows(3, 3 + HELD_OUT, data.weight)
    asked = {
        "sample_weight": weight[0] if weight else None,
        "batch_size": case.evaluation_batch_size,
        "verbose": 0,
    }
    played = {
        "history": history.history,
        "epochs": history.epoch,
        "weights": model.get_weights(),
        "predict": keras.tree.flatten(model.predict(x, batch_size=HELD_OUT, verbose=0)),
        "evaluate": model.evaluate(x, y, return_dict=True, **asked),
        "list": model.evaluate(x, y, **asked),
        "warnings": [str(w.message) for w in caught],
    }
    if case.on_batch:
        played["test_on_batch"] = model.test_on_batch(*some, return_dict=True)
        played["train_on_batch"] = model.train_on_batch(*some, return_dict=True)
        played["predict_on_batch"] = keras.tree.flatten(model.predict_on_batch(x))
    # The names of what is reported, in order: Keras's own before it sorts them, with the losses of outputs in front.
    played["labels"] = model.metrics_names if k is epochal else list(model.get_metrics_result())
    return _without(played, [f"{name}_loss" for name in case.silent])


def _without(played: Any, labels: list[str]) -> Any:
    """What came out, without some of the values reported."""
    if isinstance(played, dict):
        return {k: _without(v, labels) for k, v in played.items() if k.removeprefix("val_") not in labels}
    if isinstance(played, list) and played and isinstance(played[0], str):
        return [v for v in played if v not in labels]
    return played


def both(case: Case, asked: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """What epochal makes of a case, and Keras of the same in its words, from the same weights."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    theirs = build(keras, asked)
    ours = build(epochal, case)
    ours.set_weights(theirs.get_weights())
    return play(epochal, ours, case), play(keras, theirs, asked)


def labels_in_order(labels: list[str], names: tuple[str, ...]) -> list[str]:
    """Rule C.5: the loss, the losses of outputs, metrics as compiled, weighted metrics."""
    losses = [f"{name}_loss" for name in names if f"{name}_loss" in labels]
    return ["loss", *losses, *(label for label in labels if label not in ("loss", *losses))]


def differences(found: Any, expected: Any, at: str = "") -> Iterator[str]:
    """What differs by more than the tolerance; labels of dicts in any order."""
    if isinstance(expected, dict):
        if set(found) != set(expected):
            yield f"{at}: keys {list(found)}, of Keras {list(expected)}"
        for key in [key for key in expected if key in found]:
            yield from differences(found[key], expected[key], f"{at}[{key!r}]")
    elif isinstance(expected, list):
        if len(found) != len(expected):
            yield f"{at}: {len(found)} values, of Keras {len(expected)}"
        for i, (one, other) in enumerate(zip(found, expected, strict=False)):
            yield from differences(one, other, f"{at}[{i}]")
    else:
        one, other = np.asarray(found, float), np.asarray(expected, float)
        if one.shape != other.shape:
            yield f"{at}: shape {one.shape}, of Keras {other.shape}"
        elif not (close := np.isclose(one, other, rtol=TOLERANCE, atol=FLOOR, equal_nan=True)).all():
            gap = np.where(close, 0, np.nan_to_num(np.abs(one - other), nan=np.inf))
            worst = np.unravel_index(np.argmax(gap / (FLOOR + TOLERANCE * np.abs(other))), one.shape)
            yield f"{at}: {one[worst]:.7g}, of Keras {other[worst]:.7g}"
