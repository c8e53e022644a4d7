"""The formulations of convolution and pooling against XLA's own operations, forward and gradient."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from epochal.ops.kernels import convolution
from epochal.ops.kernels.convolution import average_pool, convolve, convolve_transposed, max_pool

pytestmark = pytest.mark.optimized  # what is asked is the code that users run

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


def close(a, b, tolerance=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x = np.asarray(x, "float32")
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * max(1, np.abs(y).max()))


def xla(x, kernel, strides, padding, dilation, groups):
    if padding == "causal":
        x, padding = jnp.pad(x, [(0, 0), ((kernel.shape[0] - 1) * dilation[0], 0), (0, 0)]), "valid"
    letters = "DHW"[-len(strides) :]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return lax.conv_general_dilated(
        x, kernel, strides, padding.upper(), None, dilation, dimension_numbers=numbers, feature_group_count=groups
    )


def take(patch, form):
    """Makes all convolutions that are not grouped take a formulation, on a platform where slices are faster."""
    chosen = convolution.formulation

    def formulation(shape, kernel, out, strides, groups=1, transposed=False):
        if groups == 1:
            return form
        return "split" if form == "canonical" else chosen(shape, kernel, out, strides, groups)

    patch.setattr(convolution, "slices_are_faster", lambda: True)
    patch.setattr(convolution, "formulation", formulation)


@pytest.fixture(params=["whole", "in pieces", "axis by axis", "canonical", "other platform"])
def formulation(request, monkeypatch):
    if request.param == "canonical":
        take(monkeypatch, "canonical")
        return
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


def check_any_convolution(data, form, most_rank):
    """A convolution drawn at random, and its transpose, against XLA's own in float32: forward and both gradients.

    Types of half the size may be off by two of their steps.
    """
    rank = data.draw(st.integers(1, most_rank))

    def sizes(least, most):
        return tuple(data.draw(st.lists(st.integers(least, most), min_size=rank, max_size=rank)))

    window, strides, groups = sizes(1, 4), sizes(1, 3), data.draw(st.sampled_from([1, 1, 2, 4]))
    dilation = sizes(1, 2) if max(strides) == 1 else (1,) * rank
    dtype = data.draw(st.sampled_from([jnp.float32, jnp.float32, jnp.bfloat16, jnp.float16]))
    x, kernel = (a.astype(dtype) for a in arrays(sizes(7, 9), window, groups, data.draw(st.integers(1, 3))))
    padding = data.draw(st.sampled_from(["valid", "same", *["causal"] * (rank == 1)]))
    rest = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    back = {"strides": strides, "padding": "valid", "dilation": dilation}

    def transposed(y, kernel):
        return jax.vjp(functools.partial(xla, kernel=kernel, groups=1, **back), jnp.zeros(large))[1](y)[0]

    with pytest.MonkeyPatch.context() as patch:
        take(patch, form) if form else patch.setattr(convolution, "slices_are_faster", lambda: True)
        got = outcome(functools.partial(convolve, **rest), x, kernel)
        if groups == 1:  # to a space as large as no window is cut at
            kernel_back, y = kernel.swapaxes(-1, -2)[..., :4, :], x
            got_back = outcome(
                functools.partial(convolve_transposed, output_padding=(0,) * rank, **back), y, kernel_back
            )
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), (x, kernel))
    tolerance = 1e-5 if dtype == jnp.float32 else 2 * float(jnp.finfo(dtype).eps)
    close(got, outcome(functools.partial(xla, **rest), *wide), tolerance)
    if groups == 1:
        large = (len(x), *got_back[1].shape[1:-1], kernel_back.shape[-2])
        close(got_back, outcome(transposed, wide[0], kernel_back.astype(jnp.float32)), tolerance)


@pytest.mark.parametrize("form", [None, "canonical"])
def test_any_convolution_equals_xla(form):
    @given(data=st.data())
    @settings(max_examples=8, deadline=None, derandomize=True, database=None)
    def check(data):
        check_any_convolution(data, form, 3)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("form", [None, "patches", "canonical"])
def test_any_convolution_equals_xla_at_full_count(form):
    @given(data=st.data())
    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    def check(data):
        check_any_convolution(data, form, 3)

    check()


def test_max_pool_is_differentiated_in_both_directions(monkeypatch):
    monkeypatch.setattr(convolution, "slices_are_faster", lambda: True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, 1)), jnp.float32)
    for strides in ((2, 2), (1, 2)):
        run = functools.partial(max_pool, window=(2, 2), strides=strides)
        np.testing.assert_array_equal(jax.jacfwd(run)(x), jax.jacrev(run)(x))


@pytest.fixture
def canonical(monkeypatch):
    take(monkeypatch, "canonical")
    x, kernel = arrays((9, 8), (3, 2))
    rest = {"strides": (1, 2), "padding": "same", "dilation": (1, 1)}
    return functools.partial(convolve, **rest), functools.partial(xla, **rest, groups=1), x, kernel


def test_canonical_form_has_forward_mode_and_hessian_products(canonical):
    ours, theirs, *args = canonical

    def product(function):
        slopes = jax.grad(lambda x, k: jnp.tanh(function(x, k)).sum(), (0, 1))
        ahead = jax.jvp(slopes, tuple(args), tuple(args))[1]
        back = jax.vjp(slopes, *args)[1](tuple(args))
        return jax.jvp(function, tuple(args), tuple(args))[1], ahead, back

    close(product(ours), product(theirs))


def test_canonical_form_has_gradients_of_single_examples_and_remat(canonical):
    ours, theirs, x, kernel = canonical

    def single(function):
        one = jax.checkpoint(lambda k, x: jnp.square(function(x[None], k)).sum())
        return jax.jit(jax.vmap(jax.grad(one), (None, 0)))(kernel, x)

    close(single(ours), single(theirs))


def test_canonical_form_is_what_xla_has_fast_kernels_for(monkeypatch):
    """In a loop, where it does not bring convolutions into this form itself."""
    take(monkeypatch, "canonical")

    def loss(x, kernel, back):
        y = convolve_transposed(convolve(x, kernel, (2, 1), "same"), back, (1, 2), "same", (1, 1))
        return jnp.square(y).sum()

    def steps(*args):
        return lax.fori_loop(0, 9, lambda _, args: jax.grad(loss, (0, 1, 2))(*args), args)

    x, kernel = arrays((9, 8), (3, 2))
    text = jax.jit(steps).lower(x, kernel, kernel).compile().as_text()
    assert len(re.findall(r"dim_labels=b01f_01io->b01f\b", text)) == len(re.findall("dim_labels=", text)) == 6


def test_first_layer_has_no_gradient_of_its_input(monkeypatch):
    take(monkeypatch, "canonical")
    slope = jax.grad(lambda k, x: convolve(x, k, (1, 1)).sum())
    x, kernel = arrays((9, 8), (3, 2))
    assert jax.jit(slope).lower(kernel, x).as_text().count("stablehlo.convolution") == 1


def test_formulation_is_by_shapes(monkeypatch):
    monkeypatch.setattr(convolution, "slices_are_faster", lambda: True)
    for form, (shape, kernel, out, *more) in {
        "patches": ((1, 32, 32, 16), (3, 3, 16, 16), (32, 32), (1, 1)),
        "canonical": ((32, 32, 32, 16), (3, 3, 16, 16), (32, 32), (1, 1)),
        "product": ((32, 32, 32, 64), (1, 1, 64, 64), (32, 32), (1, 1)),
        "scaled slices": ((32, 32, 32, 64), (3, 3, 1, 64), (32, 32), (1, 1), 64),
        "split": ((32, 32, 32, 64), (3, 3, 16, 64), (32, 32), (1, 1), 4),
        "planes": ((2, 9, 9, 9, 8), (3, 3, 3, 8, 16), (7, 7, 7), (1, 1, 1)),
    }.items():
        assert convolution.formulation(shape, kernel, out, *more) == form
    assert convolution.formulation((32, 9999, 64), (999, 64, 16), (9001,), (1,)) == "canonical"
    assert convolution.formulation((1, 9, 9, 1), (3, 3, 1, 1), (4, 4), (2, 2), transposed=True) == "canonical"
    monkeypatch.setattr(convolution, "slices_are_faster", lambda: False)
    assert convolution.formulation((1, 32, 32, 16), (1, 1, 16, 16), (32, 32), (1, 1)) == "xla"


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
