"""Training and validation rows, from the seed alone."""

from __future__ import annotations

import math

import numpy as np

from epochal.support.errors import InputError

_BINS = 10  # a number to be predicted is spread over the two parts by tenths of its rows


def split_rows(target: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shuffles the rows by `seed`, then parts them so that both parts have the same mix of targets.

    Rows are put in random order, then sorted by stratum (a class; or, for numbers with many values, the tenth that the
    value falls in), and every (1/fraction)-th row from a random start goes to validation: each stratum's share is
    right to within a row or two. One row of every class is kept for training, so that no class is unknown to the model.

    Args:
        target: (n,) class indices (integers) or numbers (floats).
        fraction: the part of all rows that validates; the count is n - floor(n (1 - fraction)), as Keras has it.
        seed: the same seed and the same rows give the same split.

    Returns:
        Row indices, training (shuffled) and validation (ascending).

    Raises:
        InputError: too few rows for both parts.
    """
    n = len(target)
    held_out = n - math.floor(round(n * (1 - fraction), 6))
    is_class = target.dtype.kind in "iu"
    kept = len(np.unique(target)) if is_class else 1
    if not 0 < held_out <= n - kept:
        need = f"at least {kept} for training (one of each class)" if is_class else "at least 1 for training"
        raise InputError(
            f"Too few rows: --validation-split {fraction:g} of {n} rows takes {held_out} for validation and leaves "
            f"{n - held_out}, expected {need} and 1 for validation."
        )
    random = np.random.default_rng([seed, 0x5B117])
    order = random.permutation(n)
    strata = target if is_class else np.argsort(np.argsort(target, kind="stable"), kind="stable") * _BINS // n
    by_stratum = order[np.argsort(strata[order], kind="stable")]
    if is_class:  # the first row of each class is not for validation
        by_stratum = np.delete(by_stratum, np.unique(strata[by_stratum], return_index=True)[1])
    picked = np.floor((np.arange(held_out) + random.random()) * len(by_stratum) / held_out).astype(np.int64)
    is_validation = np.zeros(n, dtype=bool)
    is_validation[by_stratum[picked]] = True
    return order[~is_validation[order]], np.flatnonzero(is_validation)
