"""Which column is predicted, whether that is classification or regression, and the target as numbers and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from epochal.support.errors import InputError
from epochal.tables.table import Column, Table, no_such

Task = Literal["classification", "regression"]
_USUAL = ("target", "label", "y", "class")
_FEW = 20
_MANY = 1000


@dataclass(frozen=True)
class Target:
    """The target column as it was understood; everything needed to turn values to numbers and predictions back.

    Attributes:
        name: the column's name.
        task: what is learned.
        kind: the column's kind when it was fitted (`text`, `integer`, `number`, `boolean`).
        classes: the class labels in sorted order (str, int, float or bool), empty for regression.
        mean: of the training rows (regression).
        std: of the training rows (regression), never 0.
    """

    name: str
    task: Task
    kind: str
    classes: tuple[str | int | float | bool, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def outputs(self) -> int:
        """How many numbers the network gives for an example: one per class (softmax, also for two), or one value."""
        return len(self.classes) if self.task == "classification" else 1

    def encode(self, column: Column) -> np.ndarray:
        """The column as the network's target: class indices int32 (n,), or values float32 (n,) in their own units.

        Raises:
            InputError: missing values, a label that training did not see, or text where numbers are needed.
        """
        check_complete(column)
        if self.task == "regression":
            return _as_numbers(column).astype(np.float32)
        index = {_canonical(label): i for i, label in enumerate(self.classes)}
        labels = _labels(column)
        unseen = sorted({repr(label) for label in labels if _canonical(label) not in index})
        if unseen:
            shown = ", ".join(unseen[:3]) + (", …" if len(unseen) > 3 else "")
            known = ", ".join(repr(label) for label in self.classes[:10]) + (", …" if len(self.classes) > 10 else "")
            raise InputError(f"Target {column.name!r} holds {shown}, which is none of the classes trained on: {known}.")
        return np.array([index[_canonical(label)] for label in labels], dtype=np.int32)

    def to_json(self) -> dict[str, Any]:
        """Plain data; the inverse is `Target(**data)` with `classes` as a tuple."""
        return {
            "name": self.name,
            "task": self.task,
            "kind": self.kind,
            "classes": list(self.classes),
            "mean": self.mean,
            "std": self.std,
        }


def choose_target(table: Table, wanted: str | None) -> tuple[Column, str]:
    """The target column, and why it was chosen.

    `--target`, else what the source itself says, else a column called target, label, y or class, else the last one.

    Raises:
        InputError: no column of the wanted name, or no column at all.
    """
    if wanted is not None:
        column = table.column(wanted)
        if column is None:
            raise InputError(no_such(f"column in {table.source!r} called", wanted, table.names))
        return column, "chosen by --target"
    if table.target is not None:
        column = table.column(table.target)
        if column is not None:
            return column, "named by the source"
    for name in _USUAL:
        for column in table.columns:
            if column.name.strip().lower() == name:
                return column, "by its name"
    if not table.columns:
        raise InputError(f"{table.source!r} has no target.")
    return table.columns[-1], "the last column, since none is called target, label, y or class"


def check_complete(column: Column) -> None:
    """Raises `InputError` if any of the target's values is missing or infinite; says how many and the first row."""
    missing = column.missing()
    if missing.any():
        first = int(np.argmax(missing)) + 1
        raise InputError(
            f"Target {column.name!r} has no usable value (empty, NaN or infinite) in {int(missing.sum())} of "
            f"{len(missing)} rows, first in row {first}; remove these rows or fill them in."
        )


def detect_task(column: Column, wanted: Task | None) -> tuple[Task, str]:
    """Classification or regression, and the rule that said so.

    Text and truth values are classes. Whole numbers are classes when they look like labels: two distinct values; or at
    most 20 that lie close together (range at most 3 times their count), each seen 3 times on average; or at most 5 % of
    the rows and 1,000, without a gap from 0 or 1 on. Every other number is a quantity.

    Raises:
        InputError: a target that can be neither, or not the wanted one.
    """
    if column.kind in ("date", "other"):
        raise InputError(f"Target {column.name!r} is a {column.kind} column, expected numbers, text or truth values.")
    check_complete(column)
    if wanted == "regression":
        if column.kind == "text":
            example = next(iter(column.values))
            raise InputError(
                f"Target {column.name!r} is text where numbers are needed (the first value is {example!r}): "
                "leave out --task regression, or choose another --target."
            )
        return "regression", "by --task"
    if wanted == "classification":
        return "classification", "by --task"
    if column.kind in ("text", "boolean"):
        return "classification", f"the target is {'text' if column.kind == 'text' else 'true or false'}"
    return _detect_number(column)


def _detect_number(column: Column) -> tuple[Task, str]:
    values, n = column.values, len(column.values)
    distinct = np.unique(values)
    count = len(distinct)
    if not np.array_equal(distinct, np.round(distinct)):
        return "regression", "the target has values with a fraction"
    span = float(distinct[-1]) - float(distinct[0]) + 1
    found = f"{count} distinct whole numbers in {n} rows"
    if count <= 2:
        return "classification", f"the target has {count} distinct whole number{'s' * (count > 1)}"
    if count <= _FEW and span <= 3 * count and n >= 3 * count:
        return "classification", f"the target has {found}: at most {_FEW}, close together"
    if count <= min(0.05 * n, _MANY) and span == count and distinct[0] in (0, 1):
        return (
            "classification",
            f"the target has {found}: at most 5 % of the rows, without a gap from {int(distinct[0])} on",
        )
    return "regression", f"the target has {found}: too many or too far apart for classes"


def fit_target(column: Column, task: Task, training: np.ndarray | None = None) -> Target:
    """What is known of the target: its classes over all rows, or mean and spread over the `training` rows.

    Raises:
        InputError: one class or value only, more classes than the rows can teach.
    """
    check_complete(column)
    if task == "regression":
        values = _as_numbers(column)[training if training is not None else slice(None)]
        if float(values.max()) == float(values.min()):
            raise InputError(f"Target {column.name!r} has one value only ({values[0]:g}): there is nothing to learn.")
        return Target(column.name, task, column.kind, (), float(values.mean()), float(values.std()))
    classes = sorted(set(_labels(column)))
    if len(classes) < 2:
        raise InputError(f"Target {column.name!r} has one class only ({classes[0]!r}): there is nothing to tell apart.")
    if len(classes) > len(column.values) / 2:
        raise InputError(
            f"Target {column.name!r} has {len(classes)} distinct values in {len(column.values)} rows, too many for "
            "classes: choose another --target" + (" or --task regression." if column.kind != "text" else ".")
        )
    return Target(column.name, task, column.kind, tuple(classes))


def _as_numbers(column: Column) -> np.ndarray:
    if column.kind == "text":
        raise InputError(
            f"Target {column.name!r} is text where numbers are needed (the first value is {column.values[0]!r})."
        )
    return column.values.astype(np.float64)


def _labels(column: Column) -> list[Any]:
    """The values as Python labels: str, bool, int where whole, else float."""
    if column.kind == "text":
        return list(column.values)
    if column.kind == "boolean":
        return [bool(value) for value in column.values]
    return [int(value) if float(value).is_integer() else float(value) for value in column.values.tolist()]


def _canonical(label: str | int | float | bool) -> str:
    """What a label is compared by, so that 1, 1.0, True and "1" of differently typed files are the same class."""
    if isinstance(label, str):
        return {"true": "1", "false": "0"}.get(label.lower(), label)
    return f"{float(label):g}"
