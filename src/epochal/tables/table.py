"""Columns and tables: what every source becomes, and the error for what a user can put right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from epochal.support.errors import InputError

Kind = Literal["number", "integer", "boolean", "text", "date", "other"]


@dataclass(frozen=True)
class Column:
    """One named column.

    Attributes:
        name: as the source calls it.
        kind: `number` and `integer`: floats, or integers if none is missing; `boolean`: float64 0 and 1; `date`:
            float64 days since 1970-01-01; missing values are NaN in all of these. `text`: objects, each a str or None.
            `other`: what cannot be a feature (lists, structs, times of day); its values are not looked at.
        values: (n,).
    """

    name: str
    kind: Kind
    values: np.ndarray

    def missing(self) -> np.ndarray:
        """Which values are missing: bool (n,). Infinite numbers count as missing."""
        if self.kind == "text":
            return np.fromiter((v is None for v in self.values), dtype=bool, count=len(self.values))
        if self.values.dtype.kind in "iub":
            return np.zeros(len(self.values), dtype=bool)
        return ~np.isfinite(self.values)

    def take(self, rows: np.ndarray) -> Column:
        """The column's values in `rows` (indices or a mask)."""
        return replace(self, values=self.values[rows])


@dataclass(frozen=True)
class Table:
    """Columns of equal length, with or without one array of more than two dimensions beside them (images, sequences).

    Attributes:
        source: how the user named it, for messages.
        columns: features and, if there is one, the target.
        array: (n, a, b, …) or None.
        target: the name of the target column where the source itself says which it is (bundled sets, `.npz`).
        notes: sentences about how the source was read that the user should see.
    """

    source: str
    columns: tuple[Column, ...]
    array: np.ndarray | None = None
    target: str | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.array) if self.array is not None else len(self.columns[0].values)

    @property
    def names(self) -> list[str]:
        """The columns' names, in order."""
        return [column.name for column in self.columns]

    def column(self, name: str) -> Column | None:
        """The column called `name`, or None."""
        return next((column for column in self.columns if column.name == name), None)

    def without(self, names: Iterable[str]) -> Table:
        """The same table with these columns left out."""
        gone = set(names)
        return replace(self, columns=tuple(column for column in self.columns if column.name not in gone))

    def take(self, rows: np.ndarray) -> Table:
        """The rows given (indices or a mask)."""
        array = None if self.array is None else self.array[rows]
        return replace(self, columns=tuple(column.take(rows) for column in self.columns), array=array)


def no_such(what: str, name: str, known: Iterable[str]) -> str:
    """One sentence: `what` 'name' is not there, and which known names are near it, or which there are."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"There is no {what} {name!r}; did you mean {' or '.join(repr(n) for n in near)}?"
    return f"There is no {what} {name!r}; there is {', '.join(names[:20])}{', …' if len(names) > 20 else ''}."


def column_of(name: str, values: np.ndarray) -> Column:
    """A one-dimensional NumPy array as a column; its kind by its dtype.

    Raises:
        InputError: a dtype that holds neither numbers, nor text, nor truth values, nor dates.
    """
    kind = values.dtype.kind
    if kind == "b":
        return Column(name, "boolean", values.astype(np.float64))
    if kind in "iu":
        return Column(name, "integer", values)
    if kind == "f":
        return Column(name, "number", values)
    if kind == "M":
        days = (values - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")
        return Column(name, "date", np.where(np.isnat(values), np.nan, days))
    if kind in "US":
        text = values.astype(str).astype(object)
        return Column(name, "text", text)
    raise InputError(f"{name!r} has dtype {values.dtype}, expected numbers, text, truth values or dates.")
