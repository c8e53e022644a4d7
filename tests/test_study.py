"""Batch-size studies: the fits are those of `fit`, the statistics follow closed forms, and a killed study goes on."""

import csv
import itertools
import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from data import breast_cancer, digits

import epochal as keras
from epochal.cli.program import main
from epochal.critical_batch import fit_steps_to_target
from epochal.data.examples import as_examples
from epochal.display.curves import plateau
from epochal.runtime import memory
from epochal.study import loss_surface, statistics
from epochal.study.bench import Bench, seeds_put_back
from epochal.study.descent import descend
from epochal.study.fits import Progress
from epochal.study.protocol import first_rates, next_rates, protocol_of
from epochal.study.results import FITS, Store
from epochal.study.statistics import EPOCHS, TARGET, UPDATES, Judge

SETTINGS = {"batch_sizes": (1, 16, "full"), "epochs": 3, "updates": 40, "seeds": 2, "learning_rates": (0.05, 0.4)}


def digits_model():
    """A dropout and moving statistics, so that a start is more than weights."""
    model = keras.Sequential(
        [
            keras.layers.Dense(8, activation="relu", input_shape=(64,)),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.5), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def digits_study(out, **settings):
    return keras.batch_size_study(digits_model, *digits(300), out=out, verbose=0, **{**SETTINGS, **settings})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return digits_study(tmp_path_factory.mktemp("study"))


# -- the fits


def test_a_fit_of_a_study_is_a_fit(study):
    """Every row's value is what `fit` reports for the same seed, learning rate and batch size."""
    x, y = digits(300)
    for row in study.table:
        found = []
        for seed in (0, 1):
            keras.utils.set_random_seed(seed)
            model = digits_model()
            model.optimizer.learning_rate = row["equal_epochs_learning_rate"]
            history = model.fit(x, y, batch_size=row["batch_size"], epochs=3, validation_split=0.2, verbose=0)
            found.append(history.history["val_accuracy"][-1])
        assert row["equal_epochs_val_accuracy"] == pytest.approx(np.mean(found), abs=1e-12)
        assert row["equal_epochs_val_accuracy_std"] == pytest.approx(np.std(found, ddof=1), abs=1e-12)


def test_the_sizes_are_those_asked_for_and_what_a_row_says_follows_from_them(study):
    assert [row["batch_size"] for row in study.table] == [1, 16, 240]
    assert [row["updates_per_epoch"] for row in study.table] == [240, 15, 1]
    assert [row["label"] for row in study.table] == ["1", "16", "full (240)"]
    for row in study.table:
        assert row["status"] == "ok"
        assert row["seconds_per_epoch"] == pytest.approx(row["seconds_per_step"] * row["updates_per_epoch"])
        assert row["examples_per_second"] == pytest.approx(240 / row["seconds_per_epoch"])
        assert row["memory_bytes"] > 240 * 65 * 4  # the data, at the least
    full = study.table[-1]
    assert full["gradient_std_predicted"] == 0
    assert full["gradient_std"] < 1e-5
    assert full["gradient_cosine"] == pytest.approx(1, abs=1e-5)
    assert study.table[0]["gradient_std"] == pytest.approx(study.table[0]["gradient_std_predicted"], rel=0.2)


def test_learning_rates_and_target_of_the_table_follow_from_the_fits(study):
    fits = study.fits.every
    for row in study.table:
        first = [fit for fit in fits[row["batch_size"]] if fit["seed"] == 0]
        at = 3 * row["updates_per_epoch"]
        finals = {fit["rate"]: fit["val_accuracy"][fit["updates"].index(at)] for fit in first}
        assert finals[row["equal_epochs_learning_rate"]] == max(finals.values())
        after = {fit["rate"]: fit["val_accuracy"][fit["updates"].index(40)] for fit in first}
        assert after[row["equal_updates_learning_rate"]] == max(after.values())
        chosen = [f for f in fits[row["batch_size"]] if f["rate"] == row["target_learning_rate"]]
        reached = [
            next(u for u, v in zip(f["updates"], f["val_accuracy"], strict=True) if v >= study.target) for f in chosen
        ]
        assert row["updates_to_target"] <= np.mean(reached)
        assert row["epochs_to_target"] == row["updates_to_target"] / row["updates_per_epoch"]
        curve = study.curve(row["batch_size"])
        epochs = [
            1 - v
            for u, v in zip(curve["updates"], curve["val_accuracy"], strict=True)
            if u % row["updates_per_epoch"] == 0
        ]
        assert row["plateau_epoch"] == plateau(epochs[:3])


def test_one_program_serves_all_learning_rates_and_seeds_of_a_size():
    x, y = digits(200)
    bench = Bench(digits_model, (x, y, None), 0.2, None, (0, 1), None)
    for seed, rate in ((0, 0.1), (0, 0.2), (1, 0.1)):
        for size in (7, 160):
            for _ in bench.travel(size, rate, seed, [1, 5]):
                bench.evaluate()
    assert bench.model.programs()["train"] == 2
    weights = bench.model.get_weights()
    for _ in bench.travel(160, 0.1, 1, [3, 5]):
        pass
    for again, before in zip(bench.model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(again, before)  # wherever it stops on the way


def test_random_numbers_outside_are_left_alone():
    def numbers():
        return np.random.rand(), keras.random.normal((2,)).tolist()  # noqa: NPY002

    keras.utils.set_random_seed(3)
    expected = numbers()
    keras.utils.set_random_seed(3)
    with seeds_put_back():
        keras.utils.set_random_seed(4)
        assert numbers() != expected
    assert numbers() == expected


def test_a_size_that_diverges_is_a_row_that_says_so(tmp_path):
    def build():
        model = keras.Sequential([keras.layers.Dense(1, input_shape=(30,))])
        model.compile(keras.optimizers.SGD(3.0), "mse")
        return model

    x, y = breast_cancer(120)
    found = keras.batch_size_study(
        build, x, y, batch_sizes=(4,), epochs=4, updates=60, seeds=2, learning_rates="fixed", out=tmp_path, verbose=0
    )
    assert all(re.match(r"diverged after \d+ updates \(learning rate 3\)", row["status"]) for row in found.table)
    assert found.table[0]["equal_epochs_val_loss"] is None
    assert found.fit() is None
    assert "diverged" in found.report().read_text()
    assert "diverged" in str(found)


# -- going on


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_study import digits_study
digits_study({out!r})
"""


def without_times(table):
    return [{k: v for k, v in row.items() if "second" not in k} for row in table]


def test_a_killed_study_goes_on_with_the_fits_that_are_missing(study, tmp_path, monkeypatch):
    code = KILLED.format(tests=str(Path(__file__).parent), out=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        while not (tmp_path / FITS).exists() or len((tmp_path / FITS).read_bytes().splitlines()) < 3:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = [
        json.loads(line)["key"]
        for line in (tmp_path / FITS).read_bytes().splitlines(keepends=True)
        if line[-1:] == b"\n"
    ]
    assert 3 <= len(before) < len((study.out / FITS).read_text().splitlines())
    run = []
    monkeypatch.setattr(Store, "put", lambda self, key, *rest, put=Store.put: (run.append(key), put(self, key, *rest)))
    again = digits_study(tmp_path)
    everything = {json.loads(line)["key"] for line in (study.out / FITS).read_text().splitlines()}
    assert sorted([*before, *run]) == sorted(everything)
    assert without_times(again.table) == without_times(study.table)


def test_more_sizes_and_seeds_run_only_what_is_new(study, monkeypatch):
    run = []
    monkeypatch.setattr(
        Store, "put", lambda self, key, result: (run.append(result), self.results.update({key: result}))
    )
    assert without_times(digits_study(study.out).table) == without_times(study.table)
    assert run == []
    digits_study(study.out, batch_sizes=(1, 16, 60, "full"), target=study.target)
    assert {result["size"] for result in run if "size" in result} == {60}


def test_a_line_that_a_crash_cut_off_is_dropped(tmp_path):
    store = Store(tmp_path, {"model": "a"})
    store.put("one", {"value": 1})
    store.put("two", {"value": 2})
    store.close()
    content = (tmp_path / FITS).read_bytes()
    (tmp_path / FITS).write_bytes(content[:-5])
    store = Store(tmp_path, {"model": "a"})
    assert store.results == {"one": {"value": 1}}
    store.put("two", {"value": 3})
    store.close()
    assert len((tmp_path / FITS).read_text().splitlines()) == 2


def test_another_study_in_the_folder_is_refused(study):
    kept = (study.out / FITS).read_bytes()
    x, y = digits(300)
    with pytest.raises(ValueError, match=r"another kind \(training data differ\).*Choose another out"):
        keras.batch_size_study(digits_model, 0.5 * x[:240], y[:240], validation_data=(x[240:], y[240:]), out=study.out)

    def other():
        model = digits_model()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.6), "sparse_categorical_crossentropy", ["accuracy"])
        return model

    with pytest.raises(ValueError, match=r"\(model differ\)"):
        keras.batch_size_study(other, x, y, out=study.out, **SETTINGS)
    store = Store(study.out, {})
    try:
        with pytest.raises(RuntimeError, match="Another process runs a study"):
            digits_study(study.out)
    finally:
        store.close()
    assert (study.out / FITS).read_bytes() == kept


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_sizes": (0,)}, 'ints >= 1 and "full"'),
        ({"batch_sizes": "full"}, "as a list"),
        ({"epochs": 0}, "epochs to be an int >= 1"),
        ({"updates": 1.5}, "updates to be an int >= 1"),
        ({"seeds": 0}, "seeds as how many"),
        ({"learning_rates": "cubic"}, "one of tune, linear, sqrt, fixed"),
        ({"learning_rates": (0.1, -1.0)}, "or numbers > 0"),
        ({"monitor": "auc"}, "one of loss, accuracy"),
        ({"validation_split": 0.0}, "validation_split or validation_data"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_run(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        digits_study(tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()


def test_models_that_cannot_be_studied(tmp_path):
    with pytest.raises(TypeError, match=r"return an epochal\.Model, got NoneType"):
        keras.batch_size_study(lambda: None, *digits(60), out=tmp_path)
    model = digits_model()
    with pytest.raises(ValueError, match="a new optimizer every time"):
        keras.batch_size_study(lambda: model, *digits(60), out=tmp_path)

    def scheduled():
        model = digits_model()
        rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
        model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", ["accuracy"])
        return model

    with pytest.raises(ValueError, match='pass learning_rates="fixed"'):
        keras.batch_size_study(scheduled, *digits(60), out=tmp_path)


# -- statistics in closed form


def noisy_quadratic(m, rate, marks):
    """Half the expected loss of w with curvature and noise 1/i, from E w² = 1: exact, without drawing a number."""
    h = 1 / np.arange(1, 101)
    square, losses, done = np.ones(100), [], 0
    for mark in marks:
        for _ in range(mark - done):
            square = (1 - rate * h) ** 2 * square + rate**2 * h / m
        done = mark
        losses.append(float(h @ square / 2))
    return losses


def test_the_noisy_quadratic_has_its_known_critical_batch_size():
    """S_min 14.8 and B 26.6 (the shared design's reference), from fits with a grid of learning rates."""
    judge = Judge("loss", False)
    start = float((1 / np.arange(1, 101)).sum() / 2)
    sizes = [2**k for k in range(11)]
    protocol = protocol_of(1024, sizes, 1, 600, 1, "fixed")
    counts = []
    for m in sizes:
        marks = protocol.marks(m)
        fits = []
        for rate in np.geomspace(0.002, 1.99, 40):
            losses = noisy_quadratic(m, rate, marks)
            fits.append({"size": m, "rate": rate, "updates": marks, "val_loss": losses})
        best = statistics.best_rate(fits, protocol, TARGET, judge, 0.1 * start)
        counts.append(statistics.updates_to(best, 0.1 * start, judge))
    law = fit_steps_to_target(sizes, counts)
    assert law.min_steps == pytest.approx(14.8, rel=0.1)
    assert law.value == pytest.approx(26.6, rel=0.1)
    assert law.low < 26.6 < law.high


def test_updates_to_a_target_lie_between_evaluations():
    fit = {"updates": [1, 4, 16, 64], "val_accuracy": [0.1, 0.5, 0.9, 0.8]}
    judge = Judge("accuracy", True)
    assert statistics.updates_to(fit, 0.1, judge) == 1
    assert statistics.updates_to(fit, 0.7, judge) == pytest.approx(8)  # half way up, half way on a log scale
    assert statistics.updates_to(fit, 0.95, judge) is None
    falling = {"updates": [1, 10], "val_loss": [2.0, 1.0]}
    assert statistics.updates_to(falling, 1.5, Judge("loss", False)) == pytest.approx(math.sqrt(10))


def test_a_chosen_target_is_one_that_most_sizes_reach():
    judge = Judge("accuracy", True)
    fits = [
        {"size": m, "val_accuracy": [0.1, best - 0.1, best]}
        for m, best in ((1, 0.9), (8, 0.95), (64, 0.94), (512, 0.3))
    ]
    target = statistics.chosen_target(fits, judge)
    assert target == pytest.approx(0.9 - 0.02 * 0.8)
    assert statistics.chosen_target([{"size": 1, "val_accuracy": []}], judge) is None


def test_budgets_are_read_off_the_same_fit_where_it_was_evaluated():
    protocol = protocol_of(1000, (1, 64, "full", 5000), 5, 300, 1, "tune")
    assert protocol.sizes == (1, 64, 1000)
    for size in protocol.sizes:
        marks = protocol.marks(size)
        assert statistics.budget(protocol, EPOCHS, size) in marks
        assert statistics.budget(protocol, UPDATES, size) in marks
        assert marks[0] == 1
        assert marks[-1] == protocol.length(size) == max(5 * -(-1000 // size), 300)
        assert max(b / a for a, b in itertools.pairwise(marks) if a >= 8) < 1.2
    assert (
        protocol_of(1437, (1,), None, None, 3, "tune").epochs,
        protocol_of(60_000, (1,), None, None, 3, "tune").epochs,
    ) == (40, 2)


def test_learning_rates_are_tried_until_the_best_is_not_at_the_edge():
    protocol = protocol_of(1000, (128,), 1, 1, 1, "tune")
    tried = first_rates(protocol, 128, 0.1, "linear")
    assert tried == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert next_rates(protocol, tried, [0.4, 0.8]) == []
    assert next_rates(protocol, tried, [0.1, 0.4]) == [0.05]
    assert next_rates(protocol, tried, [1.6]) == [3.2]
    assert next_rates(protocol, [0.1 * 2.0**k for k in range(15)], [0.1]) == []  # it ends somewhere
    for rule, rate in (("fixed", 0.1), ("sqrt", 0.2), ("linear", 0.4)):
        assert first_rates(protocol_of(1000, (128,), 1, 1, 1, rule), 128, 0.1, "sqrt") == [rate]


# -- the loss surface


@pytest.fixture(scope="module")
def regression():
    """A linear model of breast_cancer with mean squared error, whose gradients are known: 2 (x·w + b - y) (x, 1)."""
    x, y = breast_cancer(200)

    def build():
        model = keras.Sequential([keras.layers.Dense(1, input_shape=(30,))])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        return model

    bench = Bench(build, (x, y.astype(np.float32), None), 0.2, None, (0,), None)
    for _ in bench.travel(8, 0.01, 0, [20]):
        pass
    surface = loss_surface.Surface(bench.steps, bench.examples, bench.parts.collect()[0])
    params, buffers = bench.parts.collect()
    return surface, loss_surface.flat(params), buffers, x[:160].astype(np.float64), y[:160].astype(np.float64)


def test_the_scatter_of_batch_gradients_is_that_of_a_sample_without_replacement(regression):
    surface, point, buffers, x, y = regression
    inputs = np.concatenate([x, np.ones((160, 1))], axis=1)
    if len(point) == 31 and surface.n == 160:  # kernel, then bias
        residual = inputs @ point - y
    gradients = 2 * residual[:, None] * inputs
    mean = gradients.mean(axis=0)
    np.testing.assert_allclose(surface.value_and_grad(point, buffers)[1], mean, rtol=1e-4, atol=1e-5)
    s2 = np.square(gradients - mean).sum() / 159
    assert surface.variance(point, buffers) == pytest.approx(s2, rel=1e-4)
    for m, found in zip((1, 4, 40, 160), surface.scatter(point, buffers, (1, 4, 40, 160), [400] * 4, 0), strict=True):
        assert found.predicted == pytest.approx(math.sqrt(s2 / m * (1 - m / 160)), rel=1e-4, abs=1e-9)
        assert found.std == pytest.approx(found.predicted, rel=0.12, abs=1e-4)
    assert found.cosine == pytest.approx(1, abs=1e-6)


def test_the_highest_rise_in_a_box_is_that_of_a_quadratic_and_of_a_plane():
    h, w, radius = np.array([1.0, 4.0, 0.1]), np.array([0.5, -1.0, 2.0]), np.array([0.1, 0.2, 0.3])

    def bowl(point):
        return float(h @ point**2 / 2), h * point

    assert loss_surface.highest_rise(bowl, w, radius) == pytest.approx(
        float(h @ ((np.abs(w) + radius) ** 2 - w**2) / 2)
    )
    slope = np.array([1.0, -2.0, 0.0])
    assert loss_surface.highest_rise(lambda p: (float(slope @ p), slope), w, radius) == pytest.approx(0.1 + 0.4)


def test_adaptive_sharpness_does_not_change_when_layers_are_rescaled_and_keskars_does():
    """ReLU(a W₁ x) · W₂ / a is the same function for every a > 0 (Dinh et al. 2017)."""
    x, y = breast_cancer(80)
    drawn = np.random.default_rng(0)
    first, second = drawn.normal(0, 0.3, (30, 6)), drawn.normal(0, 0.3, 6)

    @jax.jit
    def loss(point):
        hidden = jax.nn.relu(x @ point[:180].reshape(30, 6))
        return jnp.mean((hidden @ point[180:] - y) ** 2)

    slope = jax.jit(jax.value_and_grad(loss))

    def at(point):
        value, gradient = slope(jnp.asarray(point, jnp.float32))
        return float(value), np.asarray(gradient, np.float64)

    found = []
    for a in (1.0, 8.0):
        point = np.concatenate([a * first.ravel(), second / a])
        rises = [
            loss_surface.highest_rise(at, point, r(point))
            for r in (loss_surface.adaptive_radius, loss_surface.keskar_radius)
        ]
        found.append((at(point)[0], *rises))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-3)
    assert found[1][2] > 1.5 * found[0][2]


def test_full_batch_descent_on_two_weights_follows_the_known_iteration():
    found = descend(as_examples(*digits(300)))
    best, hessian = np.array(found["best"]), np.array(found["hessian"])
    path = np.array(found["paths"]["300"])
    expected = [path[0]]
    for _ in range(60):
        expected.append(expected[-1] - found["rate"] * hessian @ (expected[-1] - best))
    np.testing.assert_allclose(path, expected, rtol=1e-4, atol=1e-4)
    lengths = {
        size: np.linalg.norm(np.diff(route, axis=0), axis=1).sum() for size, route in found["paths"].items()
    }  # the noisier, the longer
    assert lengths["1"] > lengths["32"] > lengths["300"]


# -- the page


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


@pytest.mark.slow  # many programs
def test_a_size_that_does_not_fit_into_the_memory_is_cut_or_is_a_row_that_says_so(tmp_path, monkeypatch):
    def build(pieces="auto"):
        model = keras.Sequential(
            [keras.layers.Dense(400, activation="relu", input_shape=(64,)), keras.layers.Dense(10)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, ["accuracy"], micro_batch_size=pieces)
        return model

    settings = {"epochs": 1, "updates": 4, "seeds": 1, "learning_rates": (0.1,), "verbose": 0}
    x, y = digits(1200)
    whole = keras.batch_size_study(build, x, y, batch_sizes=("full",), out=tmp_path / "whole", **settings).table[0]
    limit = memory.Limit(int(0.7 * whole["memory_bytes"]), "of the test")
    monkeypatch.setattr(memory, "limit", lambda *arguments, **named: limit)
    cut = keras.batch_size_study(build, x, y, batch_sizes=("full",), out=tmp_path / "cut", **settings).table[0]
    assert cut["memory_bytes"] <= limit.bytes
    assert cut["equal_updates_val_accuracy"] == pytest.approx(whole["equal_updates_val_accuracy"], abs=1 / 240 + 1e-9)
    refused = keras.batch_size_study(
        lambda: build(None), x, y, batch_sizes=(8, "full"), out=tmp_path / "refused", **settings
    )
    assert refused.table[0]["status"] == "ok"
    assert "forbids to cut it" in refused.table[1]["status"]
    assert "forbids to cut it" in refused.report().read_text()


def test_a_step_takes_what_it_took_where_nothing_else_ran():
    fits = [{"updates": [1, 4, 8], "seconds": [0.1, 1.0, 1.0 + 4 * each]} for each in (5.0, 0.25, 9.0)]
    assert statistics.seconds_per_step(fits) == pytest.approx(0.25)


def test_the_time_left_is_that_of_fits_with_the_same_size(capsys):
    progress = Progress(True, lambda size: 1.0, [8, 8, 100, 100])
    progress.done(8, "first", 1.0)
    progress.done(100, "second", 60.0)
    assert [line.split("about ")[-1] for line in capsys.readouterr().out.splitlines()] == ["3 s left", "61 s left"]
