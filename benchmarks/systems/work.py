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
        kind: the model: "mlp", "cnn", "lstm", "transformer", or one of `IMAGES`.
        n: examples.
        m: batch size.
        sizes: the layers of an MLP, from input to output.
        task: what is timed: "fit" (seconds per step of whole fits), "predict", "predict_on_batch", "train_on_batch"
            (seconds per call, in a loop).
        bare: the largest ratio to the bare loop that is the aim; None for no such aim.
        peers: the smallest ratio of any peer to epochal that is the aim; None for no such aim.
        keras: the same, of Keras's backends alone.
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
    keras: float | None = None
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
        x = rng.normal(size=(self.n, *self.shape)).astype(np.float32)
        if self.loss == "mse":
            return x, x
        places = self.shape[:-1] if self.kind == "unet" else ()
        return x, rng.integers(0, self.classes, (self.n, *places)).astype(np.int32)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example; not of a transformer's."""
        return ({"mlp": self.sizes[:1], "cnn": (28, 28, 1), "lstm": (32, 64)} | IMAGES)[self.kind]

    @property
    def loss(self) -> str:
        """Keras's name of the loss."""
        return "mse" if self.kind == "autoencoder" else "sparse_categorical_crossentropy"

    @property
    def classes(self) -> int:
        """The number of classes."""
        many = {"mlp": (self.sizes or (0,))[-1], "transformer": VOCABULARY, "unet": 2, "autoencoder": 1}
        return many.get(self.kind, 10)

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
            "resnet": "32×32×3, ResNet-14: three stages of two blocks, 16, 32 and 64 channels, BatchNorm",
            "unet": "48×48×1, a U-Net of 16, 32 and 64 channels, 2 classes for each pixel",
            "conv1d": "1,000 steps × 8 features, convolutions of 9 steps to 32 and 64, the mean over time",
            "autoencoder": "28×28×1, 3×3 convolutions with strides of 2 to 16 and 32, transposed ones to 32 and 16, "
            "one to 1, mean squared error",
            "mobilenet": "32×32×3, a convolution to 16, then five times a depthwise 3×3 and a 1×1, to 128, BatchNorm",
        }[self.kind]


VOCABULARY, TOKENS, FEATURES, HEADS, BLOCKS, UNITS = 1000, 64, 128, 4, 2, 128

# kind -> the shape of one example
IMAGES = {
    "resnet": (32, 32, 3),
    "unet": (48, 48, 1),
    "conv1d": (1000, 8),
    "autoencoder": (28, 28, 1),
    "mobilenet": (32, 32, 3),
}
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
WORKS |= {
    f"{kind}_{m}": Work(kind, n, m, "≥ 1.0× any Keras", keras=1.0)
    for kind in IMAGES
    for m, n in ((1, 32), (8, 128), (32, 256), (128, 512))
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
