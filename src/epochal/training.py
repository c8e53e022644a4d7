"""What training adds to a model: how it was compiled, its programs, and the way from a user's data to a feed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from epochal import loop, sources
from epochal.arguments import checked_batch_size, device_dtype, per_output, with_class_weight
from epochal.callbacks.base import CallbackList, Logs
from epochal.callbacks.history import History
from epochal.feed import ArrayFeed
from epochal.layers.base import abstract_call, tracked
from epochal.layers.weights import draw_weights
from epochal.objective import Objective, Output, Recipe
from epochal.optimizers import Optimizer
from epochal.random import next_seed
from epochal.sources import Examples
from epochal.state import Parts, row_independent
from epochal.step import Steps, TestRunner, TrainRunner, as_list


class Training:
    """The training side of one model. Opaque to Flax, so nothing of it is part of the model's graph.

    Attributes:
        recipe: what `compile` was given; None before.
        optimizer: the optimizer; None before `compile`.
        eager: whether steps run as plain Python.
        steps_per_execution: "auto" or a number.
        history: of the last fit.
        stop: the flags that hooks set.
        inputs: shape and type of a batch, as the model was built; None before.
    """

    def __init__(self, model: Any):
        self._model = model
        self.recipe: Recipe | None = None
        self.optimizer: Optimizer | None = None
        self.eager = False
        self.steps_per_execution: int | str = "auto"
        self.history: History | None = None
        self.stop = {"train": False, "test": False, "predict": False}
        self.inputs: Any = None
        self._outputs: Any = None  # shape and type of what the model returns for `inputs`; None when not known
        self._parts: Parts | None = None
        self.programs: dict[Any, Steps] = {}
        self.running_sums: dict[str, Any] = {}  # of train_on_batch and test_on_batch
        self._seed, self._batches = next_seed(), 0  # what train_on_batch draws masks by
        self._optimizer_for: list[str] | None = None  # names of the weights that the optimizer's state belongs to

    def compile(self, recipe: Recipe, optimizer: Optimizer, eager: bool, steps_per_execution: int | str) -> None:
        """Takes a new recipe; the programs of the old one are dropped."""
        if optimizer is not self.optimizer:
            self._optimizer_for = None
        self.recipe, self.optimizer = recipe, optimizer
        self.eager, self.steps_per_execution = eager, steps_per_execution
        self.programs, self.running_sums = {}, {}

    def built_for(self, inputs: Any, outputs: Any = None) -> None:
        """Notes what the model was built for."""
        self.inputs, self._outputs = inputs, outputs

    @property
    def has_optimizer_state(self) -> bool:
        """Whether the optimizer has a state that belongs to the model's weights."""
        return self._optimizer_for is not None

    def refuse_tracing(self, method: str) -> None:
        """Raises RuntimeError inside someone's `jit`, where nothing can be trained."""
        if isinstance(jax.lax.add(np.float32(0), np.float32(0)), Tracer):
            raise RuntimeError(
                f"{method}() was called while JAX is tracing. Call it outside of jit, grad and the like."
            )

    def ready_to(self, method: str) -> Recipe:
        """The recipe, once the model is compiled.

        Raises:
            RuntimeError: it is not, or JAX is tracing.
        """
        self.refuse_tracing(method)
        if self.recipe is None:
            raise RuntimeError(f"Call compile(optimizer=…, loss=…) before {method}().")
        return self.recipe

    def fit_data(
        self, x: Any, y: Any, sample_weight: Any, class_weight: Any, fraction: Any, validation_data: Any
    ) -> tuple[Examples, Examples | None]:
        """Training examples with all weights in them, and the examples to validate on."""
        examples = sources.as_examples(x, y, sample_weight, method="fit")
        held_out = None
        if validation_data is not None:
            held_out = sources.as_validation(validation_data)
        elif fraction:
            examples, held_out = sources.split(examples, fraction)
        examples = self.aligned(examples)
        if class_weight is not None:
            examples = with_class_weight(examples, class_weight, self.outputs())
        if held_out is not None:
            held_out = self.aligned(held_out)
        return examples, held_out

    def matched(self, examples: Examples) -> Examples:
        """Inputs in the model's structure; builds the model for its first data, and checks what comes later."""
        matched = Examples(self._model.match_inputs(examples.x), examples.y, examples.weight, examples.n)
        self._model.build_for(matched.x)
        return matched

    def aligned(self, examples: Examples) -> Examples:
        """The same, with targets and weights as lists with one array per output."""
        examples = self.matched(examples)
        names = self._model.names_of(self.outputs())
        y = None if examples.y is None else per_output(examples.y, names, "y")
        weight = None if examples.weight is None else per_output(examples.weight, names, "sample_weight")
        return Examples(examples.x, y, weight, examples.n)

    def outputs(self) -> Any:
        """Shape and type of what the model returns for a batch."""
        if self._outputs is None:
            self._outputs = abstract_call(self._model, self.inputs)
        return self._outputs

    def parts(self) -> Parts:
        """The model taken apart; programs made for another structure are thrown away."""
        draw_weights(t.variable for t in tracked(self._model))
        parts = Parts(self._model)
        if self._parts is not None and parts.same_program(self._parts):
            self._parts.nodes = parts.nodes  # should a variable have been replaced by another of its kind
            return self._parts
        self._parts, self._outputs, self.programs = parts, None, {}
        return parts

    def steps(self, examples: Examples, recipe: Recipe) -> Steps:
        """The programs for targets of this kind, made when there are none yet."""
        parts = self.parts()
        predictions: Any = self.outputs()
        names = self._model.names_of(predictions)
        targets = examples.y if examples.y is not None else [None] * len(names)
        specs: list[Any] = [None if t is None else spec_of(t) for t in targets]
        outputs = [Output(n, t, p) for n, t, p in zip(names, specs, as_list(predictions, names), strict=True)]
        revision = self.optimizer.revision if self.optimizer is not None else 0
        key = (tuple((o.name, o.target, o.prediction) for o in outputs), self.eager, revision)
        if key not in self.programs:
            objective = Objective(recipe, outputs)
            self.programs[key] = Steps(parts, objective, self.optimizer, lambda p: as_list(p, names), self.eager)
        return self.programs[key]

    def predict_steps(self) -> Steps:
        """The programs of a model that need not be compiled."""
        parts = self.parts()
        if "predict" not in self.programs:
            self.programs["predict"] = Steps(parts, None, None, lambda p: p, self.eager)
        return self.programs["predict"]

    def start_optimizer(self, parts: Parts) -> None:
        """Gives the optimizer a state for the arrays that train now; one it already has for them is kept."""
        optimizer = self.optimizer
        assert optimizer is not None
        if not parts.trained:
            raise ValueError(
                f"Model {self._model.name!r} has nothing to train: all its weights are frozen, or it has none."
            )
        if self._optimizer_for == parts.names and optimizer.state is not None:
            return
        params = list(parts.collect()[0])
        optimizer.bind(parts.names, [parts.nodes[i] for i in parts.trained])
        if optimizer.state is None or self._optimizer_for is None:
            optimizer.state = jax.jit(optimizer.init)(params)  # in one program
        else:  # layers were frozen or thawed: what is kept for the others stays
            optimizer.state = optimizer.carry(optimizer.state, self._optimizer_for, params)
        self._optimizer_for = list(parts.names)

    def end_with_averages(self, parts: Parts) -> None:
        """An optimizer with `use_ema` leaves the moving averages of the weights in the model, as in Keras."""
        optimizer = self.optimizer
        assert optimizer is not None
        assert optimizer.state is not None
        averages = optimizer.averages(optimizer.state)
        if averages is not None:
            parts.publish(tuple(jnp.array(a, copy=True) for a in averages), parts.collect()[1])

    def feed(
        self,
        examples: Examples,
        batch_size: Any,
        shuffle: bool | str,
        seed: int,
        programs: Steps,
        steps: int | None = None,
        again: bool = True,
    ) -> ArrayFeed:
        """The examples as batches; short ones keep their shape where code of a user's may look across the batch.

        Args:
            steps: batches per epoch; None is all of them once.
            again: with more `steps` than there are batches, start over.
        """
        objective = programs.objective
        assert objective is not None
        exact_tail = not (objective.row_independent and row_independent(self._model))
        size = checked_batch_size(batch_size, examples.n)
        if steps is not None and not again:
            steps = min(steps, -(-examples.n // size))
        return ArrayFeed(examples, size, shuffle, seed, exact_tail, steps)

    def one_batch(self, kind: str, steps: Steps, examples: Examples, alone: bool) -> Logs:
        """Trains or tests with all examples as one batch; values of it alone, or running ones."""
        objective = steps.objective
        assert objective is not None
        feed = ArrayFeed(examples, examples.n, shuffle=False, seed=0, exact_tail=True)
        (block,) = feed.epoch(0)
        self._batches += 1
        runner = (
            TrainRunner(steps, False, self._seed, self._batches) if kind == "train" else TestRunner(steps, padded=False)
        )
        sums = None if alone else self.running_sums.get(kind)
        sums = np.zeros((2, objective.width), np.float32) if sums is None else sums
        executable = runner.program.executable(*runner.arguments(block, sums))
        sums = runner.run(executable, block, sums, 0, 1)
        self.running_sums[kind] = sums
        return objective.read(sums)

    def session(self, steps: Steps, callbacks: list[Any], display: Any, params: dict[str, Any]) -> loop.Session:
        """A new session; the stop flags are down."""
        self.stop = dict.fromkeys(self.stop, False)
        calls = CallbackList(callbacks, self._model, params)
        return loop.Session(self._model, steps, calls, display, self.steps_per_execution)


def spec_of(array: Any) -> jax.ShapeDtypeStruct:
    """Shape and type on the device of a batch of such rows; how many rows does not matter, so it is always 2."""
    return jax.ShapeDtypeStruct((2, *array.shape[1:]), device_dtype(array))


@contextmanager
def running(session: loop.Session) -> Iterator[None]:
    """Ctrl-C and the display are set right again, by whatever way the method ends."""
    try:
        with loop.interrupts(session.interrupted):
            yield
    finally:
        session.display.close()
