"""One step of a run that was kept, made again to be looked at."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from epochal.callbacks.backup import BackupAndRestore
from epochal.callbacks.callback_list import CallbackList
from epochal.data.feeds.block import Batch, Block, take, take_piece
from epochal.engine.loop import Arrival
from epochal.engine.micro_batches import Cut
from epochal.engine.runners import TrainRunner
from epochal.engine.state import TrainState
from epochal.engine.step import TrainStep
from epochal.models.arguments import FitArguments
from epochal.models.fitting import fit_until


@dataclass(frozen=True)
class Replayed:
    """A training step as it was computed; its update is not made.

    Attributes:
        epoch, batch: its place, both counted from 0.
        examples: (m,) the rows of x that the batch consists of; None where data come as batches.
        x, y, sample_weight: the batch, m rows each, in the model's form (y and weights a list with one per output).
        loss: what was minimised.
        predictions: one array per output, m rows each.
        gradients: path of a parameter -> gradient of the loss.
        not_finite: what is NaN or infinite: outputs first, then the loss, then gradients.
    """

    epoch: int
    batch: int
    examples: np.ndarray | None
    x: Any
    y: Any
    sample_weight: Any
    loss: float
    predictions: list[np.ndarray]
    gradients: dict[str, np.ndarray]
    not_finite: list[str]


def replay(
    model: Any, folder: str | Path | None, x: Any = None, y: Any = None, *, epoch: int, batch: int, **arguments: Any
) -> Replayed:
    """Makes one step of a run again: goes on from its newest checkpoint before the step, and runs to it.

    A checkpoint holds no code and no data, so the model, compiled as it was, the data and the arguments of `fit` are
    given as they were. The checkpoints stay as they are. The model is left as it was before the step.

    Args:
        model: compiled as in the run; its weights may be any.
        folder: the one that `callbacks.BackupAndRestore` wrote to; None begins at the start of the run, with the model
            and the seed that it was begun with.
        x, y: the data, as `fit` got them.
        epoch, batch: which step; both are counted from 0, as hooks and `NonFiniteError` count them.
        arguments: what else `fit` got; without `BackupAndRestore` among the callbacks.

    Returns:
        the step: its batch, loss, predictions and gradients, with the dropout masks it had.

    Raises:
        ValueError: no checkpoint from before the step, another run's, a run without such a step, or a model with a
            `train_step` of its own, whose gradients are not known.

    Example:
        >>> import epochal as keras
        >>> keras.replay(model, "backup", x, y, epoch=0, batch=2).not_finite  # doctest: +SKIP
    """
    epoch, batch = operator.index(epoch), operator.index(batch)
    if any(isinstance(c, BackupAndRestore) for c in CallbackList(arguments.get("callbacks")).callbacks):
        raise ValueError("replay() writes no checkpoints: pass the callbacks without BackupAndRestore.")
    if model.custom_steps().step is not None:
        raise ValueError(f"{type(model).__name__} has a train_step() of its own, which replay() cannot look into.")
    given: dict[str, Any] = {"epochs": epoch + 1, "verbose": 0, **arguments}
    reached = fit_until(model, FitArguments(x, y, resume_from=folder, **given), (epoch, batch))
    if reached is None:
        raise ValueError(f"The run has no batch {batch} in epoch {epoch} (both counted from 0).")
    return _looked_at(reached, epoch, batch)


def _looked_at(reached: Arrival, epoch: int, number: int) -> Replayed:
    runner, block, index = reached.runner, reached.block, reached.index
    step = runner.programs.step
    if block.starts is None:
        batch = take(block, index, runner.padded)
    else:  # sizes that differ: there is no row of `order` for each batch
        batch = take_piece(block, index, 0, int(block.sizes[index]), padded=False)
    if runner.cut is None:
        look = _look(step) if step.eager else jax.jit(_look(step))
        found = look(runner.arrays.read(), batch, runner.key)
    else:
        found = _look_in_pieces(runner, runner.cut, block, index)
    loss, outputs, gradients = jax.tree.map(np.asarray, found)
    values = dict(zip(step.judged_values, [*outputs, loss, *gradients], strict=True))
    m = int(batch.size)
    return Replayed(
        epoch=epoch,
        batch=number,
        examples=reached.rows,
        x=_rows(batch.x, m),
        y=_rows(batch.y, m),
        sample_weight=_rows(batch.weight, m),
        loss=float(loss),
        predictions=_rows(outputs, m),
        gradients=dict(zip(step.parts.names, gradients, strict=True)),
        not_finite=[name for name, value in values.items() if not np.isfinite(value).all()],
    )


def _rows(tree: Any, m: int) -> Any:
    return jax.tree.map(lambda a: np.asarray(a)[:m], tree)


def _look(step: TrainStep) -> Callable[[TrainState, Batch, Any], tuple]:
    def look(state: TrainState, batch: Batch, key: Any) -> tuple:
        _, loss, outputs, gradients = step.update(state, batch, key)
        return loss, outputs, list(gradients)

    return look


def _look_in_pieces(runner: TrainRunner, cut: Cut, block: Block, index: int) -> tuple:
    """Of a step that had been cut: by the same pieces, so that it takes no more memory."""
    step, state, key, tally = runner.programs.step, runner.arrays.read(), runner.key, runner.start(block)
    pieces = step.pieces(cut)

    def gradients_of(state: TrainState, block: Block, key: Any) -> tuple:
        summed = pieces.trained(state.params, state.buffers, tally, block, index, key)
        return summed.losses["loss"], summed.gradients

    def outputs_of(params: Any, buffers: Any, piece: Batch, key: Any) -> tuple:
        outputs, after, _ = pieces.outputs(params, buffers, piece, key)
        return outputs, after

    if not step.eager:
        gradients_of, outputs_of = jax.jit(gradients_of), jax.jit(outputs_of)

    def add(carry: tuple, piece: Batch) -> tuple:
        buffers, parts = carry
        outputs, buffers = outputs_of(state.params, buffers, piece, key)
        return buffers, [*parts, [np.asarray(output)[: int(piece.size)] for output in outputs]]

    loss, gradients = gradients_of(state, block, key)
    _, parts = replace(cut, eager=True).fold(add, (state.buffers, []), block, index)
    return loss, [np.concatenate(part) for part in zip(*parts, strict=True)], gradients
