"""A batch-size study of digits with SGD, against the figures of the shared design: python benchmarks/digits_study.py

The results are in RESULTS-study.md. About 51 fits; a minute or two on two cores. Run again, it goes on.
"""

from __future__ import annotations

import sys

import numpy as np
from sklearn.datasets import load_digits

import epochal as keras


def build_model() -> keras.Model:
    model = keras.Sequential(
        [keras.layers.Dense(64, activation="relu", input_shape=(64,)), keras.layers.Dense(10, activation="softmax")]
    )
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main(out: str) -> None:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))  # the last writers of the file are others than the first
    x, y = (x[order] / 16).astype(np.float32), y[order]
    study = keras.batch_size_study(
        build_model, x, y, batch_sizes=(4, 16, 64, 256, "full"), epochs=40, updates=3000, seeds=3, out=out
    )
    print(study)
    print(study.report())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "study/")
