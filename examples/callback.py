"""A callback of one's own: it lowers the learning rate when an epoch got worse, and stops when a goal is reached.

Hooks get the running values as `logs`; `self.model` is the model, whose optimizer may be changed at any time.
The script was written for Keras: only the import differs.
"""

from sklearn.datasets import load_breast_cancer

import epochal as keras

keras.utils.set_random_seed(0)


class Goal(keras.callbacks.Callback):
    def __init__(self, monitor, goal):
        super().__init__()
        self.monitor, self.goal = monitor, goal

    def on_train_begin(self, logs=None):
        self.batches, self.reached, self.last = 0, None, float("inf")

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        rate = float(self.model.optimizer.learning_rate)
        if logs["val_loss"] > self.last:
            self.model.optimizer.learning_rate = rate / 2
        self.last = logs["val_loss"]
        if logs[self.monitor] >= self.goal:
            self.reached = epoch
            self.model.stop_training = True


x, y = load_breast_cancer(return_X_y=True)
x = ((x - x.mean(0)) / x.std(0)).astype("float32")

model = keras.Sequential(
    [
        keras.Input((30,)),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(0.01), loss="binary_crossentropy", metrics=["accuracy"])
goal = Goal("val_accuracy", 0.95)
history = model.fit(x, y, batch_size=32, epochs=30, validation_split=0.25, callbacks=[goal], verbose=0)

print("reported:", sorted(history.history))
print("the goal was reached:", goal.reached is not None)
print("it stopped there:", history.epoch[-1] == goal.reached)
print("batches per epoch:", goal.batches / len(history.epoch))
print(f"accuracy: {history.history['val_accuracy'][-1]:.3f}")
