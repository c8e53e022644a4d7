"""Amounts as text."""

from __future__ import annotations


def shown(size: float) -> str:
    """Bytes in a unit of three digits: "87.8 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5:
            return f"{size:.3g} {unit}" if size < 99.95 else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
