"""A model and a layer of one's own: a residual network that predicts how diabetes goes on in a year.

A layer makes its weights in `build`, when it knows what comes in. A model holds layers as attributes, in lists too, and
says in `call` what they do. The script was written for Keras: only the import differs.
"""

from sklearn.datasets import load_diabetes

import epochal as keras
from epochal import layers, ops

keras.utils.set_random_seed(0)


class Residual(layers.Layer):
    """x + factor * tanh(x W + b), with a learned factor that starts at zero, and a small price on it."""

    def build(self, input_shape):
        width = input_shape[-1]
        self.kernel = self.add_weight(name="kernel", shape=(width, width), initializer="glorot_uniform")
        self.bias = self.add_weight(name="bias", shape=(width,), initializer="zeros")
        self.factor = self.add_weight(name="factor", shape=(), initializer="zeros")

    def call(self, x):
        self.add_loss(1e-3 * ops.square(self.factor))
        return x + self.factor * ops.tanh(ops.matmul(x, self.kernel) + self.bias)


class Regressor(keras.Model):
    def __init__(self, depth, **kwargs):
        super().__init__(**kwargs)
        self.widen = layers.Dense(16)
        self.blocks = [Residual() for _ in range(depth)]
        self.drop = layers.Dropout(0.1)
        self.out = layers.Dense(1)

    def call(self, x, training=False):
        x = self.widen(x)
        for block in self.blocks:
            x = block(x)
        return self.out(self.drop(x, training=training))


x, y = load_diabetes(return_X_y=True)
x = ((x - x.mean(0)) / x.std(0)).astype("float32")
y = ((y - y.mean()) / y.std()).astype("float32")

model = Regressor(depth=2)
model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse", metrics=["mae"])
history = model.fit(x, y, batch_size=32, epochs=6, validation_split=0.2, verbose=0)

print("reported:", sorted(history.history))
print("epochs:", len(history.epoch))
print("weights:", [tuple(w.shape) for w in model.trainable_weights])
print("shapes:", model.predict(x[:7], verbose=0).shape)
print(f"loss: {history.history['loss'][0]:.3f} -> {history.history['loss'][-1]:.3f}")
