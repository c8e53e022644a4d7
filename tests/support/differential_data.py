"""The data of a case of the differential suite, all made of the digits, in the forms that `fit` takes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from support.data import digits
from support.differential_cases import CLASSES, HELD_OUT, ROWS, SPLIT, STEPS, TOKENS, VALIDATION_BATCHES, Case, in_form

CLASS_WEIGHT = {0: 2.0, 1: 0.5, 2: 1.5}
LENGTH = 8  # of a sequence


def inputs(family: str, n: int) -> list[np.ndarray]:
    """One array per input."""
    x = digits(n)[0]
    if family == "two_inputs":
        return [x[:, :32], x[:, 32:]]
    if family in TOKENS:
        return [np.round(x.reshape(-1, 8, 8).sum(1)).astype(np.int32)]  # a column's darkness; 0 at the sides
    shape = {"cnn": (8, 8, 1), "steps": (8, 8)}.get(family, (64,))
    return [x.reshape(-1, *shape)]


def target(head: str, per_step: bool, n: int) -> np.ndarray:
    """What to predict: of an image, or of each of its columns."""
    x, label = digits(n)
    columns = x.reshape(-1, 8, 8).swapaxes(1, 2)
    thirds = np.stack([columns[..., :3], columns[..., 2:5], columns[..., 5:]]).sum(-1)
    classes = thirds.argmax(0) if per_step else label
    if head == "one_hot":
        return np.eye(3 if per_step else CLASSES, dtype=np.float32)[classes]
    number = columns.std(-1) if per_step else x[:, ::3].mean(-1)
    values = {"sparse": classes.astype(np.int32), "number": number, "binary": (classes % 2).astype(np.int32)}
    y = values[head.removesuffix("_column")]
    return y[..., None] if head.endswith("_column") else y


def class_weights(head: str, y: np.ndarray) -> np.ndarray:
    """The weights of the classes in y, written out, (n,) or (n, t); numbers have no classes."""
    labels = y.argmax(-1) if head == "one_hot" else y[..., 0] if head.endswith("_column") else y
    if head.startswith("number"):
        return np.ones(labels.shape, np.float32)
    return np.vectorize(lambda label: CLASS_WEIGHT.get(int(label), 1.0))(labels).astype(np.float32)


def given_class_weight(case: Case) -> Any:
    """Weights of classes as a user gives them: by output where there are several."""
    if not case.several:
        return CLASS_WEIGHT
    return {n: CLASS_WEIGHT for n, h in zip(case.names, case.heads, strict=True) if not h.startswith("number")}


def sample_weights(case: Case) -> list[np.ndarray] | None:
    """Weights per output, as the user has them."""
    if case.weight is None:
        return None
    draws = np.random.default_rng(0)
    shape = {"rows": (), "column": (1,), "steps": (LENGTH,), "steps_column": (LENGTH, 1)}[case.weight]
    made = [draws.uniform(0.1, 3.0, (ROWS, *shape)).astype(np.float32) for _ in case.heads]
    made = [made[0]] * len(made) if case.weight_form == "one" or case.alike else made
    return [np.broadcast_to(w.reshape(ROWS, -1), (ROWS, LENGTH)) for w in made] if case.per_step else made


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) or (n, t) times (n,), (n, 1), (n, t) or (n, t, 1)."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return (a * b)[:, 0] if max(a.shape[1], b.shape[1]) == 1 else a * b


class Plain:
    """A dataset that can be gone over again and again, and no more."""

    def __init__(self, batches: list[Any]):
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)


def dataset(k: Any, batches: list[Any]) -> Any:
    """The batches as a PyDataset."""

    class Batches(k.utils.PyDataset):
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> Any:
            return batches[index]

    return Batches()


def in_batches(k: Any, kind: str, batches: list[Any], start: int = 0) -> Any:
    """Batches as data of a kind; an endless generator starts with batch number `start`."""
    if kind == "dataset":
        return dataset(k, batches)
    if kind == "iterable":
        return Plain(batches)
    endless = itertools.islice(itertools.cycle(batches), start, None)
    return (batch for batch in (batches if kind == "dry" else endless))


class Validating(keras.callbacks.Callback):
    """Validation by hand: epoch -> the batches to evaluate; the others get no values."""

    def __init__(self, due: dict[int, list[Any]]):
        super().__init__()
        self._due = due

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch in self._due:
            values = self.model.evaluate(dataset(keras, self._due[epoch]), verbose=0, return_dict=True)
            logs.update({f"val_{name}": value for name, value in values.items()})


@dataclass
class Data:
    """A case's data in its forms."""

    case: Case
    x: list[np.ndarray]
    y: list[np.ndarray]
    weight: list[np.ndarray] | None
    training_weight: list[np.ndarray] | None

    @classmethod
    def of(cls, case: Case) -> Data:
        """The data of a case."""
        y = [target(h, case.family in STEPS, ROWS) for h in case.heads]
        weight = sample_weights(case)
        training = weight
        if case.folded:
            training = [class_weights(h, t) for h, t in zip(case.heads, y, strict=True)]
            training = training if weight is None else list(map(product, training, weight))
        return cls(case, inputs(case.family, ROWS), y, weight, training)

    def rows(self, start: int, stop: int, weight: list[np.ndarray] | None) -> tuple[Any, ...]:
        """x, y and, where there is one, the weight of some of the examples."""
        case = self.case
        x = in_form([a[start:stop] for a in self.x], case.inputs, ("left", "right"))
        y = in_form([a[start:stop] for a in self.y], case.targets, case.names)
        if weight is None:
            return x, y
        return x, y, in_form([w[start:stop] for w in weight], case.weight_form, case.names)

    def batches(self, size: int, stop: int, weight: list[np.ndarray] | None) -> list[Any]:
        """The same, cut."""
        return [self.rows(i, min(i + size, stop), weight) for i in range(0, stop, size)]

    def training(self, k: Any) -> dict[str, Any]:
        """What `fit` is given to train on."""
        case, weight = self.case, self.training_weight
        given: dict[str, Any] = {}
        if case.class_weight and not case.folded:
            given["class_weight"] = given_class_weight(case)
        if case.source == "arrays":
            stop = ROWS if self._splits else case.training_rows
            names = ("x", "y", "sample_weight")
            return {
                **given,
                **dict(zip(names, self.rows(0, stop, weight), strict=False)),
                "batch_size": case.batch_size,
            }
        batches = self.batches(case.batch_size, case.training_rows, weight)
        return {**given, "x": in_batches(k, case.source, batches, case.start)}

    @property
    def _splits(self) -> bool:
        """Whether `fit` splits the arrays; weights that are written out belong to training alone."""
        return self.case.validation == "split" and self.case.source == "arrays" and not self.case.folded

    def validation(self, k: Any) -> dict[str, Any]:
        """What `fit` is given to validate on."""
        case, weight = self.case, self.weight
        if case.validation == "none":
            return {}
        batches = self.batches(16, 24, weight)
        if case.by_hand:
            due = case.validations()
            return {"callbacks": [Validating({e: [batches[i % len(batches)] for i in r] for e, r in due.items() if r})]}
        common = {"validation_freq": case.validation_freq, "validation_steps": case.validation_steps}
        if case.validation in ("split", "arrays", "weighted"):
            common["validation_batch_size"] = case.validation_batch_size
            if self._splits:
                return {"validation_split": SPLIT, **common}
            weight = None if case.validation == "arrays" else weight
            return {"validation_data": self.rows(ROWS - HELD_OUT, ROWS, weight), **common}
        assert len(batches) == VALIDATION_BATCHES
        return {"validation_data": in_batches(k, case.validation, batches), **common}
