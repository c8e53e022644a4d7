"""Element by element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from epochal.ops.wrap import binary, bitwise, op, tensor, unary

# fmt: off
__all__ = [
    "abs", "absolute", "add", "allclose", "angle", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2",
    "arctanh", "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_not", "bitwise_or",
    "bitwise_right_shift", "bitwise_xor", "cbrt", "ceil", "clip", "conj", "conjugate", "copy", "cos", "cosh",
    "deg2rad", "divide", "divide_no_nan", "equal", "exp", "exp2", "expm1", "fabs", "floor", "floor_divide", "fmax",
    "fmin", "fmod", "gcd", "greater", "greater_equal", "heaviside", "hypot", "i0", "imag", "isclose", "isfinite",
    "isin", "isinf", "isnan", "isneginf", "isposinf", "isreal", "lcm", "ldexp", "left_shift", "less", "less_equal",
    "log", "log1p", "log2", "log10", "logaddexp", "logaddexp2", "logical_and", "logical_not", "logical_or",
    "logical_xor", "maximum", "minimum", "mod", "multiply", "nan_to_num", "negative", "nextafter", "not_equal",
    "power", "rad2deg", "real", "reciprocal", "right_shift", "round", "select", "sign", "signbit", "sin", "sinc",
    "sinh", "sqrt", "square", "subtract", "tan", "tanh", "true_divide", "trunc", "where",
]
# fmt: on


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
