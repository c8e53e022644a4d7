"""How noisy the gradient is in the course of a trial training."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import jax
import numpy as np

from epochal.critical_batch import Moments, NoiseEstimate, combined, moments
from epochal.engine.example_gradients import chunk_size, grouped, squares_and_products
from epochal.engine.state import TrainState
from epochal.plans.trial_model import Stopwatch, TrialModel

LOOKS = tuple(2**k for k in range(12))  # updates of the trial training after which the noise is looked at
SETTLED = 32  # updates after which the trial may end
FALLING = 0.2  # of what the loss has fallen by in all, which twice as many updates must add
LISTENED = 0.5  # seconds that this may take, whatever little time there is
GRADIENTS = 1024  # that the noise is measured on after an update


@dataclass(frozen=True)
class Heard:
    """What a trial training told.

    Attributes:
        noise: the gradient noise scale; None where it cannot be measured.
        trained: updates that the copy of the model had been trained for.
        notes: sentences on it.
    """

    noise: NoiseEstimate | None = None
    trained: int = 0
    notes: tuple[str, ...] = ()


def train_and_listen(trial: TrialModel, m: int, watch: Stopwatch, max_seconds: float, epochs: int | None) -> Heard:
    """Trains a copy and measures the noise on the way: B is its mean over the steps that the copy would have made
    without noise.

    An update with a batch of m lowers the loss by 1 / (1 + B / m) of what one without noise does, at their best rates
    (McCandlish et al. 2018, arXiv:1812.06162), so that S(m) = ∫ (1 + B / m) ds over steps s without noise. Each of the
    copy's updates is 1 / (1 + B / m) of one: late ones, whose gradients are all but noise, count little, so it hardly
    matters where the copy's training ends: where twice the updates lower the loss by little more.

    Args:
        trial: the copy.
        m: the batch size that it is trained with, compiled.
        watch: how long measuring has taken.
        max_seconds: how long it may take, about.
        epochs: that are to be trained, in batches of m no more than these; None leaves it open.
    """
    if trial.programs.custom.step is not None:
        return Heard(notes=("The model has a train_step of its own, whose gradient is not known.",))
    most = math.inf if epochs is None else epochs * trial.per_epoch(m)
    copies, losses, notes, deadline = trial.copies(), [], [], math.inf
    looks: dict[int, Moments] = {}
    for until in LOOKS:
        began = watch.now()
        loss = trial.advance(m, copies, max(looks, default=0), until)
        if not math.isfinite(loss):
            notes.append("The trial training diverged: the learning rate may be too high.")
            break
        if _too_few(trial):
            break
        found = _listen(trial, copies.read(), until)
        if found is None:
            notes.append("Gradients of the trial are not finite, so their noise is not known.")
            break
        losses.append(loss)
        if until > SETTLED and losses[-2] - loss < FALLING * (losses[0] - loss):
            break
        looks[until] = found
        if not math.isfinite(deadline):  # the first look compiles
            deadline = max(max_seconds, watch.elapsed + LISTENED)
        elif 2 * until > most or watch.elapsed + 2 * (watch.now() - began) > deadline:
            break
    if not looks:
        return Heard(notes=tuple(notes))
    noise = combined(list(looks.values()), weights=_ideal_steps(looks, m), n=trial.n)
    return Heard(noise, max(looks), tuple(notes))


def _groups(n: int) -> tuple[int, int]:
    """How many examples are drawn, and in groups of how many their gradients are taken."""
    count = min(GRADIENTS, n)
    return count, min(16, -(-count // 128))  # so that the gradients of small models are taken in one go


def _too_few(trial: TrialModel) -> bool:
    """Whether there are too few examples for the noise to be seen."""
    count, group = _groups(trial.examples.n)
    return count // group < 3


def _listen(trial: TrialModel, state: TrainState, update: int) -> Moments | None:
    """What gradients at these weights tell; None where they are not finite."""
    examples = trial.examples
    count, group = _groups(examples.n)
    rows = np.random.default_rng((trial.seed, update)).choice(examples.n, count - count % group, replace=False)
    arrays = jax.tree.map(lambda a: np.asarray(a)[rows], (examples.x, examples.y, examples.weight))
    arrays, ids = grouped(arrays, rows, group)
    together = min(chunk_size(trial.programs.parts), len(ids))
    squares, products = squares_and_products(trial.programs, arrays, ids, trial.seed, together, state=state)
    return moments(squares, products, group) if np.isfinite(squares).all() else None


def _updates(looks: list[int]) -> list[float]:
    """How many updates each look stands for, those between two of them half and half, and those before the first."""
    edges = [0.0, *((a + b) / 2 for a, b in itertools.pairwise(looks)), float(looks[-1])]
    return [b - a for a, b in itertools.pairwise(edges)]


def _ideal_steps(looks: dict[int, Moments], m: int) -> list[float]:
    """The weights with which the sums of looks make B = Σ tr Σ / Σ |G|² the mean over steps without noise.

    Such a step is 1 / e updates, e = 1 / (1 + B / m) = |G|² / L with L = |G|² + tr Σ / m. The mean of B = tr Σ / |G|²
    with weights e is Σ tr Σ / L over Σ |G|² / L. The estimate of |G|² may be below zero, L is not: a training that has
    come to its end would decide alone.
    """
    updates = _updates(list(looks))
    sizes = [max(found.grad_sq, 0.0) + found.trace / m for found in looks.values()]
    weights = [count / size if size > 0 else 0.0 for count, size in zip(updates, sizes, strict=True)]
    return weights if any(weights) else updates
