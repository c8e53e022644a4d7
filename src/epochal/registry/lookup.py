"""Looking things up by name, with an error that says which names come near."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def find(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The entry of `table` called `name`.

    Args:
        kind: what is looked for, in the singular ("optimizer"), for the error message.
        name: the name as the user typed it; case is kept, since Keras's names differ by it.
        table: name -> entry.

    Raises:
        ValueError: no such name; the message lists the nearest ones.
    """
    if name in table:
        return table[name]
    raise ValueError(unknown(kind, name, table))


def unknown(kind: str, name: str, known: Mapping[str, object] | list[str]) -> str:
    """The sentence that says `name` is not one of `known`, and which of them are near."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    if not near:  # names that differ by case or underscores only
        plain = {k.lower().replace("_", ""): k for k in known}
        near = [
            plain[k] for k in difflib.get_close_matches(name.lower().replace("_", ""), list(plain), n=3, cutoff=0.5)
        ]
    tail = f"Did you mean {' or '.join(repr(n) for n in near)}?" if near else f"Known: {', '.join(sorted(known))}."
    return f"Unknown {kind} {name!r}. {tail}"
