"""Arguments and inputs of layers."""

import re

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from support.layer_cases import CASES, close, resolved

from epochal import layers


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.Dense(0), "units.*>= 1, got 0"),
        (lambda: layers.Dense(2.5), "units"),
        (lambda: layers.Dense(2, activation="rleu"), "relu"),
        (lambda: layers.Dense(2, kernel_initializer="glorot_unifrom"), "glorot_uniform"),
        (lambda: layers.Embedding(0, 3), "input_dim"),
        (lambda: layers.Embedding(3, 2, weights=np.zeros((2, 2))), r"\(3, 2\)"),
        (lambda: layers.Reshape((-1, -1)), "at most one -1"),
        (lambda: layers.Reshape((0, 2)), "target_shape"),
        (lambda: layers.ReLU(max_value=-1), "max_value"),
        (lambda: layers.LeakyReLU(-0.1), "negative_slope"),
        (lambda: layers.Softmax(axis="last"), "axis"),
        (lambda: layers.Dropout(1.0), r"rate.*\[0, 1\), got 1.0"),
        (lambda: layers.Dropout(-0.1), "rate"),
        (lambda: layers.Dropout(0.5, seed="a"), "seed"),
        (lambda: layers.Dropout(0.5, noise_shape="a"), "noise_shape"),
        (lambda: layers.GaussianNoise(-1), "stddev"),
        (lambda: layers.Conv2D(4, 3, padding="smae"), "Did you mean 'same'"),
        (lambda: layers.Conv2D(4, 3, padding="causal"), "Unknown padding"),
        (lambda: layers.Conv2D(4, (3, 3, 3)), "kernel_size"),
        (lambda: layers.Conv2D(4, 0), "kernel_size"),
        (lambda: layers.Conv2D(0, 3), "filters"),
        (lambda: layers.Conv2D(5, 3, groups=2), "groups"),
        (lambda: layers.Conv2D(4, 3, strides=2, dilation_rate=2), "dilation_rate"),
        (lambda: layers.Conv2D(4, 3, data_format="last"), "channels_last"),
        (lambda: layers.Conv2DTranspose(4, 3, output_padding=1), "output_padding"),
        (lambda: layers.MaxPooling2D((2,)), "pool_size"),
        (lambda: layers.BatchNormalization(momentum=1.1), "momentum"),
        (lambda: layers.BatchNormalization(axis=(1, 2)), "axis to be an integer"),
        (lambda: layers.GroupNormalization(groups=0), "groups"),
        (lambda: layers.Normalization(mean=1.0), "mean and variance"),
        (lambda: layers.Input((0,)), "shape"),
        (lambda: layers.Dense(3)(np.zeros(4)), "at least 2 axes"),
        (lambda: layers.Dense(3).build((None, None)), "known size"),
        (lambda: layers.Conv2D(3, 2)(np.zeros((2, 4, 4))), "4 axes.*got shape"),
        (lambda: layers.Conv2D(4, 3, groups=4)(np.zeros((2, 4, 4, 6))), "multiple of groups=4"),
        (lambda: layers.Conv2D(4, 5)(np.zeros((2, 4, 4, 6))), "at least as large"),
        (lambda: layers.MaxPooling2D(5)(np.zeros((2, 4, 4, 6))), "at least as large"),
        (lambda: layers.MaxPooling1D()(np.zeros((2, 4, 4, 6))), "3 axes"),
        (lambda: layers.GlobalMaxPooling2D()(np.zeros((2, 4))), "4 axes"),
        (lambda: layers.BatchNormalization(axis=3)(np.zeros((2, 4))), "axis 3"),
        (lambda: layers.LayerNormalization(axis=(1, -1))(np.zeros((2, 4))), "axis"),
        (lambda: layers.GroupNormalization(groups=3)(np.zeros((2, 4))), "multiple of groups=3"),
        (lambda: layers.Reshape((3,))(np.zeros((2, 4))), "Reshape"),
        (lambda: layers.Reshape((3, -1))(np.zeros((2, 4))), "Reshape"),
        (lambda: layers.SpatialDropout1D(0.5)(np.zeros((2, 4))), "3 axes"),
        (lambda: layers.Add()(np.zeros((2, 4))), "list of inputs"),
        (lambda: layers.Add()([np.zeros((2, 4)), np.zeros((2, 3))]), "one shape"),
        (lambda: layers.Subtract()([np.zeros((2, 4))]), "expects 2 inputs; got 1"),
        (lambda: layers.Concatenate()([np.zeros((2, 4)), np.zeros((2, 4, 3))]), "axis -1 only"),
        (lambda: layers.Concatenate(axis=1)([np.zeros((2, 4, 2)), np.zeros((2, 4, 3))]), "axis 1 only"),
        (lambda: layers.Dot(axes=(1, 2, 3)), "one or two"),
        (lambda: layers.Dot(axes=1)([np.zeros((2, 4)), np.zeros((2, 3))]), "one size"),
        (lambda: layers.Dot(axes=0)([np.zeros((2, 4)), np.zeros((2, 4))]), "batch"),
        (lambda: layers.Permute((0, 1)), "dims"),
        (lambda: layers.Permute((2, 1))(np.zeros((2, 4))), "3 axes"),
        (lambda: layers.RepeatVector(0), "n to be"),
        (lambda: layers.ZeroPadding2D(-1), "padding"),
        (lambda: layers.ZeroPadding2D((1, 1, 1)), "padding"),
        (lambda: layers.Cropping2D(2)(np.zeros((2, 4, 5, 1))), "more than 4 cells along axis 1"),
        (lambda: layers.UpSampling2D(0), "size"),
        (lambda: layers.UpSampling2D(interpolation="bilinaer"), "bilinear"),
    ],
)
def test_refuses(make, message):
    with pytest.raises((ValueError, TypeCheckError)) as caught:
        make()
    if caught.type is ValueError:  # else the annotations are being run, and were faster
        assert re.search(message, str(caught.value))


@pytest.mark.parametrize("layer", [layers.Dense(3), layers.Conv2D(3, 1), layers.BatchNormalization()])
def test_refuses_other_channels_than_it_was_built_for(layer):
    layer(np.zeros((2, 4, 4, 5)))
    with pytest.raises(ValueError, match=f"{layer.name}.*was built for 5.*got inputs with 6"):
        layer(np.zeros((2, 4, 4, 6)))


def test_refuses_unknown_keywords():
    for name in layers.__all__:
        made = getattr(layers, name)
        arguments = next((dict(c[1]) for c in CASES if c[0] == made.__name__), {})
        arguments = {k: resolved(v, layers) for k, v in arguments.items()}
        with pytest.raises(TypeError):
            made(**arguments, no_such_argument=1)


def test_weights_are_regularized_by_name():
    layer = layers.Dense(3, kernel_regularizer="l2", bias_regularizer="l1")
    layer(np.zeros((2, 4)))
    assert all(v.get_metadata()["regularizer"] is not None for v in layer.weights)


def test_embedding_takes_floats_and_given_weights():
    table = np.arange(12.0, dtype="float32").reshape(4, 3)
    layer = layers.Embedding(4, 3, weights=[table])
    close(layer(np.array([[1.9, 3.0]])), table[[1, 3]][None])
    assert np.isnan(layer(np.array([[4]]))).all()


def test_input_is_a_plain_value():
    tensor = layers.Input([28, None], batch_size=3, name="x")
    assert (tensor.shape, tensor.dtype, tensor.name) == ((3, 28, None), "float32", "x")
    assert layers.Input(5).shape == (None, 5)
    assert layers.Input(batch_shape=(2, 7)).shape == (2, 7)
