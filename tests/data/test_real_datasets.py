"""Real torch `DataLoader`s and `tf.data.Dataset`s against the same batches as arrays, bit for bit (rule E1).

The quick suite has classes that look like them; here are the real ones: `pip install 'epochal[bench,test]'`, then
`pytest -m slow tests/data/test_real_datasets.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.data import diabetes

import epochal as keras

pytestmark = pytest.mark.slow

N, M = 42, 8  # the last batch is short
X, Y = diabetes(N)
W = np.linspace(0.5, 2, N).astype(np.float32)


def model(dropout: float = 0.3) -> Any:
    """Random masks and statistics over the batch: what is trained on in another way is seen."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    first = layers.Dense(4, activation="tanh", input_shape=(10,))
    made = keras.Sequential([first, layers.Dropout(dropout), layers.BatchNormalization(), layers.Dense(1)])
    made.compile("adam", "mse", weighted_metrics=["mae"])
    return made


def results(data: dict[str, Any], dropout: float = 0.3, **fit: Any) -> Any:
    """What training, evaluating and predicting come to."""
    made = model(dropout)
    history = made.fit(**data, epochs=3, shuffle=False, verbose=0, **fit).history
    x = {"x": data["x"], **({"batch_size": M} if "batch_size" in data else {})}
    few = {"steps": fit["steps_per_epoch"]} if "steps_per_epoch" in fit else {}
    score = made.evaluate(**data, verbose=0, **few)
    return history, [w.tolist() for w in made.get_weights()], score, made.predict(**x, verbose=0, **few).tolist()


def arrays(weighted: bool) -> dict[str, Any]:
    return {"x": X, "y": Y, "batch_size": M, **({"sample_weight": W} if weighted else {})}


# -- torch


def loader(weighted: bool = False, **settings: Any) -> Any:
    torch = pytest.importorskip("torch", reason="needs torch: pip install 'epochal[bench]'")
    columns = [torch.from_numpy(a) for a in ((X, Y, W) if weighted else (X, Y))]
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*columns), **{"batch_size": M, **settings})


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("settings", [{}, {"num_workers": 2}])
def test_E1_a_torch_loader_trains_as_arrays_do(weighted: bool, settings: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning, message="os.fork")
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
        found = results({"x": loader(weighted, **settings)})
    assert found == results(arrays(weighted))


def test_E1_a_torch_loader_with_steps_goes_on_and_starts_again() -> None:
    assert results({"x": loader()}, steps_per_epoch=4) == results(arrays(False), steps_per_epoch=4)


def test_E1_a_torch_loader_of_unknown_length() -> None:
    torch = pytest.importorskip("torch", reason="needs torch: pip install 'epochal[bench]'")

    class Rows(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter(zip(X, Y, strict=True))

    assert results({"x": torch.utils.data.DataLoader(Rows(), batch_size=M)}) == results(arrays(False))


def test_E1_a_torch_loader_that_shuffles_and_validates() -> None:
    made = model()
    history = made.fit(loader(shuffle=True), validation_data=loader(), epochs=2, verbose=0).history
    assert history["val_loss"][-1] == made.evaluate(X, Y, batch_size=M, verbose=0)[0]


# -- tf.data


def tensorflow() -> Any:
    return pytest.importorskip("tensorflow", reason="needs tensorflow: pip install 'epochal[bench]'")


def of_generator(tf: Any) -> Any:
    signature = (tf.TensorSpec((10,), tf.float32), tf.TensorSpec((), tf.float32))
    return tf.data.Dataset.from_generator(lambda: zip(X, Y, strict=True), output_signature=signature)


KINDS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "known": (lambda tf: tf.data.Dataset.from_tensor_slices((X, Y)).batch(M), {}),
    "known, prefetched": (lambda tf: tf.data.Dataset.from_tensor_slices((X, Y)).batch(M).prefetch(2), {}),
    "unknown": (lambda tf: of_generator(tf).batch(M), {}),
    "filtered": (lambda tf: tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda x, y: True).batch(M), {}),
    "steps": (lambda tf: tf.data.Dataset.from_tensor_slices((X, Y)).batch(M), {"steps_per_epoch": 4}),
    "unknown, steps": (lambda tf: of_generator(tf).batch(M), {"steps_per_epoch": 4}),
    "endless": (lambda tf: tf.data.Dataset.from_tensor_slices((X, Y)).batch(M).repeat(), {"steps_per_epoch": 4}),
    "endless, whole": (lambda tf: tf.data.Dataset.from_tensor_slices((X, Y)).batch(M).repeat(), {"steps_per_epoch": 6}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_E1_a_tf_dataset_trains_as_arrays_do(kind: str) -> None:
    make, fit = KINDS[kind]
    # Masks are drawn by pass and example: that data without end begins another pass cannot be known.
    dropout = 0.0 if "endless" in kind else 0.3
    assert results({"x": make(tensorflow())}, dropout, **fit) == results(arrays(False), dropout, **fit)


def test_E1_a_tf_dataset_with_weights_and_with_a_dict() -> None:
    tf = tensorflow()
    weighted = tf.data.Dataset.from_tensor_slices((X, Y, W)).batch(M)
    assert results({"x": weighted}) == results(arrays(True))
    inputs = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    made = keras.Model(list(inputs), keras.layers.Dense(1)(keras.layers.Concatenate()(list(inputs))))
    made.compile("sgd", "mse")
    rows = {"a": X[:, :6], "b": X[:, 6:]}
    scores = [
        made.evaluate(tf.data.Dataset.from_tensor_slices((rows, Y)).batch(M), verbose=0),
        made.evaluate(rows, Y, batch_size=M, verbose=0),
    ]
    assert scores[0] == scores[1]


def test_E1_a_tf_dataset_that_was_not_batched_is_said() -> None:
    tf = tensorflow()
    with pytest.raises(ValueError, match=r"batch"):
        model().fit(tf.data.Dataset.from_tensor_slices((X, Y)), verbose=0)
    with pytest.raises(ValueError, match="at least one batch"):
        model().fit(tf.data.Dataset.from_tensor_slices((X[:0], Y[:0])).batch(M), verbose=0)


def test_E1_validation_on_a_tf_dataset() -> None:
    tf = tensorflow()
    made = model()
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(M)
    history = made.fit(data, validation_data=data, validation_steps=2, epochs=2, verbose=0).history
    assert history["val_loss"][-1] == made.evaluate(X[: 2 * M], Y[: 2 * M], batch_size=M, verbose=0)[0]


def test_E1_tensors_are_arrays() -> None:
    torch = pytest.importorskip("torch", reason="needs torch: pip install 'epochal[bench]'")
    tf = tensorflow()
    expected = results(arrays(False))
    for convert in (torch.from_numpy, tf.constant):
        assert results({"x": convert(X), "y": convert(Y), "batch_size": M}) == expected


# -- torchdata


class BrokenOff(Exception):
    """Ends a run."""


@pytest.mark.parametrize("seeded", [True, False], ids=["generator", "global"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_torchdata_loader_goes_on_by_its_own_state(workers: int, seeded: bool, tmp_path: Path, capsys: Any) -> None:
    """With the random numbers that torchdata leaves out, so that later passes come in the same order too."""
    needs = "needs torchdata: pip install 'epochal[bench]'"
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason=needs)
    torch = pytest.importorskip("torch", reason=needs)

    def trained(folder: Path, end: int | None = None, kept: int = 2) -> Any:
        torch.manual_seed(0 if folder.name == "whole" or end is not None else 1)  # what is drawn is put back
        rows = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
        how = {"shuffle": True, "generator": torch.Generator().manual_seed(3) if seeded else None}
        data = stateful.StatefulDataLoader(rows, batch_size=M, num_workers=workers, **how)
        held = torch.utils.data.DataLoader(rows, batch_size=M)  # takes a number from torch's global ones in each pass
        made, seen = model(), []

        def look(batch: int, logs: Any = None) -> None:
            seen.append(batch)
            if len(seen) == end:
                raise BrokenOff

        callbacks = [keras.callbacks.LambdaCallback(on_train_batch_end=look)]
        callbacks.append(keras.callbacks.BackupAndRestore(folder, kept))
        history = made.fit(data, epochs=4, validation_data=held, verbose=0, callbacks=callbacks).history
        return history, [w.tolist() for w in made.get_weights()], len(seen)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning, message="os.fork")
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
        warnings.filterwarnings(
            "ignore", message="'set_vital' is deprecated"
        )  # torch's own, where its attributes are listed
        whole = trained(tmp_path / "whole")
        for end, kept in [(9, 4), (16, 5), (7, 6), (13, 12)]:  # of passes of six batches; 6 and 12 are whole passes
            folder = tmp_path / str(end)
            with pytest.raises(BrokenOff):
                trained(folder, end, kept)
            found = trained(folder, kept=kept)
            assert found[:2] == whole[:2]
            assert found[2] == whole[2] - (end - 1) // kept * kept
    assert "skipped" not in capsys.readouterr().out
