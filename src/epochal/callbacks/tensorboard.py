"""Event files for TensorBoard."""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from pathlib import Path
from typing import Any

import jax
import numpy as np

from epochal.callbacks.callback import Callback
from epochal.layers.base.tree import tracked
from epochal.support.types import Logs

_SIDE = 1e-12 * 1.1 ** np.arange(775)
_BINS = np.concatenate([-_SIDE[::-1], [0.0], _SIDE])  # of histograms: TensorFlow's


class TensorBoard(Callback):
    """Writes what `tensorboard --logdir=logs` shows, with Keras's runs and tags. Needs `epochal[tensorboard]`.

    In the run `train`, at each epoch's index: `epoch_loss`, `epoch_<metric>`, `epoch_learning_rate`; at each batch that
    is due, counted from 1: `batch_loss`, `batch_<metric>`. In the run `validation`: the same values of the validation,
    and `evaluation_<name>_vs_iterations` at the optimizer's iteration.

    All of it is on disk when a hook returns. A run that goes on (`BackupAndRestore`) goes on in a new file beside the
    old one, from which the values behind the checkpoint are cut off: each step has one value, as if nothing had
    happened. In another `log_dir` it goes on alone.

    Args:
        log_dir: the folder; the runs are folders in it.
        histogram_freq: every so many epochs the distribution of each weight is written; 0 is never.
        write_graph: has no effect: the graph is not written.
        write_images: write each weight as an image too, whenever its distribution is written.
        write_steps_per_second: write `epoch_steps_per_second`, and `batch_steps_per_second` at batches that are due.
        update_freq: "epoch" writes epochs only; a number writes the running values every so many batches as well,
            "batch" at every batch: training then runs step by step.
        profile_batch: the batch of training, counted from 1, or (first, last) of several, whose execution is recorded
            by JAX's profiler; 0 is none. The profile is written below `train`.
        embeddings_freq, embeddings_metadata: not supported; must be 0 and None.

    Raises:
        ImportError: the package tensorboardX is missing.
        ValueError: an argument out of its range.
    """

    _COUNTS = ("_batches", "_epoch_start_batches", "_epoch_iterations")

    def __init__(
        self,
        log_dir: str | Path = "logs",
        histogram_freq: Any = 0,
        write_graph: bool = True,
        write_images: bool = False,
        write_steps_per_second: bool = False,
        update_freq: Any = "epoch",
        profile_batch: Any = 0,
        embeddings_freq: Any = 0,
        embeddings_metadata: Any = None,
    ):
        _import_tensorboardX()
        if embeddings_freq or embeddings_metadata is not None:
            raise ValueError("embeddings_freq is not supported: expected 0, and embeddings_metadata=None.")
        if not _is_count(histogram_freq, least=0):
            raise ValueError(f"Expected histogram_freq to be an int >= 0, got {histogram_freq!r}.")
        if update_freq not in ("epoch", "batch") and not _is_count(update_freq, least=1):
            raise ValueError(f'Expected update_freq to be "epoch", "batch" or an int >= 1, got {update_freq!r}.')
        self.log_dir = str(log_dir)
        self.histogram_freq, self.update_freq = histogram_freq, update_freq
        self.write_graph, self.write_images = write_graph, write_images
        self.write_steps_per_second = write_steps_per_second
        self._every = 1 if update_freq == "batch" else 0 if update_freq == "epoch" else int(update_freq)
        self._first, self._last = _span(profile_batch)
        self._writers: dict[str, _EventFile] = {}
        self._begin_files()
        self._batches = self._epoch_start_batches = 0  # of training, since it began
        self._epoch_iterations = 0
        self._epoch_start = self._batch_start = 0.0
        self._trains = self._profiling = False
        # Only now: a hook that observes batches makes training run step by step.
        if self._every or self._last:
            self.on_train_batch_begin = self._begin_batch  # type: ignore[method-assign]
            self.on_train_batch_end = self._end_batch  # type: ignore[method-assign]

    # -- hooks

    def _begin_files(self) -> None:
        """From here on files of other names are written."""
        self._run, self._part = uuid.uuid4().hex[:8], 0
        self._sizes: dict[str, dict[str, int]] = {}  # of the files that a run that goes on has written before, by run

    def state_dict(self) -> dict[str, Any]:
        sizes = {run: dict(files) for run, files in self._sizes.items()}
        for run, writer in self._writers.items():
            sizes.setdefault(run, {})[writer.path.name] = writer.path.stat().st_size
        seconds = time.perf_counter() - self._epoch_start
        kept = {"run": self._run, "part": self._part, "sizes": sizes, "epoch_seconds": seconds}
        return {**kept, **{name: getattr(self, name) for name in self._COUNTS}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update({name: state[name] for name in self._COUNTS})
        self._epoch_start = time.perf_counter() - state["epoch_seconds"]
        self._run, self._part, self._sizes = state["run"], state["part"], {}
        if not re.fullmatch("[0-9a-f]{8}", self._run):  # it decides which files are cut
            raise ValueError(f"Expected eight hexadecimal digits that name files of TensorBoard, got {self._run!r}.")
        for path in Path(self.log_dir).glob(f"*/events.*.{self._run}.*"):
            size = state["sizes"].get(path.parent.name, {}).get(path.name)
            if size is None:  # begun behind the checkpoint
                path.unlink()
                continue
            if path.stat().st_size > size:
                os.truncate(path, size)
            self._sizes.setdefault(path.parent.name, {})[path.name] = size

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._batches, self._trains = 0, True
        self._begin_files()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch_start_batches, self._epoch_start = self._batches, time.perf_counter()
        self._epoch_iterations = self.model.optimizer.iterations

    def _begin_batch(self, batch: int, logs: Logs | None = None) -> None:
        self._batch_start = time.perf_counter()
        coming = self._epoch_start_batches + batch + 1
        if self._first and not self._profiling and self._batches < self._first <= coming <= self._last:
            jax.profiler.start_trace(str(Path(self.log_dir) / "train"))
            self._profiling = True

    def _end_batch(self, batch: int, logs: Logs | None = None) -> None:
        before, self._batches = self._batches, self._epoch_start_batches + batch + 1
        if self._profiling and self._batches >= self._last:
            self._end_profile()
        if self._every and self._batches // self._every > before // self._every:
            values = dict(logs or {})
            if self.write_steps_per_second:
                values["steps_per_second"] = (self._batches - before) / (time.perf_counter() - self._batch_start)
            self._write("train", {f"batch_{name}": value for name, value in values.items()}, self._batches)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs, optimizer = logs or {}, self.model.optimizer
        trained = {name: value for name, value in logs.items() if not name.startswith("val_")}
        rate = getattr(optimizer, "learning_rate", None)  # None: hidden in an Optax transformation
        if rate is not None:
            trained["learning_rate"] = rate
        if self.write_steps_per_second:
            steps = optimizer.iterations - self._epoch_iterations
            trained["steps_per_second"] = steps / (time.perf_counter() - self._epoch_start)
        self._write("train", {f"epoch_{name}": value for name, value in trained.items()}, epoch)
        validated = {name.removeprefix("val_"): value for name, value in logs.items() if name.startswith("val_")}
        self._write("validation", {f"epoch_{name}": value for name, value in validated.items()}, epoch)
        if self.histogram_freq and epoch % self.histogram_freq == 0:
            self._write_weights(epoch)

    def on_test_end(self, logs: Logs | None = None) -> None:
        iterations = self.model.optimizer.iterations
        values = {f"evaluation_{name}_vs_iterations": value for name, value in (logs or {}).items()}
        self._write("validation", values, iterations)
        if not self._trains:
            self._close()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._close()

    def on_exception(self, error: BaseException) -> None:
        self._close()

    # -- writing

    def _writer(self, run: str) -> _EventFile:
        """The file of a run; made at first use, so that no empty files appear."""
        if run not in self._writers:
            self._part += 1
            self._writers[run] = _EventFile(Path(self.log_dir) / run, f"{self._run}.{self._part:04d}")
        return self._writers[run]

    def _write(self, run: str, values: Logs, step: int) -> None:
        """Scalars of a run. Values that are no scalars are left out."""
        from tensorboardX import summary

        scalars = [summary.scalar(name, float(value)) for name, value in values.items() if np.ndim(value) == 0]
        if scalars:
            self._writer(run).add(scalars, step)

    def _write_weights(self, epoch: int) -> None:
        from tensorboardX import summary

        found = []
        for weight in tracked(self.model):
            name, values = f"{self.model.name}/{weight.path}", np.asarray(weight.variable.get_value())
            found.append(summary.histogram(f"{name}/histogram", values, _BINS))
            image = _image(values) if self.write_images else None
            if image is not None:
                found.append(summary.image(f"{name}/image", image, dataformats="NHWC"))
        self._writer("train").add(found, epoch)

    def _end_profile(self) -> None:
        self._profiling = False
        jax.profiler.stop_trace()

    def _close(self) -> None:
        self._trains = False
        if self._profiling:
            self._end_profile()
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


class _EventFile:
    """Events in a file of their own.

    tensorboardX's own writer puts them into a queue: what a process that is killed had there is lost.

    Args:
        folder: made where it is missing.
        name: the end of the file's name; files are read in the order of their names.
    """

    def __init__(self, folder: Path, name: str):
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{name}"
        self._records, self._event = RecordWriter(str(self.path)), Event
        self._put(file_version="brain.Event:2")
        self._records.flush()

    def _put(self, **event: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **event).SerializeToString())

    def add(self, summaries: list[Any], step: int) -> None:
        """Writes them, each at this step; they are on disk then."""
        for summary in summaries:
            self._put(step=step, summary=summary)
        self._records.flush()

    def close(self) -> None:
        """Nothing more will come."""
        self._records.close()


def _import_tensorboardX() -> None:
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise ImportError("TensorBoard needs the package tensorboardX: pip install 'epochal[tensorboard]'") from error


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= least


def _span(profile_batch: Any) -> tuple[int, int]:
    """First and last batch to profile, from 1; zeros for none."""
    span = (profile_batch, profile_batch) if _is_count(profile_batch, least=0) else profile_batch
    if (
        not isinstance(span, tuple | list)
        or len(span) != 2
        or not all(_is_count(b, least=0) for b in span)
        or span[1] < span[0]
    ):
        raise ValueError(f"Expected profile_batch to be an int >= 0 or (first, last), got {profile_batch!r}.")
    return int(span[0]), int(span[1])


def _image(weight: np.ndarray) -> np.ndarray | None:
    """A weight as grey images (n, height, width, 1), scaled to 0 … 1; None when it is no vector, matrix or kernel."""
    squeezed = weight.squeeze()
    if squeezed.ndim == 1:
        squeezed = squeezed[None]
    elif squeezed.ndim == 2 and squeezed.shape[0] > squeezed.shape[1]:
        squeezed = squeezed.T
    if squeezed.ndim not in (2, 3) or not squeezed.size:
        return None
    images = squeezed[None] if squeezed.ndim == 2 else np.moveaxis(squeezed, 2, 0)
    low, high = images.min(), images.max()
    return ((images - low) / max(high - low, 1e-12))[..., None]
