"""A convolution whose two gradients are, like itself, in the form that XLA has fast kernels for on a CPU.

Those kernels take convolutions of channels-last arrays with kernels (*window, in, out) only. XLA brings others into
this form, but in a program's entry computation alone, not in a loop's body (jax-ml/jax#12868); and the gradients that
JAX takes are others: of the input with the kernel's in and out exchanged, of the kernel with the rows as channels.

So here the derivative is written: linear in each tangent, with arrays laid out such that what JAX makes of it when it
transposes it, which is the gradient, is in the fast form. Since nothing but a derivative is written, forward mode,
gradients of gradients, `vmap` and `linear_transpose` work as for any function; their own products may be slow in loops.

Shapes below: n examples; `space` stands for one axis (1D) to three (3D); c channels in, f filters out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

Sizes = Sequence[int]
Pads = Sequence[tuple[int, int]]


def convolve_canonical(x: Array, kernel: Any, strides: Sizes, pads: Pads, dilation: Sizes) -> Array:
    """The convolution of `x`, (n, *space, c), with `kernel`, (*window, c, f): (n, *out, f).

    Args:
        x: inputs.
        kernel: of the inputs' type.
        strides: cells between neighbouring windows, for each axis of space.
        pads: cells to add before and after each axis.
        dilation: cells between neighbouring kernel cells.
    """
    return _canonical(x, kernel, tuple(strides), tuple((a, b) for a, b in pads), tuple(dilation))


def convolve_transposed_canonical(x: Array, kernel: Any, strides: Sizes, dilation: Sizes) -> Array:
    """The transpose of an unpadded convolution, (n, *space, c) to (n, *large, f).

    Args:
        x: inputs.
        kernel: (*window, f, c), as the convolution that is transposed takes it, of the inputs' type.
        strides: that convolution's strides.
        dilation: that convolution's dilation.
    """
    return _transposed(x, kernel, tuple(strides), tuple(dilation))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _canonical(x: Array, kernel: Array, strides: Sizes, pads: Pads, dilation: Sizes) -> Array:
    return _convolve(x, kernel, _canonical_layout(x.ndim - 2), strides, pads, rhs_dilation=dilation)


def _canonical_derivative(strides: Sizes, pads: Pads, dilation: Sizes, primals: Any, tangents: Any) -> Any:
    x, kernel = primals
    rank = x.ndim - 2

    def of_x(dx: Array) -> Array:  # transposed: a kernel (*window, f, c), its channels in being f
        return _convolve(
            dx, kernel.swapaxes(rank, rank + 1), _swapped_layout(rank), strides, pads, rhs_dilation=dilation
        )

    def of_kernel(dkernel: Array) -> Array:
        """Transposed: inputs (c, *space, n) and a kernel (*out, n, f), whose result is (c, *window, f)."""
        space = tuple(range(1, rank + 1))
        layout = ((rank + 1, 0, *space), (rank + 1, 0, *space), (rank, rank + 1, *range(rank)))
        channels = x.transpose(rank + 1, *space, 0)
        y = _convolve(channels, _channels_first(dkernel), layout, strides, pads, rhs_dilation=dilation)
        return y.transpose(rank, *range(rank), rank + 1)

    return _canonical(x, kernel, strides, pads, dilation), _sum(of_x, of_kernel, tangents)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _transposed(x: Array, kernel: Array, strides: Sizes, dilation: Sizes) -> Array:
    rank = x.ndim - 2
    flipped = lax.rev(kernel, tuple(range(rank))).swapaxes(rank, rank + 1)
    pads = _all_round(kernel.shape[:rank], dilation)
    layout = _canonical_layout(rank)
    return _convolve(x, flipped, layout, (1,) * rank, pads, lhs_dilation=strides, rhs_dilation=dilation)


def _transposed_derivative(strides: Sizes, dilation: Sizes, primals: Any, tangents: Any) -> Any:
    x, kernel = primals
    rank = x.ndim - 2
    space, ones, layout = tuple(range(rank)), (1,) * rank, _swapped_layout(x.ndim - 2)

    def of_x(dx: Array) -> Array:  # transposed: the convolution with the kernel as it is
        flipped, pads = lax.rev(kernel, space), _all_round(kernel.shape[:rank], dilation)
        return _convolve(dx, flipped, layout, ones, pads, lhs_dilation=strides, rhs_dilation=dilation)

    def of_kernel(dkernel: Array) -> Array:
        """Transposed: inputs (f, *large, n), the result's gradient, and a kernel (*space, n, c)."""
        rows = lax.rev(x.transpose(*range(1, rank + 1), 0, rank + 1), space)
        pads = _all_round(x.shape[1:-1], strides)
        filters = _channels_first(dkernel)
        y = _convolve(filters, rows, layout, ones, pads, lhs_dilation=dilation, rhs_dilation=strides)
        return y.swapaxes(0, rank + 1)

    return _transposed(x, kernel, strides, dilation), _sum(of_x, of_kernel, tangents)


_canonical.defjvp(_canonical_derivative, symbolic_zeros=True)
_transposed.defjvp(_transposed_derivative, symbolic_zeros=True)


def _sum(of_x: Callable, of_kernel: Callable, tangents: tuple[Any, Any]) -> Array:
    """The result's tangent: of those tangents that are not known to be zero."""
    parts = zip((of_x, of_kernel), tangents, strict=True)
    return functools.reduce(jnp.add, [of(t) for of, t in parts if not isinstance(t, SymbolicZero)])


def _convolve(
    x: Any, kernel: Any, layout: tuple[Sizes, Sizes, Sizes], strides: Sizes, pads: Pads, **more: Any
) -> Array:
    """`layout`: the axes of rows, channels and space of `x`; of out, in and window of `kernel`; of the result."""
    numbers = lax.ConvDimensionNumbers(*layout)
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=numbers, **more)


def _canonical_layout(rank: int) -> tuple[Sizes, Sizes, Sizes]:
    """(n, *space, c), (*window, in, out) and (n, *out, f)."""
    last = (0, rank + 1, *range(1, rank + 1))
    return last, (rank + 1, rank, *range(rank)), last


def _swapped_layout(rank: int) -> tuple[Sizes, Sizes, Sizes]:
    """With a kernel (*window, out, in)."""
    last = (0, rank + 1, *range(1, rank + 1))
    return last, (rank, rank + 1, *range(rank)), last


def _channels_first(kernel: Array) -> Array:
    """(*window, a, b) -> (a, *window, b)."""
    rank = kernel.ndim - 2
    return kernel.transpose(rank, *range(rank), rank + 1)


def _all_round(cells: Sizes, apart: Sizes) -> list[tuple[int, int]]:
    """Padding with which so many kernel cells, so far apart, meet an input with one cell at the least."""
    return [((w - 1) * d, (w - 1) * d) for w, d in zip(cells, apart, strict=True)]
