"""How weights get their first values: Keras's initializers, drawn with JAX's random numbers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Shaped

from epochal.random import SeedStream, next_key
from epochal.registry.configurable import Configurable
from epochal.registry.lookup import find
from epochal.registry.naming import snake_case
from epochal.registry.serialize import deserialize

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Identity",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "VarianceScaling",
    "Zeros",
    "constant",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "lecun_normal",
    "lecun_uniform",
    "ones",
    "orthogonal",
    "random_normal",
    "random_uniform",
    "truncated_normal",
    "variance_scaling",
    "zeros",
]


def __dir__() -> list[str]:
    return list(__all__)


# The standard deviation of a standard normal that is cut off at -2 and 2.
_TRUNCATED_STD = 0.87962566103423978

_STANDARD: dict[str, Callable[[Array, tuple[int, ...], Any], Array]] = {
    "uniform": jax.random.uniform,
    "normal": jax.random.normal,
    "truncated_normal": lambda key, shape, dtype: jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype),
}

Shape = Sequence[SupportsIndex]
Seed = Any  # an integer, a SeedStream or None; checked when the initializer is made


class Initializer(Configurable):
    """The base of all initializers: an object called with a shape, which gives an array of that shape."""

    _saved_family = "initializers"

    def __call__(self, shape: Shape, dtype: Any = None, key: Array | None = None) -> Array:
        """An array of `shape`.

        Args:
            shape: the array's shape; kernels are (*window, inputs, outputs).
            dtype: its type, float32 when not given.
            key: where the randomness comes from, if the initializer is random and was given no seed.
        """
        raise NotImplementedError(f"{type(self).__name__} has no __call__(self, shape, dtype=None)")


class Zeros(Initializer):
    """All values 0."""

    def __call__(self, shape: Shape, dtype: Any = None, key: Array | None = None) -> Array:
        return jnp.zeros(_sizes(shape), _dtype(dtype))


class Ones(Initializer):
    """All values 1."""

    def __call__(self, shape: Shape, dtype: Any = None, key: Array | None = None) -> Array:
        return jnp.ones(_sizes(shape), _dtype(dtype))


class Constant(Initializer):
    """All values the same, or a given array.

    Args:
        value: a number, or an array that broadcasts to the shape asked for.
    """

    def __init__(self, value: Any = 0.0):
        self.value = value

    def __call__(self, shape: Shape, dtype: Any = None, key: Array | None = None) -> Array:
        value, sizes = jnp.asarray(self.value, _dtype(dtype)), _sizes(shape)
        if any(a not in (1, b) for a, b in zip(value.shape[::-1], sizes[::-1], strict=False)) or value.ndim > len(
            sizes
        ):
            raise ValueError(f"Expected a value that broadcasts to {sizes}, got shape {value.shape}.")
        return jnp.broadcast_to(value, sizes)


class Identity(Initializer):
    """The identity matrix times `gain`; for shapes of two axes only."""

    def __init__(self, gain: int | float = 1.0):
        self.gain = gain

    def __call__(self, shape: Shape, dtype: Any = None, key: Array | None = None) -> Array:
        if len(shape) != 2:
            raise ValueError(f"Expected a shape of 2 axes for Identity, got {_sizes(shape)}.")
        return self.gain * jnp.eye(*_sizes(shape), dtype=_dtype(dtype))


class _Random(Initializer):
    """A random initializer. With a seed, the draw depends on the seed and the shape alone."""

    def __init__(self, seed: Seed = None):
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, SupportsIndex | SeedStream)):
            raise ValueError(f"Expected an integer or a SeedStream as seed, got {seed!r}.")
        self.seed = seed

    def __call__(self, shape: Shape, dtype: Any = None, key: Array | None = None) -> Array:
        return self._sample(self._key(key), _sizes(shape), _dtype(dtype))

    def affine(self, shape: tuple[int, ...]) -> tuple[str, float, float] | None:
        """The draw as a standard distribution ("uniform", "normal", "truncated_normal"), a factor and a shift.

        None for what is no such thing.
        """
        return None

    def _sample(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        affine = self.affine(shape)
        if affine is None:
            raise NotImplementedError(f"{type(self).__name__} has neither affine() nor _sample().")
        kind, factor, shift = affine
        return _STANDARD[kind](key, shape, dtype) * factor + shift

    def _key(self, key: Array | None) -> Array:
        if self.seed is None:
            return next_key() if key is None else key
        seed = self.seed.next_seed() if isinstance(self.seed, SeedStream) else int(self.seed)
        # Keras on JAX makes its key from a seed in this way: the same seed gives the same weights there and here.
        words = np.array([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF], np.uint32)
        return jax.random.wrap_key_data(jnp.asarray(words), impl="threefry2x32")


class RandomNormal(_Random):
    """Draws from the normal distribution with this mean and standard deviation.

    Args:
        mean: the mean.
        stddev: the standard deviation.
        seed: an integer makes every draw the same; a `SeedStream` makes a sequence of draws repeatable.
    """

    def __init__(self, mean: int | float = 0.0, stddev: int | float = 0.05, seed: Seed = None):
        super().__init__(seed)
        self.mean = mean
        self.stddev = stddev

    def affine(self, shape: tuple[int, ...]) -> tuple[str, float, float] | None:
        return "normal", self.stddev, self.mean


class TruncatedNormal(RandomNormal):
    """Draws from the normal distribution, leaving out what is more than two standard deviations from the mean.

    Args:
        mean: the mean.
        stddev: the standard deviation before the tails are cut off; 0.8796 of it is left afterwards.
        seed: an integer makes every draw the same; a `SeedStream` makes a sequence of draws repeatable.
    """

    def affine(self, shape: tuple[int, ...]) -> tuple[str, float, float] | None:
        return "truncated_normal", self.stddev, self.mean


class RandomUniform(_Random):
    """Draws evenly from `minval` (included) to `maxval` (excluded).

    Args:
        minval: the lower bound.
        maxval: the upper bound.
        seed: an integer makes every draw the same; a `SeedStream` makes a sequence of draws repeatable.
    """

    def __init__(self, minval: int | float = -0.05, maxval: int | float = 0.05, seed: Seed = None):
        super().__init__(seed)
        self.minval = minval
        self.maxval = maxval

    def affine(self, shape: tuple[int, ...]) -> tuple[str, float, float] | None:
        return "uniform", self.maxval - self.minval, self.minval


class VarianceScaling(_Random):
    """Draws values of variance `scale / n`, where n is the number of inputs or outputs of the unit that uses them.

    Args:
        scale: a positive number.
        mode: what n is: "fan_in" the inputs, "fan_out" the outputs, "fan_avg" their mean.
        distribution: "truncated_normal" (also "normal"), "untruncated_normal" or "uniform".
        seed: an integer makes every draw the same; a `SeedStream` makes a sequence of draws repeatable.
        input_axes: the axes that count as inputs, where the usual rule (see `fans`) does not hold.
        output_axes: the axes that count as outputs; goes with `input_axes`.

    Raises:
        ValueError: `scale` is not positive, or `mode` or `distribution` is unknown.
    """

    def __init__(
        self,
        scale: Any = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: Seed = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
    ):
        super().__init__(seed)
        if not scale > 0:
            raise ValueError(f"Expected a scale above 0, got {scale!r}.")
        distribution = "truncated_normal" if distribution.lower() == "normal" else distribution.lower()
        self.scale = scale
        self.mode = find("mode", mode, {m: m for m in ("fan_in", "fan_out", "fan_avg")})
        known = ("truncated_normal", "untruncated_normal", "uniform")
        self.distribution = find("distribution", distribution, {d: d for d in known})
        self.input_axes = input_axes
        self.output_axes = output_axes

    def affine(self, shape: tuple[int, ...]) -> tuple[str, float, float] | None:
        fan_in, fan_out = fans(shape, self.input_axes, self.output_axes)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        deviation = math.sqrt(self.scale / max(1.0, n))
        if self.distribution == "uniform":
            limit = math.sqrt(3) * deviation
            return "uniform", 2 * limit, -limit
        if self.distribution == "untruncated_normal":
            return "normal", deviation, 0.0
        return "truncated_normal", deviation / _TRUNCATED_STD, 0.0


class _Preset(VarianceScaling):
    """Variance scaling with everything fixed but the seed and the axes."""

    _scale: float
    _mode: str
    _distribution: str

    def __init__(
        self,
        seed: Seed = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
    ):
        super().__init__(self._scale, self._mode, self._distribution, seed, input_axes, output_axes)


class GlorotUniform(_Preset):
    """Uniform within ±sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010, equation 16)."""

    _scale, _mode, _distribution = 1.0, "fan_avg", "uniform"


class GlorotNormal(_Preset):
    """Truncated normal of variance 2 / (inputs + outputs) (Glorot and Bengio 2010, equation 12)."""

    _scale, _mode, _distribution = 1.0, "fan_avg", "truncated_normal"


class HeUniform(_Preset):
    """Uniform within ±sqrt(6 / inputs) (He et al. 2015)."""

    _scale, _mode, _distribution = 2.0, "fan_in", "uniform"


class HeNormal(_Preset):
    """Truncated normal of variance 2 / inputs (He et al. 2015, equation 10)."""

    _scale, _mode, _distribution = 2.0, "fan_in", "truncated_normal"


class LecunUniform(_Preset):
    """Uniform within ±sqrt(3 / inputs) (LeCun et al. 1998, Efficient BackProp, section 4.6)."""

    _scale, _mode, _distribution = 1.0, "fan_in", "uniform"


class LecunNormal(_Preset):
    """Truncated normal of variance 1 / inputs (LeCun et al. 1998, Efficient BackProp, section 4.6)."""

    _scale, _mode, _distribution = 1.0, "fan_in", "truncated_normal"


class Orthogonal(_Random):
    """A random matrix with orthonormal columns, or rows where there are more columns, times `gain` (Saxe et al. 2014).

    Shapes of more than two axes are seen as a matrix with the last axis as columns.

    Args:
        gain: a factor.
        seed: an integer makes every draw the same; a `SeedStream` makes a sequence of draws repeatable.
    """

    def __init__(self, gain: int | float = 1.0, seed: Seed = None):
        super().__init__(seed)
        self.gain = gain

    def _sample(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        if len(shape) < 2:
            raise ValueError(f"Expected a shape of 2 axes or more for Orthogonal, got {shape}.")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        wide = jnp.promote_types(dtype, jnp.float32)  # there is no QR of half floats
        q, r = jnp.linalg.qr(jax.random.normal(key, (max(rows, columns), min(rows, columns)), wide))
        q = q * jnp.sign(jnp.diag(r))  # without this Q is not uniform over the orthogonal matrices
        q = q.T if rows < columns else q
        return (self.gain * q.reshape(shape)).astype(dtype)


def fans(
    shape: Shape, input_axes: Sequence[int] | None = None, output_axes: Sequence[int] | None = None
) -> tuple[int, int]:
    """How many inputs and outputs a unit with weights of `shape` has: (fan in, fan out).

    Args:
        shape: (inputs, outputs), or (*window, inputs, outputs) of a convolution, where each counts once per place in
            the window; a vector's length is both.
        input_axes: the axes that make up the inputs, if the rule above does not hold.
        output_axes: the axes that make up the outputs; used only together with `input_axes`.
    """
    sizes = _sizes(shape)
    if input_axes is not None and output_axes is not None:
        return math.prod(sizes[a] for a in input_axes), math.prod(sizes[a] for a in output_axes)
    if len(sizes) < 2:
        return math.prod(sizes), math.prod(sizes)
    window = math.prod(sizes[:-2])
    return window * sizes[-2], window * sizes[-1]


def draw(initializer: Callable, shape: Shape, dtype: Any, key: Array) -> Shaped[Array, "*shape"]:
    """What `initializer` gives for `shape`, as an array of type `dtype`; may be traced by `jax.jit`.

    Args:
        initializer: an `Initializer`, a function f(shape, dtype=…) or f(shape), or JAX's f(key, shape, dtype).
        shape: the array's shape.
        dtype: its type.
        key: passed to initializers that take one.

    Raises:
        ValueError: the function returned an array of another shape.
    """
    sizes, dtype = _sizes(shape), _dtype(dtype)
    taken = _parameters(initializer)
    named: dict[str, Any] = {}
    if taken is None or "dtype" in taken:
        named["dtype"] = dtype.name  # by name, as Keras passes it
    if taken is not None and "key" in taken:
        named["key"] = key
    if taken is not None and "key" in taken and "shape" in taken:
        value = initializer(shape=sizes, **named)
    else:
        value = initializer(sizes, **named)
    if np.shape(value) != sizes:
        raise ValueError(
            f"Expected an array of shape {sizes} from the initializer {initializer!r}, got {np.shape(value)}."
        )
    return jnp.asarray(value, dtype)


def draw_together(wanted: Sequence[tuple[Callable, Shape, Any]], key: Array) -> list[Array]:
    """What `draw` gives for many (initializer, shape, dtype), with one call of the random generator per distribution.

    To be compiled: the generator is most of the work of compiling a draw, so deep models draw as fast as flat ones.
    """
    pools: dict[tuple[str, str], int] = {}
    places: list[tuple[tuple[str, str], int, float, float] | None] = []
    for initializer, shape, dtype in wanted:
        shared = isinstance(initializer, _Random) and initializer.seed is None
        affine = initializer.affine(_sizes(shape)) if shared else None
        if affine is None:
            places.append(None)
            continue
        kind, factor, shift = affine
        pool = (kind, _dtype(dtype).name)
        places.append((pool, pools.get(pool, 0), factor, shift))
        pools[pool] = pools.get(pool, 0) + math.prod(_sizes(shape))
    keys = {pool: jax.random.fold_in(key, i) for i, pool in enumerate(sorted(pools))}
    drawn = {pool: _STANDARD[pool[0]](keys[pool], (size,), _dtype(pool[1])) for pool, size in pools.items()}
    values = []
    for i, ((initializer, shape, dtype), place) in enumerate(zip(wanted, places, strict=True)):
        if place is None:
            values.append(draw(initializer, shape, dtype, jax.random.fold_in(key, len(pools) + i)))
            continue
        pool, start, factor, shift = place
        flat = drawn[pool][start : start + math.prod(_sizes(shape))]
        values.append(flat.reshape(_sizes(shape)) * factor + shift)
    return values


def get(identifier: Any) -> Callable | None:
    """The initializer meant by `identifier`.

    Args:
        identifier: a name ("glorot_uniform", "GlorotUniform"), an `Initializer` or its class, a function of (shape,
            dtype), an array (the values themselves), a configuration as Keras or epochal writes it, or None.

    Raises:
        ValueError: an unknown name, or an object of another kind.
    """
    if identifier is None:
        return None
    if isinstance(identifier, str):
        return find("initializer", identifier, NAMES)()
    if isinstance(identifier, Mapping):
        if "class_name" in identifier:
            return find("initializer", identifier["class_name"], NAMES)(**identifier.get("config", {}))
        return deserialize(dict(identifier))
    if isinstance(identifier, np.ndarray | np.generic | Array):
        return Constant(identifier)
    if callable(identifier):
        made: Any = identifier() if inspect.isclass(identifier) else identifier
        return made
    raise ValueError(
        f"Expected the name of an initializer, an Initializer or a function of (shape, dtype), got {identifier!r}."
    )


def _parameters(function: Callable) -> frozenset[str] | None:
    """The names of a function's arguments; None if it does not say, or takes any."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions written in C
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return frozenset(parameters) | {"dtype"}
    return frozenset(parameters)


def _sizes(shape: Shape) -> tuple[int, ...]:
    return tuple(s.__index__() for s in shape)


def _dtype(dtype: Any) -> np.dtype:
    return jnp.dtype(jnp.float32 if dtype is None else dtype)


_PRESETS = (GlorotNormal, GlorotUniform, HeNormal, HeUniform, LecunNormal, LecunUniform)
_RANDOM = (RandomNormal, RandomUniform, TruncatedNormal, VarianceScaling, *_PRESETS, Orthogonal)
_ALL: tuple[type[Initializer], ...] = (Zeros, Ones, Constant, Identity, *_RANDOM)
_CLASSES = {snake_case(cls.__name__): cls for cls in _ALL}
_ALIASES: dict[str, type[Initializer]] = {
    "zero": Zeros,
    "one": Ones,
    "normal": RandomNormal,
    "uniform": RandomUniform,
    "IdentityInitializer": Identity,
    "OrthogonalInitializer": Orthogonal,
}
NAMES: dict[str, type[Initializer]] = {**_CLASSES, **{c.__name__: c for c in _CLASSES.values()}, **_ALIASES}

# Keras also has the classes under these names: `initializers.zeros()`, `initializers.he_normal(seed=1)`.
zeros, ones, constant, identity = Zeros, Ones, Constant, Identity
random_normal, random_uniform, truncated_normal = RandomNormal, RandomUniform, TruncatedNormal
variance_scaling, orthogonal = VarianceScaling, Orthogonal
glorot_normal, glorot_uniform = GlorotNormal, GlorotUniform
he_normal, he_uniform = HeNormal, HeUniform
lecun_normal, lecun_uniform = LecunNormal, LecunUniform
