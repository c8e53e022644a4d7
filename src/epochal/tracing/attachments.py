"""What is known of arrays that take no attributes, kept beside them for as long as they live."""

from __future__ import annotations

import weakref
from typing import Any


class Beside:
    """A table from arrays, by identity, to values."""

    def __init__(self) -> None:
        # id of an array -> (the array, weakly, so that a new array with an old id is not taken for it; its value).
        self._entries: dict[int, tuple[weakref.ref, Any]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, array: Any) -> Any:
        """The value of `array`; None when it has none."""
        found = self._entries.get(id(array))
        return found[1] if found is not None and found[0]() is array else None

    def put(self, array: Any, value: Any) -> None:
        """Gives `array` a value; None takes its value away."""
        key, entries = id(array), self._entries
        if value is None:
            entries.pop(key, None)
            return
        entries[key] = (weakref.ref(array, lambda _: entries.pop(key, None)), value)
