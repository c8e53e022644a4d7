"""Which pictures there are of a study: their titles, what they say in words, and how they came about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from epochal.study import figures
from epochal.study.figures import PANEL_SIZE, Panel
from epochal.study.sentences import duration, number


def overview(study: Any) -> Any:
    """All panels in one figure, three in a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = panels(study)
    lines = -(-len(shown) // 3)
    figure = Figure(figsize=(3 * PANEL_SIZE[0], lines * PANEL_SIZE[1]), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for i, panel in enumerate(shown, start=1):
        axes = figure.add_subplot(lines, 3, i)
        panel.draw(axes, study)
        axes.set_title(panel.title, loc="left", fontsize=10)
    return figure


def panels(study: Any) -> list[Panel]:
    """The pictures that there is something to show in, in the order of the page."""
    return [*_of_fits(study), *_of_target(study), *_of_machine(study), *_of_surface(study), *_of_paths(study)]


def _listed(study: Any, name: str, show: Callable[[Any], str] = number) -> str:
    return "; ".join(f"batch {row['label']}: {show(row[name])}" for row in study.table if row[name] is not None)


def _of_fits(study: Any) -> list[Panel]:
    if not any(row["equal_epochs_learning_rate"] is not None for row in study.table):
        return []
    key = study.judge.key
    values = [_listed(study, f"{reading}_{key}") for reading in ("equal_epochs", "equal_updates")]
    return [
        Panel(
            "Two budgets, two answers",
            figures.protocols,
            f"{key} by batch size. Equal epochs: {values[0]}. Equal updates: {values[1]}.",
            "Mean over seeds; bars are one standard deviation.",
        ),
        Panel(
            "Epochs against the metric",
            figures.epochs,
            f"{key} against epochs, a line per batch size. Plateau from epoch: {_listed(study, 'plateau_epoch')}.",
            "First seed. From the ring on, a size gains no more than 2 % of all it gained within the budget; no ring: "
            "it was still improving.",
        ),
        Panel(
            "Updates against the metric",
            figures.updates,
            f"{key} against updates, a line per batch size. To the target: {_listed(study, 'updates_to_target')}.",
            "The same fits, counted in updates.",
        ),
    ]


def _of_target(study: Any) -> list[Panel]:
    rows = [row for row in study.table if row["all_at_target"]]
    found = []
    if rows:
        found.append(
            Panel(
                "Updates to the target",
                figures.to_target,
                f"Updates to {study.judge.key} {study.target:g}: {_listed(study, 'updates_to_target')}.",
                "Line: S(m) = S_min (1 + B/m), fitted to the logarithms (McCandlish et al. 2018). B is the critical "
                "batch size.",
            )
        )
    if any(row["seconds_to_target"] for row in rows):
        found.append(
            Panel(
                "Seconds to the target",
                figures.seconds,
                f"Time to {study.judge.key} {study.target:g}: {_listed(study, 'seconds_to_target', duration)}.",
                "Updates to the target times seconds per update, on this machine, without compiling and validating.",
            )
        )
    return found


def _of_machine(study: Any) -> list[Panel]:
    found = []
    if any(row["examples_per_second"] for row in study.table):
        found.append(
            Panel(
                "Speed",
                figures.speed,
                f"Examples per second: {_listed(study, 'examples_per_second')}.",
                "A larger batch uses the machine better, up to a point.",
            )
        )
    names = [f"{reading}_learning_rate" for reading in ("equal_epochs", "equal_updates")]
    if any(row[names[0]] is not None for row in study.table):
        chosen = [_listed(study, name) for name in names]
        found.append(
            Panel(
                "Learning rates",
                figures.rates,
                f"Learning rate taken. Equal epochs: {chosen[0]}. Equal updates: {chosen[1]}.",
                "Grey lines: how the linear and the square-root rule would go on from the smallest batch.",
            )
        )
    return found


def _of_surface(study: Any) -> list[Panel]:
    found, noise = [], study.fits.noise
    if noise is not None:
        measured, predicted = _listed(study, "gradient_std"), _listed(study, "gradient_std_predicted")
        found.append(
            Panel(
                "Noise of the gradient",
                figures.noise,
                f"Distance of batch gradients from the mean one. Measured: {measured}. By the formula: {predicted}.",
                f"Up to {noise['draws']} batches per size, drawn from {noise['examples']:,} examples without "
                "replacement, all at the same weights. At m = n it is 0: the batch is all there is.",
            )
        )
    if study.fits.probes:
        sharp = [_listed(study, f"sharpness_{name}") for name in ("adaptive", "keskar")]
        found += [
            Panel(
                "Direction of the updates",
                figures.cosines,
                f"Mean cosine of updates with the slope of the whole loss: {_listed(study, 'path_cosine')}.",
                "1 is straight down the slope of the whole loss. Updates are what the optimizer makes of gradients.",
            ),
            Panel(
                "Sharpness",
                figures.sharpness,
                f"Adaptive sharpness: {sharp[0]}. Keskar's: {sharp[1]}.",
                "Where each fit first came to the same training loss. Adaptive: the highest rise when every weight "
                "changes by up to 1 % of its size (η = 0: rescaling layers against each other does not change it). "
                "Keskar's φ: by up to 0.001 (|w| + 1). The higher of two searches: ascent by signs, and L-BFGS-B.",
            ),
        ]
    return found


def _of_paths(study: Any) -> list[Panel]:
    found = study.fits.paths
    if found is None:
        return []
    steps = len(next(iter(found["paths"].values()))) - 1
    return [
        Panel(
            "Three ways down",
            figures.paths,
            f"Contours of a loss of two weights, and {steps} updates with batch sizes {', '.join(found['paths'])}.",
            f"Least squares on two columns of this data, predicting {found['predicts']}: {steps} updates each, "
            f"learning rate {found['rate']:g}, from the square towards the cross, where the loss is least.",
        )
    ]
