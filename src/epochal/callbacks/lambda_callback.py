"""Callbacks from plain functions."""

from __future__ import annotations

from collections.abc import Callable

from epochal.callbacks.callback import Callback
from epochal.registry.lookup import unknown

_HOOKS = [name for name in vars(Callback) if name.startswith("on_")]


class LambdaCallback(Callback):
    """Calls functions given by the hook's name, such as `on_epoch_end=lambda epoch, logs: …`.

    Raises:
        ValueError: a name that is no hook.
    """

    def __init__(
        self,
        on_epoch_begin: Callable | None = None,
        on_epoch_end: Callable | None = None,
        on_train_begin: Callable | None = None,
        on_train_end: Callable | None = None,
        on_train_batch_begin: Callable | None = None,
        on_train_batch_end: Callable | None = None,
        **kwargs: Callable | None,
    ):
        for name in kwargs:
            if name not in _HOOKS:
                raise ValueError(unknown("hook", name, _HOOKS))
        self._set("on_epoch_begin", on_epoch_begin)
        self._set("on_epoch_end", on_epoch_end)
        self._set("on_train_begin", on_train_begin)
        self._set("on_train_end", on_train_end)
        self._set("on_train_batch_begin", on_train_batch_begin)
        self._set("on_train_batch_end", on_train_batch_end)
        for name, function in kwargs.items():
            self._set(name, function)

    def _set(self, name: str, function: Callable | None) -> None:
        if function is not None:
            setattr(self, name, function)
