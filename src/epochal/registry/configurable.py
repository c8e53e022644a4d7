"""Objects that know the arguments they were made with, and the names of their classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, ClassVar

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


def named_arguments(made: Any) -> Mapping[str, Any]:
    """The arguments that a `Configurable` object was given by name when it was made."""
    return made._arguments.named


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


def registered_classes() -> Mapping[str, type]:
    """The classes that may be written down, by the names that stand in files."""
    return _REGISTRY


def registered_functions() -> Mapping[str, Callable]:
    """The functions that may be written down, by the names that stand in files."""
    return _FUNCTIONS


def custom_objects_here() -> dict[str, Any]:
    """A copy of what is known for good and in the `custom_object_scope`s around, the innermost first."""
    return {**_CUSTOM, **_scoped.get()}


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


def register_keras_serializable(package: str = "custom", name: str | None = None) -> Callable[[Any], Any]:
    """A decorator of classes and functions: models that use them can be saved, and loaded without `custom_objects`.

    Args:
        package: keeps equal names of two projects apart.
        name: the class's or function's own when not given.
    """

    def decorate(item: Any) -> Any:
        return register(item, f"{package}/{name or item.__name__}")

    return decorate
