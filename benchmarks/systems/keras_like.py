"""epochal and Keras 3 (its backend by KERAS_BACKEND): the same code on both."""

from __future__ import annotations

import importlib
import os
from typing import Any

from systems import images_keras
from systems.work import BLOCKS, FEATURES, HEADS, IMAGES, TOKENS, UNITS, VOCABULARY, Candidates, Run, Work

STEPS_PER_EXECUTION = (1, 32)


def make(system: str, work: Work) -> Candidates:
    """The runs of a work; Keras on JAX and TensorFlow with one and with many steps per execution."""
    if system == "epochal":
        return {"": _run(importlib.import_module("epochal"), work, {})}
    k = importlib.import_module("keras")
    limit_threads()
    # the torch backend knows one step per execution only
    many = work.task == "fit" and k.backend.backend() != "torch"
    counts = STEPS_PER_EXECUTION if many else (1,)
    return {
        f"{count} steps per execution" if count > 1 else "": _run(k, work, {"steps_per_execution": count})
        for count in counts
    }


def limit_threads() -> None:
    """As many threads as the cores this process may use; TensorFlow and JAX do that by themselves."""
    if os.environ.get("KERAS_BACKEND") == "torch":
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))


def model_of(k: Any, work: Work) -> Any:
    """The model, not compiled."""
    layers = k.layers
    if work.kind == "transformer":
        return _transformer(k)
    if work.kind in IMAGES:
        return images_keras.model_of(k, work.kind, work.shape, work.classes)
    inner = {
        "mlp": lambda: [k.Input(work.sizes[:1]), *(layers.Dense(s, activation="relu") for s in work.sizes[1:-1])],
        "cnn": lambda: [
            k.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
        ],
        "lstm": lambda: [k.Input((32, 64)), layers.LSTM(UNITS)],
    }[work.kind]()
    return k.Sequential([*inner, layers.Dense(work.classes, activation="softmax")])


def _transformer(k: Any) -> Any:
    layers = k.layers

    class Positions(layers.Layer):
        """Adds a weight for each position."""

        def build(self, shape: Any) -> None:
            self.table = self.add_weight(name="table", shape=tuple(shape[1:]), initializer="uniform")

        def call(self, x: Any) -> Any:
            return x + self.table

    tokens = k.Input((TOKENS,), dtype="int32")
    h = Positions()(layers.Embedding(VOCABULARY, FEATURES)(tokens))
    for _ in range(BLOCKS):
        z = layers.LayerNormalization()(h)
        attention = layers.MultiHeadAttention(HEADS, FEATURES // HEADS)
        h = layers.Add()([h, attention(z, z, use_causal_mask=True)])
        z = layers.LayerNormalization()(h)
        z = layers.Dense(4 * FEATURES, activation="gelu")(z)
        h = layers.Add()([h, layers.Dense(FEATURES)(z)])
    return k.Model(tokens, layers.Dense(VOCABULARY, activation="softmax")(h))


def _run(k: Any, work: Work, options: dict[str, Any]) -> Run:
    model = model_of(k, work)
    model.compile("adam", work.loss, metrics=["mae" if work.loss == "mse" else "accuracy"], **options)
    x, y = work.data()

    def fit(epochs: int) -> None:
        model.fit(x, y, batch_size=work.m, epochs=epochs, verbose=0)

    def calls(method: Any) -> Run:
        return lambda count: [method() for _ in range(count)] and None

    return {
        "fit": fit,
        "predict": calls(lambda: model.predict(x, verbose=0)),
        "predict_on_batch": calls(lambda: model.predict_on_batch(x)),
        "train_on_batch": calls(lambda: model.train_on_batch(x, y)),
    }[work.task]
