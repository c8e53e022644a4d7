"""One step of training, testing and predicting as pure functions, and the compiled loops over many steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from epochal import scope
from epochal.feed import Batch, Block, take
from epochal.objective import Objective, accumulate
from epochal.optimizers import Optimizer
from epochal.state import Parts, TrainState

Sums = Array | np.ndarray  # (2, k): the running statistics of a pass, see `objective.accumulate`


class Program:
    """A function of arrays and its executables, one per set of argument shapes.

    Args:
        function: pure, of pytrees of arrays.
        donate: positions of arguments whose memory the results may take over.
        eager: run the function as plain Python instead, so that `print` and a debugger work in it.

    Attributes:
        compile_seconds: spent on compiling so far.
    """

    def __init__(self, function: Callable, donate: tuple[int, ...] = (), eager: bool = False):
        self._function = function
        self._jit = None if eager else jax.jit(function, donate_argnums=donate)
        self._executables: dict[Any, Callable] = {}
        self.compile_seconds = 0.0

    @property
    def executables(self) -> int:
        """How many programs have been compiled."""
        return len(self._executables)

    def ready(self, *arguments: Any) -> bool:
        """Whether calling with these arguments compiles nothing."""
        return self._jit is None or _signature(arguments) in self._executables

    def executable(self, *arguments: Any) -> Callable:
        """What to call for arguments of these shapes; compiled at the first request."""
        if self._jit is None:
            return self._function
        key = _signature(arguments)
        found = self._executables.get(key)
        if found is None:
            start = time.perf_counter()
            found = self._executables[key] = self._jit.lower(*arguments).compile()
            self.compile_seconds += time.perf_counter() - start
        return found


def _signature(arguments: Any) -> Any:
    leaves, structure = jax.tree.flatten(arguments)
    return structure, tuple((np.shape(a), a.dtype) for a in leaves)


class Steps:
    """The programs of one model with one objective: `train`, `test`, `predict`.

    Args:
        parts: the model, taken apart.
        objective: losses and metrics; None when the model only predicts.
        optimizer: None when the model does not train.
        outputs_of: brings a model's return value to a list with one array per output.
        eager: run steps un-compiled.
    """

    def __init__(
        self,
        parts: Parts,
        objective: Objective | None,
        optimizer: Optimizer | None,
        outputs_of: Callable[[Any], list[Any]],
        eager: bool = False,
    ):
        self.parts, self.objective, self.optimizer = parts, objective, optimizer
        self.outputs_of, self.eager = outputs_of, eager
        self._programs: dict[tuple[str, bool], Program] = {}

    def program(self, kind: str, padded: bool) -> Program:
        """The program "train", "test" or "predict" for batches with or without room for padding."""
        if (kind, padded) not in self._programs:
            makers = {"train": self._make_train, "test": self._make_test, "predict": self._make_predict}
            self._programs[kind, padded] = makers[kind](padded)
        return self._programs[kind, padded]

    @property
    def executables(self) -> dict[str, int]:
        """How many programs of each kind have been compiled."""
        counts = {"train": 0, "test": 0, "predict": 0}
        for (kind, _), program in self._programs.items():
            counts[kind] += program.executables
        return counts

    @property
    def compile_seconds(self) -> float:
        """Spent on compiling so far."""
        return sum(p.compile_seconds for p in self._programs.values())

    # -- one step, pure

    def forward(self, params: Any, buffers: Any, batch: Batch, call: scope.Call) -> tuple[Any, Any, Array]:
        """Predictions, the buffers after the call, and the penalties: regularization and added losses."""
        module = self.parts.assemble(params, buffers, call.training)
        with scope.calling(call):
            predictions = module(batch.x)  # pyright: ignore[reportCallIssue]
        after = self.parts.buffers_of(module)
        after = tuple(
            new.astype(old.dtype) if new.dtype != old.dtype else new for new, old in zip(after, buffers, strict=True)
        )
        penalty = sum(call.losses, jnp.zeros((), jnp.float32))
        for value, regularizer in zip(params, self.parts.regularizers, strict=True):
            if regularizer is not None:
                penalty = penalty + regularizer(value)
        return predictions, after, penalty

    def train_step(self, state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Array]:
        """The state after one update, and the batch's packed statistics."""
        objective, optimizer = self.objective, self.optimizer
        assert objective is not None
        assert optimizer is not None

        def loss_of(params: Any) -> tuple[Array, Any]:
            call = scope.Call(training=True, rows=batch.rows, ids=batch.ids, key=key)
            predictions, buffers, penalty = self.forward(params, state.buffers, batch, call)
            if not any(objective.losses) and not call.losses:
                raise ValueError("Nothing to minimise: give compile() a loss, or add one with add_loss() in a layer.")
            loss, sums = objective.measure(self.outputs_of(predictions), batch, penalty)
            return loss, (buffers, objective.pack(sums))

        gradients, (buffers, packed) = jax.grad(loss_of, has_aux=True)(state.params)
        params, opt = optimizer.update(list(gradients), state.opt, list(state.params))
        return TrainState(tuple(params), buffers, opt), packed

    def test_step(self, params: Any, buffers: Any, batch: Batch) -> Array:
        """The batch's packed statistics."""
        assert self.objective is not None
        call = scope.Call(training=False, rows=batch.rows, ids=batch.ids)
        predictions, _, penalty = self.forward(params, buffers, batch, call)
        _, sums = self.objective.measure(self.outputs_of(predictions), batch, penalty)
        return self.objective.pack(sums)

    # -- many steps, compiled. The trip count is an argument, so one program runs any number of steps; cutting a row of
    # -- steps into several executions gives the same bits.

    def _make_train(self, padded: bool) -> Program:
        def train(state: TrainState, sums: Sums, block: Block, draw: Any, first: Any, last: Any) -> Any:
            key = jax.random.fold_in(jax.random.key(draw[0]), draw[1])

            def body(i: Any, carry: Any) -> Any:
                state, sums = carry
                state, packed = self.train_step(state, take(block, i, padded), key)
                return state, accumulate(sums, packed)

            return self._loop(first, last, body, (state, sums))

        return Program(train, donate=(0,), eager=self.eager)

    def _make_test(self, padded: bool) -> Program:
        def test(params: Any, buffers: Any, sums: Sums, block: Block, first: Any, last: Any) -> Array:
            def body(i: Any, sums: Sums) -> Array:
                return accumulate(sums, self.test_step(params, buffers, take(block, i, padded)))

            return self._loop(first, last, body, sums)

        return Program(test, eager=self.eager)

    def _make_predict(self, padded: bool) -> Program:
        def predict(params: Any, buffers: Any, x: Any) -> Any:
            call = scope.Call(training=False)
            module = self.parts.assemble(params, buffers, training=False)
            with scope.calling(call):
                return module(x)  # pyright: ignore[reportCallIssue]

        return Program(predict, eager=self.eager)

    def _loop(self, first: Any, last: Any, body: Callable, carry: Any) -> Any:
        if not self.eager:
            return lax.fori_loop(first, last, body, carry)
        for i in range(int(first), int(last)):
            carry = body(i, carry)
        return carry


class TrainRunner:
    """Runs training steps on the model's current arrays and leaves the new ones in the model."""

    kind = "train"

    def __init__(self, steps: Steps, padded: bool, seed: int, epoch: int):
        self.steps = steps
        self._draw = np.array([seed, epoch], np.uint32)  # the key of the pass is made of these in the program
        self.program = steps.program("train", padded)
        self.padded = padded

    def state(self) -> TrainState:
        """The state as the model and the optimizer hold it now."""
        params, buffers = self.steps.parts.collect()
        optimizer = self.steps.optimizer
        assert optimizer is not None
        return TrainState(params, buffers, optimizer.state)

    def arguments(self, block: Block, sums: Sums) -> tuple:
        """What the program takes, for compiling."""
        return (self.state(), sums, block, self._draw, np.int32(0), np.int32(0))

    def run(self, executable: Callable, block: Block, sums: Sums, first: int, last: int) -> Sums:
        """Steps first … last-1 of the block; returns the sums so far."""
        state, sums = executable(self.state(), sums, block, self._draw, np.int32(first), np.int32(last))
        self.steps.parts.publish(state.params, state.buffers)
        assert self.steps.optimizer is not None
        self.steps.optimizer.state = state.opt
        return sums


class TestRunner:
    """Runs evaluation steps; changes nothing in the model."""

    __test__ = False  # not a test class, whatever pytest thinks of its name
    kind = "test"

    def __init__(self, steps: Steps, padded: bool):
        self.steps, self.padded = steps, padded
        self.program = steps.program("test", padded)

    def arguments(self, block: Block, sums: Sums) -> tuple:
        """What the program takes, for compiling."""
        return (*self.steps.parts.collect(), sums, block, np.int32(0), np.int32(0))

    def run(self, executable: Callable, block: Block, sums: Sums, first: int, last: int) -> Sums:
        """Steps first … last-1 of the block; returns the sums so far."""
        return executable(*self.steps.parts.collect(), sums, block, np.int32(first), np.int32(last))


def as_list(predictions: Any, names: Sequence[str]) -> list[Any]:
    """A model's return value as one array per output, in the order of `names`."""
    if isinstance(predictions, dict):
        return [predictions[name] for name in names]
    if isinstance(predictions, list | tuple):
        return list(predictions)
    return [predictions]
