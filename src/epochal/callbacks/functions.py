"""Callbacks from plain functions."""

from __future__ import annotations

from collections.abc import Callable

from epochal.callbacks.base import Callback
from epochal.names import unknown

_HOOKS = [name for name in vars(Callback) if name.startswith("on_")]


class LambdaCallback(Callback):
    """Calls functions given by the hook's name, such as `on_epoch_end=lambda epoch, logs: …`.

    Raises:
        ValueError: a name that is no hook.
    """

    def __init__(self, **functions: Callable):
        for name, function in functions.items():
            if name not in _HOOKS:
                raise ValueError(unknown("hook", name, _HOOKS))
            if function is not None:
                setattr(self, name, function)
