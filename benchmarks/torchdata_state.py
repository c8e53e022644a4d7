"""Where torchdata's `StatefulDataLoader` does not go on exactly by its own state, shown with torchdata alone.

    python benchmarks/torchdata_state.py

Each loader is gone over three times; then it is broken off in the first pass, made again, and goes on from its
`state_dict()`. Printed is whether the rest of that pass and the pass behind it are what they were. What epochal does
about each is in the last column: `data/streams/torch_loader.py`.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch.utils.data import BatchSampler, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler

N = 20


class Rows:
    def __init__(self, noise: bool = False):
        self.noise = noise

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return i + (torch.rand(()).item() if self.noise else 0)


class Endless(IterableDataset):
    """One without a state."""

    def __iter__(self) -> Any:
        return iter(range(N))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def several_draws() -> dict[str, Any]:
    generator = seeded()
    return {"sampler": RandomSampler(range(N), num_samples=30, generator=generator), "generator": generator}


CASES: dict[str, tuple[Any, str]] = {
    "shuffle=True": (lambda: {"dataset": Rows(), "shuffle": True}, "its state, and torch's global one"),
    "shuffle=True, generator=…": (
        lambda: {"dataset": Rows(), "shuffle": True, "generator": seeded()},
        "its state, and the generator's",
    ),
    "a sampler that draws several times a pass": (lambda: {"dataset": Rows(), **several_draws()}, "skips"),
    "batch_sampler=… of torch's": (
        lambda: {
            "dataset": Rows(),
            "batch_sampler": BatchSampler(torch.utils.data.RandomSampler(range(N)), 4, False),
            "batch_size": 1,
        },
        "skips without workers; with them its state",
    ),
    "an iterable dataset without a state": (lambda: {"dataset": Endless()}, "skips"),
    "random numbers in `__getitem__`": (
        lambda: {"dataset": Rows(noise=True), "shuffle": True},
        "its state and the global one; those of workers are lost",
    ),
}


def made(case: str, workers: int) -> StatefulDataLoader:
    torch.manual_seed(0)
    return StatefulDataLoader(**{"batch_size": 4, "num_workers": workers, **CASES[case][0]()})


def goes_on(case: str, workers: int, stops: list[int]) -> tuple[bool, bool]:
    """Whether the rest of the pass, and the next pass, come as they would have."""
    whole = made(case, workers)
    passes = [[batch.tolist() for batch in whole] for _ in range(2)]
    state, done = None, 0
    for stop in stops:
        loader = made(case, workers)
        if state is not None:
            loader.load_state_dict(state)
        batches = iter(loader)
        for _ in range(stop):
            next(batches)
        state, done = loader.state_dict(), done + stop
    loader = made(case, workers)
    loader.load_state_dict(state)
    try:
        rest, then = [batch.tolist() for batch in loader], [batch.tolist() for batch in loader]
    except ValueError:
        return False, False
    return rest == passes[0][done:], then == passes[1]


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print("| loader | workers | broken off | rest of the pass | next pass | epochal goes on by |")
    print("|---|---|---|---|---|---|")
    words = {True: "the same", False: "**other**"}
    for case, (_, ours) in CASES.items():
        for workers in (0, 2):
            for stops in ([2], [1, 1]):
                rest, then = goes_on(case, workers, stops)
                often = "once" if len(stops) == 1 else "twice"
                print(f"| {case} | {workers} | {often} | {words[rest]} | {words[then]} | {ours} |")


if __name__ == "__main__":
    main()
