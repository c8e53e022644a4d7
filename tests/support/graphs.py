"""Models made of graphs, in either library."""

from __future__ import annotations

from typing import Any

import keras as real

from epochal.layers.base.tree import tracked


def paths(model: Any) -> list[str]:
    """Weights' paths, of a model of ours or of Keras's."""
    return [v.path for v in model.weights] if isinstance(model, real.Model) else [t.path for t in tracked(model)]


def branches(k: Any) -> Any:
    """The short branch is made first and the long one is listed first; statistics in between."""
    a, b = k.Input((6,), name="a"), k.Input((4,), name="b")
    short = k.layers.Dense(3, name="short")(b)
    long = k.layers.BatchNormalization(name="norm")(k.layers.Dense(5, name="first")(a))
    long = k.layers.PReLU(name="prelu")(k.layers.Dense(3, name="second")(long))
    out = k.layers.Dense(1, name="out")(k.layers.Add(name="add")([short, long]))
    return k.Model([b, a], {"out": out, "aux": k.layers.Dense(2, name="aux")(short)})


def shared_and_nested(k: Any) -> Any:
    image = k.Input((6, 6, 1), name="image")
    h = k.layers.BatchNormalization(name="norm")(k.layers.Conv2D(3, 3, padding="same", name="conv")(image))
    h = k.layers.Add(name="skip")([h, k.layers.SeparableConv2D(3, 3, padding="same", name="separable")(h)])
    encoder = k.Model(image, k.layers.GlobalAveragePooling2D(name="pool")(h), name="encoder")
    head = k.Sequential([k.Input((3,)), k.layers.Dense(4, "tanh", name="h"), k.layers.LayerNormalization(name="n")])
    one, two = k.Input((6, 6, 1), name="one"), k.Input((6, 6, 1), name="two")
    gap = k.layers.Subtract(name="gap")([head(encoder(one)), head(encoder(two))])
    encoder.trainable = False
    return k.Model([one, two], k.layers.Dense(2, name="out")(gap))


def sequences(k: Any) -> Any:
    tokens, values = k.Input((6,), dtype="int32", name="tokens"), k.Input((6, 3), name="values")
    h = k.layers.Embedding(11, 4, mask_zero=True, name="embedding")(tokens)
    h = k.layers.Bidirectional(k.layers.LSTM(3, return_sequences=True, name="lstm"), name="both_ways")(h)
    steps = k.layers.TimeDistributed(k.layers.Dense(6, name="step"), name="steps")(values)
    seen = k.layers.MultiHeadAttention(2, 3, name="attention")(h, steps)
    h = k.layers.LayerNormalization(name="norm")(k.layers.Add(name="add")([seen, h]))
    frozen = k.layers.Dense(5, trainable=False, name="frozen")
    return k.Model({"tokens": tokens, "values": values}, k.layers.GRU(4, name="gru")(frozen(h)))
