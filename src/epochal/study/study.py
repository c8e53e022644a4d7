"""A batch-size study: many fits over batch sizes, learning rates and seeds, and what they say together."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epochal.critical_batch import fit_steps_to_target
from epochal.study.bench import Bench, seeds_put_back
from epochal.study.fits import Fits, Progress
from epochal.study.page import page
from epochal.study.panels import overview
from epochal.study.protocol import Protocol, protocol_of
from epochal.study.results import Store
from epochal.study.sentences import terminal_table
from epochal.study.statistics import Fit, Judge, row

Checked = Any
CSV, PNG, PAGE = "table.csv", "study.png", "index.html"


def batch_size_study(
    build_model: Callable[[], Any],
    x: Any,
    y: Any = None,
    *,
    batch_sizes: Checked = (1, 8, 32, 64, 128, 256, "full"),
    epochs: Checked = None,
    updates: Checked = None,
    target: Checked = None,
    seeds: Checked = 3,
    learning_rates: Checked = "tune",
    validation_split: Checked = 0.2,
    validation_data: Any = None,
    sample_weight: Any = None,
    monitor: str | None = None,
    out: str | Path = "study/",
    verbose: Checked = 1,
) -> Study:
    """Trains the same model with several batch sizes, and measures what each is good for.

    Every fit is read in two ways, since they answer two questions and both answers are true: after the same number of
    epochs (small batches make more updates) and after the same number of updates (large batches see more examples).

    Finished fits are kept in `out`, so that a study that was killed, or is asked for more sizes or seeds, runs only
    what is missing.

    Args:
        build_model: a function without arguments that returns a new, compiled model. Called once per seed; its learning
            rate is taken to be that for batches of 32.
        x, y, sample_weight: arrays as `fit` takes them, a row per example.
        batch_sizes: ints and "full", all training examples. Larger ones than that count as "full".
        epochs: budget of the one reading. Default: as many as see 60,000 examples, but 2 … 40.
        updates: budget of the other. Default: as many as see 3,000,000 examples in full batches, but 100 … 2,000.
        target: value of `monitor` on the validation examples, the way to which is counted in updates, epochs and
            seconds. Default: one that at least three of four batch sizes reach.
        seeds: how many, or a list of them: of weights, order and masks.
        learning_rates: "tune" tries, for each size, rates 2 times apart around a rule's (linear for SGD, square root
            for others) until the best is not at the edge; the best on the validation examples with the first seed is
            taken, for each reading its own. "linear" (Goyal et al. 2017), "sqrt" (Krizhevsky 2014) and "fixed" take the
            compiled rate by that rule. Numbers are tried as they are. A schedule in the optimizer stays as it is.
        validation_split: the last part of the examples validates, as in `fit`.
        validation_data: (x, y) or (x, y, sample_weight), wins over `validation_split`.
        monitor: name of the reported value that counts; default: the first metric, or the loss.
        out: folder of the study.
        verbose: 0 silent, 1 tells how far it is.

    Returns:
        a `Study`; `study.report()` writes the page.

    Raises:
        ValueError: arguments or data that make no sense, or another study in `out`; nothing is run then.
        TypeError: `build_model` returns no model.
        RuntimeError: the model is not compiled, or another process runs a study in `out`.

    Example:
        >>> study = epochal.batch_size_study(build_model, x, y, batch_sizes=(8, 64, "full"))  # doctest: +SKIP
        >>> print(study)  # doctest: +SKIP
        >>> study.report()  # doctest: +SKIP
    """
    protocol_of(10, batch_sizes, epochs, updates, seeds, learning_rates)  # refuses what makes no sense
    folder = Path(out)
    with seeds_put_back():
        numbers = protocol_of(10, batch_sizes, epochs, updates, seeds, learning_rates).seeds
        bench = Bench(build_model, (x, y, sample_weight), validation_split, validation_data, numbers, monitor)
        protocol = protocol_of(bench.examples.n, batch_sizes, epochs, updates, seeds, learning_rates)
        _check_rates(bench, protocol)
        store = Store(folder, bench.identity)
        try:
            fits = Fits(bench, protocol, store, _progress(protocol, bool(verbose)), target)
            fits.run()
        finally:
            store.close()
    return Study(folder, protocol, fits.judge, fits.target, fits, bench.held_out.n, type(bench.optimizer).__name__)


def _check_rates(bench: Bench, protocol: Protocol) -> None:
    if bench.optimizer.scheduled and protocol.rates != "fixed":
        raise ValueError(
            'The optimizer follows a schedule, whose learning rate cannot be set: pass learning_rates="fixed", or '
            "compile with a number."
        )


def _progress(protocol: Protocol, show: bool) -> Progress:
    """Costs are in steps of a batch of 1; a batch of 200 is taken to cost twice as much, until it is measured."""
    rates = len(protocol.rates) if not isinstance(protocol.rates, str) else 5 if protocol.rates == "tune" else 1
    per_size = rates + (len(protocol.seeds) - 1) * min(rates, 2) + 1
    expected = [size for size in protocol.sizes for _ in range(per_size)]
    return Progress(show, lambda size: protocol.length(size) * (1 + size / 200), expected)


@dataclass(frozen=True)
class Study:
    """The outcome of `batch_size_study`.

    Attributes:
        out: its folder.
        protocol: its settings.
        judge: which value counts, and whether more of it is better.
        target: the value whose updates were counted; None where every fit diverged.
        fits: all fits and probes.
        n_validation: how many examples validated.
        optimizer: its name.
    """

    out: Path
    protocol: Protocol
    judge: Judge
    target: float | None
    fits: Fits
    n_validation: int
    optimizer: str

    @property
    def table(self) -> list[dict[str, Any]]:
        """One dict per batch size, in growing order, with the same keys each; None where there is nothing to say.

        `equal_epochs_…` and `equal_updates_…` are the two readings: mean and standard deviation over seeds of the final
        value and of the best one until then. Seconds, memory in bytes; gradients and sharpness as `report()` explains.
        """
        return [self._row(size) for size in self.protocol.sizes]

    def _row(self, size: int) -> dict[str, Any]:
        fits = self.fits
        found = row(size, fits.chosen[size], fits.every[size], self.protocol, self.judge, self.target)
        noise, probe = fits.noise or {"sizes": []}, fits.probes.get(size)
        here = noise["sizes"].index(size) if size in noise["sizes"] else None
        for name, key in (
            ("gradient_std", "std"),
            ("gradient_std_predicted", "predicted"),
            ("gradient_cosine", "cosine"),
        ):
            found[name] = None if here is None else noise[key][here]
        path = [] if probe is None else [value for _, value in probe["path"]]
        found["path_cosine"] = sum(path) / len(path) if path else None
        for name, key in (
            ("sharpness_adaptive", "adaptive"),
            ("sharpness_keskar", "keskar"),
            ("sharpness_loss", "loss"),
        ):
            found[name] = None if probe is None else probe[key]
        return {**{k: v for k, v in found.items() if k != "status"}, "status": found["status"]}

    def fit(self) -> Any:
        """S(m) = S_min (1 + B / m), fitted to the updates that the sizes needed to the target.

        Returns:
            a `critical_batch.StepsToTarget`: `value` (B), its 95 % interval `low` … `high`, `min_steps` (S_min). Sizes
            that missed the target with a seed are left out; None where fewer than three are left.
        """
        rows = [row for row in self.table if row["all_at_target"]]
        if len(rows) < 3:
            return None
        return fit_steps_to_target([row["batch_size"] for row in rows], [row["updates_to_target"] for row in rows])

    def curve(self, size: int) -> Fit | None:
        """The fit of the first seed with the rate chosen for equal epochs; None where all diverged."""
        chosen = self.fits.chosen[size]["equal_epochs"]
        return chosen[0] if chosen else None

    def plot(self, path: str | Path | None = None) -> Any:
        """All pictures of the report in one matplotlib `Figure`, written to `path` if that is given."""
        figure = overview(self)
        if path is not None:
            figure.savefig(path)
        return figure

    def report(self, folder: str | Path | None = None) -> Path:
        """Writes `index.html` (one page without links to load), `table.csv` and `study.png`.

        Args:
            folder: where to; the study's own when not given.

        Returns:
            the path of the page.
        """
        target = self.out if folder is None else Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        self.to_csv(target / CSV)
        self.plot(target / PNG)
        (target / PAGE).write_text(page(self), encoding="utf-8")
        return target / PAGE

    def to_csv(self, path: str | Path) -> None:
        """Writes the table; what there is nothing to say of is empty."""
        table = self.table
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in table)

    def __str__(self) -> str:
        return terminal_table(self)
