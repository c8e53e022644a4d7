"""Losses and metrics bound to a model's outputs: what is minimised, what is reported, and under which names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from epochal import losses, metrics
from epochal.feed import Batch
from epochal.losses.shapes import broadcast_weights, rank_matched
from epochal.names import unknown

Logs = dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """What `compile` was given, before the outputs are known."""

    loss: Any = None
    metrics: Any = None
    loss_weights: Any = None
    weighted_metrics: Any = None

    def check_names(self) -> None:
        """Raises ValueError for a name of a loss or metric that does not exist, with the nearest ones."""
        for leaf in _leaves(self.loss):
            losses.get(leaf)
        for leaf in [*_leaves(self.metrics), *_leaves(self.weighted_metrics)]:
            if leaf is not None and leaf not in ("accuracy", "acc", "ce", "crossentropy"):
                metrics.get(leaf)


@dataclass(frozen=True)
class Output:
    """One output of the model: its name, and shape and type of a batch of its targets (None: none) and predictions."""

    name: str
    target: jax.ShapeDtypeStruct | None
    prediction: jax.ShapeDtypeStruct


@dataclass(frozen=True)
class _Measure:
    """One metric of one output under its label."""

    label: str
    metric: metrics.Metric
    output: int
    weighted: bool


class Objective:
    """The loss of a batch and the additive sums behind every reported number.

    Attributes:
        labels: names of all reported numbers in order: loss, per-output losses, metrics, weighted metrics.
        row_independent: whether all losses and metrics are epochal's own, so that padding rows cannot reach them.
        width: how many statistics a batch leaves (k).
    """

    def __init__(self, recipe: Recipe, outputs: Sequence[Output]):
        self.outputs = list(outputs)
        names = [o.name for o in outputs]
        per_output = per_output_losses(recipe.loss, names)
        self.losses = [losses.get(item) for item in per_output]
        self.loss_weights = _loss_weights(recipe.loss_weights, names)
        self._check_targets()
        many = len(names) > 1
        self.loss_labels = [
            f"{n}_loss" if many and loss is not None else None for n, loss in zip(names, self.losses, strict=True)
        ]
        self.measures = self._measures(recipe)
        self.labels = ["loss", *[label for label in self.loss_labels if label], *[m.label for m in self.measures]]
        used = [*self.losses, *[m.metric for m in self.measures]]
        self.row_independent = all(_is_ours(item) for item in used if item is not None)
        self.width = self._lay_out()

    def _lay_out(self) -> int:
        """Finds how many statistics a batch leaves, by shapes alone; targets that fit no loss are refused here."""

        def pack(targets: Any, predictions: Any) -> Array:
            size = jnp.float32(predictions[0].shape[0])
            batch = Batch(None, targets, None, None, size, jnp.zeros(predictions[0].shape[0], jnp.uint32))
            return self.pack(self.measure(predictions, batch, jnp.zeros(()))[1])

        shape = jax.eval_shape(pack, [o.target for o in self.outputs], [o.prediction for o in self.outputs])
        return shape.shape[0]

    def _check_targets(self) -> None:
        for output, loss in zip(self.outputs, self.losses, strict=True):
            if loss is not None and output.target is None:
                raise ValueError(
                    f"Output {output.name!r} has the loss {loss.name!r} and no targets: expected y, a row per example."
                )

    def _measures(self, recipe: Recipe) -> list[_Measure]:
        names = [o.name for o in self.outputs]
        found: list[_Measure] = []
        for weighted, given in ((False, recipe.metrics), (True, recipe.weighted_metrics)):
            for i, items in enumerate(per_output_metrics(given, names, "weighted_metrics" if weighted else "metrics")):
                output = self.outputs[i]
                for item in items:
                    if output.target is None:
                        raise ValueError(f"Output {output.name!r} has metrics and no targets: expected y.")
                    metric = metrics.resolve(item, output.target.shape, output.prediction.shape)
                    label = f"{output.name}_{metric.name}" if len(names) > 1 else metric.name
                    found.append(_Measure(label, metric, i, weighted))
        taken = Counter(["loss", *[label for label in self.loss_labels if label]])
        return [_Measure(_free_label(m, taken), m.metric, m.output, m.weighted) for m in found]

    # -- inside a trace

    def measure(self, predictions: Sequence[Array], batch: Batch, extra: Array) -> tuple[Array, dict[str, Any]]:
        """Loss of the batch, and the sums that report it.

        Args:
            predictions: one array per output, m rows each.
            batch: the batch; `size` is what a mean over it divides by.
            extra: regularization and added losses, a scalar.

        Returns:
            total loss: sum over outputs of weight times loss, plus `extra`.
            sums: label -> additive statistics.
        """
        targets, weights = self._per_output(batch.y), self._per_output(batch.weight)
        total = extra
        sums: dict[str, Any] = {}
        for i, loss in enumerate(self.losses):
            if loss is None:
                continue
            with _naming(f"Loss {loss.name!r} of output {self.outputs[i].name!r}"):
                value = reduce_loss(loss, targets[i], predictions[i], weights[i], batch)
            total = total + self.loss_weights[i] * value
            label = self.loss_labels[i]
            if label:
                sums[label] = {"total": value * batch.size, "count": batch.size}
        for m in self.measures:
            weight = batch.rows
            if m.weighted and weights[m.output] is not None:
                weight = weights[m.output] if batch.rows is None else _times_rows(weights[m.output], batch.rows)
            with _naming(f"Metric {m.metric.name!r} of output {self.outputs[m.output].name!r}"):
                target, prediction = self._shifted(m, targets, predictions, batch)
                sums[m.label] = m.metric.stats(target, prediction, weight)
        return total, {"loss": {"total": total * batch.size, "count": batch.size}, **sums}

    def _shifted(
        self, m: _Measure, targets: Sequence[Any], predictions: Sequence[Array], batch: Batch
    ) -> tuple[Any, Array]:
        target, prediction = targets[m.output], predictions[m.output]
        pivot = self._per_output(batch.pivot)[m.output]
        if not m.metric.shift_invariant or pivot is None:
            return target, prediction
        return target - pivot, prediction - pivot

    def _per_output(self, values: Any) -> list[Any]:
        return list(values) if values is not None else [None] * len(self.outputs)

    # -- sums as one array, read on the host

    def pack(self, sums: dict[str, Any]) -> Array:
        """All statistics as one float32 vector, shape (k,)."""
        leaves, structure = jax.tree.flatten([sums[label] for label in self.labels])
        self._layout = (structure, [leaf.shape for leaf in leaves])
        return jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in leaves])

    def read(self, accumulated: Array | np.ndarray) -> Logs:
        """The reported numbers, from the accumulated sums (2, k). Waits for the device."""
        structure, shapes = self._layout
        flat = np.asarray(accumulated, np.float64).sum(axis=0)
        leaves, start = [], 0
        for shape in shapes:
            size = int(np.prod(shape))
            leaves.append(flat[start : start + size].reshape(shape))
            start += size
        sums = jax.tree.unflatten(structure, leaves)
        by_label = {m.label: m.metric for m in self.measures}
        values = [
            by_label[name].value(s) if name in by_label else _mean(s) for name, s in zip(self.labels, sums, strict=True)
        ]
        return dict(zip(self.labels, map(_number, values), strict=True))


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Says which loss or metric refused its targets; shapes are those of any number n of examples."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {str(error).replace('(2,', '(n,')}") from error


def accumulate(sums: Array | np.ndarray, batch: Array) -> Array:
    """Adds a batch's statistics (k,) to running sums (2, k): a high and a low part, so that nothing is rounded away.

    Two-sum (Knuth, TAOCP 4.2.2): the low part holds the exact error of each addition, whichever way the steps are cut
    into executions. A plain float32 sum would stop counting at 2**24 examples.
    """
    high, low = sums[0], sums[1]
    new = high + batch
    back = new - high
    error = (high - (new - back)) + (batch - back)
    return jnp.stack([new, low + error])


def reduce_loss(loss: losses.Loss, target: Any, prediction: Array, weight: Any, batch: Batch) -> Array:
    """The loss of a batch as one number.

    Weighted by sample weights it is sum(w l) / m: divided by the batch's size (times positions), not by the weights'
    sum. Padding counts for nothing.

    Raises:
        ValueError: weights for a loss that is one number for the whole batch already.
    """
    target, prediction = rank_matched(target, prediction)
    values = jnp.asarray(loss.call(target, prediction))
    if values.ndim == 0:
        if weight is not None:
            raise ValueError(
                f"Loss {loss.name!r} returned one number for the batch, which sample_weight or class_weight cannot "
                "weight. Return one value per example, shape (batch,)."
            )
        return values
    count: Any = batch.size * math.prod(values.shape[1:])
    weights = jnp.ones(()) if weight is None else broadcast_weights(weight, values.shape)
    if batch.rows is not None:
        weights = weights * batch.rows.reshape(-1, *[1] * (values.ndim - 1))
    valid = loss.valid(target, prediction)
    if valid is not None:
        counted = valid if batch.rows is None else valid * batch.rows.reshape(-1, *[1] * (values.ndim - 1))
        weights, count = weights * valid, jnp.sum(counted)
    total = jnp.sum(values * weights)
    if loss.reduction == "sum":
        return total
    if loss.reduction == "mean_with_sample_weight":
        count = jnp.sum(jnp.broadcast_to(weights, values.shape))
    return total / jnp.where(count == 0, 1, count)


def _times_rows(weight: Array, rows: Array) -> Array:
    return weight * rows.reshape(-1, *[1] * (weight.ndim - 1))


def _mean(sums: Mapping[str, np.ndarray]) -> float:
    return float(sums["total"] / sums["count"]) if sums["count"] else 0.0


def _number(value: Any) -> Any:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array


def _is_ours(item: Any) -> bool:
    """Whether the mathematics of a loss or metric is epochal's own; of a wrapper, that of the function inside."""
    inner = getattr(item, "fn", None)
    module = getattr(item, "__module__", None) or type(item).__module__
    return module.startswith("epochal.") and (inner is None or inner is item or _is_ours(inner))


def _free_label(measure: _Measure, taken: Counter[str]) -> str:
    label = measure.label
    if measure.weighted and taken[label]:
        label = f"weighted_{label}"
    while taken[label]:
        base, number = label, taken[label]
        label = f"{base}_{number}"
        taken[base] += 1
    taken[label] += 1
    return label


# -- the forms that compile accepts, brought to one entry per output


def per_output_losses(given: Any, names: Sequence[str]) -> list[Any]:
    """One loss (or None) per output, from one loss, a list or a dict.

    Raises:
        ValueError: a list of another length, or a key that is no output.
    """
    if isinstance(given, Mapping):
        _check_keys(given, names, "loss")
        return [given.get(name) for name in names]
    if isinstance(given, list | tuple):
        if len(given) != len(names):
            raise ValueError(f"Expected one loss per output ({len(names)}: {list(names)}), got {len(given)}.")
        return list(given)
    return [given] * len(names)


def per_output_metrics(given: Any, names: Sequence[str], what: str = "metrics") -> list[list[Any]]:
    """A list of metrics per output, from a metric, a list, or a dict.

    Raises:
        ValueError: several outputs and a list that has not one entry per output, or a key that is no output.
    """
    if given is None:
        return [[] for _ in names]
    if isinstance(given, Mapping):
        _check_keys(given, names, what)
        return [_listed(given.get(name)) for name in names]
    if len(names) == 1:
        items = _listed(given)
        return [_listed(items[0]) if len(items) == 1 and isinstance(items[0], list | tuple) else items]
    if not isinstance(given, list | tuple) or len(given) != len(names):
        got = f"{len(given)} entries" if isinstance(given, list | tuple) else repr(given)
        raise ValueError(f"Expected {what} with one entry per output ({len(names)}: {list(names)}), got {got}.")
    return [_listed(item) for item in given]


def _loss_weights(given: Any, names: Sequence[str]) -> list[float]:
    if given is None:
        return [1.0] * len(names)
    if isinstance(given, Mapping):
        _check_keys(given, names, "loss_weights")
        return [float(given.get(name, 1.0)) for name in names]
    if isinstance(given, list | tuple):
        if len(given) != len(names):
            raise ValueError(f"Expected one loss weight per output ({len(names)}: {list(names)}), got {len(given)}.")
        return [float(w) for w in given]
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError(f"Expected loss_weights as a number, a list or a dict, got {given!r}.")
    return [float(given)] * len(names)


def _check_keys(given: Mapping, names: Sequence[str], what: str) -> None:
    for key in given:
        if key not in names:
            raise ValueError(f"In {what}: " + unknown("output", str(key), list(names)))


def _listed(item: Any) -> list[Any]:
    if item is None:
        return []
    return list(item) if isinstance(item, list | tuple) else [item]


def _leaves(form: Any) -> list[Any]:
    if isinstance(form, Mapping):
        return [leaf for v in form.values() for leaf in _leaves(v)]
    if isinstance(form, list | tuple):
        return [leaf for v in form for leaf in _leaves(v)]
    return [form]
