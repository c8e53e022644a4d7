"""The outputs of a model for many batches."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from epochal.engine import out_of_memory
from epochal.engine.hooks import Hooks
from epochal.engine.session import Session


def predict(session: Session, chunks: Iterator[tuple[Any, int]], steps: int | None) -> list[Any]:
    """The model's outputs chunk by chunk on the host; each is fetched while the next is computed."""
    calls, display, model = session.callbacks, session.display, session.model
    observed, group = calls.observes("predict"), session.steps_per_execution
    group = group if isinstance(group, int) else 1  # batches per call of a batch hook
    results: list[Any] = []
    flying: deque[tuple[Any, int]] = deque()
    told = examples = 0
    model.stop_predicting = False
    calls.on_predict_begin()
    display.epoch_begin(0, steps)
    fetch = functools.partial(session.interrupts.wait_for, next, chunks, None)
    for i, (x, rows) in enumerate(iter(fetch, None)):
        x = jax.device_put(x)
        if i % group == 0:
            calls.on_predict_batch_begin(i)
        _, outputs = out_of_memory.predicted(session.programs, x, display)
        flying.append((outputs, rows))
        while len(flying) > (0 if observed else 1):
            results.append(fetched(*flying.popleft()))
        examples += rows
        display.progress("predict", i + 1, steps, examples, dict)
        if (i + 1) % group == 0:
            told = _tell_outputs(calls, results, told) if observed else 0
            if model.stop_predicting:
                break
    results += [fetched(*outputs) for outputs in flying]
    if observed:
        _tell_outputs(calls, results, told)
    display.pass_end("predict", len(results), examples)
    display.epoch_end(0, {})
    calls.on_predict_end()
    return results


def _tell_outputs(calls: Hooks, results: list[Any], told: int) -> int:
    """Calls the batch hooks with all outputs but the first `told`, if there are such; returns how many there are."""
    if told < len(results):
        outputs = jax.tree.map(lambda *arrays: np.concatenate(arrays), *results[told:])
        calls.on_predict_batch_end(len(results) - 1, {"outputs": outputs})
    return len(results)


def fetched(outputs: Any, rows: int) -> Any:
    """Copies on the host, since on a CPU what `asarray` gives is the device's memory."""
    return jax.tree.map(lambda a: np.asarray(a)[:rows].copy(), outputs)
