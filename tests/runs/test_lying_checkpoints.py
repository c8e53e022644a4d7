"""Checkpoints that are whole, and lie."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.data import digits
from support.same import same
from support.strangers import ends_cleanly

import epochal as keras
from epochal import layers
from epochal.runs.checkpoint_file import read, write
from epochal.runs.codec import decode
from epochal.runs.store import Store


@pytest.mark.parametrize(("shape", "chunks"), [([10**11], [50]), ([50], [10**11]), ([2**40, 2**40], [1, 1])])
def test_a_checkpoint_is_held_against_the_size_of_its_files(
    shape: list[int], chunks: list[int], tmp_path: Path
) -> None:
    import tensorstore

    path = tmp_path / "inner" / "epoch-000001-batch-000000000"
    write(path, {"a": np.arange(50.0), "b": np.zeros((100, 100), np.float32)})
    assert read(path)["b"].shape == (100, 100)
    told = {"shape": shape, "chunks": chunks, "dtype": "<f8", "compressor": None, "fill_value": None, "order": "C"}
    base = {"driver": "ocdbt", "base": f"file://{path}/arrays/", "path": "00000/"}
    spec = {"driver": "zarr", "kvstore": base, "metadata": {**told, "filters": None, "zarr_format": 2}}
    tensorstore.open(spec, create=True, delete_existing=True).result()
    said = ends_cleanly(path.parent, lambda: read(path))
    assert said is not None
    assert re.search(r"it tells of [\d,]+ bytes of arrays, and has \d\d?,\d{3}\b", said)


def test_an_empty_array_of_a_checkpoint_is_empty() -> None:
    with pytest.raises(ValueError, match="empty array of shape"):
        decode({"kind": "empty", "value": ["float64", [10**12]]}, {})


class Kept:
    """A run that was kept, whose checkpoints tests write anew with other content, digest and all."""

    def __init__(self, folder: Path):
        self.folder, (self.x, self.y) = folder, digits(40)
        self.fit(epochs=1, callbacks=[keras.callbacks.BackupAndRestore(folder, 2, delete_checkpoint=False)])
        found = Store(folder).newest(before=(0, 2))
        assert found is not None
        self.path, self.content = found.path, found.content
        assert self.content["tally"]

    def fit(self, **how: Any) -> Any:
        self.model = keras.Sequential([layers.Dense(3, "relu", input_shape=(64,)), layers.Dense(10, "softmax")])
        self.model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
        self.before = self.model.get_weights()
        return self.model.fit(self.x, self.y, batch_size=16, shuffle=False, verbose=0, **how)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("kept"))


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({name: ... for name in ("seed", "epoch")}, "holds no run of this epochal: 'seed', 'epoch' is not in"),
    "a number for a list": ({"params": 3}, "holds no run of this epochal: 'params' is not in it, or of another kind"),
    "no weights told": ({"weights": ...}, "holds no run of this epochal: 'weights'"),
    "other shapes": ({"params": [np.zeros(3)] * 4}, "is damaged: its params are not of the shapes that it tells"),
    "no arrays": ({"optimizer": [1, 2]}, "cannot be used: AttributeError"),
    "no place": ({"place": {}}, "cannot be used: KeyError"),
    "no tally": ({"tally": [], "labels": []}, "cannot be used"),
    "another tally": ({"tally": [np.zeros(3)] * 9}, "cannot be used"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_checkpoint_that_is_whole_but_none_of_a_run_is_refused(lie: str, kept: Kept, tmp_path: Path) -> None:
    change, message = LIES[lie]
    content = {name: value for name, value in {**kept.content, **change}.items() if value is not ...}
    write(tmp_path / kept.path.name, content)
    with pytest.raises(ValueError, match=message):
        kept.fit(epochs=2, resume_from=tmp_path)
    assert same(kept.before, kept.model.get_weights())
