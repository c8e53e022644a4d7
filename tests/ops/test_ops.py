"""`epochal.ops` against `keras.ops`, name by name; and as calls of a graph."""

from __future__ import annotations

import inspect
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras as real
import numpy as np
import pytest
from support.data import digits

import epochal as keras
from epochal import ops
from epochal.models.functional import Graph
from epochal.registry.serialize import deserialize, serialize
from epochal.tracing.symbolic import SymbolicTensor

rng = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


X, Y = normal(3, 4), normal(3, 4)
ONE = normal(4)
POSITIVE = np.abs(X) + 0.5
UNIT = np.tanh(X)
HOLES = np.where(X > 0.5, np.nan, X)
EDGES = np.array([[1.0, np.nan, -np.inf], [np.inf, 0.0, -0.0]], np.float32)
WHOLE = rng.integers(1, 9, (3, 4)).astype(np.int32)
SHIFT = rng.integers(0, 3, (3, 4)).astype(np.int32)
YES, NO = X > 0, Y > 0
SQUARE = X[:, :3] + 3 * np.eye(3, dtype=np.float32)
SYMMETRIC = SQUARE @ SQUARE.T
TRIANGLE = np.linalg.cholesky(SYMMETRIC)
COMPLEX = (X + 1j * Y).astype(np.complex64)
CHANCES = (np.exp(X) / np.exp(X).sum(-1, keepdims=True)).astype(np.float32)
LABELS = np.array([0, 3, 1], np.int32)
ONE_HOT = np.eye(4, dtype=np.float32)[LABELS]
LINE, PICTURE = normal(2, 7, 4), normal(2, 6, 6, 4)
FIRST = np.moveaxis(PICTURE, -1, 1).copy()
KERNEL = normal(3, 2, 4, 5)
HEADS, KEYS, VALUES = normal(2, 3, 2, 4), normal(2, 5, 2, 4), normal(2, 5, 2, 4)
CAN_SEE = np.array([[[[True, False, True, True, False]]]])


def a(*args: Any, **kwargs: Any) -> tuple[tuple, dict]:
    """Arguments of one call."""
    return args, kwargs


CASES: defaultdict[str, list[Any]] = defaultdict(list)


def case(names: str, *calls: Any) -> None:
    """These calls are tried with each of the ops named."""
    for name in names.split():
        CASES[name] += calls


case(
    "abs absolute arcsinh arctan cbrt ceil copy cos cosh deg2rad exp exp2 expm1 fabs floor i0 negative rad2deg "
    "reciprocal sign signbit sin sinc sinh square tan tanh trunc isfinite isinf isnan isneginf isposinf "
    "hard_sigmoid hard_silu hard_swish hard_tanh log_sigmoid relu relu6 selu sigmoid silu softplus softsign "
    "sparse_plus sparse_sigmoid swish celu elu gelu leaky_relu hard_shrink soft_shrink squareplus tanh_shrink erf "
    "erfc logsumexp ravel fliplr flipud corrcoef nan_to_num ones_like zeros_like",
    a(X),
)
case("log log10 log1p log2 sqrt arccosh rsqrt", a(POSITIVE + 0.5))
case("arccos arcsin arctanh erfinv", a(UNIT))
case("isfinite isinf isnan isneginf isposinf nan_to_num signbit", a(EDGES))
case("angle conj conjugate imag real isreal view_as_real", a(COMPLEX))
case("bitwise_invert bitwise_not", a(WHOLE))
case("logical_not", a(YES))
case("sin exp sqrt log tanh square negative cos", a(X.clip(0.1)), a(WHOLE))
case(
    "add arctan2 divide equal floor_divide fmax fmin greater greater_equal hypot less less_equal logaddexp "
    "logaddexp2 maximum minimum mod multiply not_equal subtract true_divide nextafter fmod divide_no_nan",
    a(X, Y),
    a(WHOLE, SHIFT + 1),
    a(X, 2),
)
case("power", a(POSITIVE, Y), a(X, 2), a(WHOLE, 2))
case("heaviside", a(EDGES, 0.5))
case("nextafter hypot arctan2 logaddexp logaddexp2", a(X, Y))
case("gcd lcm", a(WHOLE, SHIFT))
case("ldexp", a(X, SHIFT))
case("logical_and logical_or logical_xor", a(YES, NO))
case("bitwise_and bitwise_or bitwise_xor", a(WHOLE, SHIFT))
case("bitwise_left_shift bitwise_right_shift left_shift right_shift", a(WHOLE, SHIFT))
case("divide_no_nan", a(X, 0 * Y), a(X, Y))
case("clip", a(X, -0.5, 0.5))
case("round", a(X * 10), a(X * 10, decimals=1))
case("where", a(YES, X, Y), a(YES, X, 0.0), a(YES))
case("isclose", a(X, X + 1e-7), a(X, Y))
case("allclose", a(X, X + 1e-7), a(X, Y))
case("isin", a(WHOLE, [1, 3]), a(WHOLE, [1, 3], invert=True))
case("select", a([X > 1, X > 0], [X, Y], -1.0))
case(
    "amax amin argmax argmin max mean median min ptp std sum var",
    a(X),
    a(X, axis=-1, keepdims=True),
    a(WHOLE, axis=0),
)
case("sum mean", a(YES), a(X, axis=[0, 1]), a([1.0, 2.0]))
case("prod", a(X), a(WHOLE, axis=1), a(X, axis=0, keepdims=True))
case("all any", a(YES), a(YES, axis=1, keepdims=True))
case("nanargmax nanargmin nanmax nanmean nanmedian nanmin nanprod nanstd nansum nanvar", a(HOLES, axis=0))
case("logsumexp", a(X, axis=1, keepdims=True))
case("max", a(X, axis=0, initial=0.3))
case("min", a(X, axis=0, initial=-0.3))
case("average", a(X), a(X, axis=1, weights=ONE), a(WHOLE, axis=0))
case("count_nonzero", a(SHIFT), a(SHIFT, axis=1))
case("quantile nanquantile", a(X, 0.3), a(X, [0.1, 0.5], axis=1, keepdims=True))
case("percentile nanpercentile", a(X, 30.0), a(X, [10.0, 50.0], axis=1, method="lower"))
case("cumsum cumprod", a(X), a(X, axis=1), a(WHOLE, axis=0))
case("nancumsum nancumprod", a(HOLES, axis=1))
case("diff", a(X), a(X, n=2, axis=0))
case("trapezoid", a(X), a(X, dx=0.5, axis=0), a(ONE, [0.0, 1.0, 3.0, 4.0]))
case("sort", a(X), a(X, axis=0))
case("argsort", a(X), a(X, axis=0))
case("argpartition", a(X, 2))
case("searchsorted", a(np.sort(ONE), X), a([1, 2, 2, 3], [2], side="right"))
case("digitize", a(X, [-1.0, 0.0, 1.0]))
case("bincount", a(LABELS), a(WHOLE, minlength=9), a(LABELS, weights=ONE[:3], minlength=6))
case("histogram", a(ONE), a(ONE, bins=3, range=(-1.0, 1.0)))
case("unique", a(WHOLE), a(LABELS, return_counts=True, return_inverse=True), a(WHOLE, size=5))
case("nonzero", a(SHIFT))
case("reshape", a(X, (2, -1)), a(X, 12))
case("expand_dims", a(X, 1), a(X, (0, -1)))
case("squeeze", a(X[None, :, :1]), a(X[None, :, :1], axis=0))
case("transpose", a(LINE), a(LINE, (0, 2, 1)), a(LINE, axes=[2, 1, 0]))
case("swapaxes", a(LINE, 0, 2))
case("moveaxis", a(LINE, 0, -1), a(LINE, [0, 1], [1, 2]))
case("broadcast_to", a(ONE, (3, 4)))
case("flip", a(X), a(X, axis=0))
case("rot90", a(X), a(X, k=3))
case("roll", a(X, 1), a(X, 2, axis=1))
case("repeat", a(X, 2), a(X, 2, axis=1))
case("tile", a(X, (2, 1)), a(X, 2))
case("pad", a(X, 1), a(X, ((1, 0), (0, 2)), constant_values=3.0), a(X, ((1, 1), (0, 0)), mode="reflect"))
case("get_item", a(X, (slice(None), 1)))
case("take", a(X, LABELS, axis=1), a(X, [1, 5]))
case("take_along_axis", a(X, LABELS[:, None], axis=1))
case("unravel_index", a([5, 7], (3, 4)))
case("ndim", a(LINE))
case("size", a(LINE))
case("view", a(X, dtype="int32"))
case("concatenate stack", a([X, Y]), a([X, Y], axis=1))
case("hstack vstack dstack", a([X, Y]))
case("append", a(X, Y), a(X, Y, axis=0))
case("split", a(X, 2, axis=1), a(X, [1], axis=0))
case("array_split", a(X, 2))
case("hsplit", a(LINE, [1, 3]))
case("vsplit dsplit", a(LINE, 2))
case("meshgrid", a(ONE, ONE[:2]), a(ONE, ONE[:2], indexing="ij"))
case("dot matmul", a(X, Y.T))
case("inner", a(X, Y))
case("kron", a(X, SQUARE))
case("outer vdot", a(ONE, Y[0]))
case("tensordot", a(LINE, LINE[0].T, axes=1), a(X, Y, axes=2))
case("einsum", a("ij,kj->ik", X, Y), a("ij->j", X))
case("cross", a(X[:, :3], Y[:, :3]))
case("correlate", a(ONE, ONE[:2]), a(ONE, ONE[:2], mode="full"))
case("det inv slogdet logdet", a(SQUARE))
case("trace", a(SQUARE), a(X, offset=1))
case("diag", a(ONE), a(X, k=1))
case("diagflat", a(X[:2, :2]))
case("diagonal", a(X), a(LINE, offset=1, axis1=1, axis2=2))
case("tril triu", a(X), a(X, k=1))
case("vander", a(ONE), a(ONE, N=2, increasing=True))
case("array", a([1, 2]), a([1, 2], dtype="float32"))
case("zeros ones", a((2, 3)), a((2,), dtype="int32"))
case("full", a((2, 3), 7), a((2,), 7, dtype="int32"))
case("full_like", a(X, 2), a(X, 2, dtype="int32"))
case("eye", a(3), a(2, 3, k=1, dtype="int32"))
case("identity", a(3))
case("tri", a(3), a(3, 4, k=1))
case("arange", a(5), a(1, 4, 0.5), a(2, 9, 3, dtype="float32"))
case("linspace", a(0.0, 1.0, 5), a(0.0, 1.0, 5, endpoint=False, retstep=True))
case("logspace", a(0.0, 2.0, 3))
case("geomspace", a(1.0, 8.0, 4))
case("bartlett blackman hamming hanning", a(6))
case("kaiser", a(6, 4.0))
# linalg
case("solve", a(SQUARE, X))
case("solve_triangular", a(TRIANGLE, X, lower=True), a(TRIANGLE.T, X))
case("lstsq", a(Y.T, X.T))
case("cholesky", a(SYMMETRIC), a(SYMMETRIC, upper=True))
case("cholesky_inverse", a(TRIANGLE), a(TRIANGLE.T, upper=True))
case("eig eigh", a(SYMMETRIC))
case("lu_factor", a(SQUARE))
case("qr", a(X), a(X, mode="complete"))
case("svd", a(X), a(X, full_matrices=False), a(X, compute_uv=False))
case("pinv", a(X))
case("matrix_rank", a(X))
case("norm", a(X), a(X, ord=1, axis=0), a(X, axis=-1, keepdims=True), a(WHOLE))
case("jvp", a(jnp.sin, (X,), (Y,)))
# math
case("cdist", a(X, Y[:2]))
case("top_k", a(X, 2), a(ONE, 1, sorted=False))
case("in_top_k", a(LABELS, X, 2))
case("segment_sum segment_max segment_min segment_prod", a(X, np.array([0, 0, 2]), num_segments=3))
case("fft", a((X, Y)))
case("fft2 ifft2", a((X, Y)))
case("rfft", a(X), a(X, fft_length=6))
case("irfft", a((X, Y)), a((X, Y), fft_length=5))
case("view_as_complex", a(X[:, :2]))
case("extract_sequences", a(LINE[..., 0], 3, 2))
# core
case("convert_to_tensor", a([1.0, 2.0]), a(WHOLE, dtype="float32"))
case("convert_to_numpy", a(X))
case("cast", a(X, "int32"), a(WHOLE, "float16"))
case("saturate_cast", a(X * 300, "uint8"), a(X * 1e12, "int32"), a(WHOLE - 3, "uint8"), a(YES, "float32"))
case("dtype", a(WHOLE))
case("shape", a(LINE))
case("stop_gradient", a(X))
case("slice", a(X, (1, 0), (2, -1)))
case("slice_update", a(X, (1, 1), Y[:2, :2]))
case("scatter", a(np.array([[0, 1], [0, 1], [2, 3]]), ONE[:3], (3, 4)))
case("scatter_update", a(X, [[0, 1], [2, 3]], ONE[:2]), a(X, [[0, 1], [2, 3]], ONE[:2], reduction="max"))
case("unstack", a(X), a(X, axis=1))
case("cond", a(True, lambda: X, lambda: Y))
case("switch", a(1, [lambda x: x, lambda x: 2 * x], X))
case("map", a(lambda row: row.sum(), X))
case("vectorized_map", a(lambda row: row.sum(), X))
case("scan", a(lambda c, x: (c + x, c * x), ONE, X), a(lambda c, x: (c + x, c * x), ONE, X, reverse=True))
case("associative_scan", a(lambda p, q: p + q, X), a(lambda p, q: p + q, X, reverse=True, axis=1))
case("fori_loop", a(0, 3, lambda i, x: x * 2 + i, X))
case(
    "while_loop",
    a(lambda i, x: i < 3, lambda i, x: (i + 1, x * 2), (0, X)),
    a(lambda x: x.sum() < 1e9, lambda x: x + 1, X, maximum_iterations=4),
)
# nn
case("glu", a(X), a(PICTURE, axis=1))
case("softmax log_softmax", a(X), a(X, axis=0), a(LINE, axis=(1, 2)))
case("gelu", a(X), a(X, approximate=False))
case("threshold", a(X, 0.3, -1.0))
case("one_hot", a(LABELS, 5), a(LABELS, 4, axis=0, dtype="int32"))
case("multi_hot", a([[0, 1], [2, 2]], num_classes=4), a([1, 3], num_classes=4))
case("binary_crossentropy", a(ONE_HOT, CHANCES), a(ONE_HOT, X, from_logits=True))
case("categorical_crossentropy", a(ONE_HOT, CHANCES), a(ONE_HOT, X, from_logits=True), a(ONE_HOT, CHANCES, axis=0))
case("sparse_categorical_crossentropy", a(LABELS, CHANCES), a(LABELS[:, None], X, from_logits=True))
case("moments", a(X, [0]), a(LINE, (0, 1), keepdims=True))
case("batch_normalization", a(X, ONE, POSITIVE[0], -1), a(FIRST, ONE, POSITIVE[0], 1, offset=Y[0], scale=X[0]))
case("layer_normalization", a(X), a(X, gamma=ONE, beta=Y[0]), a(LINE, gamma=LINE[0], axis=[1, 2]))
case("rms_normalization", a(X), a(X, scale=ONE, epsilon=0.1))
case("normalize", a(X), a(X, axis=0, order=1), a(0 * X))
case("psnr", a(X, Y, 3.0))
case("polar", a(POSITIVE, Y))
case(
    "conv",
    a(PICTURE, KERNEL),
    a(FIRST, KERNEL, strides=2, padding="same", data_format="channels_first"),
    a(LINE, KERNEL[:, 0], dilation_rate=2),
    a(PICTURE, KERNEL[:, :, :2, :4], strides=(1, 2)),
)
case("depthwise_conv", a(PICTURE, KERNEL[..., :2], padding="same"))
case("separable_conv", a(PICTURE, KERNEL[..., :1], KERNEL[:1, :1]))
case("conv_transpose", a(PICTURE, normal(3, 3, 5, 4), strides=2, padding="same"), a(LINE, normal(3, 2, 4)))
case("max_pool average_pool", a(PICTURE, 2, 2), a(FIRST, 3, 2, "same", "channels_first"), a(LINE, (2,), 1))
case("depth_to_space space_to_depth", a(PICTURE, 2), a(FIRST, 2, data_format="channels_first"))
case("dot_product_attention", a(HEADS, KEYS, VALUES), a(HEADS, KEYS, VALUES, mask=CAN_SEE, scale=0.3))

IMAGE_CASES: dict[str, list[Any]] = {
    "resize": [
        a(PICTURE, (3, 9)),
        a(PICTURE[0], (4, 4), interpolation="nearest"),
        a(FIRST, (3, 9), antialias=True, data_format="channels_first"),
        a(PICTURE, (3, 6), crop_to_aspect_ratio=True),
        a(PICTURE, (3, 6), pad_to_aspect_ratio=True, fill_value=1.0, interpolation="bicubic"),
    ],
    "scale_and_translate": [a(PICTURE[0], (3, 3, 4), np.float32([0.5, 0.5]), np.float32([0, 1]), (0, 1), "linear")],
    "rgb_to_grayscale": [a(PICTURE[..., :3]), a(FIRST[:, :3], data_format="channels_first")],
    "pad_images": [a(PICTURE, 1, 2, 0, 1), a(PICTURE[0], 1, 2, target_height=9, target_width=8)],
    "crop_images": [a(PICTURE, 1, 2, 0, 1), a(PICTURE[0], 1, 2, target_height=4, target_width=3)],
    "extract_patches": [a(PICTURE, 2), a(PICTURE[0], (2, 3), strides=1, padding="same")],
}
# No numbers of Keras's to compare: functions as results, any values, a question about the type of the argument; and
# sparsemax, which Keras gets wrong (see tests/test_activations.py).
WITHOUT_NUMBERS = {"custom_gradient", "vectorize", "is_tensor", "empty", "empty_like", "sparsemax"}
MODULES = {"image", "linalg", "nn", "numpy"}
# Keras's arguments that epochal's op has not.
WITHOUT_ARGUMENTS = {"dot_product_attention": {"flash_attention", "attn_logits_soft_cap"}}
ALL_CASES = {**CASES, **{f"image.{name}": calls for name, calls in IMAGE_CASES.items()}}


def named(name: str, module: Any) -> Any:
    return getattr(module.image, name[6:]) if name.startswith("image.") else getattr(module, name)


def public(module: Any) -> set[str]:
    return {name for name in dir(module) if not name.startswith("_")}


def assert_same(name: str, found: Any, expected: Any) -> None:
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    assert len(found) == len(expected), name
    for mine, other in zip(map(np.asarray, found), map(np.asarray, expected), strict=True):
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype), name
        if mine.dtype.kind in "fc":
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(mine, other, err_msg=name)


def test_the_names_are_keras_s_and_what_is_left_out_is_said() -> None:
    assert len(set(ops.__all__)) == len(ops.__all__)
    assert set(ops.__all__) <= public(real.ops)
    assert set(ops.image.__all__) <= public(real.ops.image)
    for module in MODULES - {"image"}:
        assert set(getattr(ops, module).__all__) == public(getattr(real.ops, module)) & set(ops.__all__)
    for name in (public(real.ops) - set(ops.__all__)) | (public(real.ops.image) - set(ops.image.__all__)):
        assert f"`{name}`" in (ops.__doc__ or ""), name
    assert set(ops.__all__) == set(CASES) | WITHOUT_NUMBERS | MODULES
    assert set(ops.image.__all__) == set(IMAGE_CASES)


def test_arguments_and_defaults_are_keras_s() -> None:
    def arguments(function: Any) -> list[tuple[str, Any]]:
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is not p.VAR_KEYWORD]

    for name in sorted(set(ALL_CASES) | WITHOUT_NUMBERS):
        theirs = [p for p in arguments(named(name, real.ops)) if p[0] not in WITHOUT_ARGUMENTS.get(name, ())]
        assert arguments(named(name, ops)) == theirs, name
        assert named(name, ops).__name__ == name.removeprefix("image.")


# Not in compiled code, nor in a graph: the shape of the result depends on numbers, or nothing is computed.
EAGER = {"nonzero", "bincount", "convert_to_numpy", "shape", "ndim", "size"}
EAGER |= {"bartlett", "blackman", "hamming", "hanning", "kaiser"}
NO_GRAPH = {"jvp"}
NAMES = sorted(set(ALL_CASES) - {"dtype"})
# Compiling is what takes the time, so a dozen ops are compiled together.
DOZENS = [NAMES[i : i + 12] for i in range(0, len(NAMES), 12)]


def is_eager(name: str, args: tuple, kwargs: dict[str, Any]) -> bool:
    return name in EAGER or (name, len(args)) == ("where", 1) or (name == "unique" and "size" not in kwargs)


class Trial:
    """A call whose arrays are taken out, so that they can be inputs of a program or of a graph."""

    def __init__(self, name: str, args: tuple, kwargs: dict[str, Any]):
        self.name = name
        self.leaves, self.structure = jax.tree.flatten((args, kwargs))
        self.places = [i for i, leaf in enumerate(self.leaves) if isinstance(leaf, np.ndarray) and leaf.ndim]
        self.arrays = [self.leaves[i] for i in self.places]

    def call(self, module: Any, arrays: list[Any]) -> Any:
        filled = dict(zip(self.places, arrays, strict=True))
        leaves = [filled.get(i, leaf) for i, leaf in enumerate(self.leaves)]
        args, kwargs = jax.tree.unflatten(self.structure, leaves)
        return named(self.name, module)(*args, **kwargs)

    def in_a_graph(self, arrays: list[Any]) -> Any:
        if not arrays or self.name in NO_GRAPH:
            return self.call(ops, arrays)
        inputs = [SymbolicTensor(array.shape, array.dtype, "x") for array in arrays]
        return Graph(inputs, self.call(ops, inputs)).run([], arrays)


# XLA without its optimizations has no clamp of booleans.
@pytest.mark.optimized
@pytest.mark.parametrize("names", DOZENS, ids=lambda names: f"{names[0]}-to-{names[-1]}")
def test_numbers_are_keras_s_also_in_a_graph(names: list[str]) -> None:
    trials = []
    for name in names:
        for args, kwargs in ALL_CASES[name]:
            if is_eager(name, args, kwargs):
                assert_same(name, named(name, ops)(*args, **kwargs), named(name, real.ops)(*args, **kwargs))
            else:
                trials.append(Trial(name, args, kwargs))

    def all_ways(arrays: list[list[Any]]) -> Any:
        given = list(zip(trials, arrays, strict=True))
        return [(t.call(ops, a), t.call(real.ops, a), t.in_a_graph(a)) for t, a in given]

    results = jax.jit(all_ways)([trial.arrays for trial in trials])
    for trial, (found, expected, of_graph) in zip(trials, results, strict=True):
        assert_same(trial.name, found, expected)
        assert_same(trial.name, of_graph, expected)


def test_every_op_can_be_written_down() -> None:
    for name in set(ALL_CASES) - EAGER - NO_GRAPH - {"dtype"}:
        assert deserialize(serialize(named(name, ops))) is named(name, ops)


def attention_like() -> Any:
    x = keras.Input((64,))
    h = ops.reshape(x, (ops.shape(x)[0], 8, 8))
    weights = ops.softmax(ops.matmul(h, ops.transpose(h, (0, 2, 1))) / ops.sqrt(8.0), axis=-1)
    h = ops.concatenate([ops.einsum("nij,njk->nik", weights, h), ops.cast(h > 0.5, jnp.float32)], axis=-1)
    mean, variance = ops.moments(h, [1], keepdims=False)
    return keras.Model(x, keras.layers.Dense(10)(ops.relu(mean) + ops.log1p(variance)))


def test_a_model_made_with_ops_trains_and_can_be_saved(tmp_path: Path) -> None:
    x, y = digits(256)
    model = attention_like()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = model.fit(x, y, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    before = model.predict(x, verbose=0)
    model.save(tmp_path / "model.zip")
    again = keras.models.load_model(tmp_path / "model.zip")
    np.testing.assert_array_equal(again.predict(x, verbose=0), before)


def test_shapes_that_are_open_stay_open() -> None:
    x = keras.Input((None, 4))
    assert ops.shape(x) == (None, None, 4)
    assert ops.ndim(x[0, 0]) == 1
    assert ops.mean(x, axis=1).shape == (None, 4)
    assert [part.shape for part in ops.split(x, 2, axis=-1)] == [(None, None, 2)] * 2
    assert ops.dtype(ops.argmax(x, axis=-1)) == "int32"
    assert [ops.dtype(value) for value in (X, WHOLE, 1.0)] == ["float32", "int32", "float32"]


def test_lists_numbers_variables_and_other_array_likes_are_arrays() -> None:
    dense = keras.layers.Dense(2)
    dense.build((None, 3))
    np.testing.assert_allclose(ops.sum(dense.kernel), dense.get_weights()[0].sum(), rtol=1e-6)
    np.testing.assert_allclose(ops.add([1.0, 2.0], dense.bias), [1, 2])
    assert ops.max([3, 5]) == 5
    assert ops.add(np.float16(1), 1).dtype == jnp.float16
    assert ops.convert_to_numpy(dense.bias).flags.writeable
    assert ops.is_tensor(jnp.ones(2))
    assert not ops.is_tensor(np.ones(2))
    assert not ops.is_tensor(keras.Input((2,)))
    assert ops.max_pool(PICTURE, 2).shape == (2, 3, 3, 4)  # Keras 3.15 on JAX fails without strides
    assert ops.empty((2, 3)).shape == ops.empty_like(X[:2, :3]).shape


def test_custom_gradient_and_vectorize() -> None:
    @ops.custom_gradient
    def twice_the_gradient(x: Any) -> Any:
        return x * x, lambda upstream: 4 * x * upstream

    value, slope = jax.value_and_grad(twice_the_gradient)(3.0)
    assert (value, slope) == (9, 12)
    larger = ops.vectorize(lambda p, q: jnp.where(p > q, p, q))
    np.testing.assert_array_equal(larger(X, ONE), np.maximum(X, ONE))
    assert jax.grad(lambda x: ops.sum(ops.stop_gradient(x) * x))(2.0) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.one_hot(LABELS, 4, sparse=True), "sparse=False"),
        (lambda: ops.bincount(LABELS, sparse=True), "sparse=False"),
        (lambda: ops.convert_to_tensor(X, sparse=True), "dense"),
        (lambda: ops.multi_hot([[0, 1]]), "num_classes"),
        (lambda: ops.segment_sum(X, [0, 0, 1]), "num_segments"),
        (lambda: ops.moments(X, [0], synchronized=True), "synchronized"),
        (lambda: ops.scatter_update(X, [[0, 0]], [1.0], reduction="mean"), "'mean'"),
        (lambda: ops.pad(X, 1, mode="edge", constant_values=1), "'edge'"),
        (lambda: ops.cholesky(-SYMMETRIC), "positive definite"),
        (lambda: ops.qr(X, mode="raw"), "'raw'"),
        (lambda: ops.fft(X), "real part"),
        (lambda: ops.unstack(X, num=2), "num=3"),
        (lambda: ops.categorical_crossentropy(ONE_HOT, X[:, :3]), r"\(3, 4\)"),
        (lambda: ops.sparse_categorical_crossentropy(LABELS[:2], X), r"\(3,\)"),
        (lambda: ops.conv(PICTURE, KERNEL, data_format="last"), "'last'"),
        (lambda: ops.image.resize(PICTURE, (3, 3), interpolation="area"), "'area'"),
        (lambda: ops.image.resize(X, (3, 3)), "rank 3"),
        (lambda: ops.image.resize(PICTURE, (3, 3), fill_mode="wrap"), "'wrap'"),
        (lambda: ops.image.crop_images(PICTURE, 1, 1, 1, 1, target_height=3), "two of the three"),
        (lambda: ops.image.pad_images(PICTURE, 1, 1, target_height=3, target_width=9), "fit an axis"),
    ],
)
def test_errors_say_what_was_expected(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
