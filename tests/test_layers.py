"""Layers against real Keras with the same weights; then what Keras does not promise: padding, noise, errors."""

import inspect
import json
import re
import zlib

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx
from jaxtyping import TypeCheckError

from epochal import activations, layers
from epochal.layers.base.building import abstract_call
from epochal.layers.base.weights import Weight
from epochal.registry.serialize import deserialize, serialize
from epochal.tracing import forward_pass
from epochal.tracing.symbolic import is_shape


class Of:
    """A layer among the arguments of another: ours for ours, Keras's for Keras's."""

    def __init__(self, name, *arguments, **named):
        self.name, self.arguments, self.named = name, arguments, named

    def __repr__(self):
        return f"{self.name}{self.arguments}{self.named or ''}"


def resolved(value, family):
    if isinstance(value, Of):
        named = {**zeros(value.name), **value.named}
        return getattr(family, value.name)(*value.arguments, **{k: resolved(v, family) for k, v in named.items()})
    return [resolved(v, family) for v in value] if isinstance(value, list) else value


def zeros(name):
    """Initializers to build a layer with: random ones take a second each to compile."""
    parameters = inspect.signature(getattr(layers, name).__init__).parameters
    return {p: "zeros" for p in parameters if p.endswith("_initializer")}


# layer, arguments, shape of the input (with 4 examples); a list of shapes for layers with a list of inputs, a tuple of
# shapes for those with several
CASES = [
    ("Dense", {"units": 3}, (5,)),
    ("Dense", {"units": 2, "activation": "tanh", "use_bias": False}, (3, 5)),
    ("Embedding", {"input_dim": 7, "output_dim": 3}, "ids"),
    ("Embedding", {"input_dim": 7, "output_dim": 3, "mask_zero": True}, "ids"),
    ("Activation", {"activation": "sigmoid"}, (5,)),
    ("Lambda", {"function": activations.softmax, "arguments": {"axis": 1}}, (3, 4)),
    ("Identity", {}, (3, 4)),
    ("ActivityRegularization", {"l1": 0.1, "l2": 0.2}, (3, 4)),
    ("Masking", {"mask_value": 0.5}, (3, 4)),
    ("Flatten", {}, (2, 3, 4)),
    ("Flatten", {"data_format": "channels_first"}, (2, 3, 4)),
    ("Flatten", {}, ()),
    ("Reshape", {"target_shape": (2, -1, 3)}, (4, 6)),
    ("Reshape", {"target_shape": (24,)}, (4, 6)),
    ("ReLU", {}, (9,)),
    ("ReLU", {"max_value": 1.0, "negative_slope": 0.1, "threshold": 0.5}, (9,)),
    ("ReLU", {"max_value": 6}, (9,)),
    ("LeakyReLU", {}, (9,)),
    ("LeakyReLU", {"negative_slope": 0.1}, (9,)),
    ("ELU", {"alpha": 0.7}, (9,)),
    ("PReLU", {}, (3, 4)),
    ("PReLU", {"shared_axes": [1, 2], "alpha_initializer": "ones"}, (3, 4, 2)),
    ("Softmax", {}, (3, 4)),
    ("Softmax", {"axis": 1}, (3, 4)),
    ("Softmax", {"axis": (1, 2)}, (3, 4)),
    ("Dropout", {"rate": 0.5}, (5,)),
    ("SpatialDropout1D", {"rate": 0.5}, (5, 3)),
    ("SpatialDropout2D", {"rate": 0.5, "data_format": "channels_first"}, (5, 3, 2)),
    ("SpatialDropout3D", {"rate": 0.5}, (2, 3, 2, 3)),
    ("GaussianNoise", {"stddev": 0.5}, (5,)),
    ("GaussianDropout", {"rate": 0.5}, (5,)),
    ("Conv1D", {"filters": 4, "kernel_size": 3}, (7, 3)),
    ("Conv1D", {"filters": 4, "kernel_size": 3, "padding": "causal", "dilation_rate": 2}, (9, 3)),
    ("Conv1D", {"filters": 4, "kernel_size": 4, "padding": "same", "strides": 3, "activation": "relu"}, (8, 2)),
    ("Conv1D", {"filters": 4, "kernel_size": 1, "strides": 2, "data_format": "channels_first"}, (3, 8)),
    ("Conv2D", {"filters": 4, "kernel_size": 3}, (6, 5, 2)),
    ("Conv2D", {"filters": 4, "kernel_size": (2, 3), "padding": "same", "strides": (2, 1)}, (7, 6, 3)),
    (
        "Conv2D",
        {"filters": 4, "kernel_size": 3, "dilation_rate": (1, 2), "padding": "same", "use_bias": False},
        (6, 7, 2),
    ),
    ("Conv2D", {"filters": 6, "kernel_size": 3, "groups": 2, "padding": "same"}, (5, 5, 4)),
    ("Conv2D", {"filters": 4, "kernel_size": 3, "groups": 4, "strides": 2}, (7, 7, 4)),
    ("Conv2D", {"filters": 4, "kernel_size": 1}, (5, 5, 3)),
    ("Conv2D", {"filters": 4, "kernel_size": 8, "padding": "same"}, (6, 6, 2)),
    ("Conv2D", {"filters": 3, "kernel_size": 3, "data_format": "channels_first", "padding": "same"}, (2, 5, 6)),
    ("Conv3D", {"filters": 3, "kernel_size": 2, "strides": (1, 2, 1), "padding": "same"}, (3, 4, 5, 2)),
    ("DepthwiseConv1D", {"kernel_size": 3, "depth_multiplier": 2}, (7, 3)),
    ("DepthwiseConv2D", {"kernel_size": 3, "strides": 2, "padding": "same"}, (6, 6, 3)),
    ("DepthwiseConv2D", {"kernel_size": 2, "depth_multiplier": 3, "data_format": "channels_first"}, (2, 5, 5)),
    ("SeparableConv1D", {"filters": 4, "kernel_size": 3, "padding": "same"}, (7, 3)),
    ("SeparableConv2D", {"filters": 4, "kernel_size": 3, "depth_multiplier": 2, "activation": "relu"}, (6, 6, 3)),
    ("Conv1DTranspose", {"filters": 4, "kernel_size": 3, "strides": 2}, (5, 3)),
    ("Conv2DTranspose", {"filters": 4, "kernel_size": 3}, (4, 5, 3)),
    ("Conv2DTranspose", {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"}, (4, 5, 3)),
    ("Conv2DTranspose", {"filters": 4, "kernel_size": 2, "strides": (1, 3), "padding": "same"}, (4, 5, 3)),
    ("Conv2DTranspose", {"filters": 2, "kernel_size": 2, "strides": 3}, (4, 5, 3)),
    ("Conv2DTranspose", {"filters": 2, "kernel_size": 3, "dilation_rate": 2, "padding": "same"}, (4, 5, 3)),
    (
        "Conv2DTranspose",
        {"filters": 2, "kernel_size": 4, "strides": 3, "padding": "same", "output_padding": 2},
        (4, 5, 3),
    ),
    ("Conv2DTranspose", {"filters": 2, "kernel_size": 3, "strides": 2, "output_padding": (1, 0)}, (4, 5, 3)),
    ("Conv2DTranspose", {"filters": 2, "kernel_size": 3, "strides": 2, "data_format": "channels_first"}, (3, 4, 5)),
    ("Conv3DTranspose", {"filters": 2, "kernel_size": 2, "strides": (1, 2, 1), "padding": "same"}, (2, 3, 2, 3)),
    ("MaxPooling1D", {}, (7, 3)),
    ("MaxPooling1D", {"pool_size": 3, "strides": 2, "padding": "same", "data_format": "channels_first"}, (3, 8)),
    ("MaxPooling2D", {}, (6, 7, 2)),
    ("MaxPooling2D", {"pool_size": (3, 2), "strides": (2, 1), "padding": "same"}, (6, 7, 2)),
    ("MaxPooling2D", {"pool_size": 8, "strides": 1, "padding": "same"}, (6, 7, 2)),
    ("MaxPooling3D", {"pool_size": 2}, (4, 5, 4, 2)),
    ("AveragePooling1D", {"pool_size": 2, "padding": "same"}, (7, 3)),
    ("AveragePooling2D", {"pool_size": 2}, (6, 7, 2)),
    ("AveragePooling2D", {"pool_size": 3, "strides": 2, "padding": "same"}, (6, 7, 2)),
    ("AveragePooling2D", {"pool_size": 8, "strides": 2, "padding": "same", "data_format": "channels_first"}, (2, 6, 7)),
    ("AveragePooling3D", {"pool_size": 2, "padding": "same"}, (3, 4, 3, 2)),
    ("GlobalMaxPooling1D", {}, (5, 3)),
    ("GlobalMaxPooling2D", {"keepdims": True, "data_format": "channels_first"}, (3, 4, 5)),
    ("GlobalMaxPooling3D", {}, (2, 3, 2, 3)),
    ("GlobalAveragePooling1D", {"keepdims": True}, (5, 3)),
    ("GlobalAveragePooling2D", {"data_format": "channels_first"}, (3, 4, 5)),
    ("GlobalAveragePooling3D", {}, (2, 3, 2, 3)),
    ("BatchNormalization", {}, (5,)),
    ("BatchNormalization", {"momentum": 0.8, "epsilon": 1e-2}, (3, 4, 5)),
    ("BatchNormalization", {"axis": 1, "scale": False}, (3, 4, 5)),
    ("BatchNormalization", {"center": False, "moving_mean_initializer": "ones"}, (4, 5)),
    ("LayerNormalization", {}, (5,)),
    ("LayerNormalization", {"axis": [2, 1], "epsilon": 1e-5}, (3, 4, 5)),
    ("LayerNormalization", {"axis": 1, "center": False}, (3, 5)),
    ("LayerNormalization", {"axis": -1, "scale": False}, (3, 5)),
    ("GroupNormalization", {"groups": 2}, (3, 4, 6)),
    ("GroupNormalization", {"groups": -1, "axis": 1}, (3, 4, 6)),
    ("GroupNormalization", {"groups": 3, "center": False, "scale": False}, (6,)),
    ("RMSNormalization", {}, (5,)),
    ("RMSNormalization", {"axis": [1, 2]}, (4, 5)),
    ("Normalization", {}, (3,)),
    ("Normalization", {"axis": (1, 2)}, (3, 4)),
    ("Normalization", {"axis": None}, (3, 4)),
    ("Normalization", {"mean": 2.0, "variance": 3.0}, (3,)),
    ("Normalization", {"mean": [1.0, 2.0, 3.0], "variance": [1.0, 0.0, 4.0], "invert": True}, (2, 3)),
    ("UnitNormalization", {}, (3, 4)),
    ("UnitNormalization", {"axis": (1, 2)}, (3, 4)),
    ("Rescaling", {"scale": 0.5, "offset": -1.0}, (3,)),
    ("Rescaling", {"scale": [1.0, 2.0, 3.0]}, (2, 3)),
    ("Add", {}, [(3, 4), (3, 4), (3, 1)]),
    ("Add", {}, [(3, 4), (4,)]),
    ("Subtract", {}, [(3,), (3,)]),
    ("Multiply", {}, [(3,), (3,), (3,)]),
    ("Average", {}, [(3,), (3,), (3,)]),
    ("Maximum", {}, [(3,), (3,), (3,)]),
    ("Minimum", {}, [(3, 4), (3, 4)]),
    ("Concatenate", {}, [(3, 4), (3, 1)]),
    ("Concatenate", {"axis": 1}, [(3, 4), (2, 4), (1, 4)]),
    ("Dot", {"axes": 1}, [(3,), (3,)]),
    ("Dot", {"axes": -1, "normalize": True}, [(3,), (3,)]),
    ("Dot", {"axes": (2, 1)}, [(3, 4), (4, 5)]),
    ("Dot", {"axes": (1, 2), "normalize": True}, [(3, 4), (5, 3)]),
    ("Dot", {"axes": 1}, [(3,), (3, 5)]),
    ("Dot", {"axes": (3, 1)}, [(2, 5, 3), (3, 4)]),
    ("Permute", {"dims": (3, 1, 2)}, (3, 4, 5)),
    ("RepeatVector", {"n": 3}, (4,)),
    ("ZeroPadding1D", {}, (3, 4)),
    ("ZeroPadding1D", {"padding": (2, 1), "data_format": "channels_first"}, (3, 4)),
    ("ZeroPadding2D", {}, (3, 4, 2)),
    ("ZeroPadding2D", {"padding": (1, 2), "data_format": "channels_first"}, (2, 3, 4)),
    ("ZeroPadding3D", {"padding": ((1, 0), (0, 2), (1, 1))}, (2, 3, 4, 2)),
    ("Cropping1D", {}, (4, 3)),
    ("Cropping1D", {"cropping": (0, 2)}, (4, 3)),
    ("Cropping2D", {}, (4, 5, 3)),
    ("Cropping2D", {"cropping": ((1, 0), (0, 2)), "data_format": "channels_first"}, (3, 4, 5)),
    ("Cropping3D", {}, (3, 4, 5, 2)),
    ("UpSampling1D", {"size": 3}, (4, 3)),
    ("UpSampling2D", {}, (4, 5, 3)),
    ("UpSampling2D", {"size": (2, 3), "interpolation": "bilinear"}, (4, 5, 3)),
    ("UpSampling2D", {"size": 2, "interpolation": "bicubic", "data_format": "channels_first"}, (3, 4, 5)),
    ("UpSampling3D", {"size": (1, 2, 3), "data_format": "channels_first"}, (2, 3, 2, 2)),
    ("SimpleRNN", {"units": 3}, (5, 4)),
    ("SimpleRNN", {"units": 3, "activation": "relu", "use_bias": False, "go_backwards": True}, (5, 4)),
    ("LSTM", {"units": 3}, (5, 4)),
    ("LSTM", {"units": 3, "return_sequences": True, "unit_forget_bias": False, "unroll": True}, (3, 4)),
    (
        "LSTM",
        {"units": 2, "activation": "softsign", "recurrent_activation": "hard_sigmoid", "go_backwards": True},
        (5, 4),
    ),
    ("GRU", {"units": 3, "return_sequences": True}, (5, 4)),
    ("GRU", {"units": 3, "reset_after": False, "activation": "elu"}, (5, 4)),
    ("GRU", {"units": 3, "use_bias": False}, (5, 4)),
    ("RNN", {"cell": Of("GRUCell", 3), "return_sequences": True, "go_backwards": True}, (5, 4)),
    ("RNN", {"cell": [Of("LSTMCell", 3), Of("GRUCell", 2)]}, (5, 4)),
    ("Bidirectional", {"layer": Of("LSTM", 3)}, (5, 4)),
    ("Bidirectional", {"layer": Of("SimpleRNN", 3, return_sequences=True), "merge_mode": "mul"}, (5, 4)),
    (
        "Bidirectional",
        {"layer": Of("SimpleRNN", 3), "merge_mode": "ave", "backward_layer": Of("GRU", 3, go_backwards=True)},
        (5, 4),
    ),
    ("TimeDistributed", {"layer": Of("Dense", 3, activation="tanh")}, (5, 4)),
    ("TimeDistributed", {"layer": Of("Conv2D", 2, 2)}, (3, 4, 5, 2)),
    ("TimeDistributed", {"layer": Of("BatchNormalization")}, (3, 4)),
    ("Attention", {}, [(3, 4), (5, 4)]),
    ("Attention", {"use_scale": True, "score_mode": "concat"}, [(3, 4), (5, 6), (5, 4)]),
    ("Attention", {"use_scale": True}, [(3, 4), (5, 4), (5, 4)]),
    ("AdditiveAttention", {}, [(3, 4), (5, 4)]),
    ("AdditiveAttention", {"use_scale": False}, [(3, 4), (5, 6), (5, 4)]),
    ("MultiHeadAttention", {"num_heads": 2, "key_dim": 3, "output_shape": (2, 5)}, ((3, 4), (5, 6), (5, 2))),
    ("MultiHeadAttention", {"num_heads": 2, "key_dim": 3, "use_bias": False, "use_gate": True}, ((3, 4), (5, 6))),
    ("MultiHeadAttention", {"num_heads": 1, "key_dim": 3, "sliding_window": 2}, ((4, 4), (4, 4))),
    ("MultiHeadAttention", {"num_heads": 1, "key_dim": 2}, ((2, 2, 2), (1, 3, 2))),
    ("MultiHeadAttention", {"num_heads": 2, "key_dim": 3, "attention_axes": 2}, ((2, 3, 4), (2, 5, 6))),
    (
        "GroupQueryAttention",
        {"head_dim": 3, "num_query_heads": 4, "num_key_value_heads": 2, "kernel_initializer": "zeros"},
        ((3, 4), (5, 4)),
    ),
]


def case_id(case):
    named = {k: getattr(v, "__name__", v) for k, v in case[1].items()}  # no addresses: two processes must agree on ids
    return f"{case[0]}-{','.join(f'{k}={v}' for k, v in named.items())}"


each_case = pytest.mark.parametrize("case", CASES, ids=case_id)


def draw(shape, name="", rows=4):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if shape == "ids":
        return rng.integers(0, 7, (rows, 5)).astype("int32")
    if isinstance(shape, list) or (shape and isinstance(shape[0], tuple)):
        return type(shape)(rng.normal(size=(rows, *s)).astype("float32") for s in shape)
    return rng.normal(size=(rows, *shape)).astype("float32")


def keras_weights(layer):
    return [np.asarray(v.value) for v in layer.weights]  # get_weights() warns with NumPy 2


def build(layer, x):
    with_batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), x)
    abstract_call(layer, *as_arguments(with_batch))


def as_arguments(x):
    """Arguments of a layer's call: a tuple of arrays, or of shapes, holds several."""
    return x if isinstance(x, tuple) and not is_shape(x) else (x,)


def pair(case):
    """Our layer and Keras's, built, with the same random weights (positive, so that variances are)."""
    name, arguments, shape = case
    arguments = {**zeros(name), **arguments}
    ours, theirs = (
        getattr(family, name)(**{k: resolved(v, family) for k, v in arguments.items()})
        for family in (layers, keras.layers)
    )
    x = draw(shape, case_id(case))
    build(ours, x)
    theirs.build(*as_arguments(jax.tree.map(lambda w: w.shape, x)))
    rng = np.random.default_rng(1)
    weights = [np.asarray(rng.uniform(0.2, 1.5, w.shape), w.value.dtype) for w in theirs.weights]
    theirs.set_weights(weights)
    if name == "Normalization" and weights:
        theirs.finalize_state()
    ours.set_weights(weights)
    return ours, theirs, x


def functional(layer):
    """A pure function of trainable arrays and the input that returns the output and the buffers; and these arrays."""
    graph, params, buffers = nnx.split(layer, Weight, ...)
    leaves, tree = jax.tree.flatten(params)
    variables = jax.tree.leaves(params, is_leaf=lambda v: isinstance(v, nnx.Variable))
    order = np.argsort([v.get_metadata()["made"] for v in variables])  # of the layer's weights

    def call(weights, x, training=False, context=None):
        placed = [weights[i] for i in np.argsort(order)]
        merged = nnx.merge(graph, jax.tree.unflatten(tree, placed), buffers, copy=True)
        with forward_pass.calling(context or forward_pass.Call(training=training)):
            y = merged(*as_arguments(x))
        return y, [v.get_value() for v in merged.non_trainable_weights]

    return call, [leaves[i] for i in order]


def keras_functional(layer):
    fixed = [v.value for v in layer.non_trainable_variables]
    takes_mode = "training" in inspect.signature(layer.call).parameters

    def call(weights, x, training=False):
        return layer.stateless_call(weights, fixed, *as_arguments(x), **({"training": training} if takes_mode else {}))

    return call, [v.value for v in layer.trainable_variables]


# most of these tests' time is compiling
FAST_TO_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def everything(call, weights, x, training):
    """Outputs in inference and training, the buffers after training, and the gradients of a weighted sum of outputs."""

    def run(weights, x):
        def loss(weights, x):
            y, buffers = call(weights, x, training)
            r = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
            return (y * r).sum(), (y, buffers)

        integers = jnp.issubdtype(jax.tree.leaves(x)[0].dtype, jnp.integer)
        gradients, (y, buffers) = jax.grad(loss, 0 if integers else (0, 1), has_aux=True)(weights, x)
        return y if not training else call(weights, x)[0], y, buffers, gradients

    return jax.jit(run, compiler_options=FAST_TO_COMPILE)(weights, x)


def close(a, b, **kwargs):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **{"rtol": 1e-5, "atol": 1e-5 * max(1, np.abs(y).max(initial=0)), **kwargs})


@each_case
def test_equals_keras(case):
    ours, theirs, x = pair(case)
    training = "BatchNormalization" in case_id(case)  # the others are deterministic, or do not differ
    got = everything(*functional(ours), x, training)
    want = everything(*keras_functional(theirs), x, training)
    assert got[0].shape == want[0].shape
    close(got if training else (got[0], got[3]), want if training else (want[0], want[3]))
    assert [v.get_metadata()["name"] for v in ours.weights] == [v.name for v in theirs.weights]
    assert ours.output_shape == (None, *want[0].shape[1:])
    shapes = jax.tree.map(lambda a: (None, *a.shape[1:]), x)
    assert ours.compute_output_shape(*as_arguments(shapes)) == ours.output_shape


@each_case
def test_config_makes_an_equal_layer(case):
    layer = getattr(layers, case[0])(**{k: resolved(v, layers) for k, v in case[1].items()})
    written = serialize(layer)
    again = deserialize(json.loads(json.dumps(written)))
    assert type(again) is type(layer)
    assert serialize(again) == written
    assert serialize(type(layer).from_config(layer.get_config())) == written


def test_layer_from_config_computes_the_same():
    layer = layers.Conv2D(4, 3, padding="same", activation="relu")
    x = draw((5, 5, 2))
    layer(x)
    again = layers.Conv2D.from_config(layer.get_config())
    again(x)
    again.set_weights(layer.get_weights())
    close(again(x), layer(x), rtol=0, atol=0)


def test_every_layer_has_a_case():
    named = {case[0] for case in CASES}
    # InputLayer: test_contract_models.py, Keras's cannot be called on values; cells: test_recurrent.py
    apart = {"Layer", "Wrapper", "InputLayer", "SimpleRNNCell", "LSTMCell", "GRUCell", "StackedRNNCells"}
    public = {n for n in layers.__all__ if inspect.isclass(getattr(layers, n))} - apart
    aliases = {n for n in public if getattr(layers, n).__name__ != n}
    assert public - aliases == named
    for name in public:
        assert hasattr(keras.layers, name), name


# -- batch normalization


def test_moving_statistics_after_three_calls():
    ours, theirs, _ = pair(("BatchNormalization", {"momentum": 0.9}, (3, 5)))
    for i in range(3):
        x = draw((3, 5), str(i))
        ours(x, training=True)
        theirs(x, training=True)
    close(ours.get_weights(), keras_weights(theirs))


@pytest.mark.parametrize("real", [4, 1])
def test_padding_rows_leave_batch_statistics_alone(real):
    ours, theirs, _ = pair(("BatchNormalization", {}, (3, 5)))
    x = draw((3, 5), "padded", rows=real)
    padded = np.concatenate([x, np.full((3, 3, 5), 100, "float32")])
    context = forward_pass.Call(training=True, rows=jnp.asarray([1.0] * real + [0.0] * 3))
    call, weights = functional(ours)

    def real_rows(weights, x, training=False):
        y, buffers = call(weights, x, training, context if training else None)
        return y[:real], buffers

    got = everything(real_rows, weights, padded, True)
    want = everything(*keras_functional(theirs), x, True)
    close(got[:3], want[:3])
    close(got[3][0], want[3][0])
    close(got[3][1][:real], want[3][1])
    close(got[3][1][real:], np.zeros((3, 3, 5)))


def test_batch_normalization_of_padding_alone_moves_nothing():
    layer = layers.BatchNormalization()
    layer(np.ones((2, 3)))
    with forward_pass.calling(forward_pass.Call(training=True, rows=jnp.zeros(2))):
        assert np.isfinite(layer(np.ones((2, 3)))).all()
    close(layer.get_weights()[2:], [np.zeros(3), np.ones(3)])


def test_batch_normalization_of_another_axis_0_takes_all_rows():
    layer, plain = layers.BatchNormalization(), layers.BatchNormalization()
    x = draw((3,), rows=8)
    with forward_pass.calling(forward_pass.Call(training=True, rows=jnp.asarray([1.0, 0.0]))):
        got = layer(x)
    close(got, plain(x, training=True))


def test_frozen_batch_normalization_uses_moving_statistics():
    layer = layers.BatchNormalization(trainable=False)
    x = draw((3,))
    close(layer(x, training=True), layer(x, training=False))
    close(layer.get_weights()[2:], [np.zeros(3), np.ones(3)])


# -- arguments and inputs


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
