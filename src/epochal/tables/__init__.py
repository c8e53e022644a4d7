"""Tables in: reading a source, understanding its target, and preprocessing that is kept with the model."""

from epochal.support.errors import InputError
from epochal.tables.prepare import Prepared, prepare, target_of
from epochal.tables.preprocessing import Preprocessing
from epochal.tables.sources import BUNDLED, read_source
from epochal.tables.table import Column, Table, column_of
from epochal.tables.target import Target

__all__ = [
    "BUNDLED",
    "Column",
    "InputError",
    "Prepared",
    "Preprocessing",
    "Table",
    "Target",
    "column_of",
    "prepare",
    "read_source",
    "target_of",
]
