"""The face: arguments, names, errors that leave the model as it was."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import optax
import pytest
from support.data import diabetes, digits
from support.same import same

import epochal as keras

layers = keras.layers


def classifier() -> keras.Sequential:
    model = keras.Sequential(
        [layers.Dense(8, activation="relu", input_shape=(64,)), layers.Dense(10, activation="softmax")]
    )
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    return model


X, Y = digits(64)


def test_A2_unknown_keywords_are_type_errors() -> None:
    with pytest.raises(TypeError, match="batchsize"):
        classifier().fit(X, Y, batchsize=3)
    with pytest.raises(TypeError, match="metric"):
        classifier().compile("adam", "mse", metric=["mae"])
    with pytest.raises(TypeError, match="unit"):
        layers.Dense(unit=3)


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        ({"optimizer": "adm"}, "adam"),
        ({"optimizer": "adam", "loss": "binary_crossentrop"}, "binary_crossentropy"),
        ({"optimizer": "adam", "loss": "mse", "metrics": ["acuracy"]}, "accuracy"),
        ({"optimizer": "adam", "loss": "mse", "weighted_metrics": ["MeanSquaredEror"]}, "MeanSquaredError"),
        ({"optimizer": "adam", "loss": {"a": "mee"}}, "mse"),
    ],
)
def test_A2_unknown_names_are_said_at_compile_with_the_nearest(arguments: dict[str, Any], nearest: str) -> None:
    with pytest.raises(ValueError, match=f"Unknown .*{nearest}"):
        classifier().compile(**arguments)


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", True])
def test_A3_steps_per_execution_is_checked_at_compile(value: Any) -> None:
    with pytest.raises(ValueError, match="steps_per_execution"):
        classifier().compile("adam", "mse", steps_per_execution=value)


def test_B1_no_loss_anywhere_is_an_error() -> None:
    model = keras.Sequential([layers.Dense(1, input_shape=(10,))])
    model.compile("adam")
    with pytest.raises(ValueError, match="loss"):
        model.fit(*diabetes(32), verbose=0)


def test_B7_n_by_2_against_n_by_1_is_an_error_and_not_a_broadcast() -> None:
    """Keras broadcasts silently and trains on nonsense."""
    x, y = diabetes(32)
    model = keras.Sequential([layers.Dense(1, input_shape=(10,))])
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match=r"\(\w+, 1\).*\(\w+, 2\)"):
        model.fit(x, np.stack([y, y], 1), verbose=0)


def test_F1_epochs_and_initial_epoch() -> None:
    model = classifier()
    history = model.fit(X, Y, epochs=5, initial_epoch=3, verbose=0)
    assert history.epoch == [3, 4]
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: seen.append("begin"), on_train_end=lambda logs: seen.append("end")
    )
    history = model.fit(X, Y, epochs=3, initial_epoch=3, verbose=0, callbacks=watch)
    assert history.epoch == []
    assert seen == ["begin", "end"]
    assert model.fit(X, Y, epochs=0, verbose=0).history == {}


def test_G3_validation_freq() -> None:
    model = classifier()
    history = model.fit(X, Y, epochs=6, validation_split=0.25, validation_freq=2, verbose=0).history
    assert len(history["loss"]) == 6
    assert len(history["val_loss"]) == 3
    history = model.fit(X, Y, epochs=6, validation_split=0.25, validation_freq={1, 6}, verbose=0).history
    assert len(history["val_loss"]) == 2


def test_C5_results_have_the_order_of_compile_and_evaluate_its_labels() -> None:
    x, y = diabetes(64)
    model = keras.Sequential([layers.Dense(1, input_shape=(10,))])
    model.compile("adam", "mse", metrics=["mae", "mse", keras.metrics.R2Score()], weighted_metrics=["mae", "mape"])
    history = model.fit(x, y, validation_split=0.25, verbose=0).history
    labels = ["loss", "mae", "mse", "r2_score", "weighted_mae", "mape"]
    assert list(history) == labels + [f"val_{label}" for label in labels]
    assert model.metrics_names == labels
    values = model.evaluate(x, y, verbose=0)
    assert values == list(model.evaluate(x, y, verbose=0, return_dict=True).values())
    model.compile("adam", "mse")
    assert isinstance(model.evaluate(x, y, verbose=0), float)


def test_C3_a_repeated_name_gets_a_number() -> None:
    x, y = diabetes(32)
    model = keras.Sequential([layers.Dense(1, input_shape=(10,))])
    model.compile("adam", "mse", metrics=["mae", "mae", "mae"])
    assert list(model.fit(x, y, verbose=0).history) == ["loss", "mae", "mae_1", "mae_2"]


def test_A1_any_optax_transformation_is_an_optimizer() -> None:
    model = classifier()
    model.compile(optax.chain(optax.clip(1.0), optax.adamw(0.01)), "ce", ["accuracy"])
    history = model.fit(*digits(400), epochs=5, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


def test_K_evaluate_and_predict_on_a_model_built_at_its_first_data() -> None:
    model = keras.Sequential([layers.Dense(4, activation="relu"), layers.Dense(10)])
    assert model.predict(X[:5], verbose=0).shape == (5, 10)
    with pytest.raises(ValueError, match=r"\(n, 64\)"):
        model.predict(X[:5, :3], verbose=0)


def test_K_weights_go_in_and_out_and_wrong_ones_change_nothing() -> None:
    model = classifier()
    weights = [w + 1 for w in model.get_weights()]
    model.set_weights(weights)
    assert same(model.get_weights(), weights)
    with pytest.raises(ValueError, match="Expected 4 arrays"):
        model.set_weights(weights[:2])
    with pytest.raises(ValueError, match=re.escape("(10,)")):
        model.set_weights([*weights[:3], np.ones(9)])
    assert same(model.get_weights(), weights)


def test_A6_summary_counts_weights_and_follows_trainable() -> None:
    model = classifier()
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    assert "Total: 610 weights" in lines[0]
    assert "Trained: 610" in lines[0]
    assert "(None, 10)" in lines[0]
    model.layers[0].trainable = False
    model.summary(print_fn=lines.append)
    assert "Trained: 90" in lines[1]


def test_K_sequential_grows_and_shrinks() -> None:
    model = keras.Sequential(name="net")
    model.add(keras.Input((64,)))
    model.add(layers.Dense(5))
    model.add(layers.Dense(3, name="last"))
    assert model.count_params() == 65 * 5 + 6 * 3
    assert model.get_layer("last") is model.layers[1]
    assert model.get_layer(index=0) is model.layers[0]
    assert model.pop().name == "last"
    assert model.predict(X[:2], verbose=0).shape == (2, 5)
    with pytest.raises(ValueError, match="No layer named"):
        model.get_layer("last")
    with pytest.raises(TypeError, match="Add \\(\\)"):
        model.add(layers.Dense)


def test_K_models_may_be_layers_of_models() -> None:
    inner = keras.Sequential([layers.Dense(16, activation="relu")])
    model = keras.Sequential([inner, layers.Dense(10, activation="softmax")])
    model.compile("adam", "ce")
    history = model.fit(*digits(200), epochs=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert len(model.get_weights()) == 4


def test_K_a_subclass_of_model_trains() -> None:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = [layers.Dense(16, activation="relu") for _ in range(2)]
            self.drop = layers.Dropout(0.1)
            self.out = layers.Dense(10, activation="softmax")

        def call(self, x: Any, training: bool = False) -> Any:
            for layer in self.hidden:
                x = layer(x)
            return self.out(self.drop(x, training=training))

    model = Net()
    model.compile("adam", "ce", ["accuracy"])
    history = model.fit(*digits(400), epochs=5, verbose=0).history
    assert history["accuracy"][-1] > history["accuracy"][0]
    assert len(model.trainable_weights) == 6


def test_G6_memory_does_not_grow_from_epoch_to_epoch() -> None:
    import jax

    model = classifier()
    model.fit(X, Y, epochs=2, verbose=0, validation_split=0.25)
    counts = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: counts.append(len(jax.live_arrays())))
    model.fit(X, Y, epochs=30, verbose=0, validation_split=0.25, callbacks=watch)
    assert counts[-1] <= counts[5]


def test_H3_train_on_batch_is_a_fit_of_one_batch() -> None:
    a, b = classifier(), classifier()
    b.set_weights(a.get_weights())
    for model in (a, b):
        model.compile(keras.optimizers.SGD(0.1), "ce", ["accuracy"])
    for start in (0, 32):
        found = a.train_on_batch(X[start : start + 32], Y[start : start + 32])
        history = b.fit(X[start : start + 32], Y[start : start + 32], shuffle=False, verbose=0).history
        assert found == [values[0] for values in history.values()]
    assert same(a.get_weights(), b.get_weights())
    assert a.optimizer.iterations == 2


def test_H3_running_values_of_batches_and_their_reset() -> None:
    model = classifier()
    model.test_on_batch(X[:10], Y[:10])
    running = model.test_on_batch(X[10:40], Y[10:40], reset_metrics=False, return_dict=True)
    whole = model.evaluate(X[:40], Y[:40], verbose=0, return_dict=True)
    assert running == {name: pytest.approx(value, rel=1e-6) for name, value in whole.items()}
    alone = model.test_on_batch(X[10:40], Y[10:40])
    assert alone == model.evaluate(X[10:40], Y[10:40], verbose=0)
    model.reset_metrics()
    assert model.test_on_batch(X[10:40], Y[10:40], reset_metrics=False) == alone


def test_H3_weights_of_one_batch() -> None:
    model = classifier()
    model.compile(keras.optimizers.SGD(0.0), "ce")
    plain = model.test_on_batch(X[:8], Y[:8])
    assert model.test_on_batch(X[:8], Y[:8], sample_weight=np.full(8, 3.0)) == pytest.approx(3 * plain, rel=1e-6)
    classes = dict.fromkeys(range(10), 2.0)
    weighted = model.train_on_batch(X[:8], Y[:8], sample_weight=np.full(8, 3.0), class_weight=classes)
    assert weighted == pytest.approx(6 * plain, rel=1e-6)
    assert model.predict_on_batch(X[:3]).shape == (3, 10)


def test_F3_every_epoch_takes_exactly_steps_per_epoch_batches_of_an_endless_stream() -> None:
    seen: list[Any] = []
    model = classifier()
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    history = model.fit(X[:50], Y[:50], batch_size=20, epochs=4, steps_per_epoch=5, verbose=0, callbacks=watch)
    assert seen == list(range(5)) * 4
    assert history.params["steps"] == 5
    assert model.optimizer.iterations == 20
    assert history.programs["train"] == 1


def test_A3_F3_with_an_int_of_steps_per_execution_no_batch_is_added() -> None:
    """3 steps an epoch, 2 per execution: Keras runs 4."""
    model = classifier()
    model.compile("sgd", "ce", steps_per_execution=2)
    model.fit(X, Y, batch_size=8, steps_per_epoch=3, epochs=2, verbose=0)
    assert model.optimizer.iterations == 6


def test_F3_minus_one_is_endless_until_stop_training() -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 36

    model = classifier()
    history = model.fit(X, Y, batch_size=30, steps_per_epoch=-1, epochs=2, verbose=0, callbacks=Stop())
    assert model.optimizer.iterations == 37
    assert history.epoch == [0]


def test_G4_validation_steps_score_the_same_first_batches_every_epoch() -> None:
    model = classifier()
    model.compile(keras.optimizers.SGD(0.0), "ce", ["accuracy"])
    history = model.fit(X, Y, epochs=3, validation_data=(X, Y), validation_steps=1, verbose=0).history
    first = model.evaluate(X[:32], Y[:32], verbose=0)
    assert history["val_loss"] == [first[0]] * 3
    assert model.evaluate(X, Y, steps=1, verbose=0) == first
    assert model.predict(X, steps=1, verbose=0).shape == (32, 10)


def test_a_metric_that_does_not_fit_the_targets_is_named() -> None:
    model = classifier()
    model.compile("adam", "ce", metrics=[keras.metrics.AUC(name="area")])
    with pytest.raises(ValueError, match=r"Metric 'area' of output .*\(n, 10\)"):
        model.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match=r"Expected one array as x .* got a dict of 1"):
        model.fit({"a": X}, Y, verbose=0)
