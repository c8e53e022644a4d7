"""Layers with arguments and shapes, and both sides of the comparison with Keras."""

import inspect
import zlib

import jax
import jax.numpy as jnp
import keras
import numpy as np
from flax import nnx

from epochal import activations, layers
from epochal.layers.base.building import abstract_call
from epochal.layers.base.weights import Weight
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


def draw(shape, name="", rows=4):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if shape == "ids":
        return rng.integers(0, 7, (rows, 5)).astype("int32")
    if isinstance(shape, list) or (shape and isinstance(shape[0], tuple)):
        return type(shape)(rng.normal(size=(rows, *s)).astype("float32") for s in shape)
    return rng.normal(size=(rows, *shape)).astype("float32")


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
