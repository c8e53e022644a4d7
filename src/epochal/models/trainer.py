"""What training adds to a model: how it was compiled, its programs, and the way from a user's data to a feed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state

from epochal.callbacks.callback_list import CallbackList
from epochal.callbacks.history import History
from epochal.callbacks.progbar_logger import ProgbarLogger
from epochal.data import arrays
from epochal.data.examples import Examples, as_examples, as_validation, split
from epochal.data.feeds.array_feed import ArrayFeed
from epochal.data.feeds.block import Batch
from epochal.data.feeds.feed import Feed
from epochal.data.feeds.stream_feed import StreamFeed
from epochal.data.padding import array_chunks, stream_chunks
from epochal.data.streams.indexed import Workforce
from epochal.data.streams.opening import as_stream, is_stream, made
from epochal.data.streams.stream import Stream
from epochal.data.targets import per_output, with_class_weight
from epochal.display.progress import Display
from epochal.engine.objective.labels import check_labels
from epochal.engine.objective.objective import Objective
from epochal.engine.objective.outputs import Output, as_list, naming
from epochal.engine.objective.recipe import Recipe
from epochal.engine.objective.tally import Tally
from epochal.engine.programs import Steps
from epochal.engine.session import Session
from epochal.engine.state import Parts, TrainState, parts_of, unchanged
from epochal.layers.base.building import abstract_call
from epochal.layers.base.tree import tracked
from epochal.layers.base.weights import draw_weights
from epochal.models.arguments import DEFAULT_BATCH_SIZE, checked_batch_size
from epochal.optimizers import Optimizer
from epochal.optimizers.batch_scaling import scaled
from epochal.random import next_seed
from epochal.runtime.host_copies import spec_of
from epochal.support.warn import warn
from epochal.tracing import forward_pass

_NO_TRACE = get_opaque_trace_state(convention="nnx")


class Training:
    """The training side of one model. Opaque to Flax, so nothing of it is part of the model's graph.

    Attributes:
        recipe: what `compile` was given; None before.
        optimizer: the optimizer; None before `compile`.
        eager: whether steps run as plain Python.
        steps_per_execution: "auto" or a number.
        on_nonfinite, micro_batch_size: as `compile` takes them.
        history: of the last fit.
        stop: the flags that hooks set.
        inputs: shape and type of a batch, as the model was built; None before.
        until: epoch and batch before which the next fit ends with `loop.Reached`; None lets it run.
    """

    def __init__(self, model: Any):
        self.model = model
        self.recipe: Recipe | None = None
        self.optimizer: Optimizer | None = None
        self.eager = False
        self.steps_per_execution: int | str = "auto"
        self.on_nonfinite = "ignore"
        self.micro_batch_size: int | str | None = "auto"
        self.history: History | None = None
        self.stop = {"train": False, "test": False, "predict": False}
        self.inputs: Any = None
        self.until: tuple[int, int] | None = None
        self._outputs: Any = None  # shape and type of what the model returns for `inputs`; None when not known
        self._sample: Any = None  # inputs that shapes are found with where steps run as plain Python
        self._parts: Parts | None = None
        self._found: list[tuple[Any, list[Any]]] = []  # what the model consisted of when it was taken apart
        self.programs: dict[Any, Steps] = {}
        self.running: dict[str, tuple[Tally, Any]] = {}  # of train_on_batch and test_on_batch, with the pivot
        self.known: dict[Any, Any] = {}  # see `calls`: what was found at the first call with arrays of some shapes
        self._seed, self._batches = next_seed(), 0  # what train_on_batch draws masks by
        self.current: Steps | None = None  # what runs
        self._optimizer_for: list[str] | None = None  # names of the weights that the optimizer's state belongs to

    def compile(
        self,
        recipe: Recipe,
        optimizer: Optimizer,
        eager: bool,
        steps_per_execution: int | str,
        on_nonfinite: str,
        micro_batch_size: int | str | None,
    ) -> None:
        """Takes a new recipe; the programs of the old one are dropped."""
        if optimizer is not self.optimizer:
            self._optimizer_for = None
        self.recipe, self.optimizer = recipe, optimizer
        self.eager, self.steps_per_execution, self.on_nonfinite = eager, steps_per_execution, on_nonfinite
        self.micro_batch_size = micro_batch_size
        self.programs, self.running, self.known = {}, {}, {}

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
        self,
        given: tuple,
        class_weight: Any,
        way: Way,
        fraction: Any,
        validation_data: Any,
        validation_way: Way,
        closing: ExitStack,
    ) -> tuple[Data, Data | None]:
        """Data to train on, and to validate on.

        Args:
            given: x, y and sample_weight.
            class_weight: as `fit` takes it.
            way, validation_way: how the one and the other are gone through.
            fraction: `validation_split`.
            validation_data: as `fit` takes it; None is none.
            closing: closes what is opened.

        Raises:
            ValueError: data of no known kind, or that does not fit the model.
        """
        given, validation_data = (made(given[0]), *given[1:]), made(validation_data)
        by_default = validation_way
        if validation_way.batch_size is None:
            by_default = replace(validation_way, batch_size=way.batch_size)
        if validation_data is None and fraction:
            if is_stream(given[0]):
                raise ValueError(
                    f"validation_split needs arrays, got a {type(given[0]).__name__}: pass validation_data instead."
                )
            examples, held_out = split(as_examples(*given, method="fit"), fraction)
            return self._of_arrays(examples, way, class_weight), self._of_arrays(held_out, by_default)
        data = self.data("fit", given, way, closing, class_weight)
        if validation_data is None:
            return data, None
        if is_stream(validation_data):
            return data, self.data("validation", (validation_data, None, None), validation_way, closing)
        with naming("validation_data"):
            return data, self._of_arrays(as_validation(validation_data), by_default)

    def data(self, method: str, given: tuple, way: Way, closing: ExitStack, class_weight: Any = None) -> Data:
        """What a user passes as x, y and sample_weight, checked; the model is built for it.

        Raises:
            ValueError: data of no known kind, or that does not fit the model.
        """
        x, y, sample_weight = made(given[0]), given[1], given[2]
        if not is_stream(x):
            return self._of_arrays(as_examples(x, y, sample_weight, method=method), way, class_weight)
        for name, value in (("y", y), ("sample_weight", sample_weight), ("batch_size", way.batch_size)):
            if value is not None:
                raise ValueError(
                    f"{method}() got {name} beside a {type(x).__name__}, whose batches bring their own: expected None."
                )
        stream, first = self._opened(x, method, way, closing)
        data = Data(self, self.aligned(first), stream=stream, class_weight=class_weight)
        self.fix_batch_size(first.n, first.n)
        self.weighted(data.first, class_weight)  # refused before anything is trained
        return data

    def input_data(self, x: Any, way: Way, closing: ExitStack) -> Data:
        """The same for `predict`: targets that come along are left alone."""
        x = made(x)
        if not is_stream(x):
            examples = self.matched(as_examples(x, method="predict"))
            size = checked_batch_size(way.batch_size, examples.n)
            self.fix_batch_size(size, examples.n)
            return Data(self, examples, way=replace(way, batch_size=size))
        if way.batch_size is not None:
            raise ValueError(f"predict() got batch_size beside a {type(x).__name__}: expected None.")
        stream, first = self._opened(x, "predict", way, closing)
        data = Data(self, self.matched(first), stream=stream)
        self.fix_batch_size(first.n, first.n)
        return data

    def _opened(self, x: Any, method: str, way: Way, closing: ExitStack) -> tuple[Stream, Examples]:
        stream = as_stream(
            x,
            method,
            way.limit,
            shuffle=way.shuffle,
            seed=way.seed,
            again=way.again,
            workforce=way.workforce,
            keeps_state=way.keeps_state,
        )
        closing.callback(stream.close)
        first = stream.begin(way.first_epoch)
        if first is None:
            raise ValueError(f"Expected at least one batch in {method}(), the {type(x).__name__} gave none.")
        return stream, first

    def _of_arrays(self, examples: Examples, way: Way, class_weight: Any = None) -> Data:
        examples = self.aligned(examples)
        size = checked_batch_size(way.batch_size, examples.n)
        self.fix_batch_size(size, examples.n)
        way = replace(way, batch_size=size)
        if _on_disk(examples.y) or _on_disk(examples.weight):
            return Data(self, examples, way=way, class_weight=class_weight)
        return Data(self, self.weighted(examples, class_weight), way=way)

    def fix_batch_size(self, batch_size: int, n: int) -> None:
        """A stateful model learns of how many examples a batch is; n, those of all batches, must be a multiple."""
        if n % batch_size and self.model.stateful_layers():
            raise ValueError(
                f"A stateful model keeps one state per row of the batch: expected a number of examples that batch_size="
                f"{batch_size} divides, got {n}."
            )
        self.model.fix_batch_size(batch_size)

    def matched(self, examples: Examples) -> Examples:
        """Inputs in the model's structure; builds the model for its first data, and checks what comes later."""
        matched = Examples(self.model.match_inputs(examples.x), examples.y, examples.weight, examples.n)
        self.model.build_for(matched.x)
        if self.eager:
            self._sample = self.sample_of(matched.x)
        return matched

    def sample_of(self, values: Any) -> Any:
        """Two rows like these arrays (or shapes): shapes alone or, where steps run as plain Python, arrays."""
        return jax.tree.map(_first_twice if self.eager else spec_of, values)

    def aligned(self, examples: Examples) -> Examples:
        """The same, with targets and weights as lists with one array per output."""
        examples = self.matched(examples)
        names = self.model.names_of(self.outputs())
        y = None if examples.y is None else per_output(examples.y, names, "y")
        weight = None if examples.weight is None else per_output(examples.weight, names, "sample_weight")
        return Examples(examples.x, y, weight, examples.n)

    def weighted(self, examples: Examples, class_weight: Any) -> Examples:
        """The aligned examples with the weights of their classes."""
        if class_weight is None:
            return examples
        outputs = self.outputs()
        return with_class_weight(examples, class_weight, self.model.names_of(outputs), outputs)

    def outputs(self) -> Any:
        """Shape and type of what the model returns for a batch; arrays, where steps run as plain Python."""
        if self._outputs is None:
            self._outputs = abstract_call(self.model, self._sample if self.eager else self.inputs)
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
            self._parts, self._outputs, self.programs, self.known = parts, None, {}, {}
        self._found = parts_of(self.model)
        return self._parts

    def steps(self, examples: Examples, recipe: Recipe) -> Steps:
        """The programs for targets of this kind, made when there are none yet."""
        parts = self.parts()
        predictions: Any = self.outputs()
        names = self.model.names_of(predictions)
        targets = examples.y if examples.y is not None else [None] * len(names)
        found = as_list(predictions, names)
        shapes = jax.tree.map(spec_of, (list(targets), found))
        revision = self.optimizer.revision if self.optimizer is not None else 0
        key = (tuple(zip(names, *shapes, strict=True)), self.eager, revision)
        if key not in self.programs:
            outputs = [Output(*row) for row in zip(names, *shapes, strict=True)]
            objective = Objective(recipe, outputs, traced=not self.eager)
            custom, outputs_of = self.model.custom_steps(), lambda p: as_list(p, names)
            asked = self.on_nonfinite, self.micro_batch_size
            self.programs[key] = Steps(parts, objective, self.optimizer, outputs_of, self.eager, custom, *asked)
        self.current = self.programs[key]
        return self.programs[key]

    def default_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        """`Model.train_step` as it is without an override, for those that call it."""
        steps, call = self._running(), forward_pass.current()
        assert call is not None
        assert call.key is not None
        state, loss, outputs, _ = steps.update(state, batch, call.key)
        assert steps.objective is not None
        return state, {"loss": loss, **steps.objective.loss(outputs, batch)[1]}

    def stateless_call(self, params: Any, buffers: Any, x: Any, training: bool) -> tuple[Any, Any]:
        """See `Model.stateless_call`. In a step, layers know of the step's batch."""
        outer = forward_pass.current()
        parts = self.parts() if outer is None or self._parts is None else self._parts
        call = replace(outer or forward_pass.Call(), training=training)  # shares the list of losses
        with forward_pass.calling(call):
            _, predictions, after = Steps(parts, None, None, lambda p: p).forward(params, buffers, x, call)
        return predictions, after

    def loss_of(self, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        """The compiled loss of a batch outside of any step."""
        recipe = self.ready_to("compute_loss")
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

    def predict_steps(self) -> Steps:
        """The programs of a model that need not be compiled."""
        parts = self.parts()
        key = ("predict", self.eager)
        if key not in self.programs:
            self.programs[key] = Steps(parts, None, None, lambda p: p, self.eager)
        return self.programs[key]

    def _running(self) -> Steps:
        if self.current is None:
            raise RuntimeError("train_step() is called by fit() and train_on_batch(), not by hand.")
        return self.current

    def start_optimizer(self, parts: Parts) -> None:
        """Gives the optimizer a state for the arrays that train now; one it already has for them is kept."""
        optimizer = self.optimizer
        assert optimizer is not None
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

    def scale_rate(self, rule: str | None, batch_size: int | None, closing: ExitStack) -> str | None:
        """Changes the learning rate, right for batches of 32, until `closing` closes; what there is to say of it.

        Raises:
            ValueError: batches that come as they are, or an optimizer that the rule cannot be applied to.
        """
        if rule is None:
            return None
        if batch_size is None:
            raise ValueError("lr_scaling needs a batch size: expected arrays, got batches that come as they are.")
        optimizer = self.optimizer
        assert optimizer is not None
        factor = closing.enter_context(scaled(optimizer, rule, DEFAULT_BATCH_SIZE, batch_size))
        if factor == 1:
            return None
        rate = float(optimizer.learning_rate)
        sizes = f"batches of {DEFAULT_BATCH_SIZE} → {batch_size}"
        return f"Learning rate {rate / factor:.4g} → {rate:.4g}, times {factor:.4g} by {rule!r} for {sizes}."

    def next_draw(self) -> tuple[int, int]:
        """What the next call of `train_on_batch` draws masks by."""
        self._batches += 1
        return self._seed, self._batches

    def session(self, steps: Steps, callbacks: list[Any], display: Any, params: dict[str, Any]) -> Session:
        """A new session."""
        calls = CallbackList(callbacks, model=self.model, **params)
        # What a ProgbarLogger shows the display does, and faster; one that a user has changed does it itself.
        loggers = [c for c in calls.callbacks if isinstance(c, ProgbarLogger)]
        calls.callbacks = [c for c in calls.callbacks if type(c) is not ProgbarLogger]
        display = Display() if any(type(c) is not ProgbarLogger for c in loggers) else display
        return Session(self.model, steps, calls, display, self.steps_per_execution)


@dataclass(frozen=True)
class Way:
    """How a method goes through its data.

    Attributes:
        batch_size: as a user gives it, or a number.
        shuffle, seed: of the order.
        limit: batches per epoch; None is one pass, -1 an epoch without end.
        again: whether an epoch starts over when a pass is through.
        first_epoch: the epoch that will be drawn first.
        workforce: who makes a `PyDataset`'s batches.
        keeps_state: whether the run is kept, and data with a state of its own is asked for it.
    """

    batch_size: Any = None
    shuffle: bool | str = False
    seed: int = 0
    limit: int | None = None
    again: bool = False
    first_epoch: int = 0
    workforce: Workforce = field(default_factory=Workforce)
    keeps_state: bool = False


class Data:
    """Data of one method call, checked against the model.

    Args:
        training: the model's training side.
        first: the examples, or the first batch of a stream; what programs are made for.
        way: how arrays are gone through, with the number of examples per batch.
        stream: the batches, where the data is no arrays.
        class_weight: still to be put into the stream's batches.
    """

    def __init__(
        self,
        training: Training,
        first: Examples,
        *,
        way: Way | None = None,
        stream: Stream | None = None,
        class_weight: Any = None,
    ):
        self.first, self.stream = first, stream
        self._training, self._way, self._class_weight = training, way, class_weight

    @property
    def batch_size(self) -> int | None:
        """Examples per batch; None where batches come as they are."""
        return None if self._way is None else self._way.batch_size

    @property
    def steps(self) -> int | None:
        """Batches per epoch, as far as that is known."""
        if self._way is None or self.stream is not None:
            return self.stream.expected if self.stream is not None else None
        per_pass, limit = -(-self.first.n // self._way.batch_size), self._way.limit
        if limit is None or limit == -1:
            return per_pass if limit is None else None
        return limit if self._way.again else min(limit, per_pass)

    def feed(self, programs: Steps, testing: bool = False) -> Feed:
        """The data as batches for these programs; when testing, other sizes of small data share them.

        Short batches keep their shape where code of a user's may look across the batch.
        """
        training, way = self._training, self._way
        exact_tail = not programs.row_independent

        def prepare(batch: Examples) -> Examples:
            batch = training.weighted(batch if self.stream is None else training.aligned(batch), self._class_weight)
            check_labels(programs.objective, batch)
            return batch

        if self.stream is not None:
            return StreamFeed(self.stream, prepare, exact_tail)
        assert way is not None
        steps = way.limit if way.limit in (None, -1) else self.steps
        settings = (self.first, way.batch_size, way.shuffle, way.seed, exact_tail, steps)
        if _on_disk(self.first.y) or _on_disk(self.first.weight):
            return ArrayFeed(*settings, shared=testing, prepare=prepare)
        check_labels(programs.objective, self.first)
        return ArrayFeed(*settings, shared=testing)

    def chunks(self, padded: bool) -> Iterator[tuple[Any, int]]:
        """Inputs for `predict`, batch by batch, with the number of true rows in each."""
        if self._way is not None:
            size = self._way.batch_size
            yield from array_chunks(self.first.rows(0, min((self.steps or 0) * size, self.first.n)), size, padded)
            return
        assert self.stream is not None
        drawn = (batch.examples for batch in self.stream.epoch(0))
        count, limit = 0, self.stream.limit
        for chunk in stream_chunks(map(self._training.matched, drawn), padded):
            count += 1
            yield chunk
        self.stream.end_epoch()
        if self.stream.dry and limit is not None:
            warn(f"The data ended: {count} of {limit} batches were predicted.")


def _on_disk(tree: Any) -> bool:
    return any(isinstance(a, arrays.Lazy) for a in jax.tree.leaves(tree))


def _first_twice(array: Any) -> Any:
    """The first row twice, on the device; what is a shape stays one."""
    if isinstance(array, jax.ShapeDtypeStruct):
        return spec_of(array)
    row = arrays.read_rows(array, np.zeros(1, np.int32))
    return jnp.asarray(np.repeat(row, 2, axis=0))
