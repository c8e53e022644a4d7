"""Which batch size to take for a model and its data: prepared here, measured in `plans`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from epochal.data.streams.opening import is_stream, made
from epochal.models.input_data import Data, Traversal, prepare, prepare_fit
from epochal.plans.measure import PlanRequest, measure
from epochal.plans.plan import BatchPlan
from epochal.plans.trial_model import Prepared, Stopwatch, sample
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
    training = model._training
    training.ready_to("plan_batch_size")
    request = PlanRequest(memory_limit, batch_sizes, max_seconds, seed)
    _refuse_stateful(model)
    with ExitStack() as closing:
        given = (x, y, sample_weight)
        data = prepare(training, "plan_batch_size", given, Traversal(), closing, class_weight)
        return plan_of(data, request)


def plan_for_fit(
    model: Any,
    given: tuple,
    class_weight: Any,
    fraction: Any,
    epochs: int,
    validation_data: Any = None,
    passes: float = 1.0,
) -> BatchPlan | None:
    """The plan that `fit(batch_size="auto")` would make; None beside batches, which have their size.

    Args:
        model: compiled.
        given: x, y and sample_weight.
        class_weight: as `fit` takes it.
        fraction: the part of the examples that is held out to validate on.
        epochs: that are to be trained.
        validation_data: as `fit` takes it; of batches nobody knows how many examples they have.
        passes: how many times per epoch that is validated on.
    """
    given = (made(given[0]), *given[1:])
    if is_stream(given[0]):
        return None
    with ExitStack() as closing:
        once = Traversal()
        prepared = prepare_fit(model._training, given, class_weight, once, fraction, validation_data, once, closing)
        return plan_of_fit(*prepared, epochs, passes)


def plan_of_fit(data: Data, held_out: Data | None, epochs: int, passes: float) -> BatchPlan:
    """The plan of `fit(batch_size="auto")`.

    It takes about as long as the training that it is for, but for what a rough plan needs, and AUTO_SECONDS at most.

    Args:
        data: arrays to train on.
        held_out: what is validated on; of batches nobody knows how many examples they have.
        epochs: that are to be trained.
        passes: how many times per epoch that is validated.
    """
    rows = 0 if held_out is None or held_out.stream is not None else held_out.first.n
    validation = (rows, passes if rows else 0.0)
    return plan_of(data, PlanRequest(max_seconds=AUTO_SECONDS, epochs=epochs, validation=validation))


def plan_of(data: Data, request: PlanRequest, clock: Callable[[], float] = time.perf_counter) -> BatchPlan:
    """The plan for a model and its prepared data; the model and its optimizer are the same afterwards.

    Args:
        data: arrays.
        request: how it is to be measured.
        clock: tells the time in seconds.
    """
    training = data.training
    compiled, watch = training.ready_to("plan_batch_size"), Stopwatch(clock)
    _refuse_stateful(training.model)
    examples = data.weight(sample(data.first, request.seed))
    programs = training.steps(examples, compiled)
    with training.optimizer_kept():
        training.start_optimizer(programs.parts)
        return measure(Prepared(programs, examples, data.first.n), request, watch)


def _refuse_stateful(model: Any) -> None:
    if model.stateful_layers():
        raise ValueError(
            "A stateful model keeps a state per row of the batch, so its batch size is part of what it computes: it "
            "cannot be measured. Pass batch_size=…"
        )
