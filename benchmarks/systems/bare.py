"""The limit: JAX written by hand for the work, one compiled loop over the steps of an epoch, sums kept on the device.

Convolutions are patches times matrix and the LSTM is a plain scan: what someone who knows JAX writes for a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from systems.work import BLOCKS, FEATURES, HEADS, IMAGES, TOKENS, UNITS, VOCABULARY, Candidates, NoSuchCall, Run, Work

Params = Any


def make(system: str, work: Work) -> Candidates:
    """The runs of a work."""
    return {"": _run(work)}


def _dense(key: Any, i: int, o: int) -> tuple[Any, Any]:
    return jax.nn.initializers.glorot_uniform()(key, (i, o)), jnp.zeros(o)


def _mlp(work: Work) -> tuple[Params, Callable]:
    keys = jax.random.split(jax.random.key(0), len(work.sizes))
    shapes = zip(keys, work.sizes[:-1], work.sizes[1:], strict=False)

    def logits(params: Params, x: Any) -> Any:
        for w, b in params[:-1]:
            x = jax.nn.relu(x @ w + b)
        return x @ params[-1][0] + params[-1][1]

    return [_dense(*shape) for shape in shapes], logits


def _convolved(x: Any, w: Any, b: Any) -> Any:
    """A 3×3 convolution with ReLU and 2×2 max-pooling."""
    height, width = x.shape[1] - 2, x.shape[2] - 2
    slices = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    y = jax.nn.relu(jnp.concatenate(slices, -1) @ w + b)[:, : height // 2 * 2, : width // 2 * 2]
    parts = [y[:, i::2, j::2] for i in range(2) for j in range(2)]
    return jnp.maximum(jnp.maximum(parts[0], parts[1]), jnp.maximum(parts[2], parts[3]))


def _cnn(work: Work) -> tuple[Params, Callable]:
    keys = jax.random.split(jax.random.key(0), 3)

    def logits(params: Params, x: Any) -> Any:
        for w, b in params[:2]:
            x = _convolved(x, w, b)
        return x.reshape(len(x), -1) @ params[2][0] + params[2][1]

    return [_dense(keys[0], 9, 32), _dense(keys[1], 9 * 32, 64), _dense(keys[2], 1600, 10)], logits


def _lstm(work: Work) -> tuple[Params, Callable]:
    keys = jax.random.split(jax.random.key(0), 3)
    params = (_dense(keys[0], 64, 4 * UNITS), _dense(keys[1], UNITS, 4 * UNITS)[0], _dense(keys[2], UNITS, 10))

    def logits(params: Params, x: Any) -> Any:
        (w, b), recurrent, (out, out_bias) = params

        def step(carry: Any, z: Any) -> Any:
            h, c = carry
            i, f, g, o = jnp.split(z + h @ recurrent, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        zeros = jnp.zeros((len(x), UNITS))
        (h, _), _ = lax.scan(step, (zeros, zeros), jnp.swapaxes(x @ w + b, 0, 1))
        return h @ out + out_bias

    return params, logits


def _transformer(work: Work) -> tuple[Params, Callable]:
    keys = iter(jax.random.split(jax.random.key(0), 32))
    d = FEATURES
    shapes = {"qkv": (d, 3 * d), "out": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}
    norm = (jnp.ones(d), jnp.zeros(d))
    params = {
        "table": 0.05 * jax.random.normal(next(keys), (VOCABULARY, d)),
        "positions": 0.05 * jax.random.normal(next(keys), (TOKENS, d)),
        "blocks": [
            {name: _dense(next(keys), *shape) for name, shape in shapes.items()} | {"first": norm, "second": norm}
            for _ in range(BLOCKS)
        ],
        "head": _dense(next(keys), d, VOCABULARY),
    }

    def normed(x: Any, p: Any) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-3) * p[0] + p[1]

    def logits(params: Params, x: Any) -> Any:
        h = params["table"][x] + params["positions"]
        for p in params["blocks"]:
            z = normed(h, p["first"]) @ p["qkv"][0] + p["qkv"][1]
            q, k, v = (a.reshape(*a.shape[:2], HEADS, d // HEADS) for a in jnp.split(z, 3, -1))
            y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(h.shape)
            h = h + y @ p["out"][0] + p["out"][1]
            z = normed(h, p["second"]) @ p["up"][0] + p["up"][1]
            h = h + jax.nn.gelu(z, approximate=False) @ p["down"][0] + p["down"][1]
        return h @ params["head"][0] + params["head"][1]

    return params, logits


def _training(params: Params, logits_of: Callable) -> tuple[Callable, Any]:
    """A step with Adam, and the first state; the arrays are copies, to be donated."""
    optimizer = optax.adam(1e-3, eps=1e-7)

    def loss_of(params: Params, x: Any, y: Any, mask: Any) -> Any:
        logits = logits_of(params, x)
        mask = mask.reshape(-1, *[1] * (y.ndim - 1)) * jnp.ones(y.shape)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y) * mask
        return losses.sum() / mask.sum(), jnp.stack([losses.sum(), ((logits.argmax(-1) == y) * mask).sum()])

    def step(state: Any, x: Any, y: Any, mask: Any) -> Any:
        params, opt = state
        gradient, sums = jax.grad(loss_of, has_aux=True)(params, x, y, mask)
        updates, opt = optimizer.update(gradient, opt, params)
        return (optax.apply_updates(params, updates), opt), sums

    return step, jax.tree.map(lambda a: jnp.array(a, copy=True), (params, optimizer.init(params)))


def _run(work: Work) -> Run:
    if work.kind in IMAGES:
        raise NoSuchCall("is not written for this model")
    params, logits_of = {"mlp": _mlp, "cnn": _cnn, "lstm": _lstm, "transformer": _transformer}[work.kind](work)
    step, state = _training(params, logits_of)
    held = {"state": state, "params": params}
    x, y = (jnp.asarray(a) for a in work.data())
    rng, steps = np.random.default_rng(0), work.steps

    def epoch(state: Any, x: Any, y: Any, order: Any, sizes: Any) -> Any:
        def body(i: Any, carry: Any) -> Any:
            state, sums = carry
            rows, mask = order[i], (jnp.arange(work.m) < sizes[i]).astype(jnp.float32)
            state, more = step(state, x[rows], y[rows], mask)
            return state, sums + more

        return lax.fori_loop(0, order.shape[0], body, (state, jnp.zeros(2)))

    compiled, one = jax.jit(epoch, donate_argnums=0), jax.jit(step, donate_argnums=0)
    forward = jax.jit(lambda params, x: jax.nn.softmax(logits_of(params, x)))

    def fit(epochs: int) -> None:
        for _ in range(epochs):
            order = np.resize(rng.permutation(work.n), steps * work.m).reshape(steps, work.m)
            sizes = np.full(steps, work.m)
            sizes[-1] = work.n - (steps - 1) * work.m
            held["state"], sums = compiled(held["state"], x, y, jnp.asarray(order), jnp.asarray(sizes))
            np.asarray(sums)

    rows = tuple(np.asarray(a) for a in work.data())

    def train(calls: int) -> None:
        for _ in range(calls):
            held["state"], sums = one(held["state"], *rows, np.ones(work.m, np.float32))
            np.asarray(sums)

    def predict(calls: int) -> None:
        for _ in range(calls):
            np.asarray(forward(held["params"], rows[0]))

    return {"fit": fit, "predict": predict, "predict_on_batch": predict, "train_on_batch": train}[work.task]
