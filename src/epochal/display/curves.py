"""What is shown of a run: its curves, drawn from its history alone, and lines and tables in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TRAIN, VALIDATION, BEST, PLATEAU = "#2f6fb2", "#d9622b", "#2b2b2b", "#8a8a8a"
# The metric shown beside the loss: the first of these that the history has, else its first metric.
_PREFERRED = ("accuracy", "r2_score", "auc", "mae")
_LEFT = 0.02  # a plateau begins where no more than this part of the whole improvement is left


def plateau(values: Sequence[float | int]) -> int | None:
    """The index of the epoch where a falling curve goes flat.

    From there on, all that is still gained is at most 2 % of the gain from the first value to the best one.

    Args:
        values: one per epoch, smaller is better; values that are not finite are passed over.

    Returns:
        the index, or None: fewer than 5 epochs, no gain at all, or still improving at the last tenth of the epochs.
    """
    curve = np.asarray(values, dtype=float)
    finite = np.where(np.isfinite(curve), curve, np.inf)
    if len(curve) < 5 or not np.isfinite(finite[0]):
        return None
    best = np.minimum.accumulate(finite)
    gain = finite[0] - best[-1]
    if gain <= 0:
        return None
    index = int(np.argmax(best - best[-1] <= _LEFT * gain))
    return index if index < 0.9 * (len(curve) - 1) else None


def shown_metric(history: dict[str, list[Any]]) -> str | None:
    """Which metric is drawn beside the loss; None if there is none."""
    metrics = [name for name in history if not name.startswith("val_") and name not in ("loss", "learning_rate")]
    preferred = [name for known in _PREFERRED for name in metrics if name.endswith(known)]
    return (preferred or metrics or [None])[0]


def draw_curves(
    path: Path, epochs: list[int], history: dict[str, list[Any]], best_epoch: int | None = None, title: str = ""
) -> None:
    """Draws loss and one metric against the epoch, training and validation, and saves the picture (1500 x 675 pixels).

    Args:
        path: where to; the suffix says the format.
        epochs: their numbers, the first epoch being 1.
        history: name -> one value per epoch.
        best_epoch: the epoch whose weights were kept; marked.
        title: one line above the pictures.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric = shown_metric(history)
    names = ["loss"] + ([metric] if metric else [])
    figure = Figure(figsize=(10 if len(names) == 2 else 6, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    flat = plateau(history.get("val_loss") or history.get("loss") or [])
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), place)
        _draw_one(axes, name, epochs, history, best_epoch, None if flat is None else epochs[flat])
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.savefig(path)


def _draw_one(
    axes: Any, name: str, epochs: list[int], history: dict[str, list[Any]], best_epoch: int | None, flat: int | None
) -> None:
    """One curve pair with its marks; the legend is placed where it covers least."""
    marker = "o" if len(epochs) < 3 else None
    drawn: list[float] = []
    best_value = math.nan
    for key, colour, label in ((name, TRAIN, "training"), (f"val_{name}", VALIDATION, "validation")):
        values = [float(value) for value in history.get(key, [])]
        if not values:
            continue
        at = epochs[len(epochs) - len(values) :]
        axes.plot(at, values, color=colour, label=label, linewidth=1.6, marker=marker)
        drawn += [value for value in values if math.isfinite(value)]
        if best_epoch in at:
            best_value = values[at.index(best_epoch)]
    _scale(axes, name, drawn)
    if flat is not None:
        axes.axvspan(flat, epochs[-1], color=PLATEAU, alpha=0.13, linewidth=0, label=f"plateau, from epoch {flat}")
    if best_epoch is not None and math.isfinite(best_value):
        axes.axvline(best_epoch, color=BEST, linewidth=0.9, linestyle=(0, (4, 3)))
        label = f"kept: epoch {best_epoch}, {best_value:.4g}"
        axes.plot(
            [best_epoch], [best_value], "o", color=BEST, markerfacecolor="white", markersize=6, label=label, zorder=4
        )
    axes.set_xlabel("epoch")
    axes.set_title(name + (" (log scale)" if axes.get_yscale() == "log" else ""), loc="left", fontsize=10)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        axes.set_xticks(epochs)
    if drawn:
        axes.legend(frameon=True, framealpha=0.85, edgecolor="0.8", fontsize=8.5, loc="best")


def _scale(axes: Any, name: str, drawn: list[float]) -> None:
    """A loss that falls by a factor of 20 or more is drawn on a log scale; R² from below -1 is cut there."""
    if name == "loss" and drawn and min(drawn) > 0 and max(drawn) / min(drawn) >= 20:
        axes.set_yscale("log")
    elif name.endswith("r2_score") and drawn and min(drawn) < -1:
        axes.set_ylim(-1, max(max(drawn) + 0.1, 0.1))
