"""What TensorBoard itself reads in a folder of events."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read(path: Path) -> EventAccumulator:
    """All that is in a run."""
    events = EventAccumulator(str(path), {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    events = read(path)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
