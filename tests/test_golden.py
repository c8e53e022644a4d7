"""Files that an earlier epochal has written are read, and give what they gave; see tests/golden/README.md."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from golden import write

import epochal as keras
from epochal.cli.program import main

# The files were written on another machine, perhaps with another JAX.
pytestmark = pytest.mark.filterwarnings("ignore:.*goes on in another environment")

GOLDEN = Path(write.__file__).parent
NUMBERS = dict(np.load(GOLDEN / "numbers.npz"))
NAMES = json.loads((GOLDEN / "names.json").read_text())


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy of the files, which a test may change."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden"))


def test_the_files_are_few_and_small() -> None:
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 2**20


# -- models


@pytest.mark.parametrize("form", ["{}", "{}.keras"])
@pytest.mark.parametrize("name", write.MODELS)
def test_models_predict_and_go_on_training_as_they_did(name: str, form: str) -> None:
    found = write.numbers_of(name, GOLDEN / "models" / form.format(name))
    expected = {key: value for key, value in NUMBERS.items() if key.startswith(f"{name}/")}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-6, atol=1e-6, err_msg=key)


def test_weights_are_read_into_a_new_model() -> None:
    model = write.sequential()
    model.load_weights(GOLDEN / "models" / "sequential.safetensors")
    predicted = model.predict(write.features(), verbose=0)
    np.testing.assert_allclose(predicted, NUMBERS["sequential/predict/output"], rtol=1e-6, atol=1e-6)


def names_in(data: Any) -> list[str]:
    """The names of classes, functions and arguments in a description. Tensors have new numbers."""
    if isinstance(data, dict):
        named = [str(data[kind]) for kind in ("class", "function") if kind in data]
        return named + [name for key, value in data.items() for name in [key, *names_in(value)]]
    return [name for value in data for name in names_in(value)] if isinstance(data, list) else []


@pytest.mark.parametrize("name", write.MODELS)
def test_models_are_written_in_the_same_words(name: str, tmp_path: Path) -> None:
    """A model that was read is described as it was: no name in the file comes from where code lies today."""
    keras.saving.load_model(GOLDEN / "models" / name).save(tmp_path / name)
    old, new = [json.loads((folder / name / "config.json").read_text()) for folder in (GOLDEN / "models", tmp_path)]
    assert sorted(names_in(new)) == sorted(names_in(old))
    assert sorted(p.name for p in (tmp_path / name).iterdir()) == NAMES["model"]


# -- a run that was broken off


def test_a_run_goes_on_from_its_checkpoint_to_the_end_it_would_have_had(golden: Path) -> None:
    resumed, whole = write.train(golden / "checkpoint"), write.train(None)
    assert resumed.history.epoch == whole.history.epoch
    assert resumed.history.skipped == whole.history.skipped == 3
    assert resumed.history.history.keys() == whole.history.history.keys()
    for name, values in whole.history.history.items():
        np.testing.assert_allclose(resumed.history.history[name], values, rtol=1e-5, err_msg=name)
    for one, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


# -- the command line


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def predictions_in(path: Path) -> tuple[list[str], list[list[str]], np.ndarray]:
    """Header, words and numbers."""
    header, *rows = list(csv.reader(path.read_text().splitlines()))
    numeric = [i for i, value in enumerate(rows[0]) if value.lstrip("-").replace(".", "").isdigit()]
    words = [[v for i, v in enumerate(row) if i not in numeric] for row in rows]
    return header, words, np.array([[float(row[i]) for i in numeric] for row in rows])


def test_a_run_folder_is_evaluated_and_predicts(golden: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(golden / "command_line")
    assert main(["predict", "whole", "table.csv", "-o", "again.csv"]) == 0
    *words, numbers = predictions_in(Path("again.csv"))
    *expected, expected_numbers = predictions_in(Path("predicted.csv"))
    assert words == expected
    np.testing.assert_allclose(numbers, expected_numbers, atol=1e-5)
    assert main(["evaluate", "whole", "table.csv"]) == 0, capsys.readouterr()
    assert "accuracy" in capsys.readouterr().out


def test_a_run_folder_goes_on_and_ends_as_the_one_that_was_not_cut(golden: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(golden / "command_line")
    begun = Path("cut/backup/begun.json")
    begun.write_text(json.dumps({**json.loads(begun.read_text()), "directory": str(golden / "command_line")}))
    assert main(["fit", "--resume", "cut", "--verbose", "0"]) == 0
    whole, cut = [[line for line in lines_of(Path(name)) if line["event"] == "epoch"] for name in ("whole", "cut")]
    assert [list(line) for line in cut] == [list(line) for line in whole]
    for one, other in zip(cut, whole, strict=True):
        values = [name for name in other if name not in ("event", "seconds")]
        assert [one[name] for name in values] == pytest.approx([other[name] for name in values], rel=1e-5)
    summaries = [json.loads(Path(name, "summary.json").read_text()) for name in ("whole", "cut")]
    assert list(summaries[0]) == list(summaries[1]) == NAMES["summary"]


def test_a_step_of_a_run_folder_is_made_again(golden: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(golden / "command_line")
    begun = Path("cut/backup/begun.json")
    begun.write_text(json.dumps({**json.loads(begun.read_text()), "directory": str(golden / "command_line")}))
    assert main(["replay", "cut", "--epoch", "3", "--batch", "1"]) == 0
    assert "made again from checkpoint epoch-00000" in capsys.readouterr().out


# -- a study


def test_a_study_is_read_and_has_nothing_left_to_do(golden: Path) -> None:
    identity, fits = golden / "study" / "study.json", golden / "study" / "fits.jsonl"
    identity.write_text(json.dumps({**json.loads(identity.read_text()), "JAX version": jax.__version__}))
    kept = fits.read_bytes()
    table = json.loads(json.dumps(write.study(golden / "study").table))
    assert fits.read_bytes() == kept
    assert table == json.loads((golden / "study_table.json").read_text())


# -- names


def test_classes_and_functions_have_the_names_they_had() -> None:
    for what, names in write.registered().items():
        assert set(NAMES[what]) <= set(names)


def test_what_is_written_has_the_names_it_had(tmp_path: Path) -> None:
    write.write(tmp_path, ["sequential"])
    found = write.names_in(tmp_path)
    files = NAMES.keys() - {"classes", "functions"}  # of which there may be more
    assert {what: found[what] for what in files} == {what: NAMES[what] for what in files}
