"""Keras's losses as objects: one class per function, with Keras's arguments, order and defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax import Array
from jaxtyping import Bool

from epochal.losses import functions
from epochal.losses.loss import Loss
from epochal.losses.shapes import Number, aligned, class_labels, kind_by_shape

_MEAN = "sum_over_batch_size"


class _Elementwise(Loss):
    """A loss whose targets have the predictions' shape, given by a function and further arguments for it."""

    def __init__(self, fn: Callable[..., Array], name: str | None, reduction: str | None, dtype: Any, **arguments: Any):
        super().__init__(name, reduction, dtype)
        self.fn = fn
        self._arguments_of_fn = arguments
        vars(self).update(arguments)

    def call(self, y_true: Any, y_pred: Any) -> Array:
        return self.fn(*aligned(y_true, y_pred), **self._arguments_of_fn)


class MeanSquaredError(_Elementwise):
    """(y - p)²."""

    def __init__(self, reduction: str | None = _MEAN, name: str | None = "mean_squared_error", dtype: Any = None):
        super().__init__(functions.mean_squared_error, name, reduction, dtype)


class MeanAbsoluteError(_Elementwise):
    """|y - p|."""

    def __init__(self, reduction: str | None = _MEAN, name: str | None = "mean_absolute_error", dtype: Any = None):
        super().__init__(functions.mean_absolute_error, name, reduction, dtype)


class MeanAbsolutePercentageError(_Elementwise):
    """|y - p| in percent of |y|."""

    def __init__(
        self, reduction: str | None = _MEAN, name: str | None = "mean_absolute_percentage_error", dtype: Any = None
    ):
        super().__init__(functions.mean_absolute_percentage_error, name, reduction, dtype)


class MeanSquaredLogarithmicError(_Elementwise):
    """(log(1 + y) - log(1 + p))²."""

    def __init__(
        self, reduction: str | None = _MEAN, name: str | None = "mean_squared_logarithmic_error", dtype: Any = None
    ):
        super().__init__(functions.mean_squared_logarithmic_error, name, reduction, dtype)


class CosineSimilarity(_Elementwise):
    """Minus the cosine between targets and predictions: -1 (same direction) … 1."""

    def __init__(
        self,
        axis: int = -1,
        reduction: str | None = _MEAN,
        name: str | None = "cosine_similarity",
        dtype: Any = None,
    ):
        super().__init__(functions.cosine_similarity, name, reduction, dtype, axis=axis)


class Huber(_Elementwise):
    """Quadratic up to `delta`, linear beyond."""

    def __init__(
        self,
        delta: Number = 1.0,
        reduction: str | None = _MEAN,
        name: str | None = "huber_loss",
        dtype: Any = None,
    ):
        super().__init__(functions.huber, name, reduction, dtype, delta=delta)


class LogCosh(_Elementwise):
    """log(cosh(p - y))."""

    def __init__(self, reduction: str | None = _MEAN, name: str | None = "log_cosh", dtype: Any = None):
        super().__init__(functions.log_cosh, name, reduction, dtype)


class Hinge(_Elementwise):
    """max(1 - y p, 0), y in {-1, 1} or {0, 1}."""

    def __init__(self, reduction: str | None = _MEAN, name: str | None = "hinge", dtype: Any = None):
        super().__init__(functions.hinge, name, reduction, dtype)


class SquaredHinge(_Elementwise):
    """max(1 - y p, 0)², y in {-1, 1} or {0, 1}."""

    def __init__(self, reduction: str | None = _MEAN, name: str | None = "squared_hinge", dtype: Any = None):
        super().__init__(functions.squared_hinge, name, reduction, dtype)


class CategoricalHinge(_Elementwise):
    """max(1 + best wrong score - right score, 0), y one-hot."""

    def __init__(self, reduction: str | None = _MEAN, name: str | None = "categorical_hinge", dtype: Any = None):
        super().__init__(functions.categorical_hinge, name, reduction, dtype)


class KLDivergence(_Elementwise):
    """Sum of y log(y / p) over the classes."""

    def __init__(self, reduction: str | None = _MEAN, name: str | None = "kl_divergence", dtype: Any = None):
        super().__init__(functions.kl_divergence, name, reduction, dtype)


class Poisson(_Elementwise):
    """p - y log p, where p is a rate."""

    def __init__(self, reduction: str | None = _MEAN, name: str | None = "poisson", dtype: Any = None):
        super().__init__(functions.poisson, name, reduction, dtype)


class BinaryCrossentropy(_Elementwise):
    """Crossentropy of independent yes/no predictions; see `binary_crossentropy`."""

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: Number = 0.0,
        axis: int = -1,
        reduction: str | None = _MEAN,
        name: str | None = "binary_crossentropy",
        dtype: Any = None,
    ):
        arguments = {"from_logits": from_logits, "label_smoothing": label_smoothing, "axis": axis}
        super().__init__(functions.binary_crossentropy, name, reduction, dtype, **arguments)


class BinaryFocalCrossentropy(_Elementwise):
    """Binary crossentropy that discounts easy examples; see `binary_focal_crossentropy`."""

    def __init__(
        self,
        apply_class_balancing: bool = False,
        alpha: Number = 0.25,
        gamma: Number = 2.0,
        from_logits: bool = False,
        label_smoothing: Number = 0.0,
        axis: int = -1,
        reduction: str | None = _MEAN,
        name: str | None = "binary_focal_crossentropy",
        dtype: Any = None,
    ):
        arguments = {"from_logits": from_logits, "label_smoothing": label_smoothing, "axis": axis}
        focus = {"apply_class_balancing": apply_class_balancing, "alpha": alpha, "gamma": gamma}
        super().__init__(functions.binary_focal_crossentropy, name, reduction, dtype, **arguments, **focus)


class CategoricalCrossentropy(_Elementwise):
    """Crossentropy against one-hot or probability vectors; see `categorical_crossentropy`."""

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: Number = 0.0,
        axis: int = -1,
        reduction: str | None = _MEAN,
        name: str | None = "categorical_crossentropy",
        dtype: Any = None,
    ):
        arguments = {"from_logits": from_logits, "label_smoothing": label_smoothing, "axis": axis}
        super().__init__(functions.categorical_crossentropy, name, reduction, dtype, **arguments)


class CategoricalFocalCrossentropy(_Elementwise):
    """Categorical crossentropy that discounts easy classes; see `categorical_focal_crossentropy`."""

    def __init__(
        self,
        alpha: Any = 0.25,
        gamma: Number = 2.0,
        from_logits: bool = False,
        label_smoothing: Number = 0.0,
        axis: int = -1,
        reduction: str | None = _MEAN,
        name: str | None = "categorical_focal_crossentropy",
        dtype: Any = None,
    ):
        arguments = {"from_logits": from_logits, "label_smoothing": label_smoothing, "axis": axis}
        super().__init__(
            functions.categorical_focal_crossentropy, name, reduction, dtype, alpha=alpha, gamma=gamma, **arguments
        )


class SparseCategoricalCrossentropy(Loss):
    """Crossentropy against class numbers; positions of `ignore_class` count neither in the sum nor in the mean."""

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str | None = _MEAN,
        axis: int = -1,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: Any = None,
    ):
        super().__init__(name, reduction, dtype)
        self.from_logits = from_logits
        self.ignore_class = ignore_class
        self.axis = axis

    def call(self, y_true: Any, y_pred: Any) -> Array:
        return functions.sparse_categorical_crossentropy(y_true, y_pred, self.from_logits, self.ignore_class, self.axis)

    def valid(self, y_true: Any, y_pred: Any) -> Bool[Array, " ..."] | None:
        if self.ignore_class is None:
            return None
        return class_labels(y_true, y_pred, self.axis)[0] != self.ignore_class


class CategoricalGeneralizedCrossEntropy(Loss):
    """(1 - p**q) / q against class numbers: between crossentropy (q -> 0) and the absolute error (q = 1).

    Raises:
        ValueError: `q` is not between 0 and 1.
    """

    def __init__(
        self,
        q: Number = 0.5,
        reduction: str | None = _MEAN,
        name: str | None = "categorical_generalized_cross_entropy",
        dtype: Any = None,
    ):
        if not 0 < q < 1:
            raise ValueError(f"Expected q between 0 and 1, got {q!r}.")
        super().__init__(name, reduction, dtype)
        self.q = q

    def call(self, y_true: Any, y_pred: Any) -> Array:
        return functions.categorical_generalized_cross_entropy(y_true, y_pred, self.q)


class Crossentropy(Loss):
    """Binary, sparse categorical or categorical crossentropy, by the shapes of targets and predictions.

    Predictions with one value: binary. Targets of lower rank, or one value against more: sparse categorical. Otherwise
    categorical.
    """

    def __init__(
        self,
        from_logits: bool = False,
        reduction: str | None = _MEAN,
        name: str | None = "crossentropy",
        dtype: Any = None,
    ):
        super().__init__(name, reduction, dtype)
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Array:
        kind = kind_by_shape(y_true.shape, y_pred.shape)
        if kind == "sparse":
            return functions.sparse_categorical_crossentropy(y_true, y_pred, self.from_logits)
        fn = functions.binary_crossentropy if kind == "binary" else functions.categorical_crossentropy
        return fn(*aligned(y_true, y_pred), from_logits=self.from_logits)


class _Overlap(Loss):
    """A ratio of sums over all axes of an example, or over `axis`.

    Keras's default (axis=None) sums over the batch as well, so that its loss depends on how the data is cut into
    batches and cannot be weighted. Here every example has a value of its own, as in Keras with axis=(1, 2, 3).
    """

    def __init__(self, fn: Callable[..., Array], name: str | None, reduction: str | None, dtype: Any, axis: Any):
        super().__init__(name, reduction, dtype)
        self.fn = fn
        self.axis = axis

    def call(self, y_true: Any, y_pred: Any) -> Array:
        y, p = aligned(y_true, y_pred)
        axes = tuple(range(1, p.ndim)) if self.axis is None else self.axis
        axes = tuple(a % p.ndim for a in ((axes,) if isinstance(axes, int) else axes))
        if 0 in axes:
            raise ValueError(
                f"Expected axis without the examples' axis 0, got {self.axis!r} for predictions {p.shape}."
            )
        return self.fn(y, p, axis=axes)


class Dice(_Overlap):
    """1 - the Dice coefficient of every example; see `dice`."""

    def __init__(self, reduction: str | None = _MEAN, name: str | None = "dice", axis: Any = None, dtype: Any = None):
        super().__init__(functions.dice, name, reduction, dtype, axis)


class Tversky(_Overlap):
    """1 - the Tversky index of every example; see `tversky` for `alpha` and `beta`."""

    def __init__(
        self,
        alpha: Number = 0.5,
        beta: Number = 0.5,
        reduction: str | None = _MEAN,
        name: str | None = "tversky",
        axis: Any = None,
        dtype: Any = None,
    ):
        super().__init__(self._tversky, name, reduction, dtype, axis)
        self.alpha = alpha
        self.beta = beta

    def _tversky(self, y_true: Array, y_pred: Array, axis: Any) -> Array:
        return functions.tversky(y_true, y_pred, self.alpha, self.beta, axis)


class CTC(Loss):
    """Connectionist temporal classification of label sequences; see `ctc`."""

    def __init__(self, reduction: str | None = _MEAN, name: str | None = "ctc", dtype: Any = None):
        super().__init__(name, reduction, dtype)

    def call(self, y_true: Any, y_pred: Any) -> Array:
        return functions.ctc(y_true, y_pred)
