"""What `compile` adds to a model: recipe, optimizer and programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state

from epochal.callbacks.history import History
from epochal.data.examples import Examples
from epochal.data.feeds.block import Batch
from epochal.data.targets import per_output
from epochal.engine.objective.objective import Objective
from epochal.engine.objective.outputs import Output, as_list
from epochal.engine.objective.recipe import Recipe
from epochal.engine.objective.tally import Tally
from epochal.engine.programs import PredictPrograms, Programs
from epochal.engine.state import Parts, TrainState, parts_of, unchanged
from epochal.engine.step import Forward
from epochal.layers.base.building import abstract_call
from epochal.layers.base.tree import tracked
from epochal.layers.base.weights import draw_weights
from epochal.optimizers import Optimizer
from epochal.random import next_seed
from epochal.runtime.host_copies import spec_of
from epochal.tracing import forward_pass

_NO_TRACE = get_opaque_trace_state(convention="nnx")


@dataclass(frozen=True, eq=False)
class Compiled:
    """What `compile` was given, checked.

    Attributes:
        recipe: losses and metrics.
        optimizer: what updates the weights.
        eager: whether steps run as plain Python.
        steps_per_execution: "auto" or a number.
        on_nonfinite, micro_batch_size: as `compile` takes them.
    """

    recipe: Recipe
    optimizer: Optimizer
    eager: bool = False
    steps_per_execution: int | str = "auto"
    on_nonfinite: str = "ignore"
    micro_batch_size: int | str | None = "auto"


class Training:
    """The training side of one model. Opaque to Flax, so nothing of it is part of the model's graph.

    Attributes:
        compiled: what `compile` was given; None before.
        history: of the last fit.
        stop: the flags that hooks set.
        inputs: shape and type of a batch, as the model was built; None before.
        sample: two rows of data, with which shapes are found where steps run as plain Python; None before the first.
    """

    def __init__(self, model: Any):
        self.model = model
        self.compiled: Compiled | None = None
        self.history: History | None = None
        self.stop = {"train": False, "test": False, "predict": False}
        self.inputs: Any = None
        self.sample: Any = None
        self._eager = False  # of a model that is not compiled
        self._outputs: Any = None  # shape and type of what the model returns for `inputs`; None when not known
        self._parts: Parts | None = None
        self._found: list[tuple[Any, list[Any]]] = []  # what the model consisted of when it was taken apart
        self.programs: dict[Any, Programs] = {}
        self.predicting: dict[bool, PredictPrograms] = {}  # by whether steps run as plain Python
        self.running: dict[str, tuple[Tally, Any]] = {}  # of train_on_batch and test_on_batch, with the pivot
        self.known: dict[Any, Any] = {}  # see `on_batch`: what was found at the first call with arrays of some shapes
        self._seed, self._batches = next_seed(), 0  # what train_on_batch draws masks by
        self._optimizer_for: list[str] | None = None  # names of the weights that the optimizer's state belongs to

    def compile(self, compiled: Compiled) -> None:
        """Takes a new recipe; the programs of the old one are dropped."""
        if compiled.optimizer is not self.optimizer:
            self._optimizer_for = None
        self.compiled, self._eager = compiled, compiled.eager
        self.programs, self.predicting, self.running, self.known = {}, {}, {}, {}

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer; None before `compile`."""
        return None if self.compiled is None else self.compiled.optimizer

    @property
    def eager(self) -> bool:
        """Whether steps run as plain Python."""
        return self._eager

    def run_eagerly(self, eager: bool) -> None:
        """Runs steps as plain Python from here on, or compiled."""
        self._eager = eager
        if self.compiled is not None:
            self.compiled = replace(self.compiled, eager=eager)

    def built_for(self, inputs: Any, outputs: Any = None) -> None:
        """Notes what the model was built for."""
        self.inputs, self._outputs = inputs, outputs

    @property
    def has_optimizer_state(self) -> bool:
        """Whether the optimizer has a state that belongs to the model's weights."""
        return self._optimizer_for is not None

    def optimizer_fits(self, parts: Parts) -> bool:
        """Whether the optimizer has a state, and that of the arrays that train now."""
        return self.optimizer is not None and self.optimizer.state is not None and self._optimizer_for == parts.names

    def refuse_tracing(self, method: str) -> None:
        """Raises RuntimeError inside someone's `jit`, where nothing can be trained."""
        if get_opaque_trace_state(convention="nnx") == _NO_TRACE:  # for certain, and in no time
            return
        if isinstance(jax.device_put(np.float32(0)), Tracer):  # compiles nothing, as an addition would
            raise RuntimeError(
                f"{method}() was called while JAX is tracing. Call it outside of jit, grad and the like."
            )

    def ready_to(self, method: str) -> Compiled:
        """What `compile` was given.

        Raises:
            RuntimeError: the model was never compiled, or JAX is tracing.
        """
        self.refuse_tracing(method)
        if self.compiled is None:
            raise RuntimeError(f"Call compile(optimizer=…, loss=…) before {method}().")
        return self.compiled

    def outputs(self) -> Any:
        """Shape and type of what the model returns for a batch; arrays, where steps run as plain Python."""
        if self._outputs is None:
            self._outputs = abstract_call(self.model, self.sample if self.eager else self.inputs)
        return self._outputs

    def parts(self) -> Parts:
        """The model taken apart; programs made for another structure are thrown away."""
        if self._parts is not None and unchanged(self._found):
            return self._parts
        draw_weights(t.variable for t in tracked(self.model))
        parts = Parts(self.model)
        if self._parts is not None and parts.same_program(self._parts):
            self._parts.nodes = parts.nodes  # should a variable have been replaced by another of its kind
        else:
            self._parts, self._outputs, self.programs, self.predicting, self.known = parts, None, {}, {}, {}
        self._found = parts_of(self.model)
        return self._parts

    def steps(self, examples: Examples, compiled: Compiled) -> Programs:
        """The programs for targets of this kind, made when there are none yet."""
        parts = self.parts()
        predictions: Any = self.outputs()
        names = self.model.names_of(predictions)
        targets = examples.y if examples.y is not None else [None] * len(names)
        found = as_list(predictions, names)
        shapes = jax.tree.map(spec_of, (list(targets), found))
        eager, optimizer = compiled.eager, compiled.optimizer
        key = (tuple(zip(names, *shapes, strict=True)), eager, optimizer.revision)
        if key not in self.programs:
            outputs = [Output(*row) for row in zip(names, *shapes, strict=True)]
            objective = Objective(compiled.recipe, outputs, traced=not eager)
            forward = Forward(parts, lambda p: as_list(p, names), eager)
            asked = compiled.on_nonfinite, compiled.micro_batch_size
            self.programs[key] = Programs(forward, objective, optimizer, self.model.custom_steps(), *asked)
        return self.programs[key]

    def default_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        """`Model.train_step` as it is without an override, for those that call it."""
        call = forward_pass.current()
        if call is None or call.default_step is None:
            raise RuntimeError("train_step() is called by fit() and train_on_batch(), not by hand.")
        return call.default_step(state, batch)

    def stateless_call(self, params: Any, buffers: Any, x: Any, training: bool) -> tuple[Any, Any]:
        """See `Model.stateless_call`. In a step, layers know of the step's batch."""
        outer = forward_pass.current()
        parts = self.parts() if outer is None or self._parts is None else self._parts
        call = replace(outer or forward_pass.Call(), training=training)  # shares the list of losses
        with forward_pass.calling(call):
            _, predictions, after = Forward(parts, lambda p: p)(params, buffers, x, call)
        return predictions, after

    def loss_of(self, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        """The compiled loss of a batch outside of any step."""
        recipe = self.ready_to("compute_loss").recipe
        names = self.model.names_of(y_pred)
        predictions = as_list(y_pred, names)
        targets = [None] * len(names) if y is None else per_output(y, names, "y")
        weights = None if sample_weight is None else per_output(sample_weight, names, "sample_weight")
        specs = jax.tree.map(spec_of, ([None if t is None else jnp.asarray(t) for t in targets], predictions))
        outputs = [Output(*row) for row in zip(names, *specs, strict=True)]
        n = predictions[0].shape[0]
        batch = Batch(None, targets, weights, None, jnp.float32(n), jnp.arange(n, dtype=jnp.uint32))
        recipe = replace(recipe, metrics=None, weighted_metrics=None)
        return Objective(recipe, outputs, traced=False).loss(predictions, batch)[0]

    def predict_steps(self) -> PredictPrograms:
        """The programs of a model that need not be compiled."""
        parts = self.parts()
        if self.eager not in self.predicting:
            self.predicting[self.eager] = PredictPrograms(Forward(parts, lambda p: p, self.eager))
        return self.predicting[self.eager]

    def start_optimizer(self, parts: Parts) -> None:
        """Gives the optimizer a state for the arrays that train now; one it already has for them is kept.

        Raises:
            RuntimeError: the model was never compiled.
            ValueError: nothing trains.
        """
        optimizer = self.ready_to("fit").optimizer
        if not parts.trained:
            raise ValueError(
                f"Model {self.model.name!r} has nothing to train: all its weights are frozen, or it has none."
            )
        if self.optimizer_fits(parts):
            return
        params = list(parts.collect()[0])
        optimizer.bind(parts.names, [parts.nodes[i] for i in parts.trained])
        if optimizer.state is None or self._optimizer_for is None:
            optimizer.state = jax.jit(optimizer.init)(params)  # in one program
        else:  # layers were frozen or thawed: what is kept for the others stays
            optimizer.state = optimizer.carry(optimizer.state, self._optimizer_for, params)
        self._optimizer_for = list(parts.names)

    @contextmanager
    def optimizer_kept(self) -> Iterator[None]:
        """Within it the optimizer may be given another state; at the end it has the one from before, or none."""
        optimizer = self.ready_to("fit").optimizer
        state, belongs = optimizer.state, self._optimizer_for
        try:
            yield
        finally:
            optimizer.state, self._optimizer_for = state, belongs

    @property
    def stateless(self) -> bool:
        """Whether no layer keeps something from batch to batch, as far as that is known without looking at them."""
        return self._parts is not None and not self._parts.stateful and unchanged(self._found)

    @property
    def reported(self) -> list[str]:
        """Names of what the newest programs report, in its order; empty before the first data."""
        objectives = [programs.objective for programs in self.programs.values()]
        return list(objectives[-1].reported) if objectives else []

    @property
    def executables(self) -> dict[str, int]:
        """How many programs of each kind have been compiled."""
        counts = Counter({"train": 0, "test": 0, "predict": 0})
        for programs in self.programs.values():
            counts.update(programs.executables)
        counts["predict"] += sum(p.executables for programs in self.predicting.values() for p in programs.made.values())
        return dict(counts)

    def next_draw(self) -> tuple[int, int]:
        """What the next call of `train_on_batch` draws masks by."""
        self._batches += 1
        return self._seed, self._batches


def training_of(model: Any) -> Training:
    """What `compile` and the first data have added to a model."""
    return model._training
