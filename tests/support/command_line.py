"""The command line in tests: its arguments and what it leaves behind."""

import csv
import json
import sys

import numpy as np
import polars as pl

PROGRAM = [sys.executable, "-m", "epochal"]


def houses(n=120, seed=0):
    """Sizes, towns, gardens and a price that follows from them; some sizes are missing."""
    random = np.random.default_rng(seed)
    size, town, garden = random.normal(100, 30, n), random.integers(0, 3, n), random.random(n) < 0.5
    price = 200_000 + 2_000 * size + 30_000 * town + 10_000 * garden + random.normal(0, 5_000, n)
    return pl.DataFrame(
        {
            "size": [None if i % 11 == 5 else float(s) for i, s in enumerate(size)],
            "town": [["Ulm", "Bonn", "Köln, Süd"][t] for t in town],
            "garden": garden,
            "user_id": np.arange(n),
            "price": price,
        }
    )


FIXED = ["--batch-size", "32"]  # what is not of measuring does not measure
FLOWERS = ["fit", "iris", "--epochs", "12", "--seed", "1", "--verbose", "0", *FIXED]


def read_json(path):
    return json.loads(path.read_text())


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


SHORT = ["fit", "digits", "--epochs", "25", "--no-plot", "--verbose", "0", *FIXED, "--run-dir"]
