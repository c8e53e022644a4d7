"""The network: a layer that is a whole, built for data, named, summarised and saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.core import Tracer

from epochal import saving
from epochal.layers.base.building import abstract_call
from epochal.layers.base.layer import Layer
from epochal.layers.base.tree import children, walk
from epochal.layers.base.weights import only_shapes_count
from epochal.models.input_data import sample_of
from epochal.models.input_specs import check_inputs, fits_declared, same_shapes, with_rank
from epochal.models.summary import summary_text
from epochal.models.trainer import Training
from epochal.runtime.host_copies import spec_of
from epochal.tracing.symbolic import is_shape


class _Layers:
    """The layers that a model holds as attributes; one that keeps a list of its own under this name has that."""

    def __get__(self, model: nnx.Module, owner: type | None = None) -> list[nnx.Module]:
        return list(children(model))


class Network(Layer):
    """A layer that is a whole: it takes data as it comes, builds what is in it, and is kept in files.

    Args:
        module: a `flax.nnx.Module`, called as `module(x)`; None for subclasses.
        name: the network's name.

    Raises:
        TypeError: a module that is none.
    """

    _saved_family = "model"

    def __init__(self, module: nnx.Module | None = None, *, name: str | None = None, **kwargs: Any):
        if module is not None and not isinstance(module, nnx.Module):
            raise TypeError(f"Expected a flax.nnx.Module, got {type(module).__name__}.")
        super().__init__(name=name, **kwargs)
        if module is not None:
            self.casts_inputs = False  # a Flax module has a type of its own
        self.module = module
        self._training = Training(self)

    def call(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        if self.module is None:
            raise NotImplementedError(f"{type(self).__name__} has no call(self, x). Write one, or use Model(module).")
        return self.module(x, *args, **kwargs)  # pyright: ignore[reportCallIssue]

    def stateless_call(self, params: Any, buffers: Any, x: Any, training: bool = False) -> tuple[Any, Any]:
        """The model's outputs with these arrays instead of its own, and the buffers after the call. Pure.

        Args:
            params, buffers: as in a `TrainState`.
            x: inputs.
            training: whether layers act as in training.
        """
        return self._training.stateless_call(params, buffers, x, training)

    # -- data

    @property
    def input_specs(self) -> Any:
        """Shape and type of a batch of inputs, as the network was built for them; None before."""
        return self._training.inputs

    def build(self, input_shape: Any = None) -> None:
        """Makes all weights for inputs of `input_shape` (batch axis first, as None), or of a list or dict of shapes."""
        if input_shape is None:
            raise ValueError(f"Expected build(input_shape) of model {self.name!r} with the batch axis first, got None.")

        def spec(shape: Sequence[int | None]) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((2, *shape[1:]), np.float32)

        self.build_from(jax.tree.map(spec, input_shape, is_leaf=is_shape))

    def _ensure_built(self, x: Any) -> None:
        traced = any(isinstance(a, Tracer) for a in jax.tree.leaves(x))
        if self._training.inputs is None and not traced and not only_shapes_count():
            self.build_from(x)
        super()._ensure_built(x)

    def _build_now(self, shapes: Any) -> None:
        # A model's layers build themselves when it calls them; only a user's own `build` has something to do here.
        if not type(self).build.__module__.startswith("epochal."):
            super()._build_now(shapes)
        self.built = True

    def build_from(self, x: Any) -> None:
        """Makes the weights of all layers for a batch like `x` (arrays or `jax.ShapeDtypeStruct`, batch axis first)."""
        self._training.built_for(jax.tree.map(spec_of, x), abstract_call(self, sample_of(x, self._training.eager)))

    def build_for(self, x: Any) -> None:
        """Builds the model for its first data, or checks that this data is like the first.

        Raises:
            ValueError: another structure or shape than the model was built for.
        """
        known = self._training.inputs
        if known is None:
            self.build_from(x)
        elif not same_shapes(known, x) and not self._takes(x):
            check_inputs(self.name, known, x)

    def _takes(self, x: Any) -> bool:
        """Whether data of other sizes than the first goes through the layers all the same: longer sequences, say."""
        known, seen = self._training.inputs, jax.tree.map(spec_of, x)
        ranks = jax.tree.map(lambda spec: (len(spec.shape), spec.dtype), (known, seen))
        if ranks[0] != ranks[1] or not fits_declared(self._declared_shape(), seen):
            return False
        try:
            outputs = abstract_call(self, sample_of(x, self._training.eager))
        except (TypeError, ValueError):
            return False
        self._training.built_for(seen, outputs)
        return True

    def _declared_shape(self) -> Any:
        """Shape of one example as the model was given it, None for open axes; None when it was learned from data."""
        return None

    def match_inputs(self, x: Any) -> Any:
        """Data in the structure and rank that the model takes."""
        specs = self._training.inputs
        one_each = specs is not None and jax.tree.structure(specs) == jax.tree.structure(x)
        return jax.tree.map(lambda a, s: with_rank(a, s.shape), x, specs) if one_each else x

    def names_of(self, outputs: Any) -> list[str]:
        """Names of the outputs, for labels and for targets given as a dict; keys of a dict of outputs are sorted."""
        if isinstance(outputs, dict):
            return sorted(outputs)
        if isinstance(outputs, list | tuple):
            return [f"output_{i + 1}" for i in range(len(outputs))]
        return ["output"]

    # -- states

    def stateful_layers(self) -> list[Any]:
        """The layers that keep something from batch to batch, also in `predict`."""
        return [layer for layer in walk(self) if layer is not self and getattr(layer, "stateful", False)]

    def fix_batch_size(self, batch_size: int) -> None:
        """Tells stateful layers of how many examples every batch is; the first data does it otherwise.

        Raises:
            ValueError: they know already, and of another size.
        """
        for layer in self.stateful_layers():
            if hasattr(layer, "fix_batch_size"):  # a user's layer may do without
                layer.fix_batch_size(batch_size)

    def reset_states(self) -> None:
        """Sets the states of stateful layers to their first values."""
        for layer in self.stateful_layers():
            layer.reset_states()

    # -- looking at it

    layers: Any = _Layers()

    def get_layer(self, name: str | None = None, index: int | None = None) -> Any:
        """The layer of this name, or at this place.

        Raises:
            ValueError: there is none.
        """
        if name is None and index is None:
            raise ValueError("Expected get_layer(name) or get_layer(index=…), got neither.")
        layers = list(self.layers)
        if index is not None:
            if not -len(layers) <= index < len(layers):
                raise ValueError(f"Expected an index below {len(layers)}, got {index}.")
            return layers[index]
        names = [getattr(layer, "name", None) for layer in layers]
        if name not in names:
            raise ValueError(f"No layer named {name!r} in model {self.name!r}; there are {names}.")
        return layers[names.index(name)]

    def summary(self, print_fn: Callable[[str], Any] | None = None) -> None:
        """Prints the layers with their output shapes and numbers of weights."""
        (print_fn or print)(summary_text(self))

    # -- keeping it

    def to_json(self, **kwargs: Any) -> str:
        """What the model is, without its weights, as JSON for `models.model_from_json`.

        Args:
            **kwargs: passed to `json.dumps`.

        Raises:
            TypeError: a part of the model cannot be written as data, such as a lambda.
        """
        return saving.to_json(self, **kwargs)

    def save(self, path: str | Path, overwrite: bool = True) -> None:
        """Writes the whole model: a folder, or a single file when `path` ends in .keras or .zip.

        Architecture and compile arguments go to config.json, weights and the optimizer's state to safetensors files.

        Raises:
            FileExistsError: something is there, and `overwrite` is False.
            TypeError: a part of the model cannot be written as data, such as a lambda.
        """
        saving.save_model(self, path, overwrite=overwrite)

    def save_weights(self, path: str | Path, overwrite: bool = True) -> None:
        """Writes the weights as a safetensors file.

        Raises:
            FileExistsError: something is there, and `overwrite` is False.
        """
        saving.save_weights(self, path, overwrite=overwrite)

    def load_weights(self, path: str | Path) -> None:
        """Reads weights that `save_weights` wrote for a model of the same layers.

        Raises:
            ValueError: other shapes or another number of weights; nothing is changed then.
        """
        saving.load_weights(self, path)
