"""PyTorch: a plain loop with fused Adam, Lightning and skorch, all with the same modules."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from systems import images_torch
from systems.work import BLOCKS, FEATURES, HEADS, IMAGES, TOKENS, UNITS, VOCABULARY, Candidates, NoSuchCall, Run, Work


def make(system: str, work: Work) -> Candidates:
    """The runs of a work."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return {"": {"torch": _plain, "lightning": _lightning, "skorch": _skorch}[system](work)}


class Last(nn.Module):
    """The last output of an LSTM over (n, t, features)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(64, UNITS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0][:, -1]


class Block(nn.Module):
    """A pre-norm transformer block; queries, keys and values in one product."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(FEATURES) for _ in range(2))
        self.qkv, self.out = nn.Linear(FEATURES, 3 * FEATURES), nn.Linear(FEATURES, FEATURES)
        self.mlp = nn.Sequential(nn.Linear(FEATURES, 4 * FEATURES), nn.GELU(), nn.Linear(4 * FEATURES, FEATURES))

    def forward(self, h: Tensor) -> Tensor:
        n, t, _ = h.shape
        parts = self.qkv(self.norms[0](h)).view(n, t, 3, HEADS, FEATURES // HEADS).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*parts, is_causal=True)
        h = h + self.out(y.transpose(1, 2).reshape(n, t, FEATURES))
        return h + self.mlp(self.norms[1](h))


class Transformer(nn.Module):
    """(n, tokens) -> (n, tokens, vocabulary)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, FEATURES)
        self.positions = nn.Parameter(0.02 * torch.randn(TOKENS, FEATURES))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.head = nn.Linear(FEATURES, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.table(x) + self.positions))


def module_of(work: Work) -> nn.Module:
    """The model; it returns logits."""
    if work.kind in IMAGES:
        return images_torch.module_of(work.kind, work.shape[-1], work.classes)
    if work.kind == "mlp":
        pairs = zip(work.sizes[:-1], work.sizes[1:], strict=True)
        layers = [part for pair in pairs for part in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*layers[:-1])
    if work.kind == "cnn":
        convolutions = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU()]
        return nn.Sequential(*convolutions, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1600, 10))
    return nn.Sequential(Last(), nn.Linear(UNITS, 10)) if work.kind == "lstm" else Transformer()


def arrays_of(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """The data as PyTorch wants it: channels first, int64 classes."""
    x, y = work.data()
    y = y if work.loss == "mse" else y.astype(np.int64)
    return (np.moveaxis(x, -1, 1).copy() if work.kind == "cnn" or work.kind in IMAGES else x), y


def loss_of(logits: Tensor, y: Tensor) -> Tensor:
    """The mean crossentropy over all positions."""
    return F.cross_entropy(logits.flatten(0, -2), y.flatten())


def _plain(work: Work) -> Run:
    model = module_of(work)
    x, y = (torch.from_numpy(a) for a in arrays_of(work))
    if work.kind in IMAGES and x.ndim == 4:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    squared = work.loss == "mse"
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def step(xb: Tensor, yb: Tensor) -> tuple[Tensor, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        logits = model(xb)
        loss = F.mse_loss(logits, yb) if squared else loss_of(logits, yb)
        loss.backward()
        optimizer.step()
        right = (logits.detach() - yb).abs() if squared else (logits.detach().argmax(-1) == yb).float()
        return loss.detach(), right.mean()

    def fit(epochs: int) -> None:
        for _ in range(epochs):
            sums = torch.zeros(2)
            for rows in torch.randperm(work.n).split(work.m):
                loss, accuracy = step(x[rows], y[rows])
                sums += torch.stack([loss, accuracy]) * len(rows)
            sums.tolist()

    def predict(calls: int) -> None:
        with torch.inference_mode():
            for _ in range(calls):
                model(x).softmax(-1).numpy()

    def train(calls: int) -> None:
        for _ in range(calls):
            [value.item() for value in step(x, y)]

    return {"fit": fit, "predict": predict, "predict_on_batch": predict, "train_on_batch": train}[work.task]


def _lightning(work: Work) -> Run:
    if work.kind in IMAGES:
        raise NoSuchCall("its modules are the PyTorch loop's")
    if work.task != "fit":
        raise NoSuchCall("its Trainer sets up anew in every call")
    import lightning
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = module_of(work)

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            logits = self.model(x)
            loss = loss_of(logits, y)
            accuracy = (logits.detach().argmax(-1) == y).float().mean()
            self.log_dict({"loss": loss, "accuracy": accuracy}, on_step=False, on_epoch=True, batch_size=len(x))
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), fused=True)

    data = TensorDataset(*(torch.from_numpy(a) for a in arrays_of(work)))
    # whole batches are indexed at once, which is several times faster than example by example
    loader = DataLoader(data, sampler=BatchSampler(RandomSampler(data), work.m, False), batch_size=None)
    module = Module()

    def fit(epochs: int) -> None:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", enable_model_summary=False, **quiet)
        trainer.fit(module, loader)

    return fit


def _skorch(work: Work) -> Run:
    if work.kind in IMAGES:
        raise NoSuchCall("its modules are the PyTorch loop's")
    import skorch

    x, y = arrays_of(work)
    net = skorch.NeuralNetClassifier(
        module_of(work),
        criterion=_Flat,
        optimizer=torch.optim.Adam,
        optimizer__fused=True,
        batch_size=work.m,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks__print_log=None,
        classes=list(range(work.classes)),
        verbose=0,
    ).initialize()

    def calls(method: Any) -> Run:
        return lambda count: [method() for _ in range(count)] and None

    rows = torch.from_numpy(x), torch.from_numpy(y)
    return {
        "fit": lambda epochs: net.partial_fit(x, y, epochs=epochs),
        "predict": calls(lambda: net.predict_proba(x)),
        "predict_on_batch": calls(lambda: net.evaluation_step((x, y), training=False).numpy()),
        "train_on_batch": calls(lambda: net.train_step(rows)),
    }[work.task]


class _Flat(nn.Module):
    """`loss_of` as skorch wants it."""

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        return loss_of(logits, y)
