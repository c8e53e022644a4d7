"""The same weights, data and order as real Keras (JAX backend) give the same numbers, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
from support.data import breast_cancer, diabetes, digits

import epochal

EPOCHS = 5


def mlp(k: Any) -> list[Any]:
    return [k.Input((64,)), k.layers.Dense(24, activation="relu"), k.layers.Dense(10, activation="softmax")]


def cnn(k: Any) -> list[Any]:
    return [
        k.Input((8, 8, 1)),
        k.layers.Conv2D(6, 3, activation="relu"),
        k.layers.MaxPooling2D(2),
        k.layers.Conv2D(8, 2, padding="same", strides=2),
        k.layers.ReLU(),
        k.layers.Flatten(),
        k.layers.Dense(10, activation="softmax"),
    ]


def batch_norm_mlp(k: Any) -> list[Any]:
    return [
        k.Input((64,)),
        # No bias: behind it the norm takes any constant off, so its gradient is rounding noise, which Adam blows up.
        k.layers.Dense(16, use_bias=False),
        k.layers.BatchNormalization(),
        k.layers.Activation("relu"),
        k.layers.Dense(10, activation="softmax"),
    ]


def batch_norm_cnn(k: Any) -> list[Any]:
    return [
        k.Input((8, 8, 1)),
        k.layers.Conv2D(6, 3, padding="same", use_bias=False),
        k.layers.BatchNormalization(momentum=0.9),
        k.layers.LeakyReLU(),
        k.layers.AveragePooling2D(2),
        k.layers.GlobalAveragePooling2D(),
        k.layers.Dense(10, activation="softmax"),
    ]


def embedding(k: Any) -> list[Any]:
    return [
        k.Input((64,), dtype="int32"),
        k.layers.Embedding(17, 6),
        k.layers.Conv1D(8, 3, activation="tanh"),
        k.layers.GlobalMaxPooling1D(),
        k.layers.Dense(10, activation="softmax"),
    ]


def layer_norm(k: Any) -> list[Any]:
    return [
        k.Input((64,)),
        k.layers.Rescaling(2.0, offset=-1.0),
        k.layers.Dense(16, activation="gelu"),
        k.layers.LayerNormalization(),
        k.layers.Reshape((4, 4)),
        k.layers.Flatten(),
        k.layers.Dense(10, activation="softmax"),
    ]


def regressor(k: Any) -> list[Any]:
    return [
        k.Input((10,)),
        k.layers.Dense(16, activation="tanh", kernel_regularizer=k.regularizers.L2(0.01)),
        k.layers.Dense(
            8, activation="relu", kernel_regularizer=k.regularizers.L1L2(0.001, 0.002), bias_regularizer="l2"
        ),
        k.layers.Dense(1),
    ]


def binary(k: Any) -> list[Any]:
    return [k.Input((30,)), k.layers.Dense(12, activation="relu"), k.layers.Dense(1, activation="sigmoid")]


def logits(k: Any) -> list[Any]:
    return [k.Input((64,)), k.layers.Dense(12, activation="elu"), k.layers.Dense(10)]


def as_images() -> tuple[np.ndarray, np.ndarray]:
    x, y = digits(150)
    return x.reshape(-1, 8, 8, 1), y


def as_tokens() -> tuple[np.ndarray, np.ndarray]:
    x, y = digits(150)
    return np.round(x * 16).astype(np.int32), y


def one_hot_digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = digits(150)
    return x, np.eye(10, dtype=np.float32)[y]


def weights(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 3.0, n).astype(np.float32)


@dataclass
class Case:
    """A model, its data, and arguments of compile and fit; functions of the namespace where objects are needed."""

    layers: Callable[[Any], list[Any]]
    data: Callable[[], tuple[np.ndarray, np.ndarray]]
    compile: Callable[[Any], dict[str, Any]]
    fit: dict[str, Any] = field(default_factory=dict)


SPARSE = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}


def adam(**more: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda k: {"optimizer": k.optimizers.Adam(0.01), **SPARSE, **more}


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda k: k.optimizers.SGD(0.1),
    "momentum": lambda k: k.optimizers.SGD(0.05, momentum=0.9),
    "nesterov": lambda k: k.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda k: "adam",
    "amsgrad": lambda k: k.optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda k: k.optimizers.AdamW(0.01, weight_decay=0.01),
    "rmsprop": lambda k: "rmsprop",
    "rmsprop_centered": lambda k: k.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "adagrad": lambda k: k.optimizers.Adagrad(0.1),
    "adadelta": lambda k: k.optimizers.Adadelta(1.0),
    "adamax": lambda k: k.optimizers.Adamax(0.01),
    "nadam": lambda k: k.optimizers.Nadam(0.01),
    "ftrl": lambda k: k.optimizers.Ftrl(0.1),
    "lion": lambda k: k.optimizers.Lion(0.002),
    "adafactor": lambda k: k.optimizers.Adafactor(0.05),
    "lamb": lambda k: k.optimizers.Lamb(0.05),
    "muon": lambda k: k.optimizers.Muon(0.02),
    "schedule": lambda k: k.optimizers.Adam(k.optimizers.schedules.ExponentialDecay(0.02, 4, 0.8)),
    "clipped": lambda k: k.optimizers.SGD(0.5, global_clipnorm=0.5),
}

CASES: dict[str, Case] = {
    **{
        f"mlp-{name}": Case(mlp, lambda: digits(150), lambda k, make=make: {"optimizer": make(k), **SPARSE})
        for name, make in OPTIMIZERS.items()
    },
    "cnn": Case(cnn, as_images, adam()),
    "batch_norm-mlp-short_last_batch": Case(batch_norm_mlp, lambda: digits(145), adam()),
    "batch_norm-mlp-validation_split": Case(batch_norm_mlp, lambda: digits(150), adam(), {"validation_split": 0.3}),
    "batch_norm-cnn-short_last_batch": Case(batch_norm_cnn, as_images, adam()),
    "embedding": Case(embedding, as_tokens, adam()),
    "layer_norm": Case(layer_norm, lambda: digits(150), adam()),
    "regression-l2-validation_split": Case(
        regressor,
        lambda: diabetes(150),
        lambda k: {"optimizer": "adam", "loss": "mse", "metrics": ["mae", k.metrics.R2Score(), "mape"]},
        {"validation_split": 0.2},
    ),
    "regression-huber": Case(
        regressor,
        lambda: diabetes(130),
        lambda k: {"optimizer": "nadam", "loss": k.losses.Huber(0.5), "metrics": ["mse"]},
    ),
    "regression-sample_weight": Case(
        regressor,
        lambda: diabetes(130),
        lambda k: {"optimizer": "adam", "loss": "mae", "metrics": ["mse"], "weighted_metrics": ["mse", "mae"]},
        {"sample_weight": weights(130), "validation_split": 0.25},
    ),
    "binary-auc": Case(
        binary,
        lambda: breast_cancer(150),
        lambda k: {
            "optimizer": "adam",
            "loss": "binary_crossentropy",
            "metrics": [
                "accuracy",
                k.metrics.AUC(name="auc"),
                k.metrics.Precision(name="p"),
                k.metrics.Recall(name="r"),
            ],
        },
        {"validation_split": 0.2},
    ),
    "binary-class_weight": Case(
        binary,
        lambda: breast_cancer(150),
        lambda k: {"optimizer": "sgd", "loss": "binary_crossentropy", "weighted_metrics": ["accuracy"]},
        {"class_weight": {0: 2.0, 1: 0.5}},
    ),
    "label_smoothing": Case(
        mlp,
        one_hot_digits,
        lambda k: {
            "optimizer": "adam",
            "loss": k.losses.CategoricalCrossentropy(label_smoothing=0.1),
            "metrics": [
                "accuracy",
                k.metrics.TopKCategoricalAccuracy(3, name="top3"),
                k.metrics.F1Score(average="macro"),
            ],
        },
    ),
    "logits": Case(
        logits,
        lambda: digits(150),
        lambda k: {
            "optimizer": "adam",
            "loss": k.losses.SparseCategoricalCrossentropy(from_logits=True),
            "metrics": ["accuracy", k.metrics.SparseTopKCategoricalAccuracy(2, name="top2")],
        },
        {"sample_weight": weights(150), "validation_split": 0.2},
    ),
    "sum_reduction": Case(
        mlp,
        lambda: digits(150),
        lambda k: {
            "optimizer": k.optimizers.SGD(0.001),
            "loss": k.losses.SparseCategoricalCrossentropy(reduction="sum"),
        },
    ),
    "batch_size_1": Case(mlp, lambda: digits(40), adam(), {"batch_size": 1}),
    "full_batch": Case(mlp, lambda: digits(150), adam(), {"batch_size": 150}),
}


# Their rules are held against Keras's in optimizers/test_optimizers.py; whole fits with them are the slow proof.
RARE = {
    "nesterov",
    "amsgrad",
    "rmsprop_centered",
    "adadelta",
    "adamax",
    "nadam",
    "ftrl",
    "lion",
    "adafactor",
    "lamb",
    "muon",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n.removeprefix("mlp-") in RARE else []) for n in CASES]
)
def test_history_weights_and_predictions_equal_keras(name: str) -> None:
    case = CASES[name]
    x, y = case.data()
    theirs = keras.Sequential(case.layers(keras))
    ours = epochal.Sequential(case.layers(epochal))
    ours.set_weights(theirs.get_weights())
    fit = {"batch_size": 32, "epochs": EPOCHS, "shuffle": False, "verbose": 0, **case.fit}
    theirs.compile(**case.compile(keras))
    ours.compile(**case.compile(epochal))
    expected = theirs.fit(x, y, **fit).history
    found = ours.fit(x, y, **fit).history

    assert sorted(found) == sorted(expected)
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-4, atol=1e-6, err_msg=key)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours.predict(x, verbose=0), theirs.predict(x, verbose=0), rtol=1e-3, atol=1e-4)
    scores = theirs.evaluate(x, y, verbose=0, return_dict=True)
    for key, value in ours.evaluate(x, y, verbose=0, return_dict=True).items():
        np.testing.assert_allclose(value, scores[key], rtol=1e-4, atol=1e-6, err_msg=key)
