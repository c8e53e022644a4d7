"""The picture of a run."""

import math

import matplotlib.image
import pytest

from epochal.display.curves import draw_curves, plateau, shown_metric
from epochal.display.text import listed


def curves(n=40):
    fall = [2.0 * math.exp(-e / 5) + 0.02 for e in range(n)]
    return {
        "loss": fall,
        "accuracy": [1 - f / 3 for f in fall],
        "val_loss": [f + 0.05 + 0.002 * e for e, f in enumerate(fall)],
        "val_accuracy": [0.97 - f / 3 for f in fall],
    }


def picture(path):
    pixels = matplotlib.image.imread(path)[:, :, :3]
    inked = (pixels.min(axis=2) < 0.95).mean()
    assert 0.01 < inked < 0.9, "neither blank nor full"
    return pixels.shape[:2]


def test_curves_are_a_picture_of_the_right_size(tmp_path):
    path = tmp_path / "curves.png"
    draw_curves(path, list(range(1, 41)), curves(), 17, "digits")
    assert picture(path) == (675, 1500)


@pytest.mark.parametrize(
    "history",
    [
        {name: values[:1] for name, values in curves().items()},
        {name: values[:2] for name, values in curves().items()},
        {"loss": [3.0, 2.0, 1.0]},
        {"loss": [1.0] * 6, "mae": [1.0] * 6, "val_loss": [1.0] * 6, "val_mae": [1.0] * 6},
        {"loss": [math.nan, math.inf, 1.0], "r2_score": [-50.0, 0.1, 0.2], "val_loss": [math.nan] * 3},
        {"loss": [2.0, 1.0, 0.5, 0.4], "accuracy": [0.1, 0.2, 0.3, 0.4], "val_loss": [1.0, 0.9]},
        {"loss": [], "accuracy": []},
    ],
)
def test_odd_histories_are_drawn_too(tmp_path, history):
    n = len(history["loss"])
    draw_curves(tmp_path / "c.png", list(range(1, n + 1)), history, 1 if n else None)
    assert picture(tmp_path / "c.png")[0] == 675


def test_nothing_is_left_in_pyplot(tmp_path):
    import sys

    before = "matplotlib.pyplot" in sys.modules
    draw_curves(tmp_path / "c.png", [1, 2], {"loss": [2.0, 1.0]})
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_plateau():
    fall = [math.exp(-e / 3) for e in range(40)]
    index = plateau(fall)
    assert index == next(i for i, f in enumerate(fall) if f - fall[-1] <= 0.02 * (fall[0] - fall[-1]))
    assert plateau([10 - e for e in range(10)]) is None  # still falling
    assert plateau([1.0] * 10) is None  # never fell
    assert plateau([3, 2, 1]) is None  # too short to say
    assert plateau([math.nan] * 10) is None
    assert plateau([*fall[:20], math.nan, *fall[20:]]) == index


def test_shown_metric():
    assert shown_metric({"loss": [], "mae": [], "r2_score": [], "val_mae": []}) == "r2_score"
    assert shown_metric({"loss": [], "learning_rate": [], "f1": []}) == "f1"
    assert shown_metric({"loss": [], "val_loss": []}) is None
    assert listed(["a", "b", "c"], 2) == "a, b, … (1 more)"
