"""A batch in pieces (micro-batches), one after the other in the memory of one, with the result of the whole batch.

The loss of a batch is a sum over its examples, divided by a count: so is its gradient. Every piece adds its share, and
the shares are those of the whole batch: the count is the batch's, masks and weights included, and random masks are
drawn by the examples' ids. Penalties on weights count once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from epochal.data.feeds.block import Batch, Block, take_piece
from epochal.engine.objective.loss_sums import CountsNeeded
from epochal.engine.objective.objective import Objective
from epochal.engine.objective.outputs import beside, put_back
from epochal.engine.objective.tally import Entry, Tally
from epochal.tracing import forward_pass


@dataclass(frozen=True)
class Cut:
    """How the batches of a program are cut.

    Attributes:
        width: k, the rows of a piece.
        padded: whether the last piece of a batch is padded; otherwise it has its true shape.
        eager: whether pieces run as plain Python.
    """

    width: int
    padded: bool
    eager: bool = False

    def fold(self, body: Callable[[Any, Batch], Any], carry: Any, block: Block, step: Any) -> Any:
        """`body(carry, piece)` over the pieces of batch number `step`, in order."""
        k, size = self.width, block.sizes[step]
        # Batches that are not padded have the width of `order`, so the rest has a fixed size.
        rest = 0 if self.padded or block.starts is not None else block.order.shape[1] % k
        count = -(-size // k) if self.padded else size // k

        def at(number: Any, carry: Any) -> Any:
            return body(carry, take_piece(block, step, number * k, k, self.padded))

        if self.eager:
            for number in range(int(count)):
                carry = at(number, carry)
        else:
            carry = lax.fori_loop(0, count, at, carry)
        return body(carry, take_piece(block, step, count * k, rest, padded=False)) if rest else carry


class Summed(NamedTuple):
    """What the pieces of a batch add up to.

    Attributes:
        gradients: of the loss, one per parameter; empty in a test.
        buffers: the model's other arrays, after the last piece.
        losses: "loss" and each output's, by label.
        shown: per output a number that is NaN where the output is not finite; empty where nobody asks.
        tally: after the batch.
        unpenalized: the gradients without the regularizers' part; empty in a test.
        entries: name -> what an `Entry` has accumulated over the micro-batches.
    """

    gradients: list[Array]
    buffers: Any
    losses: dict[str, Array]
    shown: list[Array]
    tally: Tally
    unpenalized: Sequence[Array] = ()
    entries: dict[str, Any] = {}  # noqa: RUF012


@dataclass(frozen=True)
class Pieces:
    """Steps on batches that are cut.

    Attributes:
        cut: how.
        objective: the compiled losses and metrics.
        call: (batch, key) -> what layers know of the pass.
        forward: (params, buffers, x, call) -> the module, its predictions, the buffers after; as of `Forward.called`.
        penalties: (params) -> what the regularizers of the weights come to.
        outputs_of: brings a model's return value to a list.
        looks: whether outputs are looked at for what is not finite.
    """

    cut: Cut
    objective: Objective
    call: Callable[[Batch, Array | None], forward_pass.Call]
    forward: Callable[[Any, Any, Any, forward_pass.Call], tuple[Any, Any, Any]]
    penalties: Callable[[Any], list[Array]]
    outputs_of: Callable[[Any], list[Any]]
    looks: bool = False

    def trained(
        self,
        params: Any,
        buffers: Any,
        tally: Tally,
        block: Block,
        step: Any,
        key: Array,
        entries: Mapping[str, Entry] | None = None,
    ) -> Summed:
        """Loss and gradients of batch number `step`, and the sums and states of the tally after it.

        Args:
            entries: those that look at micro-batches of this update.
        """
        watching = entries or {}

        def gradient(carry: Summed, piece: Batch, counts: Any, size: Array) -> Summed:
            def loss_of(params: Any) -> tuple[Array, Any]:
                loss, (outputs, losses, after) = self._share(params, carry.buffers, piece, key, size, counts)
                return loss, (outputs, losses, after, beside(outputs))

            added, (outputs, losses, buffers, known) = jax.grad(loss_of, has_aux=True)(params)
            put_back(outputs, known)
            seen = {n: e.add_piece(carry.entries[n], added, piece.size, size) for n, e in watching.items()}
            sums = [a + b.astype(a.dtype) for a, b in zip(carry.gradients, added, strict=True)]
            return self._after(carry, outputs, losses, piece)._replace(gradients=sums, buffers=buffers, entries=seen)

        zeros = [jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)) for p in params]
        start = self._start(buffers, tally)._replace(
            gradients=zeros, entries={name: entry.start_piece() for name, entry in watching.items()}
        )
        summed = self._folded(gradient, start, params, block, step, key)
        gradients = summed.gradients
        if self.penalties(params):
            extra = jax.grad(lambda params: sum(self.penalties(params), jnp.zeros(())))(params)
            gradients = [a + b for a, b in zip(gradients, extra, strict=True)]
        gradients = [g.astype(p.dtype) for g, p in zip(gradients, params, strict=True)]
        return summed._replace(gradients=gradients, unpenalized=summed.gradients)

    def tested(self, params: Any, buffers: Any, tally: Tally, block: Block, step: Any) -> Tally:
        """The tally after an evaluation of batch number `step`."""

        def test(carry: Summed, piece: Batch, counts: Any, size: Array) -> Summed:
            _, (outputs, losses, _) = self._share(params, buffers, piece, None, size, counts)
            return self._after(carry, outputs, losses, piece)

        return self._folded(test, self._start((), tally), params, block, step, None, buffers).tally

    def _start(self, buffers: Any, tally: Tally) -> Summed:
        # The entries so far take no part in the loop over the pieces: carried along they would cost a step 3 %.
        labels, tally = ["loss", *filter(None, self.objective.loss_labels)], tally._replace(entries={})
        shown = [jnp.zeros(()) for _ in self.objective.outputs] if self.looks else []
        return Summed([], buffers, dict.fromkeys(labels, jnp.zeros(())), shown, tally)

    def _folded(
        self, body: Callable, start: Summed, params: Any, block: Block, step: Any, key: Any, buffers: Any = None
    ) -> Summed:
        """The sum over the pieces; the batch's losses are in the tally then."""
        size = block.sizes[step].astype(jnp.float32)

        def run(counts: Any) -> Summed:
            return self.cut.fold(lambda carry, piece: body(carry, piece, counts, size), start, block, step)

        try:  # whether there are masks shows while the model is traced
            summed = run(None)
        except CountsNeeded:
            summed = run(self._counts(params, start.buffers if buffers is None else buffers, block, step, key))
        loss = sum(self.penalties(params), summed.losses["loss"])
        losses = {**summed.losses, "loss": loss}
        return summed._replace(losses=losses, tally=self.objective.measure_losses(losses, size, summed.tally))

    def _counts(self, params: Any, buffers: Any, block: Block, step: Any, key: Any) -> list[Array]:
        """What the batch's losses divide by. All that does not bear on masks is left out of the compiled program."""

        def count(carry: Any, piece: Batch) -> Any:
            buffers, counts = carry
            outputs, after, _ = self.outputs(params, buffers, piece, key)
            found = self.objective.counts(outputs, piece)
            return after, [a + b for a, b in zip(counts, found, strict=True)]

        zeros = [jnp.zeros(()) for _ in self.objective.losses]
        return self.cut.fold(count, (buffers, zeros), block, step)[1]

    def outputs(self, params: Any, buffers: Any, piece: Batch, key: Any) -> tuple[list[Any], Any, forward_pass.Call]:
        """What the model makes of a piece, its other arrays after that, and what layers have said in it."""
        call = self.call(piece, key)
        with forward_pass.calling(call):
            _, predictions, after = self.forward(params, buffers, piece.x, call)
        return self.outputs_of(predictions), after, call

    def _share(self, params: Any, buffers: Any, piece: Batch, key: Any, size: Array, counts: Any) -> tuple[Array, Any]:
        """What a piece adds to the batch's loss; with its outputs, the outputs' shares by label, and the buffers.

        What layers add to the loss is taken for a mean over examples, so it has a part in the batch's as its examples.
        """
        outputs, after, call = self.outputs(params, buffers, piece, key)
        if key is not None and not (any(self.objective.losses) or call.losses or self.penalties(params)):
            raise ValueError("Nothing to minimise: give compile() a loss, or add one with add_loss() in a layer.")
        loss, parts = self.objective.share(outputs, piece, size, counts)
        loss = loss + piece.size / size * sum(call.losses, jnp.zeros(()))
        return loss, (outputs, {"loss": loss, **parts}, after)

    def _after(self, carry: Summed, outputs: list[Any], losses: dict[str, Array], piece: Batch) -> Summed:
        added = {label: value + losses[label].astype(value.dtype) for label, value in carry.losses.items()}
        shown = [s + (output * 0).sum() for s, output in zip(carry.shown, outputs, strict=True)] if self.looks else []
        return carry._replace(
            losses=added, shown=shown, tally=self.objective.measure_piece(outputs, piece, carry.tally)
        )


def predicted(forward: Callable[[Any], Any], x: Any, width: int, eager: bool) -> Any:
    """`forward(x)`, computed for `width` rows of `x` after the other; the last piece may have fewer."""
    rows = len(jax.tree.leaves(x)[0])
    count = rows // width

    def at(start: Any, size: int) -> Any:
        return forward(jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, size), x))

    if eager:
        parts = [at(start, width) for start in range(0, count * width, width)]
    else:
        pieces = lax.map(lambda number: at(number * width, width), jnp.arange(count))
        parts = [jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), pieces)]
    if rest := rows % width:
        parts.append(at(count * width, rest))
    return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)
