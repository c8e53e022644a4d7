"""Warnings that name the user's line, however many frames of ours lie between it and what is warned of."""

from __future__ import annotations

import sys
import threading
import warnings
from types import FrameType

# Frames of these lie between the user's code and ours. While JAX traces, it calls ours, and the user is beyond it.
_BETWEEN = frozenset({"beartype", "chex", "epochal", "flax", "jax", "jaxlib", "jaxtyping", "loky", "optax", "tyro"})


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns at the innermost line of the user's that led here.

    That is the first frame, from here outwards, that is neither epochal's, nor JAX's or of another library that calls
    epochal, nor the standard library's. In a thread that has no such frame (`Thread(target=model.fit)`) it is the line
    where the main thread is at the moment, and where that has none either, the one that called `warn`. In the command
    line it is the program.

    `warnings.warn` does so from Python 3.12 on, by paths (`skip_file_prefixes`), but within one thread.

    Args:
        message: what is told, a sentence.
        category: its class, by which filters choose.
    """
    here = sys._getframe(1)
    frame = _users(here) or _users(sys._current_frames().get(threading.main_thread().ident or 0)) or here
    names = frame.f_globals
    warnings.warn_explicit(
        message,
        category,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=names.get("__name__") or "<string>",
        registry=names.setdefault("__warningregistry__", {}),
    )


def _users(frame: FrameType | None) -> FrameType | None:
    """The first frame of the user's, from this one outwards; None where there is none."""
    while frame is not None and _between(frame):
        frame = frame.f_back
    return frame


def _between(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__")).partition(".")[0]
    return package in _BETWEEN or package in sys.stdlib_module_names
