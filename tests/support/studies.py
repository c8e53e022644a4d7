"""A small batch-size study of the digits."""

import epochal as keras
from support.data import digits

SETTINGS = {"batch_sizes": (1, 16, "full"), "epochs": 3, "updates": 40, "seeds": 2, "learning_rates": (0.05, 0.4)}


def digits_model():
    """A dropout and moving statistics, so that a start is more than weights."""
    model = keras.Sequential(
        [
            keras.layers.Dense(8, activation="relu", input_shape=(64,)),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.5), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def digits_study(out, **settings):
    return keras.batch_size_study(digits_model, *digits(300), out=out, verbose=0, **{**SETTINGS, **settings})
