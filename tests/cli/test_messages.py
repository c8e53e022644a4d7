"""What the user can put right is said in one sentence."""

import polars as pl
import pytest
from support.command_line import houses

from epochal.cli.program import main

FILES = {
    "empty.csv": "",
    "header.csv": "a,b,target\n",
    "one_class.csv": "a,target\n" + "".join(f"{i},yes\n" for i in range(20)),
    "short.csv": "a,target\n1,0\n2,1\n3,0\n",
    "nan.csv": "a,target\n" + "".join(f"{i},{'NaN' if i == 4 else i / 7}\n" for i in range(20)),
    "text.csv": "a,target\n" + "".join(f"{'abc' if i == 4 else i},{i % 2}\n" for i in range(20)),
    "words.csv": "a,target\n" + "".join(f"{i},{'yes' if i % 2 else 'no'}\n" for i in range(20)),
    "ragged.csv": "a,target\n1,2\n3,4,5\n",
    "notes.txt": "a,target\n1,2\n",
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "absent.csv"], "no file 'absent.csv'"),
        (["fit", "word.csv"], "did you mean 'words.csv'"),
        (["fit", "notes.txt"], ".csv, .parquet or .npz"),
        (["fit", "dgits"], "'digits'"),
        (["fit", "words.csv", "--target", "targt"], "'target'"),
        (["fit", "text.csv"], "text where numbers are needed: 'abc' in row 5"),
        (["fit", "words.csv", "--task", "regression"], "text where numbers are needed"),
        (["fit", "empty.csv"], "empty"),
        (["fit", "header.csv"], "no rows"),
        (["fit", "nan.csv"], "first in row 5"),
        (["fit", "one_class.csv"], "one class only ('yes')"),
        (["fit", "short.csv"], "3 rows, too few"),
        (["fit", "ragged.csv"], "Cannot read 'ragged.csv'"),
        (["fit", "iris", "--epochs", "0"], "--epochs 0"),
        (["fit", "iris", "--batch-size", "0"], "--batch-size 0"),
        (["fit", "iris", "--validation-split", "1"], "--validation-split 1"),
        (["fit", "iris", "--validation-split", "0.999"], "Too few rows"),
        (["fit", "iris", "--learning-rate", "nan"], "--learning-rate nan"),
        (["fit", "iris", "--seed", "-1"], "--seed -1"),
        (["fit", "iris", "--patience", "0"], "--patience 0"),
        (["fit", "iris", "--drop", "colour"], "no column in 'iris' called 'colour'"),
        (["fit", "iris", "--run-dir", "words.csv"], "is a file"),
        (["fit", "iris", "--run-dir", "words.csv/run"], "ot a directory"),
        (["evaluate", "nowhere", "iris"], "no trained model in 'nowhere'"),
        (["predict", "nowhere", "iris", "-o", "x.txt"], "expected a file ending in .csv"),
        (["predict", "nowhere", "iris", "-o", "no/x.csv"], "no folder 'no'"),
        (["predict", "nowhere", "iris", "-o", "words.csv"], "exists already"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("epochal: ")
    assert error.count("\n") == 1
    assert {p.name: p.read_text() for p in tmp_path.iterdir() if p.is_file()} == FILES
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == set()


def test_a_run_is_not_written_over(flowers, capsys):
    before = {p: p.read_bytes() for p in flowers.rglob("*") if p.is_file()}
    assert main(["fit", "iris", "--run-dir", str(flowers)]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in flowers.rglob("*") if p.is_file()} == before


def test_models_and_tables_that_do_not_fit(flowers, prices, place, tmp_path, capsys):
    cases = [
        (["evaluate", str(prices), "iris"], "lacks 3 of the 3 columns"),
        (["evaluate", str(flowers), str(place / "houses.csv")], "lacks 4 of the 4 columns"),
        (["evaluate", str(place), "iris"], "no trained model"),
    ]
    houses(30).drop("price").write_csv(tmp_path / "new.csv")
    cases.append((["evaluate", str(prices), str(tmp_path / "new.csv")], "lacks the target 'price'"))
    houses(30).write_csv(tmp_path / "few.csv")
    cases.append((["evaluate", str(prices), str(tmp_path / "few.csv"), "--rows", "training"], "with 120 rows, not 30"))
    houses(30).with_columns(size=pl.lit("big")).write_csv(tmp_path / "text.csv")
    cases.append((["evaluate", str(prices), str(tmp_path / "text.csv")], "'big' in row 1"))
    broken = tmp_path / "broken"
    (broken / "model").mkdir(parents=True)
    (broken / "model" / "config.json").write_text("{")
    (broken / "model" / "preprocessing.json").write_bytes((flowers / "model" / "preprocessing.json").read_bytes())
    cases.append((["evaluate", str(broken), "iris"], "cannot be loaded"))
    for arguments, said in cases:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_usage(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("epochal 0.")
    for arguments, words in (([], "epochal fit digits"), (["fit"], "--batch-size"), (["predict"], "--force")):
        assert main([*arguments, "--help"]) == 0
        assert words in capsys.readouterr().out
    for wrong in (["fit"], ["fit", "iris", "--batch-size", "many"], ["fit", "iris", "--epoch", "3"], ["train"], []):
        assert main(wrong) == 2
        assert capsys.readouterr().err
