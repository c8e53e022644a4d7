"""Ops beyond NumPy's: segments, ranks, special functions, Fourier transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from epochal.ops.wrap import op, reduction, tensor, unary

# fmt: off
__all__ = [
    "cdist", "erf", "erfc", "erfinv", "extract_sequences", "fft", "fft2", "ifft2", "in_top_k", "irfft", "logdet",
    "logsumexp", "rfft", "rsqrt", "segment_max", "segment_min", "segment_prod", "segment_sum", "top_k",
    "view_as_complex", "view_as_real",
]

# fmt: on

erf = unary(jax.lax.erf)
erfc = unary(jax.scipy.special.erfc)
erfinv = unary(jax.scipy.special.erfinv)
logsumexp = reduction(jax.nn.logsumexp)
rsqrt = unary(jax.lax.rsqrt)


@op
def logdet(x: Any) -> Array:
    """The logarithm of the size of a determinant."""
    return jnp.linalg.slogdet(tensor(x))[1]


@op
def cdist(x: Any, y: Any) -> Array:
    """Euclidean distances of all pairs of rows, (..., n, d) and (..., m, d) -> (..., n, m)."""
    difference = jnp.expand_dims(tensor(x), -2) - jnp.expand_dims(tensor(y), -3)
    return jnp.sqrt(jnp.sum(jnp.square(difference), -1))


@op
def top_k(x: Any, k: int, sorted: bool = True) -> tuple[Array, Array]:
    """The k largest values along the last axis, falling, and their indices; sorted whether asked for or not."""
    values, indices = jax.lax.top_k(jnp.asarray(x), k)
    return values, indices


@op
def in_top_k(targets: Any, predictions: Any, k: int) -> Array:
    """Whether the class `targets` (n,) is among the k largest of `predictions` (n, classes); ties count for it."""
    y, p = jnp.asarray(targets), jnp.asarray(predictions)
    own = jnp.take_along_axis(p, y[..., None], axis=-1)
    return jnp.sum(p > jnp.where(jnp.isnan(own), -jnp.inf, own), axis=-1) < k


# -- segments: values of one axis put together by a number that each has


def _segments(reduce: Callable, data: Any, segment_ids: Any, num_segments: int | None, sorted: bool) -> Array:
    if num_segments is None:
        raise ValueError("Expected num_segments: how many segments there are must be known without the data.")
    return reduce(tensor(data), tensor(segment_ids), num_segments, indices_are_sorted=sorted)


@op
def segment_sum(data: Any, segment_ids: Any, num_segments: int | None = None, sorted: bool = False) -> Array:
    """The sums of the rows with each number.

    Args:
        data: shape (n, ...).
        segment_ids: the rows' numbers, shape (n,).
        num_segments: how many there are; the result is (num_segments, ...).
        sorted: whether the numbers rise.

    Raises:
        ValueError: `num_segments` is not given.
    """
    return _segments(jax.ops.segment_sum, data, segment_ids, num_segments, sorted)


@op
def segment_max(data: Any, segment_ids: Any, num_segments: int | None = None, sorted: bool = False) -> Array:
    """The largest of the rows with each number, as `segment_sum`; of no rows, -infinity or the smallest integer."""
    return _segments(jax.ops.segment_max, data, segment_ids, num_segments, sorted)


@op
def segment_min(data: Any, segment_ids: Any, num_segments: int | None = None, sorted: bool = False) -> Array:
    """The smallest of the rows with each number, as `segment_sum`; of no rows, infinity or the largest integer."""
    return _segments(jax.ops.segment_min, data, segment_ids, num_segments, sorted)


@op
def segment_prod(data: Any, segment_ids: Any, num_segments: int | None = None, sorted: bool = False) -> Array:
    """The products of the rows with each number, as `segment_sum`."""
    return _segments(jax.ops.segment_prod, data, segment_ids, num_segments, sorted)


# -- Fourier transforms; complex numbers are pairs (real part, imaginary part)


def _complex(x: Any) -> Array:
    if not isinstance(x, tuple | list) or len(x) != 2:
        raise ValueError(f"Expected a pair (real part, imaginary part), got a {type(x).__name__}.")
    return jax.lax.complex(jnp.asarray(x[0]), jnp.asarray(x[1]))


def _parts(x: Array) -> tuple[Array, Array]:
    return jnp.real(x), jnp.imag(x)


@op
def fft(x: Any) -> tuple[Array, Array]:
    """The Fourier transform along the last axis, of and as a pair (real part, imaginary part)."""
    return _parts(jnp.fft.fft(_complex(x)))


@op
def fft2(x: Any) -> tuple[Array, Array]:
    """The Fourier transform along the last two axes, of and as a pair (real part, imaginary part)."""
    return _parts(jnp.fft.fft2(_complex(x)))


@op
def ifft2(x: Any) -> tuple[Array, Array]:
    """The inverse of `fft2`."""
    return _parts(jnp.fft.ifft2(_complex(x)))


@op
def rfft(x: Any, fft_length: int | None = None) -> tuple[Array, Array]:
    """The Fourier transform of real numbers along the last axis, without the half that mirrors the other."""
    return _parts(jnp.fft.rfft(tensor(x), fft_length))


@op
def irfft(x: Any, fft_length: int | None = None) -> Array:
    """The inverse of `rfft`."""
    return jnp.fft.irfft(_complex(x), fft_length)


@op
def view_as_complex(x: Any) -> Array:
    """Pairs (real part, imaginary part) along the last axis as complex numbers, (..., 2) -> (...)."""
    pairs = jnp.asarray(x)
    if pairs.ndim < 1 or pairs.shape[-1] != 2:
        raise ValueError(f"Expected a last axis of size 2, the real and the imaginary part, got shape {pairs.shape}.")
    return jax.lax.complex(pairs[..., 0], pairs[..., 1])


@op
def view_as_real(x: Any) -> Array:
    """Complex numbers as pairs (real part, imaginary part), (...) -> (..., 2)."""
    return jnp.stack(_parts(jnp.asarray(x)), axis=-1)


@op
def extract_sequences(x: Any, sequence_length: int, sequence_stride: int) -> Array:
    """Windows of the last axis, (..., n) -> (..., windows, sequence_length)."""
    signal = jnp.asarray(x)
    starts = jnp.arange(0, signal.shape[-1] - sequence_length + 1, sequence_stride)
    return signal[..., starts[:, None] + jnp.arange(sequence_length)]
