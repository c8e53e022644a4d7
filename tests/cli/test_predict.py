"""`epochal evaluate` and `epochal predict`, run in process."""

import numpy as np
import polars as pl
import pytest
from support.command_line import houses, read_json, read_rows

from epochal.cli.program import main
from epochal.models import load_model
from epochal.tables import Preprocessing, read_source


def test_evaluate_agrees_with_training(flowers, prices, place, capsys):
    for run, source in ((flowers, "iris"), (prices, str(place / "houses.csv"))):
        metrics = read_json(run / "summary.json")["metrics"]
        for model in (run, run / "model"):
            assert main(["evaluate", str(model), source, "--rows", "validation"]) == 0
            shown = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:] if line.strip())
            for name, value in shown.items():
                assert float(value) == pytest.approx(metrics[f"val_{name}"], rel=1e-3, abs=1e-4)


def test_predict_classes(flowers, place):
    data = read_source("iris")
    frame = pl.DataFrame({column.name: column.values for column in data.columns[:-1]})
    frame.with_columns(extra=pl.lit("x")).reverse().write_parquet(place / "iris.parquet")
    out = place / "classes.csv"
    assert main(["predict", str(flowers), str(place / "iris.parquet"), "-o", str(out)]) == 0
    rows = read_rows(out)
    assert len(rows) == 150
    assert list(rows[0]) == ["prediction", *(f"probability_{c}" for c in ("setosa", "versicolor", "virginica"))]
    preprocessing = Preprocessing.load(flowers / "model")
    expected = load_model(flowers / "model").predict(preprocessing.apply(data), verbose=0)[::-1]
    found = np.array([[float(v) for v in list(row.values())[1:]] for row in rows])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [row["prediction"] for row in rows] == [preprocessing.target.classes[i] for i in expected.argmax(axis=1)]


def test_predict_values_for_new_rows(prices, place):
    new = houses(30, seed=5)
    new.drop("price").with_columns(town=pl.lit("nowhere")).write_csv(place / "new.csv")
    out = place / "values.csv"
    assert main(["predict", str(prices), str(place / "new.csv"), "-o", str(out)]) == 0
    values = [float(row["prediction"]) for row in read_rows(out)]
    assert np.corrcoef(values, new["price"])[0, 1] > 0.8
    before = out.read_bytes()
    assert main(["predict", str(prices), str(place / "new.csv"), "-o", str(out)]) == 2
    assert out.read_bytes() == before
    assert main(["predict", str(prices), str(place / "new.csv"), "-o", str(out), "--force"]) == 0
