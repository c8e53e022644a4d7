"""The options of the command line's commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Fit:
    """Train a network on a table.

    Finds the target and the task, encodes and scales the columns (by the training rows only), builds a network, trains
    it until the validation loss no longer falls, keeps the best epoch's weights, and writes a run folder.

    For example:
      epochal fit digits
      epochal fit houses.csv --target price --drop address
      epochal fit images.npz --model nets.py:cnn --batch-size 64 --epochs 20
      epochal fit --resume runs/20260101-120000-houses
    """

    source: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="SOURCE")] = None
    """digits, diabetes, breast_cancer, iris or wine; or a .csv, a .parquet, or a .npz with arrays x and y."""
    target: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None
    """Column to predict. Default: the one called target, label, y or class, else the last one."""
    task: Literal["classification", "regression"] | None = None
    """What to learn. Default: text, true/false and few whole numbers are classes, other numbers are quantities."""
    drop: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="COLUMN")] = ()
    """Column to leave out; may be given several times."""
    categorical: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="COLUMN")] = ()
    """Column whose numbers are names (a postal code, a class of ticket); may be given several times."""
    batch_size: Annotated[int | Literal["auto", "full"], tyro.conf.arg(metavar="N|auto|full")] = "auto"
    """Rows per step, or "full" for all of them. "auto" is measured first, for some seconds: see `epochal plan`."""
    epochs: int = 200
    """At most so many passes over the training rows."""
    patience: int = 20
    """Stop after so many epochs without a better validation loss."""
    validation_split: float = 0.2
    """Part of the rows that is held out to validate on."""
    learning_rate: float = 1e-3
    """Of Adam. A --model that is compiled keeps its own."""
    model: Annotated[str | None, tyro.conf.arg(metavar="FILE.py:function")] = None
    """A function that returns an epochal.Model. It is called with those of the arguments input_shape,
    n_outputs, n_classes, task and n_train that it names. If it compiles the model, nothing about it is changed."""
    run_dir: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder to write. Default: runs/<time>-<source>."""
    resume: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Run folder of a fit that was killed or interrupted: go on where it was, with its own settings. Takes no SOURCE
    and no other option but --verbose."""
    seed: int = 0
    """Decides the split, the first weights, the order of the rows and dropout."""
    plot: bool = True
    """Draw curves.png."""
    verbose: Literal["auto", 0, 1, 2] = "auto"
    """Progress: 0 none, 1 a live bar, 2 a line per epoch; auto is 1 on a terminal, else 2."""


@dataclass(frozen=True)
class Replay:
    """Make one training step of a fit again and show it: its rows, loss and gradients, and what was not finite.

    For a fit that was killed or interrupted, or is still running; its folder stays as it is. Data and network are made
    as they were for the fit, which then goes on from its last checkpoint before the step, or else from its beginning.

    For example:
      epochal replay runs/20260101-120000-houses --epoch 3 --batch 17 -o step.npz
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_DIR")]
    """Run folder of the fit."""
    epoch: int
    """Of the step; the first epoch is 1."""
    batch: int
    """Of the step; the first batch of an epoch is 1."""
    output: Annotated[str | None, tyro.conf.arg(aliases=["-o"], metavar="FILE.npz")] = None
    """Write its arrays: rows, x, y, loss, predictions, and gradients by parameter."""


@dataclass(frozen=True)
class Plan:
    """Which batch size to train with: measures this machine, the network and the data, and says why.

    Times steps of several sizes, reads their memory off the compiled programs, and trains a copy for a few epochs to
    see how noisy its gradient is. Nothing is left behind but what --out and --plot name.

    For example:
      epochal plan digits
      epochal plan houses.csv --target price --memory-limit 2GiB --plot plan.png
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """As for fit."""
    target: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None
    """Column to predict, as for fit."""
    task: Literal["classification", "regression"] | None = None
    """What to learn, as for fit."""
    drop: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="COLUMN")] = ()
    """Column to leave out; may be given several times."""
    categorical: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="COLUMN")] = ()
    """Column whose numbers are names; may be given several times."""
    batch_sizes: Annotated[tuple[int | Literal["full"], ...], tyro.conf.arg(metavar="N|full …")] = ()
    """Choose among these. Default: any size."""
    memory_limit: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None
    """Such as 600MB or 2GiB. Default: EPOCHAL_MEMORY_LIMIT, or what the machine has left."""
    max_seconds: float = 60.0
    """About how long to measure, compiling included."""
    validation_split: float = 0.2
    """Part of the rows that fit would hold out."""
    learning_rate: float = 1e-3
    """Of Adam in the trial training. A --model that is compiled keeps its own."""
    model: Annotated[str | None, tyro.conf.arg(metavar="FILE.py:function")] = None
    """A function that returns an epochal.Model, as for fit."""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE.json")] = None
    """Write the plan as JSON."""
    plot: Annotated[str | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Draw its curves."""
    seed: int = 0
    """Decides the split, the first weights and what is drawn."""


@dataclass(frozen=True)
class Study:
    """Which batch size is good for what: trains with several, and writes a page that compares them.

    Every size gets its own learning rate, and is read after the same number of epochs and after the same number of
    updates. Run the same command again to go on with a study that was broken off.

    For example:
      epochal study digits
      epochal study houses.csv --target price --batch-sizes 8 64 full --seeds 2
      epochal study digits --reach 0.97 --learning-rates sqrt
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """As for fit."""
    target: Annotated[str | None, tyro.conf.arg(metavar="COLUMN")] = None
    """Column to predict, as for fit."""
    task: Literal["classification", "regression"] | None = None
    """What to learn, as for fit."""
    drop: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="COLUMN")] = ()
    """Column to leave out; may be given several times."""
    categorical: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="COLUMN")] = ()
    """Column whose numbers are names; may be given several times."""
    batch_sizes: Annotated[tuple[int | Literal["full"], ...], tyro.conf.arg(metavar="N|full …")] = (
        *(1, 8, 32, 64, 128, 256),
        "full",
    )
    """Rows per update, one after the other; "full" is all of them."""
    epochs: int | None = None
    """First budget, in passes over the training rows. Default: as many as see 60,000 rows, but 2 to 40."""
    updates: int | None = None
    """Second budget. Default: as many as see 3,000,000 rows in full batches, but 100 to 2,000."""
    reach: Annotated[float | None, tyro.conf.arg(metavar="VALUE")] = None
    """Validation accuracy (or mean absolute error) the way to which is timed. Default: one that most sizes reach."""
    seeds: int = 3
    """Fits per batch size, each with other first weights and another order of the rows."""
    learning_rates: Literal["tune", "linear", "sqrt", "fixed"] = "tune"
    """Tuned for every size, or --learning-rate (for batches of 32) scaled by a rule."""
    validation_split: float = 0.2
    """Part of the rows that is held out to validate on."""
    learning_rate: float = 1e-3
    """Of Adam, where the search begins. A --model that is compiled keeps its own."""
    model: Annotated[str | None, tyro.conf.arg(metavar="FILE.py:function")] = None
    """A function that returns an epochal.Model, as for fit."""
    out: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of the study. Default: studies/<source>."""
    seed: int = 0
    """Decides the split."""
    verbose: Literal[0, 1] = 1
    """Progress: 0 none, 1 tells of every fit and how long the rest will take."""


@dataclass(frozen=True)
class Evaluate:
    """Loss and metrics of a trained model on a table.

    Columns are prepared as in training; columns that the model does not know are passed over.

    For example:
      epochal evaluate runs/20260101-120000-digits digits --rows validation
      epochal evaluate runs/20260101-120000-houses new.csv
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder, or the model/ folder in it."""
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """As for fit. Of a .npz with x_test and y_test, these are taken."""
    rows: Literal["all", "training", "validation"] = "all"
    """Of the table that was trained on: only the rows that were trained on, or only those that were held out."""


@dataclass(frozen=True)
class Predict:
    """Predictions of a trained model for a table, one line per row, in its order.

    Classification: `prediction` and a `probability_<class>` column for every class. Regression: `prediction`.

    For example:
      epochal predict runs/20260101-120000-houses new.csv -o prices.csv
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder, or the model/ folder in it."""
    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """As for fit; the target column may be there or not. Of a .npz with x_test, this is taken."""
    output: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """The .csv to write."""
    force: bool = False
    """Replace the file if it exists."""


Command = Fit | Replay | Evaluate | Predict | Plan | Study
