"""The formulations of convolution and pooling against XLA's own operations, forward and gradient."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from epochal.ops.kernels import convolution
from epochal.ops.kernels.convolution import average_pool, convolve, convolve_transposed, max_pool

# space, window, strides, dilation, groups; channels in and out are 4 and 8
CASES = [
    ((9,), (3,), (1,), (1,), 1),
    ((9,), (4,), (3,), (1,), 2),
    ((7, 8), (1, 1), (2, 1), (1, 1), 1),
    ((7, 8), (3, 2), (1, 1), (2, 1), 1),
    ((7, 8), (3, 3), (2, 3), (1, 1), 4),
    ((7, 8), (2, 3), (1, 1), (1, 2), 2),
    ((4, 5, 4), (2, 3, 2), (1, 2, 1), (1, 1, 1), 1),
]


def arrays(space, window, groups=1, rows=6):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, *space, 4)).astype("float32")
    return jnp.asarray(x), jnp.asarray(rng.normal(size=(*window, 4 // groups, 8)), jnp.float32)


def outcome(function, *args):
    """The output, and the gradients of a weighted sum of it."""

    def loss(*args):
        y = function(*args)
        return (y * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)).sum(), y

    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # fast to compile
    return jax.jit(jax.grad(loss, tuple(range(len(args))), has_aux=True), compiler_options=options)(*args)


def close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * max(1, np.abs(y).max()))


def xla(x, kernel, strides, padding, dilation, groups):
    if padding == "causal":
        x, padding = jnp.pad(x, [(0, 0), ((kernel.shape[0] - 1) * dilation[0], 0), (0, 0)]), "valid"
    letters = "DHW"[-len(strides) :]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return lax.conv_general_dilated(
        x, kernel, strides, padding.upper(), None, dilation, dimension_numbers=numbers, feature_group_count=groups
    )


@pytest.fixture(params=["whole", "in pieces", "axis by axis", "other platform"])
def formulation(request, monkeypatch):
    if request.param == "in pieces":
        monkeypatch.setattr(convolution, "PATCH_BYTES", 4000)
    if request.param == "axis by axis":
        monkeypatch.setattr(convolution, "MAX_CELLS", 1)
    monkeypatch.setattr(convolution, "slices_are_faster", lambda: request.param != "other platform")


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("formulation")
def test_convolve_equals_xla(case):
    space, window, strides, dilation, groups = case
    x, kernel = arrays(space, window, groups)
    for padding in ("valid", "same", "causal")[: 3 if len(space) == 1 else 2]:
        rest = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
        close(
            outcome(functools.partial(convolve, **rest), x, kernel), outcome(functools.partial(xla, **rest), x, kernel)
        )


@given(data=st.data())
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
def test_any_convolution_equals_xla(data):
    rank = data.draw(st.integers(1, 2))

    def sizes(least, most):
        return tuple(data.draw(st.lists(st.integers(least, most), min_size=rank, max_size=rank)))

    window, strides, groups = sizes(1, 4), sizes(1, 3), data.draw(st.sampled_from([1, 2, 4]))
    dilation = sizes(1, 2) if max(strides) == 1 else (1,) * rank
    x, kernel = arrays(sizes(7, 9), window, groups, data.draw(st.integers(1, 3)))
    padding = data.draw(st.sampled_from(["valid", "same", *["causal"] * (rank == 1)]))
    rest = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "slices_are_faster", lambda: True)
        got = outcome(functools.partial(convolve, **rest), x, kernel)
    close(got, outcome(functools.partial(xla, **rest), x, kernel))


def test_max_pool_is_differentiated_in_both_directions(monkeypatch):
    monkeypatch.setattr(convolution, "slices_are_faster", lambda: True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, 1)), jnp.float32)
    for strides in ((2, 2), (1, 2)):
        run = functools.partial(max_pool, window=(2, 2), strides=strides)
        np.testing.assert_array_equal(jax.jacfwd(run)(x), jax.jacrev(run)(x))


@pytest.mark.usefixtures("formulation")
def test_convolve_transposed_is_the_transpose():
    _, kernel = arrays((4, 5), (3, 2))
    y = np.random.default_rng(1).normal(size=(6, 9, 10, 4)).astype("float32")
    forward = functools.partial(xla, kernel=kernel, strides=(2, 2), padding="valid", dilation=(1, 1), groups=1)
    z = forward(y)
    back = convolve_transposed(z, kernel, (2, 2), "valid", (1, 1))
    assert back.shape == y.shape
    got, want = (np.asarray(back) * y).sum(), (z * z).sum()  # <A'z, y> = <z, A y>
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("pool", [max_pool, average_pool])
@pytest.mark.parametrize(("window", "strides"), [((2, 2), (2, 2)), ((3, 2), (2, 1)), ((2, 3), (3, 4))])
def test_pools_equal_xla_with_ties(pool, window, strides, monkeypatch):
    x = np.maximum(np.random.default_rng(0).normal(size=(3, 7, 8, 2)), 0).astype("float32")  # many ties at 0
    x[0] = 1.0
    for padding in ("valid", "same"):
        run = functools.partial(pool, window=window, strides=strides, padding=padding)
        monkeypatch.setattr(convolution, "slices_are_faster", lambda: True)
        got = outcome(run, x)
        monkeypatch.setattr(convolution, "slices_are_faster", lambda: False)
        close(got, outcome(run, x))


def test_max_pool_gradient_goes_to_the_first_of_equals():
    (gradient,), _ = outcome(lambda x: max_pool(x, (2,), (2,)), np.ones((1, 4, 1), "float32"))
    assert (np.asarray(gradient)[0, :, 0] != 0).tolist() == [True, False, True, False]


def test_max_pool_keeps_nan_and_integers():
    for cells in itertools.permutations([1.0, np.nan, 3.0]):
        assert np.isnan(max_pool(jnp.asarray(cells).reshape(1, 3, 1), (3,), (3,))).all()
    whole = jnp.arange(-9, -3).reshape(1, 6, 1)
    for size in (2, 50):
        assert max_pool(whole, (size,), (2,), "same").dtype == whole.dtype


def test_pieces_divide_the_rows():
    for rows, bytes_per_row in itertools.product((1, 2, 7, 12, 128), (0, 1, 2**20, 2**24, 2**26)):
        pieces = convolution._pieces(rows, bytes_per_row)
        assert rows % pieces == 0
        assert pieces == rows or rows // pieces * bytes_per_row <= convolution.PATCH_BYTES


def test_memory_of_patches_stops_growing_with_the_batch():
    kernel = jnp.zeros((3, 3, 32, 32))

    def temporaries(rows):
        step = jax.jit(jax.grad(lambda k, x: (convolve(x, k, (1, 1), "same") ** 2).sum()))
        analysis = step.lower(kernel, jax.ShapeDtypeStruct((rows, 32, 32, 32), jnp.float32)).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    patches = 256 * 32 * 32 * 32 * 9 * 4
    assert temporaries(256) < patches / 1.5
