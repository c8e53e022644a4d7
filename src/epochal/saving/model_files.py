"""Whole models as files: a description and tensors, never code."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from epochal.layers.base.tree import tracked
from epochal.layers.base.weights import draw, weights_given_later
from epochal.registry.serialize import deserialize, serialize
from epochal.saving.archive import (
    CONFIG,
    OPTIMIZER,
    SINGLE_FILE,
    UNREADABLE,
    WEIGHTS,
    check_target,
    damage,
    memory_size,
    reader_of,
    write_atomically,
    write_zip,
)
from epochal.saving.weight_files import as_safetensors, put_weights, tensors_in, weights_as_bytes

FORMAT = 1


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
    check_target(target, overwrite)
    if model.input_specs is None:
        raise ValueError(f"Model {model.name!r} is not built: train it, or give its first layer input_shape.")
    files = _model_files(model)
    if target.suffix in SINGLE_FILE:
        write_atomically(target, lambda temporary: write_zip(temporary, files))
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
    read = reader_of(source)
    config = _read_config(read(CONFIG), source)
    with weights_given_later() as missing:  # whatever sizes the description tells: only those of the file take memory
        model = _model_of(config, source, custom_objects)
        put_weights(model, tensors_in(read(WEIGHTS), source / WEIGHTS), str(source))
    given = {id(item.variable) for item in tracked(model)}
    draw([item for item in missing if id(item.variable) not in given])
    if compile and config.get("compile") is not None:
        with damage(source, "its compile arguments cannot be used"):
            model.compile(**deserialize(config["compile"], custom_objects))
        if config.get("optimizer_state"):
            tensors = tensors_in(read(OPTIMIZER), source / OPTIMIZER)
            with damage(source, "its optimizer's state cannot be used"):
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
    if size > memory_size():
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


# -- writing


def _model_files(model: Any) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    arguments, state = model.compile_arguments, model.optimizer_state
    compile_arguments = None if arguments is None else serialize(arguments)
    if state is not None:
        leaves = jax.tree.leaves(state)
        files[OPTIMIZER] = as_safetensors({f"{i:05d}": leaf for i, leaf in enumerate(leaves)})
    config = {**_description(model), "compile": compile_arguments, "optimizer_state": OPTIMIZER in files}
    return {CONFIG: json.dumps(config, indent=1).encode(), WEIGHTS: weights_as_bytes(model), **files}


def _description(model: Any) -> dict[str, Any]:
    inputs = jax.tree.map(lambda s: {"shape": list(s.shape[1:]), "dtype": s.dtype.name}, model.input_specs)
    return {"format": FORMAT, "model": serialize(model), "inputs": inputs}


def _read_config(content: bytes, source: Path) -> dict[str, Any]:
    try:
        config = json.loads(content)
    except (ValueError, *UNREADABLE) as error:
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
    with damage(source, f"cannot make the model that {CONFIG} describes"):
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
    except (ValueError, *UNREADABLE) as error:
        raise ValueError(f"{CONFIG} is damaged: inputs {str(data)[:80]!r}") from error


def _restore_optimizer(model: Any, tensors: list[tuple[str, np.ndarray]]) -> None:
    model.start_optimizer()
    optimizer = model.optimizer
    leaves, structure = jax.tree.flatten(optimizer.state)
    if [leaf.shape for leaf in leaves] != [value.shape for _, value in tensors]:
        raise ValueError(f"{OPTIMIZER} does not fit the optimizer {type(optimizer).__name__} of model {model.name!r}.")
    values = [jnp.asarray(value, leaf.dtype) for leaf, (_, value) in zip(leaves, tensors, strict=True)]
    optimizer.state = jax.tree.unflatten(structure, values)
