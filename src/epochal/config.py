"""Objects that know the arguments they were made with, and can be written down and made again.

Every layer, loss, metric, optimizer, initializer and regularizer is `Configurable`. What is written is data only (JSON)
and reading it makes objects of registered classes only, so a file from a stranger runs none of its own code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType, MappingProxyType
from typing import Any, ClassVar

import jax
import numpy as np

from epochal.mixed_precision import dtype_policy as dtype_policy
from epochal.mixed_precision import set_dtype_policy as set_dtype_policy
from epochal.names import unknown

__all__ = [
    "Configurable",
    "custom_object_scope",
    "deserialize",
    "dtype_policy",
    "get_custom_objects",
    "register",
    "register_functions",
    "registered_name",
    "serialize",
    "set_dtype_policy",
]

# "family/Class" -> class, e.g. "layers/Dense". Filled when a class is defined.
_REGISTRY: dict[str, type] = {}
# Names that users chose for their classes.
_NAMES: dict[type, str] = {}
# Functions that may be written down by name, e.g. activations: "activations/relu" -> function.
_FUNCTIONS: dict[str, Callable] = {}
# Classes and functions by names that users gave: for good, and inside a `custom_object_scope`.
_CUSTOM: dict[str, Any] = {}
_scoped: ContextVar[Mapping[str, Any]] = ContextVar("epochal_custom_objects", default=MappingProxyType({}))


class _Arguments:
    """The arguments an object was made with. Opaque on purpose: Flax must not walk into it."""

    def __init__(self, positional: tuple, named: dict[str, Any]):
        self.positional = positional
        self.named = named


class Configurable:
    """Remembers its constructor's arguments; subclasses need no `get_config` of their own."""

    # Under which our classes are written down, as `family/Class`: part of the file format, wherever the class is.
    _saved_family: ClassVar[str]
    _arguments: _Arguments

    def __new__(cls, *args: Any, **kwargs: Any):
        made = super().__new__(cls)
        object.__setattr__(made, "_arguments", _Arguments(args, kwargs))
        return made

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith("epochal."):
            _REGISTRY[registered_name(cls)] = cls

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments by name, as they were given (defaults that were not given are left out)."""
        signature = inspect.signature(type(self).__init__)
        bound = signature.bind(self, *self._arguments.positional, **self._arguments.named)
        config: dict[str, Any] = {}
        for name, value in list(bound.arguments.items())[1:]:
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                config.update(value)
            elif kind is inspect.Parameter.VAR_POSITIONAL:
                raise TypeError(
                    f"{type(self).__name__} takes *{name}; give it a get_config() and from_config() of its own"
                )
            else:
                config[name] = value
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Any:
        """A new object made with the arguments of `get_config()`."""
        return cls(**config)


def registered_name(cls: type[Configurable]) -> str:
    """The name under which a class is written down: `family/Class` for our own, `custom/Class` for a user's."""
    if cls in _NAMES:
        return _NAMES[cls]
    family = cls._saved_family if cls.__module__.startswith("epochal.") else "custom"
    return f"{family}/{cls.__name__}"


def register(item: Any, name: str) -> Any:
    """Lets objects of a user's class, or a user's function, be written down and read by name. Returns the item."""
    if isinstance(item, type):
        _REGISTRY[name] = item
        _NAMES[item] = name
    else:
        _FUNCTIONS[name] = item
    return item


def known_as(made: type, cls: type) -> type:
    """Lets objects of `made`, a class derived from `cls`, be written down as those of `cls`. Returns `made`."""
    if cls in _NAMES:
        _NAMES[made] = _NAMES[cls]
    return made


def register_functions(family: str, functions: Mapping[str, Callable]) -> None:
    """Lets these functions be written down by name."""
    _FUNCTIONS.update({f"{family}/{name}": function for name, function in functions.items()})


def get_custom_objects() -> dict[str, Any]:
    """Name -> class or function for what is read from files, besides what is registered. Add your own to it."""
    return _CUSTOM


@contextmanager
def custom_object_scope(custom_objects: Mapping[str, Any]) -> Iterator[None]:
    """Inside, these classes and functions are known by their names when models are read, as in `get_custom_objects()`.

    Args:
        custom_objects: name -> class or function; those of an outer scope stay known.
    """
    token = _scoped.set({**_scoped.get(), **custom_objects})
    try:
        yield
    finally:
        _scoped.reset(token)


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
    for name, function in {**_FUNCTIONS, **_CUSTOM, **_scoped.get()}.items():
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
        "function": lambda v: _known("function", v, _FUNCTIONS, custom_objects),
        "class": lambda v: _made(v, data.get("config"), custom_objects),
    }
    for kind, read in readers.items():
        if kind in data:
            return read(data[kind])
    raise ValueError(f"Cannot read {sorted(data)!r}: expected data written by epochal.")


def _made(name: Any, config: Any, custom_objects: Mapping[str, Any] | None) -> Any:
    cls = _known("class", name, _REGISTRY, custom_objects)
    if not isinstance(config, dict):
        raise ValueError(f"Expected the arguments of {name!r} as a dict, got {config!r}.")
    return cls.from_config({k: deserialize(v, custom_objects) for k, v in config.items()})


def _known(kind: str, name: Any, table: Mapping[str, Any], custom_objects: Mapping[str, Any] | None) -> Any:
    if not isinstance(name, str):
        raise ValueError(f"Expected the name of a {kind}, got {name!r}.")
    custom = {**_CUSTOM, **_scoped.get(), **(custom_objects or {})}
    if name.split("/")[-1] in custom:
        return custom[name.split("/")[-1]]
    if name in table:
        return table[name]
    raise ValueError(unknown(kind, name, list(table)) + " Pass your own in custom_objects={name: class}.")
