"""One step of training, testing and predicting, as pure functions of a model's arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from epochal.data.feeds.block import Batch, Block
from epochal.engine.micro_batches import Cut, Pieces
from epochal.engine.nonfinite import SkippedUpdates
from epochal.engine.objective.objective import Objective
from epochal.engine.objective.outputs import beside, put_back
from epochal.engine.objective.tally import Entry, Means, Tally, Update, added, chosen
from epochal.engine.state import Parts, TrainState
from epochal.optimizers import Optimizer
from epochal.tracing import forward_pass


@dataclass(frozen=True)
class Custom:
    """What a model's class has of its own.

    Attributes:
        loss: (module, batch, predictions, training) -> loss, from an override of `compute_loss`.
        step: (state, batch) -> (state, logs), an override of `train_step`.
    """

    loss: Callable[[Any, Batch, Any, bool], Array] | None = None
    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]] | None = None


@dataclass(frozen=True)
class Forward:
    """A model's call as a pure function of its arrays.

    Attributes:
        parts: the model, taken apart.
        outputs_of: brings a model's return value to a list with one array per output.
        eager: whether steps run as plain Python.
    """

    parts: Parts
    outputs_of: Callable[[Any], list[Any]]
    eager: bool = False

    def __call__(self, params: Any, buffers: Any, x: Any, call: forward_pass.Call) -> tuple[Any, Any, Any]:
        """The module that was called, its predictions for `x`, and the buffers after the call.

        What the parameters' regularizers come to is among `call.losses` then.
        """
        result = self.called(params, buffers, x, call)
        call.losses.extend(self.penalties(params))
        return result

    def penalties(self, params: Any) -> list[Array]:
        """What the parameters' regularizers come to."""
        pairs = zip(params, self.parts.regularizers, strict=True)
        return [regularizer(value) for value, regularizer in pairs if regularizer is not None]

    def called(self, params: Any, buffers: Any, x: Any, call: forward_pass.Call) -> tuple[Any, Any, Any]:
        """The same without the parameters' regularizers."""
        module: Any = self.parts.assemble(params, buffers, call.training, call.frozen)
        predictions = module(x)
        after = self.parts.buffers_of(module)
        after = tuple(
            new.astype(old.dtype) if new.dtype != old.dtype else new for new, old in zip(after, buffers, strict=True)
        )
        return module, predictions, after


class TestStep:
    """One step of evaluation.

    Args:
        forward: the model's call.
        objective: losses and metrics.
        custom: what the model's class overrides.

    Attributes:
        adders: names of the layers that have called `add_loss` in batches that are split.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    def __init__(self, forward: Forward, objective: Objective, custom: Custom):
        self.forward, self.objective, self.custom = forward, objective, custom
        self.parts, self.eager = forward.parts, forward.eager
        self.adders: dict[str, None] = {}

    @property
    def row_independent(self) -> bool:
        """Whether padding rows reach no result: all code that sees batches is epochal's own."""
        return self.parts.row_independent and self.objective.row_independent

    def call(self, batch: Batch, key: Array | None) -> forward_pass.Call:
        """What layers and `compute_loss` know of a step on this batch; in training `key` is given."""
        call = forward_pass.Call(training=key is not None, rows=batch.rows, ids=batch.ids, key=key)

        def compiled_loss(y: Any, predictions: Any, weight: Any) -> Array:
            given = batch._replace(y=self.objective.listed(y), weight=self.objective.listed(weight))
            loss, _ = self.objective.loss(self.forward.outputs_of(predictions), given)
            return loss + sum(call.losses, jnp.zeros((), jnp.float32))

        call.objective = compiled_loss
        return call

    def total_loss(self, module: Any, predictions: Any, batch: Batch, call: forward_pass.Call) -> Array:
        """What training minimises: the compiled losses and all penalties, or what an own `compute_loss` returns."""
        if self.custom.loss is not None:
            return self.custom.loss(module, batch, predictions, call.training)
        if call.objective is None:
            raise RuntimeError("A loss was asked for outside of a step.")
        return call.objective(batch.y, predictions, batch.weight)

    def loss(self, params: Any, buffers: Any, batch: Batch, call: forward_pass.Call) -> tuple[Array, Any, Any]:
        """The loss of a batch, the model's predictions, and the buffers after them."""
        with forward_pass.calling(call):
            module, predictions, after = self.forward(params, buffers, batch.x, call)
            return self.total_loss(module, predictions, batch, call), predictions, after

    def test(self, params: Any, buffers: Any, tally: Tally, batch: Batch) -> tuple[Any, Tally]:
        """The buffers and the tally after one batch of evaluation."""
        loss, predictions, after = self.loss(params, buffers, batch, self.call(batch, None))
        return after, self.objective.measure(self.forward.outputs_of(predictions), batch, loss, tally)

    def pieces(self, cut: Cut, looks: bool = False) -> Pieces:
        """Its steps on batches that are split; `looks`: outputs are looked at for what is not finite."""

        def forward(params: Any, buffers: Any, x: Any, call: forward_pass.Call) -> Any:
            result = self.forward.called(params, buffers, x, call)
            self.adders.update(dict.fromkeys(call.adders))
            return result

        outputs_of, penalties = self.forward.outputs_of, self.forward.penalties
        return Pieces(cut, self.objective, self.call, forward, penalties, outputs_of, looks)


class TrainStep(TestStep):
    """One step of training.

    Args:
        forward, objective, custom: as of a `TestStep`.
        optimizer: makes the updates.
        on_nonfinite: what becomes of an update whose loss or gradients are not finite: "ignore", "skip" or "raise".

    Attributes:
        means: reports training where the model has a `train_step` of its own.
        skipped: counts updates that are left out; None where none ever is.
    """

    def __init__(self, forward: Forward, objective: Objective, custom: Custom, optimizer: Optimizer, on_nonfinite: str):
        super().__init__(forward, objective, custom)
        self.optimizer, self.on_nonfinite = optimizer, on_nonfinite
        self.means = Means()
        self.skipped = self._skipped()

    def _skipped(self) -> SkippedUpdates | None:
        ends = self.on_nonfinite == "raise"
        return None if self.on_nonfinite == "ignore" else SkippedUpdates(self.judged_values, ends)

    def logs(self, found: Mapping[str, Any]) -> None:
        """Notes what a `train_step` of the model's own logs: name -> shape and type."""
        self.means = Means(found)
        self.skipped = self._skipped()

    @property
    def report(self) -> Objective | Means:
        """What reads the tally of a training pass."""
        return self.objective if self.custom.step is None else self.means

    @property
    def judged_values(self) -> list[str]:
        """What is looked at in an update, in the order in which a step computes it."""
        if self.custom.step is not None:
            logged = [f"the logged {label!r}" for label in self.means.labels]
            return [*logged, *[f"the new {name}" for name in self.parts.names]]
        outputs = [f"output {output.name!r}" for output in self.objective.outputs]
        return [*outputs, "the loss", *[f"the gradient of {name}" for name in self.parts.names]]

    def update(self, state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Array, Any, Any]:
        """The state after one update, the batch's loss, its predictions and the gradients."""

        def loss_of(params: Any) -> tuple[Array, Any]:
            call = self.call(batch, key)
            loss, predictions, buffers = self.loss(params, state.buffers, batch, call)
            if not any(self.objective.losses) and not call.losses and self.custom.loss is None:
                raise ValueError("Nothing to minimise: give compile() a loss, or add one with add_loss() in a layer.")
            outputs = self.forward.outputs_of(predictions)
            return loss, (buffers, loss, outputs, beside(outputs))

        gradients, (buffers, loss, outputs, known) = jax.grad(loss_of, has_aux=True)(state.params)
        put_back(outputs, known)
        params, opt = self.optimizer.update(list(gradients), state.opt, list(state.params))
        return TrainState(tuple(params), buffers, opt), loss, outputs, gradients

    def default(self, state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Any]]:
        """What `Model.train_step` is without an override: the state after one update, and what it reports."""
        state, loss, outputs, _ = self.update(state, batch, key)
        return state, {"loss": loss, **self.objective.loss(outputs, batch)[1]}

    def custom_call(self, batch: Batch, key: Array) -> forward_pass.Call:
        """What a `train_step` of the model's own may ask for in a step."""
        call = self.call(batch, key)
        call.default_step = lambda state, batch: self.default(state, batch, key)
        return call

    def train(
        self,
        state: TrainState,
        tally: Tally,
        batch: Batch,
        key: Array,
        entries: Mapping[str, Entry],
        sampled: bool = False,
    ) -> tuple[TrainState, Tally]:
        """The state and the tally after one step.

        Args:
            state, tally: before it.
            batch: the batch.
            key: of the pass.
            entries: of the tally, by name.
            sampled: whether sampled entries look at this step.
        """
        if self.custom.step is not None:
            with forward_pass.calling(self.custom_call(batch, key)):
                after, logs = self.custom.step(state, batch)
            decisive = [*[logs[label] for label in self.means.labels], *after.params]
            after, update = self._judged(state, after, tally, [], decisive, Update(batch.size, None, ()))
            tally = tally._replace(entries=added(entries, tally.entries, update, sampled))
            return after, self.means.measure(logs, batch, tally, update.skipped)
        after, loss, outputs, gradients = self.update(state, batch, key)
        update = Update(batch.size, loss, gradients)
        after, update = self._judged(state, after, tally, outputs, [loss, *gradients], update)
        tally = tally._replace(entries=added(entries, tally.entries, update, sampled))
        return after, self.objective.measure(outputs, batch, loss, tally, update.skipped)

    def train_in_pieces(
        self,
        state: TrainState,
        tally: Tally,
        block: Block,
        step: Any,
        key: Array,
        cut: Cut,
        entries: Mapping[str, Entry],
        sampled: bool = False,
    ) -> tuple[TrainState, Tally]:
        """The state and the tally after one step on batch number `step` of the block, which is split."""
        present = {n: e for n, e in entries.items() if n in tally.entries and (sampled or not e.sampled)}
        pieces = self.pieces(cut, self.skipped is not None)
        summed = pieces.trained(state.params, state.buffers, tally, block, step, key, present)
        params, opt = self.optimizer.update(list(summed.gradients), state.opt, list(state.params))
        size, loss = block.sizes[step].astype(jnp.float32), summed.losses["loss"]
        count = jnp.ceil(size / cut.width)
        update = Update(
            size, loss, summed.gradients, unpenalized=summed.unpenalized, count=count, pieces=summed.entries
        )
        after = TrainState(tuple(params), summed.buffers, opt)
        after, update = self._judged(state, after, tally, summed.shown, [loss, *summed.gradients], update)
        measured = summed.tally._replace(entries={})
        if update.skipped is not None:
            before = tally if tally.sums.size else tally._replace(sums=jnp.zeros_like(measured.sums))
            measured = chosen(update.skipped, before._replace(entries={}), measured)
        return after, measured._replace(entries=added(entries, tally.entries, update, sampled))

    def _judged(
        self,
        before: TrainState,
        after: TrainState,
        tally: Tally,
        shown: Sequence[Any],
        decisive: Sequence[Any],
        update: Update,
    ) -> tuple[TrainState, Update]:
        """The state behind an update or, where that is left out, before it; and the update with what was found."""
        if self.skipped is None:
            return after, update
        record = tally.entries[self.skipped.name]
        skipped, broken, flags = self.skipped.judge(record, shown, decisive)
        return chosen(skipped, before, after), update._replace(skipped=skipped, broken=broken, flags=flags)
