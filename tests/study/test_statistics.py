"""The statistics of a study follow closed forms."""

import itertools
import math

import numpy as np
import pytest

from epochal.critical_batch import fit_steps_to_target
from epochal.study import statistics
from epochal.study.protocol import first_rates, next_rates, protocol_of
from epochal.study.statistics import EPOCHS, TARGET, UPDATES, Judge


def noisy_quadratic(m, rate, marks):
    """Half the expected loss of w with curvature and noise 1/i, from E w² = 1: exact, without drawing a number."""
    h = 1 / np.arange(1, 101)
    square, losses, done = np.ones(100), [], 0
    for mark in marks:
        for _ in range(mark - done):
            square = (1 - rate * h) ** 2 * square + rate**2 * h / m
        done = mark
        losses.append(float(h @ square / 2))
    return losses


def test_the_noisy_quadratic_has_its_known_critical_batch_size():
    """S_min 14.8 and B 26.6 (the shared design's reference), from fits with a grid of learning rates."""
    judge = Judge("loss", False)
    start = float((1 / np.arange(1, 101)).sum() / 2)
    sizes = [2**k for k in range(11)]
    protocol = protocol_of(1024, sizes, 1, 600, 1, "fixed")
    counts = []
    for m in sizes:
        marks = protocol.marks(m)
        fits = []
        for rate in np.geomspace(0.002, 1.99, 40):
            losses = noisy_quadratic(m, rate, marks)
            fits.append({"size": m, "rate": rate, "updates": marks, "val_loss": losses})
        best = statistics.best_rate(fits, protocol, TARGET, judge, 0.1 * start)
        counts.append(statistics.updates_to(best, 0.1 * start, judge))
    law = fit_steps_to_target(sizes, counts)
    assert law.min_steps == pytest.approx(14.8, rel=0.1)
    assert law.value == pytest.approx(26.6, rel=0.1)
    assert law.low < 26.6 < law.high


def test_updates_to_a_target_lie_between_evaluations():
    fit = {"updates": [1, 4, 16, 64], "val_accuracy": [0.1, 0.5, 0.9, 0.8]}
    judge = Judge("accuracy", True)
    assert statistics.updates_to(fit, 0.1, judge) == 1
    assert statistics.updates_to(fit, 0.7, judge) == pytest.approx(8)  # half way up, half way on a log scale
    assert statistics.updates_to(fit, 0.95, judge) is None
    falling = {"updates": [1, 10], "val_loss": [2.0, 1.0]}
    assert statistics.updates_to(falling, 1.5, Judge("loss", False)) == pytest.approx(math.sqrt(10))


def test_a_chosen_target_is_one_that_most_sizes_reach():
    judge = Judge("accuracy", True)
    fits = [
        {"size": m, "val_accuracy": [0.1, best - 0.1, best]}
        for m, best in ((1, 0.9), (8, 0.95), (64, 0.94), (512, 0.3))
    ]
    target = statistics.chosen_target(fits, judge)
    assert target == pytest.approx(0.9 - 0.02 * 0.8)
    assert statistics.chosen_target([{"size": 1, "val_accuracy": []}], judge) is None


def test_budgets_are_read_off_the_same_fit_where_it_was_evaluated():
    protocol = protocol_of(1000, (1, 64, "full", 5000), 5, 300, 1, "tune")
    assert protocol.sizes == (1, 64, 1000)
    for size in protocol.sizes:
        marks = protocol.marks(size)
        assert statistics.budget(protocol, EPOCHS, size) in marks
        assert statistics.budget(protocol, UPDATES, size) in marks
        assert marks[0] == 1
        assert marks[-1] == protocol.length(size) == max(5 * -(-1000 // size), 300)
        assert max(b / a for a, b in itertools.pairwise(marks) if a >= 8) < 1.2
    assert (
        protocol_of(1437, (1,), None, None, 3, "tune").epochs,
        protocol_of(60_000, (1,), None, None, 3, "tune").epochs,
    ) == (40, 2)


def test_learning_rates_are_tried_until_the_best_is_not_at_the_edge():
    protocol = protocol_of(1000, (128,), 1, 1, 1, "tune")
    tried = first_rates(protocol, 128, 0.1, "linear")
    assert tried == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert next_rates(protocol, tried, [0.4, 0.8]) == []
    assert next_rates(protocol, tried, [0.1, 0.4]) == [0.05]
    assert next_rates(protocol, tried, [1.6]) == [3.2]
    assert next_rates(protocol, [0.1 * 2.0**k for k in range(15)], [0.1]) == []  # it ends somewhere
    for rule, rate in (("fixed", 0.1), ("sqrt", 0.2), ("linear", 0.4)):
        assert first_rates(protocol_of(1000, (128,), 1, 1, 1, rule), 128, 0.1, "sqrt") == [rate]
