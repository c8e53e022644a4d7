"""A model written in Flax, trained by Keras's methods.

`keras.Model(net)` holds the module itself: after `fit`, `net` has the trained weights. Statistics of `BatchNorm` and
the random state of `Dropout` are taken care of; `fit` trains, `evaluate` and `predict` infer.
"""

import jax
from flax import nnx
from sklearn.datasets import load_digits

import epochal as keras

keras.utils.set_random_seed(0)


class Block(nnx.Module):
    def __init__(self, width, rngs):
        self.linear = nnx.Linear(width, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return x + self.drop(jax.nn.relu(self.norm(self.linear(x))))


class Net(nnx.Module):
    def __init__(self, depth, rngs):
        self.first = nnx.Linear(64, 48, rngs=rngs)
        self.blocks = nnx.List([Block(48, rngs) for _ in range(depth)])
        self.last = nnx.Linear(48, 10, rngs=rngs)

    def __call__(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)  # logits


x, y = load_digits(return_X_y=True)
x = (x / 16).astype("float32")

net = Net(depth=2, rngs=nnx.Rngs(0))
model = keras.Model(net)
model.compile(
    optimizer=keras.optimizers.Adam(0.005),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(x, y, batch_size=64, epochs=5, validation_split=0.2, verbose=0)

net.eval()
same = abs(net(x[:5]) - model.predict(x[:5], verbose=0)).max() < 1e-4
print("reported:", sorted(history.history))
print("weights:", model.count_params())
print("`net` is what was trained:", bool(same))
print(f"loss: {history.history['loss'][0]:.3f} -> {history.history['loss'][-1]:.3f}")
print(f"accuracy: {history.history['val_accuracy'][-1]:.3f}")
