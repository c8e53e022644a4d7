"""What is accepted as data, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import polars
import pytest

from epochal.data.examples import as_examples, as_validation, split
from epochal.data.targets import class_weights


def test_floats_become_float32_integers_stay_and_lists_become_arrays() -> None:
    examples = as_examples([[1.5, 2], [3, 4]], [0, 1], np.ones(2))
    assert examples.x.dtype == np.float32
    assert examples.y.dtype == np.int32
    assert examples.weight.dtype == np.float32
    assert examples.n == 2
    assert as_examples(np.arange(6, dtype=np.uint8).reshape(3, 2)).x.dtype == np.uint8
    assert as_examples(np.ones((2, 1), np.float16)).x.dtype == np.float32
    assert as_examples(jnp.ones((2, 1))).x.dtype == jnp.float32


def test_a_data_frame_and_its_series_are_arrays() -> None:
    frame = polars.DataFrame({"a": [1.0, 2.0], "b": [3, 4], "y": [0, 1]})
    examples = as_examples(frame.select("a", "b"), frame["y"])
    assert examples.x.tolist() == [[1, 3], [2, 4]]
    assert examples.y.tolist() == [0, 1]


def test_a_list_of_arrays_is_several_inputs() -> None:
    examples = as_examples([np.ones((4, 2)), np.zeros((4, 3))])
    assert [a.shape for a in examples.x] == [(4, 2), (4, 3)]


BAD: dict[str, tuple[tuple[Any, ...], str]] = {
    "none": ((None,), "expected x, got None"),
    "text": (("data.csv",), "str"),
    "number": ((3.5,), "float"),
    "generator": (((i for i in range(3)),), "generator"),
    "empty": ((np.ones((0, 3)), np.ones(0)), "at least one example"),
    "sizes": ((np.ones((5, 2)), np.ones(4)), "x: 5, y: 4"),
    "weight_sizes": ((np.ones((5, 2)), np.ones(5), np.ones(3)), "sample_weight: 3"),
    "strings": ((np.array([["a"], ["b"]]),), "Expected numbers in x"),
    "objects": ((np.array([[{}], [1]], object),), "Expected numbers in x"),
    "ragged": (([[1, 2], [3]],), "equal rows"),
    "big_integers": ((np.array([[2**40]]),), "32 bits"),
    "scalar_target": ((np.ones((3, 1)), np.float32(1)), "one row per example"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_said_of_data_that_does_not_fit(name: str) -> None:
    arguments, message = BAD[name]
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        as_examples(*arguments)


@pytest.mark.parametrize(("n", "fraction"), [(10, 0.2), (10, 0.25), (7, 0.5), (100, 0.999), (3, 0.4)])
def test_G1_validation_is_the_last_rows(n: int, fraction: float) -> None:
    data = as_examples(np.arange(n)[:, None], np.arange(n), np.arange(n))
    if int(n * (1 - fraction)) == 0:
        with pytest.raises(ValueError, match="leaves none for training"):
            split(data, fraction)
        return
    train, held = split(data, fraction)
    assert train.n == int(np.floor(n * (1 - fraction)))
    assert train.n + held.n == n
    assert held.y.tolist() == list(range(train.n, n))
    assert held.weight.tolist() == list(range(train.n, n))


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, "half", True])
def test_G1_a_validation_split_that_is_no_fraction(fraction: Any) -> None:
    with pytest.raises(ValueError, match="validation_split"):
        split(as_examples(np.ones((4, 1))), fraction)


def test_G2_validation_data_in_another_form() -> None:
    with pytest.raises(ValueError, match="validation_data="):
        as_validation(np.ones((3, 2)))
    with pytest.raises(ValueError, match="validation_data="):
        as_validation((np.ones((3, 2)),))


@pytest.mark.parametrize(
    "y",
    [
        np.array([0, 1, 2, 1]),
        np.array([[0], [1], [2], [1]]),
        np.eye(3)[[0, 1, 2, 1]],
        np.array([0.0, 1.0, 2.0, 1.0]),
    ],
)
def test_class_weights_from_every_form_of_labels(y: np.ndarray) -> None:
    assert class_weights(y, {0: 2.0, 1: 0.5}, one_hot=y.shape == (4, 3)).tolist() == [
        2.0,
        0.5,
        1.0,
        0.5,
    ]  # class 2 is missing: 1


def test_class_weights_of_sequences() -> None:
    assert class_weights(np.array([[0, 1], [1, 1]]), {1: 3.0}, one_hot=False).tolist() == [[1, 3], [3, 3]]


def test_class_weights_need_integers() -> None:
    with pytest.raises(ValueError, match="keys"):
        class_weights(np.array([0, 1]), {"0": 2.0}, one_hot=False)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="classes"):
        class_weights(np.array([0.5, 1.2]), {0: 2.0}, one_hot=False)
