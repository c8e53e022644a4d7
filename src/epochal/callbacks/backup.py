"""The callback that keeps a run, so that it goes on where it was."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from epochal.callbacks.callback import Callback


class BackupAndRestore(Callback):
    """Keeps the whole run in a folder: run the same script again after a crash, and it goes on where it was.

    Kept are the weights, the optimizer's state, random streams, the place in the data to the batch, the metrics so far,
    the History and the state of every callback (`Callback.state_dict`), so that a run that was killed ends with the
    same bits as one that was not, on the same machine. Writing is done in the background, and a checkpoint is there
    whole or not at all. Ctrl-C and SIGTERM keep the run once more before it ends.

    Args:
        backup_dir: the folder; one run at a time, a second one is refused.
        save_freq: "epoch": after epochs, the first one and from then on as often as keeping the run takes at most 1 %
            of the time; a number of batches; or seconds, as "30s".
        double_checkpoint: taken for Keras's sake: `keep` checkpoints are kept in any case.
        delete_checkpoint: remove the checkpoints when training has come to its end.
        keep: how many checkpoints are kept, for when the newest is broken.

    Raises:
        ValueError: a `save_freq` or `keep` of another form.

    Example:
        >>> from epochal import callbacks
        >>> backup = callbacks.BackupAndRestore("backup", save_freq="30s")
    """

    keeps_run = True

    def __init__(
        self,
        backup_dir: str | Path,
        save_freq: Any = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
        *,
        keep: Any = 2,
    ):
        self.backup_dir, self.save_freq = Path(backup_dir), save_freq
        self.delete_checkpoint, self.keep = delete_checkpoint, keep
        self.steps = save_freq if isinstance(save_freq, int) and not isinstance(save_freq, bool) else None
        seconds = re.fullmatch(r"(\d+(?:\.\d+)?)s", save_freq) if isinstance(save_freq, str) else None
        self.seconds = float(seconds[1]) if seconds else None
        known = self.steps is not None or self.seconds is not None or save_freq == "epoch"
        if not known or (self.steps is not None and self.steps < 1):
            raise ValueError(
                f'Expected save_freq to be "epoch", a number of batches, or seconds such as "30s", got {save_freq!r}.'
            )
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ValueError(f"Expected keep to be an int >= 1, got {keep!r}.")
