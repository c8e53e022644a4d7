"""Targets and weights, one array per output; the weights of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import jax
import numpy as np

from epochal.data.examples import Examples
from epochal.losses.shapes import kind_by_shape
from epochal.support.types import Checked


def per_output(values: Any, names: Sequence[str], what: str) -> list[Any]:
    """Arrays per output from an array, a list or a dict by output name."""
    if isinstance(values, Mapping):
        unknown = [k for k in values if k not in names]
        if unknown:
            raise ValueError(f"Unknown output {unknown[0]!r} in {what}; the outputs are {list(names)}.")
        return [values.get(n) for n in names]
    if isinstance(values, list | tuple):
        if len(values) != len(names):
            raise ValueError(f"Expected {what} with one array per output ({list(names)}), got {len(values)} arrays.")
        return list(values)
    if len(names) == 1 or what == "sample_weight":
        return [values] * len(names)
    raise ValueError(f"Expected {what} with one array per output ({list(names)}), got one array.")


def with_class_weight(examples: Examples, class_weight: Checked, names: Sequence[str], outputs: Any) -> Examples:
    """The examples with their classes' weights multiplied into the sample weights.

    Args:
        examples: targets and weights as one array per output.
        class_weight: class -> weight; for several outputs a dict of these by output.
        names: of the outputs.
        outputs: shape and type of what the model returns.

    Raises:
        ValueError: not such a dict, or targets that are no classes.
    """
    if not isinstance(class_weight, Mapping):
        raise ValueError(f"Expected class_weight to be a dict of class -> weight, got {class_weight!r}.")
    by_output = class_weight
    if not class_weight or not all(isinstance(value, Mapping) for value in class_weight.values()):
        if len(names) > 1:
            raise ValueError(
                "A model with several outputs needs class_weight={output: {class: weight}} for some of its outputs "
                f"{list(names)}, got {class_weight!r}."
            )
        by_output = {names[0]: class_weight}
    if examples.y is None:
        raise ValueError("class_weight needs targets y.")
    for name in by_output:
        if name not in names:
            raise ValueError(f"Unknown output {name!r} in class_weight; the outputs are {list(names)}.")
    weights: list[Any] = list(examples.weight) if examples.weight is not None else [None] * len(names)
    for i, (name, spec) in enumerate(zip(names, jax.tree.leaves(outputs), strict=True)):
        if name in by_output and examples.y[i] is not None:
            one_hot = kind_by_shape(examples.y[i].shape, spec.shape) == "categorical"
            own = class_weights(examples.y[i], by_output[name], one_hot)
            weights[i] = own if weights[i] is None else product(own, weights[i])
    return Examples(examples.x, examples.y, weights, examples.n)


def class_weights(y: Any, class_weight: Mapping[Any, Any], one_hot: bool) -> np.ndarray:
    """One weight per label of y, by its class: the integer itself, or the largest entry of a one-hot row.

    Args:
        y: (n,), (n, 1) integers or (n, k) one-hot rows; (n, t), (n, t, 1) and (n, t, k) for sequences.
        class_weight: class -> weight; classes that are missing weigh 1.
        one_hot: whether the last axis of y holds one-hot rows.

    Raises:
        ValueError: a key that is not an integer, or targets that are not classes.
    """
    for key, value in class_weight.items():
        if isinstance(key, bool) or not isinstance(key, int | np.integer):
            raise ValueError(f"Expected integers as keys of class_weight, got {key!r}.")
        if not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"Expected finite numbers as values of class_weight, got {value!r} for class {key}.")
    labels = np.asarray(y)
    if one_hot:
        labels = labels.argmax(-1)
    elif labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if not np.array_equal(labels, np.round(labels)):
        raise ValueError("class_weight needs classes in y (integers or one-hot rows), got other numbers.")
    weights = np.ones(labels.shape, np.float32)
    for key, value in class_weight.items():
        weights[labels == key] = value
    return weights


def product(a: Any, b: Any) -> np.ndarray:
    """Two arrays of weights multiplied, aligned from the left: (n, t) times (n,) is (n, t)."""
    a, b = np.asarray(a), np.asarray(b)
    rank = max(a.ndim, b.ndim)
    a, b = (w.reshape(*w.shape, *[1] * (rank - w.ndim)) for w in (a, b))
    return a * b
