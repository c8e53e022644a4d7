"""The ops that NumPy has too: `jax.numpy`'s functions under Keras's names, with Keras's arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from epochal.layers.graph import SymbolicTensor
from epochal.ops.wrap import Axis, axes, binary, bitwise, op, reduction, tensor, unary

# fmt: off
__all__ = [
    "abs", "absolute", "add", "all", "allclose", "amax", "amin", "angle", "any", "append", "arange", "arccos",
    "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "argmax", "argmin", "argpartition", "argsort",
    "array", "array_split", "average", "bartlett", "bincount", "bitwise_and", "bitwise_invert",
    "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "blackman",
    "broadcast_to", "cbrt", "ceil", "clip", "concatenate", "conj", "conjugate", "copy", "corrcoef", "correlate",
    "cos", "cosh", "count_nonzero", "cross", "cumprod", "cumsum", "deg2rad", "diag", "diagflat", "diagonal", "diff",
    "digitize", "divide", "divide_no_nan", "dot", "dsplit", "dstack", "einsum", "empty", "empty_like", "equal",
    "exp", "exp2", "expand_dims", "expm1", "eye", "fabs", "flip", "fliplr", "flipud", "floor", "floor_divide",
    "fmax", "fmin", "fmod", "full", "full_like", "gcd", "geomspace", "get_item", "greater", "greater_equal",
    "hamming", "hanning", "heaviside", "histogram", "hsplit", "hstack", "hypot", "i0", "identity", "imag", "inner",
    "isclose", "isfinite", "isin", "isinf", "isnan", "isneginf", "isposinf", "isreal", "kaiser", "kron", "lcm",
    "ldexp", "left_shift", "less", "less_equal", "linspace", "log", "log1p", "log2", "log10", "logaddexp",
    "logaddexp2", "logical_and", "logical_not", "logical_or", "logical_xor", "logspace", "matmul", "max", "maximum",
    "mean", "median", "meshgrid", "min", "minimum", "mod", "moveaxis", "multiply", "nan_to_num", "nanargmax",
    "nanargmin", "nancumprod", "nancumsum", "nanmax", "nanmean", "nanmedian", "nanmin", "nanpercentile", "nanprod",
    "nanquantile", "nanstd", "nansum", "nanvar", "ndim", "negative", "nextafter", "nonzero", "not_equal", "ones",
    "ones_like", "outer", "pad", "percentile", "power", "prod", "ptp", "quantile", "rad2deg", "ravel", "real",
    "reciprocal", "repeat", "reshape", "right_shift", "roll", "rot90", "round", "searchsorted", "select", "sign",
    "signbit", "sin", "sinc", "sinh", "size", "slogdet", "sort", "split", "sqrt", "square", "squeeze", "stack",
    "std", "subtract", "sum", "swapaxes", "take", "take_along_axis", "tan", "tanh", "tensordot", "tile", "trace",
    "transpose", "trapezoid", "tri", "tril", "triu", "true_divide", "trunc", "unique", "unravel_index", "vander",
    "var", "vdot", "vectorize", "view", "vsplit", "vstack", "where", "zeros", "zeros_like",
]
# fmt: on

Shape = int | Sequence[int]

# -- element by element

abs = unary(jnp.abs)
absolute = unary(jnp.absolute)
angle = unary(jnp.angle)
arccos = unary(jnp.arccos)
arccosh = unary(jnp.arccosh)
arcsin = unary(jnp.arcsin)
arcsinh = unary(jnp.arcsinh)
arctan = unary(jnp.arctan)
arctanh = unary(jnp.arctanh)
bitwise_invert = unary(jnp.bitwise_invert)
bitwise_not = unary(jnp.bitwise_not)
cbrt = unary(jnp.cbrt)
ceil = unary(jnp.ceil)
conj = unary(jnp.conj)
conjugate = unary(jnp.conjugate)
copy = unary(jnp.copy)
cos = unary(jnp.cos)
cosh = unary(jnp.cosh)
deg2rad = unary(jnp.deg2rad)
exp = unary(jnp.exp)
exp2 = unary(jnp.exp2)
expm1 = unary(jnp.expm1)
fabs = unary(jnp.fabs)
floor = unary(jnp.floor)
i0 = unary(jnp.i0)
imag = unary(jnp.imag)
isfinite = unary(jnp.isfinite)
isinf = unary(jnp.isinf)
isnan = unary(jnp.isnan)
isneginf = unary(jnp.isneginf)
isposinf = unary(jnp.isposinf)
isreal = unary(jnp.isreal)
log = unary(jnp.log)
log10 = unary(jnp.log10)
log1p = unary(jnp.log1p)
log2 = unary(jnp.log2)
logical_not = unary(jnp.logical_not)
negative = unary(jnp.negative)
rad2deg = unary(jnp.rad2deg)
real = unary(jnp.real)
reciprocal = unary(jnp.reciprocal)
sign = unary(jnp.sign)
signbit = unary(jnp.signbit)
sin = unary(jnp.sin)
sinc = unary(jnp.sinc)
sinh = unary(jnp.sinh)
sqrt = unary(jnp.sqrt)
square = unary(jnp.square)
tan = unary(jnp.tan)
tanh = unary(jnp.tanh)
trunc = unary(jnp.trunc)

add = binary(jnp.add)
arctan2 = binary(jnp.arctan2)
divide = binary(jnp.divide)
equal = binary(jnp.equal)
floor_divide = binary(jnp.floor_divide)
fmax = binary(jnp.fmax)
fmin = binary(jnp.fmin)
fmod = binary(jnp.fmod)
gcd = binary(jnp.gcd)
greater = binary(jnp.greater)
greater_equal = binary(jnp.greater_equal)
heaviside = binary(jnp.heaviside)
hypot = binary(jnp.hypot)
lcm = binary(jnp.lcm)
ldexp = binary(jnp.ldexp)
less = binary(jnp.less)
less_equal = binary(jnp.less_equal)
logaddexp = binary(jnp.logaddexp)
logaddexp2 = binary(jnp.logaddexp2)
logical_and = binary(jnp.logical_and)
logical_or = binary(jnp.logical_or)
logical_xor = binary(jnp.logical_xor)
maximum = binary(jnp.maximum)
minimum = binary(jnp.minimum)
mod = binary(jnp.mod)
multiply = binary(jnp.multiply)
nextafter = binary(jnp.nextafter)
not_equal = binary(jnp.not_equal)
power = binary(jnp.power)
subtract = binary(jnp.subtract)
true_divide = binary(jnp.true_divide)

bitwise_and = bitwise(jnp.bitwise_and)
bitwise_left_shift = bitwise(jnp.left_shift, "bitwise_left_shift")
bitwise_or = bitwise(jnp.bitwise_or)
bitwise_right_shift = bitwise(jnp.right_shift, "bitwise_right_shift")
bitwise_xor = bitwise(jnp.bitwise_xor)
left_shift = bitwise(jnp.left_shift)
right_shift = bitwise(jnp.right_shift)


@op
def divide_no_nan(x1: Any, x2: Any) -> Array:
    """x1 / x2, and 0 where x2 is 0."""
    a, b = jnp.asarray(x1), jnp.asarray(x2)
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


@op
def clip(x: Any, x_min: Any, x_max: Any) -> Array:
    """x, cut off below x_min and above x_max."""
    return jnp.clip(tensor(x), x_min, x_max)


@op
def nan_to_num(x: Any, nan: Any = 0.0, posinf: Any = None, neginf: Any = None) -> Array:
    """x with numbers in place of NaN and of infinity (when not given: the largest of the type)."""
    return jnp.nan_to_num(tensor(x), nan=nan, posinf=posinf, neginf=neginf)


@op
def round(x: Any, decimals: int = 0) -> Array:
    """x rounded to so many decimals, halves to the even side."""
    return jnp.round(tensor(x), decimals)


@op
def where(condition: Any, x1: Any = None, x2: Any = None) -> Any:
    """x1 where the condition holds, x2 elsewhere; without them the indices where it holds (never in compiled code)."""
    if x1 is None and x2 is None:
        return jnp.where(tensor(condition))
    return jnp.where(tensor(condition), tensor(x1), tensor(x2))


@op
def isclose(x1: Any, x2: Any, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False) -> Array:
    """Whether |x1 - x2| <= atol + rtol |x2|, element by element."""
    return jnp.isclose(tensor(x1), tensor(x2), rtol, atol, equal_nan)


@op
def allclose(x1: Any, x2: Any, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False) -> Array:
    """Whether `isclose` holds everywhere."""
    return jnp.allclose(tensor(x1), tensor(x2), rtol, atol, equal_nan)


@op
def isin(x1: Any, x2: Any, assume_unique: bool = False, invert: bool = False) -> Array:
    """Whether each element of x1 is one of x2."""
    return jnp.isin(tensor(x1), tensor(x2), assume_unique=assume_unique, invert=invert)


@op
def select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Array:
    """Of each place the choice whose condition is the first that holds; `default` where none does."""
    return jnp.select([tensor(c) for c in condlist], [tensor(c) for c in choicelist], default)


# -- along axes

all = reduction(jnp.all)
amax = reduction(jnp.amax)
amin = reduction(jnp.amin)
any = reduction(jnp.any)
argmax = reduction(jnp.argmax)
argmin = reduction(jnp.argmin)
mean = reduction(jnp.mean)
median = reduction(jnp.median)
nanargmax = reduction(jnp.nanargmax)
nanargmin = reduction(jnp.nanargmin)
nanmax = reduction(jnp.nanmax)
nanmean = reduction(jnp.nanmean)
nanmedian = reduction(jnp.nanmedian)
nanmin = reduction(jnp.nanmin)
nanprod = reduction(jnp.nanprod)
nanstd = reduction(jnp.nanstd)
nansum = reduction(jnp.nansum)
nanvar = reduction(jnp.nanvar)
ptp = reduction(jnp.ptp)
std = reduction(jnp.std)
sum = reduction(jnp.sum)
var = reduction(jnp.var)


@op
def max(x: Any, axis: Axis = None, keepdims: bool = False, initial: Any = None) -> Array:
    """The largest value along `axis`, and at least `initial`."""
    return jnp.max(tensor(x), axes(axis), keepdims=keepdims, initial=initial)


@op
def min(x: Any, axis: Axis = None, keepdims: bool = False, initial: Any = None) -> Array:
    """The smallest value along `axis`, and at most `initial`."""
    return jnp.min(tensor(x), axes(axis), keepdims=keepdims, initial=initial)


@op
def prod(x: Any, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Array:
    """The product along `axis`."""
    return jnp.prod(tensor(x), axes(axis), dtype, keepdims=keepdims)


@op
def average(x: Any, axis: Axis = None, weights: Any = None) -> Array:
    """The mean along `axis`, weighted where `weights` are given."""
    return jnp.average(tensor(x), axes(axis), None if weights is None else tensor(weights))


@op
def count_nonzero(x: Any, axis: Axis = None) -> Array:
    """How many values along `axis` are not 0."""
    return jnp.count_nonzero(tensor(x), axes(axis))


@op
def quantile(x: Any, q: Any, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> Array:
    """The values below which the parts `q` (0 … 1) of x lie along `axis`."""
    return jnp.quantile(tensor(x), tensor(q), axes(axis), method=method, keepdims=keepdims)


@op
def nanquantile(x: Any, q: Any, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> Array:
    """`quantile`, NaN left out."""
    return jnp.nanquantile(tensor(x), tensor(q), axes(axis), method=method, keepdims=keepdims)


@op
def percentile(x: Any, q: Any, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> Array:
    """`quantile` with `q` in percent."""
    return jnp.percentile(tensor(x), tensor(q), axes(axis), method=method, keepdims=keepdims)


@op
def nanpercentile(x: Any, q: Any, axis: Axis = None, method: str = "linear", keepdims: bool = False) -> Array:
    """`percentile`, NaN left out."""
    return jnp.nanpercentile(tensor(x), tensor(q), axes(axis), method=method, keepdims=keepdims)


@op
def cumsum(x: Any, axis: int | None = None, dtype: Any = None) -> Array:
    """Running sums along `axis`; of the flattened array for None."""
    return jnp.cumsum(tensor(x), axis, dtype)


@op
def cumprod(x: Any, axis: int | None = None, dtype: Any = None) -> Array:
    """Running products along `axis`; of the flattened array for None."""
    return jnp.cumprod(tensor(x), axis, dtype)


@op
def nancumsum(x: Any, axis: int | None = None, dtype: Any = None) -> Array:
    """`cumsum` with NaN as 0."""
    return jnp.nancumsum(tensor(x), axis, dtype)


@op
def nancumprod(x: Any, axis: int | None = None, dtype: Any = None) -> Array:
    """`cumprod` with NaN as 1."""
    return jnp.nancumprod(tensor(x), axis, dtype)


@op
def diff(a: Any, n: int = 1, axis: int = -1) -> Array:
    """Differences of neighbours along `axis`, taken n times."""
    return jnp.diff(tensor(a), n, axis)


@op
def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Array:
    """The integral of y along `axis` by the trapezoidal rule, at the places x or at steps of dx."""
    return jnp.trapezoid(tensor(y), None if x is None else tensor(x), dx, axis)


# -- sorting and searching


@op
def sort(x: Any, axis: int = -1) -> Array:
    """x in ascending order along `axis`."""
    return jnp.sort(tensor(x), axis)


@op
def argsort(x: Any, axis: int = -1) -> Array:
    """The indices that put x in ascending order along `axis`."""
    array = jnp.asarray(x)
    return jnp.argsort(array, axis if array.ndim else None)


@op
def argpartition(x: Any, kth: int, axis: int | None = -1) -> Array:
    """The indices that bring the smallest `kth` values along `axis` to the front, in any order."""
    array = jnp.asarray(x)
    return jnp.argpartition(array.ravel() if axis is None else array, kth, 0 if axis is None else axis)


@op
def searchsorted(sorted_sequence: Any, values: Any, side: str = "left") -> Array:
    """Where `values` would go in a sorted array of rank 1 to keep it sorted."""
    return jnp.searchsorted(tensor(sorted_sequence), tensor(values), side)


@op
def digitize(x: Any, bins: Any) -> Array:
    """The number of the bin, between the rising edges `bins`, that each value falls into."""
    return jnp.digitize(tensor(x), tensor(bins))


@op
def bincount(x: Any, weights: Any = None, minlength: int = 0, sparse: bool = False) -> Array:
    """How often each integer occurs (or the sum of its weights), row by row for rank 2; not in compiled code.

    Raises:
        ValueError: a sparse result is asked for.
    """
    if sparse:
        raise ValueError("Expected sparse=False: epochal's arrays are dense.")
    array = jnp.asarray(x)
    w = None if weights is None else jnp.asarray(weights)
    if array.ndim == 1:
        return jnp.bincount(array, w, minlength)
    length = int(jnp.maximum(array.max() + 1, minlength))
    rows = [jnp.bincount(row, None if w is None else w[i], length) for i, row in enumerate(array)]
    return jnp.stack(rows)


@op
def histogram(x: Any, bins: Any = 10, range: Any = None) -> tuple[Array, Array]:
    """How many values fall into each bin, and the bins' edges."""
    return jnp.histogram(tensor(x), bins, range)


@op
def unique(
    x: Any,
    sorted: bool = True,
    return_index: bool = False,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: int | None = None,
    size: int | None = None,
    fill_value: Any = None,
) -> Any:
    """The values that occur, each once; in compiled code `size` must say how many to expect."""
    return jnp.unique(
        tensor(x),
        return_index,
        return_inverse,
        return_counts,
        axis,
        equal_nan=False,
        size=size,
        fill_value=fill_value,
        sorted=sorted,
    )


@op
def nonzero(x: Any) -> tuple[Array, ...]:
    """The indices of the values that are not 0, an array per axis; not in compiled code."""
    return jnp.nonzero(tensor(x))


# -- shapes


@op
def reshape(x: Any, newshape: Any) -> Array:
    """x in another shape; one size may be -1, or None as in `shape` of a symbolic tensor."""
    sizes = newshape if isinstance(newshape, int) else [-1 if n is None else n for n in newshape]
    return jnp.reshape(jnp.asarray(x), sizes)


@op
def ravel(x: Any) -> Array:
    """x as one axis."""
    return jnp.ravel(tensor(x))


@op
def expand_dims(x: Any, axis: int | Sequence[int]) -> Array:
    """x with an axis of size 1 more, at each place named."""
    return jnp.expand_dims(tensor(x), axes(axis))


@op
def squeeze(x: Any, axis: Axis = None) -> Array:
    """x without the axes of size 1, or those of them named."""
    return jnp.squeeze(tensor(x), axes(axis))


@op
def transpose(x: Any, axes: Sequence[int] | None = None) -> Array:
    """x with its axes in this order; reversed for None."""
    return jnp.transpose(tensor(x), axes)


@op
def swapaxes(x: Any, axis1: int, axis2: int) -> Array:
    """x with two axes exchanged."""
    return jnp.swapaxes(tensor(x), axis1, axis2)


@op
def moveaxis(x: Any, source: int | Sequence[int], destination: int | Sequence[int]) -> Array:
    """x with axes moved to other places, the others keeping their order."""
    return jnp.moveaxis(tensor(x), axes(source), axes(destination))


@op
def broadcast_to(x: Any, shape: Shape) -> Array:
    """x repeated to this shape."""
    return jnp.broadcast_to(tensor(x), shape)


@op
def flip(x: Any, axis: Axis = None) -> Array:
    """x backwards along these axes."""
    return jnp.flip(tensor(x), axes(axis))


fliplr = unary(jnp.fliplr)
flipud = unary(jnp.flipud)


@op
def rot90(array: Any, k: int = 1, axes: Sequence[int] = (0, 1)) -> Array:
    """The array turned k times by a quarter, from the first of the two axes to the second."""
    return jnp.rot90(tensor(array), k, (axes[0], axes[1]))


@op
def roll(x: Any, shift: Any, axis: Axis = None) -> Array:
    """x moved on along `axis`, what leaves at the end coming in at the start."""
    return jnp.roll(tensor(x), shift, axes(axis))


@op
def repeat(x: Any, repeats: Any, axis: int | None = None) -> Array:
    """Each value so many times in a row along `axis`; of the flattened array for None."""
    return jnp.repeat(tensor(x), repeats, axis)


@op
def tile(x: Any, repeats: Any) -> Array:
    """x so many times side by side along each axis."""
    return jnp.tile(tensor(x), repeats)


@op
def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = None) -> Array:
    """x with cells added before and after each axis.

    Raises:
        ValueError: `constant_values` beside another mode than "constant".
    """
    if constant_values is None:
        return jnp.pad(tensor(x), pad_width, mode)
    if mode != "constant":
        raise ValueError(f"Expected constant_values with mode='constant' only, got mode={mode!r}.")
    return jnp.pad(tensor(x), pad_width, mode, constant_values=constant_values)


@op
def get_item(x: Any, key: Any) -> Array:
    """x[key]."""
    return jnp.asarray(x)[key]


@op
def take(x: Any, indices: Any, axis: int | None = None) -> Array:
    """The values at these indices along `axis`; of the flattened array for None."""
    return jnp.take(tensor(x), tensor(indices), axis)


@op
def take_along_axis(x: Any, indices: Any, axis: int | None = None) -> Array:
    """The values at these indices along `axis`, other ones for each place along the other axes."""
    return jnp.take_along_axis(tensor(x), tensor(indices), axis)


@op
def unravel_index(indices: Any, shape: Any) -> tuple[Array, ...]:
    """Indices into the flattened array as indices per axis."""
    return jnp.unravel_index(tensor(indices), shape)


def ndim(x: Any) -> int:
    """The number of axes; known of a symbolic tensor too."""
    return x.ndim if isinstance(x, SymbolicTensor) else jnp.ndim(tensor(x))


@op
def size(x: Any) -> int:
    """The number of values."""
    return jnp.size(tensor(x))


@op
def view(x: Any, dtype: Any = None) -> Array:
    """The same bits as another type."""
    return jnp.asarray(x).view(dtype)


# -- several arrays


@op
def concatenate(xs: Sequence[Any], axis: int | None = 0) -> Array:
    """Arrays one after the other along `axis`."""
    return jnp.concatenate([tensor(x) for x in xs], axis)


@op
def stack(x: Sequence[Any], axis: int = 0) -> Array:
    """Arrays of one shape side by side along a new axis."""
    return jnp.stack([tensor(part) for part in x], axis)


@op
def hstack(xs: Sequence[Any]) -> Array:
    """Arrays one after the other along the second axis (the first, where there is one only)."""
    return jnp.hstack([tensor(x) for x in xs])


@op
def vstack(xs: Sequence[Any]) -> Array:
    """Arrays one after the other along the first axis; of rank 1 they are rows."""
    return jnp.vstack([tensor(x) for x in xs])


@op
def dstack(xs: Sequence[Any]) -> Array:
    """Arrays one after the other along the third axis."""
    return jnp.dstack([tensor(x) for x in xs])


@op
def append(x1: Any, x2: Any, axis: int | None = None) -> Array:
    """x2 after x1 along `axis`; both flattened for None."""
    return jnp.append(tensor(x1), tensor(x2), axis)


@op
def split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Array]:
    """x cut along `axis` into so many equal parts, or at these indices."""
    return jnp.split(tensor(x), indices_or_sections, axis)


@op
def array_split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Array]:
    """`split` into parts that may differ by one."""
    return jnp.array_split(tensor(x), indices_or_sections, axis)


@op
def hsplit(x: Any, indices_or_sections: Any) -> list[Array]:
    """`split` along the second axis."""
    return jnp.hsplit(tensor(x), indices_or_sections)


@op
def vsplit(x: Any, indices_or_sections: Any) -> list[Array]:
    """`split` along the first axis."""
    return jnp.vsplit(tensor(x), indices_or_sections)


@op
def dsplit(x: Any, indices_or_sections: Any) -> list[Array]:
    """`split` along the third axis."""
    return jnp.dsplit(tensor(x), indices_or_sections)


@op
def meshgrid(*x: Any, indexing: str = "xy") -> list[Array]:
    """Coordinates of all points of the grid that arrays of rank 1 span, an array per axis."""
    return list(jnp.meshgrid(*[tensor(part) for part in x], indexing=indexing))


# -- products and matrices

dot = binary(jnp.dot)
inner = binary(jnp.inner)
kron = binary(jnp.kron)
matmul = binary(jnp.matmul)
outer = binary(jnp.outer)
vdot = binary(jnp.vdot)
corrcoef = unary(jnp.corrcoef)


@op
def tensordot(x1: Any, x2: Any, axes: Any = 2) -> Array:
    """The sum of products over the last axes of x1 and the first of x2, or over those named."""
    return jnp.tensordot(tensor(x1), tensor(x2), axes)


@op
def einsum(subscripts: str, *operands: Any, **kwargs: Any) -> Array:
    """The sum of products that `subscripts` describe, such as "ij,jk->ik"."""
    return jnp.einsum(subscripts, *[tensor(x) for x in operands], **kwargs)


@op
def cross(x1: Any, x2: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None) -> Array:
    """The cross product of vectors along an axis."""
    return jnp.cross(tensor(x1), tensor(x2), axisa, axisb, axisc, axis)


@op
def correlate(x1: Any, x2: Any, mode: str = "valid") -> Array:
    """The sums of products of x1 and the shifted x2, both of rank 1."""
    return jnp.correlate(tensor(x1), tensor(x2), mode)


@op
def slogdet(x: Any) -> tuple[Array, Array]:
    """Sign and logarithm of the size of a determinant."""
    sign, logarithm = jnp.linalg.slogdet(tensor(x))
    return sign, logarithm


@op
def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
    """The sum of a diagonal."""
    return jnp.trace(tensor(x), offset, axis1, axis2)


@op
def diag(x: Any, k: int = 0) -> Array:
    """A diagonal of a matrix, or the matrix that has x on it."""
    return jnp.diag(tensor(x), k)


@op
def diagflat(x: Any, k: int = 0) -> Array:
    """The matrix that has the flattened x on its diagonal."""
    return jnp.diagflat(tensor(x), k)


@op
def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
    """The diagonals over two axes, along the last axis."""
    return jnp.diagonal(tensor(x), offset, axis1, axis2)


@op
def tril(x: Any, k: int = 0) -> Array:
    """x with 0 above its k-th diagonal."""
    return jnp.tril(tensor(x), k)


@op
def triu(x: Any, k: int = 0) -> Array:
    """x with 0 below its k-th diagonal."""
    return jnp.triu(tensor(x), k)


@op
def vander(x: Any, N: int | None = None, increasing: bool = False) -> Array:
    """The powers of x as columns."""
    return jnp.vander(tensor(x), N, increasing)


# -- new arrays; float32 where no type is given


@op
def array(x: Any, dtype: Any = None) -> Array:
    """A new array of these values."""
    return jnp.array(x, dtype)


@op
def zeros(shape: Shape, dtype: Any = None) -> Array:
    """All 0."""
    return jnp.zeros(shape, dtype or "float32")


@op
def ones(shape: Shape, dtype: Any = None) -> Array:
    """All 1."""
    return jnp.ones(shape, dtype or "float32")


@op
def empty(shape: Shape, dtype: Any = None) -> Array:
    """Any values; here all 0."""
    return jnp.empty(shape, dtype or "float32")


@op
def full(shape: Shape, fill_value: Any, dtype: Any = None) -> Array:
    """All the same value."""
    return jnp.full(shape, tensor(fill_value), dtype or "float32")


@op
def zeros_like(x: Any, dtype: Any = None) -> Array:
    """All 0, in the shape of x, and its type where none is given."""
    return jnp.zeros_like(tensor(x), dtype)


@op
def ones_like(x: Any, dtype: Any = None) -> Array:
    """All 1, in the shape of x, and its type where none is given."""
    return jnp.ones_like(tensor(x), dtype)


@op
def empty_like(x: Any, dtype: Any = None) -> Array:
    """Any values (here 0), in the shape of x, and its type where none is given."""
    return jnp.empty_like(tensor(x), dtype)


@op
def full_like(x: Any, fill_value: Any, dtype: Any = None) -> Array:
    """All the same value, in the shape of x, and its type where none is given."""
    return jnp.full_like(tensor(x), tensor(fill_value), dtype)


@op
def eye(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Array:
    """An N by M matrix (M = N when not given) with 1 on its k-th diagonal."""
    return jnp.eye(N, M, k, dtype or "float32")


@op
def identity(n: int, dtype: Any = None) -> Array:
    """The n by n identity."""
    return jnp.identity(n, dtype or "float32")


@op
def tri(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Array:
    """An N by M matrix with 1 on and below its k-th diagonal."""
    return jnp.tri(N, M, k, dtype or "float32")


@op
def arange(start: Any, stop: Any = None, step: Any = None, dtype: Any = None) -> Array:
    """The numbers from `start` (0, if there is no `stop`) up to but without `stop`."""
    return jnp.arange(start, stop, step, dtype)


@op
def linspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    retstep: bool = False,
    dtype: Any = None,
    axis: int = 0,
) -> Any:
    """Numbers at equal distances; with the distance, if `retstep`."""
    return jnp.linspace(start, stop, num, endpoint, retstep, dtype, axis)


@op
def logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10, dtype: Any = None, axis: int = 0
) -> Array:
    """Powers of `base`, their exponents at equal distances."""
    return jnp.logspace(start, stop, num, endpoint, base, dtype, axis)


@op
def geomspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None, axis: int = 0) -> Array:
    """Numbers at equal ratios."""
    return jnp.geomspace(start, stop, num, endpoint, dtype, axis)


bartlett = unary(jnp.bartlett)
blackman = unary(jnp.blackman)
hamming = unary(jnp.hamming)
hanning = unary(jnp.hanning)


@op
def kaiser(x: Any, beta: Any) -> Array:
    """The Kaiser window of x points."""
    return jnp.kaiser(x, beta)


def vectorize(pyfunc: Callable, *, excluded: Any = None, signature: str | None = None) -> Callable:
    """A function of single values as one of arrays of them."""
    return jnp.vectorize(pyfunc, excluded=excluded or set(), signature=signature)
