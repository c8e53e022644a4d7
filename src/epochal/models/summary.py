"""The table that `summary()` prints."""

from __future__ import annotations

import io

import numpy as np
from flax import nnx

from epochal.layers.base.layer import Layer
from epochal.layers.base.tree import Tracked, children, tracked


def summary_text(model: Layer) -> str:
    """Layers with output shapes and numbers of weights, and the totals, as text."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f'Model "{model.name}"', title_justify="left")
    for title, justify in (
        ("layer (type)", "left"),
        ("output shape", "left"),
        ("weights", "right"),
        ("trained", "right"),
    ):
        table.add_column(title, justify=justify)  # pyright: ignore[reportArgumentType]
    for layer in getattr(model, "layers", None) or list(children(model)):
        found = tracked(layer)
        frozen = isinstance(layer, Layer) and not layer.trainable
        name = f"{getattr(layer, 'name', type(layer).__name__)} ({type(layer).__name__})"
        trained = 0 if frozen else _numbers([t for t in found if t.trainable])
        table.add_row(name, _shape(layer), f"{_numbers(found):,}", f"{trained:,}")
    everything = tracked(model)
    total, trained = _numbers(everything), _numbers([t for t in everything if t.trainable])
    text = io.StringIO()
    Console(file=text, width=100).print(table)
    size = sum(t.variable.get_value().nbytes for t in everything)
    lines = [f"Total: {total:,} weights ({_bytes(size)})", f"Trained: {trained:,}", f"Not trained: {total - trained:,}"]
    if not model.built and not everything:
        lines.append(
            "The model is not built yet: give the first layer input_shape, or call fit, predict or build_from."
        )
    return text.getvalue() + "\n".join(lines)


def _numbers(found: list[Tracked]) -> int:
    return sum(int(np.prod(t.variable.shape)) for t in found)


def _shape(layer: nnx.Module) -> str:
    shape = getattr(layer, "output_shape", None)
    return "?" if shape is None else str(shape)


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "KB", "MB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GB"
