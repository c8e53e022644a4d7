"""One step of training, testing and predicting as pure functions, and the compiled loops over many steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from epochal.data.feeds.block import Batch, Block, take
from epochal.engine.micro_batches import Cut, Pieces, listening, predicted
from epochal.engine.nonfinite import Record, judged
from epochal.engine.nonfinite import start as empty_record
from epochal.engine.objective.objective import Objective
from epochal.engine.objective.outputs import beside, put_back
from epochal.engine.objective.tally import Means, Tally, chosen
from epochal.engine.state import Parts, TrainState
from epochal.optimizers import Optimizer
from epochal.runtime.program import Program
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


class Steps:
    """The programs of one model with one objective: `train`, `test`, `predict`.

    Args:
        parts: the model, taken apart.
        objective: losses and metrics; None when the model only predicts.
        optimizer: None when the model does not train.
        outputs_of: brings a model's return value to a list with one array per output.
        eager: run steps un-compiled.
        custom: what the model's class overrides.
        on_nonfinite: what becomes of an update whose loss or gradients are not finite: "ignore", "skip" or "raise".
        micro_batch_size: as `compile` takes it: "auto", None or a number.

    Attributes:
        most: kind of program -> how many rows of a batch are run at once, where the memory does not suffice for all.
        adders: names of the layers that have called `add_loss` in batches that are cut.
        told: whether the user knows for which code a piece of a batch may not be the same as the whole.
    """

    def __init__(
        self,
        parts: Parts,
        objective: Objective | None,
        optimizer: Optimizer | None,
        outputs_of: Callable[[Any], list[Any]],
        eager: bool = False,
        custom: Custom | None = None,
        on_nonfinite: str = "ignore",
        micro_batch_size: int | str | None = "auto",
    ):
        self.on_nonfinite, self.micro_batch_size = on_nonfinite, micro_batch_size
        self.most: dict[str, int] = {}
        self.adders: dict[str, None] = {}
        self.told = False
        self.parts, self.objective, self.optimizer = parts, objective, optimizer
        self.outputs_of, self.eager, self.custom = outputs_of, eager, custom or Custom()
        self.means = Means()  # reports training where the model has a `train_step` of its own
        self.kept: dict[str, Program] = {}  # of other modules, made for this model and objective
        self._programs: dict[tuple[str, bool, int | None, int], Program] = {}

    @property
    def row_independent(self) -> bool:
        """Whether padding rows reach no result: all code that sees batches is epochal's own."""
        return self.parts.row_independent and (self.objective is None or self.objective.row_independent)

    @property
    def train_report(self) -> Objective | Means:
        """What reads the tally of a training pass."""
        assert self.objective is not None
        return self.objective if self.custom.step is None else self.means

    def tally(self, block: Block, state_now: Callable[[], TrainState]) -> Tally:
        """The tally before any training batch of blocks like this; `state_now` gives the current state."""
        assert self.objective is not None
        custom = self.custom.step
        if custom is not None and not self.means.labels:  # known by the names of what the step logs

            def logs(state: TrainState, block: Block) -> Any:
                batch = take(block, 0, padded=False)
                with forward_pass.calling(self.call(batch, jax.random.key(0))):
                    return custom(state, batch)[1]

            state = state_now()
            found = jax.tree.map(jnp.asarray, logs(state, block)) if self.eager else jax.eval_shape(logs, state, block)
            self.means = Means(found)
        return self.train_report.start._replace(skips=self.record())

    def width_of(self, kind: str, rows: int) -> int | None:
        """Rows per piece of batches of so many, for pieces as equal as may be; None where one suffices."""
        asked = self.micro_batch_size if isinstance(self.micro_batch_size, int) and kind != "predict" else None
        most = self.most.get(kind, asked)
        return None if most is None or rows <= most else -(-rows // -(-rows // most))

    def record(self, steps: int = 0) -> Record | None:
        """What is known of updates left out behind so many batches, none of them; None where none ever is."""
        return None if self.on_nonfinite == "ignore" else empty_record(len(self.judged_values), steps)

    @property
    def judged_values(self) -> list[str]:
        """What is looked at in an update, in the order in which a step computes it."""
        assert self.objective is not None
        if self.custom.step is not None:
            logged = [f"the logged {label!r}" for label in self.means.labels]
            return [*logged, *[f"the new {name}" for name in self.parts.names]]
        outputs = [f"output {output.name!r}" for output in self.objective.outputs]
        return [*outputs, "the loss", *[f"the gradient of {name}" for name in self.parts.names]]

    def program(self, kind: str, padded: bool, width: int | None = None, one_in: int = 0) -> Program:
        """The program "train", "test" or "predict" for batches with or without room for padding.

        With a `width` it runs every batch in pieces of so many rows, which may then be padded instead of the batch. Of
        those that train it listens to the gradient's noise in one in so many, where the tally has room for it; 0: none.
        """
        key = kind, padded, width, one_in
        if key not in self._programs:
            if kind == "train":
                made = self._make_train(padded, width, one_in)
            else:
                made = (self._make_test if kind == "test" else self._make_predict)(padded, width)
            self._programs[key] = made
        return self._programs[key]

    @property
    def executables(self) -> dict[str, int]:
        """How many programs of each kind have been compiled."""
        counts = {"train": 0, "test": 0, "predict": 0}
        for (kind, *_), program in self._programs.items():
            counts[kind] += program.executables
        return counts

    @property
    def compile_seconds(self) -> float:
        """Spent on compiling so far."""
        return sum(p.compile_seconds for p in self._programs.values())

    def end_with_averages(self) -> None:
        """An optimizer with `use_ema` leaves the moving averages of the weights in the model, as in Keras."""
        optimizer = self.optimizer
        assert optimizer is not None
        if optimizer.state is None or not optimizer.iterations:
            return
        averages = optimizer.averages(optimizer.state)
        if averages is not None:
            # copies: training takes over the memory of the optimizer's own
            self.parts.publish(tuple(jnp.array(a, copy=True) for a in averages), self.parts.collect()[1])

    # -- one step, pure

    def forward(self, params: Any, buffers: Any, x: Any, call: forward_pass.Call) -> tuple[Any, Any, Any]:
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
        """`forward` without the parameters' regularizers."""
        module: Any = self.parts.assemble(params, buffers, call.training, call.frozen)
        predictions = module(x)
        after = self.parts.buffers_of(module)
        after = tuple(
            new.astype(old.dtype) if new.dtype != old.dtype else new for new, old in zip(after, buffers, strict=True)
        )
        return module, predictions, after

    def total_loss(self, module: Any, predictions: Any, batch: Batch, call: forward_pass.Call) -> Array:
        """What training minimises: the compiled losses and all penalties, or what an own `compute_loss` returns."""
        if self.custom.loss is not None:
            return self.custom.loss(module, batch, predictions, call.training)
        assert call.objective is not None
        return call.objective(batch.y, predictions, batch.weight)

    def call(self, batch: Batch, key: Array | None) -> forward_pass.Call:
        """What layers and `compute_loss` know of a step on this batch; in training `key` is given."""
        objective = self.objective
        assert objective is not None
        call = forward_pass.Call(training=key is not None, rows=batch.rows, ids=batch.ids, key=key)

        def compiled_loss(y: Any, predictions: Any, weight: Any) -> Array:
            given = batch._replace(y=objective.listed(y), weight=objective.listed(weight))
            loss, _ = objective.loss(self.outputs_of(predictions), given)
            return loss + sum(call.losses, jnp.zeros((), jnp.float32))

        call.objective = compiled_loss
        return call

    def update(self, state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Array, Any, Any]:
        """The state after one update, the batch's loss, its predictions and the gradients."""
        objective, optimizer = self.objective, self.optimizer
        assert objective is not None
        assert optimizer is not None

        def loss_of(params: Any) -> tuple[Array, Any]:
            call = self.call(batch, key)
            with forward_pass.calling(call):
                module, predictions, buffers = self.forward(params, state.buffers, batch.x, call)
                loss = self.total_loss(module, predictions, batch, call)
            if not any(objective.losses) and not call.losses and self.custom.loss is None:
                raise ValueError("Nothing to minimise: give compile() a loss, or add one with add_loss() in a layer.")
            outputs = self.outputs_of(predictions)
            return loss, (buffers, loss, outputs, beside(outputs))

        gradients, (buffers, loss, outputs, known) = jax.grad(loss_of, has_aux=True)(state.params)
        put_back(outputs, known)
        params, opt = optimizer.update(list(gradients), state.opt, list(state.params))
        return TrainState(tuple(params), buffers, opt), loss, outputs, gradients

    def train_step(self, state: TrainState, tally: Tally, batch: Batch, key: Array) -> tuple[TrainState, Tally]:
        """The state and the tally after one step."""
        assert self.objective is not None
        if self.custom.step is not None:
            with forward_pass.calling(self.call(batch, key)):
                after, logs = self.custom.step(state, batch)
            decisive = [*[logs[label] for label in self.means.labels], *after.params]
            after, tally, bad = self._checked(state, after, tally, [], decisive)
            return after, self.means.measure(logs, batch, tally, bad)
        after, loss, outputs, gradients = self.update(state, batch, key)
        after, tally, bad = self._checked(state, after, tally, outputs, [loss, *gradients])
        return after, self.objective.measure(outputs, batch, loss, tally, bad)

    def train_in_pieces(
        self, state: TrainState, tally: Tally, block: Block, step: Any, key: Array, cut: Cut, listens: bool = False
    ) -> tuple[TrainState, Tally]:
        """The state and the tally after one step on batch number `step` of the block, which is cut."""
        assert self.optimizer is not None
        summed = self.pieces(cut).trained(state.params, state.buffers, tally, block, step, key, listens)
        params, opt = self.optimizer.update(list(summed.gradients), state.opt, list(state.params))
        after, noted, bad = self._checked(
            state,
            TrainState(tuple(params), summed.buffers, opt),
            tally,
            summed.shown,
            [summed.losses["loss"], *summed.gradients],
        )
        measured = summed.tally
        if bad is not None:
            before = tally if tally.sums.size else tally._replace(sums=jnp.zeros_like(measured.sums))
            measured = chosen(bad, before, measured)
        return after, measured._replace(skips=noted.skips)

    def pieces(self, cut: Cut) -> Pieces:
        """Its steps on batches that are cut."""
        assert self.objective is not None
        looks = self.on_nonfinite != "ignore"

        def forward(params: Any, buffers: Any, x: Any, call: forward_pass.Call) -> Any:
            result = self.called(params, buffers, x, call)
            self.adders.update(dict.fromkeys(call.adders))
            return result

        return Pieces(cut, self.objective, self.call, forward, self.penalties, self.outputs_of, looks)

    def _checked(
        self, before: TrainState, after: TrainState, tally: Tally, shown: Sequence[Any], decisive: Sequence[Any]
    ) -> tuple[TrainState, Tally, Array | None]:
        """The state behind an update or, where that is left out, before it; the tally with a note; whether it is."""
        if self.on_nonfinite == "ignore":
            return after, tally, None
        bad, record = judged(tally.skips, shown, decisive, self.on_nonfinite == "raise")
        return chosen(bad, before, after), tally._replace(skips=record), bad

    def test_step(self, params: Any, buffers: Any, tally: Tally, batch: Batch) -> tuple[Any, Tally]:
        """The buffers and the tally after one batch of evaluation."""
        assert self.objective is not None
        call = self.call(batch, None)
        with forward_pass.calling(call):
            module, predictions, after = self.forward(params, buffers, batch.x, call)
            loss = self.total_loss(module, predictions, batch, call)
        return after, self.objective.measure(self.outputs_of(predictions), batch, loss, tally)

    # -- many steps, compiled. The trip count is an argument, so one program runs any number of steps; cutting a row of
    # -- steps into several executions gives the same bits.

    def _make_train(self, padded: bool, width: int | None, one_in: int) -> Program:
        cut = None if width is None else Cut(width, padded, self.eager)

        def train(state: TrainState, tally: Tally, block: Block, draw: Any, first: Any, last: Any) -> Any:
            key = pass_key(draw)

            def body(i: Any, carry: Any, listens: bool = False) -> Any:
                state, tally = carry
                if cut is not None:
                    return self.train_in_pieces(state, tally, block, i, key, cut, listens)
                return self.train_step(state, tally, take(block, i, padded), key)

            if one_in and tally.noise is not None:
                return listening(first, last, body, (state, tally), _updates, one_in, self.eager)
            return self._loop(first, last, body, (state, tally))

        return Program(train, donate=(0,), eager=self.eager)

    def _make_test(self, padded: bool, width: int | None) -> Program:
        cut = None if width is None else Cut(width, padded, self.eager)

        def test(params: Any, buffers: Any, tally: Tally, block: Block, first: Any, last: Any) -> tuple[Any, Tally]:
            def body(i: Any, carry: Any) -> Any:
                kept, tally = carry
                if cut is not None:
                    return kept, self.pieces(cut).tested(params, buffers, tally, block, i)
                after, tally = self.test_step(params, buffers if kept is None else kept, tally, take(block, i, padded))
                return after if self.parts.stateful else None, tally

            return self._loop(first, last, body, (buffers if self.parts.stateful else None, tally))

        return Program(test, eager=self.eager)

    def _make_predict(self, padded: bool, width: int | None) -> Program:
        def predict(params: Any, buffers: Any, x: Any) -> Any:
            def outputs(x: Any) -> Any:
                call = forward_pass.Call(training=False)
                with forward_pass.calling(call):
                    return self.forward(params, buffers, x, call)[1:]

            if width is not None:
                return predicted(lambda x: outputs(x)[0], x, width, self.eager), None
            predictions, after = outputs(x)
            return predictions, after if self.parts.stateful else None

        return Program(predict, eager=self.eager)

    def _loop(self, first: Any, last: Any, body: Callable, carry: Any) -> Any:
        if not self.eager:
            return lax.fori_loop(first, last, body, carry)
        for i in range(int(first), int(last)):
            carry = body(i, carry)
        return carry


def _updates(carry: tuple[TrainState, Tally]) -> Array:
    return jnp.asarray(carry[0].opt.iterations)


def pass_key(draw: Any) -> Array:
    """The random key of a pass, from the run's seed and the epoch, shape (2,)."""
    return jax.random.fold_in(jax.random.key(draw[0]), draw[1])
