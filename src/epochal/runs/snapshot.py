"""What is kept of a run: as values, and put back."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epochal.data.feeds.feed import Feed
from epochal.data.order import ALGORITHM
from epochal.engine.hooks import Hooks
from epochal.engine.moment import Mark
from epochal.engine.objective.tally import Entry, Tally
from epochal.engine.programs import Programs
from epochal.random import seed_state, set_seed_state
from epochal.runs.checkpoint_file import Checkpoint
from epochal.runtime.host_copies import placed_like, plain_data, to_host
from epochal.support.warn import warn


@dataclass
class Run:
    """What a checkpoint keeps of a fit.

    Attributes:
        model: carries `stop_training`.
        programs: the model's, with the optimizer.
        callbacks: all of them.
        feed, held: the data to train and to validate on.
        seed: of the order of the data and of the masks.
        entries: what callbacks ask to be carried along in the tally.
    """

    model: Any
    programs: Programs
    callbacks: Hooks
    feed: Feed
    held: Feed | None
    seed: int
    entries: Sequence[Entry] = ()

    def kept(self, mark: Mark) -> dict[str, Any]:
        """All of it on the host, as data. Waits for the device."""
        params, buffers = self.programs.parts.collect()
        optimizer = self._optimizer
        return {
            **self._identity(),
            "environment": environment(),
            "seed": self.seed,
            "seed_state": seed_state(),
            "epoch": mark.epoch,
            "batch": mark.batch,
            "place": mark.place,
            "held": None if self.held is None else self.held.place(0, 0),
            "within": mark.within,
            "trained": mark.trained,
            "logs": mark.logs,
            "tally": None if mark.tally is None else _by_name(mark.tally),
            "labels": self.programs.train.report.labels,
            "stop": self.model.stop_training,
            "params": [to_host(a) for a in params],
            "buffers": [to_host(a) for a in buffers],
            "optimizer": [to_host(a) for a in jax.tree.leaves(optimizer.state)],
            "learning_rate": None if optimizer.scheduled else optimizer.learning_rate,
            "callbacks": [[type(c).__name__, _copied(c.state_dict())] for c in self.callbacks.callbacks],
        }

    @property
    def _optimizer(self) -> Any:
        return self.programs.optimizer

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        params, buffers = self.programs.parts.collect()
        state = jax.tree_util.tree_flatten_with_path(self._optimizer.state)[0]
        return {
            "weights": [_described(a) for a in params],  # not by name: a model made again has new names for its layers
            "other arrays of the model": [_described(a) for a in buffers],
            "optimizer's state": [[jax.tree_util.keystr(path), *_described(a)] for path, a in state],
            "order of the data": ALGORITHM,
            **self._data,
        }

    @functools.cached_property
    def _data(self) -> dict[str, Any]:
        held = None if self.held is None else self.held.fingerprint()
        return {"training data": self.feed.fingerprint(), "validation data": held}

    def check(self, saved: Checkpoint) -> None:
        """Raises ValueError where the run is not the one that was kept; warns where only its bits may differ."""
        content = saved.content
        for what, now in self._identity().items():
            before = content[what]
            if _plain(before) != _plain(now):
                raise ValueError(
                    f"The run in {saved.path.parent} cannot go on, its {what} differ: {_difference(before, now)}. "
                    "Go on with what it was begun with, or delete the folder to start again."
                )
        params, buffers = self.programs.parts.collect()
        arrays = {"params": params, "buffers": buffers, "optimizer": jax.tree.leaves(self._optimizer.state)}
        for name, now in arrays.items():
            if [_described(a) for a in content[name]] != [_described(plain_data(a)) for a in now]:
                raise ValueError(f"Checkpoint {saved.path} is damaged: its {name} are not of the shapes that it tells.")
        here = environment()
        changed = [
            f"{name} {before} → {here.get(name)}"
            for name, before in content["environment"].items()
            if before != here.get(name)
        ]
        if changed:
            warn(
                f"The run in {saved.path.parent} goes on in another environment ({'; '.join(changed)}): results need "
                "not be those of an uninterrupted run to the last bit.",
            )

    def put_back(self, content: dict[str, Any]) -> None:
        """Makes everything but the data what it was."""
        parts, optimizer = self.programs.parts, self._optimizer
        params, buffers = parts.collect()
        parts.publish(placed_like(content["params"], params), placed_like(content["buffers"], buffers))
        if content["learning_rate"] is not None:
            optimizer.learning_rate = content["learning_rate"]
        leaves, structure = jax.tree.flatten(optimizer.state)
        optimizer.state = jax.tree.unflatten(structure, placed_like(content["optimizer"], leaves))
        set_seed_state(content["seed_state"])
        states = [tuple(pair) for pair in content["callbacks"]]
        for callback in self.callbacks.callbacks:
            found = next((s for s in states if s[0] == type(callback).__name__), None)
            if found is not None:
                states.remove(found)
                callback.load_state_dict(found[1])


class Saved:
    """What a run goes on from.

    Args:
        run: the run.
        checkpoint: as it was read.

    Attributes:
        mark: the moment at which it was kept.
        stop: whether a callback had ended the training.

    Raises:
        ValueError: it is another run's.
    """

    def __init__(self, run: Run, checkpoint: Checkpoint):
        with _usable(checkpoint):
            run.check(checkpoint)
        self._run, self._checkpoint, self._content = run, checkpoint, checkpoint.content
        content, tally = checkpoint.content, None
        if content["tally"] is not None:
            with _usable(checkpoint):
                tally = self._tally()
        kept: dict[str, Any] = {f.name: content[f.name] for f in fields(Mark)}
        self.mark = Mark(**{**kept, "tally": tally})
        self.stop: bool = checkpoint.content["stop"]

    def _tally(self) -> Tally:
        """The tally as it was kept, by the names of its entries; before 0.2 it was a list of arrays."""
        found, step = self._content["tally"], self._run.programs.train.step
        if step.custom.step is not None and not step.means.labels:
            step.logs({label: np.zeros(()) for label in self._content["labels"]})
        start = step.report.start
        if isinstance(found, list):
            found = _named(found, start)
        sums, states = jnp.array(found["sums"]), jax.tree.leaves(start.states)
        if (not step.eager and np.shape(sums) != start.sums.shape) or len(found["states"]) != len(states):
            raise TypeError("the metrics so far are not those of this run")
        states = jax.tree.unflatten(jax.tree.structure(start.states), [jnp.array(a) for a in found["states"]])
        return Tally(sums, states, self._entries(found["entries"]))

    def _entries(self, found: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """The entries that the run has now, with the values that were kept of them.

        What is done about updates that are not finite may have changed since.
        """
        values: dict[str, Any] = {}
        own = self._run.programs.train.step.skipped
        for entry in [*([] if own is None else [own]), *self._run.entries]:
            fresh = entry.start(self._content["batch"])
            leaves, structure = jax.tree.flatten(fresh)
            kept = [jnp.array(a) for a in found.get(entry.name, ())]
            if [np.shape(a) for a in kept] == [np.shape(a) for a in leaves]:
                values[entry.name] = jax.tree.unflatten(structure, kept)
            elif not entry.sampled:
                values[entry.name] = fresh
        return values

    def seek(self) -> None:
        """Takes the data to where it was."""
        with _usable(self._checkpoint):
            if self._run.held is not None:
                self._run.held.seek(self._content["held"])
            self._run.feed.seek(self._content["place"])  # last: of random numbers that both draw, its place counts

    def put_back(self) -> None:
        """Makes everything but the data what it was."""
        self._run.put_back(self._content)
        self._run.model.stop_training = self.stop


def _by_name(tally: Tally) -> dict[str, Any]:
    """A tally on the host, each part under its name."""
    entries = {name: [to_host(a) for a in jax.tree.leaves(value)] for name, value in tally.entries.items()}
    states = [to_host(a) for a in jax.tree.leaves(tally.states)]
    return {"sums": to_host(tally.sums), "states": states, "entries": entries}


def _named(leaves: Sequence[Any], start: Tally) -> dict[str, Any]:
    """The same of a tally that was kept as a list: sums, states, four arrays of skipped updates, the noise."""
    count = 1 + len(jax.tree.leaves(start.states))
    if len(leaves) < count:
        raise TypeError(f"expected {count} arrays of metrics so far, got {len(leaves)}")
    noted = list(leaves[count:])
    noise = [noted.pop()] if len(noted) % 4 else []
    entries = {"skipped": noted, "noise": noise}
    return {"sums": leaves[0], "states": leaves[1:count], "entries": {n: v for n, v in entries.items() if v}}


def environment() -> dict[str, Any]:
    """What decides the bits of a result besides the program."""
    device = jax.devices()[0]
    return {
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "epochal": version("epochal"),
        "machine": platform.machine(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


# What a checkpoint of a run holds besides what must be the same for it to go on, and of what kind it is.
_KEPT: dict[str, Any] = {
    **dict.fromkeys(("seed", "epoch", "batch"), int),
    **dict.fromkeys(("within", "trained", "stop"), bool),
    **dict.fromkeys(("environment", "place"), dict),
    **dict.fromkeys(("params", "buffers", "optimizer", "callbacks", "labels"), list),
    **dict.fromkeys(("tally",), dict | list | None),
    **dict.fromkeys(("logs", "held"), dict | None),
    **dict.fromkeys(("seed_state", "learning_rate"), object),
}


def check_kept(checkpoint: Checkpoint) -> None:
    """Raises ValueError where a checkpoint can be read, but is none of a run."""
    kept = checkpoint.content
    identity = ("weights", "other arrays of the model", "optimizer's state", "order of the data", "training data")
    lacking = [name for name in (*identity, "validation data") if name not in kept]
    lacking += [name for name, kind in _KEPT.items() if name not in kept or not isinstance(kept[name], kind)]
    if lacking:
        raise ValueError(
            f"Checkpoint {checkpoint.path} holds no run of this epochal: {', '.join(map(repr, lacking))} is not in it, "
            "or of another kind. Go on from another folder, or delete this one to start again."
        )


@contextlib.contextmanager
def _usable(checkpoint: Checkpoint) -> Iterator[None]:
    """What is wrong inside a checkpoint that fits from outside is said as a ValueError about it."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"Checkpoint {checkpoint.path} cannot be used: {type(error).__name__}: {error}") from error


def _copied(state: Any) -> Any:
    """A state whose lists and dicts do not change any more while it is written."""
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_copied(value) for value in state)
    return to_host(state) if isinstance(state, jax.Array | np.ndarray) else state


def _described(array: Any) -> list[Any]:
    return [list(np.shape(array)), str(array.dtype)]


def _plain(value: Any) -> Any:
    """With lists for tuples, as JSON gives it back."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _difference(before: Any, now: Any) -> str:
    """The first thing that differs, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            if _plain(before.get(key)) != _plain(now.get(key)):
                return f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
    if isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return f"there were {len(before)}, there are {len(now)}"
        for a, b in zip(before, now, strict=True):
            if _plain(a) != _plain(b):
                return f"was {a}, is {b}"
    return f"was {before!r}, is {now!r}"
