"""A network for the task: the default one by the size of the data, or the user's own from a Python file."""

from __future__ import annotations

import inspect
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from epochal import layers, optimizers
from epochal.models import Model, Sequential
from epochal.support.errors import InputError
from epochal.tables import Target
from epochal.tables.table import no_such

_ARGUMENTS = ("input_shape", "n_outputs", "n_classes", "task", "n_train")
_ALSO = {"outputs": "n_outputs", "units": "n_outputs", "classes": "n_classes", "num_classes": "n_classes"}


def default_widths(n: int) -> tuple[tuple[int, ...], float]:
    """Hidden layers' widths and dropout rate of the default network for `n` training rows.

    Few rows cannot fill many weights: (32,) below 200 rows, (64,) below 1,000, (128, 64) below 10,000, (256, 128)
    from there on; dropout 0.3 between 200 and 10,000 rows, else 0.2. Looked at on the bundled data sets over five
    seeds each: a start, not an optimum.
    """
    if n < 200:
        return (32,), 0.2
    if n < 1_000:
        return (64,), 0.3
    if n < 10_000:
        return (128, 64), 0.3
    return (256, 128), 0.2


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether examples of this shape are taken for images: (height, width), or (height, width, 1 to 4 channels).

    Both sides must be at least 8, and neither more than twice the other.
    """
    if len(shape) not in (2, 3) or (len(shape) == 3 and not 1 <= shape[2] <= 4):
        return False
    small, large = sorted(shape[:2])
    return small >= 8 and large <= 2 * small


def default_network(input_shape: tuple[int, ...], target: Target, n: int) -> Model:
    """A multi-layer perceptron for columns, a small convolutional network for images.

    Columns (and arrays that are no images, flattened): ReLU layers by `default_widths`, each followed by dropout.
    Images: 3 x 3 convolutions with 16, 32, … at most 128 channels, each followed by 2 x 2 max pooling, until a side is
    below 4 pixels; then 64 ReLU units and dropout 0.3.
    The output is softmax for classes, also for two. For regression, a fixed last layer turns standard units into the
    target's own, so that the saved model, its loss and its metrics speak in the target's units, while the trained
    layers work with numbers near 1.

    Args:
        input_shape: of one example.
        target: says how many outputs.
        n: training rows.

    Returns:
        an uncompiled, built `epochal.Sequential`.
    """
    # Layers have names of their own, since dropout's masks depend on them.
    stack: list[Any] = [layers.Input(input_shape)]
    stack += _image_layers(input_shape) if is_image(input_shape) else _hidden_layers(input_shape, n)
    if target.task == "classification":
        stack.append(layers.Dense(target.outputs, activation="softmax", name="classes"))
    else:
        stack += [layers.Dense(1, name="standard_units"), own_units(target)]
    return Sequential(stack, name="default_network")


def _hidden_layers(input_shape: tuple[int, ...], n: int) -> list[layers.Layer]:
    widths, dropout = default_widths(n)
    stack: list[layers.Layer] = [layers.Flatten(name="flat")] if len(input_shape) > 1 else []
    for i, width in enumerate(widths, start=1):
        stack.append(layers.Dense(width, activation="relu", name=f"hidden_{i}"))
        stack.append(layers.Dropout(dropout, name=f"dropout_{i}"))
    return stack


def _image_layers(input_shape: tuple[int, ...]) -> list[layers.Layer]:
    stack: list[layers.Layer] = [layers.Reshape((*input_shape, 1), name="one_channel")] if len(input_shape) == 2 else []
    side, channels, i = min(input_shape[:2]), 16, 1
    while side >= 4:
        stack.append(layers.Conv2D(channels, 3, padding="same", activation="relu", name=f"convolution_{i}"))
        stack.append(layers.MaxPooling2D(name=f"pooling_{i}"))
        side, channels, i = side // 2, min(2 * channels, 128), i + 1
    stack += [layers.Flatten(name="flat"), layers.Dense(64, activation="relu", name="hidden")]
    return [*stack, layers.Dropout(0.3, name="dropout")]


def own_units(target: Target) -> layers.Layer:
    """The fixed last layer of a regression network: standard units -> the target's units."""
    return layers.Rescaling(target.std, target.mean, name="own_units")


def compile_for(model: Model, target: Target, learning_rate: float, width: int | None = None) -> None:
    """Compiles with Adam and the task's usual loss and metrics.

    Classification: sparse categorical crossentropy (binary crossentropy for a network of one output) and accuracy.
    Regression: mean squared error, mean absolute error and R².

    Args:
        model: any `epochal.Model`.
        target: what is predicted.
        learning_rate: of Adam.
        width: the number of outputs, if it is not the usual `target.outputs`.
    """
    if target.task == "regression":
        loss, metrics = "mse", ["mae", "r2_score"]
    else:
        loss, metrics = ("binary_crossentropy" if width == 1 else "sparse_categorical_crossentropy"), ["accuracy"]
    model.compile(optimizers.Adam(learning_rate), loss=loss, metrics=metrics)


def network_from_file(spec: str, input_shape: tuple[int, ...], target: Target, n: int) -> Model:
    """The model that the user's function returns.

    The function is called with those of these arguments that it names: `input_shape` (of one example), `n_outputs`
    (one per class, or 1), `n_classes` (None for regression), `task` ("classification" or "regression"), `n_train`;
    `outputs` and `units` are other names of `n_outputs`, `classes` and `num_classes` of `n_classes`. It returns an
    `epochal.Model`. Compiled, it is trained exactly as it is, on class indices or on values in the target's own
    units. Uncompiled, it is compiled with the defaults, and a `Sequential` for regression gets a last layer that
    turns standard units into the target's own.

    Args:
        spec: "FILE.py:function".
        input_shape: of one example.
        target: what is predicted.
        n: training rows.

    Raises:
        InputError: no such file or function, a function that asks for something else or fails, or returns no model.
    """
    function = _function(spec)
    values: dict[str, Any] = {
        "input_shape": input_shape,
        "n_outputs": target.outputs,
        "n_classes": len(target.classes) or None,
        "task": target.task,
        "n_train": n,
    }
    arguments = _arguments_for(spec, function, values)
    try:
        model = function(**arguments)
    except Exception as error:
        raise InputError(f"--model {spec} failed: {_where(error)}{type(error).__name__}: {error}") from error
    if not isinstance(model, Model):
        raise InputError(f"--model {spec} returned {type(model).__name__}, expected an epochal.Model.")
    return model


def finish_network(model: Model, target: Target, x: np.ndarray, learning_rate: float) -> tuple[Model, bool, str | None]:
    """Checks a user's network on examples and, unless it is compiled, gives it the defaults of `network_from_file`.

    A classifier whose outputs are no probabilities gets a last layer that makes them so.

    Returns:
        the model, whether it was compiled by the user, and what was added to it, if anything.

    Raises:
        InputError: its outputs do not fit the target.
    """
    compiled, added = model.compiled, None
    if not compiled and target.task == "regression" and isinstance(model, Sequential):
        model.add(own_units(target))
    try:
        outputs = np.asarray(model.predict(x[:64], verbose=0))
    except (ValueError, TypeError) as error:
        raise InputError(f"The network does not take examples of shape {x.shape[1:]}: {error}") from error
    width = outputs.shape[-1]
    if outputs.ndim != 2 or width not in (target.outputs, *[1] * (target.outputs == 2)):
        what = f"{target.outputs} classes" if target.task == "classification" else "one value"
        raise InputError(f"The network gives {outputs.shape[1:]} per example, expected ({target.outputs},) for {what}.")
    if not compiled and target.task == "classification" and (outputs.min() < 0 or outputs.max() > 1):
        added = "sigmoid" if width == 1 else "softmax"
        model = Sequential([model, layers.Activation(added, name="probabilities")], name=model.name)
        model.predict(x[:1], verbose=0)
    if not compiled:
        compile_for(model, target, learning_rate, width)
    return model, compiled, added


def class_probabilities(outputs: np.ndarray) -> np.ndarray:
    """One column per class, (n, classes), from a network's outputs (n, classes), or (n, 1) for two classes."""
    return np.concatenate([1 - outputs, outputs], axis=1) if outputs.shape[1] == 1 else outputs


def _function(spec: str) -> Callable[..., Any]:
    path, colon, name = spec.rpartition(":")
    if not colon or not path.endswith(".py") or not name.isidentifier():
        raise InputError(f"--model expects FILE.py:function, got {spec!r}.")
    if not Path(path).is_file():
        raise InputError(f"--model: there is no file {path!r}.")
    try:
        module = runpy.run_path(path)
    except Exception as error:
        raise InputError(f"--model: {path!r} failed: {_where(error)}{type(error).__name__}: {error}") from error
    functions = {key: value for key, value in module.items() if callable(value) and not key.startswith("_")}
    if name not in functions:
        raise InputError(no_such(f"function in {path!r} called", name, functions))
    return functions[name]


def _arguments_for(spec: str, function: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """Those of `values` that the function takes, under the names it uses."""
    kinds = inspect.Parameter
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        known = _ALSO.get(name, name)
        if parameter.kind is kinds.VAR_KEYWORD:
            given = {**values, **given}
        elif known in values and parameter.kind is not kinds.POSITIONAL_ONLY:
            given[name] = values[known]
        elif parameter.default is kinds.empty and parameter.kind is not kinds.VAR_POSITIONAL:
            raise InputError(f"--model {spec} takes {name!r}; it can ask for {', '.join(_ARGUMENTS)}.")
    return given


def _where(error: BaseException) -> str:
    """`line 12: ` of the innermost frame."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f"line {frame.tb_lineno}: " if frame is not None else ""
