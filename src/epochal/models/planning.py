"""Which batch size to take: measured on a copy of the model, then chosen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from epochal.data.examples import Examples, as_examples, split
from epochal.data.streams.opening import is_stream, made
from epochal.models.trainer import Training
from epochal.plans.plan import BatchPlan, make_plan
from epochal.plans.trial import Trial
from epochal.registry.checks import is_count
from epochal.runtime import memory
from epochal.support.types import Checked

AUTO_SECONDS = 10.0  # that `fit(batch_size="auto")` measures for at most


def plan_batch_size(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    class_weight: Checked = None,
    memory_limit: Checked = None,
    batch_sizes: Checked = None,
    max_seconds: Checked = 60,
    seed: int = 0,
) -> BatchPlan:
    """Measures which batch size trains this model on this data and this machine to a target in the least time.

    Steps of a few sizes are timed, their memory is read off the compiled programs, and a copy of the model is trained
    for a few epochs to see how noisy its gradient is. m* = sqrt(a / b · B), with a + b m seconds per step and B the
    critical batch size (McCandlish et al. 2018, arXiv:1812.06162), is rounded and capped by memory and the data.

    Args:
        model: compiled; it is the same afterwards, to the bit.
        x, y, sample_weight, class_weight: arrays as `fit` takes them.
        memory_limit: bytes, or text such as "2GiB"; None: EPOCHAL_MEMORY_LIMIT, or what the machine has.
        batch_sizes: the sizes to choose from, ints or "full"; None leaves it open.
        max_seconds: about how long to measure, compiling included; what was begun is brought to its end.
        seed: of the trial training and of the drawn examples.

    Returns:
        a `BatchPlan`: `print` it.

    Raises:
        RuntimeError: never compiled, or called inside a JAX transformation.
        ValueError: batches in place of arrays, a recurrent model with `stateful=True`, or arguments out of range.

    Example:
        >>> import epochal as keras
        >>> plan = keras.plan_batch_size(model, x, y)  # doctest: +SKIP
        >>> plan.batch_size  # doctest: +SKIP
        128
    """
    x = made(x)
    if is_stream(x):
        raise ValueError(f"plan_batch_size() tries several sizes, and a {type(x).__name__} has its own: pass arrays.")
    model._training.ready_to("plan_batch_size")
    given = as_examples(x, y, sample_weight, method="plan_batch_size")
    return plan_for(
        model,
        given,
        class_weight,
        memory_limit=memory_limit,
        batch_sizes=batch_sizes,
        max_seconds=max_seconds,
        seed=seed,
    )


def plan_for_fit(
    model: Any,
    given: tuple,
    class_weight: Any,
    fraction: Any,
    epochs: int,
    validation_data: Any = None,
    passes: float = 1.0,
) -> BatchPlan | None:
    """The plan of `fit(batch_size="auto")`; None beside batches, which have their size.

    It takes about as long as the training that it is for, but for what a rough plan needs, and AUTO_SECONDS at most.

    Args:
        model: compiled.
        given: x, y and sample_weight.
        class_weight: as `fit` takes it.
        fraction: the part of the examples that is held out to validate on.
        epochs: that are to be trained.
        validation_data: as `fit` takes it; of batches nobody knows how many examples they have.
        passes: how many times per epoch that is validated on.
    """
    x = made(given[0])
    if is_stream(x):
        return None
    examples = as_examples(x, *given[1:], method="fit")
    rows = 0
    if fraction:
        examples, held_out = split(examples, fraction)
        rows = held_out.n
    elif isinstance(validation_data, tuple | list):
        rows = next((len(a) for a in jax.tree.leaves(validation_data) if np.ndim(a)), 0)
    judged = (rows, passes if rows else 0.0)
    return plan_for(model, examples, class_weight, max_seconds=AUTO_SECONDS, epochs=epochs, validation=judged)


def plan_for(
    model: Any,
    given: Examples,
    class_weight: Any = None,
    *,
    memory_limit: Any = None,
    batch_sizes: Any = None,
    max_seconds: Any = 60,
    seed: int = 0,
    epochs: int | None = None,
    validation: tuple[int, float] = (0, 0.0),
    clock: Callable[[], float] = time.perf_counter,
) -> BatchPlan:
    """See `plan_batch_size` and `plan_for_fit`; with `epochs` it takes no longer than so many would.

    `clock` tells the time in seconds.
    """
    if isinstance(max_seconds, bool) or not isinstance(max_seconds, int | float) or not 0 < max_seconds < math.inf:
        raise ValueError(f"Expected max_seconds to be a number > 0, got {max_seconds!r}.")
    sizes = _asked(batch_sizes, given.n)
    if memory_limit is not None:
        memory.parsed(memory_limit, "memory_limit")
    if model.stateful_layers():
        raise ValueError(
            "A stateful model keeps a state per row of the batch, so its batch size is part of what it computes: it "
            "cannot be measured. Pass batch_size=…"
        )
    training: Training = model._training
    training.refuse_tracing("plan_batch_size")
    with _optimizer_kept(training):
        trial = Trial(training, given, class_weight, seed, clock)
        max_seconds = trial.time_sizes(sizes, memory_limit, max_seconds, epochs)
        trial.train_and_listen(max_seconds, epochs)
        return make_plan(trial.measurements(sizes, validation))


def _asked(batch_sizes: Any, n: int) -> tuple[int, ...] | None:
    """The sizes to choose from, in order; at most n."""
    if batch_sizes is None:
        return None
    given: list[Any] = list(batch_sizes) if isinstance(batch_sizes, list | tuple | range) else []
    sizes = [n if m == "full" else m for m in given]
    if not sizes or not all(is_count(m) for m in sizes):
        raise ValueError(f'Expected batch_sizes to be a list of ints >= 1 and "full", got {batch_sizes!r}.')
    return tuple(sorted({min(int(m), n) for m in sizes}))


@contextmanager
def _optimizer_kept(training: Training) -> Iterator[None]:
    """The optimizer's state is what it was, none if it was none."""
    optimizer = training.optimizer
    assert optimizer is not None
    state, belongs = optimizer.state, training._optimizer_for
    try:
        yield
    finally:
        optimizer.state, training._optimizer_for = state, belongs
