"""A functional model with two inputs and two outputs: which digit an image shows, and whether it is even.

The inputs are the image and the sums of its rows. `compile` and `fit` take losses, metrics and targets by the names of
the outputs. The script was written for Keras: only the import differs.
"""

import numpy as np
from sklearn.datasets import load_digits

import epochal as keras

keras.utils.set_random_seed(0)

x, y = load_digits(return_X_y=True)
images = x.reshape(-1, 8, 8).astype("float32") / 16
rows = images.sum(axis=2)
even = (y % 2 == 0).astype("float32")

image = keras.Input((8, 8), name="image")
row_sums = keras.Input((8,), name="row_sums")
pixels = keras.layers.Flatten()(image)
shape = keras.layers.Dense(32, activation="relu")(pixels)
hidden = keras.layers.Concatenate()([shape, keras.layers.Dense(8, activation="relu")(row_sums)])
digit = keras.layers.Dense(10, activation="softmax", name="digit")(hidden)
is_even = keras.layers.Dense(1, activation="sigmoid", name="is_even")(hidden)

model = keras.Model(inputs=[image, row_sums], outputs={"digit": digit, "is_even": is_even})
model.compile(
    optimizer=keras.optimizers.Adam(0.01),
    loss={"digit": "sparse_categorical_crossentropy", "is_even": "binary_crossentropy"},
    loss_weights={"digit": 1.0, "is_even": 0.5},
    metrics={"digit": ["accuracy"], "is_even": ["accuracy"]},
)
history = model.fit(
    {"image": images, "row_sums": rows},
    {"digit": y, "is_even": even},
    batch_size=64,
    epochs=4,
    validation_split=0.2,
    verbose=0,
)

predictions = model.predict({"image": images[:5], "row_sums": rows[:5]}, verbose=0)
agree = np.mean((predictions["digit"].argmax(-1) % 2 == 0) == (predictions["is_even"][:, 0] > 0.5))
print("reported:", sorted(history.history))
print("epochs:", len(history.epoch))
print("shapes:", predictions["digit"].shape, predictions["is_even"].shape)
print(f"both outputs agree on {agree:.0%} of five images")
print(f"accuracy: {history.history['digit_accuracy'][0]:.3f} -> {history.history['digit_accuracy'][-1]:.3f}")
