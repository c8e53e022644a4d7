"""Losses and metrics bound to a model's outputs: what is minimised, what is reported, and under which names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal import losses, metrics
from epochal.data.feeds.block import Batch
from epochal.engine.objective.loss_sums import CountsNeeded, LossSums, WholeOnly, combined, loss_sums
from epochal.engine.objective.outputs import Output, naming, widened
from epochal.engine.objective.recipe import Recipe, per_output_losses, per_output_metrics, per_output_weights
from epochal.engine.objective.tally import Tally, accumulate, as_number, chosen, mean_of_sums
from epochal.support.types import Logs
from epochal.tracing.masks import get_mask


@dataclass(frozen=True)
class _Measure:
    """One metric of one output under its label."""

    label: str
    metric: metrics.Metric
    output: int
    weighted: bool


@dataclass(frozen=True)
class Layout:
    """How additive statistics lie in one float32 vector: label by label, each a pytree of arrays.

    Attributes:
        labels: in their order.
        structure, shapes: of the statistics as a list.
    """

    labels: tuple[str, ...]
    structure: Any
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, labels: Sequence[str], sums: Mapping[str, Any]) -> Layout:
        """The layout of statistics like these, arrays or shapes."""
        present = tuple(label for label in labels if label in sums)
        leaves, structure = jax.tree.flatten([sums[label] for label in present])
        return cls(present, structure, tuple(tuple(leaf.shape) for leaf in leaves))

    @property
    def width(self) -> int:
        """k, the length of the vector."""
        return sum(map(math.prod, self.shapes))

    def pack(self, sums: Mapping[str, Any]) -> Array:
        """The statistics as a vector, shape (k,)."""
        leaves = jax.tree.leaves([sums[label] for label in self.labels])
        return jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in leaves])

    def unpack(self, vector: np.ndarray) -> dict[str, Any]:
        """The statistics of a vector on the host."""
        leaves, start = [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            leaves.append(vector[start : start + size].reshape(shape))
            start += size
        return dict(zip(self.labels, jax.tree.unflatten(self.structure, leaves), strict=True))

    def zeros(self) -> dict[str, Any]:
        """Statistics of nothing, inside a trace."""
        leaves = jax.tree.unflatten(self.structure, [jnp.zeros(shape) for shape in self.shapes])
        return dict(zip(self.labels, leaves, strict=True))


class Objective:
    """The loss of a batch and the statistics behind every reported number.

    Args:
        recipe: what `compile` was given.
        outputs: the model's.
        traced: whether losses and metrics may be traced for shapes; if not, the first batch gives the tally its form.

    Attributes:
        labels: loss, per-output losses, metrics, weighted metrics: what is kept in a tally, in order.
        reported: names of all reported numbers, in order; other than `labels` once a metric has given a dict of them.
        row_independent: whether all losses and metrics are epochal's own, so that padding rows cannot reach them.
        start: the tally before any batch.
    """

    def __init__(self, recipe: Recipe, outputs: Sequence[Output], traced: bool = True):
        self.outputs = list(outputs)
        names = [o.name for o in outputs]
        per_output = per_output_losses(recipe.loss, names)
        self.losses = [losses.get(item) for item in per_output]
        self.loss_weights = per_output_weights(recipe.loss_weights, names)
        self._check_targets()
        many = len(names) > 1
        self.loss_labels = [
            f"{n}_loss" if many and loss is not None else None for n, loss in zip(names, self.losses, strict=True)
        ]
        self.measures = self._measures(recipe)
        self.labels = ["loss", *[label for label in self.loss_labels if label], *[m.label for m in self.measures]]
        self.reported = list(self.labels)
        used = [*self.losses, *[m.metric for m in self.measures]]
        self.row_independent = all(_is_ours(item) for item in used if item is not None)
        self.layout: Layout | None = None  # of steps that run as plain Python: known at their first batch
        self.start = self._lay_out() if traced else Tally(np.zeros((2, 0), np.float32), {})

    def _lay_out(self) -> Tally:
        """The tally before any batch, found by shapes alone; targets that fit no loss are refused here."""
        targets, predictions = [o.target for o in self.outputs], [o.prediction for o in self.outputs]
        states = {
            m.label: jax.tree.map(np.asarray, m.metric.initial(targets[m.output], predictions[m.output]))
            for m in self.measures
            if not m.metric.additive
        }

        def statistics(targets: Any, predictions: Any) -> dict[str, Any]:
            size = jnp.float32(predictions[0].shape[0])
            batch = Batch(None, targets, None, None, size, jnp.zeros(predictions[0].shape[0], jnp.uint32))
            self.loss(predictions, batch)  # refuses targets that do not fit
            return self._measured(predictions, batch, jnp.zeros(()), states)[0]

        self.layout = Layout.of(self.labels, jax.eval_shape(statistics, targets, predictions))
        return Tally(np.zeros((2, self.layout.width), np.float32), states)

    def _check_targets(self) -> None:
        for output, loss in zip(self.outputs, self.losses, strict=True):
            if loss is not None and output.target is None:
                raise ValueError(
                    f"Output {output.name!r} has the loss {loss.name!r} and no targets: expected y, a row per example."
                )

    def _measures(self, recipe: Recipe) -> list[_Measure]:
        names = [o.name for o in self.outputs]
        taken = Counter(["loss", *[label for label in self.loss_labels if label]])
        found: list[_Measure] = []
        for weighted, given in ((False, recipe.metrics), (True, recipe.weighted_metrics)):
            for i, items in enumerate(per_output_metrics(given, names, "weighted_metrics" if weighted else "metrics")):
                output = self.outputs[i]
                prefix = f"{output.name}_" if len(names) > 1 else ""
                for item in items:
                    if output.target is None:
                        raise ValueError(f"Output {output.name!r} has metrics and no targets: expected y.")
                    metric = metrics.resolve(item, output.target.shape, output.prediction.shape)
                    label = _free_label(prefix, metric.name, weighted, taken)
                    found.append(_Measure(label, metric, i, weighted))
        return found

    # -- inside a trace

    def loss(self, predictions: Sequence[Array], batch: Batch) -> tuple[Array, dict[str, Array]]:
        """The loss of a batch: the sum over outputs of weight times loss; and each output's own by label.

        Args:
            predictions: one array per output, m rows each; their masks weight the loss.
            batch: the batch; `size` is what a mean over it divides by.
        """
        return self._together({i: sums.loss for i, sums in self._sums(predictions, batch)})

    def share(
        self, predictions: Sequence[Array], piece: Batch, size: Array, counts: Sequence[Array] | None
    ) -> tuple[Array, dict[str, Array]]:
        """What a piece of a batch adds to the batch's loss; and to each output's own, by label.

        Args:
            predictions: as of `loss`, for the rows of the piece.
            piece: some rows of the batch.
            size: of the whole batch.
            counts: of the whole batch, as `counts` gives them; None where they are examples times positions.

        Raises:
            CountsNeeded: they are not.
            WholeOnly: a loss that is one number for the whole batch.
        """
        shares: dict[int, Array] = {}
        for i, sums in self._sums(predictions, piece):
            if sums.whole:
                raise WholeOnly(
                    f"The loss of output {self.outputs[i].name!r} is one number for a whole batch, so that a batch "
                    "cannot be cut into micro-batches: return one value per example, shape (n,)."
                )
            count = None
            if sums.count is not None and counts is not None:
                count = counts[i]
            elif sums.count is not None:
                if sums.positions is None:
                    raise CountsNeeded
                count = size * sums.positions
            shares[i] = sums._replace(count=count).loss
        return self._together(shares)

    def counts(self, predictions: Sequence[Array], piece: Batch) -> list[Array]:
        """Per output what a mean over it divides by; those of the pieces of a batch, added, are those of the batch."""
        found = {i: sums.count for i, sums in self._sums(predictions, piece) if sums.count is not None}
        return [jnp.asarray(found.get(i, 0), jnp.float32) for i in range(len(self.losses))]

    def _sums(self, predictions: Sequence[Array], batch: Batch) -> Iterator[tuple[int, LossSums]]:
        predictions = [widened(p) for p in predictions]
        targets, weights = self._per_output(batch.y), self._per_output(batch.weight)
        for i, loss in enumerate(self.losses):
            if loss is not None:
                with naming(f"Loss {loss.name!r} of output {self.outputs[i].name!r}"):
                    sums = loss_sums(loss, targets[i], predictions[i], weights[i], batch)
                yield i, sums

    def _together(self, values: Mapping[int, Array]) -> tuple[Array, dict[str, Array]]:
        """The weighted sum of the outputs' losses; and each by its label, where there are several outputs."""
        total: Array = jnp.zeros((), jnp.float32)
        parts: dict[str, Array] = {}
        for i, value in values.items():
            total = total + self.loss_weights[i] * value
            label = self.loss_labels[i]
            if label:
                parts[label] = value
        return total, parts

    def measure(
        self, predictions: Sequence[Array], batch: Batch, total: Array, tally: Tally, left_out: Array | None = None
    ) -> Tally:
        """The tally after a batch.

        Args:
            predictions, batch: as of `loss`.
            total: what was minimised.
            tally: before the batch.
            left_out: whether the batch counts for nothing, a bool scalar; None: it counts.
        """
        sums, states = self._measured(predictions, batch, total, tally.states, left_out)
        return self._added(tally, sums, states, left_out)

    def _measured(
        self,
        predictions: Sequence[Array],
        batch: Batch,
        total: Array,
        states: Mapping[str, Any],
        left_out: Array | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Label -> sums of losses and metrics of a batch, and label -> new state of those that are no sums."""
        losses = {"loss": total, **(self.loss(predictions, batch)[1] if any(self.loss_labels) else {})}
        sums, after = self._statistics(predictions, batch, states, left_out)
        return {**_loss_statistics(losses, batch.size), **sums}, after

    def measure_piece(self, predictions: Sequence[Array], piece: Batch, tally: Tally) -> Tally:
        """The tally after a piece of a batch, with all but its losses."""
        none = dict.fromkeys(["loss", *filter(None, self.loss_labels)], jnp.zeros(()))
        sums, states = self._statistics(predictions, piece, tally.states)
        return self._added(tally, {**_loss_statistics(none, jnp.zeros(())), **sums}, states)

    def measure_losses(self, losses: Mapping[str, Array], size: Array, tally: Tally) -> Tally:
        """The tally after the pieces of a batch of this size, with the batch's losses by label."""
        if self.layout is None:
            raise RuntimeError("The losses of a batch were measured before its micro-batches.")
        return self._added(tally, {**self.layout.zeros(), **_loss_statistics(losses, size)}, tally.states)

    def _added(self, tally: Tally, sums: dict[str, Any], states: dict[str, Any], left_out: Any = None) -> Tally:
        if self.layout is None:
            self.layout = Layout.of(self.labels, sums)
        packed = self.layout.pack(sums)
        before = tally.sums if tally.sums.size else jnp.zeros((2, packed.shape[0]))
        return tally._replace(sums=accumulate(before, packed, left_out), states=states)

    def _statistics(
        self,
        predictions: Sequence[Array],
        batch: Batch,
        states: Mapping[str, Any],
        left_out: Array | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Label -> sums of the metrics of a batch, and label -> new state of those that are no sums."""
        predictions = [widened(p) for p in predictions]
        targets, weights = self._per_output(batch.y), self._per_output(batch.weight)
        sums: dict[str, Any] = {}
        after: dict[str, Any] = {}
        for m in self.measures:
            with naming(f"Metric {m.metric.name!r} of output {self.outputs[m.output].name!r}"):
                weight = weights[m.output] if m.weighted else None
                weight = combined(batch.rows, get_mask(predictions[m.output]), weight)
                target, prediction = self._shifted(m, targets, predictions, batch)
                if m.metric.additive:
                    sums[m.label] = m.metric.stats(target, prediction, weight)
                else:
                    state = states[m.label] if m.label in states else m.metric.initial(target, prediction, weight)
                    new = m.metric.update(state, target, prediction, weight)
                    after[m.label] = new if left_out is None else chosen(left_out, state, new)
        return sums, after

    def _shifted(
        self, m: _Measure, targets: Sequence[Any], predictions: Sequence[Array], batch: Batch
    ) -> tuple[Any, Array]:
        target, prediction = targets[m.output], predictions[m.output]
        pivot = self._per_output(batch.pivot)[m.output]
        if not m.metric.shift_invariant or pivot is None:
            return target, prediction
        return target - pivot, prediction - pivot

    def listed(self, values: Any) -> list[Any] | None:
        """Targets or weights as a list with one entry per output: a single array, a dict by output, or that list."""
        if values is None:
            return None
        if isinstance(values, Mapping):
            return [values.get(o.name) for o in self.outputs]
        return list(values) if isinstance(values, list | tuple) else [values] * len(self.outputs)

    def _per_output(self, values: Any) -> list[Any]:
        return list(values) if values is not None else [None] * len(self.outputs)

    # -- on the host

    def read(self, tally: Tally) -> Logs:
        """The reported numbers of a tally, {} before any batch. Waits for the device."""
        if self.layout is None:
            return {}
        high, low = np.asarray(tally.sums).astype(np.float64)
        sums = self.layout.unpack(high + low)
        metrics_by_label = {m.label: m.metric for m in self.measures}
        logs: Logs = {}
        for label in self.labels:
            if label not in metrics_by_label:
                logs[label] = mean_of_sums(sums[label])
                continue
            metric = metrics_by_label[label]
            value = metric.value(sums[label] if metric.additive else tally.states[label])
            logs.update(value if isinstance(value, Mapping) else {label: as_number(value)})
        self.reported = list(logs)
        return logs


def _loss_statistics(losses: Mapping[str, Array], size: Array) -> dict[str, Any]:
    return {label: {"total": value * size, "count": size} for label, value in losses.items()}


def _is_ours(item: Any) -> bool:
    """Whether the mathematics of a loss or metric is epochal's own; of a wrapper, that of the function inside."""
    inner = getattr(item, "fn", None)
    module = getattr(item, "__module__", None) or type(item).__module__
    return module.startswith("epochal.") and (inner is None or inner is item or _is_ours(inner))


def _free_label(prefix: str, name: str, weighted: bool, taken: Counter[str]) -> str:
    """The label of a metric that no other has, put down in `taken`."""
    label = prefix + name
    if weighted and taken[label]:
        label = f"{prefix}weighted_{name}"
    while taken[label]:
        base, number = label, taken[label]
        label = f"{base}_{number}"
        taken[base] += 1
    taken[label] += 1
    return label
