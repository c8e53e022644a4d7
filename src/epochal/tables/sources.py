"""Reading: a bundled data set, a `.csv`, a `.parquet` or a `.npz` becomes a `Table`.

scikit-learn and polars (extra `data`) are imported where they are used, so that the rest works without them.
"""

from __future__ import annotations

import difflib
import importlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from epochal.support.errors import InputError
from epochal.tables.table import Column, Table, column_of, no_such

BUNDLED = ("digits", "diabetes", "breast_cancer", "iris", "wine")
EXTENSIONS = (".csv", ".parquet", ".npz")
# What stands for "no value" in a CSV file; an empty field always does.
MISSING_TEXT = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "?"]
_FEATURES = ("x", "features", "data", "inputs")
_TARGETS = ("y", "target", "targets", "label", "labels")


def read_source(source: str, part: str = "train") -> Table:
    """Reads a source into memory.

    Args:
        source: one of `BUNDLED`, or the path of a file with one of `EXTENSIONS`.
        part: "train" or "test": which arrays to take of a `.npz` that holds both (`x_train`, `y_train`, `x_test`, …).

    Raises:
        InputError: no such source or file, an unknown extension, a file that cannot be read, or one without rows.
    """
    if source in BUNDLED and not Path(source).is_file():
        return _bundled(source)
    path = Path(source)
    suffix = path.suffix.lower()
    if not suffix and not path.exists():
        raise InputError(no_such("data set or file", source, BUNDLED))
    if not path.exists():
        raise InputError(f"There is no file {source!r}{_neighbours(path)}.")
    if path.is_dir():
        raise InputError(f"{source!r} is a folder, expected a file ending in {_listed(EXTENSIONS)}.")
    if suffix not in EXTENSIONS:
        raise InputError(f"Cannot read {source!r}: expected a file ending in {_listed(EXTENSIONS)}.")
    if path.stat().st_size == 0:
        raise InputError(f"{source!r} is empty (0 bytes), expected a header and rows.")
    table = _npz(path, part) if suffix == ".npz" else _polars(path)
    if len(table) == 0:
        raise InputError(f"{source!r} has no rows, only the names of {len(table.columns)} columns.")
    return table


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " or " + words[-1] if len(words) > 1 else "".join(words)


def _neighbours(path: Path) -> str:
    """Which readable files stand beside a path that does not exist, as the tail of a sentence."""
    if not path.parent.is_dir():
        return f" (nor a folder {str(path.parent)!r})"
    beside = {p.stem: p for p in path.parent.iterdir() if p.suffix.lower() in EXTENSIONS}
    near = difflib.get_close_matches(path.stem, list(beside), n=2, cutoff=0.6)
    return f"; did you mean {_listed([repr(str(beside[stem])) for stem in near])}" if near else ""


def _extra(module: str) -> Any:
    """Imports a module of the extra `data`, or says how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = {"sklearn.datasets": "scikit-learn"}.get(module, module)
        raise InputError(
            f'This source needs {package}, which is not installed: pip install "epochal[data]".'
        ) from error


def _bundled(name: str) -> Table:
    """One of scikit-learn's own data sets (they come with the package; nothing is downloaded)."""
    datasets = _extra("sklearn.datasets")
    arguments = {"scaled": False} if name == "diabetes" else {}
    data = getattr(datasets, f"load_{name}")(**arguments)
    images = data.images if name == "digits" else None
    titles = [] if images is not None else data.feature_names
    columns = [column_of(str(title), data.data[:, i]) for i, title in enumerate(titles)]
    if name in ("breast_cancer", "iris", "wine"):  # the names are worth more than the numbers
        classes = np.asarray([str(title) for title in data.target_names])
        columns.append(column_of("target", classes[data.target]))
    else:
        columns.append(column_of("target", data.target))
    return Table(name, tuple(columns), images, target="target")


def _polars(path: Path) -> Table:
    """A `.csv` or `.parquet` through polars, whose types decide the columns' kinds."""
    polars = _extra("polars")
    try:
        if path.suffix.lower() == ".csv":
            frame = polars.read_csv(
                path,
                separator=_separator(path),
                try_parse_dates=True,
                infer_schema_length=None,
                null_values=MISSING_TEXT,
            )
        else:
            frame = polars.read_parquet(path)
    except (polars.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        first = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        raise InputError(f"Cannot read {str(path)!r} as {path.suffix.lower()[1:]}: {first}.") from error
    if frame.width == 0:
        raise InputError(f"{str(path)!r} has no columns.")
    return Table(str(path), tuple(_polars_column(polars, series) for series in frame.get_columns()))


def _separator(path: Path) -> str:
    """What parts the fields of a CSV: the most frequent of `,`, `;` and tab in the first line."""
    with path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline()
    return max(",;\t", key=header.count)


def _polars_column(polars: Any, series: Any) -> Column:
    """A polars series as a column; missing is NaN, or None in text."""
    name, dtype = series.name, series.dtype
    if dtype == polars.Boolean or dtype == polars.Null:
        return Column(name, "boolean" if dtype == polars.Boolean else "number", _floats(polars, series))
    if dtype.is_integer():
        return Column(name, "integer", _floats(polars, series) if series.null_count() else series.to_numpy())
    if dtype.is_numeric():  # floats and decimals
        return Column(name, "number", _floats(polars, series))
    if dtype in (polars.String, polars.Categorical, polars.Enum):
        values = np.empty(len(series), dtype=object)
        values[:] = series.cast(polars.String).to_list()
        return Column(name, "text", values)
    if dtype in (polars.Date, polars.Datetime):
        microseconds = series.cast(polars.Datetime("us")).cast(polars.Int64)
        return Column(name, "date", _floats(polars, microseconds) / 86_400e6)
    return Column(name, "other", np.full(len(series), np.nan))


def _floats(polars: Any, series: Any) -> np.ndarray:
    return series.cast(polars.Float64).fill_null(float("nan")).to_numpy()


def _npz(path: Path, part: str) -> Table:
    """Arrays x and y, or x_train and y_train beside x_test and y_test (any letter case)."""
    if not zipfile.is_zipfile(path):
        raise InputError(f"Cannot read {str(path)!r}: it is no npz file, or a broken one.")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            keys = list(file.files)
            x_key, y_key = _npz_keys(str(path), keys, part)
            x = file[x_key]
            y = file[y_key] if y_key else None
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = "it holds Python objects, which are not read" if "allow_pickle" in str(error) else "it is broken"
        raise InputError(f"Cannot read {str(path)!r} as npz: {reason}.") from error
    others = [key for key in keys if key not in (x_key, y_key)]
    note = f"arrays {x_key}{' and ' + y_key if y_key else ''} of {path.name}" + (
        f"; not used: {', '.join(others)}" if others else ""
    )
    return _arrays(str(path), x, y, y_key, (note,))


def _npz_keys(source: str, keys: list[str], part: str) -> tuple[str, str | None]:
    """Which arrays are the features and the target.

    `x` and `y` (or features/data/inputs and target(s)/label(s)); else with `_train`; for "test", `_test` goes first.
    """
    by_lower = {key.lower(): key for key in keys}
    for suffix in ("_test", "", "_train") if part == "test" else ("", "_train"):
        x_key = next((by_lower[name + suffix] for name in _FEATURES if name + suffix in by_lower), None)
        y_key = next((by_lower[name + suffix] for name in _TARGETS if name + suffix in by_lower), None)
        if x_key and (y_key or part == "test"):
            return x_key, y_key
    raise InputError(
        f"{source!r} holds the arrays {', '.join(keys) or '(none)'}; expected x and y, X and y, x_train and y_train, "
        "or features and target."
    )


def _arrays(source: str, x: np.ndarray, y: np.ndarray | None, y_key: str | None, notes: tuple[str, ...]) -> Table:
    """Features (n,) or (n, k) become columns; of more dimensions, one array. The target is (n,), (n, 1) or one-hot."""
    if x.ndim == 0 or (y is not None and len(x) != (y.shape or (0,))[0]):
        shapes = f"x {x.shape}" + ("" if y is None else f" and y {y.shape}")
        raise InputError(f"{source!r} has {shapes}, expected the same number of rows in both.")
    if x.dtype.kind not in "biuf" and x.ndim > 1:
        raise InputError(f"{source!r} has text where numbers are needed: x has dtype {x.dtype}.")
    columns: list[Column] = []
    array = None
    if x.ndim <= 2:
        flat = x.reshape(len(x), -1)
        columns = [column_of(f"x{i}" if x.ndim == 2 else "x", flat[:, i]) for i in range(flat.shape[1])]
    else:
        array = x
    if y is not None and y_key is not None:
        columns.append(column_of(y_key, _target_of(source, y)))
    if not columns and array is None:
        raise InputError(f"{source!r} has x of shape {x.shape}, expected at least one column.")
    return Table(source, tuple(columns), array, y_key, notes)


def _target_of(source: str, y: np.ndarray) -> np.ndarray:
    """The target as (n,); one-hot rows become their class's index."""
    if y.ndim == 1:
        return y
    flat = y.reshape(len(y), -1)
    if flat.shape[1] == 1:
        return flat[:, 0]
    if (
        y.ndim == 2
        and y.dtype.kind in "biuf"
        and len(y)
        and bool(((flat == 0) | (flat == 1)).all() & (flat.sum(1) == 1).all())
    ):
        return flat.argmax(axis=1)
    raise InputError(f"{source!r} has y of shape {y.shape}, expected one target: (n,), (n, 1) or one-hot (n, classes).")
