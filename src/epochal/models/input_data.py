"""From the data that a method is called with to data in the model's form, and from there to batches.

Everything is done once per call, in this order: what makes data is asked for it, arrays are told from batches and read,
a part is held out, inputs, targets and weights are brought into the model's form (which builds the model), classes get
their weights. Then the number of examples per batch is settled. Nothing of it outlives the call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epochal.data import arrays
from epochal.data.examples import Examples, as_examples, as_validation, split
from epochal.data.feeds.array_feed import ArrayFeed
from epochal.data.feeds.feed import Feed
from epochal.data.feeds.stream_feed import StreamFeed
from epochal.data.padding import array_chunks, stream_chunks
from epochal.data.streams.indexed import Workforce
from epochal.data.streams.opening import as_stream, is_stream, made
from epochal.data.streams.stream import Stream
from epochal.data.targets import per_output, with_class_weight
from epochal.engine.objective.labels import check_labels
from epochal.engine.objective.outputs import naming
from epochal.engine.programs import Programs
from epochal.models.arguments import checked_batch_size
from epochal.models.trainer import Training
from epochal.runtime.host_copies import spec_of
from epochal.support.warn import warn


@dataclass(frozen=True)
class Traversal:
    """How a method goes through its data.

    Attributes:
        batch_size: as a user gives it.
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


@dataclass(frozen=True, eq=False)
class Data:
    """Data of one method call in the model's form, not yet cut into batches.

    Attributes:
        training: the model's training side.
        first: the examples, or the first batch of a stream; what programs are made for.
        traversal: how they are gone through.
        stream: the batches, where the data is no arrays.
        class_weight: still to be put into what is read batch by batch; None: there is none, or it is in the weights.
        drawn: the first batch of a stream as it came.
    """

    training: Training
    first: Examples
    traversal: Traversal
    stream: Stream | None = None
    class_weight: Any = None
    drawn: Examples | None = None

    def in_batches(self, batch_size: Any) -> ArrayBatches | StreamBatches:
        """The data in batches of so many examples, of which stateful layers learn.

        Args:
            batch_size: as a user gives it; a stream's batches are as they come.

        Raises:
            ValueError: neither "auto", "full" nor an int >= 1, or one that a stateful model cannot take.
        """
        n = self.first.n
        if self.stream is not None:
            fix_batch_size(self.training, n, n)
            return StreamBatches(self, self.stream)
        size = checked_batch_size(batch_size, n)
        fix_batch_size(self.training, size, n)
        return ArrayBatches(self, size)

    def weight(self, examples: Examples) -> Examples:
        """Examples of this data, aligned, with the weights of their classes."""
        return apply_class_weight(self.training, examples, self.class_weight)


@dataclass(frozen=True, eq=False)
class ArrayBatches:
    """Arrays in batches.

    Attributes:
        data: what is in them.
        size: examples per batch.
    """

    data: Data
    size: int

    @property
    def steps(self) -> int | None:
        """Batches per epoch; None in an epoch without end."""
        per_pass, limit = -(-self.data.first.n // self.size), self.data.traversal.limit
        if limit is None or limit == -1:
            return per_pass if limit is None else None
        return limit if self.data.traversal.again else min(limit, per_pass)

    def feed(self, programs: Programs, testing: bool = False) -> Feed:
        """The batches for these programs; when testing, other sizes of small data share them.

        Short batches keep their shape where code of a user's may look across the batch.
        """
        data, traversal, exact_tail = self.data, self.data.traversal, not programs.row_independent

        def finish(batch: Examples) -> Examples:
            batch = data.weight(batch)
            check_labels(programs.objective, batch)
            return batch

        steps = traversal.limit if traversal.limit in (None, -1) else self.steps
        settings = (data.first, self.size, traversal.shuffle, traversal.seed, exact_tail, steps)
        if _on_disk(data.first):
            return ArrayFeed(*settings, shared=testing, prepare=finish)
        check_labels(programs.objective, data.first)
        return ArrayFeed(*settings, shared=testing)

    def chunks(self, padded: bool) -> Iterator[tuple[Any, int]]:
        """Inputs for `predict`, batch by batch, with the number of true rows in each."""
        first, size = self.data.first, self.size
        return array_chunks(first.rows(0, min((self.steps or 0) * size, first.n)), size, padded)


@dataclass(frozen=True, eq=False)
class StreamBatches:
    """Batches as they come.

    Attributes:
        data: the first of them, and how they are gone through.
        stream: all of them.
        size: None.
    """

    data: Data
    stream: Stream
    size: None = None

    @property
    def steps(self) -> int | None:
        """Batches per epoch, as far as that is known."""
        return self.stream.expected

    def feed(self, programs: Programs, testing: bool = False) -> Feed:
        """The batches for these programs; whether that is to test does not matter."""
        data = self.data

        def finish(batch: Examples) -> Examples:
            batch = data.first if batch is data.drawn else data.weight(align(data.training, batch))
            check_labels(programs.objective, batch)
            return batch

        return StreamFeed(self.stream, finish, not programs.row_independent)

    def chunks(self, padded: bool) -> Iterator[tuple[Any, int]]:
        """Inputs for `predict`, batch by batch, with the number of true rows in each."""
        stream, training = self.stream, self.data.training
        drawn = (match(training, batch.examples) for batch in stream.epoch(0))
        count, limit = 0, stream.limit
        for chunk in stream_chunks(drawn, padded):
            count += 1
            yield chunk
        stream.end_epoch()
        if stream.dry and limit is not None:
            warn(f"The data ended: {count} of {limit} batches were predicted.")


def prepare_fit(
    training: Training,
    given: tuple,
    class_weight: Any,
    traversal: Traversal,
    fraction: Any,
    validation_data: Any,
    validation_traversal: Traversal,
    closing: ExitStack,
) -> tuple[Data, Data | None]:
    """Data to train on, and to validate on.

    Args:
        training: of the model, which is built for the data.
        given: x, y and sample_weight.
        class_weight: as `fit` takes it.
        traversal, validation_traversal: how the one and the other are gone through.
        fraction: `validation_split`.
        validation_data: as `fit` takes it; None is none.
        closing: closes what is opened.

    Raises:
        ValueError: data of no known kind, or that does not fit the model.
    """
    given, validation_data = (made(given[0]), *given[1:]), made(validation_data)
    if validation_data is None and fraction:
        if is_stream(given[0]):
            raise ValueError(
                f"validation_split needs arrays, got a {type(given[0]).__name__}: pass validation_data instead."
            )
        examples, held_out = split(as_examples(*given, method="fit"), fraction)
        data = _of_arrays(training, examples, traversal, class_weight)
        return data, _of_arrays(training, held_out, validation_traversal)
    data = prepare(training, "fit", given, traversal, closing, class_weight)
    if validation_data is None:
        return data, None
    if is_stream(validation_data):
        given = (validation_data, None, None)
        return data, prepare(training, "validation", given, validation_traversal, closing)
    with naming("validation_data"):
        return data, _of_arrays(training, as_validation(validation_data), validation_traversal)


def prepare(
    training: Training, method: str, given: tuple, traversal: Traversal, closing: ExitStack, class_weight: Any = None
) -> Data:
    """What a user passes as x, y and sample_weight, checked; the model is built for it.

    Raises:
        ValueError: data of no known kind, or that does not fit the model.
    """
    x, y, sample_weight = made(given[0]), given[1], given[2]
    if not is_stream(x):
        return _of_arrays(training, as_examples(x, y, sample_weight, method=method), traversal, class_weight)
    _refuse_beside_stream(x, method, y=y, sample_weight=sample_weight, batch_size=traversal.batch_size)
    stream, first = _opened(x, method, traversal, closing)
    ready = apply_class_weight(training, align(training, first), class_weight)  # refused before anything is trained
    return Data(training, ready, traversal, stream, class_weight, first)


def prepare_inputs(training: Training, x: Any, traversal: Traversal, closing: ExitStack) -> Data:
    """The same for `predict`: targets that come along are left alone."""
    x = made(x)
    if not is_stream(x):
        return Data(training, match(training, as_examples(x, method="predict")), traversal)
    _refuse_beside_stream(x, "predict", batch_size=traversal.batch_size)
    stream, first = _opened(x, "predict", traversal, closing)
    return Data(training, match(training, first), traversal, stream)


def _refuse_beside_stream(x: Any, method: str, **given: Any) -> None:
    """Raises ValueError for what batches bring themselves."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{method}() got {name} beside a {type(x).__name__}, whose batches bring their own: expected None."
            )


def _opened(x: Any, method: str, traversal: Traversal, closing: ExitStack) -> tuple[Stream, Examples]:
    """The batches, and the first of them."""
    stream = as_stream(
        x,
        method,
        traversal.limit,
        shuffle=traversal.shuffle,
        seed=traversal.seed,
        again=traversal.again,
        workforce=traversal.workforce,
        keeps_state=traversal.keeps_state,
    )
    closing.callback(stream.close)
    first = stream.begin(traversal.first_epoch)
    if first is None:
        raise ValueError(f"Expected at least one batch in {method}(), the {type(x).__name__} gave none.")
    return stream, first


def _of_arrays(training: Training, examples: Examples, traversal: Traversal, class_weight: Any = None) -> Data:
    examples = align(training, examples)
    if _on_disk(examples):
        return Data(training, examples, traversal, class_weight=class_weight)
    return Data(training, apply_class_weight(training, examples, class_weight), traversal)


def _on_disk(examples: Examples) -> bool:
    """Whether targets or weights are read batch by batch."""
    return any(isinstance(a, arrays.Lazy) for a in jax.tree.leaves((examples.y, examples.weight)))


def fix_batch_size(training: Training, batch_size: int, n: int) -> None:
    """A stateful model learns of how many examples a batch is; n, those of all batches, must be a multiple."""
    if training.stateless:
        return
    model = training.model
    if n % batch_size and model.stateful_layers():
        raise ValueError(
            f"A stateful model keeps one state per row of the batch: expected a number of examples that batch_size="
            f"{batch_size} divides, got {n}."
        )
    model.fix_batch_size(batch_size)


# -- the model's form


def match(training: Training, examples: Examples) -> Examples:
    """Inputs in the model's structure; builds the model for its first data, and checks what comes later."""
    examples = Examples(training.model.match_inputs(examples.x), examples.y, examples.weight, examples.n)
    training.model.build_for(examples.x)
    if training.eager:
        training.sample = sample_of(examples.x, eager=True)
    return examples


def align(training: Training, examples: Examples) -> Examples:
    """The same, with targets and weights as lists with one array per output."""
    examples = match(training, examples)
    names = training.model.names_of(training.outputs())
    y = None if examples.y is None else per_output(examples.y, names, "y")
    weight = None if examples.weight is None else per_output(examples.weight, names, "sample_weight")
    return Examples(examples.x, y, weight, examples.n)


def apply_class_weight(training: Training, examples: Examples, class_weight: Any) -> Examples:
    """The aligned examples with the weights of their classes."""
    if class_weight is None:
        return examples
    outputs = training.outputs()
    return with_class_weight(examples, class_weight, training.model.names_of(outputs), outputs)


def sample_of(values: Any, eager: bool) -> Any:
    """Two rows like these arrays (or shapes): shapes alone or, where steps run as plain Python, arrays."""
    return jax.tree.map(_first_twice if eager else spec_of, values)


def _first_twice(array: Any) -> Any:
    """The first row twice, on the device; what is a shape stays one."""
    if isinstance(array, jax.ShapeDtypeStruct):
        return spec_of(array)
    row = arrays.read_rows(array, np.zeros(1, np.int32))
    return jnp.asarray(np.repeat(row, 2, axis=0))
