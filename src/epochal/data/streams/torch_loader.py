"""torch's `DataLoader`, torchdata's `StatefulDataLoader`, and loaders written like them."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_TENSOR = "torch.Tensor"
_SAMPLER = "_sampler_iter_state"  # of a state of torchdata's, without workers


def is_loader(x: Any) -> bool:
    """Whether `x` is written like torch's `DataLoader`."""
    return hasattr(x, "batch_sampler") and hasattr(x, "dataset")


class Loader:
    """A loader whose batches are tuples where the examples were; torch makes lists of them.

    What it gives depends on random numbers as well: on its own generator and its samplers', and where these are None on
    the global ones. `random_state` has them all, so that a pass can be begun again, and those behind it come as they
    would have.
    """

    def __init__(self, loader: Any):
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        return (tuple(batch) if isinstance(batch, list) else batch for batch in iter(self._loader))

    @property
    def name(self) -> str:
        """For messages."""
        return type(self._loader).__name__

    def state_dict(self) -> Any:
        """Where its pass is, as data; None where it does not say, or does not go on exactly by what it says.

        torchdata's (0.11, `benchmarks/torchdata_state.py`) are not exact where a sampler draws several times in a pass
        from the loader's generator, and, broken off twice, where neither an iterable dataset nor its iterator has a
        state; a `batch_sampler` without a state is begun again when the next batch is asked for, with the random
        numbers of then. There it skips what is through as well, so that nothing is lost.
        """
        loader = self._loader
        if not (hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")) or self._draws_again():
            return None
        state = loader.state_dict()
        lacking = not _of_dataset(state) if self._is_iterable() else state.get(_SAMPLER, state) is None
        return None if lacking else _as_data(state)

    def load_state_dict(self, state: Any) -> None:
        """The next pass goes on where `state_dict` was asked for."""
        self._loader.load_state_dict(_as_given(state))

    def begin_anew(self) -> None:
        """The next pass is begun as the first one was: persistent workers have been asked for none yet."""
        if getattr(self._loader, "persistent_workers", False):
            self._loader._iterator = None

    def _draws_again(self) -> bool:
        """Whether a pass takes random numbers more than once from a generator that serves the loader as well."""
        loader, sampler = self._loader, getattr(self._loader, "sampler", None)
        shared = getattr(loader, "generator", None)
        if shared is None or sampler is None or getattr(sampler, "generator", None) is not shared:
            return False
        return sampler.replacement or sampler.num_samples > len(sampler.data_source)

    def _is_iterable(self) -> bool:
        torch = sys.modules.get("torch.utils.data")
        return torch is not None and isinstance(self._loader.dataset, torch.IterableDataset)

    def random_state(self) -> dict[str, Any]:
        """Where the random numbers are that may decide what it gives, as data."""
        torch = sys.modules.get("torch")
        return {
            "python": random.getstate(),
            "numpy": np.random.get_state(legacy=False),  # noqa: NPY002  (what a dataset may draw from)
            "torch": None if torch is None else _as_data(torch.get_rng_state()),
            "generators": [_as_data(generator.get_state()) for generator in self._generators()],
        }

    def set_random_state(self, state: dict[str, Any]) -> None:
        """Takes them back to where `random_state` saw them."""
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])  # noqa: NPY002
        torch = sys.modules.get("torch")
        if torch is not None and state["torch"] is not None:
            torch.set_rng_state(_as_given(state["torch"]))
        for generator, kept in zip(self._generators(), state["generators"], strict=True):
            generator.set_state(_as_given(kept))

    def _generators(self) -> list[Any]:
        """Its own and its samplers'."""
        batches = self._loader.batch_sampler
        owners = (self._loader, getattr(self._loader, "sampler", None), batches, getattr(batches, "sampler", None))
        found = [getattr(owner, "generator", None) for owner in owners]
        return list({id(generator): generator for generator in found if hasattr(generator, "set_state")}.values())


def _of_dataset(state: Any) -> bool:
    """Whether a state of torchdata's holds one of the dataset or its iterator."""
    if not isinstance(state, Mapping):
        return False
    own = any(state.get(name) is not None for name in ("dataset_state", "dataset_iter_state"))
    return own or any(_of_dataset(value) for value in state.values())


def _as_data(value: Any) -> Any:
    """A copy, with NumPy's arrays for tensors: what it was taken from may change."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return {_TENSOR: value.detach().cpu().numpy().copy()}
    if isinstance(value, Mapping):
        return {key: _as_data(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_as_data(inner) for inner in value])
    return value.copy() if isinstance(value, np.ndarray) else value


def _as_given(value: Any) -> Any:
    """With tensors again."""
    if isinstance(value, Mapping):
        if set(value) == {_TENSOR}:
            return sys.modules["torch"].from_numpy(np.array(value[_TENSOR]))
        return {key: _as_given(inner) for key, inner in value.items()}
    return type(value)([_as_given(inner) for inner in value]) if isinstance(value, list | tuple) else value
