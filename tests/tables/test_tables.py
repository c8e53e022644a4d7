"""Reading sources, understanding the target, splitting, preprocessing."""

import datetime
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.tables import BUNDLED, Column, InputError, Preprocessing, Table, column_of, prepare, read_source, target_of
from epochal.tables.encoders import MAX_CATEGORIES, fit_encoder
from epochal.tables.split import split_rows
from epochal.tables.target import choose_target, detect_task, fit_target


def texts(name, values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return Column(name, "text", array)


def table(n=40, **columns):
    """A table whose target is a mix of two classes."""
    made = [c if isinstance(c, Column) else column_of(name, np.asarray(c)) for name, c in columns.items()]
    if not any(c.name == "target" for c in made):
        made.append(column_of("target", np.arange(n) % 2))
    return Table("made", tuple(made))


def mixed_frame(n=60):
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "size": [None if i % 7 == 3 else float(random.normal(50, 20)) for i in range(n)],
            "rooms": random.integers(1, 6, n),
            "garden": [bool(i % 3) for i in range(n)],
            "town": [["Ulm", "Bonn", "Köln, Süd"][i % 3] for i in range(n)],
            "built": [datetime.date(1990, 1, 1) + datetime.timedelta(days=30 * i) for i in range(n)],
            "id": list(range(100, 100 + n)),
            "same": [1] * n,
            "note": [f"text {i}" for i in range(n)],
            "price": random.normal(300_000, 50_000, n),
        }
    )


# -- sources


@pytest.mark.parametrize(
    ("name", "shape", "task", "outputs"),
    [
        ("digits", (1437, 8, 8), "classification", 10),
        ("diabetes", (353, 10), "regression", 1),
        ("breast_cancer", (455, 30), "classification", 2),
        ("iris", (120, 4), "classification", 3),
        ("wine", (142, 13), "classification", 3),
    ],
)
def test_bundled_sets(name, shape, task, outputs):
    assert name in BUNDLED
    prepared = prepare(read_source(name))
    target = prepared.preprocessing.target
    assert (target.task, target.outputs) == (task, outputs)
    assert prepared.x.dtype == np.float32
    assert prepared.x.shape == shape
    np.testing.assert_allclose(prepared.x.mean(axis=None if name == "digits" else 0), 0, atol=1e-4)


def test_csv_and_parquet_read_alike(tmp_path):
    frame = mixed_frame()
    frame.write_csv(tmp_path / "a.csv")
    frame.write_parquet(tmp_path / "a.parquet")
    a, b = (prepare(read_source(str(tmp_path / f"a.{suffix}")), target="price") for suffix in ("csv", "parquet"))
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(a.y_validation, b.y_validation)
    assert a.preprocessing == b.preprocessing
    assert a.preprocessing.features == [
        "size",
        "size is missing",
        "rooms",
        "garden",
        *(f"town = {t}" for t in [c for c in a.preprocessing.encoders[3].categories]),
        "town = other",
        "built",
    ]
    assert dict(a.preprocessing.dropped).keys() == {"id", "same", "note"}


def test_csv_separators_and_missing_marks(tmp_path):
    for i, separator in enumerate(",;\t"):
        path = tmp_path / f"{i}.csv"
        rows = "\n".join(f"{k if k % 5 else 'NA'}{separator}{k % 2}" for k in range(20))
        path.write_text(f"a{separator}target\n{rows}\n")
        read = read_source(str(path))
        assert read.names == ["a", "target"]
        assert read.columns[0].missing().sum() == 4


@pytest.mark.parametrize(
    "names", [("x", "y"), ("X", "y"), ("x_train", "y_train"), ("features", "target"), ("data", "labels")]
)
def test_npz_names(tmp_path, names):
    path = tmp_path / "a.npz"
    x, y = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) % 2
    np.savez(path, **{names[0]: x, names[1]: y})
    read = read_source(str(path))
    assert read.names == ["x0", "x1", "x2", names[1]]
    assert read.target == names[1]


def test_npz_images_keep_their_shape_and_test_part(tmp_path):
    path = tmp_path / "a.npz"
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 4), dtype=np.uint8)
    np.savez(path, x_train=x, y_train=np.arange(30) % 3, x_test=x[:6], y_test=np.arange(6) % 3)
    prepared = prepare(read_source(str(path)))
    assert prepared.x.shape == (24, 4, 4)
    assert abs(prepared.x.mean()) < 0.01
    assert prepared.preprocessing.input_shape == (4, 4)
    test = read_source(str(path), "test")
    assert len(test) == 6
    np.testing.assert_array_equal(target_of(test, prepared.preprocessing), np.arange(6) % 3)


def test_npz_one_hot_and_column_targets(tmp_path):
    path = tmp_path / "a.npz"
    classes = np.arange(30) % 3
    for y in (np.eye(3)[classes], classes[:, None]):
        np.savez(path, x=np.random.default_rng(0).normal(size=(30, 2)), y=y)
        np.testing.assert_array_equal(read_source(str(path)).column("y").values, classes)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"a,target\n", "no rows"),
        ("a.csv", b"a,b\n1,2\n3,4,5\n", "Cannot read"),
        ("a.csv", b"a,b\n1,\xff\xfe\n", "Cannot read"),
        ("a.parquet", b"PAR1 is not enough", "Cannot read"),
        ("a.npz", b"PK\x03\x04 broken", "broken"),
        ("a.xlsx", b"x", "expected a file ending in .csv, .parquet or .npz"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, file, content, said):
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_source(str(path))


def test_npz_errors(tmp_path):
    path = tmp_path / "a.npz"
    for arrays, said in [
        ({"a": np.zeros(3), "b": np.zeros(3)}, "holds the arrays a, b"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, "same number of rows"),
        ({"x": np.array([["a", "b"]] * 3), "y": np.zeros(3)}, "text where numbers are needed"),
        ({"x": np.array([None, 1]), "y": np.zeros(2)}, "Python objects"),
        ({"x": np.zeros((3, 2)), "y": np.zeros((3, 2))}, "one target"),
    ]:
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=said):
            read_source(str(path))


def test_unknown_names_say_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="'digits'"):
        read_source("dgits")
    (tmp_path / "houses.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"houses\.csv"):
        read_source("house.csv")
    with pytest.raises(InputError, match="'price'"):
        choose_target(table(price=np.arange(40.0)), "prices")


def test_missing_extra_says_what_to_install(monkeypatch):
    import importlib

    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InputError, match=r'pip install "epochal\[data\]"'):
        read_source("iris")


# -- target and task


def test_target_is_found_by_option_name_or_place():
    made = Table("made", tuple(column_of(name, np.arange(4)) for name in ("a", "Label", "b")))
    assert choose_target(made, "a")[0].name == "a"
    assert choose_target(made, None)[0].name == "Label"
    column, why = choose_target(made.without(["Label"]), None)
    assert column.name == "b"
    assert "last column" in why


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (np.array(["a", "b"] * 20), "classification"),
        (np.array([True, False] * 20), "classification"),
        (np.arange(40) % 2, "classification"),
        (np.array([0.0, 1.0] * 20), "classification"),
        (np.array([-1, 1] * 20), "classification"),
        (np.array([0, 1000] * 20), "classification"),
        (np.arange(40) % 10, "classification"),
        (np.arange(40) % 2 + 0.5, "regression"),
        (np.arange(40), "regression"),
        (np.arange(40) % 10 * 100, "regression"),
        (np.arange(1000) % 26, "classification"),  # letters
        (np.arange(1000) % 60 + 18, "regression"),  # ages
        (np.arange(12), "regression"),  # each value once
    ],
)
def test_task_by_rule(values, task):
    found, rule = detect_task(column_of("y", values), None)
    assert found == task
    assert rule


def test_task_option_wins():
    assert detect_task(column_of("y", np.arange(40) % 10), "regression") == ("regression", "by --task")
    with pytest.raises(InputError, match="text where numbers are needed"):
        detect_task(column_of("y", np.array(["a", "b"])), "regression")
    with pytest.raises(InputError, match="too many for classes"):
        fit_target(column_of("y", np.arange(40.0)), "classification")


def test_targets_that_teach_nothing():
    with pytest.raises(InputError, match="one class only"):
        fit_target(column_of("y", np.zeros(20, int)), "classification")
    with pytest.raises(InputError, match="one value only"):
        fit_target(column_of("y", np.ones(20)), "regression")
    for bad in (np.nan, np.inf):
        with pytest.raises(InputError, match="1 of 20 rows, first in row 4"):
            detect_task(column_of("y", np.where(np.arange(20) == 3, bad, 1.5)), None)
    with pytest.raises(InputError, match="date column"):
        detect_task(column_of("y", np.array(["2020-01-01"] * 20, dtype="M8[D]")), None)


def test_labels_of_differently_typed_files_are_the_same():
    target = fit_target(column_of("y", np.arange(10) % 2), "classification")
    for same in (np.array(["1", "0"]), np.array([1.0, 0.0]), np.array([True, False])):
        np.testing.assert_array_equal(target.encode(column_of("y", same)), [1, 0])
    with pytest.raises(InputError, match="none of the classes"):
        target.encode(column_of("y", np.array([2])))


# -- split


@settings(max_examples=60, deadline=None)
@given(st.integers(15, 400), st.integers(2, 5), st.floats(0.05, 0.6), st.integers(0, 2**32 - 1))
def test_split_is_a_partition_with_every_class_in_training(n, classes, fraction, seed):
    y = np.arange(n) * 7 % classes
    training, validation = split_rows(y, fraction, seed)
    assert sorted([*training, *validation]) == list(range(n))
    assert len(validation) == n - int(np.floor(round(n * (1 - fraction), 6)))
    assert set(y[training]) == set(y)
    again = split_rows(y, fraction, seed)
    np.testing.assert_array_equal(again[0], training)
    np.testing.assert_array_equal(again[1], validation)
    for c in range(classes):  # each class's share is right to within two rows
        assert abs((y[validation] == c).sum() - len(validation) * (y == c).mean()) <= 2


def test_split_of_numbers_spreads_them_and_depends_on_the_seed():
    y = np.random.default_rng(0).normal(size=400) ** 3
    means = []
    for seed in range(20):
        _, validation = split_rows(y, 0.2, seed)
        ranks = np.argsort(np.argsort(y))[validation] * 10 // 400
        assert np.bincount(ranks, minlength=10).tolist() == [8] * 10
        means.append(y[validation].mean())
    assert len(set(means)) == 20


def test_split_refuses_too_few_rows():
    with pytest.raises(InputError, match="Too few rows"):
        split_rows(np.arange(10), 0.2, 0)
    with pytest.raises(InputError, match="Too few rows"):
        split_rows(np.arange(10.0), 0.999, 0)
    with pytest.raises(InputError, match="too few to learn from"):
        prepare(table(n=4, a=np.arange(4.0)))


# -- preprocessing


def test_nothing_is_learned_from_validation_rows():
    """Any change of the validation rows' features leaves the preprocessing as it is."""
    random = np.random.default_rng(0)
    number, town = random.normal(size=100), [["a", "b", "c"][i % 3] for i in range(100)]
    y = np.arange(100) % 2
    plain = prepare(table(number=number, town=texts("town", town), target=y))
    _, validation = split_rows(y, 0.2, 0)
    changed_number, changed_town = number.copy(), list(town)
    changed_number[validation] = np.where(np.arange(len(validation)) % 2, 1e6, np.nan)
    for row in validation:
        changed_town[row] = "nowhere"
    changed = prepare(table(number=changed_number, town=texts("town", changed_town), target=y))
    assert changed.preprocessing == plain.preprocessing
    np.testing.assert_array_equal(changed.x, plain.x)
    assert not np.array_equal(changed.x_validation, plain.x_validation)


def test_regression_target_scale_is_of_training_rows():
    y = np.random.default_rng(0).normal(5, 2, 100)
    prepared = prepare(table(a=np.arange(100.0) % 7, target=y))
    training, _ = split_rows(y.astype(np.float32), 0.2, 0)
    assert prepared.preprocessing.target.mean == pytest.approx(y[training].mean())
    np.testing.assert_array_equal(prepared.y, y[training].astype(np.float32))


def test_json_round_trip_gives_the_same_numbers(tmp_path):
    mixed_frame().write_csv(tmp_path / "a.csv")
    read = read_source(str(tmp_path / "a.csv"))
    preprocessing = prepare(read, target="price").preprocessing
    preprocessing.save(tmp_path)
    loaded = Preprocessing.load(tmp_path)
    assert loaded == preprocessing
    np.testing.assert_array_equal(loaded.apply(read), preprocessing.apply(read))
    json.loads((tmp_path / "preprocessing.json").read_text())


def test_encoders_by_hand():
    number = fit_encoder(column_of("a", np.array([1.0, 2.0, np.nan, 6.0])))
    filled = np.array([1, 2, 2, 6])
    np.testing.assert_allclose(
        number.encode(column_of("a", np.array([2.0, np.nan]))),
        np.column_stack([(np.array([2, 2]) - filled.mean()) / filled.std(), [0, 1]]),
        rtol=1e-6,
    )
    town = fit_encoder(texts("t", ["a", "b", "a", None, "b", "a"]))
    assert town.categories == ("a", "b", None)
    np.testing.assert_array_equal(town.encode(texts("t", ["b", "new", None])), np.eye(4)[[1, 3, 2]])
    flag = fit_encoder(column_of("f", np.array([True, False, True])))
    np.testing.assert_array_equal(flag.encode(texts("f", ["True", "no", None])), [[1], [0], [1]])
    days = fit_encoder(column_of("d", np.array(["2020-01-01", "2020-01-03"], dtype="M8[D]")))
    np.testing.assert_allclose(days.encode(column_of("d", np.array(["2020-01-02"], dtype="M8[D]"))), [[0]], atol=1e-6)


def test_categories_beyond_the_limit_share_a_slot():
    names = [f"c{i % 80}" if i % 4 else "often" for i in range(400)]
    encoder = fit_encoder(texts("t", names))
    assert len(encoder.categories) == MAX_CATEGORIES
    assert encoder.categories[0] == "often"
    assert encoder.encode(texts("t", ["zz"]))[0].argmax() == MAX_CATEGORIES


def test_numbers_can_be_names():
    prepared = prepare(table(a=np.arange(40) % 3, b=np.arange(40.0)), categorical=["a"])
    assert prepared.preprocessing.features[-4:-1] == ["a = 1", "a = 0", "a = 2"] or set(
        prepared.preprocessing.features[:4]
    ) == {"a = 0", "a = 1", "a = 2", "a = other"}


def test_columns_that_say_nothing_are_left_out_with_a_reason():
    dropped = dict(
        prepare(
            table(
                a=np.random.default_rng(0).normal(size=40),
                constant=np.ones(40),
                empty=np.full(40, np.nan),
                user_id=np.arange(40),
                name=np.array([f"n{i}" for i in range(40)]),
            )
        ).preprocessing.dropped
    )
    assert dropped.keys() == {"constant", "empty", "user_id", "name"}
    with pytest.raises(InputError, match="no column to learn from"):
        prepare(table(constant=np.ones(40)))


def test_a_lone_id_like_column_is_kept():
    assert prepare(table(id=np.arange(40))).preprocessing.features == ["id"]


def test_text_among_numbers_is_an_error_with_row_and_value():
    values = [str(i) for i in range(40)]
    values[7] = "twelve"
    with pytest.raises(InputError, match="text where numbers are needed: 'twelve' in row 8"):
        prepare(table(a=texts("a", values), b=np.arange(40.0)))
    assert prepare(table(a=texts("a", values), b=np.arange(40.0)), drop=["a"]).preprocessing.features == ["b"]
    numeric = prepare(table(a=np.arange(40.0))).preprocessing
    with pytest.raises(InputError, match="text where numbers are needed: 'twelve' in row 8"):
        numeric.apply(table(a=texts("a", values)))


def test_predicting_needs_the_columns_and_passes_over_others():
    made = table(a=np.arange(40.0), b=np.arange(40) % 3)
    preprocessing = prepare(made).preprocessing
    x = preprocessing.apply(made)
    more = Table("more", (column_of("z", np.zeros(40)), *reversed(made.columns)))
    np.testing.assert_array_equal(preprocessing.apply(more), x)
    np.testing.assert_array_equal(preprocessing.apply(made.without(["target"])), x)
    with pytest.raises(InputError, match=r"lacks 1 of the 2 columns.*'b'"):
        preprocessing.apply(made.without(["b"]))
    with pytest.raises(InputError, match="lacks the target 'target'"):
        target_of(made.without(["target"]), preprocessing)


def test_unknown_columns_in_options():
    with pytest.raises(InputError, match="no column in 'made' called 'aa'"):
        prepare(table(a=np.arange(40.0)), drop=["aa"])


def test_broken_preprocessing_files(tmp_path):
    with pytest.raises(InputError, match=r"no preprocessing\.json"):
        Preprocessing.load(tmp_path)
    for content in ("{", "[]", '{"version": 9}', '{"version": 1}'):
        (tmp_path / "preprocessing.json").write_text(content)
        with pytest.raises(InputError, match="broken"):
            Preprocessing.load(tmp_path)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.floats(allow_nan=True, allow_infinity=True, width=32), st.just(0.0)), min_size=2))
def test_numbers_always_come_out_finite(values):
    column = column_of("a", np.array(values, dtype=np.float64))
    encoder = fit_encoder(column)
    if not isinstance(encoder, str):
        assert np.isfinite(encoder.encode(column)).all()
