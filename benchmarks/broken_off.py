"""One experiment on three libraries: training is broken off in mid-epoch and started again by the library's own means.

    pip install -e ".[bench]" lightning && python benchmarks/broken_off.py

40 examples, batches of 4, one epoch of 10 updates, shuffled, Adam; a checkpoint after 5 updates, and there it ends. The
script is then run again. Counted are the updates that the optimizer has made at the end, and how often each example was
trained on; the weights are compared with those of a run that was not broken off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

N, M, BREAK = 40, 4, 5


class Broken(Exception):
    """The crash."""


def with_keras(k: Any, folder: Path, breaks: bool) -> tuple[int, list[float]]:
    """Real Keras, or epochal by Keras's names. Returns the number of updates and the weights."""
    import numpy as np

    class Crash(k.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if breaks and batch == BREAK:
                raise Broken

    k.utils.set_random_seed(0)
    ids = np.arange(N, dtype=np.float32)
    x, y = ids[:, None] / N, np.sin(ids)[:, None]
    model = k.Sequential([k.Input((1,)), k.layers.Dense(8, activation="tanh"), k.layers.Dense(1)])
    model.compile("adam", k.losses.MeanSquaredError())
    backup = k.callbacks.BackupAndRestore(str(folder / "backup"), save_freq=BREAK)
    model.fit(x, y, batch_size=M, epochs=1, verbose=0, callbacks=[backup, Crash()])
    return int(model.optimizer.iterations), [float(w) for a in model.get_weights() for w in a.ravel()]


def with_lightning(folder: Path, breaks: bool) -> tuple[int, list[float]]:
    """PyTorch Lightning, with `ModelCheckpoint(every_n_train_steps)` and `fit(ckpt_path=…)`."""
    import lightning
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint

    lightning.seed_everything(0, verbose=False)
    ids = torch.arange(N, dtype=torch.float32)
    data = torch.utils.data.TensorDataset(ids[:, None] / N, torch.sin(ids)[:, None], ids)

    class Net(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

        def training_step(self, batch: Any, index: int) -> Any:
            if breaks and index == BREAK:
                raise Broken
            x, y, number = batch
            with (folder / "ids").open("a") as file:
                file.write("".join(f"{int(i)}\n" for i in number))
            return torch.nn.functional.mse_loss(self.net(x), y)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    saver = ModelCheckpoint(dirpath=folder / "kept", every_n_train_steps=BREAK, save_top_k=-1)
    trainer = lightning.Trainer(
        max_epochs=1,
        callbacks=[saver],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    kept = sorted((folder / "kept").glob("*.ckpt"))
    model = Net()
    loader = torch.utils.data.DataLoader(data, batch_size=M, shuffle=True)
    trainer.fit(model, loader, ckpt_path=kept[0] if kept else None)
    return trainer.global_step, [float(w) for p in model.parameters() for w in p.detach().ravel()]


def one(library: str, folder: Path, breaks: bool) -> None:
    folder.mkdir(exist_ok=True)
    if library == "lightning":
        updates, weights = with_lightning(folder, breaks)
    else:
        import importlib

        updates, weights = with_keras(importlib.import_module(library), folder, breaks)
    print("result", json.dumps([updates, weights]), flush=True)


def result(library: str, folder: Path, breaks: bool) -> tuple[int, list[float]] | None:
    command = [sys.executable, __file__, library, str(folder), str(int(breaks))]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("result ")]
    if not lines and "Broken" not in done.stderr:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(lines[0].removeprefix("result ")) if lines else None


def main() -> None:
    if len(sys.argv) > 1:
        one(sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "1")
        return
    print("| library | updates at the end (10 are right) | weights of a run that was not broken off | examples |")
    print("|---|---:|---|---|")
    for library in ("epochal", "keras", "lightning"):
        with tempfile.TemporaryDirectory() as top:
            whole = result(library, Path(top) / "whole", False)
            assert whole is not None
            assert result(library, Path(top) / "broken", True) is None
            again = result(library, Path(top) / "broken", False)
            assert again is not None
            equal = "the same bits" if again[1] == whole[1] else "others"
            seen = Path(top) / "broken" / "ids"
            counts = Counter(seen.read_text().split()) if seen.exists() else Counter()
            twice = sum(c > 1 for c in counts.values())
            words = f"{twice} twice, {N - len(counts)} never" if counts else "not counted"
            print(f"| {library} | {again[0]} | {equal} | {words} |", flush=True)


if __name__ == "__main__":
    main()
