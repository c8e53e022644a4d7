"""Convolution and pooling over channels-last arrays, each in the formulation that is fast on the platform at hand.

On a CPU the gradients of XLA's own convolution and max-pooling inside a loop over steps are 5 to 300 times slower than
outside it (jax-ml/jax#12868). There, as a rule over shapes says (`formulation`), gradients of convolutions are written
in the form that has fast kernels ("canonical", see `convolution_canonical`), or shifted slices of the input are laid
side by side and multiplied by the kernel in one matrix product ("patches"); and windows are reduced slice by slice.
Elsewhere XLA's own operations are the best.

Shapes below: n examples; `space` stands for one axis (1D) to three (3D); c channels in, f filters out.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Shaped

from epochal.ops.kernels.convolution_canonical import convolve_canonical, convolve_transposed_canonical
from epochal.ops.kernels.matmul import multiply

Sizes = Sequence[int]
Pads = Sequence[tuple[int, int]]
AnyArray = Array | np.ndarray  # while shapes are being computed, weights are NumPy placeholders

# A kernel (or pool) with more cells than this is cut axis by axis, with more than MAX_SLICES along its axes not at all.
MAX_CELLS = 49
MAX_SLICES = 128
# Patches larger than this are made for a part of the batch at a time, and again for the gradient: on the measured
# 2-core machine as fast as all at once or faster (68-85 against 107-175 ms a step for 32 x 34 x 34 x 64 -> 64), in a
# fifth of the memory.
PATCH_BYTES = 32 * 2**20
# Patches, a matrix of (n * out) rows and K = cells * c columns, are faster than the canonical form up to so many rows
# times K²: few columns are what the canonical form's kernels are slow with, and many rows do not fit into the caches.
# Strides cost the canonical form more, as its gradients work on arrays with zeros in between. A transposed convolution
# along one axis has a limit of its own; along two, patches have none. benchmarks/RESULTS-convolution.md has the grid.
FEW, FEW_STRIDED, FEW_TRANSPOSED = 1e8, 4e8, 4e7
# Groups are convolved one by one where all their patches have more values than this, unless they are more than these.
MANY_VALUES, MOST_SPLIT = 2**20, 32


def slices_are_faster() -> bool:
    """Whether shifted slices beat XLA's own windowed operations on this platform."""
    return jax.default_backend() == "cpu"


def padding_amounts(
    padding: str, space: Sizes, window: Sizes, strides: Sizes, dilation: Sizes
) -> list[tuple[int, int]]:
    """Cells to add before and after each axis of space.

    `"same"` gives ceil(size / stride) outputs and puts the odd cell at the end, as TensorFlow and Keras do; `"causal"`
    puts all before; `"valid"` adds none.
    """
    reach = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    if padding == "valid":
        return [(0, 0)] * len(space)
    if padding == "causal":
        return [(r - 1, 0) for r in reach]
    totals = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(space, strides, reach, strict=True)]
    return [(t // 2, t - t // 2) for t in totals]


def output_sizes(space: Sizes, window: Sizes, strides: Sizes, dilation: Sizes, pads: Pads) -> list[int]:
    """How many windows fit along each axis of space."""
    sizes = zip(space, window, strides, dilation, pads, strict=True)
    return [(n + sum(p) - (w - 1) * d - 1) // s + 1 for n, w, s, d, p in sizes]


def convolve(
    x: Shaped[Array, "n *space c"],
    kernel: Float[AnyArray, "*window part f"],
    strides: Sizes,
    padding: str = "valid",
    dilation: Sizes | None = None,
    groups: int = 1,
) -> Float[Array, "n *out f"]:
    """The convolution (in the field's sense: the kernel is not flipped) of `x` with `kernel`.

    Args:
        x: inputs; cast to the kernel's type.
        kernel: `part` is c / groups: each group of filters sees its own part of the channels.
        strides: cells between neighbouring windows, for each axis of space.
        padding: "valid", "same" or "causal", see `padding_amounts`.
        dilation: cells between neighbouring kernel cells; 1 when not given.
        groups: the number of groups.

    Raises:
        ValueError: the kernel does not fit into the padded input.
    """
    space, window = x.shape[1:-1], kernel.shape[:-2]
    dilation = tuple(dilation or (1,) * len(space))
    pads = padding_amounts(padding, space, window, strides, dilation)
    out = output_sizes(space, window, strides, dilation, pads)
    if min(out) < 1:
        raise ValueError(
            f"Expected inputs at least as large as the kernel {tuple(window)} with dilation {dilation}, "
            f"got {tuple(space)}. Make the kernel smaller, or pad with padding='same'."
        )
    return _convolve(x.astype(kernel.dtype), kernel, tuple(strides), pads, dilation, groups)


def _convolve(x: Array, kernel: Any, strides: Sizes, pads: Pads, dilation: Sizes, groups: int) -> Array:
    out = output_sizes(x.shape[1:-1], kernel.shape[:-2], strides, dilation, pads)
    form = formulation(x.shape, kernel.shape, out, strides, groups)
    if form == "xla":
        return _xla_convolve(x, kernel, strides, pads, dilation, groups)
    if form == "canonical":
        return convolve_canonical(x, kernel, strides, pads, dilation)
    if form == "planes":
        return _convolve_by_planes(x, kernel, strides, pads, dilation)
    if form == "split":
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        return jnp.concatenate([_convolve(a, k, strides, pads, dilation, 1) for a, k in parts], -1)
    cut = functools.partial(_convolve_by_slices, kernel=kernel, strides=strides, dilation=dilation, groups=groups)
    one_row = 0 if form == "scaled slices" else math.prod(out) * math.prod(kernel.shape[:-2]) * x.shape[-1]
    x = _pad(x, pads)
    pieces = _pieces(x.shape[0], one_row * x.dtype.itemsize)
    if pieces == 1 or math.prod(kernel.shape[:-2]) == 1:
        return cut(x)
    y = lax.map(jax.checkpoint(cut), x.reshape(pieces, -1, *x.shape[1:]))
    return y.reshape(-1, *y.shape[2:])


Formulation = Literal["xla", "product", "patches", "canonical", "planes", "split", "scaled slices"]


def formulation(
    shape: Sizes, kernel: Sizes, out: Sizes, strides: Sizes, groups: int = 1, transposed: bool = False
) -> Formulation:
    """How a convolution is computed. Shapes alone decide, so that results do not depend on the machine's load.

    Args:
        shape: the inputs', (n, *space, c).
        kernel: the kernel's, (*window, part, f).
        out: the sizes of the result's space.
        strides: cells between neighbouring windows, for each axis of space.
        groups: the number of groups.
        transposed: whether this convolution is to be transposed.

    Returns:
        "product" of the inputs and a kernel of one cell; "patches" times the kernel; "canonical", see above; "planes":
        the first of three axes as channels, and the others as another convolution; "split": one for each group;
        "scaled slices": a sum for each channel by itself; "xla": what XLA makes of it.
    """
    cells, rows = math.prod(kernel[:-2]), shape[0] * math.prod(out)
    if not slices_are_faster():
        return "xla"
    if groups > 1:
        return _grouped(kernel, rows * cells * shape[-1], groups)
    if cells == 1:
        return "product"
    if len(out) == 3 and kernel[0] <= MAX_SLICES:
        return "planes"
    if _slice_count(kernel[:-2]) > MAX_SLICES or (transposed and len(out) == 2):
        return "canonical"
    few = FEW_TRANSPOSED if transposed else FEW if max(strides) == 1 else FEW_STRIDED
    return "patches" if rows * (cells * shape[-1]) ** 2 <= few else "canonical"


def _grouped(kernel: Sizes, values: int, groups: int) -> Formulation:
    if kernel[-2] > 1 and groups <= MOST_SPLIT and values > MANY_VALUES:
        return "split"
    if _slice_count(kernel[:-2]) > MAX_SLICES:
        return "xla"
    return "scaled slices" if kernel[-2] == 1 else "patches"


def convolve_transposed(
    x: Shaped[Array, "n *space c"],
    kernel: Float[AnyArray, "*window f c"],
    strides: Sizes,
    padding: str,
    dilation: Sizes,
    output_padding: Sizes | None = None,
) -> Float[Array, "n *out f"]:
    """The transpose of `convolve`: what its gradient by the input does, from (n, *space, c) to a larger space.

    Args:
        x: inputs; cast to the kernel's type.
        kernel: as the convolution that is transposed takes it: its outputs, here the inputs, last.
        strides: that convolution's strides.
        padding: "valid", or "same", which cuts the result to size * stride along each axis.
        dilation: that convolution's dilation.
        output_padding: cells more than the smallest result, for each axis; when not given, as many as make every input
            cell's window whole ("valid") or the result size * stride ("same").
    """
    x, window, strides = x.astype(kernel.dtype), kernel.shape[:-2], tuple(strides)
    reach = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    y = _convolve_transposed(x, kernel, strides, tuple(dilation))
    extra = output_padding or [None] * len(window)
    edges = [_transposed_edges(padding, r, s, e) for r, s, e in zip(reach, strides, extra, strict=True)]
    return lax.pad(y, np.zeros((), y.dtype), [(0, 0, 0), *((*e, 0) for e in edges), (0, 0, 0)])


def _convolve_transposed(x: Array, kernel: Any, strides: Sizes, dilation: Sizes) -> Array:
    """The whole transposed convolution, (n - 1) * stride + reach along each axis."""
    window, filters = kernel.shape[:-2], kernel.shape[-2]
    sizes = zip(x.shape[1:-1], window, strides, dilation, strict=True)
    large = (x.shape[0], *((n - 1) * s + (w - 1) * d + 1 for n, w, s, d in sizes), filters)
    form = formulation(large, kernel.shape, x.shape[1:-1], strides, transposed=True)
    if form == "canonical":
        return convolve_transposed_canonical(x, kernel, strides, dilation)
    if form == "planes":
        return _convolve_transposed_by_planes(x, kernel, strides, dilation)
    if form == "xla":
        direct = functools.partial(_xla_convolve, pads=[(0, 0)] * len(window), groups=1)
    else:
        direct = functools.partial(_convolve_by_slices, groups=1)
    shape = jax.ShapeDtypeStruct(large, x.dtype)
    (y,) = jax.linear_transpose(lambda z: direct(z, kernel, strides=strides, dilation=dilation), shape)(x)
    return y


def _transposed_edges(padding: str, reach: int, stride: int, extra: int | None) -> tuple[int, int]:
    """Cells to add to a whole transposed convolution before and after; negative ones are cut off."""
    if padding == "valid":
        return 0, max(stride - reach, 0) if extra is None else extra
    # the size wanted, less the whole size (n - 1) * stride + reach
    more = stride - reach if extra is None else reach % 2 + extra - reach
    before = min((more + 2 * reach - 1) // 2 - (reach - 1), 0)  # Keras's split: the odd cell stays at the start
    return before, more - before


def max_pool(
    x: Shaped[Array, "n *space c"], window: Sizes, strides: Sizes, padding: str = "valid"
) -> Shaped[Array, "n *out c"]:
    """The largest value in each window; where several are equal the gradient goes to the first. NaN wins.

    Raises:
        ValueError: the window does not fit into the input.
    """
    low = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    pads = _pool_pads(x, window, strides, padding)
    if not slices_are_faster() or math.prod(window) > MAX_CELLS:
        return lax.reduce_window(x, np.asarray(low, x.dtype), lax.max, *_around(window, strides, pads))
    return _max_by_slices(_pad(x, pads, low), tuple(window), tuple(strides))


def average_pool(
    x: Float[Array, "n *space c"], window: Sizes, strides: Sizes, padding: str = "valid"
) -> Float[Array, "n *out c"]:
    """The mean of each window, over the cells that are not padding.

    Raises:
        ValueError: the window does not fit into the input.
    """
    pads = _pool_pads(x, window, strides, padding)
    if not slices_are_faster() or math.prod(window) > MAX_CELLS:
        total = lax.reduce_window(x, np.zeros((), x.dtype), lax.add, *_around(window, strides, pads))
    else:
        total = functools.reduce(jnp.add, _windows(_pad(x, pads), window, strides, (1,) * len(window)))
    if not any(map(any, pads)):
        return total / math.prod(window)
    ones = jnp.ones((1, *x.shape[1:-1], 1), x.dtype)
    cells = functools.reduce(jnp.add, _windows(_pad(ones, pads), window, strides, (1,) * len(window)))
    return total / cells


# -- formulations


def _xla_convolve(x: Array, kernel: Any, strides: Sizes, pads: Pads, dilation: Sizes, groups: int) -> Array:
    rank = x.ndim - 2
    last = (0, rank + 1, *range(1, rank + 1))
    numbers = lax.ConvDimensionNumbers(last, (rank + 1, rank, *range(rank)), last)
    return lax.conv_general_dilated(
        x,
        kernel,
        tuple(strides),
        list(pads),
        rhs_dilation=tuple(dilation),
        dimension_numbers=numbers,
        feature_group_count=groups,
    )


def _convolve_by_planes(x: Array, kernel: Any, strides: Sizes, pads: Pads, dilation: Sizes) -> Array:
    """A convolution over volumes as one over images, whose channels are all that a window sees along the first axis."""
    depth, *window = kernel.shape[:3]
    x = _pad(x, [pads[0], (0, 0), (0, 0)])
    slices = list(_windows(x, (depth, 1, 1), (strides[0], 1, 1), (dilation[0], 1, 1)))
    planes = jnp.concatenate(slices, -1).reshape(-1, *x.shape[2:4], depth * x.shape[-1])
    flat = jnp.moveaxis(kernel, 0, 2).reshape(*window, -1, kernel.shape[-1])
    y = _convolve(planes, flat, strides[1:], pads[1:], dilation[1:], 1)
    return y.reshape(x.shape[0], -1, *y.shape[1:])


def _convolve_transposed_by_planes(x: Array, kernel: Any, strides: Sizes, dilation: Sizes) -> Array:
    """A transposed one over images makes the planes that each plane adds to, as channels; then these are added."""
    n, planes = x.shape[:2]
    flat = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])
    y = _convolve_transposed(x.reshape(-1, *x.shape[2:]), flat, strides[1:], dilation[1:])
    y = y.reshape(n, planes, *y.shape[1:])
    total = (kernel.shape[0] - 1) * dilation[0]

    def placed(i: int, part: Array) -> Array:
        before = i * dilation[0]
        edges = [(0, 0, 0), (before, total - before, strides[0] - 1), *[(0, 0, 0)] * 3]
        return lax.pad(part, np.zeros((), part.dtype), edges)

    return functools.reduce(jnp.add, (placed(i, part) for i, part in enumerate(jnp.split(y, kernel.shape[0], -1))))


def _convolve_by_slices(x: Array, kernel: AnyArray, strides: Sizes, dilation: Sizes, groups: int) -> Array:
    """A convolution of inputs that are padded already, as matrix products of shifted slices."""
    window, (part, filters) = kernel.shape[:-2], kernel.shape[-2:]
    if groups == 1:
        return multiply(_patches(x, window, strides, dilation), kernel.reshape(-1, filters))
    if part == 1:  # depthwise: a sum of scaled slices, in float32 as the kernel's gradient adds up all places
        wide = jnp.promote_types(x.dtype, jnp.float32)
        weights = kernel.reshape(-1, groups, filters // groups).astype(wide)
        slices = _windows(x.astype(wide), window, strides, dilation)
        y = functools.reduce(jnp.add, (s[..., None] * w for s, w in zip(slices, weights, strict=True)))
        return y.reshape(*y.shape[:-2], filters).astype(x.dtype)
    patches = jnp.stack(list(_windows(x, window, strides, dilation)), -2)
    patches = patches.reshape(*patches.shape[:-1], groups, part)
    y = jnp.einsum("...kgp,kpgf->...gf", patches, kernel.reshape(-1, part, groups, filters // groups))
    return y.reshape(*y.shape[:-2], filters)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _max_by_slices(x: Array, window: Sizes, strides: Sizes) -> Array:
    """The largest value in each window of inputs that are padded already."""
    return _largest(x, window, strides)[0]


@_max_by_slices.defjvp
def _max_by_slices_jvp(window: Sizes, strides: Sizes, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Keeps one byte for each window, the number of its largest cell, where JAX would keep the comparisons."""
    y, cell = _largest(primals[0], window, strides)
    (t,), cells = tangents, math.prod(window)
    if tuple(window) != tuple(strides):
        slices = _windows(t, window, strides, (1,) * len(window))
        return y, functools.reduce(jnp.add, (jnp.where(cell == i, part, 0) for i, part in enumerate(slices)))
    # Windows that do not overlap are a change of shape: (n, out, window, out, window, …, c).
    sizes = [size for pair in zip(y.shape[1:-1], window, strict=True) for size in pair]
    edge = [o * w for o, w in zip(y.shape[1:-1], window, strict=True)]
    t = lax.slice(t, (0,) * t.ndim, (t.shape[0], *edge, t.shape[-1])).reshape(t.shape[0], *sizes, t.shape[-1])
    axes = tuple(range(2, t.ndim, 2))
    number = np.arange(cells, dtype=cell.dtype).reshape(1, *[n for w in window for n in (1, w)], 1)
    return y, jnp.where(jnp.expand_dims(cell, axes) == number, t, 0).sum(axes)


def _largest(x: Array, window: Sizes, strides: Sizes) -> tuple[Array, Array]:
    """The largest value in each window, and the number of the first cell that holds it; NaN counts as the largest."""
    first, *others = _windows(x, window, strides, (1,) * len(window))
    y, cell = first, jnp.zeros(first.shape, jnp.uint8)
    for i, part in enumerate(others, 1):
        stays = (y >= part) | jnp.isnan(y)
        y, cell = jnp.where(stays, y, part), jnp.where(stays, cell, np.uint8(i))
    return y, cell


def _patches(x: Array, window: Sizes, strides: Sizes, dilation: Sizes) -> Array:
    """(n, *space, c) -> (n, *out, cells * c): every window's cells side by side, in the order of the kernel's."""
    if math.prod(window) <= MAX_CELLS:
        return jnp.concatenate(list(_windows(x, window, strides, dilation)), -1)
    for axis in reversed(range(len(window))):  # fewer slices, at the price of one more copy for each axis
        along = [w if i == axis else 1 for i, w in enumerate(window)]
        steps = [s if i == axis else 1 for i, s in enumerate(strides)]
        x = jnp.concatenate(list(_windows(x, along, steps, dilation)), -1)
    return x


def _windows(x: Array, window: Sizes, strides: Sizes, dilation: Sizes) -> Iterator[Array]:
    """For each cell of the window the slice of `x` that it meets, (n, *out, c), in row-major order."""
    out = output_sizes(x.shape[1:-1], window, strides, dilation, [(0, 0)] * len(window))
    for cell in itertools.product(*map(range, window)):
        starts = [i * d for i, d in zip(cell, dilation, strict=True)]
        ends = [a + (o - 1) * s + 1 for a, o, s in zip(starts, out, strides, strict=True)]
        yield lax.slice(x, (0, *starts, 0), (x.shape[0], *ends, x.shape[-1]), (1, *strides, 1))


def _pad(x: Array, pads: Pads, value: int | float = 0) -> Array:
    return jnp.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value) if any(map(any, pads)) else x


def _pieces(rows: int, bytes_per_row: int) -> int:
    """The smallest divisor of `rows` that cuts the patches down to PATCH_BYTES, or `rows`."""
    least = -(-rows * bytes_per_row // PATCH_BYTES)
    return next((p for p in range(max(least, 1), rows) if rows % p == 0), max(rows, 1)) if least > 1 else 1


def _slice_count(window: Sizes) -> int:
    return math.prod(window) if math.prod(window) <= MAX_CELLS else sum(window)


def _pool_pads(x: Array, window: Sizes, strides: Sizes, padding: str) -> list[tuple[int, int]]:
    space, ones = x.shape[1:-1], (1,) * len(window)
    pads = padding_amounts(padding, space, window, strides, ones)
    if min(output_sizes(space, window, strides, ones, pads)) < 1:
        raise ValueError(f"Expected inputs at least as large as the pool {tuple(window)}, got {tuple(space)}.")
    return pads


def _around(window: Sizes, strides: Sizes, pads: Pads) -> tuple[tuple, tuple, list]:
    """The arguments of `reduce_window`, which takes all axes."""
    return (1, *window, 1), (1, *strides, 1), [(0, 0), *pads, (0, 0)]
