"""Preprocessing: fitted on training rows, kept with the model as JSON, applied alike by fit, evaluate and predict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from epochal.support.errors import InputError
from epochal.tables.encoders import Encoder, encoder_from_json, encoder_to_json, fit_encoder, looks_like_id
from epochal.tables.table import Table
from epochal.tables.target import Target

FILE = "preprocessing.json"
_VERSION = 1


@dataclass(frozen=True)
class ArrayScale:
    """Features that are one array (images, sequences): every value is standardised by one mean and one spread.

    Attributes:
        shape: of one example.
        mean: of all values of the training rows.
        std: of all values of the training rows, never 0.
    """

    shape: tuple[int, ...]
    mean: float
    std: float

    def encode(self, array: np.ndarray) -> np.ndarray:
        """float32 (n, *shape); values that are not finite become the mean."""
        values = (array.astype(np.float32) - np.float32(self.mean)) / np.float32(self.std)
        return np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


@dataclass(frozen=True)
class Preprocessing:
    """How a table becomes the network's input, and the target its output.

    Attributes:
        target: the target as it was understood.
        encoders: one per column used, in order.
        dropped: (column, reason) of the columns left out.
        array: in place of encoders, where the features are one array.
    """

    target: Target
    encoders: tuple[Encoder, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()
    array: ArrayScale | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.array.shape if self.array is not None else (len(self.features),)

    @property
    def features(self) -> list[str]:
        """Names of the network's inputs (empty for an array)."""
        return [name for encoder in self.encoders for name in encoder.features()]

    def apply(self, table: Table) -> Float[np.ndarray, "n ..."]:
        """The table's rows as the network's input; columns that are not used are not looked at.

        Raises:
            InputError: a column is missing, or holds something else than in training.
        """
        if self.array is not None:
            if table.array is None or table.array.shape[1:] != self.array.shape:
                found = "columns" if table.array is None else f"examples of shape {table.array.shape[1:]}"
                raise InputError(
                    f"{table.source!r} has {found}, the model expects examples of shape {self.array.shape}."
                )
            return self.array.encode(table.array)
        here = {column.name: column for column in table.columns}
        absent = [encoder.name for encoder in self.encoders if encoder.name not in here]
        if absent:
            shown = ", ".join(repr(name) for name in absent[:5]) + (", …" if len(absent) > 5 else "")
            raise InputError(
                f"{table.source!r} lacks {len(absent)} of the {len(self.encoders)} columns that the model was trained "
                f"on: {shown}."
            )
        x = np.empty((len(table), len(self.features)), dtype=np.float32)
        start = 0
        for encoder in self.encoders:
            width = len(encoder.features())
            x[:, start : start + width] = encoder.encode(here[encoder.name])
            start += width
        return x

    def save(self, folder: Path) -> None:
        """Writes `preprocessing.json` into the folder."""
        data = {
            "version": _VERSION,
            "target": self.target.to_json(),
            "encoders": [encoder_to_json(encoder) for encoder in self.encoders],
            "dropped": [list(pair) for pair in self.dropped],
            "array": None if self.array is None else asdict(self.array),
        }
        (folder / FILE).write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Preprocessing:
        """The inverse of `save`.

        Raises:
            InputError: the file is absent or was not written by `save`.
        """
        path = folder / FILE
        try:
            return cls._from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise InputError(f"{str(folder)!r} has no {FILE}: it was not saved by `epochal fit`.") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(path)!r} is broken: {type(error).__name__} {error}.") from error

    @classmethod
    def _from_json(cls, data: dict[str, Any]) -> Preprocessing:
        if data["version"] != _VERSION:
            raise ValueError(f"it has version {data['version']!r}, expected {_VERSION}")
        target = data["target"]
        array = data["array"]
        return cls(
            Target(**{**target, "classes": tuple(target["classes"])}),
            tuple(encoder_from_json(encoder) for encoder in data["encoders"]),
            tuple((name, reason) for name, reason in data["dropped"]),
            None if array is None else ArrayScale(tuple(array["shape"]), array["mean"], array["std"]),
        )


def fit_preprocessing(training: Table, target: Target, categorical: Sequence[str] = ()) -> Preprocessing:
    """Learns the preprocessing from the training rows alone.

    Args:
        training: the training rows; the target's column is passed over.
        target: the target as it was understood.
        categorical: columns whose values are names even if they are numbers.

    Raises:
        InputError: no column is left to learn from.
    """
    if training.array is not None:
        values = training.array[np.isfinite(training.array)] if training.array.dtype.kind == "f" else training.array
        if values.size == 0:
            raise InputError(f"{training.source!r} has no finite value to learn from.")
        mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        return Preprocessing(target, array=ArrayScale(training.array.shape[1:], mean, std if std > 0 else 1.0))
    encoders: list[Encoder] = []
    dropped: list[tuple[str, str]] = []
    columns = [column for column in training.columns if column.name != target.name]
    for column in columns:
        if len(columns) > 1 and column.name not in categorical and looks_like_id(column):
            dropped.append((column.name, "numbers or names the rows: no value comes twice"))
            continue
        encoder = fit_encoder(column, column.name in categorical)
        if isinstance(encoder, str):
            dropped.append((column.name, encoder))
        else:
            encoders.append(encoder)
    if not encoders:
        reasons = "; ".join(f"{name!r}: {reason}" for name, reason in dropped) or "the target is the only column"
        raise InputError(f"{training.source!r} has no column to learn from ({reasons}).")
    return Preprocessing(target, tuple(encoders), tuple(dropped))
