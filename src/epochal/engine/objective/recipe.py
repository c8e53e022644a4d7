"""What `compile` was given, and its forms (one, a list, a dict) brought to one entry per output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from epochal import losses, metrics


@dataclass(frozen=True)
class Recipe:
    """What `compile` was given, before the outputs are known."""

    loss: Any = None
    metrics: Any = None
    loss_weights: Any = None
    weighted_metrics: Any = None

    def check_names(self) -> None:
        """Raises ValueError for a name of a loss or metric that does not exist, with the nearest ones."""
        for leaf in _leaves(self.loss):
            losses.get(leaf)
        for leaf in [*_leaves(self.metrics), *_leaves(self.weighted_metrics)]:
            if leaf is not None and leaf not in ("accuracy", "acc", "ce", "crossentropy"):
                metrics.get(leaf)


def per_output_losses(given: Any, names: Sequence[str]) -> list[Any]:
    """One loss (or None) per output, from one loss, a list or a dict.

    Raises:
        ValueError: a list of another length, or a key that is no output.
    """
    if isinstance(given, Mapping):
        _check_keys(given, names, "loss")
        return [given.get(name) for name in names]
    if isinstance(given, list | tuple):
        if len(given) != len(names):
            raise ValueError(f"Expected one loss per output ({len(names)}: {list(names)}), got {len(given)}.")
        return list(given)
    return [given] * len(names)


def per_output_metrics(given: Any, names: Sequence[str], what: str = "metrics") -> list[list[Any]]:
    """A list of metrics per output, from a metric, a list, or a dict.

    Raises:
        ValueError: several outputs and a list that has not one entry per output, or a key that is no output.
    """
    if given is None:
        return [[] for _ in names]
    if isinstance(given, Mapping):
        _check_keys(given, names, what)
        return [_listed(given.get(name)) for name in names]
    if len(names) == 1:
        items = _listed(given)
        return [_listed(items[0]) if len(items) == 1 and isinstance(items[0], list | tuple) else items]
    if not isinstance(given, list | tuple) or len(given) != len(names):
        got = f"{len(given)} entries" if isinstance(given, list | tuple) else repr(given)
        raise ValueError(f"Expected {what} with one entry per output ({len(names)}: {list(names)}), got {got}.")
    return [_listed(item) for item in given]


def per_output_weights(given: Any, names: Sequence[str]) -> list[float]:
    if given is None:
        return [1.0] * len(names)
    if isinstance(given, Mapping):
        _check_keys(given, names, "loss_weights")
        return [_as_weight(given.get(name, 1.0)) for name in names]
    if isinstance(given, list | tuple):
        if len(given) != len(names):
            raise ValueError(f"Expected one loss weight per output ({len(names)}: {list(names)}), got {len(given)}.")
        return [_as_weight(w) for w in given]
    return [_as_weight(given)] * len(names)


def _as_weight(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, Real):
        raise ValueError(f"Expected loss_weights as a number, or numbers in a list or a dict by output, got {given!r}.")
    return float(given)


def _check_keys(given: Mapping, names: Sequence[str], what: str) -> None:
    for key in given:
        if key not in names:
            raise ValueError(f"Unknown output {key!r} in {what}; the outputs are {list(names)}.")


def _listed(item: Any) -> list[Any]:
    items = item if isinstance(item, list | tuple) else [item]
    return [i for i in items if i is not None]


def _leaves(form: Any) -> list[Any]:
    if isinstance(form, Mapping):
        return [leaf for v in form.values() for leaf in _leaves(v)]
    if isinstance(form, list | tuple):
        return [leaf for v in form for leaf in _leaves(v)]
    return [form]
