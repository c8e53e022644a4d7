"""Section D (weights) of the training contract: each rule is a test that bears its number."""

from __future__ import annotations

import functools
from typing import Any

import keras as theirs
import numpy as np
import pytest
from support.data import breast_cancer, diabetes
from support.feeds import FORMS, Listed, M, N, batches, errors, line, still
from support.kinds import Loader, weights

import epochal as keras
from epochal import layers


@pytest.mark.parametrize("form", ["arrays", *FORMS])
def test_D1_a_weighted_loss_is_divided_by_the_batch_size_and_an_epoch_by_the_examples(form: str) -> None:
    (x, y), w = diabetes(N), weights()
    model = still()
    if form == "arrays":
        history = model.fit(x, y, batch_size=M, sample_weight=w, verbose=0).history
    else:
        history = model.fit(FORMS[form](batches(x, y, w)), verbose=0).history
    assert history["loss"][0] == pytest.approx((w * errors(model, x, y)).sum() / N, rel=1e-6)
    assert history["loss"][0] != pytest.approx((w * errors(model, x, y)).sum() / w.sum(), rel=1e-2)


def test_D1_the_gradient_of_a_weighted_batch_is_divided_by_its_size() -> None:
    (x, y), w = diabetes(N), weights()
    model = line(optimizer=keras.optimizers.SGD(1.0))
    before = model.get_weights()[0]
    residuals = (x @ before)[:, 0] - y
    model.fit(x, y, batch_size="full", sample_weight=w, verbose=0)
    expected = before[:, 0] - 2 * (w * residuals) @ x / N
    np.testing.assert_allclose(model.get_weights()[0][:, 0], expected, rtol=1e-4, atol=1e-5)


@functools.cache
def temporal(k: Any) -> Any:
    model = k.Sequential([k.layers.Input((3, 2)), k.layers.Dense(1)])
    model.set_weights([np.array([[1.0], [-2.0]], np.float32), np.zeros(1, np.float32)])
    model.compile(k.optimizers.SGD(0.0), "mse", weighted_metrics=["mae"])
    return model  # which training does not change


TEMPORAL = [(6,), (6, 1), (6, 3), (6, 3, 1)]


@pytest.mark.parametrize("shape", TEMPORAL)
def test_D2_weights_of_temporal_outputs_have_four_shapes(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(6, 3, 2)).astype(np.float32), random.normal(size=(6, 3, 1)).astype(np.float32)
    w = random.uniform(0.1, 2, shape).astype(np.float32)
    difference = (x @ [[1.0], [-2.0]] - y)[..., 0]
    per_step = np.broadcast_to(w.reshape(6, -1), (6, 3)).astype(np.float64)
    loss = (per_step * difference**2).sum() / 18
    mae = (per_step * abs(difference)).sum() / per_step.sum()
    for data in ((x, y, w), (Listed(batches(x, y, w, size=4)),)):
        model = temporal(keras)
        given = dict(zip(("x", "y", "sample_weight"), data, strict=False))
        assert model.fit(**given, verbose=0).history["loss"][0] == pytest.approx(loss, rel=1e-5)
        assert model.evaluate(**given, verbose=0) == pytest.approx([loss, mae], rel=1e-5)


def test_D2_keras_does_not_take_all_of_them() -> None:
    refused = []
    for shape in TEMPORAL:
        try:
            temporal(theirs).fit(np.ones((6, 3, 2)), np.ones((6, 3, 1)), sample_weight=np.ones(shape), verbose=0)
        except ValueError:
            refused.append(shape)
    assert refused


def classes(labels: np.ndarray) -> np.ndarray:
    """The class weights used below; class 2 is missing and weighs 1."""
    return np.array([2.0, 0.25, 1.0])[labels]


CLASS_WEIGHT = {0: 2.0, 1: 0.25}
LABELS = np.random.default_rng(2).integers(0, 3, 20)
STEPS = np.random.default_rng(3).integers(0, 3, (20, 4))
TARGETS: dict[str, tuple[np.ndarray, str]] = {
    "integers": (LABELS, "sparse_categorical_crossentropy"),
    "columns": (LABELS[:, None], "sparse_categorical_crossentropy"),
    "one-hot": (np.eye(3)[LABELS], "categorical_crossentropy"),
    "floats": (LABELS.astype(np.float32), "sparse_categorical_crossentropy"),
    "sequences": (STEPS, "sparse_categorical_crossentropy"),
    "sequence columns": (STEPS[..., None], "sparse_categorical_crossentropy"),
    "sequences one-hot": (np.eye(3)[STEPS], "categorical_crossentropy"),
}


@functools.cache
def classifier(features: tuple[int, ...], loss: str) -> Any:
    model = keras.Sequential([layers.Dense(3, activation="softmax", input_shape=features)])
    model.compile(keras.optimizers.SGD(0.0), loss)
    return model


@pytest.mark.parametrize("name", TARGETS)
def test_D3_classes_are_told_from_every_form_of_y(name: str) -> None:
    y, loss = TARGETS[name]
    labels = STEPS if "sequence" in name else LABELS
    x = np.random.default_rng(4).normal(size=(*labels.shape, 2)).astype(np.float32)
    model = classifier(x.shape[1:], loss)
    found = model.fit(x, y, class_weight=CLASS_WEIGHT, batch_size=6, verbose=0).history["loss"][0]
    probability = np.take_along_axis(model.predict(x, verbose=0).astype(np.float64), labels[..., None], -1)[..., 0]
    assert found == pytest.approx(-(classes(labels) * np.log(probability)).mean(), rel=1e-5)


@functools.cache
def logistic(k: Any = keras) -> Any:
    model = k.Sequential([k.layers.Input((30,)), k.layers.Dense(1, activation="sigmoid")])
    model.set_weights([np.linspace(-0.3, 0.2, 30, dtype=np.float32)[:, None], np.zeros(1, np.float32)])
    model.compile(k.optimizers.SGD(0.0), "binary_crossentropy")
    return model


def entropies(model: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    p = model.predict(x, verbose=0)[:, 0].astype(np.float64)
    return -np.where(y == 1, np.log(p), np.log(1 - p))


@pytest.mark.parametrize("form", ["arrays", *FORMS, "torch"])
def test_D3_class_weights_multiply_with_sample_weights_in_every_kind_of_data(form: str) -> None:
    (x, y), w = breast_cancer(N), weights()
    model = logistic()
    own = np.where(y == 0, 3.0, 0.5)
    for weight in (None, w):
        data = (x, y) if weight is None else (x, y, weight)
        kind = {**FORMS, "torch": Loader}.get(form)
        given = kind(batches(*data)) if kind else None
        arguments = {"x": x, "y": y, "sample_weight": weight, "batch_size": M} if given is None else {"x": given}
        history = model.fit(**arguments, class_weight={0: 3.0, 1: 0.5}, validation_data=(x, y), verbose=0).history
        both = own * (1 if weight is None else weight)
        assert history["loss"][0] == pytest.approx((both * entropies(model, x, y)).mean(), rel=1e-5)
        assert history["val_loss"][0] == pytest.approx(entropies(model, x, y).mean(), rel=1e-5)  # training only


def test_D3_keras_refuses_both_and_generators() -> None:
    x, y = breast_cancer(N)
    with pytest.raises(ValueError, match="class_weight"):
        logistic(theirs).fit(x, y, class_weight={0: 3.0}, sample_weight=weights(), verbose=0)
    with pytest.raises(ValueError, match="class_weight"):
        logistic(theirs).fit((batch for batch in batches(x, y)), class_weight={0: 3.0}, shuffle=False, verbose=0)


@functools.cache
def two_headed(k: Any = keras) -> Any:
    inputs = k.Input((10,))
    a, b = k.layers.Dense(1, activation="sigmoid", name="a")(inputs), k.layers.Dense(3, name="b")(inputs)
    model = k.Model(inputs, [a, k.layers.Activation("softmax", name="c")(b)])
    model.compile(k.optimizers.SGD(0.0), ["binary_crossentropy", "sparse_categorical_crossentropy"])
    return model


@pytest.mark.parametrize("form", ["arrays", "generator", "sequence"])
def test_D3_class_weights_of_several_outputs_go_by_output(form: str) -> None:
    x, _ = diabetes(20)
    y = [(LABELS > 0).astype(np.float32), LABELS]
    model = two_headed()
    items = [(x[i : i + 8], [part[i : i + 8] for part in y]) for i in (0, 8, 16)]
    data = (x, y) if form == "arrays" else (FORMS[form](items),)
    found = model.fit(*data, class_weight={"c": CLASS_WEIGHT}, verbose=0).history
    p, q = (part.astype(np.float64) for part in model.predict(x, verbose=0))
    binary = -np.where(LABELS > 0, np.log(p[:, 0]), np.log(1 - p[:, 0])).mean()
    sparse = -(classes(LABELS) * np.log(q[np.arange(20), LABELS])).mean()
    assert found["a_loss"][0] == pytest.approx(binary, rel=1e-5)
    assert found["c_loss"][0] == pytest.approx(sparse, rel=1e-5)
    assert found["loss"][0] == pytest.approx(binary + sparse, rel=1e-5)


def test_D3_keras_refuses_several_outputs() -> None:
    with pytest.raises(ValueError, match="class_weight"):
        two_headed(theirs).fit(diabetes(20)[0], [LABELS > 0, LABELS], class_weight={"c": CLASS_WEIGHT}, verbose=0)


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({"0": 2.0}, "integers as keys"),
        ({0.5: 2.0}, "integers as keys"),
        ([1.0, 2.0], "dict"),
        ({"b": {0: 2.0}}, "Unknown output 'b'"),
    ],
)
@pytest.mark.parametrize("form", ["arrays", "generator"])
def test_D3_keys_that_are_no_integers_are_refused(class_weight: Any, message: str, form: str) -> None:
    x, y = breast_cancer(N)
    data = (x, y) if form == "arrays" else (iter(batches(x, y)),)
    with pytest.raises(ValueError, match=message):
        logistic().fit(*data, class_weight=class_weight, verbose=0)


@pytest.mark.parametrize("form", ["one array", "list", "dict"])
def test_D4_sample_weights_of_several_outputs(form: str) -> None:
    x, _ = diabetes(20)
    y = [(LABELS > 0).astype(np.float32), LABELS]
    a, c = weights(20), weights(40)[20:]
    given = {"one array": a, "list": [a, c], "dict": {"c": c}}[form]
    expected_a, expected_c = {"one array": (a, a), "list": (a, c), "dict": (1.0, c)}[form]
    model = two_headed()
    p, q = (part.astype(np.float64) for part in model.predict(x, verbose=0))
    binary = (expected_a * -np.where(LABELS > 0, np.log(p[:, 0]), np.log(1 - p[:, 0]))).mean()
    sparse = (expected_c * -np.log(q[np.arange(20), LABELS])).mean()
    for data in ((x, y, given), (iter([(x, y, given)]), None, None)):
        found = model.fit(data[0], data[1], sample_weight=data[2], batch_size=None, verbose=0).history
        assert found["a_loss"][0] == pytest.approx(binary, rel=1e-5)
        assert found["c_loss"][0] == pytest.approx(sparse, rel=1e-5)
