"""What the differential suite draws: random training runs, described by names so that any case can be printed.

`run` them with `differential.py`; see there.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

FAMILIES = ("mlp", "batch_norm", "cnn", "two_inputs", "several", "lstm", "gru", "steps", "masked_steps")
NAMES = ("first", "second", "third")  # of the outputs
STEPS = ("steps", "masked_steps")  # families with a prediction per step of a sequence
TOKENS = ("lstm", "gru", "masked_steps")  # families on tokens, where 0 is no token
ROWS, SPLIT, HELD_OUT = 40, 0.4, 16  # a split holds out the last 16 rows
VALIDATION_BATCHES = 2  # of validation data that comes in batches

# -- what an output predicts. Objects are made by functions of the library, `k`.


def squared(y_true: Any, y_pred: Any) -> Any:
    """A loss of a user's."""
    return ((y_true - y_pred) ** 2).mean(-1)


def distance(y_true: Any, y_pred: Any) -> Any:
    """A metric of a user's: a value per example."""
    return abs(y_true - y_pred).mean(-1)


def batch_distance(y_true: Any, y_pred: Any) -> Any:
    """A metric of a user's: one value per batch."""
    return abs(y_true - y_pred).mean()


Table = dict[str, Callable[[Any], Any]]

SPARSE_LOSSES: Table = {
    "name": lambda k: "sparse_categorical_crossentropy",
    "object": lambda k: k.losses.SparseCategoricalCrossentropy(),
    "sum": lambda k: k.losses.SparseCategoricalCrossentropy(reduction="sum"),
    "function": lambda k: k.losses.sparse_categorical_crossentropy,
    "short": lambda k: "crossentropy",
}
ONE_HOT_LOSSES: Table = {
    "name": lambda k: "categorical_crossentropy",
    "object": lambda k: k.losses.CategoricalCrossentropy(label_smoothing=0.1),
    "function": lambda k: k.losses.kl_divergence,
    "short": lambda k: "ce",
    "any": lambda k: "mse",
}
NUMBER_LOSSES: Table = {
    "name": lambda k: "mean_absolute_error",
    "object": lambda k: k.losses.Huber(0.5),
    "function": lambda k: k.losses.log_cosh,
    "own": lambda k: squared,
    "class": lambda k: k.losses.MeanSquaredError,
    "any": lambda k: "mse",
}
BINARY_LOSSES: Table = {
    "name": lambda k: "binary_crossentropy",
    "object": lambda k: k.losses.BinaryCrossentropy(label_smoothing=0.1),
    "focal": lambda k: k.losses.BinaryFocalCrossentropy(gamma=1.5),
    "function": lambda k: k.losses.binary_crossentropy,
    "short": lambda k: "ce",
    "any": lambda k: "mse",
}

SPARSE_METRICS: Table = {
    "accuracy": lambda k: "accuracy",
    "acc": lambda k: "acc",
    "class": lambda k: k.metrics.SparseCategoricalAccuracy,
    "top": lambda k: k.metrics.SparseTopKCategoricalAccuracy(2, name="top"),
    "name": lambda k: "sparse_categorical_crossentropy",
    "ce": lambda k: "ce",
    "ce in full": lambda k: k.metrics.SparseCategoricalCrossentropy(name="ce"),
}
ONE_HOT_METRICS: Table = {
    "accuracy": lambda k: "accuracy",
    "object": lambda k: k.metrics.CategoricalAccuracy(name="right"),
    "function": lambda k: k.metrics.categorical_crossentropy,
    "top": lambda k: k.metrics.TopKCategoricalAccuracy(2),
    "mse": lambda k: "mse",
    "ce": lambda k: "ce",
    "ce in full": lambda k: k.metrics.CategoricalCrossentropy(name="ce"),
}
NUMBER_METRICS: Table = {
    "mae": lambda k: "mae",
    "mse": lambda k: "mse",
    "class": lambda k: k.metrics.RootMeanSquaredError,
    "object": lambda k: k.metrics.MeanAbsoluteError(name="mae"),
    "own": lambda k: distance,
    "own of a batch": lambda k: batch_distance,
    "own of a batch in full": lambda k: k.metrics.MeanMetricWrapper(distance, name="batch_distance"),
    "loss": lambda k: k.losses.Huber(name="huber"),
    "loss in full": lambda k: k.metrics.MeanMetricWrapper(k.losses.huber, name="huber"),
}
BINARY_METRICS: Table = {
    "accuracy": lambda k: "accuracy",
    "auc": lambda k: k.metrics.AUC(num_thresholds=50, name="auc"),
    "precision": lambda k: k.metrics.Precision(name="precision"),
    "name": lambda k: "binary_crossentropy",
    "function": lambda k: k.metrics.binary_accuracy,
    "ce": lambda k: "ce",
    "ce in full": lambda k: k.metrics.BinaryCrossentropy(name="ce"),
}
# Steps so small that no training diverges: where weights grow without bound, so do rounding errors.
OPTIMIZERS: Table = {
    "sgd by name": lambda k: "sgd",
    "sgd": lambda k: k.optimizers.SGD(0.01, momentum=0.8, nesterov=True),
    "clipped": lambda k: k.optimizers.SGD(0.1, clipnorm=0.5),
    "adam by name": lambda k: "adam",
    "adam": lambda k: k.optimizers.Adam(0.005, beta_1=0.8, epsilon=1e-3),
    "falling": lambda k: k.optimizers.Adam(k.optimizers.schedules.ExponentialDecay(0.01, 3, 0.7), epsilon=1e-3),
    "rmsprop by name": lambda k: "rmsprop",
    "rmsprop": lambda k: k.optimizers.RMSprop(0.003, rho=0.8, momentum=0.3, epsilon=1e-3),
}


@dataclass(frozen=True)
class Head:
    """One kind of output: how many units, and what can be asked of it."""

    units: int | None
    activation: str | None
    losses: Table
    metrics: Table


CLASSES = 10  # of an image; a step has one of 3
SPARSE = Head(None, "softmax", SPARSE_LOSSES, SPARSE_METRICS)
NUMBER = Head(1, None, NUMBER_LOSSES, NUMBER_METRICS)
BINARY = Head(1, "sigmoid", BINARY_LOSSES, BINARY_METRICS)
HEADS = {
    "sparse": SPARSE,
    "sparse_column": SPARSE,
    "one_hot": Head(None, "softmax", ONE_HOT_LOSSES, ONE_HOT_METRICS),
    "number": NUMBER,
    "number_column": NUMBER,
    "binary": BINARY,
    "binary_column": BINARY,
}


# -- a case


@dataclass(frozen=True)
class Case:
    """One training run. A printed case can be pasted into `differential.verdict`.

    A "form" says how values per output are written: bare, as a list, as a dict by output name, as such a dict without
    the outputs that have none ("partial"), or as a number for all.
    """

    family: str
    heads: tuple[str, ...]
    structure: str  # of the outputs: one, list, dict
    targets: str  # form
    inputs: str  # form
    losses: tuple[str | None, ...]
    loss_form: str
    loss_weights: tuple[float, ...] | None
    loss_weights_form: str
    metrics: tuple[tuple[str, ...], ...]
    weighted_metrics: tuple[tuple[str, ...], ...]
    metrics_form: str
    weight: str | None  # rows (n,), column (n, 1), steps (n, t), steps_column (n, t, 1)
    weight_form: str
    class_weight: bool
    optimizer: str
    source: str  # arrays, dataset (a PyDataset), iterable, generator (endless), dry (a generator of one pass)
    batch_size: int
    epochs: int
    initial_epoch: int
    steps_per_epoch: int | None
    validation: str  # none, split, arrays, weighted, dataset, iterable, generator, dry
    validation_batch_size: int | None
    validation_steps: int | None
    validation_freq: Any  # an int, or a tuple of epochs
    evaluation_batch_size: int
    on_batch: bool
    # What only Keras is asked, in place of something else: see `differential_rules`.
    folded: bool = field(default=False, repr=False)  # class weights are multiplied into the sample weights
    alike: bool = field(default=False, repr=False)  # all outputs have the same sample weights, whatever their form
    per_step: bool = field(default=False, repr=False)  # weights (n, t)
    masks: bool = field(default=False, repr=False)  # metrics are given the mask
    silent: tuple[str, ...] = field(default=(), repr=False)  # outputs whose loss has the weight 0 and is not reported
    start: int = field(default=0, repr=False)  # the batch that a generator starts with
    by_hand: bool = field(default=False, repr=False)  # validation by `evaluate`, on the batches that are due

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs' names."""
        return NAMES[: len(self.heads)]

    @property
    def several(self) -> bool:
        """Whether there are several outputs."""
        return len(self.heads) > 1

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return self.batches if self.steps_per_epoch is None else self.steps_per_epoch

    @property
    def training_rows(self) -> int:
        """Examples without those split off."""
        return ROWS - HELD_OUT if self.validation == "split" else ROWS

    @property
    def batches(self) -> int:
        """Batches of one pass."""
        return -(-self.training_rows // self.batch_size)

    def due(self, epoch: int) -> bool:
        """Whether there is a validation after this epoch, counted from 0."""
        freq = self.validation_freq
        return (epoch + 1) % freq == 0 if isinstance(freq, int) else epoch + 1 in freq

    def validations(self) -> dict[int, range | None]:
        """Epoch -> the batches that a generator has for its validation; None where it has ended before."""
        drawn = [epoch for epoch in range(self.initial_epoch, self.epochs) if self.due(epoch)]
        size = self.validation_steps or VALIDATION_BATCHES
        found = {epoch: range(i * size, (i + 1) * size) for i, epoch in enumerate(drawn)}
        return {e: r if self.validation != "dry" or r.stop <= VALIDATION_BATCHES else None for e, r in found.items()}


def in_form(values: Any, form: str, names: Any) -> Any:
    """Values per output, written in a form."""
    if form in ("one", "bare", "number", "flat"):
        return values[0]
    if form == "list":
        return list(values)
    by_name = dict(zip(names, values, strict=True))
    return by_name if form == "dict" else {n: v for n, v in by_name.items() if v not in (None, [], 1.0)}


# -- drawing cases


@st.composite
def cases(draw: Any, family: str) -> Case:
    """A case of this family."""

    def pick(*options: Any) -> Any:
        return draw(st.sampled_from(options))

    outputs = pick(2, 3, 3) if family == "several" else pick(1, 1, 1, 2)
    arguments = {**_outputs(pick, outputs, family), **_data(pick, family)}
    heads, form = arguments["heads"], arguments["structure"]
    targets = ("one" if form == "one" else form) if outputs == 1 else pick("list", "dict")
    case = Case(
        family=family,
        targets=targets,
        **arguments,
        **_measures(draw, pick, heads, family),
        weight_form="one" if outputs == 1 else pick("one", "list", "dict"),
        class_weight=pick(True, False, False, False) and not all(h.startswith("number") for h in heads),
        optimizer=pick(*OPTIMIZERS),
        evaluation_batch_size=pick(16, 16, 6),
        on_batch=pick(True, False),
        steps_per_epoch=None,
    )
    steps = [2, 3, case.batches] if case.source == "generator" else [None, None, 2, 3, case.batches, case.batches + 1]
    return replace(case, steps_per_epoch=pick(*steps))


def _outputs(pick: Callable, outputs: int, family: str) -> dict[str, Any]:
    """The outputs and their losses."""
    bare = pick(True, False, False) if outputs > 1 else pick(True, False)
    kinds = [h for h in HEADS if outputs == 1 or not bare or "any" in HEADS[h].losses]
    heads = tuple(pick(*kinds) for _ in range(outputs))
    if bare:
        losses = ("any",) * outputs if outputs > 1 else (pick(*HEADS[heads[0]].losses),)
    else:
        losses = tuple(pick(*HEADS[h].losses, *([None, None] if i else [])) for i, h in enumerate(heads))
    form = pick("number", "list") if outputs == 1 else pick("number", "list", "dict", "partial")
    weights = pick(None, None, tuple(pick(0.5, 2.0, 1.5) for _ in heads))
    if weights is not None and form == "number":
        weights = (pick(0.5, 2),) * outputs
    elif weights is not None and form == "partial":
        weights = (1.0, *weights[1:])
    return {
        "heads": heads,
        "structure": pick("one", "one", "one", "list", "dict") if outputs == 1 else pick("list", "list", "dict"),
        "inputs": pick("list", "dict") if family == "two_inputs" else "one",
        "losses": losses,
        "loss_form": "bare" if bare else pick("list", "dict", "partial", "partial"),
        "loss_weights": weights,
        "loss_weights_form": form,
    }


def _measures(draw: Any, pick: Callable, heads: tuple[str, ...], family: str) -> dict[str, Any]:
    """The metrics of each output."""

    def some(options: Any, most: int, *without: str) -> tuple[str, ...]:
        named = [o for o in options if not o.endswith("in full") and o not in without]
        return tuple(draw(st.lists(st.sampled_from(named), max_size=most, unique=True)))

    # A metric that is one number for the batch is not weighted, nor masked, in a way that could be looked up.
    plain = ["own of a batch"] if family == "masked_steps" else []
    return {
        "metrics": tuple(some(HEADS[h].metrics, 2, *plain) for h in heads),
        "weighted_metrics": tuple(some(HEADS[h].metrics, pick(0, 1, 2), "own of a batch") for h in heads),
        "metrics_form": pick("flat", "list", "dict") if len(heads) == 1 else pick("list", "dict", "partial", "partial"),
    }


def _data(pick: Callable, family: str) -> dict[str, Any]:
    """What is trained and validated on, and for how long."""
    source = pick(*["arrays"] * 4, "dataset", "dataset", "iterable", "generator", "generator", "dry")
    kinds = ["none", *["split"] * 2, *["arrays"] * 2, "weighted", *["dataset"] * 2, "iterable", "generator", "dry"]
    validation = pick(*(k for k in kinds if source == "arrays" or k != "split"))
    initial_epoch = pick(0, 0, 0, 1)
    return {
        "weight": pick(None, "rows", "rows", "column", *(["steps", "steps_column"] if family in STEPS else [])),
        "source": source,
        "batch_size": pick(16, 16, 8),
        "initial_epoch": initial_epoch,
        "epochs": initial_epoch + pick(2, 3),
        "validation": validation,
        "validation_batch_size": pick(None, 16, 6) if validation in ("split", "arrays", "weighted") else None,
        "validation_steps": pick(1, 2) if validation == "generator" else pick(None, None, 1),
        "validation_freq": pick(1, 1, 1, 2, (2, 3)),
    }


def drawn(family: str, count: int, number: int) -> list[Case]:
    """So many different cases of a family; the same ones for the same number."""
    found: dict[Case, None] = {}

    @seed(zlib.crc32(f"{family} {number}".encode()))
    @settings(
        max_examples=5 * count + 20,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(family))
    def draw(case: Case) -> None:
        found[case] = None

    draw()
    # Neighbours are much alike: hypothesis likes to change a part of what it drew before. The first is the plainest.
    return list(found)[:: -max(1, len(found) // count)][:count]
