"""The basic layers: dense, embedding, activation, and changes of shape."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Shaped

from epochal import activations, initializers, regularizers
from epochal.layers.base.axes import check_rank, check_size, known_size
from epochal.layers.base.layer import Layer, Shape
from epochal.ops.kernels.matmul import multiply
from epochal.registry import checks
from epochal.registry.naming import fresh_name
from epochal.tracing.symbolic import SymbolicCall, SymbolicTensor, is_shape


class InputLayer(Layer):
    """The place of an input among a model's layers: passes its input on. `Input` makes the tensor alone.

    Args:
        shape: shape of one example, without the batch's axis; None for an axis that varies.
        batch_size: examples in a batch, when fixed.
        dtype: type of the values; "float32" when not given.
        name: the input's name, for data given as a dict.
        batch_shape: batch size and shape together, instead of both.
        input_shape: Keras 2's name of `shape`.

    Raises:
        ValueError: `shape` is not made of integers >= 1 and None, or `batch_size` is no integer >= 1.

    Example:
        >>> from epochal import Sequential, layers
        >>> Sequential([layers.InputLayer((4,)), layers.Dense(2)]).output_shape
        (None, 2)
    """

    supports_masking = True

    def __init__(
        self,
        shape: int | Sequence[int | None] | None = None,
        batch_size: int | None = None,
        dtype: Any = None,
        name: str | None = None,
        *,
        batch_shape: Sequence[int | None] | None = None,
        input_shape: Sequence[int | None] | None = None,
    ):
        tensor = Input(shape if shape is not None else input_shape, batch_size, dtype, name, batch_shape=batch_shape)
        super().__init__(name=tensor.name, dtype=tensor.dtype)
        self._stand_for(tensor)

    @classmethod
    def of(cls, tensor: SymbolicTensor) -> InputLayer:
        """The layer for a tensor that is there already."""
        layer = cls(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        layer._stand_for(tensor)
        return layer

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; there is nothing to freeze."""
        return {"batch_shape": self.output.shape, "dtype": self.dtype, "name": self.name}

    def _stand_for(self, tensor: SymbolicTensor) -> None:
        self._last_call.tensors = SymbolicCall(tensor, tensor)
        self._output_shape = tensor.shape
        self.built = True

    def call(self, x: Shaped[Array, "*axes"]) -> Shaped[Array, "*axes"]:
        return x


def Input(
    shape: int | Sequence[int | None] | None = None,
    batch_size: int | None = None,
    dtype: Any = None,
    name: str | None = None,
    *,
    batch_shape: Sequence[int | None] | None = None,
) -> SymbolicTensor:
    """An input of a model: call layers on it, or put it first in a `Sequential`.

    Args:
        shape: shape of one example, without the batch's axis; None for an axis that varies.
        batch_size: examples in a batch, when fixed.
        dtype: type of the values; "float32" when not given.
        name: the input's name, for data given as a dict.
        batch_shape: batch size and shape together, instead of both.

    Returns:
        a `SymbolicTensor` of shape (batch_size, *shape).

    Raises:
        ValueError: `shape` is not made of integers >= 1 and None, or `batch_size` is no integer >= 1.

    Example:
        >>> from epochal import layers
        >>> layers.Input((28, 28, 1)).shape
        (None, 28, 28, 1)
    """
    if batch_shape is not None:
        batch_size, shape = batch_shape[0], batch_shape[1:]
    if shape is None:
        raise ValueError("Expected Input(shape=…), the shape of one example; use shape=() for single numbers.")
    axes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    sizes = tuple(None if n is None else checks.whole("each size in shape", n) for n in axes)
    batch = None if batch_size is None else checks.whole("batch_size", batch_size)
    return SymbolicTensor((batch, *sizes), dtype or "float32", name or fresh_name("input"))


class Dense(Layer):
    """activation(x @ kernel + bias), along the last axis.

    Inputs (n, …, features), outputs (n, …, units). Weights: kernel (features, units), bias (units,).

    Args:
        units: number of outputs.
        activation: a name or function, applied to the output.
        use_bias: whether a bias is added.
        kernel_initializer: see `epochal.initializers`.
        bias_initializer: see `epochal.initializers`.
        kernel_regularizer: see `epochal.regularizers`.
        bias_regularizer: see `epochal.regularizers`.
        activity_regularizer: see `Layer`.

    Raises:
        ValueError: `units` is no integer >= 1; inputs without a last axis of known size.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Dense(3, activation="relu")(np.zeros((2, 5))).shape
        (2, 3)
    """

    supports_masking = True

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.units = checks.whole("units", units)
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel: Any = None
        self.bias: Any = None

    def build(self, input_shape: Shape) -> None:
        check_rank(self, input_shape, 2, or_more=True)
        shape = (known_size(self, input_shape, -1), self.units)
        self.kernel = self.add_weight("kernel", shape, None, self.kernel_initializer, self.kernel_regularizer)
        if self.use_bias:
            self.bias = self.add_weight("bias", (self.units,), None, self.bias_initializer, self.bias_regularizer)

    def call(self, x: Shaped[Array, "n *axes features"]) -> Float[Array, "n *axes units"]:
        kernel = self.kernel.get_value()
        check_size(self, "features", kernel.shape[0], x.shape[-1])
        y = multiply(x, kernel)
        if self.bias is not None:
            y = y + self.bias.get_value()
        return self.activation(y)


class Embedding(Layer):
    """Rows of a table, chosen by integer ids: (n, …) -> (n, …, output_dim).

    Weights: embeddings (input_dim, output_dim).

    Floating-point ids are cut to integers. Negative ids count from the end; ids of input_dim
    and more give NaN, so that the loss shows the mistake.

    Args:
        input_dim: number of rows, the largest id + 1.
        output_dim: length of each row.
        embeddings_initializer: see `epochal.initializers`.
        embeddings_regularizer: see `epochal.regularizers`.
        mask_zero: whether id 0 stands for no entry: later layers that know masks, the loss and the metrics skip it.
        weights: the table's first values, (input_dim, output_dim), or a list of this array alone.
        input_length: short for `input_shape=(input_length,)`.

    Raises:
        ValueError: a size below 1, or `weights` of another shape.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Embedding(10, 4)(np.array([[1, 2, 3]])).shape
        (1, 3, 4)
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        *,
        mask_zero: bool = False,
        weights: Any = None,
        input_length: int | None = None,
        **kwargs: Any,
    ):
        if input_length is not None:
            kwargs["input_shape"] = (input_length,)
        super().__init__(**kwargs)
        self.input_dim = checks.whole("input_dim", input_dim)
        self.output_dim = checks.whole("output_dim", output_dim)
        self.embeddings_initializer = initializers.get(embeddings_initializer)
        self.embeddings_regularizer = regularizers.get(embeddings_regularizer)
        self.mask_zero = self.supports_masking = bool(mask_zero)
        self.embeddings: Any = None
        if weights is not None:
            table = weights[0] if isinstance(weights, list | tuple) and len(weights) == 1 else weights
            if np.shape(table) != (input_dim, output_dim):
                raise ValueError(f"Expected weights of shape {(input_dim, output_dim)}, got {np.shape(table)}.")
            self.embeddings_initializer = initializers.get(np.asarray(table))

    def build(self, input_shape: Shape) -> None:
        self.embeddings = self.add_weight(
            "embeddings",
            (self.input_dim, self.output_dim),
            initializer=self.embeddings_initializer,
            regularizer=self.embeddings_regularizer,
        )

    def call(self, x: Shaped[Array, "*axes"]) -> Float[Array, "*axes out"]:
        ids = x if jnp.issubdtype(x.dtype, jnp.integer) else x.astype(jnp.int32)
        return jnp.take(self.embeddings.get_value(), ids, axis=0)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Where ids are not 0, with `mask_zero`."""
        return inputs != 0 if self.mask_zero else None


class Lambda(Layer):
    """A function as a layer.

    A model with it can be saved if the function has a name, and loaded if it is one of epochal's, was registered with
    `epochal.saving.register_keras_serializable`, or is in `custom_objects`: code itself is never written to a file.

    Args:
        function: from an array (or a list or dict of arrays) to the same; takes `mask` and `training` if it has
            arguments of these names.
        output_shape: shape of one example's output, or a function from the input's shape to the output's, for
            `compute_output_shape`; found by tracing the function when None.
        mask: the output's mask, or a function of (inputs, mask) that returns it; None for no mask.
        arguments: further keyword arguments of the function.

    Raises:
        ValueError: `function` cannot be called.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Lambda(lambda x: x**2)(np.array([[3.0]])).tolist()
        [[9.0]]
    """

    padding_safe = False  # the function may look across the batch

    def __init__(
        self,
        function: Callable,
        output_shape: Any = None,
        mask: Any = None,
        arguments: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not callable(function):
            raise ValueError(f"Expected a function, got {function!r}.")
        self.function = functools.partial(function, **(arguments or {}))
        self.supports_masking = mask is not None
        self._shape, self._mask = output_shape, mask if callable(mask) else lambda inputs, previous: mask
        names = inspect.signature(function).parameters
        self._takes = tuple(name for name in ("mask", "training") if name in names)

    def call(self, x: Any, mask: Any = None, training: bool = False) -> Any:
        known = {"mask": mask, "training": training}
        return self.function(x, **{name: known[name] for name in self._takes})

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The mask that was given, or what its function makes of the inputs' mask."""
        return self._mask(inputs, previous_mask)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape that was given, or else that of what the function returns."""
        if self._shape is None:
            return super().compute_output_shape(input_shape)
        if callable(self._shape):
            return self._shape(input_shape)
        return jax.tree.map(lambda shape: (None, *shape), self._shape, is_leaf=is_shape)


class Identity(Layer):
    """Passes its input on.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Identity()(np.array([[3.0]])).tolist()
        [[3.0]]
    """

    supports_masking = True

    def call(self, x: Any) -> Any:
        return x


class ActivityRegularization(Layer):
    """Passes its input on, and adds l1 * sum(abs(x)) + l2 * sum(x**2), divided by the batch size, to the loss.

    Args:
        l1: the factor of the absolute values.
        l2: the factor of the squares.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layer = layers.ActivityRegularization(l2=0.5)
        >>> layer(np.array([[2.0], [0.0]])).tolist(), float(layer.losses[0])
        ([[2.0], [0.0]], 1.0)
    """

    supports_masking = True

    def __init__(self, l1: int | float = 0.0, l2: int | float = 0.0, **kwargs: Any):
        super().__init__(activity_regularizer=regularizers.L1L2(l1, l2), **kwargs)

    def call(self, x: Any) -> Any:
        return x


class Activation(Layer):
    """An activation function as a layer; the shape stays.

    Args:
        activation: a name or function, see `epochal.activations`.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Activation("relu")(np.array([[-1.0, 2.0]])).tolist()
        [[0.0, 2.0]]
    """

    supports_masking = True

    def __init__(self, activation: str | Callable | None, **kwargs: Any):
        super().__init__(**kwargs)
        self.activation = activations.get(activation)

    def call(self, x: Shaped[Array, "*axes"]) -> Shaped[Array, "*axes"]:
        return self.activation(x)


class Flatten(Layer):
    """Joins all axes but the batch's: (n, a, b, …) -> (n, a * b * …); (n,) -> (n, 1).

    Args:
        data_format: "channels_first" moves axis 1 to the end before, so that the order of the values is the same as
            for channels-last inputs.

    Raises:
        ValueError: an unknown `data_format`.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Flatten()(np.zeros((2, 3, 4))).shape
        (2, 12)
    """

    def __init__(self, data_format: str | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.data_format = checks.data_format(data_format)

    def call(self, x: Shaped[Array, "n ..."]) -> Shaped[Array, "n features"]:
        if self.data_format == "channels_first" and x.ndim > 2:
            x = jnp.moveaxis(x, 1, -1)
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


class Reshape(Layer):
    """Gives each example another shape: (n, …) -> (n, *target_shape).

    Args:
        target_shape: shape of one example; one size may be -1, it is then computed.

    Raises:
        ValueError: sizes that are no integers >= 1 or -1, more than one -1, or inputs of another number of values.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Reshape((-1, 2))(np.zeros((5, 3, 4))).shape
        (5, 6, 2)
    """

    def __init__(self, target_shape: int | Sequence[int], **kwargs: Any):
        super().__init__(**kwargs)
        target = tuple(target_shape) if isinstance(target_shape, Sequence) else (target_shape,)
        self.target_shape = tuple(-1 if n == -1 else checks.whole("each size in target_shape", n) for n in target)
        if target.count(-1) > 1:
            raise ValueError(f"Expected at most one -1 in target_shape, got {target_shape!r}.")

    def call(self, x: Shaped[Array, "n ..."]) -> Shaped[Array, "n ..."]:
        values, fixed = math.prod(x.shape[1:]), math.prod(n for n in self.target_shape if n != -1)
        if values % fixed if -1 in self.target_shape else values != fixed:
            raise ValueError(
                f"Reshape {self.name!r} expects examples that fill {self.target_shape}; got shape {x.shape[1:]}."
            )
        target = tuple(values // fixed if n == -1 else n for n in self.target_shape)
        return x.reshape(x.shape[0], *target)
