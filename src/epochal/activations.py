"""Keras's activation functions, over `jax.nn`. Each takes an array of any shape and works element by element,
unless it says otherwise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import Shaped

from epochal.registry.configurable import register_functions
from epochal.registry.lookup import find
from epochal.registry.serialize import deserialize
from epochal.tracing.attachments import Beside

__all__ = [
    "celu",
    "elu",
    "exponential",
    "gelu",
    "get",
    "glu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_shrink",
    "softmax",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "sparsemax",
    "squareplus",
    "swish",
    "tanh",
    "tanh_shrink",
    "threshold",
]


def __dir__() -> list[str]:
    return list(__all__)


In = Shaped[Array | np.ndarray, "*shape"]
Out = Shaped[Array, "*shape"]


def linear(x: Any) -> Any:
    """x itself."""
    return x


def relu(
    x: In, negative_slope: int | float = 0.0, max_value: int | float | None = None, threshold: int | float = 0.0
) -> Out:
    """max(x, 0), with Keras's variations.

    Args:
        x: any shape.
        negative_slope: below the threshold the result is negative_slope * (x - threshold).
        max_value: the result is cut off here.
        threshold: values up to here count as negative.
    """
    if negative_slope and max_value is None and not threshold:
        return jax.nn.leaky_relu(x, negative_slope)
    y = jnp.where(x > threshold, x, 0) if threshold else jax.nn.relu(x)
    if max_value is not None:
        y = jnp.clip(y, 0, max_value)
    return y - negative_slope * jax.nn.relu(threshold - x) if negative_slope else y


def relu6(x: In) -> Out:
    """min(max(x, 0), 6)."""
    return jax.nn.relu6(x)


def leaky_relu(x: In, negative_slope: int | float = 0.2) -> Out:
    """x where it is positive, negative_slope * x elsewhere."""
    return jax.nn.leaky_relu(x, negative_slope)


def elu(x: In, alpha: int | float = 1.0) -> Out:
    """x where it is positive, alpha * (exp(x) - 1) elsewhere (Clevert et al. 2016)."""
    return jax.nn.elu(x, alpha)


def selu(x: In) -> Out:
    """1.0507 * elu(x, 1.6733), which keeps mean 0 and variance 1 from layer to layer (Klambauer et al. 2017)."""
    return jax.nn.selu(x)


def celu(x: In, alpha: int | float = 1.0) -> Out:
    """x where it is positive, alpha * (exp(x / alpha) - 1) elsewhere (Barron 2017)."""
    return jax.nn.celu(x, alpha)


def gelu(x: In, approximate: bool = False) -> Out:
    """x times the normal distribution function of x, or its tanh approximation (Hendrycks and Gimpel 2016)."""
    if approximate:
        return jax.nn.gelu(x, approximate=True)
    # Not by erfc as in jax.nn, whose gradient takes 1.4 times as long on CPU; the difference is below 1e-6.
    x = jnp.asarray(x)
    return 0.5 * x * (1 + jax.lax.erf(x * np.array(np.sqrt(0.5), x.dtype)))


def sigmoid(x: In) -> Out:
    """1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(x)


def hard_sigmoid(x: In) -> Out:
    """x / 6 + 1/2, cut off at 0 and 1."""
    return jax.nn.hard_sigmoid(x)


def log_sigmoid(x: In) -> Out:
    """log(1 / (1 + exp(-x)))."""
    return jax.nn.log_sigmoid(x)


def sparse_sigmoid(x: In) -> Out:
    """(x + 1) / 2, cut off at 0 and 1 (Blondel et al. 2019)."""
    return jax.nn.sparse_sigmoid(x)


def softmax(x: In, axis: int | Sequence[int] = -1) -> Out:
    """exp(x) divided by its sum over `axis`."""
    y = jax.nn.softmax(x, axis if isinstance(axis, int) else tuple(axis))
    if isinstance(axis, int) and isinstance(y, Tracer):
        set_origin(y, Origin(x, axis % y.ndim))
    return y


@functools.partial(jax.tree_util.register_dataclass, data_fields=["logits"], meta_fields=["axis"])
@dataclass(frozen=True)
class Origin:
    """What probabilities are the softmax of, along which axis."""

    logits: Any
    axis: int


# While a step is traced: what probabilities were made of, so that a loss need not take the logarithm of an exponential.
_origins = Beside()


def get_origin(probabilities: Any) -> Origin | None:
    """What these probabilities are the `softmax` of; None where that is not known."""
    return _origins.get(probabilities)


def set_origin(probabilities: Any, origin: Origin | None) -> None:
    """Says what these probabilities are the softmax of."""
    _origins.put(probabilities, origin)


def logits_of(probabilities: Any, axis: int) -> Array | None:
    """What these probabilities are the `softmax` of along `axis`; None where that is not known."""
    origin = get_origin(probabilities)
    return origin.logits if origin is not None and origin.axis == axis % probabilities.ndim else None


def log_softmax(x: In, axis: int | Sequence[int] = -1) -> Out:
    """The logarithm of softmax over `axis`."""
    return jax.nn.log_softmax(x, axis if isinstance(axis, int) else tuple(axis))


def sparsemax(x: In, axis: int = -1) -> Out:
    """The probability vector nearest to x, along `axis` (Martins and Astudillo 2016, algorithm 1)."""
    z = jnp.moveaxis(jnp.asarray(x), axis, -1)
    down = jnp.flip(jnp.sort(z, axis=-1), axis=-1)
    k = jnp.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    excess = jnp.cumsum(down, axis=-1) - 1
    kept = (k * down > excess).sum(axis=-1, keepdims=True)
    tau = jnp.take_along_axis(excess, kept - 1, axis=-1) / kept.astype(z.dtype)
    return jnp.moveaxis(jnp.maximum(z - tau, 0), -1, axis)


def softplus(x: In) -> Out:
    """log(1 + exp(x))."""
    return jax.nn.softplus(x)


def softsign(x: In) -> Out:
    """x / (1 + |x|)."""
    return jax.nn.soft_sign(x)


def tanh(x: In) -> Out:
    """The hyperbolic tangent."""
    return jnp.tanh(x)


def silu(x: In) -> Out:
    """x * sigmoid(x), also called swish (Ramachandran et al. 2017)."""
    return jax.nn.silu(x)


def hard_silu(x: In) -> Out:
    """x * hard_sigmoid(x), also called hard swish (Howard et al. 2019)."""
    return jax.nn.hard_silu(x)


def mish(x: In) -> Out:
    """x * tanh(softplus(x)) (Misra 2019)."""
    return jax.nn.mish(x)


def exponential(x: In) -> Out:
    """exp(x)."""
    return jnp.exp(x)


def glu(x: In, axis: int = -1) -> Shaped[Array, "*halved"]:
    """a * sigmoid(b), where a and b are the halves of x along `axis` (Dauphin et al. 2017).

    Raises:
        ValueError: the size of x along `axis` is odd.
    """
    if x.shape[axis] % 2:
        raise ValueError(f"Expected an even size along axis {axis} for glu, got shape {x.shape}.")
    return jax.nn.glu(x, axis)


def sparse_plus(x: In) -> Out:
    """0 up to -1, (x + 1)² / 4 up to 1, then x."""
    return jax.nn.sparse_plus(x)


def squareplus(x: In, b: int | float = 4) -> Out:
    """(x + sqrt(x² + b)) / 2 (Barron 2021)."""
    return jax.nn.squareplus(x, b)


def tanh_shrink(x: In) -> Out:
    """x - tanh(x)."""
    return jnp.asarray(x) - jnp.tanh(x)


def hard_tanh(x: In) -> Out:
    """x, cut off at -1 and 1."""
    return jax.nn.hard_tanh(x)


def hard_shrink(x: In, threshold: int | float = 0.5) -> Out:
    """x where |x| > threshold, else 0."""
    return jnp.where(jnp.abs(x) > threshold, x, 0)


def soft_shrink(x: In, threshold: int | float = 0.5) -> Out:
    """x moved towards 0 by `threshold`; 0 where |x| is smaller."""
    return jnp.where(x > threshold, x - threshold, jnp.where(x < -threshold, x + threshold, 0))


def threshold(x: In, threshold: int | float, default_value: int | float) -> Out:
    """x where it is above `threshold`, else `default_value`."""
    return jnp.where(x > threshold, x, default_value)


swish = silu
hard_swish = hard_silu

NAMES: dict[str, Callable] = {
    f.__name__: f
    for f in (
        *(linear, relu, relu6, leaky_relu, elu, selu, celu, gelu, sigmoid, hard_sigmoid, log_sigmoid, sparse_sigmoid),
        *(
            softmax,
            log_softmax,
            sparsemax,
            softplus,
            softsign,
            tanh,
            silu,
            hard_silu,
            mish,
            exponential,
            glu,
            sparse_plus,
        ),
        *(squareplus, tanh_shrink, hard_tanh, hard_shrink, soft_shrink, threshold),
    )
}
register_functions("activations", NAMES)
NAMES |= {"swish": silu, "hard_swish": hard_silu}


def get(identifier: Any) -> Callable:
    """The activation meant by `identifier`.

    Args:
        identifier: a name ("relu"), a function from an array to an array, what `epochal.config.serialize` wrote, or
            None, which is `linear`.

    Raises:
        ValueError: an unknown name, or an object of another kind.
    """
    if identifier is None:
        return linear
    if isinstance(identifier, str):
        return find("activation", identifier, NAMES)
    if isinstance(identifier, dict):
        identifier = deserialize(identifier)
    if callable(identifier):
        return identifier
    raise ValueError(f"Expected the name of an activation or a function, got {identifier!r}.")
