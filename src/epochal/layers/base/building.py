"""A layer's call on shapes alone, in which its weights come to be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx

from epochal.layers.base.tree import Node, flax_modules, tracked, walk
from epochal.layers.base.weights import weights_in_one_draw
from epochal.tracing import forward_pass


def abstract_call(layer: nnx.Module, *inputs: Any) -> Any:
    """What `layer` returns for `inputs`, by `forward_pass.shapes_of`. Builds what is not built, changes nothing else.

    Meanwhile weights that have no values yet are NumPy placeholders.
    """
    before = [(t.variable, t.variable.get_raw_value()) for t in tracked(layer)]

    def forward(*arguments: Any) -> Any:
        with forward_pass.calling(forward_pass.Call()):
            return layer(*arguments)  # pyright: ignore[reportCallIssue]

    with weights_in_one_draw(), flax_in_inference(layer):
        found = forward_pass.shapes_of(forward, *inputs)
        if left_unbuilt(layer):
            forward_pass.shapes_of(dry_call(layer), *inputs)
        for variable, value in before:  # weights that are made here are drawn after the call
            variable.set_raw_value(value)
        return found


def left_unbuilt(module: nnx.Module) -> bool:
    """Whether a call in inference left layers unbuilt, which a call in training may reach."""
    return any(isinstance(part, Node) and not part.built for part in walk(module))


def dry_call(layer: Any) -> Callable:
    """A call in training that builds layers and leaves all arrays alone."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        with forward_pass.calling(forward_pass.Call(training=True, dry=True)):
            return layer(*args, **kwargs)

    return forward


@contextlib.contextmanager
def flax_in_inference(module: nnx.Module) -> Iterator[None]:
    """Flax modules in `module` change nothing of their own inside: no statistics, no random counts."""
    flags = ("deterministic", "use_running_average")
    parts = [part for outer in flax_modules(module) for _, part in nnx.iter_modules(outer)]
    before = [(part, flag, vars(part)[flag]) for part in parts for flag in flags if flag in vars(part)]
    for part, flag, _ in before:
        setattr(part, flag, True)
    try:
        yield
    finally:
        for part, flag, value in before:
            setattr(part, flag, value)
