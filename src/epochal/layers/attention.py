"""Attention layers: each position of a query takes a weighted mean of the positions of a value."""

from __future__ import annotations

import functools
import math
import string
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Shaped

from epochal import initializers, regularizers
from epochal.layers.base.axes import check_axes, check_rank, known_size
from epochal.layers.base.inputs import as_input
from epochal.layers.base.layer import Layer, Shape
from epochal.layers.dropout import _Noise
from epochal.ops.kernels.matmul import multiply
from epochal.registry import checks
from epochal.tracing.masks import get_mask, set_mask
from epochal.tracing.symbolic import is_shape, is_symbolic

_FAR = 1e9  # taken off the scores of positions that are left out


class _Attending(_Noise):
    """What attention layers share: dropout of the weights."""

    def _set_dropout(self, dropout: Any, seed: Any) -> None:
        self.dropout = checks.between("dropout", dropout, 0, 1)
        self._set_seed(seed)

    def _dropped(self, weights: Array, training: bool) -> Array:
        if not training or self.dropout == 0:
            return weights
        keep = 1 - self.dropout
        kept = self._noise(lambda key, shape: jax.random.bernoulli(key, keep, shape), weights.shape, len(weights))
        return weights if kept is None else jnp.where(kept, weights / keep, 0)


class Attention(_Attending):
    """Dot-product attention (Luong et al. 2015): softmax(query @ keyᵀ) @ value.

    Called with a list `[query, value]` or `[query, value, key]` of shapes (n, t, d), (n, s, e), (n, s, d); without a
    key the value is the key. Returns (n, t, e), and the weights (n, t, s) as well with `return_attention_scores=True`.
    `mask` is a list of the query's mask (n, t), whose other positions are put out as zeros, and the value's (n, s),
    whose other positions are not looked at. `use_causal_mask=True`: position i looks at positions up to i only.
    Weights, with `use_scale`: scale (); with score mode "concat": concat_score_weight ().

    Args:
        use_scale: whether scores are multiplied by a weight.
        score_mode: "dot" (query @ keyᵀ) or "concat" (the sum of tanh(query + key) over the features).
        dropout: the part of the weights that is dropped in training, in [0, 1).
        seed: an integer that changes the masks.

    Raises:
        ValueError: a rate out of range, an unknown score mode, not a list of two or three inputs.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> layers.Attention()([np.zeros((2, 3, 4)), np.zeros((2, 5, 4))]).shape
        (2, 3, 4)
    """

    def __init__(
        self,
        use_scale: bool = False,
        score_mode: str = "dot",
        dropout: int | float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.use_scale = bool(use_scale)
        self.score_mode = checks.choice("score_mode", score_mode, ("dot", "concat"))
        self._set_dropout(dropout, seed)
        self.scale: Any = None
        self.concat_score_weight: Any = None

    def build(self, input_shape: Any) -> None:
        self._check(input_shape)
        if self.use_scale:
            self.scale = self.add_weight("scale", (), initializer="ones")
        if self.score_mode == "concat":
            self.concat_score_weight = self.add_weight("concat_score_weight", (), initializer="ones")

    def _check(self, inputs: Any) -> None:
        shapes = isinstance(inputs, list | tuple) and not all(s is None or isinstance(s, int) for s in inputs)
        if not shapes or len(inputs) not in (2, 3):
            raise ValueError(
                f"{type(self).__name__} {self.name!r} expects a list [query, value] or [query, value, key]; "
                f"got {f'{len(inputs)} inputs' if shapes else 'one input'}."
            )

    def call(
        self,
        x: Any,
        mask: Any = None,
        training: bool = False,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        self._check(x)
        query, value, key = x[0], x[1], x[-1]
        query_mask, value_mask = (None, None) if mask is None else mask[:2]
        scores = self._scores(query, key)
        seen = None if value_mask is None else value_mask[:, None, :].astype(bool)
        if use_causal_mask:
            causal = _causal(*scores.shape[1:])
            seen = causal if seen is None else seen & causal
        if seen is not None:
            scores = jnp.where(seen, scores, scores - _FAR)
        weights = self._dropped(jax.nn.softmax(scores), training)
        y = weights @ value
        if query_mask is not None:
            y = jnp.where(query_mask[..., None], y, 0)
            set_mask(y, query_mask)
        return (y, weights) if return_attention_scores else y

    def _scores(self, query: Array, key: Array) -> Array:
        """(n, t, d) and (n, s, d) -> (n, t, s)."""
        scale = 1 if self.scale is None else self.scale.get_value()
        if self.concat_score_weight is None:
            return query @ jnp.swapaxes(key, 1, 2) * scale
        together = jnp.tanh(scale * (query[:, :, None] + key[:, None]))
        return self.concat_score_weight.get_value() * together.sum(-1)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The query's mask."""
        return None if previous_mask is None else previous_mask[0]


class AdditiveAttention(Attention):
    """Additive attention (Bahdanau et al. 2015): softmax(sum of scale * tanh(query + key)) @ value.

    Called as `Attention` is. Weights, with `use_scale`: scale (d,).

    Args:
        use_scale: whether the features' terms have weights.
        dropout: the part of the weights that is dropped in training, in [0, 1).
        seed: an integer that changes the masks.

    Raises:
        ValueError: a rate out of range, not a list of two or three inputs.
    """

    def __init__(self, use_scale: bool = True, dropout: int | float = 0.0, seed: int | None = None, **kwargs: Any):
        super().__init__(use_scale=use_scale, dropout=dropout, seed=seed, **kwargs)

    def build(self, input_shape: Any) -> None:
        self._check(input_shape)
        if self.use_scale:
            self.scale = self.add_weight("scale", (known_size(self, tuple(input_shape[0]), -1),))

    def _scores(self, query: Array, key: Array) -> Array:
        terms = jnp.tanh(query[:, :, None] + key[:, None])
        return (terms if self.scale is None else self.scale.get_value() * terms).sum(-1)


class _Projection(Layer):
    """x times a kernel, over the last axis of x or the last few, plus a bias."""

    supports_masking = True

    def __init__(
        self,
        shape: Sequence[int],
        axes: int,
        use_bias: bool,
        kernel: tuple[Any, Any],
        bias: tuple[Any, Any],
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.shape, self.axes, self.use_bias = tuple(shape), axes, use_bias
        self.kernel_initializer, self.kernel_regularizer = kernel
        self.bias_initializer, self.bias_regularizer = bias
        self.kernel: Any = None
        self.bias: Any = None

    def build(self, input_shape: Shape) -> None:
        shape = (*(known_size(self, input_shape, axis) for axis in range(-self.axes, 0)), *self.shape)
        self.kernel = self.add_weight("kernel", shape, None, self.kernel_initializer, self.kernel_regularizer)
        if self.use_bias:
            self.bias = self.add_weight("bias", self.shape, None, self.bias_initializer, self.bias_regularizer)

    def call(self, x: Shaped[Array, "*axes"]) -> Float[Array, "*new_axes"]:
        kernel = self.kernel.get_value()
        x = x.reshape(*x.shape[: x.ndim - self.axes], -1)
        y = multiply(x, kernel.reshape(x.shape[-1], -1)).reshape(*x.shape[:-1], *self.shape)
        return y if self.bias is None else y + self.bias.get_value()


class MultiHeadAttention(_Attending):
    """Attention in several heads, each with projections of its own (Vaswani et al. 2017).

    Called as `layer(query, value, key=None)`, of shapes (n, t, a), (n, s, b), (n, s, c); without a key the value is
    the key. Returns (n, t, a), or (n, t, *output_shape); with `return_attention_scores=True` also the weights
    (n, heads, t, s) before dropout. What a position looks at can be limited: by the masks of query, value and key,
    which come with the arrays or as `query_mask` (n, t), `value_mask` and `key_mask` (n, s); by `attention_mask`
    (n, t, s), True where t may look at s; and by `use_causal_mask=True`, to positions up to its own. One that may look
    nowhere gets the plain mean. The output has the query's mask.
    Weights: kernel (a, heads, key_dim) and bias (heads, key_dim) of the query, likewise of the key, of the gate if
    there is one, and of the value (with value_dim); of the output, kernel (heads, value_dim, …) and bias.

    Args:
        num_heads: number of heads.
        key_dim: size of each head's query and key.
        value_dim: size of each head's value; `key_dim` when None.
        dropout: the part of the weights that is dropped in training, in [0, 1).
        use_bias: whether projections have a bias.
        output_shape: shape of each position's output; the query's size when None.
        attention_axes: the axes of the inputs that positions lie along; all between the first and the last when None.
        sliding_window: a position looks at those less than so many steps away; None for all.
        kernel_initializer: see `epochal.initializers`; likewise the bias's.
        kernel_regularizer: see `epochal.regularizers`; likewise the bias's.
        activity_regularizer: a regularizer of the output of each projection.
        use_gate: whether heads are multiplied by the sigmoid of a projection of the query.
        seed: an integer that changes the dropout.

    Raises:
        ValueError: a size below 1, a rate out of range, value and key of different lengths.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> x = np.zeros((2, 5, 8))
        >>> layers.MultiHeadAttention(num_heads=2, key_dim=4)(x, x, use_causal_mask=True).shape
        (2, 5, 8)
    """

    supports_masking = True

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: int | float = 0.0,
        use_bias: bool = True,
        output_shape: int | Sequence[int] | None = None,
        attention_axes: int | Sequence[int] | None = None,
        sliding_window: int | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        use_gate: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_heads = self.num_key_value_heads = checks.whole("num_heads", num_heads)
        self.key_dim = checks.whole("key_dim", key_dim)
        self.value_dim = self.key_dim if value_dim is None else checks.whole("value_dim", value_dim)
        self.use_bias, self.use_gate = bool(use_bias), bool(use_gate)
        given = (output_shape,) if isinstance(output_shape, int) else output_shape
        self._position_shape = None if given is None else checks.sizes("output_shape", given, len(given))
        self.attention_axes = None if attention_axes is None else checks.positions("attention_axes", attention_axes)
        self.sliding_window = None if sliding_window is None else checks.whole("sliding_window", sliding_window)
        self._set_dropout(dropout, seed)
        self._projection = functools.partial(
            _Projection,
            use_bias=self.use_bias,
            kernel=(initializers.get(kernel_initializer), regularizers.get(kernel_regularizer)),
            bias=(initializers.get(bias_initializer), regularizers.get(bias_regularizer)),
            activity_regularizer=activity_regularizer,
            dtype=kwargs.get("dtype"),
        )

    def __call__(self, query: Any, value: Any, key: Any = None, *args: Any, **kwargs: Any) -> Any:
        if not self.built and not is_symbolic((query, value, key)):  # all projections in one draw
            self._ensure_built([as_input(x) for x in (query, value, value if key is None else key)])
        return super().__call__(query, value, key, *args, **kwargs)

    def build(self, query_shape: Any, value_shape: Shape | None = None, key_shape: Shape | None = None) -> None:
        """Makes the projections, for shapes given apart or as a list.

        Without those of value and key, projections get their weights when they are first called.
        """
        if not is_shape(query_shape):
            query_shape, value_shape, key_shape = query_shape
        check_rank(self, query_shape, 3, or_more=True)
        heads, others = self.num_heads, self.num_key_value_heads
        self.query_dense = self._projection((heads, self.key_dim), 1, name="query")
        self.key_dense = self._projection((others, self.key_dim), 1, name="key")
        self.gate_dense = self._projection((heads, self.value_dim), 1, name="gate") if self.use_gate else None
        self.value_dense = self._projection((others, self.value_dim), 1, name="value")
        shape = self._position_shape or (known_size(self, query_shape, -1),)
        self.output_dense = self._projection(shape, 2, name="attention_output")
        if value_shape is not None:
            shapes = [query_shape, key_shape or value_shape, query_shape, value_shape, (heads, self.value_dim)]
            parts = [self.query_dense, self.key_dense, self.gate_dense, self.value_dense, self.output_dense]
            for part, part_shape in zip(parts, shapes, strict=True):
                if part is not None:
                    part._build_now(part_shape)

    def call(
        self,
        query: Float[Array, "n *axes a"],
        value: Any,
        key: Any = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        value = as_input(value)
        if key is None:
            key, key_mask = value, value_mask
        key = as_input(key)
        if value.shape[:-1] != key.shape[:-1]:
            raise ValueError(f"{self._title} expects a value and a key of one length; got {value.shape}, {key.shape}.")
        masks = [(query, query_mask), (value, value_mask), (key, key_mask)]
        query_mask, value_mask, key_mask = (get_mask(x) if mask is None else mask for x, mask in masks)
        axes = self.attention_axes if self.attention_axes is not None else tuple(range(1, query.ndim - 1))
        axes = check_axes(self, query.shape, axes)
        limits = [
            None if query_mask is None else query_mask[..., None],
            *(None if mask is None else mask[..., None, :] for mask in (value_mask, key_mask)),
            attention_mask,
            _causal(query.shape[1], value.shape[1]) if use_causal_mask else None,
            None if self.sliding_window is None else _near(query.shape[1], value.shape[1], self.sliding_window),
        ]
        seen = [_for_heads(limit, query.ndim, len(axes)) for limit in limits if limit is not None]
        gate = None if self.gate_dense is None else jax.nn.sigmoid(self.gate_dense(query))
        y, weights = self._attend(
            self.query_dense(query), self.key_dense(key), self.value_dense(value), axes, seen, training
        )
        y = self.output_dense(y if gate is None else y * gate)
        set_mask(y, query_mask)
        return (y, weights) if return_attention_scores else y

    def _attend(
        self, query: Array, key: Array, value: Array, axes: tuple[int, ...], seen: list[Array], training: bool
    ) -> tuple[Array, Array]:
        """What the heads make of projections (n, …, heads, size): (n, …, heads, value_dim), and the weights."""
        if self.num_key_value_heads != self.num_heads:
            key, value = (jnp.repeat(x, self.num_heads // self.num_key_value_heads, -2) for x in (key, value))
        # One letter per axis; those of the key that positions lie along are capitals.
        positions = string.ascii_lowercase[: query.ndim - 2]
        along = "".join(positions[axis] for axis in axes)
        batch = "".join(letter for letter in positions if letter not in along)
        others = "".join(letter.upper() if letter in along else letter for letter in positions)
        scored = f"{batch}y{along}{along.upper()}"
        scores = jnp.einsum(f"{positions}yz,{others}yz->{scored}", query / math.sqrt(self.key_dim), key)
        if seen:
            scores = jnp.where(functools.reduce(jnp.logical_and, seen), scores, -_FAR)
        weights = jax.nn.softmax(scores, tuple(range(-len(axes), 0)))
        y = jnp.einsum(f"{scored},{others}yz->{positions}yz", self._dropped(weights, training), value)
        return y, weights

    def compute_output_shape(self, query_shape: Any, value_shape: Any = None, key_shape: Any = None) -> Any:
        """The query's shape, its last size replaced by `output_shape` if there is one."""
        return (*query_shape[:-1], *(self._position_shape or (query_shape[-1],)))

    @property
    def _title(self) -> str:
        return f"{type(self).__name__} {self.name!r}"


class GroupQueryAttention(MultiHeadAttention):
    """`MultiHeadAttention` in which several heads of the query share one of key and value (Ainslie et al. 2023).

    Weights: as there, kernels of key and value (size, num_key_value_heads, head_dim).

    Args:
        head_dim: size of each head.
        num_query_heads: number of the query's heads.
        num_key_value_heads: number of heads of key and value; divides the query's.
        dropout: see `MultiHeadAttention`; likewise the other arguments.

    Raises:
        ValueError: a size below 1, a rate out of range, heads that cannot be shared evenly.

    Example:
        >>> import numpy as np
        >>> from epochal import layers
        >>> x = np.zeros((2, 5, 8))
        >>> layers.GroupQueryAttention(head_dim=4, num_query_heads=4, num_key_value_heads=2)(x, x).shape
        (2, 5, 8)
    """

    def __init__(
        self,
        head_dim: int,
        num_query_heads: int,
        num_key_value_heads: int,
        dropout: int | float = 0.0,
        use_bias: bool = True,
        sliding_window: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            num_query_heads, head_dim, None, dropout, use_bias=use_bias, sliding_window=sliding_window, **kwargs
        )
        self.head_dim, self.num_query_heads = self.key_dim, self.num_heads
        self.num_key_value_heads = checks.whole("num_key_value_heads", num_key_value_heads)
        if self.num_heads % self.num_key_value_heads:
            raise ValueError(
                f"Expected num_query_heads to be a multiple of num_key_value_heads={num_key_value_heads}, "
                f"got {num_query_heads}."
            )


def _causal(t: int, s: int) -> Array:
    """(1, t, s): whether s comes no later than t."""
    return (jnp.arange(t)[:, None] >= jnp.arange(s))[None]


def _near(t: int, s: int, window: int) -> Array:
    """(1, t, s): whether t and s are less than `window` apart."""
    return (jnp.abs(jnp.arange(t)[:, None] - jnp.arange(s)) < window)[None]


def _for_heads(mask: Any, rank: int, axes: int) -> Array:
    """A mask (…, t, s) with axes of size 1 in front of the last 2 * axes, so that it fits the scores of all heads."""
    mask = jnp.asarray(mask).astype(bool)
    before = mask.ndim - 2 * axes
    return mask.reshape(*mask.shape[:before], *[1] * (rank + axes - mask.ndim), *mask.shape[before:])
