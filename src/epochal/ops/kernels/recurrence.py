"""The recurrence behind recurrent layers: a scan over time whose weight gradient is one matrix product.

Differentiating a scan adds up the gradient of the recurrent kernel step by step, a whole kernel to read and write at
each. Here the pass back over the steps gives the gradients of the products only, and the kernel's is then taken of all
steps at once. Time is the first axis everywhere: (t, n, …).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from epochal import activations

# product(v, first, last): v, (n, units), times the recurrent kernel's columns of gates first … last-1
Product = Callable[[Array, int, int], Array]
# step(z, states, product): the new states; z, (n, gates * units), is what the step's input adds to the gates. The first
# state is the output.
Step = Callable[[Array, tuple[Array, ...], Product], tuple[Array, ...]]


@jax.custom_vjp
def _sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)) by way of tanh, which takes a quarter of the time on CPU; keeps its result only."""
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


_sigmoid.defvjp(lambda x: (_sigmoid(x),) * 2, lambda y, dy: (dy * y * (1 - y),))


@jax.custom_vjp
def _tanh(x: Array) -> Array:
    """tanh that keeps its result only, where JAX's own keeps two arrays for the gradient."""
    return jnp.tanh(x)


_tanh.defvjp(lambda x: (_tanh(x),) * 2, lambda y, dy: (dy * (1 - y * y),))

_IN_LOOP: dict[Callable, Callable] = {activations.sigmoid: _sigmoid, activations.tanh: _tanh}


def in_loop(activation: Callable) -> Callable:
    """The activation as it is best computed within a scan."""
    return _IN_LOOP.get(activation, activation)


def products(kernel: Any, bias: Any, drop: Array | None, used: dict[tuple[int, int], Array]) -> Product:
    """The product with a recurrent kernel.

    Args:
        kernel: (units, gates * units).
        bias: (gates * units,) added to the product; None for none.
        drop: (gates, n, units), by which v is multiplied for each gate; None for no dropout.
        used: where to note what the columns of gates (first, last) were multiplied by.
    """
    units = kernel.shape[0]

    def product(v: Array, first: int, last: int) -> Array:
        spans = [(first, last)] if drop is None else [(gate, gate + 1) for gate in range(first, last)]
        used.update({(a, b): v if drop is None else v * drop[a] for a, b in spans})
        parts = [used[a, b] @ kernel[:, a * units : b * units] for a, b in spans]
        y = parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)
        return y if bias is None else y + bias[first * units : last * units]

    return product


def recur(
    step: Step,
    z: Array,
    kernel: Any,
    bias: Any,
    states: tuple[Array, ...],
    real: Array | None,
    drop: Array | None,
    *,
    sequences: bool,
    unroll: bool,
    one_product: bool,
) -> tuple[tuple[Array, ...], Array | None]:
    """The last states, each (n, units), and the outputs (t, n, units) if `sequences`.

    Args:
        step: one step; it may hold no arrays of its own when `one_product`.
        z: (t, n, gates * units), what the inputs add to the gates.
        kernel: (units, gates * units), the recurrent kernel.
        bias: (gates * units,) added to the recurrent product, or None.
        states: the first states.
        real: (t, n, 1), False where a step is to be skipped: states and output stay; None for no skipping.
        drop: (gates, n, units), factors of the recurrent dropout, or None.
        sequences: whether to return outputs.
        unroll: compile every step apart.
        one_product: take the kernel's gradient of all steps at once.
    """
    units = kernel.shape[0]

    def scan(z: Array, probe: Any, states: Any, kernel: Array, bias: Any, real: Any, drop: Any) -> Any:
        """`probe` is added to the products: its gradient is theirs."""

        def body(states: Any, inputs: Any) -> Any:
            z_t, probe_t, real_t = inputs
            used: dict[tuple[int, int], Array] = {}
            product = products(kernel, bias, drop, used)

            def probed(v: Array, first: int, last: int) -> Array:
                y = product(v, first, last)
                return y if probe_t is None else y + probe_t[:, first * units : last * units]

            new = step(z_t, states, probed)
            if real_t is not None:
                new = tuple(jnp.where(real_t, a, b) for a, b in zip(new, states, strict=True))
            return new, (new[0] if sequences else None, used)

        states, (outputs, used) = lax.scan(body, states, (z, probe, real), unroll=unroll or 1)
        return (states, outputs), used

    def plain(z: Array, kernel: Array, bias: Any, states: Any, real: Any, drop: Any) -> Any:
        return scan(z, None, states, kernel, bias, real, drop)[0]

    def forward(z: Array, kernel: Array, bias: Any, states: Any, real: Any, drop: Any) -> Any:
        probe = jnp.zeros((*z.shape[:2], kernel.shape[1]), z.dtype)
        result, pull, used = jax.vjp(
            lambda z, probe, states: scan(z, probe, states, kernel, bias, real, drop), z, probe, states, has_aux=True
        )
        return result, (pull, used, kernel, bias)

    def backward(kept: Any, gradients: Any) -> Any:
        pull, used, kernel, bias = kept
        dz, dproduct, dstates = pull(gradients)
        dkernel = _kernel_gradient(kernel, used, dproduct)
        dbias = None if bias is None else dproduct.sum((0, 1)).astype(bias.dtype)
        return dz, dkernel, dbias, dstates, None, None

    if not one_product:
        return plain(z, kernel, bias, states, real, drop)
    run = jax.custom_vjp(plain)
    run.defvjp(forward, backward)
    return run(z, kernel, bias, states, real, drop)


def _kernel_gradient(kernel: Array, used: dict[tuple[int, int], Array], dproduct: Array) -> Array:
    """The recurrent kernel's gradient, of all steps at once.

    Args:
        kernel: (units, gates * units).
        used: first and last gate -> (t, n, units), what these columns were multiplied with.
        dproduct: (t, n, gates * units), the products' gradient.
    """
    units, dkernel = kernel.shape[0], jnp.zeros_like(kernel)
    for (first, last), v in used.items():
        columns = slice(first * units, last * units)
        part = jnp.tensordot(v, dproduct[..., columns], ((0, 1), (0, 1)))
        dkernel = dkernel.at[:, columns].add(part.astype(kernel.dtype))
    return dkernel


def recur_cell(
    cell: Callable, x: Array, states: list[Any], real: Array | None, *, unroll: bool
) -> tuple[list[Any], Array]:
    """The last states and all outputs, (t, n, …), of any cell.

    Args:
        cell: (input, states) -> (output, states), for inputs (n, …) and a list of states (n, …).
        x: (t, n, …).
        states: the first states.
        real: (t, n, 1), False where a step is to be skipped: states stay, and the last output is repeated (before the
            first output: the first state if it is of the output's shape, else zeros). None for no skipping.
        unroll: compile every step apart.
    """

    def skip(real: Array, new: Array, old: Array) -> Array:
        return jnp.where(real.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    def body(carry: Any, inputs: Any) -> Any:
        states, before = carry
        x_t, real_t = inputs
        output, new = cell(x_t, states)
        new = list(new) if isinstance(new, list | tuple) else [new]
        new = [a.astype(b.dtype) for a, b in zip(new, states, strict=True)]
        if real_t is not None:
            new = [skip(real_t, a, b) for a, b in zip(new, states, strict=True)]
            output = skip(real_t, output, before)
        return (new, None if before is None else output), output

    before = None
    if real is not None:
        output = jax.eval_shape(cell, x[0], states)[0]
        alike = states[0].shape == output.shape and states[0].dtype == output.dtype
        before = states[0] if alike else jnp.zeros(output.shape, output.dtype)
    (states, _), outputs = lax.scan(body, (states, before), (x, real), unroll=unroll or 1)
    return states, outputs
