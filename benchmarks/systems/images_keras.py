"""The image models for epochal and Keras 3, by the layers that both have."""

from __future__ import annotations

from typing import Any


def model_of(k: Any, kind: str, shape: tuple[int, ...], classes: int) -> Any:
    """The model of a kind, not compiled."""
    x = k.Input(shape)
    make = {"resnet": resnet, "unet": unet, "conv1d": conv1d, "autoencoder": autoencoder, "mobilenet": mobilenet}
    return k.Model(x, make[kind](k.layers, x, classes))


def resnet(layers: Any, x: Any, classes: int) -> Any:
    """ResNet-14 for small images (He et al. 2016): three stages of two blocks."""

    def convolved(h: Any, filters: int, size: int, stride: int = 1) -> Any:
        h = layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=False)(h)
        return layers.BatchNormalization()(h)

    h = layers.ReLU()(convolved(x, 16, 3))
    for filters in (16, 32, 64):
        for block in range(2):
            stride = 2 if filters > 16 and block == 0 else 1
            y = layers.ReLU()(convolved(h, filters, 3, stride))
            y = convolved(y, filters, 3)
            h = layers.ReLU()(layers.Add()([y, h if stride == 1 else convolved(h, filters, 1, stride)]))
    return layers.Dense(classes, activation="softmax")(layers.GlobalAveragePooling2D()(h))


def unet(layers: Any, x: Any, classes: int) -> Any:
    """A U-Net of three levels, 16, 32 and 64 channels, which says a class for each pixel."""

    def twice(h: Any, filters: int) -> Any:
        for _ in range(2):
            h = layers.Conv2D(filters, 3, padding="same", activation="relu")(h)
        return h

    first = twice(x, 16)
    second = twice(layers.MaxPooling2D(2)(first), 32)
    h = twice(layers.MaxPooling2D(2)(second), 64)
    h = twice(layers.Concatenate()([layers.UpSampling2D(2)(h), second]), 32)
    h = twice(layers.Concatenate()([layers.UpSampling2D(2)(h), first]), 16)
    return layers.Conv2D(classes, 1, activation="softmax")(h)


def conv1d(layers: Any, x: Any, classes: int) -> Any:
    """Two convolutions over time and the mean over it."""
    h = layers.Conv1D(32, 9, padding="same", activation="relu")(x)
    h = layers.Conv1D(64, 9, padding="same", activation="relu")(h)
    return layers.Dense(classes, activation="softmax")(layers.GlobalAveragePooling1D()(h))


def autoencoder(layers: Any, x: Any, classes: int) -> Any:
    """Strided convolutions down, transposed ones up again."""
    h = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(x)
    h = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(h)
    h = layers.Conv2DTranspose(32, 3, strides=2, padding="same", activation="relu")(h)
    h = layers.Conv2DTranspose(16, 3, strides=2, padding="same", activation="relu")(h)
    return layers.Conv2D(classes, 3, padding="same")(h)


def mobilenet(layers: Any, x: Any, classes: int) -> Any:
    """Depthwise convolutions and such of one cell, as in MobileNet (Howard et al. 2017)."""

    def normed(h: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization()(h))

    h = normed(layers.Conv2D(16, 3, padding="same", use_bias=False)(x))
    for filters, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        h = normed(layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(h))
        h = normed(layers.Conv2D(filters, 1, use_bias=False)(h))
    return layers.Dense(classes, activation="softmax")(layers.GlobalAveragePooling2D()(h))
