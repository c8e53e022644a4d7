"""Configurable objects as JSON data, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import jax
import numpy as np

from epochal.registry.configurable import (
    Configurable,
    custom_objects_here,
    registered_classes,
    registered_functions,
    registered_name,
)
from epochal.registry.lookup import unknown


def serialize(value: Any) -> Any:
    """`value` as plain JSON data.

    Raises:
        TypeError: something in it cannot be written down, such as a lambda; the message says which.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        array = np.asarray(value)
        return array.item() if array.ndim == 0 else {"array": array.tolist(), "dtype": array.dtype.name}
    if isinstance(value, list | tuple):
        items = [serialize(v) for v in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        if all(isinstance(k, str) for k in value):
            return {"dict": {k: serialize(v) for k, v in value.items()}}
        return {"pairs": [[serialize(k), serialize(v)] for k, v in value.items()]}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if isinstance(value, Configurable):
        return {"class": registered_name(type(value)), "config": serialize(value.get_config())["dict"]}
    return {"function": _function_name(value)}


def _function_name(value: Any) -> str:
    for name, function in {**registered_functions(), **custom_objects_here()}.items():
        if function is value:
            return name
    if isinstance(value, FunctionType) and value.__name__.isidentifier():
        return f"custom/{value.__name__}"  # the name alone: who reads it brings the function in custom_objects
    raise TypeError(
        f"Cannot write down {_short(value)}: neither data, nor made with get_config(), nor a function with a name. "
        "Register it with epochal.saving.register_keras_serializable, or save the weights alone with save_weights()."
    )


def _short(value: Any) -> str:
    """A class's name, or a function's; never a long repr."""
    name = getattr(value, "__qualname__", None)
    return f"the function {name}" if name is not None else f"a {type(value).__qualname__}"


def deserialize(data: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The inverse of `serialize`.

    Args:
        data: what `serialize` returned.
        custom_objects: class or function name -> class or function, for those that are not registered.

    Raises:
        ValueError: an unknown class or function, or data of another form.
    """
    if isinstance(data, list):
        return [deserialize(v, custom_objects) for v in data]
    if not isinstance(data, dict):
        return data
    readers: dict[str, Callable[[Any], Any]] = {
        "array": lambda v: np.asarray(v, dtype=data.get("dtype")),
        "tuple": lambda v: tuple(deserialize(v, custom_objects)),
        "slice": lambda v: slice(*v),
        "ellipsis": lambda v: ...,
        "pairs": lambda v: dict(deserialize(v, custom_objects)),
        "dict": lambda v: {k: deserialize(item, custom_objects) for k, item in v.items()},
        "function": lambda v: _known("function", v, registered_functions(), custom_objects),
        "class": lambda v: _made(v, data.get("config"), custom_objects),
    }
    for kind, read in readers.items():
        if kind in data:
            return read(data[kind])
    raise ValueError(f"Cannot read {sorted(data)!r}: expected data written by epochal.")


def _made(name: Any, config: Any, custom_objects: Mapping[str, Any] | None) -> Any:
    cls = _known("class", name, registered_classes(), custom_objects)
    if not isinstance(config, dict):
        raise ValueError(f"Expected the arguments of {name!r} as a dict, got {config!r}.")
    return cls.from_config({k: deserialize(v, custom_objects) for k, v in config.items()})


def _known(kind: str, name: Any, table: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> Any:
    if not isinstance(name, str):
        raise ValueError(f"Expected the name of a {kind}, got {name!r}.")
    custom = {**custom_objects_here(), **(custom_objects or {})}
    if name.split("/")[-1] in custom:
        return custom[name.split("/")[-1]]
    if name in table:
        return table[name]
    raise ValueError(unknown(kind, name, list(table)) + " Pass your own in custom_objects={name: class}.")
