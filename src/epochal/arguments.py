"""What the training methods are called with: checked, with an error that says what was expected, and put in order."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from epochal import losses, sources
from epochal.losses.shapes import kind_by_shape
from epochal.optimizers import scale_learning_rate
from epochal.sources import Examples, shared_rows, widened
from epochal.step import Steps

# An argument that the method checks itself, so that whatever is passed meets our error and not a type checker's.
Checked: TypeAlias = Any

DEFAULT_BATCH_SIZE = 32


def check_labels(steps: Steps, *parts: Examples | None) -> None:
    """Class numbers that the model has no output for are refused: in compiled code they would go unnoticed."""
    objective = steps.objective
    assert objective is not None
    for examples in parts:
        for i, (output, loss) in enumerate(zip(objective.outputs, objective.losses, strict=True)):
            if examples is not None and examples.y is not None and loss is not None and output.prediction.shape:
                losses.check_labels(loss, np.asarray(examples.y[i]), output.prediction.shape[-1])


def device_dtype(array: Any) -> Any:
    return jax.dtypes.canonicalize_dtype(array.dtype)


def is_count(value: Any) -> bool:
    """Whether `value` is an integer >= 1."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def checked_batch_size(given: Any, n: int, name: str = "batch_size") -> int:
    """Examples per step, at most n; `name` is the argument's.

    Raises:
        ValueError: neither "auto", "full" nor an int >= 1.
    """
    if given == "full":
        return n
    if given is None or given == "auto":
        return min(DEFAULT_BATCH_SIZE, n)
    if not is_count(given):
        raise ValueError(f'Expected {name} to be "auto", "full" or an int >= 1, got {given!r}.')
    return min(int(given), n)


def checked_micro_batch_size(given: Any) -> int | str | None:
    """Raises ValueError for anything but "auto", None and an int >= 1, which is returned."""
    if given is None or given == "auto":
        return given
    if not is_count(given):
        raise ValueError(f'Expected micro_batch_size to be "auto", None or an int >= 1, got {given!r}.')
    return int(given)


def checked_steps(name: str, given: Any, endless: bool = False) -> int | None:
    """A number of batches: None, an int >= 1, or -1 when `endless`.

    Raises:
        ValueError: something else.
    """
    if given is None or is_count(given) or (endless and given == -1):
        return given
    raise ValueError(f"Expected {name} to be None or an int >= 1{', or -1' if endless else ''}, got {given!r}.")


def checked_epochs(initial_epoch: Any, epochs: Any) -> range:
    for name, value in (("epochs", epochs), ("initial_epoch", initial_epoch)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"Expected {name} to be an int >= 0, got {value!r}.")
    return range(int(initial_epoch), int(epochs))


def check_shuffle(shuffle: Any) -> None:
    if not isinstance(shuffle, bool | np.bool_) and shuffle != "batch":
        raise ValueError(f'Expected shuffle to be True, False or "batch", got {shuffle!r}.')


def check_scaling(lr_scaling: Any) -> None:
    if lr_scaling is not None:
        scale_learning_rate(lr_scaling, DEFAULT_BATCH_SIZE, DEFAULT_BATCH_SIZE)


def check_view(view_metrics: Any) -> None:
    if view_metrics not in (False, "auto"):
        raise ValueError(f'Expected view_metrics=False or "auto" (there is no live page yet), got {view_metrics!r}.')


def validation_due(freq: Any) -> Callable[[int], bool]:
    """Whether epoch e, counted from 1, is to be validated."""
    if is_count(freq):
        return lambda epoch: epoch % freq == 0
    if isinstance(freq, Container) and not isinstance(freq, str):
        return lambda epoch: epoch in freq
    raise ValueError(f"Expected validation_freq to be an int >= 1 or a container of epochs, got {freq!r}.")


def check_inputs(name: str, expected: Any, x: Any) -> None:
    """Raises ValueError when data has another structure or shape than the model was built for."""
    want, got = jax.tree_util.tree_flatten_with_path(expected)[0], jax.tree_util.tree_flatten_with_path(x)[0]
    if [p for p, _ in want] != [p for p, _ in got]:
        kind = f"a {type(x).__name__} of {len(got)}" if not hasattr(x, "shape") else "one array"
        wanted = "one array" if hasattr(expected, "shape") else f"a {type(expected).__name__} of {len(want)}"
        raise ValueError(f"Expected {wanted} as x for model {name!r}, got {kind}.")
    for (path, spec), (_, array) in zip(want, got, strict=True):
        if spec.shape[1:] != tuple(array.shape[1:]):
            raise ValueError(described_inputs("x" + jax.tree_util.keystr(path), name, spec.shape, array.shape))


def same_shapes(expected: Any, x: Any) -> bool:
    """Whether data has the structure and, but for the number of rows, the shapes of `expected`."""
    want, structure = jax.tree.flatten(expected)
    got, other = jax.tree.flatten(x)
    return structure == other and all(a.shape[1:] == tuple(b.shape[1:]) for a, b in zip(want, got, strict=True))


def fits_declared(shape: Sequence[int | None] | None, x: Any) -> bool:
    """Whether an input agrees with the declared shape of one example; always, where none was declared."""
    if shape is None:
        return True
    sizes = x.shape[1:] if hasattr(x, "shape") else ()
    return len(sizes) == len(shape) and all(a in (None, b) for a, b in zip(shape, sizes, strict=True))


def described_inputs(label: str, model: str, expected: Sequence[int | None], found: Sequence[int]) -> str:
    """The sentence that says which shape an input of a model should have had."""
    shape = ", ".join(["n", *["any" if size is None else str(size) for size in expected[1:]]])
    return f"Expected {label} of shape ({shape}) for model {model!r}, got {tuple(found)}."


def with_rank(array: Any, shape: Sequence[int | None]) -> Any:
    """(n,) as (n, 1) for an input of shape (n, 1), and the reverse, as Keras does; everything else as it is."""
    if array.ndim == len(shape) - 1 and shape[-1] == 1:
        return array[..., None]
    if array.ndim == len(shape) + 1 and array.shape[-1] == 1:
        return array[..., 0]
    return array


def per_output(values: Any, names: Sequence[str], what: str) -> list[Any]:
    """Arrays per output from an array, a list or a dict by output name."""
    if isinstance(values, Mapping):
        unknown = [k for k in values if k not in names]
        if unknown:
            raise ValueError(f"Unknown output {unknown[0]!r} in {what}; the outputs are {list(names)}.")
        return [values.get(n) for n in names]
    if isinstance(values, list | tuple):
        if len(values) != len(names):
            raise ValueError(f"Expected {what} with one array per output ({list(names)}), got {len(values)} arrays.")
        return list(values)
    if len(names) == 1 or what == "sample_weight":
        return [values] * len(names)
    raise ValueError(f"Expected {what} with one array per output ({list(names)}), got one array.")


def with_class_weight(examples: Examples, class_weight: Checked, names: Sequence[str], outputs: Any) -> Examples:
    """The examples with their classes' weights multiplied into the sample weights.

    Args:
        examples: targets and weights as one array per output.
        class_weight: class -> weight; for several outputs a dict of these by output.
        names: of the outputs.
        outputs: shape and type of what the model returns.

    Raises:
        ValueError: not such a dict, or targets that are no classes.
    """
    if not isinstance(class_weight, Mapping):
        raise ValueError(f"Expected class_weight to be a dict of class -> weight, got {class_weight!r}.")
    by_output = class_weight
    if not class_weight or not all(isinstance(value, Mapping) for value in class_weight.values()):
        if len(names) > 1:
            raise ValueError(
                "A model with several outputs needs class_weight={output: {class: weight}} for some of its outputs "
                f"{list(names)}, got {class_weight!r}."
            )
        by_output = {names[0]: class_weight}
    if examples.y is None:
        raise ValueError("class_weight needs targets y.")
    for name in by_output:
        if name not in names:
            raise ValueError(f"Unknown output {name!r} in class_weight; the outputs are {list(names)}.")
    weights: list[Any] = list(examples.weight) if examples.weight is not None else [None] * len(names)
    for i, (name, spec) in enumerate(zip(names, jax.tree.leaves(outputs), strict=True)):
        if name in by_output and examples.y[i] is not None:
            one_hot = kind_by_shape(examples.y[i].shape, spec.shape) == "categorical"
            own = sources.class_weights(examples.y[i], by_output[name], one_hot)
            weights[i] = own if weights[i] is None else sources.product(own, weights[i])
    return Examples(examples.x, examples.y, weights, examples.n)


def array_chunks(examples: Examples, size: int, padded: bool) -> Iterator[tuple[Any, int]]:
    """Pieces of x with the number of true rows in each; short ones are padded to the size of a full one."""
    width = shared_rows(size) if size == examples.n else size
    for start in range(0, examples.n, size):
        piece = examples.rows(start, min(start + size, examples.n))
        x = sources.read_rows(piece.x, np.arange(piece.n)) if piece.lazy else piece.x
        yield (widened(x, piece.n, width) if padded else x), piece.n


def stream_chunks(batches: Iterator[Examples], padded: bool) -> Iterator[tuple[Any, int]]:
    """The same for batches as they come: shorter ones are padded to the size of the largest so far."""
    width = 0
    for batch in batches:
        width = max(width, batch.n)
        yield (widened(batch.x, batch.n, width) if padded else batch.x), batch.n
