"""Where random numbers come from: one global seed, from which every unseeded draw takes the next key.

Keras's draws have `seed=`: None takes the next key of the global seed; an integer gives the same numbers at every call,
and those of Keras on JAX; a `SeedGenerator` gives new ones at every call, in compiled training too.
"""

from __future__ import annotations

import random as python_random
import secrets
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.errors import TraceContextError
from jax import Array
from jax.core import Tracer
from jaxtyping import Num, Shaped, UInt32

from epochal.registry.configurable import Configurable
from epochal.tracing import forward_pass

__all__ = [
    "SeedGenerator",
    "SeedStream",
    "beta",
    "binomial",
    "categorical",
    "dropout",
    "gamma",
    "next_key",
    "next_seed",
    "normal",
    "randint",
    "seed_state",
    "set_random_seed",
    "set_seed_state",
    "shuffle",
    "truncated_normal",
    "uniform",
]


def __dir__() -> list[str]:
    return list(__all__)


class SeedStream:
    """Seeds in a fixed order from a first one: the same first seed gives the same sequence."""

    def __init__(self, seed: int, drawn: int = 0):
        self.seed = seed
        self._drawn = drawn
        self._lock = threading.Lock()

    @property
    def drawn(self) -> int:
        """How many seeds have been taken."""
        return self._drawn

    def next_seed(self) -> int:
        """A 32-bit seed that differs from the ones before it."""
        with self._lock:
            self._drawn += 1
            drawn = self._drawn
        return int(np.random.SeedSequence((self.seed, drawn)).generate_state(1)[0])


_global = SeedStream(secrets.randbits(32))


def set_random_seed(seed: int) -> None:
    """Seeds Python's, NumPy's and epochal's random numbers, so that a script gives the same result each time.

    Args:
        seed: an integer in 0 … 2**32 - 1.

    Raises:
        ValueError: `seed` is not such an integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= int(seed) < 2**32:
        raise ValueError(f"Expected a seed between 0 and 2**32 - 1, got {seed!r}.")
    global _global
    python_random.seed(int(seed))
    np.random.seed(int(seed))  # noqa: NPY002  (Keras promises the legacy global generator too)
    _global = SeedStream(int(seed))


def seed_state() -> list[int]:
    """Where the global stream of seeds is, as data for `set_seed_state`."""
    return [_global.seed, _global.drawn]


def set_seed_state(state: Sequence[int]) -> None:
    """Puts the global stream of seeds where it was."""
    global _global
    _global = SeedStream(*state)


def next_seed() -> int:
    """The next seed of the global stream."""
    return _global.next_seed()


def next_key() -> jax.Array:
    """The next random key of the global stream."""
    return jax.random.key(next_seed())


# -- Keras's face

_IMPLEMENTATION = "threefry2x32"  # whatever JAX's default is: a seed is two numbers


class SeedState(nnx.RngState):
    """The array of a `SeedGenerator`: no weight of the layer that holds it, and carried from step to step like one."""


class SeedGenerator(Configurable, nnx.Pytree, pytree=False):
    """A new seed at every call of `next`, the same sequence for the same first seed; those of Keras's generator.

    As an attribute of a layer it goes on drawing in compiled training, where its state is part of the model's.
    Evaluation and prediction leave the state as it is: a batch that is evaluated draws by it and the first example.

    Args:
        seed: an integer in 0 … 2**32 - 1; one of the global stream when not given.
        name: kept for Keras's sake.

    Raises:
        ValueError: `seed` is not such an integer.

    Example:
        >>> from epochal import random
        >>> seeds = random.SeedGenerator(7)
        >>> bool((random.normal((3,), seed=seeds) == random.normal((3,), seed=seeds)).any())
        False
    """

    _saved_family = "random"

    def __init__(self, seed: Any = None, name: str | None = None):
        self.name = name or "seed_generator"
        self.state = SeedState(jnp.asarray(_words(next_seed() if seed is None else seed)))

    def next(self) -> UInt32[Array, " 2"]:
        """The state, to be used as a seed; it moves on."""
        seed: Array = self.state.get_value()
        call = forward_pass.current()
        try:
            self.state.set_value(seed + jnp.array([0, 1], jnp.uint32))
        except TraceContextError:
            # In a pass this is a model that is asked for its shapes; one that computes is a copy made in the trace.
            if call is None:
                raise
        if call is None or call.training or call.ids is None:
            return seed
        return jax.random.key_data(jax.random.fold_in(_key(seed), call.ids[0]))


# An integer, a `SeedGenerator`, one of JAX's keys or None. Not spelled out, so that what is wrong meets our own error.
Seed = Any


def _words(seed: Any) -> np.ndarray:
    """A seed as Keras writes it: the number and a count, (2,) uint32."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= int(seed) < 2**32:
        raise ValueError(f"Expected a seed between 0 and 2**32 - 1, a SeedGenerator or None, got {seed!r}.")
    return np.array([seed, 0], np.uint32)


def _key(seed: Seed) -> Array:
    if isinstance(seed, SeedGenerator):
        return _key(seed.next())
    if isinstance(seed, Array):
        typed = jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)
        return seed if typed else jax.random.wrap_key_data(seed, impl=_IMPLEMENTATION)
    if seed is not None:
        return _key(jnp.asarray(_words(seed)))
    if isinstance(jax.lax.add(np.float32(0), np.float32(0)), Tracer):
        raise ValueError(
            "A draw without a seed would be the same constant in every step of a compiled program. Make a "
            "SeedGenerator an attribute of the layer, and pass it as seed=."
        )
    return next_key()


def normal(
    shape: Sequence[int], mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Seed = None
) -> Shaped[Array, " ..."]:
    """Normal numbers of this mean and standard deviation, of `shape` and `dtype` (float32 when not given)."""
    return jax.random.normal(_key(seed), tuple(shape), dtype or "float32") * stddev + mean


def truncated_normal(
    shape: Sequence[int], mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Seed = None
) -> Shaped[Array, " ..."]:
    """Normal numbers, none more than two standard deviations from the mean; `stddev` is that before the cut."""
    return jax.random.truncated_normal(_key(seed), -2.0, 2.0, tuple(shape), dtype or "float32") * stddev + mean


def uniform(
    shape: Sequence[int], minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None, seed: Seed = None
) -> Shaped[Array, " ..."]:
    """Numbers spread evenly over [minval, maxval)."""
    return jax.random.uniform(_key(seed), tuple(shape), dtype or "float32", minval, maxval)


def randint(
    shape: Sequence[int], minval: Any, maxval: Any, dtype: Any = "int32", seed: Seed = None
) -> Shaped[Array, " ..."]:
    """Integers spread evenly over minval … maxval - 1."""
    return jax.random.randint(_key(seed), tuple(shape), minval, maxval, dtype)


def categorical(
    logits: Num[Array | np.ndarray, "n classes"], num_samples: int, dtype: Any = "int32", seed: Seed = None
) -> Shaped[Array, "n samples"]:
    """Class numbers drawn with the probabilities softmax(logits), (n, classes) -> (n, num_samples)."""
    shape = (logits.shape[0], num_samples)
    return jax.random.categorical(_key(seed), jnp.asarray(logits)[..., None], axis=1, shape=shape).astype(dtype)


def gamma(shape: Sequence[int], alpha: Any, dtype: Any = None, seed: Seed = None) -> Shaped[Array, " ..."]:
    """Numbers of the gamma distribution of shape parameter `alpha` and scale 1."""
    return jax.random.gamma(_key(seed), jnp.asarray(alpha), tuple(shape), dtype or "float32")


def beta(shape: Sequence[int], alpha: Any, beta: Any, dtype: Any = None, seed: Seed = None) -> Shaped[Array, " ..."]:
    """Numbers of the beta distribution with these parameters."""
    a, b = jnp.asarray(alpha), jnp.asarray(beta)
    return jax.random.beta(_key(seed), a, b, tuple(shape), dtype or "float32")


def binomial(
    shape: Sequence[int], counts: Any, probabilities: Any, dtype: Any = None, seed: Seed = None
) -> Shaped[Array, " ..."]:
    """How many of `counts` trials succeed that each do so with `probabilities`."""
    n, p = jnp.asarray(counts), jnp.asarray(probabilities)
    return jax.random.binomial(_key(seed), n, p, tuple(shape), dtype or "float32")


def dropout(
    inputs: Shaped[Array | np.ndarray, "*shape"],
    rate: int | float,
    noise_shape: Sequence[int | None] | None = None,
    seed: Seed = None,
) -> Shaped[Array, "*shape"]:
    """The inputs with a part `rate` of them, in 0 … 1, set to 0, and the others divided by 1 - rate.

    Args:
        inputs: any shape.
        rate: the part that is dropped.
        noise_shape: the shape of the mask: 1 for axes along which values are dropped together, None for the input's.
        seed: see the module's docstring.

    Raises:
        ValueError: `rate` out of range.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"Expected a rate between 0 and 1, got {rate!r}.")
    x = jnp.asarray(inputs)
    if rate in (0, 1):
        return x if rate == 0 else jnp.zeros_like(x)
    sizes = [n if given is None else given for n, given in zip(x.shape, noise_shape or x.shape, strict=True)]
    kept = jax.random.bernoulli(_key(seed), 1 - rate, sizes)
    return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype))


def shuffle(x: Shaped[Array | np.ndarray, "*shape"], axis: int = 0, seed: Seed = None) -> Shaped[Array, "*shape"]:
    """The values in another order along `axis`, another one for each place along the other axes."""
    return jax.random.permutation(_key(seed), jnp.asarray(x), axis, independent=True)
