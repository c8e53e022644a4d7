"""The model: Keras's training methods as a thin face over the machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epochal import optimizers
from epochal.callbacks.history import History
from epochal.data.feeds.block import Batch
from epochal.data.streams.indexed import Workforce
from epochal.engine.nonfinite import WAYS
from epochal.engine.objective.recipe import Recipe
from epochal.engine.state import TrainState
from epochal.engine.step import Custom
from epochal.layers.base.tree import set_policy
from epochal.models import fitting, on_batch
from epochal.models.arguments import FitArguments, checked_micro_batch_size, checked_steps
from epochal.models.fitting import overridden_loss, reported
from epochal.models.input_data import Traversal
from epochal.models.network import Network
from epochal.models.trainer import Compiled
from epochal.registry.checks import is_count
from epochal.support.types import Checked
from epochal.tracing import forward_pass
from epochal.tracing.symbolic import is_symbolic


class _Stop:
    """A flag of the model that is kept out of its graph, so that setting it changes no program."""

    def __init__(self, kind: str):
        self._kind = kind

    def __get__(self, model: Network, owner: type | None = None) -> bool:
        return model._training.stop[self._kind]

    def __set__(self, model: Network, value: bool) -> None:
        model._training.stop[self._kind] = bool(value)


class Model(Network):
    """A model with Keras's training methods.

    Subclass it with `__init__` and `call(x, training=False)`, use `Sequential`, or wrap any Flax module:
    `Model(module)`.

    Args:
        module: a `flax.nnx.Module`, called as `module(x)`; None for subclasses.
        outputs, inputs: with symbolic tensors in place of `module`, a graph, see `functional.Functional`; a subclass
            may pass them on to have a graph as its `call`.
        name: the model's name.
    """

    # The class that `Model(inputs, outputs)` makes; set by `models.functional`, which builds on this module.
    functional: Any = None

    def __new__(cls, *args: Any, **kwargs: Any):
        graph = cls is Model and ("inputs" in kwargs or (args and is_symbolic(args[0])))
        chosen: Any = cls.functional if graph else cls
        return super().__new__(chosen, *args, **kwargs)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """A new model made with what `get_config()` returned."""
        return cls.functional.from_description(cls, config) if "steps" in config else super().from_config(config)

    def __init__(
        self, module: Any = None, outputs: Any = None, *, inputs: Any = None, name: str | None = None, **kwargs: Any
    ):
        if self.functional is not None and is_symbolic((module, inputs)):  # a subclass's graph
            self.functional.adopt(self, module if inputs is None else inputs, outputs, name=name, **kwargs)
            return
        super().__init__(module, name=name, **kwargs)

    # -- compile

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: Checked = "auto",
        *,
        jit_compile: Checked = True,
        auto_scale_loss: bool = True,
        on_nonfinite: Checked = "ignore",
        micro_batch_size: Checked = "auto",
        dtype: Checked = None,
    ) -> None:
        """Says how to train. Weights stay as they are; a new optimizer starts at iteration 0.

        Args:
            optimizer: a name, an `epochal.optimizers` object, or any `optax.GradientTransformation`.
            loss: a name, a function of (y_true, y_pred), a `Loss`, or a list or dict of these, one per output.
            metrics: names, functions, `Metric` or `Loss` objects; sample weights do not enter.
            loss_weights: a number, a list, or a dict by output.
            weighted_metrics: like `metrics`, with sample weights.
            run_eagerly: run steps as plain Python: `print`, NumPy and a debugger work in `call` and in a loss; slow.
                To be built, a model is called on the first example. While the gradient is taken, what depends on the
                weights is a tracer: `print` shows its values, NumPy cannot read it.
            steps_per_execution: how many steps one compiled call runs at most, and how often batch hooks are called, or
                "auto". No result depends on it.
            jit_compile: True or "auto"; False is the same as `run_eagerly=True`, since all that JAX compiles is XLA's.
            auto_scale_loss: kept for Keras's sake; it is for float16, and nothing is scaled here.
            on_nonfinite: what becomes of an update whose loss or any gradient is NaN or infinite. "ignore" makes it, as
                Keras does. "skip" leaves it out: weights, moving statistics and the optimizer stay as they were, the
                batch is in none of the epoch's means (its loss would make them all NaN), `History.skipped` counts
                it, and a warning after the epoch names the first one's batch, examples and what was not finite. An
                epoch with nothing else in it has the loss NaN. "raise" ends training with a `NonFiniteError` that
                names the same, at most one execution late; the model has the weights from before that update. With a
                `train_step` of one's own, what it logs and the weights it leaves must be finite.
            micro_batch_size: examples that are run at once. A batch of more is cut into pieces as equal as may be, and
                their gradients are added up before the one update: the result is that of the whole batch, in the memory
                of a piece. "auto", the default, cuts where the memory does not suffice for the whole, and says so; an
                int always does; None never, and refuses such a batch. After an epoch weights differ from those without
                cutting by at most 1e-6 of the largest in their array, since sums are rounded in another order; Adam and
                its kind make the rounding of gradients near zero larger. BatchNormalization takes its statistics over a
                piece, with a warning. Losses that are one number for the whole batch, a `compute_loss` or `train_step`
                of one's own, and stateful layers cannot be cut. What `add_loss` adds is taken for a mean over examples.
            dtype: a policy for all layers that were made without one, such as "mixed_bfloat16"; None leaves them as
                they are. Losses and metrics are computed in float32 in any case.

        Raises:
            ValueError: an unknown name (with the nearest known ones), or a bad `steps_per_execution`, `jit_compile`,
                `on_nonfinite` or `micro_batch_size`.
        """
        recipe = Recipe(loss, metrics, loss_weights, weighted_metrics)
        recipe.check_names()
        if jit_compile not in (True, False, "auto"):
            raise ValueError(f'Expected jit_compile to be True, False or "auto", got {jit_compile!r}.')
        if steps_per_execution != "auto" and not is_count(steps_per_execution):
            raise ValueError(f'Expected steps_per_execution to be "auto" or an int >= 1, got {steps_per_execution!r}.')
        if on_nonfinite not in WAYS:
            raise ValueError(f'Expected on_nonfinite to be "ignore", "skip" or "raise", got {on_nonfinite!r}.')
        eager = bool(run_eagerly) or not jit_compile
        asked = steps_per_execution, on_nonfinite, checked_micro_batch_size(micro_batch_size)
        if dtype is not None:
            set_policy(self, dtype)
        self._training.compile(Compiled(recipe, optimizers.get(optimizer), eager, *asked))

    @property
    def compiled(self) -> bool:
        """Whether `compile` has been called."""
        return self._training.compiled is not None

    @property
    def optimizer(self) -> optimizers.Optimizer | None:
        """The optimizer; its `learning_rate` may be set between epochs."""
        return self._training.optimizer

    @property
    def compile_arguments(self) -> dict[str, Any] | None:
        """What `compile` was given, by the names of its arguments, as far as a file of the model keeps it; or None."""
        compiled = self._training.compiled
        if compiled is None:
            return None
        return {
            "optimizer": compiled.optimizer,
            "loss": compiled.recipe.loss,
            "metrics": compiled.recipe.metrics,
            "loss_weights": compiled.recipe.loss_weights,
            "weighted_metrics": compiled.recipe.weighted_metrics,
            "run_eagerly": compiled.eager,
            "steps_per_execution": compiled.steps_per_execution,
            "on_nonfinite": compiled.on_nonfinite,
            "micro_batch_size": compiled.micro_batch_size,
        }

    @property
    def optimizer_state(self) -> Any:
        """What the optimizer keeps for the weights of this model; None before it has trained them."""
        optimizer = self.optimizer
        return None if optimizer is None or not self._training.has_optimizer_state else optimizer.state

    def start_optimizer(self) -> None:
        """Gives the optimizer a state for the weights that train now; what it has for them already is kept.

        Raises:
            RuntimeError: never compiled.
            ValueError: no weight trains.
        """
        self._training.ready_to("start_optimizer")
        self._training.start_optimizer(self._training.parts())

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
        self._training.run_eagerly(bool(value))

    # -- fit, evaluate, predict

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: Checked = None,
        epochs: Checked = 1,
        verbose: Checked = "auto",
        callbacks: Any = None,
        validation_split: Checked = 0.0,
        validation_data: Any = None,
        shuffle: Checked = True,
        class_weight: Checked = None,
        sample_weight: Any = None,
        initial_epoch: Checked = 0,
        steps_per_epoch: Checked = None,
        validation_steps: Checked = None,
        validation_batch_size: Checked = None,
        validation_freq: Checked = 1,
        max_queue_size: Checked = None,
        workers: Checked = None,
        use_multiprocessing: Checked = None,
        view_metrics: Checked = False,
        resume_from: str | Path | None = None,
        profile: Checked = None,
        lr_scaling: Checked = None,
    ) -> History:
        """Trains the model.

        Args:
            x: inputs, an array with one row per example (or a list or dict of arrays); arrays on disk (`np.memmap`,
                h5py, zarr) are read batch by batch. Or batches: a dataset (torch `DataLoader`, `tf.data`, Grain, …), a
                generator, a `utils.PyDataset`, a `utils.DatasetCreator`; they bring x, (x, y) or (x, y, sample_weight).
            y: targets, one row per example; None beside batches.
            batch_size: examples per step: an int, "full" (all of them), or "auto", which is measured first, for some
                seconds, as `epochal.plan_batch_size` does (`History.plan`). Default 32. None beside batches.
            epochs: index of the last epoch, counted from 1: training runs epochs `initial_epoch` … `epochs`-1.
            verbose: 0 silent, 1 a live bar, 2 a line per epoch, "auto" a bar on a terminal and lines elsewhere.
            callbacks: `epochal.callbacks.Callback` objects, called in this order.
            validation_split: the last part of the examples, taken before any shuffle, to validate on.
            validation_data: (x, y), (x, y, sample_weight), or batches as for x; wins over `validation_split`.
            shuffle: a new order every epoch; "batch" shuffles batches and the rows in them; False keeps the order. Of a
                `PyDataset` it shuffles the batches; datasets and generators come as they come.
            class_weight: class -> weight in the training loss; for several outputs a dict of these by output.
            sample_weight: weights in the loss and the weighted metrics, shape (n,), or (n, t) for sequences.
            initial_epoch: index of the first epoch to run.
            steps_per_epoch: batches per epoch, from a stream that passes over the data again and again, each pass in a
                new order; None is one pass, -1 an epoch that only `stop_training` ends, and so is None for data
                without end. A generator goes on where the last epoch ended; when it has ended, training does, with a
                warning.
            validation_steps: validate on the first so many batches only, the same ones every time; of a generator on
                the next ones. Validation data without end needs it.
            validation_batch_size: as `batch_size`, which is the default.
            validation_freq: validate every so many epochs, or a container of epochs counted from 1.
            max_queue_size, workers, use_multiprocessing: how a `PyDataset`'s batches are made ahead; None leaves it to
                the dataset.
            view_metrics: False or "auto"; True is refused until there is a live page.
            resume_from: folder of checkpoints that `callbacks.BackupAndRestore` wrote, or path of a model that
                `callbacks.ModelCheckpoint(…, save_state=True)` wrote: go on from the newest of them, exactly where it
                was. (With `BackupAndRestore` among the callbacks a run goes on from its own folder.)
            profile: a folder for a profile of the first second of training: what the device and the host do, operation
                by operation, to be looked at with TensorBoard, xprof or Perfetto.
            lr_scaling: a rule of `epochal.scale_learning_rate` by which the learning rate, taken to be right for
                batches of 32, is changed for this fit's batch size; behind the fit it is what it was. None does not.

        Returns:
            a `History`: `.history` maps each reported name to a list with one value per epoch; it knows examples/s, the
            seconds spent on compiling, and the share of time in which the device waited for data.

        Raises:
            RuntimeError: never compiled, or called inside a JAX transformation.
            ValueError: data or arguments that do not fit; the model is then as it was.
            NonFiniteError: a loss or gradient that is not finite, when compiled with `on_nonfinite="raise"`.
        """
        self._training.ready_to("fit")
        arguments = FitArguments(
            x=x,
            y=y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size,
            validation_freq=validation_freq,
            max_queue_size=max_queue_size,
            workers=workers,
            use_multiprocessing=use_multiprocessing,
            view_metrics=view_metrics,
            resume_from=resume_from,
            profile=profile,
            lr_scaling=lr_scaling,
        )
        return fitting.fit(self, arguments)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: Checked = None,
        verbose: Checked = "auto",
        sample_weight: Any = None,
        steps: Checked = None,
        callbacks: Any = None,
        max_queue_size: Checked = None,
        workers: Checked = None,
        use_multiprocessing: Checked = None,
        return_dict: bool = False,
    ) -> Any:
        """Loss and metrics over all examples.

        Args:
            x, y, sample_weight: data as in `fit`.
            batch_size: examples per step, default 32; the result does not depend on it.
            verbose: as in `fit`.
            steps: look at the first so many batches only (of a generator: the next ones).
            callbacks: their test hooks are called.
            max_queue_size, workers, use_multiprocessing: as in `fit`.
            return_dict: return name -> value.

        Returns:
            the loss, when nothing else is reported; else a list in the order of `metrics_names`, or a dict.

        Raises:
            RuntimeError: never compiled, or called inside a JAX transformation.
            ValueError: data that does not fit.
        """
        training = self._training
        training.ready_to("evaluate")
        limit, workforce = checked_steps("steps", steps), Workforce(workers, use_multiprocessing, max_queue_size)
        given, logs = (x, y, sample_weight), None
        if verbose == 0 and not callbacks and steps is None:  # nobody looks at batches
            logs = on_batch.evaluated(training, given, batch_size)
        if logs is None:
            traversal = Traversal(batch_size, limit=limit, workforce=workforce)
            logs = fitting.evaluate(training, given, traversal, verbose, callbacks)
        return reported(logs, return_dict)

    def predict(
        self,
        x: Any,
        batch_size: Checked = None,
        verbose: Checked = "auto",
        steps: Checked = None,
        callbacks: Any = None,
        max_queue_size: Checked = None,
        workers: Checked = None,
        use_multiprocessing: Checked = None,
    ) -> Any:
        """The model's outputs for all examples, as NumPy arrays; the model need not be compiled.

        Args:
            x: inputs as in `fit`.
            batch_size: examples per step, default 32; the result does not depend on it.
            verbose: as in `fit`.
            steps: take the first so many batches only (of a generator: the next ones).
            callbacks: their predict hooks are called.
            max_queue_size, workers, use_multiprocessing: as in `fit`.

        Returns:
            an array with one row per example, or the list, tuple or dict of arrays that the model returns.
        """
        training = self._training
        training.refuse_tracing("predict")
        limit, workforce = checked_steps("steps", steps), Workforce(workers, use_multiprocessing, max_queue_size)
        if verbose == 0 and not callbacks and steps is None:  # nobody looks at batches
            outputs = on_batch.predicted(training, x, batch_size)
            if outputs is not None:
                return outputs
        return fitting.predict(training, x, Traversal(batch_size, limit=limit, workforce=workforce), verbose, callbacks)

    # -- one batch at a time

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Checked = None,
        reset_metrics: bool = True,
        return_dict: bool = False,
    ) -> Any:
        """One update with one batch.

        Args:
            x, y, sample_weight, class_weight: the batch, as in `fit`.
            reset_metrics: report this batch alone; False reports running values over the calls since the last reset.
            return_dict: return name -> value.

        Returns:
            what `evaluate` returns, of the batch as it was before the update.

        Raises:
            RuntimeError, ValueError: as `fit`.
        """
        logs = on_batch.one_step(self._training, "train", (x, y, sample_weight), class_weight, reset_metrics)
        return reported(logs, return_dict)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, reset_metrics: bool = True, return_dict: bool = False
    ) -> Any:
        """Loss and metrics of one batch; arguments and result as of `train_on_batch`."""
        logs = on_batch.one_step(self._training, "test", (x, y, sample_weight), None, reset_metrics)
        return reported(logs, return_dict)

    def predict_on_batch(self, x: Any) -> Any:
        """The model's outputs for one batch, as NumPy arrays."""
        return self.predict(x, "full", 0)

    def reset_metrics(self) -> None:
        """Starts the running values of `train_on_batch` and `test_on_batch` anew."""
        self._training.running = {}

    def programs(self) -> dict[str, int]:
        """How many programs of each kind ("train", "test", "predict") the model has compiled."""
        return self._training.executables

    @property
    def metrics_names(self) -> list[str]:
        """The names of what `evaluate` reports, in its order; empty before the first data."""
        return self._training.reported

    # Set to True in a hook, they end the method after the batch; `stop_training` after the epoch when set at its end.
    stop_training = _Stop("train")
    stop_evaluating = _Stop("test")
    stop_predicting = _Stop("predict")

    # -- what a subclass may override

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss of a batch, a scalar: what is minimised. Override it to minimise something else.

        Args:
            x: the batch's inputs.
            y: targets: an array, or a list of one per output.
            y_pred: what the model returned for x.
            sample_weight: weights in the form of y, or None.
            training: whether the loss is minimised, or evaluated only.

        Returns:
            here: the compiled losses, with regularizers and `add_loss` when called within a training step.

        Raises:
            RuntimeError: never compiled.
        """
        call = forward_pass.current()
        if call is not None and call.objective is not None:
            return call.objective(y, y_pred, sample_weight)
        return self._training.loss_of(y, y_pred, sample_weight)

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        """One step of training as a pure function. Override it to train in another way.

        Args:
            state: `params` and `buffers`, the model's arrays that train and that do not, and `opt`, the optimizer's.
            batch: `x`, `y` and `weight` (both a list with one array per output, or None), `size`, `ids`.

        Returns:
            the state after the step, and numbers to report by name; their means over the epoch, weighted by the
            batches' sizes, are the epoch's logs.

        Example:
            class Twice(epochal.Model):
                def train_step(self, state, batch):
                    def loss_of(params):
                        y_pred, buffers = self.stateless_call(params, state.buffers, batch.x, training=True)
                        return self.compute_loss(batch.x, batch.y[0], y_pred), buffers
                    (loss, buffers), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
                    params, opt = self.optimizer.update(list(gradients), state.opt, list(state.params))
                    return state._replace(params=tuple(params), buffers=buffers, opt=opt), {"loss": 2 * loss}
        """
        return self._training.default_step(state, batch)

    def custom_steps(self) -> Custom:
        """What the model's class overrides of the training step."""
        own_loss, own_step = (getattr(type(self), n) is not getattr(Model, n) for n in ("compute_loss", "train_step"))
        return Custom(loss=overridden_loss if own_loss else None, step=self.train_step if own_step else None)
