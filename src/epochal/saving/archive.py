"""Folders and zip files, written whole and read with care."""

from __future__ import annotations

import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS, OPTIMIZER = "config.json", "model.safetensors", "optimizer.safetensors"
SINGLE_FILE = (".keras", ".zip")  # endings of a model that is one file


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes files, name -> content, as an archive without compression."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_atomically(target: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` write a file beside `target`, which then appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def check_target(target: Path, overwrite: bool) -> None:
    """Raises FileExistsError where something is that may not be replaced: a folder that holds no model, never."""
    if not target.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{target} exists already; pass overwrite=True to replace it.")
    if target.is_dir() and any(target.iterdir()) and not (target / CONFIG).exists():
        raise FileExistsError(f"{target} is a folder that holds no model; it is not replaced.")


# -- reading

# What parsers, constructors and JAX raise for data that was never written by `save`, besides ValueError and OSError.
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,  # RecursionError and NotImplementedError too
    TypeError,
    UnicodeError,
    struct.error,
    zipfile.BadZipFile,
)


@contextmanager
def damage(source: Path, what: str) -> Iterator[None]:
    """What goes wrong inside is said as a ValueError about the file."""
    try:
        yield
    except UNREADABLE as error:
        said = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"{source}: {what}: {type(error).__name__}{said and ': '}{said}") from error


def memory_size() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def reader_of(source: Path) -> Callable[[str], bytes]:
    """A function from a file's name in the model to its bytes.

    Raises:
        FileNotFoundError: nothing is there.
    """
    if not source.is_dir() and not source.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"No model at {source}.")
    if source.is_dir():

        def read(name: str) -> bytes:
            return read_file(source / name)

        return read

    def read_member(name: str) -> bytes:
        try:
            with zipfile.ZipFile(source) as archive:
                if archive.namelist().count(name) > 1:
                    raise ValueError(f"{source}: {name} is in it more than once.")
                if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # ours are; others may blow up in memory
                    raise ValueError(f"{source}: {name} is compressed; epochal writes models uncompressed.")
                return archive.read(name)
        except UNREADABLE as error:
            raise ValueError(
                f"{source} is not a model saved by epochal: {error}. Expected what save() wrote; load_weights() reads "
                "weights alone."
            ) from error

    return read_member


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No file {path}.")
    return path.read_bytes()
