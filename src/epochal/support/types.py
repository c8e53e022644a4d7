"""Types of public signatures."""

from __future__ import annotations

from typing import Any, TypeAlias

# An argument that the method checks itself, so that whatever is passed meets our error and not a type checker's.
Checked: TypeAlias = Any

Logs = dict[str, Any]
