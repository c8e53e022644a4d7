"""One compiled model on which all fits of a study run: weights, optimizer and learning rate are put in as values."""

from __future__ import annotations

import hashlib
import itertools
import json
import random as python_random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from epochal.callbacks.monitor import Monitor
from epochal.data.examples import Examples, fingerprint
from epochal.data.feeds.array_feed import ArrayFeed
from epochal.data.feeds.block import Stretch
from epochal.display.progress import Display
from epochal.engine.loop import advance
from epochal.engine.objective.labels import check_labels
from epochal.engine.objective.objective import Objective
from epochal.engine.out_of_memory import prepared
from epochal.engine.pacing import AllSteps
from epochal.engine.runners import TestRunner, TrainRunner
from epochal.models.input_data import Data, Traversal, prepare_fit
from epochal.models.model import Model
from epochal.models.trainer import training_of
from epochal.random import next_seed, seed_state, set_random_seed, set_seed_state
from epochal.registry.serialize import serialize
from epochal.runtime.interrupts import Interrupts
from epochal.runtime.memory import program_bytes

_SILENT = Display()
EVALUATED = 1024  # examples per step of an evaluation, and training examples that a fit's training loss is taken of


class Start(NamedTuple):
    """Where fits of one seed begin. The arrays are copied before they are trained.

    Attributes:
        params, buffers, opt: the model's and the optimizer's arrays.
        seed: of the order of examples, and of masks, as `fit` would draw it.
    """

    params: tuple
    buffers: tuple
    opt: Any
    seed: int


class Bench:
    """A model and its data, ready for fits of any batch size, learning rate and seed.

    A fit is the same as `fit` on a new model after `set_random_seed(seed)`, bit for bit, without compiling anew: a
    program is compiled once per batch size.

    Args:
        build_model: returns a new, compiled model; its weights come from the global seed.
        given: x, y and sample_weight.
        split: `validation_split`.
        validation_data: as `fit` takes it, or None.
        seeds: of the fits.
        monitor: the reported value that fits are judged by; None: the first metric, or the loss.

    Raises:
        TypeError: `build_model` returns no model.
        ValueError: data that does not fit, or a model that cannot be studied.
    """

    def __init__(
        self,
        build_model: Callable[[], Any],
        given: tuple,
        split: float,
        validation_data: Any,
        seeds: Sequence[int],
        monitor: str | None,
    ):
        self._build = build_model
        self._given = (given, split, validation_data)
        self.model, first_seed, examples, held_out = self._made(seeds[0])
        training = training_of(self.model)
        self.programs = training.steps(examples, training.ready_to("batch_size_study"))
        check_labels(self.programs.objective, examples)
        check_labels(self.programs.objective, held_out)
        self.parts, self.optimizer = self.programs.parts, self.programs.optimizer
        training.start_optimizer(self.parts)
        self.rate = _rate_of(self.optimizer)
        objective = self.programs.objective
        self._exact_tail = not (objective.row_independent and self.parts.row_independent)
        self.identity = self._identity(examples, held_out)
        self.examples, self.held_out = _on_device(examples), _on_device(held_out)
        self.monitor, self.higher = _judge(objective, monitor)
        self.starts = {seeds[0]: self._start(self.model, first_seed)}
        for seed in seeds[1:]:
            self.starts[seed] = self._start_of(seed)
        rows = np.sort(np.random.default_rng(0).permutation(self.examples.n)[:EVALUATED])
        sample = sampled(self.examples, rows)
        self._evaluated = [self._blocks(sample), self._blocks(self.held_out)]

    # -- models of one kind

    def _made(self, seed: int) -> tuple[Any, int, Examples, Examples]:
        """A new model, the seed that `fit` would draw, and the data in the model's form."""
        given, split, validation_data = self._given
        set_random_seed(seed)
        model = self._build()
        if not isinstance(model, Model):
            raise TypeError(f"Expected build_model() to return an epochal.Model, got {type(model).__name__}.")
        training_of(model).ready_to("batch_size_study")
        if model.stateful_layers():
            raise ValueError("A model with stateful=True takes batches of one size only: it cannot be studied.")
        drawn = next_seed()
        with ExitStack() as closing:
            way = Traversal()
            data, held_out = prepare_fit(training_of(model), given, None, way, split, validation_data, way, closing)
        if held_out is None or _elsewhere(data) or _elsewhere(held_out):
            raise ValueError("Expected x and y as arrays in memory, and validation_split or validation_data as such.")
        return model, drawn, data.first, held_out.first

    def _start_of(self, seed: int) -> Start:
        model, drawn, _, _ = self._made(seed)
        training = training_of(model)
        parts = training.parts()
        shapes = [[(a.shape, a.dtype) for a in jax.tree.leaves(p.collect())] for p in (parts, self.parts)]
        if shapes[0] != shapes[1]:
            raise ValueError("Expected build_model() to return the same model every time, got weights of other shapes.")
        optimizer = training.optimizer
        if optimizer is self.optimizer:
            raise ValueError("Expected build_model() to make a new optimizer every time, got the same object again.")
        training.start_optimizer(parts)
        return self._start(model, drawn)

    @staticmethod
    def _start(model: Any, seed: int) -> Start:
        params, buffers = training_of(model).parts().collect()
        return Start(
            *_copied((params, buffers, training_of(model).ready_to("batch_size_study").optimizer.state)), seed=seed
        )

    def _identity(self, examples: Examples, held_out: Examples) -> dict[str, Any]:
        """What tells this data and this model from others."""
        given = training_of(self.model).ready_to("batch_size_study")
        recipe = given.recipe
        compiled = [recipe.loss, recipe.metrics, recipe.loss_weights, recipe.weighted_metrics, given.on_nonfinite]
        described = []
        for part in [self.model, self.optimizer, *compiled]:
            try:
                described.append(serialize(part))
            except TypeError:  # code that is no data: told by its class, and the model by its weights
                described.append(type(part).__qualname__)
        left_out = {"name"} if self.optimizer.scheduled else {"name", "learning_rate"}  # every fit has its own rate
        digest = hashlib.sha256(json.dumps(_without(described, left_out), sort_keys=True).encode())
        for array in jax.tree.leaves(self.parts.collect()):
            data = jax.random.key_data(array) if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else array
            digest.update(f"{data.shape}{data.dtype}".encode() + np.asarray(data).tobytes())
        return {
            "training data": fingerprint(examples),
            "validation data": fingerprint(held_out),
            "model": digest.hexdigest(),
            "JAX version": jax.__version__,
        }

    # -- fits

    def travel(self, size: int, rate: float, seed: int, marks: Sequence[int]) -> Iterator[tuple[int, float]]:
        """Trains from the seed's start, and stops after so many updates as each mark says, the model being whole there.

        Yields:
            how many updates have been made, and how many seconds they took, compiling apart.
        """
        start = self.starts[seed]
        params, buffers, opt = _copied((start.params, start.buffers, start.opt))
        self.parts.publish(params, buffers)
        self.optimizer.state = opt
        if not self.optimizer.scheduled:
            self.optimizer.learning_rate = rate
        feed = ArrayFeed(self.examples, size, True, start.seed, self._exact_tail)
        passes = ((self._runner(feed, start.seed, epoch), feed.epoch(epoch)) for epoch in itertools.count())
        (runner, stretches), tally, done, seconds = next(passes), None, 0, 0.0
        for mark in sorted(marks):
            while done < mark:
                pacer, began, compiled = AllSteps(mark - done), time.perf_counter(), self.programs.compile_seconds
                tally, rest = advance(runner, stretches, tally, pacer, _SILENT, Interrupts())
                jax.block_until_ready(self.parts.collect())
                seconds += time.perf_counter() - began - (self.programs.compile_seconds - compiled)
                done += pacer.done
                if rest is None:
                    (runner, stretches), tally = next(passes), None
                else:
                    stretches = itertools.chain([rest], stretches)
            yield done, seconds

    def _runner(self, feed: ArrayFeed, seed: int, epoch: int) -> TrainRunner:
        return TrainRunner(self.programs.train, feed.padded, seed, epoch)

    def evaluate(self) -> list[dict[str, float]]:
        """Loss and metrics of the model as it is, on a sample of the training examples and on the validation ones."""
        found = []
        for padded, stretches in self._evaluated:
            runner = TestRunner(self.programs.test, padded)
            tally, _ = advance(runner, stretches, None, AllSteps(), _SILENT, Interrupts())
            found.append({} if tally is None else runner.read(tally))
        return found

    def _blocks(self, examples: Examples) -> tuple[bool, list[Stretch]]:
        feed = ArrayFeed(examples, min(EVALUATED, examples.n), False, 0, self._exact_tail)
        return feed.padded, list(feed.epoch(0))

    def memory(self, size: int) -> int | None:
        """Bytes that a training step takes, arguments, results and what it needs in between; None if not known."""
        feed = ArrayFeed(self.examples, size, True, 0, self._exact_tail)
        runner = TrainRunner(self.programs.train, feed.padded, 0, 0)
        block = next(iter(feed.epoch(0))).block
        compiled = prepared(runner, block, runner.start(block), _SILENT).function
        return program_bytes(compiled) if hasattr(compiled, "memory_analysis") else None  # plain Python has none


@contextmanager
def seeds_put_back() -> Iterator[None]:
    """Random numbers drawn inside disturb nobody's outside."""
    before, python, legacy = seed_state(), python_random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        set_seed_state(before)
        python_random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


def _without(described: Any, keys: set[str]) -> Any:
    """A description without these keys; names count up with every model that a process makes."""
    if isinstance(described, dict):
        return {key: _without(value, keys) for key, value in described.items() if key not in keys}
    return [_without(value, keys) for value in described] if isinstance(described, list) else described


def _rate_of(optimizer: Any) -> float:
    try:
        return float(optimizer.learning_rate)
    except AttributeError as error:
        raise ValueError(f"A study sets the learning rate. {error}") from error


def _judge(objective: Objective, monitor: str | None) -> tuple[str, bool]:
    """The name of the value that fits are judged by, and whether more of it is better."""
    reported = list(objective.reported)
    metrics = [name for name in reported if name not in ("loss", *objective.loss_labels)]
    name = [*metrics, "loss"][0] if monitor is None else monitor.removeprefix("val_")
    if name not in reported:
        raise ValueError(f"Expected monitor to be one of {', '.join(reported)}, got {monitor!r}.")
    try:
        return name, Monitor(name).higher_is_better
    except ValueError as error:
        raise ValueError(f'Whether more or less of {name!r} is better is not known: pass monitor="loss".') from error


def sampled(examples: Examples, rows: np.ndarray) -> Examples:
    """These rows of examples in memory."""
    whole = (examples.x, examples.y, examples.weight)
    return Examples(*jax.tree.map(lambda a: a[rows], whole), n=len(rows))


def _on_device(examples: Examples) -> Examples:
    read = examples.read()
    return Examples(*jax.device_put((read.x, read.y, read.weight)), n=read.n)


def _elsewhere(data: Data) -> bool:
    """Whether data comes in batches, or is on disk."""
    return data.stream is not None or data.first.lazy


def _copied(tree: Any) -> Any:
    """Copies of arrays on the device: programs take over the memory of what they are given."""
    return jax.tree.map(jnp.copy, tree)
