"""The work that every system does: shapes, data and what is to be reached. NumPy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Work:
    """One row of the table.

    Attributes:
        kind: the model: "mlp", "cnn", "lstm", "transformer".
        n: examples.
        m: batch size.
        sizes: the layers of an MLP, from input to output.
        task: what is timed: "fit" (seconds per step of whole fits), "predict", "predict_on_batch", "train_on_batch"
            (seconds per call, in a loop).
        bare: the largest ratio to the bare loop that is the aim; None for no such aim.
        peers: the smallest ratio of any peer to epochal that is the aim; None for no such aim.
        seconds: the largest time per step or call that is the aim; None for no such aim.
        target: the aim in words.
    """

    kind: str
    n: int
    m: int
    target: str
    sizes: tuple[int, ...] = ()
    task: str = "fit"
    bare: float | None = None
    peers: float | None = None
    seconds: float | None = None

    @property
    def steps(self) -> int:
        """Steps of an epoch, or 1 where calls are timed."""
        return -(-self.n // self.m) if self.task == "fit" else 1

    def data(self) -> Arrays:
        """Inputs and class numbers; random, as only the time counts."""
        rng = np.random.default_rng(0)
        if self.kind == "transformer":
            return tuple(rng.integers(0, VOCABULARY, (self.n, TOKENS)).astype(np.int32) for _ in range(2))  # type: ignore
        shape = {"mlp": self.sizes[:1], "cnn": (28, 28, 1), "lstm": (32, 64)}[self.kind]
        x = rng.normal(size=(self.n, *shape)).astype(np.float32)
        return x, rng.integers(0, self.classes, self.n).astype(np.int32)

    @property
    def classes(self) -> int:
        """The number of classes."""
        return {"mlp": (self.sizes or (0,))[-1], "cnn": 10, "lstm": 10, "transformer": VOCABULARY}[self.kind]

    @property
    def describe(self) -> str:
        """The model in words."""
        return {
            "mlp": f"MLP {'-'.join(map(str, self.sizes))}",
            "cnn": "28×28×1: 3×3 convolutions to 32 and 64 channels, each with ReLU and 2×2 max-pooling, "
            "then 10 classes",
            "lstm": "32 steps × 64 features, an LSTM of 128 units, its last output to 10 classes",
            "transformer": "64 tokens of 1,000, 128 features, 2 pre-norm blocks (4 causal heads, GELU MLP "
            "128-512-128), 1,000 classes at each token",
        }[self.kind]


VOCABULARY, TOKENS, FEATURES, HEADS, BLOCKS, UNITS = 1000, 64, 128, 4, 2, 128

TINY = (1, 16, 32, 2)
DENSE = (2048, 2048, 2048, 10)
WORKS = {
    "tiny": Work("mlp", 2100, 10, "≤ 1.3× bare, ≥ 15× any peer", TINY, bare=1.3, peers=15),
    "mlp_32": Work("mlp", 4096, 32, "≤ 1.1× bare, ≥ 1.6× any peer", (784, 512, 512, 10), bare=1.1, peers=1.6),
    "mlp_128": Work("mlp", 4096, 128, "≤ 1.1× bare, ≥ 1.2× any peer", (784, 512, 512, 10), bare=1.1, peers=1.2),
    "cnn": Work("cnn", 1024, 64, "≥ 1.1× any peer", peers=1.1),
    "lstm": Work("lstm", 2048, 32, "≥ 1.0× any peer", peers=1.0),
    "transformer": Work("transformer", 320, 32, "≥ 1.0× any peer", peers=1.0),
    "predict_one": Work("mlp", 1, 1, "≤ 100 µs", TINY, "predict", seconds=100e-6),
    "predict_on_batch": Work("mlp", 1, 1, "≤ 50 µs", TINY, "predict_on_batch", seconds=50e-6),
    "train_on_batch": Work("mlp", 10, 10, "≤ 3× a bare jit call", TINY, "train_on_batch", bare=3),
    "dense": Work("mlp", 4096, 2048, "≥ 80 % of the machine's matmul rate", DENSE),
}


class NoSuchCall(Exception):
    """A system has no way to do a work."""


# What runs the work: run(k) does k epochs or calls. Several are candidates, of which the fastest counts.
Run = Callable[[int], Any]
Candidates = dict[str, Run]


def dense_flops(work: Work) -> float:
    """Floating-point operations of one step's matrix products: 2 m i o forward and twice that backward, less the
    gradient of the first layer's input, which nobody needs."""
    products = [2.0 * work.m * i * o for i, o in zip(work.sizes[:-1], work.sizes[1:], strict=True)]
    return 3 * sum(products) - products[0]
