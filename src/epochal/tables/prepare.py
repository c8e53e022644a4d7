"""From a table to arrays for `fit`: the target, the task, the split, the preprocessing, in this order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from epochal.support.errors import InputError
from epochal.tables.encoders import check_unmixed
from epochal.tables.preprocessing import Preprocessing, fit_preprocessing
from epochal.tables.split import split_rows
from epochal.tables.table import Table, no_such
from epochal.tables.target import Task, choose_target, detect_task, fit_target

MIN_ROWS = 10


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs, and what to tell the user about it.

    Attributes:
        x: the training rows' features.
        y: the training rows' target: class indices int32, or values float32 in their own units.
        x_validation: the validation rows' features.
        y_validation: the validation rows' target.
        preprocessing: what made them, to be kept with the model.
        chosen: why this column is the target.
        rule: why this task.
        n: rows in all.
    """

    x: Float[np.ndarray, "n ..."]
    y: Shaped[np.ndarray, " n"]
    x_validation: Float[np.ndarray, "v ..."]
    y_validation: Shaped[np.ndarray, " v"]
    preprocessing: Preprocessing
    chosen: str
    rule: str
    n: int


def prepare(
    table: Table,
    *,
    target: str | None = None,
    task: Task | None = None,
    validation_split: float = 0.2,
    seed: int = 0,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
) -> Prepared:
    """Understands the table and makes training and validation arrays of it.

    Args:
        table: all rows.
        target: the target column's name; None: see `choose_target`.
        task: None: see `detect_task`.
        validation_split: the part of the rows that validates; see `split_rows`.
        seed: decides the split.
        drop: columns to leave out.
        categorical: columns whose values are names even if they are numbers.

    Raises:
        InputError: the table cannot be learned from; the message is one sentence.
    """
    _check_known(table, [*drop, *categorical])
    table = table.without(drop)
    column, chosen = choose_target(table, target)
    if column.name in categorical:
        raise InputError(f"{column.name!r} is the target; --categorical is for features, see --task classification.")
    if len(table) < MIN_ROWS:
        raise InputError(f"{table.source!r} has {len(table)} rows, too few to learn from: expected {MIN_ROWS} or more.")
    found_task, rule = detect_task(column, task)
    whole = fit_target(column, found_task)
    for feature in table.columns:
        if feature.name != column.name and feature.name not in categorical:
            check_unmixed(feature)
    training, validation = split_rows(whole.encode(column), validation_split, seed)
    fitted = fit_target(column, found_task, training)
    preprocessing = fit_preprocessing(table.take(training), fitted, categorical)
    x, y = preprocessing.apply(table), fitted.encode(column)
    return Prepared(x[training], y[training], x[validation], y[validation], preprocessing, chosen, rule, len(table))


def _check_known(table: Table, names: Sequence[str]) -> None:
    for name in names:
        if table.column(name) is None:
            raise InputError(no_such(f"column in {table.source!r} called", name, table.names))


def target_of(table: Table, preprocessing: Preprocessing) -> Shaped[np.ndarray, " n"]:
    """The table's target as the network's, for evaluating a trained model.

    Raises:
        InputError: the table has no such column, or values that training did not know.
    """
    target = preprocessing.target
    column = table.column(target.name) or (table.column(table.target) if table.target else None)
    if column is None:
        raise InputError(f"{table.source!r} lacks the target {target.name!r}, so there is nothing to compare with.")
    return target.encode(column)
