"""Features as numbers: one encoder per column, fitted on training rows, written down as plain JSON."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from epochal.support.errors import InputError
from epochal.tables.table import Column

MAX_CATEGORIES = 50
_ID_NAME = re.compile(r"(^|[_\W])(id|index|idx|uuid|guid|rowid|row|rownum)$|^unnamed|^$|^column_1$", re.IGNORECASE)


@dataclass(frozen=True)
class Number:
    """A number: missing -> the median, then standardised; with an indicator beside it if training rows missed any.

    Attributes:
        name: the column.
        kind: `number`, or `date` for days since 1970-01-01.
        median: of the training rows' values.
        mean: after the medians are filled in.
        std: after the medians are filled in, never 0.
        indicator: whether a second feature says "was missing".
    """

    name: str
    kind: str
    median: float
    mean: float
    std: float
    indicator: bool

    def features(self) -> list[str]:
        """Names of what `encode` gives."""
        return [self.name] + [f"{self.name} is missing"] * self.indicator

    def encode(self, column: Column) -> np.ndarray:
        """float32 (n, 1 or 2)."""
        values, missing = numbers_of(column, self.kind == "date")
        scaled = (np.where(missing, self.median, values) - self.mean) / self.std
        return _beside(scaled, missing, self.indicator)


@dataclass(frozen=True)
class Boolean:
    """True is 1, false is 0, missing is what most training rows have."""

    name: str
    usual: float
    indicator: bool
    kind: ClassVar[str] = "boolean"

    def features(self) -> list[str]:
        """Names of what `encode` gives."""
        return [self.name] + [f"{self.name} is missing"] * self.indicator

    def encode(self, column: Column) -> np.ndarray:
        """float32 (n, 1 or 2)."""
        if column.kind == "text":
            known = {"true": 1.0, "yes": 1.0, "1": 1.0, "false": 0.0, "no": 0.0, "0": 0.0}
            column = Column(column.name, "text", _mapped(column, known))
        values, missing = numbers_of(column, False)
        return _beside(np.where(missing, self.usual, values), missing, self.indicator)


@dataclass(frozen=True)
class Category:
    """One-hot over the categories of the training rows, most frequent first, and a last slot for every other value.

    A missing value is a category of its own (None) if training rows had any, else it goes to the last slot.
    """

    name: str
    categories: tuple[str | None, ...]
    kind: ClassVar[str] = "category"

    def features(self) -> list[str]:
        """Names of what `encode` gives."""
        shown = ["missing" if value is None else value for value in self.categories]
        return [f"{self.name} = {value}" for value in shown] + [f"{self.name} = other"]

    def encode(self, column: Column) -> np.ndarray:
        """float32 (n, categories + 1)."""
        slot = {value: i for i, value in enumerate(self.categories)}
        other = len(self.categories)
        chosen = np.array([slot.get(value, other) for value in texts_of(column)], dtype=np.int64)
        return np.eye(other + 1, dtype=np.float32)[chosen]


Encoder = Number | Boolean | Category
_KINDS: dict[str, Any] = {"number": Number, "date": Number, "boolean": Boolean, "category": Category}


def encoder_to_json(encoder: Encoder) -> dict[str, Any]:
    """Plain data."""
    return {"kind": encoder.kind, **asdict(encoder)}


def encoder_from_json(data: dict[str, Any]) -> Encoder:
    """The inverse of `encoder_to_json`.

    Raises:
        KeyError, TypeError: data of another form.
    """
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    kind = str(data["kind"])
    if kind not in ("number", "date"):
        del fields["kind"]
    return _KINDS[kind](**fields)


def fit_encoder(column: Column, categorical: bool = False) -> Encoder | str:
    """The encoder for a column, fitted on the rows it holds (training rows), or the reason why it is left out.

    Args:
        column: values of the training rows.
        categorical: treat the values as names even if they are numbers.
    """
    if column.kind == "other":
        return "neither numbers, text, truth values nor dates"
    missing = column.missing()
    if missing.all():
        return "no values"
    if column.kind == "text" or categorical:
        return _fit_category(column)
    values = column.values.astype(np.float64)
    seen = values[~missing]
    if float(seen.min()) == float(seen.max()) and not missing.any():
        return f"always {seen[0]:g}"
    if column.kind == "boolean":
        return Boolean(column.name, float(seen.mean() >= 0.5), bool(missing.any()))
    median = float(np.median(seen))
    filled = np.where(missing, median, values)
    std = float(filled.std())
    kind = "date" if column.kind == "date" else "number"
    return Number(column.name, kind, median, float(filled.mean()), std if std > 0 else 1.0, bool(missing.any()))


def looks_like_id(column: Column) -> bool:
    """Whether the column only numbers or names its rows: an id-like name and no value twice."""
    if column.kind not in ("integer", "text") or not _ID_NAME.search(column.name):
        return False
    return len(set(column.values.tolist())) == len(column.values)


def _fit_category(column: Column) -> Encoder | str:
    texts = texts_of(column)
    counts = Counter(texts)
    n, distinct = len(texts), len(counts)
    if distinct == 1:
        return f"always {texts[0]!r}"
    if distinct == n or (distinct > n / 2 and distinct > 20):
        return f"{distinct} distinct texts in {n} training rows, nearly all of them different"
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0] is not None, item[0] or ""))[:MAX_CATEGORIES]
    if sum(count for _, count in ranked) < n / 2:
        return (
            f"{distinct} distinct texts, of which the {MAX_CATEGORIES} most frequent cover less than half of the rows"
        )
    return Category(column.name, tuple(value for value, _ in ranked))


def check_unmixed(column: Column) -> None:
    """Raises `InputError` if at least half of a text column's values are numbers, but not all: a slip, not names.

    A text column whose values all are numbers was made so on purpose (by a typed format): its values are names.
    """
    if column.kind != "text":
        return
    rows = [row for row, value in enumerate(column.values) if value is not None]
    bad = [row for row in rows if _number(column.values[row]) is None]
    if bad and 2 * len(bad) <= len(rows):
        raise InputError(
            f"Column {column.name!r} has text where numbers are needed: {column.values[bad[0]]!r} in row {bad[0] + 1}; "
            f"correct it or leave it empty, or say --categorical {column.name} or --drop {column.name}."
        )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def numbers_of(column: Column, date: bool) -> tuple[np.ndarray, np.ndarray]:
    """A column's values as float64 (n,) and which of them are missing, bool (n,).

    Raises:
        InputError: text where numbers are needed, or a date where there was none in training, or the reverse.
    """
    missing = column.missing()
    if missing.all():
        return np.zeros(len(missing)), missing
    if column.kind == "text" and not date:
        return _parsed(column), missing
    if column.kind in ("text", "other") or (column.kind == "date") != date:
        expected = "dates" if date else "numbers"
        found = "text" if column.kind == "text" else f"{column.kind} values"
        raise InputError(f"Column {column.name!r} has {found} where {expected} are needed.")
    return column.values.astype(np.float64), missing


def _parsed(column: Column) -> np.ndarray:
    values = np.zeros(len(column.values))
    for row, value in enumerate(column.values):
        number = 0.0 if value is None else _number(value)
        if number is None:
            raise InputError(f"Column {column.name!r} has text where numbers are needed: {value!r} in row {row + 1}.")
        values[row] = number
    return values


def texts_of(column: Column) -> list[str | None]:
    """A column's values as category names; numbers are written shortest (1, not 1.0), missing is None."""
    if column.kind == "text":
        return list(column.values)
    missing = column.missing()
    return [None if gone else f"{value:.15g}" for value, gone in zip(column.values.tolist(), missing, strict=True)]


def _mapped(column: Column, known: dict[str, float]) -> np.ndarray:
    """Texts replaced by the numbers they stand for, as texts; others stay, to be complained about."""
    values = [None if v is None else str(known.get(v.strip().lower(), v)) for v in column.values]
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def _beside(values: np.ndarray, missing: np.ndarray, indicator: bool) -> np.ndarray:
    parts = [values, missing] if indicator else [values]
    return np.stack([part.astype(np.float32) for part in parts], axis=1)
