"""Files from strangers: whatever is in them, reading ends with a result or a clean error, and does nothing else."""

from __future__ import annotations

import copy
import io
import json
import os
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.same import same
from support.strangers import ends_cleanly

import epochal as keras
from epochal import layers
from epochal.runs.checkpoint_file import read, write

QUICK = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))


# -- real files


def network() -> Any:
    return keras.Sequential(
        [
            layers.Dense(4, "relu", input_shape=(3,), kernel_regularizer=keras.regularizers.L2(0.01)),
            layers.BatchNormalization(),
            layers.Dropout(0.1),
            layers.Dense(2, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Bytes of each file of a model, of its weights, of a zip and of a checkpoint, by path; and the model itself."""
    folder = tmp_path_factory.mktemp("real")
    model = network()
    model.compile(keras.optimizers.Adam(0.01), "ce", ["accuracy"])
    model.fit(np.eye(3, dtype="float32"), np.array([0, 1, 1]), verbose=0)
    model.save(folder / "m")
    model.save(folder / "m.keras")
    model.save_weights(folder / "w.safetensors")
    write(folder / "epoch-000001-batch-000000000", {"epoch": 1, "a": [np.arange(50.0), (1, "x", b"y")]})
    found: dict[str, Any] = {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }
    return {"files": found, "model": model}


def put(folder: Path, content: dict[str, bytes], top: str) -> Path:
    """Writes the files below `top`; only what has changed since the last time."""
    for name, data in content.items():
        if name.split("/")[0] == top:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)
    return folder / top


# -- damage


@st.composite
def damaged(draw: Any, data: bytes) -> bytes:
    """Bytes flipped, cut, extended, put in or taken out."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(changed) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "extend", "insert", "remove"]))
        if kind == "flip" and changed:
            changed[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del changed[at:]
        elif kind == "extend":
            changed += draw(st.binary(min_size=1, max_size=40))
        elif kind == "insert":
            changed[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            del changed[at : at + draw(st.integers(1, 40))]
    return bytes(changed)


DEEP: Any = json.loads('{"dict": {"a": ' * 180 + "1" + "}}" * 180)
JUNK = st.sampled_from(
    [None, True, -1, 0, 1, 2.5, 1e308, 10**7, 10**12, 10**30, "", "relu", "../../x", "\x00", "\ud800", [], {}, [[]]]
    + [[1, 2], {"class": "layers/Dense", "config": {}}, {"class": "os/system", "config": {"command": "true"}}]
    + [{"function": "builtins/eval"}, {"array": [[1.0], [2.0, 3.0]], "dtype": "object"}, {"tuple": [1, 2, 3]}, DEEP]
    + [{"slice": [0, 0, 0]}, {"pairs": [[[], 1]]}, {"array": [1], "dtype": "S1000000000"}, float("nan"), [None] * 9]
    + [{"class": "sequential/Sequential", "config": {"layers": []}}, {"class": "metrics/AUC", "config": {}}]
)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all parts of JSON data."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@st.composite
def other_json(draw: Any, data: bytes) -> bytes:
    """One or two of its parts are other JSON, or are gone."""
    value = json.loads(data)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(sorted(places(value), key=str)))
        if not path:
            continue
        outer = value
        for key in path[:-1]:
            outer = outer[key]
        if draw(st.integers(0, 4)) == 0:
            del outer[path[-1]]
        else:
            outer[path[-1]] = copy.deepcopy(draw(JUNK))
    return json.dumps(value).encode("utf-8", "surrogatepass")


def header_of(data: bytes) -> tuple[bytes, bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return data[8 : 8 + size], data[8 + size :]


@st.composite
def other_tensors(draw: Any, data: bytes) -> bytes:
    """A safetensors file whose header says other things."""
    header, rest = header_of(data)
    changed = draw(other_json(header))
    size = draw(st.sampled_from([len(changed), len(changed) + 1, 0, 2**40, 2**63]))
    return struct.pack("<Q", size) + changed + rest


@st.composite
def other_model(draw: Any, content: dict[str, bytes]) -> dict[str, bytes]:
    """A model's files, one of them another."""
    name = draw(st.sampled_from(["config.json", "config.json", "model.safetensors", "optimizer.safetensors"]))
    data = content[f"m/{name}"]
    ways = [damaged(data), other_json(data) if name == "config.json" else other_tensors(data)]
    return {**content, f"m/{name}": draw(st.one_of(*ways))}


# -- tests


def check_folders(files: dict[str, Any], folder: Path, data: Any) -> None:
    source = put(folder, data.draw(other_model(files["files"])), "m")
    ends_cleanly(folder, lambda: keras.models.load_model(source))


def check_single_files(files: dict[str, Any], folder: Path, data: Any) -> None:
    content = files["files"]
    changed = data.draw(st.one_of(damaged(content["m.keras"]), other_model(content).map(zipped)))
    path = folder / data.draw(st.sampled_from(["m.keras", "m.zip"]))
    path.write_bytes(changed)
    ends_cleanly(folder, lambda: keras.models.load_model(path))


def check_weights(files: dict[str, Any], folder: Path, data: Any) -> None:
    real, model = files["files"]["w.safetensors"], files["model"]
    path = folder / "w.safetensors"
    path.write_bytes(data.draw(st.one_of(damaged(real), other_tensors(real))))
    before = model.get_weights()
    if ends_cleanly(folder, lambda: model.load_weights(path)) is not None:
        assert same(before, model.get_weights())
    model.set_weights(before)


def check_json(files: dict[str, Any], folder: Path, data: Any) -> None:
    real = files["model"].to_json().encode()
    text = data.draw(st.one_of(damaged(real), other_json(real))).decode("utf-8", "surrogateescape")
    ends_cleanly(folder, lambda: keras.models.model_from_json(text))


def check_checkpoints(files: dict[str, Any], folder: Path, data: Any) -> None:
    top = "epoch-000001-batch-000000000"
    names = sorted(n for n in files["files"] if n.startswith(top))
    name = data.draw(st.sampled_from(names))
    real = files["files"][name]
    json_like = real.lstrip().startswith(b"{")
    changed = data.draw(st.one_of(damaged(real), other_json(real)) if json_like else damaged(real))
    path = put(folder, {**files["files"], name: changed}, top)
    ends_cleanly(folder, lambda: read(path))


CHECKS = {f.__name__: f for f in (check_folders, check_single_files, check_weights, check_json, check_checkpoints)}


def alone(factory: pytest.TempPathFactory) -> Path:
    """A folder in an empty one: both are looked at after reading."""
    folder = factory.mktemp("fuzz") / "files"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("check", CHECKS)
@QUICK
@given(data=st.data())
def test_changed_files_end_in_a_clean_error(
    check: str, files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    CHECKS[check](files, alone(tmp_path_factory), data)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@MANY
@given(data=st.data())
def test_changed_files_end_in_a_clean_error_a_thousand_times(
    check: str, files: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    CHECKS[check](files, alone(tmp_path_factory), data)


def zipped(content: dict[str, bytes], names: Callable[[str], str] = str, **how: Any) -> bytes:
    """The model's files in one, under these names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **how) as archive:
        for name, data in content.items():
            if name.startswith("m/"):
                archive.writestr(names(name[2:]), data)
    return file.getvalue()


def twice(content: dict[str, bytes]) -> bytes:
    file = io.BytesIO(zipped(content))
    with warnings.catch_warnings(), zipfile.ZipFile(file, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("config.json", "{}")
    return file.getvalue()


def with_link(content: dict[str, bytes]) -> bytes:
    entry = zipfile.ZipInfo("config.json")
    entry.external_attr = 0o120777 << 16
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    return file.getvalue()


def lying(content: dict[str, bytes]) -> bytes:
    """Its directory tells of a first file of 4 GB."""
    data = bytearray(zipped(content))
    at = data.index(b"PK\x01\x02")
    data[at + 20 : at + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    return bytes(data)


def with_password(content: dict[str, bytes]) -> bytes:
    data = bytearray(zipped(content))
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(mark) + place] |= 1
    return bytes(data)


ZIPS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "above": lambda content: zipped(content, lambda name: f"../{name}"),
    "absolute": lambda content: zipped(content, lambda name: f"/tmp/{name}"),
    "compressed": lambda content: zipped(content, compression=zipfile.ZIP_DEFLATED),
    "bomb": lambda content: zipped({"m/config.json": bytes(10**8)}, compression=zipfile.ZIP_DEFLATED, compresslevel=9),
    "twice": twice,
    "link": with_link,
    "lying": lying,
    "password": with_password,
    "a zip of a zip": lambda content: zipped({"m/config.json": zipped(content)}),
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("kind", ZIPS)
def test_zip_files_that_are_made_to_harm(kind: str, files: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "inner" / "m.keras"
    path.parent.mkdir()
    path.write_bytes(ZIPS[kind](files["files"]))
    assert ends_cleanly(path.parent, lambda: keras.models.load_model(path)) is not None


def test_folders_with_other_things_in_them(files: dict[str, Any], tmp_path: Path) -> None:
    """Devices and pipes are not read: they have no end, or never begin."""
    for number, name in enumerate(["config.json", "model.safetensors", "optimizer.safetensors"] * 3):
        source = put(tmp_path / str(number), files["files"], "m")
        (source / name).unlink()
        if number < 3:
            (source / name).symlink_to("/dev/zero")
        elif number < 6:
            os.mkfifo(source / name)
        else:
            (source / name).mkdir()
        said = ends_cleanly(source, lambda source=source: keras.models.load_model(source))
        assert said is not None
        assert name in said
    os.mkfifo(tmp_path / "pipe.keras")
    for path in (Path("/dev/zero"), tmp_path / "pipe.keras"):
        assert ends_cleanly(tmp_path, lambda path=path: keras.models.load_model(path)) is not None
        assert ends_cleanly(tmp_path, lambda path=path: files["model"].load_weights(path)) is not None


@pytest.mark.parametrize("depth", [100, 900, 100_000])
def test_deep_nesting(depth: int, files: dict[str, Any], tmp_path: Path) -> None:
    for opening, closing in (("[", "]"), ('{"dict": {"a": ', "}}"), ('{"tuple": [', "]}")):
        text = json.dumps({"format": 1, "model": "deep", "inputs": None})
        text = text.replace('"deep"', opening * depth + "1" + closing * depth)
        source = put(tmp_path, {**files["files"], "m/config.json": text.encode()}, "m")
        assert ends_cleanly(tmp_path, lambda source=source: keras.models.load_model(source)) is not None
        assert ends_cleanly(tmp_path, lambda text=text: keras.models.model_from_json(text)) is not None


def huge(files: dict[str, bytes]) -> Iterator[dict[str, bytes]]:
    """Models that tell of more than there is: in the description, and in the header of the weights."""
    config = files["m/config.json"].decode()
    assert '"units": 4' in config
    for units in (10**9, 10**12, 10**18):
        yield {**files, "m/config.json": config.replace('"units": 4', f'"units": {units}').encode()}
    header, rest = header_of(files["m/model.safetensors"])
    for shape in ([10**12], [2**62, 4], [2**64]):
        told = json.loads(header)
        name = next(n for n in told if n != "__metadata__")
        told[name] = {**told[name], "shape": shape}
        changed = json.dumps(told).encode()
        yield {**files, "m/model.safetensors": struct.pack("<Q", len(changed)) + changed + rest}
    yield {**files, "m/model.safetensors": struct.pack("<Q", 2**40) + header + rest}


CHILD = """
import json, resource, sys
from pathlib import Path
import epochal as keras

def refused(reading, *arguments):
    try:
        reading(*arguments)
    except ValueError as error:
        assert type(error) is ValueError and str(error)
    else:
        raise SystemExit(f"{arguments} was read")

folder = Path(sys.argv[1])
keras.models.load_model(folder / "intact" / "m")
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(folder.glob("huge*")):
    refused(keras.models.load_model, path / "m")
    text = (path / "m" / "config.json").read_text()
    if '"units": 4' not in text and "1000000000," not in text:
        refused(keras.models.model_from_json, text)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_sizes_that_are_told_take_no_memory(files: dict[str, Any], tmp_path: Path) -> None:
    put(tmp_path / "intact", files["files"], "m")
    for number, content in enumerate(huge(files["files"])):
        put(tmp_path / f"huge{number}", content, "m")
    ended = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert int(ended.stdout) < 200_000  # KiB


# -- descriptions that ask for much


def test_arguments_in_a_model_file_take_no_memory(files: dict[str, Any], tmp_path: Path) -> None:
    config = json.loads(files["files"]["m/config.json"])
    for arguments in ({"num_thresholds": 10**10}, {"num_thresholds": 10**18}):
        config["compile"]["dict"]["metrics"] = [{"class": "metrics/AUC", "config": arguments}]
        changed = json.dumps(config).encode()
        source = put(tmp_path, {**files["files"], "m/config.json": changed}, "m")
        said = ends_cleanly(tmp_path, lambda source=source: keras.models.load_model(source))
        assert said is not None
        assert "Expected num_thresholds of 2 to 1,000,000" in said


def test_time_steps_that_are_told_take_no_time_even_unrolled(tmp_path: Path) -> None:
    """A step is traced once; unrolled is only what a user's own data of that many steps are run through."""
    x = keras.Input((1000, 4))
    config = keras.Model(x, layers.LSTM(3, unroll=True)(x)).to_json()
    assert "1000" in config
    loaded: list[Any] = []
    said = ends_cleanly(
        tmp_path, lambda: loaded.append(keras.models.model_from_json(config.replace("1000", str(10**12))))
    )
    assert said is None
    assert loaded[0].input_shape == (None, 10**12, 4)
