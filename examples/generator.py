"""Data that a generator makes: digits that are moved by a pixel, new ones in every batch.

A generator has no end, so `steps_per_epoch` says how many batches an epoch has. Validation data are arrays. The script
was written for Keras: only the import differs.
"""

import numpy as np
from sklearn.datasets import load_digits

import epochal as keras

keras.utils.set_random_seed(0)

x, y = load_digits(return_X_y=True)
x = x.reshape(-1, 8, 8).astype("float32") / 16
train, held_out = (x[:1400], y[:1400]), (x[1400:], y[1400:])


def moved_digits(x, y, batch_size, rng):
    while True:
        chosen = rng.integers(len(x), size=batch_size)
        down, right = rng.integers(-1, 2, size=2)
        yield np.roll(x[chosen], (down, right), axis=(1, 2)), y[chosen]


model = keras.Sequential(
    [
        keras.layers.Input(shape=(8, 8)),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(0.005), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(
    moved_digits(*train, batch_size=64, rng=np.random.default_rng(0)),
    steps_per_epoch=25,
    epochs=5,
    validation_data=held_out,
    verbose=0,
)

print("reported:", sorted(history.history))
print("epochs:", len(history.epoch))
print("updates:", int(model.optimizer.iterations))
print(f"loss: {history.history['loss'][0]:.3f} -> {history.history['loss'][-1]:.3f}")
print(f"accuracy: {history.history['val_accuracy'][-1]:.3f}")
