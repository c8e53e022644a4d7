"""The page of a study, and the command that writes it."""

import csv
import re

import matplotlib.image

from epochal.cli.program import main
from epochal.study.results import FITS


def test_the_page_stands_alone_and_says_what_it_shows(study, tmp_path):
    path = study.report(tmp_path / "made")
    text = path.read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(?!#)|<script|<link|@import|url\((?!#)|https?://', text)
    images = re.findall(r"<svg[^>]*>", text)
    assert len(images) == 11
    assert all('role="img"' in image and re.search(r'aria-label="[^"]{40,}"', image) for image in images)
    names = re.findall(r' id="([^"]+)"', text)
    assert len(names) == len(set(names))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= set(names)
    assert "Take batch size" in text
    assert "Both readings are true" in text
    for row in study.table:
        assert f'<th scope="row">{row["label"]}</th>' in text
    pixels = matplotlib.image.imread(tmp_path / "made" / "study.png")
    assert pixels.shape[1] > 1200
    with (tmp_path / "made" / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["batch_size"]) for row in rows] == [1, 16, 240]
    assert [float(row["equal_updates_val_accuracy"]) for row in rows] == [
        row["equal_updates_val_accuracy"] for row in study.table
    ]


def test_the_command_writes_the_page_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["study", "iris", "--batch-sizes", "full", "--epochs", "2", "--updates", "12", "--seeds", "1"]
    command += ["--learning-rates", "sqrt"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "Take batch size" in said
    assert "studies/iris/index.html" in said
    assert (tmp_path / "studies" / "iris" / "index.html").exists()
    lines = (tmp_path / "studies" / "iris" / FITS).read_bytes()
    assert main(command) == 0
    assert "0 fits run" in capsys.readouterr().out
    assert (tmp_path / "studies" / "iris" / FITS).read_bytes() == lines
    assert main(["study", "wine", "--out", "studies/iris", "--seeds", "1"]) == 2
    assert "another kind" in capsys.readouterr().err
    assert main(["study", "iris", "--batch-sizes", "0"]) == 2
    assert "expected 1 or more" in capsys.readouterr().err
