"""Models and weights on disk: JSON for what a model is, safetensors for its numbers. Reading runs no code of a file."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epochal.config import custom_object_scope as custom_object_scope
from epochal.config import deserialize, register, serialize
from epochal.config import get_custom_objects as get_custom_objects
from epochal.layers.base import tracked
from epochal.layers.weights import draw, weights_given_later

__all__ = [
    "CustomObjectScope",
    "clone_model",
    "custom_object_scope",
    "get_custom_objects",
    "load_model",
    "load_weights",
    "model_from_json",
    "register_keras_serializable",
    "save_model",
    "save_weights",
    "to_json",
]

FORMAT = 1
CONFIG, WEIGHTS, OPTIMIZER = "config.json", "model.safetensors", "optimizer.safetensors"
_SINGLE_FILE = (".keras", ".zip")


def save_model(model: Any, path: str | Path, overwrite: bool = True) -> None:
    """Writes architecture, compile arguments, weights and optimizer state.

    The target appears whole or not at all: everything is written beside it first.

    Args:
        model: a built model.
        path: a folder, or a file ending in .keras or .zip.
        overwrite: replace what is there.

    Raises:
        FileExistsError: something is there and `overwrite` is False, or a folder that holds no model.
        TypeError: a part that cannot be written as data.
        ValueError: the model has no weights yet.
    """
    target = Path(path)
    _check_target(target, overwrite)
    if model._training.inputs is None:
        raise ValueError(f"Model {model.name!r} is not built: train it, or give its first layer input_shape.")
    files = _model_files(model)
    if target.suffix in _SINGLE_FILE:
        _write_atomically(target, lambda temporary: _write_zip(temporary, files))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if target.is_dir():
            shutil.rmtree(target)
        folder.chmod(0o755)
        folder.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def load_model(path: str | Path, custom_objects: Mapping[str, Any] | None = None, compile: bool = True) -> Any:
    """Reads a model that `save` wrote, compiled as it was.

    Args:
        path: the folder or file.
        custom_objects: name -> class or function, for parts of a model that are not epochal's own.
        compile: restore the compile arguments and the optimizer's state too.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it holds no model, a damaged one, or one of a newer format.
    """
    source = Path(path)
    read = _reader(source)
    config = _read_config(read(CONFIG), source)
    with weights_given_later() as missing:  # whatever sizes the description tells: only those of the file take memory
        model = _model_of(config, source, custom_objects)
        _put_weights(model, _tensors(read(WEIGHTS), source / WEIGHTS), str(source))
    given = {id(item.variable) for item in tracked(model)}
    draw([item for item in missing if id(item.variable) not in given])
    if compile and config.get("compile") is not None:
        with _damage(source, "its compile arguments cannot be used"):
            model.compile(**deserialize(config["compile"], custom_objects))
        if config.get("optimizer_state"):
            tensors = _tensors(read(OPTIMIZER), source / OPTIMIZER)
            with _damage(source, "its optimizer's state cannot be used"):
                _restore_optimizer(model, tensors)
    return model


def to_json(model: Any, **kwargs: Any) -> str:
    """A model's architecture as JSON text: no weights, no compile arguments.

    Args:
        model: a model.
        **kwargs: passed to `json.dumps`.

    Raises:
        TypeError: a part that cannot be written as data.
    """
    return json.dumps(_description(model), **kwargs)


def model_from_json(json_string: str, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """A new model from what `to_json` returned, with weights of its own.

    Args:
        json_string: the text.
        custom_objects: name -> class or function, for parts of a model that are not epochal's own.

    Raises:
        ValueError: the text describes no model, or one of a newer format.
    """
    source = Path("the JSON text")
    config = _read_config(json_string.encode(errors="replace"), source)
    with weights_given_later() as missing:
        model = _model_of(config, source, custom_objects)
    size = sum(math.prod(item.shape) * jnp.dtype(item.dtype).itemsize for item in missing)
    if size > _memory():
        raise ValueError(f"{source} describes weights of {size / 2**30:,.0f} GiB, more than this machine's memory.")
    draw(missing)
    return model


def clone_model(model: Any, clone_function: Callable[[Any], Any] | None = None) -> Any:
    """A new model of the same layers, with weights of its own; it is not compiled.

    Args:
        model: a `Sequential`, a graph, or one with a `get_config`.
        clone_function: layer -> the layer to take in its place, for `Sequential` and graphs.

    Raises:
        TypeError: a class that cannot be made again from its arguments.

    Example:
        >>> import epochal as keras
        >>> model = keras.Sequential([keras.layers.Dense(2, input_shape=(3,))])
        >>> keras.models.clone_model(model).count_params()
        8
    """
    config = model.get_config()
    if clone_function is not None:
        if not isinstance(config.get("layers"), list):
            raise TypeError(f"clone_function needs a Sequential or a graph, got a {type(model).__name__}.")
        config = {**config, "layers": [clone_function(layer) for layer in config["layers"]]}
    return type(model).from_config(config)


def save_weights(model: Any, path: str | Path, overwrite: bool = True) -> None:
    """Writes all weights to one safetensors file, named by their place in the model.

    Raises:
        FileExistsError: something is there, and `overwrite` is False.
        ValueError: the model has no weights yet.
    """
    target = Path(path)
    _check_target(target, overwrite)
    content = _weights(model)
    _write_atomically(target, lambda temporary: temporary.write_bytes(content))


def load_weights(model: Any, path: str | Path) -> None:
    """Reads weights into a model of the same layers, in their order.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a damaged file, or weights that do not fit; nothing is changed then.
    """
    source = Path(path)
    _put_weights(model, _tensors(_reader_of_file(source), source), str(source))


CustomObjectScope = custom_object_scope
serialize_keras_object, deserialize_keras_object = serialize, deserialize


def register_keras_serializable(package: str = "custom", name: str | None = None) -> Callable[[Any], Any]:
    """A decorator of classes and functions: models that use them can be saved, and loaded without `custom_objects`.

    Args:
        package: keeps equal names of two projects apart.
        name: the class's or function's own when not given.
    """

    def decorate(item: Any) -> Any:
        return register(item, f"{package}/{name or item.__name__}")

    return decorate


# -- writing


def _model_files(model: Any) -> dict[str, bytes]:
    training = model._training
    compile_arguments = None
    files: dict[str, bytes] = {}
    if training.recipe is not None:
        recipe = training.recipe
        compile_arguments = serialize(
            {
                "optimizer": training.optimizer,
                "loss": recipe.loss,
                "metrics": recipe.metrics,
                "loss_weights": recipe.loss_weights,
                "weighted_metrics": recipe.weighted_metrics,
                "run_eagerly": training.eager,
                "steps_per_execution": training.steps_per_execution,
                "on_nonfinite": training.on_nonfinite,
                "micro_batch_size": training.micro_batch_size,
            }
        )
    state = training.optimizer.state if training.optimizer is not None else None
    if state is not None and training.has_optimizer_state:
        leaves = jax.tree.leaves(state)
        files[OPTIMIZER] = _safetensors({f"{i:05d}": leaf for i, leaf in enumerate(leaves)})
    config = {**_description(model), "compile": compile_arguments, "optimizer_state": OPTIMIZER in files}
    return {CONFIG: json.dumps(config, indent=1).encode(), WEIGHTS: _weights(model), **files}


def _description(model: Any) -> dict[str, Any]:
    inputs = jax.tree.map(lambda s: {"shape": list(s.shape[1:]), "dtype": s.dtype.name}, model._training.inputs)
    return {"format": FORMAT, "model": serialize(model), "inputs": inputs}


def _weights(model: Any) -> bytes:
    found = tracked(model)
    if not found:
        raise ValueError(f"Model {model.name!r} has no weights yet: train it, or give its first layer input_shape.")
    return _safetensors({f"{i:05d}/{t.path}": t.variable.get_value() for i, t in enumerate(found)})


def _safetensors(arrays: Mapping[str, Any]) -> bytes:
    import safetensors.numpy

    return safetensors.numpy.save({k: np.ascontiguousarray(v).reshape(np.shape(v)) for k, v in arrays.items()})


def _write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def _write_atomically(target: Path, write: Callable[[Path], Any]) -> None:
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


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{target} exists already; pass overwrite=True to replace it.")
    if target.is_dir() and any(target.iterdir()) and not (target / CONFIG).exists():
        raise FileExistsError(f"{target} is a folder that holds no model; it is not replaced.")


# -- reading

# What parsers, constructors and JAX raise for data that was never written by `save`, besides ValueError and OSError.
_UNREADABLE = (
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
def _damage(source: Path, what: str) -> Iterator[None]:
    """What goes wrong inside is said as a ValueError about the file."""
    try:
        yield
    except _UNREADABLE as error:
        said = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"{source}: {what}: {type(error).__name__}{said and ': '}{said}") from error


def _memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _reader(source: Path) -> Callable[[str], bytes]:
    """A function from a file's name in the model to its bytes."""
    if not source.is_dir() and not source.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"No model at {source}.")
    if source.is_dir():

        def read(name: str) -> bytes:
            return _reader_of_file(source / name)

        return read

    def read_member(name: str) -> bytes:
        try:
            with zipfile.ZipFile(source) as archive:
                if archive.namelist().count(name) > 1:
                    raise ValueError(f"{source}: {name} is in it more than once.")
                if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:  # ours are; others may blow up in memory
                    raise ValueError(f"{source}: {name} is compressed; epochal writes models uncompressed.")
                return archive.read(name)
        except _UNREADABLE as error:
            raise ValueError(
                f"{source} is not a model saved by epochal: {error}. Expected what save() wrote; load_weights() reads "
                "weights alone."
            ) from error

    return read_member


def _reader_of_file(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"No file {path}.")
    return path.read_bytes()


def _read_config(content: bytes, source: Path) -> dict[str, Any]:
    try:
        config = json.loads(content)
    except (ValueError, *_UNREADABLE) as error:
        raise ValueError(f"{source}: {CONFIG} is damaged: {error}") from error
    if isinstance(config, dict) and "class_name" in config:
        raise ValueError(
            f"{source} was saved by Keras. Load it there, build the same model here, and move the weights with "
            "set_weights(keras_model.get_weights())."
        )
    if not isinstance(config, dict) or not {"format", "model", "inputs"} <= set(config):
        raise ValueError(f"{source}: {CONFIG} describes no epochal model.")
    if config["format"] != FORMAT:
        raise ValueError(
            f"{source} has format {config['format']!r}; this epochal reads format {FORMAT}. Update epochal."
        )
    return config


def _model_of(config: dict[str, Any], source: Path, custom_objects: Mapping[str, Any] | None) -> Any:
    """The model of a description, built if the one that was described was."""
    with _damage(source, f"cannot make the model that {CONFIG} describes"):
        model: Any = deserialize(config["model"], custom_objects)
        if not hasattr(model, "build_from") or isinstance(model, type):
            raise ValueError(f"{source}: expected a model in {CONFIG}, got {type(model).__name__}.")
        inputs = _read_inputs(config["inputs"])
        if inputs is not None:
            model.build_from(inputs)
    return model


def _read_inputs(data: Any) -> Any:
    def is_spec(node: Any) -> bool:
        return isinstance(node, dict) and set(node) == {"shape", "dtype"}

    def spec(node: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((2, *node["shape"]), jnp.dtype(node["dtype"]))

    try:
        return jax.tree.map(spec, data, is_leaf=is_spec)
    except (ValueError, *_UNREADABLE) as error:
        raise ValueError(f"{CONFIG} is damaged: inputs {str(data)[:80]!r}") from error


def _tensors(content: bytes, name: Path) -> list[tuple[str, np.ndarray]]:
    import safetensors.numpy

    try:
        arrays = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, *_UNREADABLE) as error:
        raise ValueError(
            f"{name} is not a whole safetensors file: {error}. Expected what save_weights() wrote."
        ) from error
    return sorted(arrays.items())


def _put_weights(model: Any, tensors: list[tuple[str, np.ndarray]], source: str) -> None:
    found = tracked(model)
    if len(found) != len(tensors):
        raise ValueError(f"Expected {len(found)} weights for model {model.name!r}, {source} has {len(tensors)}.")
    for item, (name, value) in zip(found, tensors, strict=True):
        if item.variable.shape != value.shape:
            raise ValueError(f"Expected shape {item.variable.shape} for {item.path!r}, got {value.shape} ({name!r}).")
    with _damage(Path(source), "its weights cannot be used"):
        values = [jnp.asarray(v, i.variable.get_value().dtype) for i, (_, v) in zip(found, tensors, strict=True)]
    for item, value in zip(found, values, strict=True):
        item.variable.set_value(value)


def _restore_optimizer(model: Any, tensors: list[tuple[str, np.ndarray]]) -> None:
    model._training.start_optimizer(model._training.parts())
    optimizer = model._training.optimizer
    assert optimizer is not None
    leaves, structure = jax.tree.flatten(optimizer.state)
    if [leaf.shape for leaf in leaves] != [value.shape for _, value in tensors]:
        raise ValueError(f"{OPTIMIZER} does not fit the optimizer {type(optimizer).__name__} of model {model.name!r}.")
    values = [jnp.asarray(value, leaf.dtype) for leaf, (_, value) in zip(leaves, tensors, strict=True)]
    optimizer.state = jax.tree.unflatten(structure, values)
