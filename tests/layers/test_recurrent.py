"""Recurrent layers: states, masks, dropout, gradients; against Keras with the same weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx
from support.sequences import FEATURES, MASK, ZEROS, N, T, close, draw, with_weights

import epochal
from epochal import layers
from epochal.layers.base.weights import Weight
from epochal.ops.kernels.recurrence import recur
from epochal.tracing import forward_pass
from epochal.tracing.masks import get_mask, set_mask

# most of these tests' time is compiling
FAST_TO_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def fast(function: Any) -> Any:
    return jax.jit(function, compiler_options=FAST_TO_COMPILE)


def pure(layer: Any) -> Any:
    """(weights, x, …) -> what the layer returns; and its weights."""
    graph, params, rest = nnx.split(layer, Weight, ...)
    leaves, tree = jax.tree.flatten(params)
    variables = jax.tree.leaves(params, is_leaf=lambda v: isinstance(v, nnx.Variable))
    order = np.argsort([v.get_metadata()["made"] for v in variables])

    def call(weights: Any, *arguments: Any, **named: Any) -> Any:
        placed = [weights[i] for i in np.argsort(order)]
        return nnx.merge(graph, jax.tree.unflatten(tree, placed), rest, copy=True)(*arguments, **named)

    return call, [leaves[i] for i in order]


def values_and_gradients(call: Any, weights: Any, x: Any, states: Any, **named: Any) -> Any:
    """Everything a call returns, and the gradients of a sum of it, by the weights, the inputs and the first states."""

    def run(weights: Any, x: Any, states: Any) -> Any:
        def loss(weights: Any, x: Any, states: Any) -> Any:
            results = jax.tree.leaves(call(weights, x, initial_state=states, **named))
            terms = [(a * jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape)).sum() for a in results]
            return sum(terms), results

        return jax.grad(loss, (0, 1, 2), has_aux=True)(weights, x, states)

    return fast(run)(weights, x, states)


# -- against Keras


EVERYTHING = {"return_sequences": True, "return_state": True}


@pytest.mark.parametrize(
    ("make", "units"),
    [
        (lambda k: k.SimpleRNN(2, zero_output_for_mask=True, **EVERYTHING, **ZEROS), [2]),
        (lambda k: k.LSTM(2, **EVERYTHING, **ZEROS), [2, 2]),
        (lambda k: k.GRU(2, go_backwards=True, **EVERYTHING, **ZEROS), [2]),
        (lambda k: k.GRU(2, reset_after=False, return_state=True, **ZEROS), [2]),
        (lambda k: k.RNN([k.LSTMCell(2, **ZEROS), k.GRUCell(3, **ZEROS)], return_state=True), [[2, 2], [3]]),
        (lambda k: k.Bidirectional(k.LSTM(2, **EVERYTHING, **ZEROS), merge_mode=None), [2, 2, 2, 2]),
    ],
    ids=["SimpleRNN", "LSTM", "GRU", "GRU-reset-before", "stacked", "Bidirectional"],
)
def test_masks_states_and_gradients_equal_keras(make: Any, units: Any) -> None:
    x, states = draw(N, T, FEATURES), jax.tree.map(lambda n: draw(N, n, seed=n), units)
    mask = np.concatenate([MASK[:3], MASK[:1]])
    ours, theirs = with_weights(make(layers), x), make(keras.layers)
    theirs(x)
    theirs.set_weights(ours.get_weights())
    call, weights = pure(ours)

    def keras_call(weights: Any, x: Any, **named: Any) -> Any:
        fixed = [v.value for v in theirs.non_trainable_variables]
        return theirs.stateless_call(weights, fixed, x, **named)[0]

    found = values_and_gradients(call, weights, x, states, mask=jnp.asarray(mask))
    expected = values_and_gradients(keras_call, weights, x, states, mask=jnp.asarray(mask))
    close(found, expected)


def test_states_are_returned_cell_by_cell() -> None:
    x = draw(N, T, FEATURES)
    cells = [layers.LSTMCell(2, **ZEROS), layers.GRUCell(3, **ZEROS)]
    layer = with_weights(layers.RNN(cells, return_state=True), x)
    first, second = layer.layers if hasattr(layer, "layers") else layer.cell.cells
    y, lstm, gru = layer(x)
    assert layer.state_size == [[2, 2], [3]]
    assert [s.shape for s in lstm] == [(N, 2), (N, 2)]
    close(y, gru[0], rtol=0, atol=0)
    # The same as the two cells, one layer after the other.
    below = layers.RNN(first, return_sequences=True)
    close(y, layers.RNN(second)(below(x)))


def test_a_cell_step_by_step_is_the_layer() -> None:
    x = draw(N, 3, FEATURES)
    for name in ("SimpleRNN", "LSTM", "GRU"):
        layer = with_weights(getattr(layers, name)(2, return_sequences=True, **ZEROS), x)
        states = layer.cell.get_initial_state(N)
        outputs = []
        for t in range(3):
            output, states = layer.cell(x[:, t], states)
            outputs.append(output)
        close(jnp.stack(outputs, 1), layer(x))
    alone, state = layer.cell(x[:, 0], jnp.zeros((N, 2)))  # an array for an array
    close(alone, state)


def test_stacked_cells_are_a_cell() -> None:
    x = draw(N, FEATURES)
    stack = layers.StackedRNNCells([layers.SimpleRNNCell(2, **ZEROS), layers.LSTMCell(3, **ZEROS)])
    y, states = with_weights(stack, x, stack.get_initial_state(N))(x, stack.get_initial_state(N))
    assert (stack.state_size, stack.output_size) == ([2, [3, 3]], 3)
    close(y, states[1][0])
    sequence = layers.RNN(stack, return_state=True)(x[:, None])
    close(sequence, (y, *states))


class Accumulator(epochal.Layer):
    """A cell of a user's: keeps a weighted sum of its inputs, puts out some of it."""

    def __init__(self, units: int, out: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.state_size, self.output_size = units, out

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight("kernel", (input_shape[-1], self.state_size))

    def call(self, x: Any, states: Any) -> Any:
        state = states[0] + x @ self.kernel.get_value()
        return state[:, : self.output_size], [state]


def test_a_cell_of_a_users_with_a_mask() -> None:
    x = draw(N, T, FEATURES)
    layer = layers.RNN(Accumulator(4, 2), return_sequences=True, return_state=True)
    y, state = layer(x, mask=MASK)
    sums = np.cumsum((x @ layer.cell.get_weights()[0]) * MASK[..., None], 1)
    close(state, sums[:, -1])
    close(y, sums[..., :2])  # a step that is skipped repeats the last output, which here is still the sum's
    with pytest.raises(ValueError, match="Expected a cell: a layer with state_size"):
        layers.RNN(layers.Dense(3))


def test_a_users_subclass_of_a_cell_keeps_its_own_call() -> None:
    class Doubled(layers.SimpleRNNCell):
        def call(self, x: Any, states: Any, training: bool = False) -> Any:
            output, states = super().call(x, states, training)
            return 2 * output, states

    x = draw(N, T, FEATURES)
    layer = with_weights(layers.RNN(Doubled(2, **ZEROS)), x)
    plain = layers.SimpleRNN(2, **ZEROS)
    plain(x)
    plain.set_weights(layer.get_weights())
    close(layer(x), 2 * plain(x))


# -- the gradient of the recurrent kernel


@pytest.mark.parametrize("cell", [layers.LSTMCell(2), layers.GRUCell(2), layers.GRUCell(2, reset_after=False)])
@pytest.mark.parametrize("dropped", [False, True])
def test_the_kernels_gradient_of_all_steps_at_once(cell: Any, dropped: bool) -> None:
    gates, states = cell.gates, tuple(draw(N, 2, seed=i) for i in range(cell.state_count))
    z, kernel, bias = draw(T, N, 2 * gates), draw(2, 2 * gates), draw(2 * gates)
    drop = jnp.asarray(draw(gates, N, 2)) if dropped else None
    real = jnp.asarray(MASK.T[..., None])

    def run(one_product: bool) -> Any:
        def loss(z: Any, kernel: Any, bias: Any, states: Any) -> Any:
            options = {"sequences": True, "unroll": False, "one_product": one_product}
            end, outputs = recur(cell.step, z, kernel, bias, states, real, drop, **options)
            return sum((s * draw(N, 2, seed=9)).sum() for s in end) + (outputs * draw(T, N, 2, seed=8)).sum()

        return jax.grad(loss, (0, 1, 2, 3))

    close(fast(run(True))(z, kernel, bias, states), fast(run(False))(z, kernel, bias, states))
    for one_product in (True, False):
        scans = scans_of(jax.make_jaxpr(run(one_product))(z, kernel, bias, states).jaxpr)
        assert len(scans) == 2
        summed = [out for scan in scans for out in scan.outvars if out.aval.shape == kernel.shape]
        assert len(summed) == (0 if one_product else 1)  # whether a sum of kernels is carried from step to step


def scans_of(jaxpr: Any) -> list[Any]:
    """All loops of a program, those inside of others too."""
    found = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    inner = jax.tree.leaves([e.params for e in jaxpr.eqns], is_leaf=lambda a: hasattr(a, "eqns"))
    return found + [scan for part in inner if hasattr(part, "eqns") for scan in scans_of(getattr(part, "jaxpr", part))]


def test_an_activation_that_holds_weights_gets_its_gradient() -> None:
    """The quick gradient knows nothing of arrays inside of functions, so it is for named activations only."""
    x, held = draw(N, T, FEATURES), [jnp.ones(())]
    layer = layers.SimpleRNN(2, activation=lambda a: jnp.tanh(held[0] * a), **ZEROS)
    layer(x)
    for w in layer.weights:
        w.set_value(jnp.ones(w.shape) / 4)

    def loss(slope: Any) -> Any:
        held[0] = slope
        return (layer(x) ** 2).sum()

    found, step = float(fast(jax.grad(loss))(1.0)), 1e-2
    assert found == pytest.approx(float(loss(1 + step) - loss(1 - step)) / (2 * step), rel=1e-2)
    assert abs(found) > 1e-2


# -- dropout


def in_pass(layer: Any, x: Any, ids: Any, **named: Any) -> np.ndarray:
    layer._ensure_built(x)

    def run(x: Any, ids: Any, named: Any) -> Any:
        with forward_pass.calling(forward_pass.Call(training=True, ids=ids, key=jax.random.key(0))):
            return layer(x, **named)

    return np.asarray(fast(run)(x, jnp.asarray(ids, jnp.uint32), named))


def test_dropout_of_inputs_is_the_same_at_all_steps() -> None:
    eye = {
        "kernel_initializer": lambda shape, dtype: jnp.tile(jnp.eye(20), shape[1] // 20),
        "bias_initializer": "zeros",
    }
    layer = layers.SimpleRNN(
        20, activation=None, recurrent_initializer="zeros", dropout=0.25, return_sequences=True, **eye
    )
    y = in_pass(layer, np.ones((50, 3, 20), "float32"), np.arange(50))
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert (y == y[:, :1]).all()
    assert (y[0] != y[1]).any()
    assert abs((y == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / y[:, 0].size)
    np.testing.assert_array_equal(layer(np.ones((2, 3, 20), "float32")), np.ones((2, 3, 20)))


def test_recurrent_dropout_is_the_same_at_all_steps_and_differs_between_gates() -> None:
    layer = layers.SimpleRNN(
        20, activation=None, recurrent_initializer="identity", kernel_initializer="zeros", recurrent_dropout=0.5,
        return_sequences=True,
    )  # fmt: skip
    x = np.zeros((50, 3, 20), "float32")
    y = in_pass(layer, x, np.arange(50), initial_state=np.ones((50, 20), "float32"))
    assert set(np.unique(y)) == {0, 2, 4, 8}
    np.testing.assert_array_equal(y[:, 2], y[:, 0] ** 3)
    cell = layers.LSTMCell(8, dropout=0.5, recurrent_dropout=0.5, **ZEROS)
    drop, recurrent = cell.masks(jnp.ones((6, 5)), True)
    assert (drop.shape, recurrent.shape) == ((4, 6, 5), (4, 6, 8))
    assert (drop[0] != drop[1]).any()
    assert (recurrent[0] != recurrent[1]).any()
    assert layers.LSTMCell(8, dropout=0.5, **ZEROS).masks(jnp.ones((6, 5)), True)[0].shape == (1, 6, 5)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "TimeDistributed"])
def test_dropout_belongs_to_the_example(name: str) -> None:
    x, ids = draw(6, T, FEATURES), np.array([10, 3, 7, 2**32 - 1, 0, 5])
    if name == "TimeDistributed":
        layer = layers.TimeDistributed(layers.Dropout(0.5))
        layer(x)
    else:
        layer = with_weights(getattr(layers, name)(2, dropout=0.4, recurrent_dropout=0.4, **ZEROS), x)
    whole = in_pass(layer, x, ids)
    close(np.concatenate([in_pass(layer, x[:2], ids[:2]), in_pass(layer, x[2:], ids[2:])]), whole, rtol=1e-6, atol=1e-6)
    assert np.abs(whole - layer(x)).max() > 0.05
    if name == "TimeDistributed":  # each step is an input of its own
        assert ((whole[:, 0] == 0) != (whole[:, 1] == 0)).any()


# -- arguments


def test_the_forget_gates_bias_starts_at_one() -> None:
    cell = layers.LSTMCell(2, bias_initializer=epochal.initializers.Constant(0.5), **ZEROS)
    cell.build((None, 3))
    np.testing.assert_array_equal(cell.bias.get_value(), [0.5, 0.5, 1, 1, 0.5, 0.5, 0.5, 0.5])
    plain = layers.LSTM(2, unit_forget_bias=False, **ZEROS)
    plain(draw(N, T, FEATURES))
    np.testing.assert_array_equal(plain.cell.bias.get_value(), np.zeros(8))
    assert (plain.units, plain.use_bias, plain.activation) == (2, True, epochal.activations.tanh)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.LSTM(0), "units.*>= 1, got 0"),
        (lambda: layers.LSTM(2, dropout=1.5), "dropout"),
        (lambda: layers.GRU(2, activation="tanhh"), "tanh"),
        (lambda: layers.SimpleRNN(2)(draw(N, 3)), "3 axes"),
        (
            lambda: layers.SimpleRNN(2)(draw(N, T, 3), initial_state=draw(N, 3)),
            r"shapes \[\(4, 2\)\]; got \[\(4, 3\)\]",
        ),
        (lambda: layers.SimpleRNN(2)(draw(N, T, 3), mask=np.ones((N, 2), bool)), r"mask of shape \(4, 5\)"),
        (lambda: layers.Bidirectional(layers.Dense(2)), "recurrent layer"),
        (lambda: layers.Bidirectional(layers.LSTM(2), merge_mode="add"), "merge_mode"),
        (lambda: layers.Bidirectional(layers.LSTM(2), backward_layer=layers.LSTM(2)), "go_backwards"),
        (
            lambda: layers.Bidirectional(
                layers.LSTM(2), backward_layer=layers.LSTM(2, go_backwards=True, return_sequences=True)
            ),
            "same return_sequences",
        ),
        (lambda: layers.TimeDistributed(layers.Dense(2))(draw(N, 3)), "at least 3 axes"),
    ],
)
def test_refuses(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_mask_of_outputs() -> None:
    x = jnp.asarray(draw(N, T, FEATURES))
    set_mask(x, jnp.asarray(MASK))
    np.testing.assert_array_equal(get_mask(layers.GRU(2, return_sequences=True, **ZEROS)(x)), MASK)
    assert get_mask(layers.GRU(2, **ZEROS)(x)) is None
    y, state = layers.GRU(2, return_sequences=True, return_state=True, **ZEROS)(x)
    assert get_mask(state) is None
    np.testing.assert_array_equal(get_mask(y), MASK)
    both = layers.Bidirectional(layers.LSTM(2, return_sequences=True, return_state=True, **ZEROS), merge_mode=None)(x)
    assert [get_mask(a) is not None for a in both] == [True, True] + [False] * 4


def test_going_backwards_turns_the_mask_round_too() -> None:
    """(better) Keras hands on the mask in the order of the inputs with outputs in the other order."""
    x = jnp.asarray(draw(N, T, FEATURES))
    set_mask(x, jnp.asarray(MASK))
    y = layers.GRU(2, return_sequences=True, go_backwards=True, **ZEROS)(x)
    np.testing.assert_array_equal(get_mask(y), MASK[:, ::-1])
