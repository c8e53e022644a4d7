"""The pictures of a study: each a function that draws on given axes."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from epochal.display.curves import PLATEAU, TRAIN, VALIDATION
from epochal.study.statistics import Judge

_INK = "#010203"  # stands for the page's own colour of text
PANEL_SIZE = (4.6, 3.3)  # inches; 442 pixels on the page, so that letters are as large on a telephone


class Panel(NamedTuple):
    """A picture: its title, what it draws, and what it says in words, for those who do not see it."""

    title: str
    draw: Callable[[Any, Any], None]
    alt: str
    note: str


def shade(place: float) -> tuple[float, float, float]:
    """The colour of a batch size: from blue, the smallest (0), to orange, the largest (1)."""
    ends = [tuple(int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)) for c in (TRAIN, "#9b5fa5", VALIDATION)]
    left, right, part = (ends[0], ends[1], 2 * place) if place < 0.5 else (ends[1], ends[2], 2 * place - 1)
    return tuple(a + part * (b - a) for a, b in zip(left, right, strict=True))  # pyright: ignore[reportReturnType]


def axis_of_sizes(axes: Any, sizes: Sequence[int], n: int) -> None:
    """A logarithmic axis with the batch sizes themselves as ticks."""
    axes.set_xscale("log", base=2)
    shown, last = [], -math.inf
    for size in sorted(sizes, reverse=True):
        if abs(math.log2(size) - last) >= 0.9:
            shown.append(size)
            last = math.log2(size)
    axes.set_xticks(shown, [f"full\n{size}" if size == n else str(size) for size in shown])
    axes.minorticks_off()
    axes.set_xlabel("batch size (examples per update)")


def protocols(axes: Any, study: Any) -> None:
    """Final validation value against the batch size, in both readings."""
    key = study.judge.key
    for reading, colour, marker, label in (
        ("equal_epochs", TRAIN, "o", f"after {study.protocol.epochs} epochs"),
        ("equal_updates", VALIDATION, "s", f"after {study.protocol.updates:,} updates"),
    ):
        rows = [row for row in study.table if row[f"{reading}_{key}"] is not None]
        values = [row[f"{reading}_{key}"] for row in rows]
        spread = [row[f"{reading}_{key}_std"] or 0.0 for row in rows]
        sizes = [row["batch_size"] for row in rows]
        axes.errorbar(
            sizes, values, spread, color=colour, marker=marker, markersize=5, capsize=2.5, linewidth=1.4, label=label
        )
    _finish(axes, study, f"validation {_named(study.judge)}")


def epochs(axes: Any, study: Any) -> None:
    """Validation value against the epoch, a line per batch size; a ring where its plateau begins."""
    rings = []
    for size, fit, colour in _curves(study):
        per_epoch = study.protocol.per_epoch(size)
        points = [
            (u / per_epoch, v)
            for u, v in zip(fit["updates"], fit[study.judge.key], strict=True)
            if u % per_epoch == 0 and u <= study.protocol.epochs * per_epoch
        ]
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.4, label=study.protocol.label(size))
        start = next(row["plateau_epoch"] for row in study.table if row["batch_size"] == size)
        if start is not None:
            rings.append((start, dict(points)[start]))
    if rings:
        style = {"color": _INK, "markerfacecolor": "none", "markersize": 8, "linestyle": "none", "zorder": 5}
        axes.plot(*zip(*rings, strict=True), marker="o", label="plateau begins", **style)
    axes.set_xlabel("epoch (passes over the training examples)")
    _finish(axes, study, f"validation {_named(study.judge)}", legend="batch size")


def updates(axes: Any, study: Any) -> None:
    """The same fits against the number of updates."""
    for size, fit, colour in _curves(study):
        axes.plot(fit["updates"], fit[study.judge.key], color=colour, linewidth=1.4, label=study.protocol.label(size))
    if study.target is not None:
        axes.axhline(study.target, color=PLATEAU, linewidth=1, linestyle=(0, (4, 3)), label=f"target {study.target:g}")
    axes.set_xscale("log")
    axes.set_xlabel("updates of the weights")
    _finish(axes, study, f"validation {_named(study.judge)}", legend="batch size")


def to_target(axes: Any, study: Any) -> None:
    """Updates to the target against the batch size, and the fitted law."""
    rows = [row for row in study.table if row["all_at_target"]]
    sizes, counts = [row["batch_size"] for row in rows], [row["updates_to_target"] for row in rows]
    spread = [min(row["updates_to_target_std"] or 0.0, 0.9 * row["updates_to_target"]) for row in rows]
    axes.errorbar(
        sizes, counts, spread, color=TRAIN, marker="o", linestyle="none", markersize=5, capsize=2.5, label="measured"
    )
    law = study.fit()
    if law is not None and law.min_steps > 0 and math.isfinite(law.value):
        m = np.geomspace(sizes[0], sizes[-1], 100)
        axes.plot(
            m, law.steps(m), color=VALIDATION, linewidth=1.4, label=f"{law.min_steps:.3g} (1 + {law.value:.3g} / m)"
        )
        if sizes[0] < law.value < sizes[-1]:
            axes.axvline(law.value, color=PLATEAU, linewidth=1, linestyle=(0, (4, 3)), label="critical batch size")
    axes.set_yscale("log")
    axis_of_sizes(axes, study.protocol.sizes, study.protocol.n)
    _finish(axes, None, f"updates to {_named(study.judge)} {study.target:g}")


def seconds(axes: Any, study: Any) -> None:
    """Seconds of training to the target against the batch size."""
    rows = [row for row in study.table if row["all_at_target"] and row["seconds_to_target"] is not None]
    sizes, taken = [row["batch_size"] for row in rows], [row["seconds_to_target"] for row in rows]
    axes.plot(sizes, taken, color=TRAIN, marker="o", linewidth=1.4, label="training time")
    best = int(np.argmin(taken))
    axes.plot([sizes[best]], [taken[best]], "o", color=_INK, markerfacecolor="none", markersize=10, label="least")
    axes.set_yscale("log")
    axis_of_sizes(axes, study.protocol.sizes, study.protocol.n)
    _finish(axes, None, f"seconds to {_named(study.judge)} {study.target:g}")


def speed(axes: Any, study: Any) -> None:
    """Examples per second against the batch size."""
    rows = [row for row in study.table if row["examples_per_second"] is not None]
    thousands = [row["examples_per_second"] / 1000 for row in rows]
    axes.plot([row["batch_size"] for row in rows], thousands, color=TRAIN, marker="o", linewidth=1.4)
    axes.set_ylim(bottom=0)
    axis_of_sizes(axes, study.protocol.sizes, study.protocol.n)
    _finish(axes, None, "thousand examples per second")


def rates(axes: Any, study: Any) -> None:
    """The learning rate that served each reading best, and how two rules would scale it."""
    for reading, colour, marker in (("equal_epochs", TRAIN, "o"), ("equal_updates", VALIDATION, "s")):
        rows = [row for row in study.table if row[f"{reading}_learning_rate"] is not None]
        sizes = [row["batch_size"] for row in rows]
        chosen = [row[f"{reading}_learning_rate"] for row in rows]
        axes.plot(
            sizes, chosen, color=colour, marker=marker, markersize=5, linewidth=1.4, label=reading.replace("_", " ")
        )
    rows = [row for row in study.table if row["equal_epochs_learning_rate"] is not None]
    low = rows[0]
    m = np.array([rows[0]["batch_size"], rows[-1]["batch_size"]])
    factor = m / low["batch_size"]
    for scale, style, label in ((np.sqrt(factor), (0, (1, 2)), "square root"), (factor, (0, (4, 3)), "linear")):
        axes.plot(
            m, low["equal_epochs_learning_rate"] * scale, color=PLATEAU, linewidth=1, linestyle=style, label=label
        )
    axes.set_yscale("log")
    axis_of_sizes(axes, study.protocol.sizes, study.protocol.n)
    _finish(axes, None, "best learning rate tried")


def noise(axes: Any, study: Any) -> None:
    """How far batch gradients are from the gradient of all examples: measured, and by the formula."""
    found = study.fits.noise
    n, variance = found["examples"], found["variance"]
    m = np.unique(np.concatenate([np.geomspace(1, n, 200), n - np.geomspace(1, max(n / 2, 1), 50)]))
    m = m[(m >= 1) & (m < n)]
    axes.plot(m, np.sqrt(variance / m * (1 - m / n)), color=VALIDATION, linewidth=1.4, label="√(S²/m · (1 - m/n))")
    axes.plot(m, np.sqrt(variance / m), color=PLATEAU, linewidth=1, linestyle=(0, (4, 3)), label="S/√m")
    shown = [(size, std) for size, std in zip(found["sizes"], found["std"], strict=True) if size < n]
    if shown:
        axes.plot(*zip(*shown, strict=True), "o", color=TRAIN, markersize=5, label="measured")
    axes.set_yscale("log")
    axis_of_sizes(axes, found["sizes"], study.protocol.n)
    _finish(axes, None, "distance from the mean (RMS)")


def cosines(axes: Any, study: Any) -> None:
    """How much an update's direction has of the full-batch gradient's."""
    rows = [row for row in study.table if row["path_cosine"] is not None]
    axes.plot(
        [r["batch_size"] for r in rows],
        [r["path_cosine"] for r in rows],
        color=TRAIN,
        marker="o",
        linewidth=1.4,
        label="updates along the fit",
    )
    rows = [row for row in study.table if row["gradient_cosine"] is not None]
    axes.plot(
        [r["batch_size"] for r in rows],
        [r["gradient_cosine"] for r in rows],
        color=VALIDATION,
        marker="s",
        markersize=4.5,
        linewidth=1.4,
        label="batch gradients at one point",
    )
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.05)
    axis_of_sizes(axes, study.protocol.sizes, study.protocol.n)
    _finish(axes, None, "cosine with the full gradient")


def sharpness(axes: Any, study: Any) -> None:
    """Both measures of sharpness where the fits came to the same training loss."""
    rows = [row for row in study.table if row["sharpness_adaptive"] is not None]
    sizes = [row["batch_size"] for row in rows]
    for name, colour, marker, label in (
        ("sharpness_adaptive", TRAIN, "o", "adaptive: rise of the loss"),
        ("sharpness_keskar", VALIDATION, "s", "Keskar: rise in % of 1 + loss"),
    ):
        values = [max(row[name], 1e-12) for row in rows]
        axes.plot(sizes, values, color=colour, marker=marker, markersize=5, linewidth=1.4, label=label)
    axes.set_yscale("log")
    axis_of_sizes(axes, study.protocol.sizes, study.protocol.n)
    _finish(axes, None, f"sharpness at training loss {rows[0]['sharpness_loss']:g}")


def paths(axes: Any, study: Any) -> None:
    """Three descents over the contours of one loss of two weights."""
    found = study.fits.paths
    best, hessian = np.array(found["best"]), np.array(found["hessian"])
    routes = {int(size): np.array(path) for size, path in found["paths"].items()}
    points = np.concatenate(list(routes.values()))
    low, high = points.min(axis=0), points.max(axis=0)
    low, high = np.minimum(low, best) - 0.12 * (high - low), np.maximum(high, best) + 0.12 * (high - low)
    across, up = np.meshgrid(np.linspace(low[0], high[0], 120), np.linspace(low[1], high[1], 120))
    apart = np.stack([across - best[0], up - best[1]], axis=-1)
    loss = found["least"] + 0.5 * np.einsum("...i,ij,...j->...", apart, hessian, apart)
    levels = found["least"] + np.geomspace(0.01, 1, 9) * (loss.max() - found["least"])
    axes.contour(across, up, loss, levels=levels, colors=PLATEAU, linewidths=0.7, alpha=0.8)
    n = max(routes)
    for place, (size, route) in enumerate(routes.items()):
        label = {1: "1: stochastic", n: f"{n}: full batch"}.get(size, f"{size}: mini-batch")
        colour = shade(place / max(len(routes) - 1, 1))
        axes.plot(route[:, 0], route[:, 1], color=colour, linewidth=1.2, marker=".", markersize=3, label=label)
    axes.plot(*points[0], "s", color=_INK, markersize=5)
    axes.plot(*best, "x", color=_INK, markersize=8, markeredgewidth=1.8)
    axes.set_xlabel(f"weight of input {found['columns'][0]}")
    _finish(axes, None, f"weight of input {found['columns'][1]}", legend="batch size")


# -- drawing


def _curves(study: Any) -> list[tuple[int, Any, Any]]:
    sizes = [size for size in study.protocol.sizes if study.curve(size) is not None]
    last = max(len(study.protocol.sizes) - 1, 1)
    return [(size, study.curve(size), shade(study.protocol.sizes.index(size) / last)) for size in sizes]


def _named(judge: Judge) -> str:
    return judge.name.replace("_", " ")


def _finish(axes: Any, study: Any, label: str, legend: str | None = None) -> None:
    if study is not None and axes.get_xlabel() == "":
        axis_of_sizes(axes, study.protocol.sizes, study.protocol.n)
    axes.set_ylabel(label)
    if axes.get_yscale() == "log":
        _readable_log(axes)
    axes.grid(alpha=0.3, linewidth=0.6, color=PLATEAU)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8, loc="best", framealpha=0.0, title=legend, title_fontsize=8)


def _readable_log(axes: Any) -> None:
    """Ticks at 1, 2 and 5 where the axis spans few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_ylim()
    if high / low < 300:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def svg(panel: Panel, study: Any, number: int) -> str:
    """A panel as an SVG element whose text and axes have the colour of the page's text."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    inked = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)
    settings: dict[Any, Any] = {**inked, "svg.fonttype": "none", "svg.hashsalt": f"epochal-{number}", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=PANEL_SIZE, layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(facecolor="none")
        panel.draw(axes, study)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    names = set(re.findall(r'id="([^"]+)"', text))
    for name in sorted(names, key=len, reverse=True):  # names are the page's, not the picture's
        text = re.sub(rf'(id="|#){re.escape(name)}(?=["\)])', rf"\g<1>p{number}-{name}", text)
    return text.replace("xlink:href", "href")
