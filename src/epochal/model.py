"""The model: Keras's training methods as a thin face over the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from epochal import loop, optimizers, saving, sources
from epochal.arguments import (
    check_inputs,
    check_labels,
    check_shuffle,
    checked_batch_size,
    checked_epochs,
    device_dtype,
    is_count,
    per_output,
    predict_chunks,
    validation_due,
    with_class_weight,
)
from epochal.callbacks.base import CallbackList, Logs
from epochal.callbacks.history import History
from epochal.display import display_for
from epochal.feed import ArrayFeed
from epochal.layers.base import Layer, abstract_call
from epochal.objective import Objective, Output, Recipe
from epochal.random import next_seed
from epochal.sources import Examples
from epochal.state import Parts, row_independent
from epochal.step import Steps, as_list
from epochal.summary import summary_text


@dataclass
class _Training:
    """What training adds to a model. Opaque to Flax: none of it is part of the model's graph."""

    recipe: Recipe | None = None
    optimizer: optimizers.Optimizer | None = None
    eager: bool = False
    steps_per_execution: int | str = "auto"
    history: History | None = None
    stop: dict[str, bool] = field(default_factory=lambda: {"train": False, "test": False, "predict": False})
    parts: Parts | None = None
    steps: dict[Any, Steps] = field(default_factory=dict)
    inputs: Any = None  # shape and type of a batch, as the model was built
    outputs: Any = None  # the same of what it returns; None when not known yet
    optimizer_for: list[str] | None = None  # names of the weights that the optimizer's state belongs to


class _Stop:
    """A flag of the model that is kept out of its graph, so that setting it changes no program."""

    def __init__(self, kind: str):
        self._kind = kind

    def __get__(self, model: Any, owner: Any = None) -> bool:
        return model._training.stop[self._kind]

    def __set__(self, model: Any, value: bool) -> None:
        model._training.stop[self._kind] = bool(value)


class Model(Layer):
    """A model with Keras's training methods.

    Subclass it with `__init__` and `call(x, training=False)`, use `Sequential`, or wrap any Flax module:
    `Model(module)`.

    Args:
        module: a `flax.nnx.Module`, called as `module(x)`; None for subclasses.
        name: the model's name.
    """

    def __init__(self, module: nnx.Module | None = None, *, name: str | None = None, **kwargs: Any):
        if module is not None and not isinstance(module, nnx.Module):
            raise TypeError(f"Expected a flax.nnx.Module, got {type(module).__name__}.")
        super().__init__(name=name, **kwargs)
        self.module = module
        self._training = _Training()

    def call(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        if self.module is None:
            raise NotImplementedError(f"{type(self).__name__} has no call(self, x). Write one, or use Model(module).")
        return self.module(x, *args, **kwargs)  # pyright: ignore[reportCallIssue]

    # -- compile

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int | str = "auto",
    ) -> None:
        """Says how to train. Weights stay as they are; a new optimizer starts at iteration 0.

        Args:
            optimizer: a name, an `epochal.optimizers` object, or any `optax.GradientTransformation`.
            loss: a name, a function of (y_true, y_pred), a `Loss`, or a list or dict of these, one per output.
            metrics: names, functions, `Metric` or `Loss` objects; sample weights do not enter.
            loss_weights: a number, a list, or a dict by output.
            weighted_metrics: like `metrics`, with sample weights.
            run_eagerly: run steps as plain Python: `print` and a debugger work inside; slow.
            steps_per_execution: how many steps one compiled call runs, or "auto". No result depends on it.

        Raises:
            ValueError: an unknown name (with the nearest known ones), or a bad `steps_per_execution`.
        """
        recipe = Recipe(loss, metrics, loss_weights, weighted_metrics)
        recipe.check_names()
        if steps_per_execution != "auto" and not is_count(steps_per_execution):
            raise ValueError(f'Expected steps_per_execution to be "auto" or an int >= 1, got {steps_per_execution!r}.')
        training = self._training
        training.optimizer = optimizers.get(optimizer)
        training.recipe, training.eager = recipe, bool(run_eagerly)
        training.steps_per_execution = steps_per_execution
        training.steps, training.optimizer_for = {}, None

    @property
    def compiled(self) -> bool:
        """Whether `compile` has been called."""
        return self._training.recipe is not None

    @property
    def optimizer(self) -> optimizers.Optimizer | None:
        """The optimizer; its `learning_rate` may be set between epochs."""
        return self._training.optimizer

    @property
    def history(self) -> History | None:
        """The record of the last fit."""
        return self._training.history

    @property
    def run_eagerly(self) -> bool:
        """Whether steps run as plain Python."""
        return self._training.eager

    @run_eagerly.setter
    def run_eagerly(self, value: bool) -> None:
        self._training.eager = bool(value)

    # -- fit, evaluate, predict

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | str | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool | str = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        validation_batch_size: int | str | None = None,
        validation_freq: int | Container[int] = 1,
    ) -> History:
        """Trains the model.

        Args:
            x: inputs, an array with one row per example (or a list or dict of arrays).
            y: targets, one row per example.
            batch_size: examples per step: an int, "full" (all of them), or "auto". Default 32.
            epochs: index of the last epoch, counted from 1: training runs epochs `initial_epoch` … `epochs`-1.
            verbose: 0 silent, 1 a live bar, 2 a line per epoch, "auto" a bar on a terminal and lines elsewhere.
            callbacks: `epochal.callbacks.Callback` objects, called in this order.
            validation_split: the last part of the examples, taken before any shuffle, to validate on.
            validation_data: (x, y) or (x, y, sample_weight); wins over `validation_split`.
            shuffle: a new order every epoch; "batch" shuffles batches and the rows in them; False keeps the order.
            class_weight: class -> weight in the training loss.
            sample_weight: weights in the loss and the weighted metrics, shape (n,), or (n, t) for sequences.
            initial_epoch: index of the first epoch to run.
            validation_batch_size: as `batch_size`, which is the default.
            validation_freq: validate every so many epochs, or a container of epochs counted from 1.

        Returns:
            a `History`: `.history` maps each reported name to a list with one value per epoch.

        Raises:
            RuntimeError: never compiled, or called inside a JAX transformation.
            ValueError: data or arguments that do not fit; the model is then as it was.
        """
        started = time.perf_counter()
        recipe = self._ready_to("fit")
        span = checked_epochs(initial_epoch, epochs)
        check_shuffle(shuffle)
        examples, held_out = self._fit_data(x, y, sample_weight, class_weight, validation_split, validation_data)
        steps = self._steps(examples, recipe)
        check_labels(steps, examples, held_out)
        self._start_optimizer(steps.parts)
        seed = next_seed()
        feed = self._feed(examples, batch_size, shuffle, seed, steps)
        due = validation_due(validation_freq)
        held = None
        if held_out is not None:
            size = validation_batch_size if validation_batch_size is not None else batch_size
            held = self._feed(held_out, size, False, 0, steps)
        params = {"verbose": verbose, "epochs": epochs, "steps": feed.steps, "batch_size": feed.batch_size}
        history = self._training.history = History()
        session = self._session(steps, [callbacks, history], display_for(verbose), params)
        compiled_before = steps.compile_seconds

        def validate(epoch: int) -> Logs | None:
            return loop.test(session, held) if held is not None and due(epoch + 1) else None

        try:
            with _running(session):
                loop.train(session, feed, seed, span, validate)
            self._end_with_averages(steps.parts)
        finally:
            history.finish(time.perf_counter() - started, steps.compile_seconds - compiled_before, feed.n)
            history.programs = steps.executables
        return history

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | str | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        callbacks: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """Loss and metrics over all examples.

        Args:
            x, y, sample_weight: data as in `fit`.
            batch_size: examples per step, default 32; the result does not depend on it.
            verbose: as in `fit`.
            callbacks: their test hooks are called.
            return_dict: return name -> value.

        Returns:
            the loss, when nothing else is reported; else a list in the order of `metrics_names`, or a dict.

        Raises:
            RuntimeError: never compiled, or called inside a JAX transformation.
            ValueError: data that does not fit.
        """
        recipe = self._ready_to("evaluate")
        examples = self._aligned(sources.as_examples(x, y, sample_weight, method="evaluate"))
        steps = self._steps(examples, recipe)
        check_labels(steps, examples)
        feed = self._feed(examples, batch_size, False, 0, steps)
        display = display_for(verbose)
        params = {"verbose": verbose, "epochs": 1, "steps": feed.steps, "batch_size": feed.batch_size}
        session = self._session(steps, [callbacks], display, params)
        with _running(session):
            display.epoch_begin(0, feed.steps)
            logs = loop.test(session, feed)
            display.epoch_end(0, logs)
        if return_dict:
            return logs
        values = list(logs.values())
        return values[0] if len(values) == 1 else values

    def predict(
        self, x: Any, batch_size: int | str | None = None, verbose: int | str = "auto", callbacks: Any = None
    ) -> Any:
        """The model's outputs for all examples, as NumPy arrays; the model need not be compiled.

        Args:
            x: inputs as in `fit`.
            batch_size: examples per step, default 32; the result does not depend on it.
            verbose: as in `fit`.
            callbacks: their predict hooks are called.

        Returns:
            an array with one row per example, or the list, tuple or dict of arrays that the model returns.
        """
        self._refuse_tracing("predict")
        examples = sources.as_examples(x, method="predict")
        self._build_for(examples.x)
        size = checked_batch_size(batch_size, examples.n)
        steps = self._predict_steps()
        params = {"verbose": verbose, "epochs": 1, "steps": -(-examples.n // size), "batch_size": size}
        session = self._session(steps, [callbacks], display_for(verbose), params)
        with _running(session):
            batches = loop.predict(session, predict_chunks(examples, size, row_independent(self)), params["steps"])
        return jax.tree.map(lambda *parts: np.concatenate(parts), *batches)

    def programs(self) -> dict[str, int]:
        """How many programs of each kind ("train", "test", "predict") the model has compiled."""
        counts = {"train": 0, "test": 0, "predict": 0}
        for steps in self._training.steps.values():
            for kind, count in steps.executables.items():
                counts[kind] += count
        return counts

    @property
    def metrics_names(self) -> list[str]:
        """The names of what `evaluate` reports, in its order; empty before the first data."""
        found = [s.objective.labels for s in self._training.steps.values() if s.objective is not None]
        return list(found[-1]) if found else []

    # Set to True in a hook, they end the method after the batch; `stop_training` after the epoch when set at its end.
    stop_training = _Stop("train")
    stop_evaluating = _Stop("test")
    stop_predicting = _Stop("predict")

    # -- looking at it, keeping it

    def summary(self, print_fn: Callable[[str], Any] | None = None) -> None:
        """Prints the layers with their output shapes and numbers of weights."""
        (print_fn or print)(summary_text(self))

    def save(self, path: str | Path, overwrite: bool = True) -> None:
        """Writes the whole model: a folder, or a single file when `path` ends in .keras or .zip.

        Architecture and compile arguments go to config.json, weights and the optimizer's state to safetensors files.

        Raises:
            FileExistsError: something is there, and `overwrite` is False.
            TypeError: a part of the model cannot be written as data, such as a lambda.
        """
        saving.save_model(self, path, overwrite=overwrite)

    def save_weights(self, path: str | Path, overwrite: bool = True) -> None:
        """Writes the weights as a safetensors file.

        Raises:
            FileExistsError: something is there, and `overwrite` is False.
        """
        saving.save_weights(self, path, overwrite=overwrite)

    def load_weights(self, path: str | Path) -> None:
        """Reads weights that `save_weights` wrote for a model of the same layers.

        Raises:
            ValueError: other shapes or another number of weights; nothing is changed then.
        """
        saving.load_weights(self, path)

    # -- building

    def build(self, input_shape: Any = None) -> None:
        """Makes all weights for inputs of `input_shape` (batch axis first, as None), or of a list or dict of shapes."""
        if input_shape is None:
            raise ValueError(f"Expected build(input_shape) of model {self.name!r} with the batch axis first, got None.")

        def is_shape(node: Any) -> bool:
            return isinstance(node, tuple | list) and all(size is None or isinstance(size, int) for size in node)

        def spec(shape: Sequence[int | None]) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((2, *shape[1:]), np.float32)

        self.build_from(jax.tree.map(spec, input_shape, is_leaf=is_shape))

    def _ensure_built(self, x: Any) -> None:
        if self._training.inputs is None and not any(isinstance(a, Tracer) for a in jax.tree.leaves(x)):
            self.build_from(x)
        super()._ensure_built(x)

    def _build_now(self, shapes: Any) -> None:
        # A model's layers build themselves when it calls them; only a user's own `build` has something to do here.
        if not type(self).build.__module__.startswith("epochal."):
            super()._build_now(shapes)
        self.built = True

    def build_from(self, x: Any) -> None:
        """Makes the weights of all layers for a batch like `x` (arrays or `jax.ShapeDtypeStruct`, batch axis first)."""
        specs = jax.tree.map(_spec, x)
        self._training.outputs = abstract_call(self, specs)
        self._training.inputs = specs

    def _build_for(self, x: Any) -> None:
        """Builds the model for its first data, or checks that this data is like the first.

        Raises:
            ValueError: another structure or shape than the model was built for.
        """
        if self._training.inputs is None:
            self.build_from(x)
            return
        check_inputs(self.name, self._training.inputs, x)

    def output_names(self, outputs: Any) -> list[str]:
        """Names of the outputs, for labels and for targets given as a dict."""
        if isinstance(outputs, dict):
            return list(outputs)
        if isinstance(outputs, list | tuple):
            return [f"output_{i + 1}" for i in range(len(outputs))]
        return ["output"]

    # -- inner workings

    def _refuse_tracing(self, method: str) -> None:
        if isinstance(jax.lax.add(np.float32(0), np.float32(0)), Tracer):
            raise RuntimeError(
                f"{method}() was called while JAX is tracing. Call it outside of jit, grad and the like."
            )

    def _ready_to(self, method: str) -> Recipe:
        self._refuse_tracing(method)
        if self._training.recipe is None:
            raise RuntimeError(f"Call compile(optimizer=…, loss=…) before {method}().")
        return self._training.recipe

    def _fit_data(
        self, x: Any, y: Any, sample_weight: Any, class_weight: Any, fraction: float, validation_data: Any
    ) -> tuple[Examples, Examples | None]:
        """Training examples with all weights in them, and the examples to validate on."""
        examples = sources.as_examples(x, y, sample_weight, method="fit")
        held_out = None
        if validation_data is not None:
            held_out = sources.as_validation(validation_data)
        elif fraction:
            examples, held_out = sources.split(examples, fraction)
        self._build_for(examples.x)
        examples = self._aligned(examples)
        if class_weight is not None:
            examples = with_class_weight(examples, class_weight, self._abstract_outputs())
        if held_out is not None:
            check_inputs(self.name, self._training.inputs, held_out.x)
            held_out = self._aligned(held_out)
        return examples, held_out

    def _aligned(self, examples: Examples) -> Examples:
        """Targets and weights as lists with one array per output."""
        self._build_for(examples.x)
        names = self.output_names(self._abstract_outputs())
        y = None if examples.y is None else per_output(examples.y, names, "y")
        weight = None if examples.weight is None else per_output(examples.weight, names, "sample_weight")
        return Examples(examples.x, y, weight, examples.n)

    def _abstract_outputs(self) -> Any:
        training = self._training
        if training.outputs is None:
            training.outputs = abstract_call(self, training.inputs)
        return training.outputs

    def _parts(self) -> Parts:
        """The model taken apart; programs made for another structure are thrown away."""
        training = self._training
        parts = Parts(self)
        if not parts.same_program(training.parts):
            training.parts, training.steps, training.outputs = parts, {}, None
        assert training.parts is not None
        return training.parts

    def _steps(self, examples: Examples, recipe: Recipe) -> Steps:
        """The programs for targets of this kind, made when there are none yet."""
        parts, training = self._parts(), self._training
        predictions: Any = self._abstract_outputs()
        names = self.output_names(predictions)
        targets = examples.y if examples.y is not None else [None] * len(names)
        specs: list[Any] = [None if t is None else _spec(t) for t in targets]
        outputs = [Output(n, t, p) for n, t, p in zip(names, specs, as_list(predictions, names), strict=True)]
        revision = training.optimizer.revision if training.optimizer is not None else 0
        key = (tuple((o.name, o.target, o.prediction) for o in outputs), training.eager, revision)
        if key not in training.steps:
            objective = Objective(recipe, outputs)
            training.steps[key] = Steps(
                parts, objective, training.optimizer, lambda p: as_list(p, names), training.eager
            )
        return training.steps[key]

    def _predict_steps(self) -> Steps:
        parts, training = self._parts(), self._training
        if "predict" not in training.steps:
            training.steps["predict"] = Steps(parts, None, None, lambda p: p, training.eager)
        return training.steps["predict"]

    def _start_optimizer(self, parts: Parts) -> None:
        """Gives the optimizer a state for the arrays that train now; one it already has for them is kept."""
        training, optimizer = self._training, self._training.optimizer
        assert optimizer is not None
        if not parts.trained:
            raise ValueError(f"Model {self.name!r} has nothing to train: all its weights are frozen, or it has none.")
        if training.optimizer_for == parts.names and optimizer.state is not None:
            return
        params = list(parts.collect()[0])
        optimizer.bind(parts.names, [parts.nodes[i] for i in parts.trained])
        if optimizer.state is None or training.optimizer_for is None:
            optimizer.state = jax.jit(optimizer.init)(params)  # in one program
        else:  # layers were frozen or thawed: what is kept for the others stays
            optimizer.state = optimizer.carry(optimizer.state, training.optimizer_for, params)
        training.optimizer_for = list(parts.names)

    def _end_with_averages(self, parts: Parts) -> None:
        """An optimizer with `use_ema` leaves the moving averages of the weights in the model, as in Keras."""
        optimizer = self._training.optimizer
        assert optimizer is not None
        assert optimizer.state is not None
        averages = optimizer.averages(optimizer.state)
        if averages is not None:
            parts.publish(tuple(jnp.array(a, copy=True) for a in averages), parts.collect()[1])

    def _feed(self, examples: Examples, batch_size: Any, shuffle: bool | str, seed: int, steps: Steps) -> ArrayFeed:
        objective = steps.objective
        assert objective is not None
        exact_tail = not (objective.row_independent and row_independent(self))
        return ArrayFeed(examples, checked_batch_size(batch_size, examples.n), shuffle, seed, exact_tail)

    def _session(self, steps: Steps, callbacks: list[Any], display: Any, params: dict[str, Any]) -> loop.Session:
        self._training.stop = dict.fromkeys(self._training.stop, False)
        calls = CallbackList(callbacks, self, params)
        return loop.Session(self, steps, calls, display, self._training.steps_per_execution)


def _spec(array: Any) -> jax.ShapeDtypeStruct:
    """Shape and type on the device of a batch of such rows; how many rows does not matter, so it is always 2."""
    return jax.ShapeDtypeStruct((2, *array.shape[1:]), device_dtype(array))


@contextmanager
def _running(session: loop.Session) -> Iterator[None]:
    """Ctrl-C and the display are set right again, by whatever way the method ends."""
    try:
        with loop.interrupts(session.interrupted):
            yield
    finally:
        session.display.close()
