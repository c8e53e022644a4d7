"""Losses against real Keras, value by value; what is better than Keras has a test of its own."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from epochal import losses, metrics
from epochal.losses import Loss
from epochal.registry.serialize import deserialize, serialize

N, C = 12, 4
rng = np.random.default_rng(0)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(np.float32)


def onehot(y, c=C):
    return np.eye(c, dtype=np.float32)[y]


real = rng.normal(size=(N, C)).astype(np.float32)
real3 = rng.normal(size=(N, 5, C)).astype(np.float32)
positive = np.abs(real) + 0.1
classes = rng.integers(0, C, N)
classes3 = rng.integers(0, C, (N, 5))
bits = rng.integers(0, 2, (N, C)).astype(np.float32)
bits1 = rng.integers(0, 2, (N, 1))
logits = (rng.normal(size=(N, C)) * 3).astype(np.float32)
logits3 = (rng.normal(size=(N, 5, C)) * 3).astype(np.float32)
chances = 1 / (1 + np.exp(-logits))
extreme = np.array([[0, 1, 1e-9, 1 - 1e-9]] * N, np.float32)
huge = np.where(rng.random((N, C)) < 0.5, -80, 80).astype(np.float32)
images = rng.random((3, 4, 5, 2)).astype(np.float32)
masks = (rng.random((3, 4, 5, 2)) < 0.5).astype(np.float32)

REGRESSION = [
    (real, real * 0.5),
    (real3, real3[::-1].copy()),
    (real * 1e3, real),
    (real, real),
    (real[:, :1], real[:, 1:2]),
]
BINARY = [(bits, chances), (bits1, chances[:, :1]), (bits, extreme), (bits * 0.8 + 0.1, chances)]
CATEGORICAL = [(onehot(classes), softmax(logits)), (onehot(classes3), softmax(logits3)), (onehot(classes), extreme)]
SPARSE = [(classes, softmax(logits)), (classes[:, None], softmax(logits)), (classes3, softmax(logits3))]
SPARSE_LOGITS = [(classes, logits), (classes3, logits3), (classes3[..., None], logits3), (classes, huge)]
SIGNS = [(bits, real), (bits * 2 - 1, real), (bits1, real[:, :1])]

CASES = [
    *[(n, {}, REGRESSION) for n in ("MeanSquaredError", "MeanAbsoluteError", "MeanAbsolutePercentageError", "LogCosh")],
    ("MeanSquaredLogarithmicError", {}, [(positive, positive[::-1].copy()), (real, real3[:, 0])]),
    ("Huber", {}, REGRESSION),
    ("Huber", {"delta": 0.3}, REGRESSION),
    ("CosineSimilarity", {}, REGRESSION),
    ("CosineSimilarity", {"axis": 1}, [(real3, real3[::-1].copy())]),
    ("Poisson", {}, [(positive, positive[::-1].copy())]),
    ("KLDivergence", {}, [*CATEGORICAL, (softmax(real), softmax(logits))]),
    ("Hinge", {}, SIGNS),
    ("SquaredHinge", {}, SIGNS),
    ("CategoricalHinge", {}, [(onehot(classes), real), (onehot(classes3), real3)]),
    ("BinaryCrossentropy", {}, BINARY),
    ("BinaryCrossentropy", {"label_smoothing": 0.1}, BINARY),
    ("BinaryCrossentropy", {"from_logits": True}, [(bits, logits), (bits, huge), (bits1, logits[:, :1])]),
    ("BinaryCrossentropy", {"axis": 1}, [(onehot(classes3), softmax(logits3))]),
    ("BinaryFocalCrossentropy", {}, BINARY),
    ("BinaryFocalCrossentropy", {"apply_class_balancing": True, "gamma": 1.5, "label_smoothing": 0.1}, BINARY),
    ("BinaryFocalCrossentropy", {"from_logits": True}, [(bits, logits)]),
    ("CategoricalCrossentropy", {}, [*CATEGORICAL, (onehot(classes), chances)]),
    ("CategoricalCrossentropy", {"label_smoothing": 0.1}, CATEGORICAL),
    (
        "CategoricalCrossentropy",
        {"from_logits": True, "label_smoothing": 0.2},
        [(onehot(classes), logits), (onehot(classes), huge)],
    ),
    ("CategoricalCrossentropy", {"axis": 1}, [(onehot(classes3), softmax(logits3))]),
    ("CategoricalFocalCrossentropy", {}, CATEGORICAL),
    ("CategoricalFocalCrossentropy", {"alpha": [0.1, 0.2, 0.3, 0.4], "gamma": 1.0}, CATEGORICAL),
    ("CategoricalFocalCrossentropy", {"from_logits": True}, [(onehot(classes), logits)]),
    ("SparseCategoricalCrossentropy", {}, SPARSE),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, SPARSE_LOGITS),
    ("SparseCategoricalCrossentropy", {"ignore_class": 2}, SPARSE),
    ("SparseCategoricalCrossentropy", {"ignore_class": -1}, [(np.where(classes == 1, -1, classes), softmax(logits))]),
    ("CategoricalGeneralizedCrossEntropy", {"q": 0.7}, [(classes, softmax(logits))]),
    ("Dice", {"axis": (1, 2, 3)}, [(masks, images)]),
    ("Tversky", {"alpha": 0.3, "beta": 0.7, "axis": (1, 2, 3)}, [(masks, images)]),
    ("CTC", {}, [(np.array([[1, 2, 0], [3, 3, 1]]), logits3[:2])]),
]
FLAT = [(n, k, y, p) for n, k, pairs in CASES for y, p in pairs]
IDS = [f"{n}-{'-'.join(map(str, k))}-{i}" for i, (n, k, _, _) in enumerate(FLAT)]


def close(ours, theirs, atol=1e-6):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-5, atol=atol)


@pytest.mark.parametrize(("name", "arguments", "y", "p"), FLAT, ids=IDS)
def test_values_per_example_are_keras_s(name, arguments, y, p):
    theirs = getattr(keras.losses, name)(reduction="none", **arguments)(y, p)
    ours = getattr(losses, name)(**arguments).call(jnp.asarray(y), jnp.asarray(p))
    assert ours.shape[0] == len(p)
    # The tolerance is relative to the greatest value: float32 has seven digits.
    close(ours, theirs, atol=1e-6 * max(1.0, float(np.abs(theirs).max())))


@pytest.mark.parametrize(("name", "arguments", "pairs"), CASES)
def test_the_reduced_number_is_keras_s(name, arguments, pairs):
    y, p = pairs[0]
    theirs, ours = getattr(keras.losses, name)(**arguments), getattr(losses, name)(**arguments)
    np.testing.assert_allclose(ours(y, p), theirs(y, p), rtol=1e-5, atol=1e-5)
    weights = np.linspace(0, 2, len(p)).astype(np.float32)
    if jax.eval_shape(ours.call, y, p).ndim == 1:
        np.testing.assert_allclose(ours(y, p, weights), theirs(y, p, weights), rtol=1e-5, atol=1e-5)


def test_losses_compile():
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1)
    close(jax.jit(loss)(classes3, logits3), loss(classes3, logits3))


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none", None])
def test_reductions_and_weights_are_keras_s(reduction):
    theirs, ours = (m.MeanSquaredError(reduction=reduction) for m in (keras.losses, losses))
    weights = np.linspace(0, 2, N).astype(np.float32)
    close(ours(real, real[::-1].copy(), weights), theirs(real, real[::-1].copy(), weights))
    temporal = rng.random((N, 5)).astype(np.float32)
    close(ours(real3, real3[::-1].copy(), temporal), theirs(real3, real3[::-1].copy(), temporal))


def test_weights_align_from_the_left():
    loss = losses.MeanSquaredError(reduction="none")
    w = np.arange(N, dtype=np.float32)
    expected = np.asarray(loss(real3, real3 * 2)) * w[:, None]
    for shape in ((N,), (N, 1), (N, 1, 1)):
        close(loss(real3, real3 * 2, w.reshape(shape)), expected)
    close(loss(real3, real3 * 2, np.repeat(w[:, None], 5, 1)[..., None]), expected)
    with pytest.raises(ValueError, match=r"\(12, 5\).*\(12, 3\)"):
        loss(real3, real3, np.ones((N, 3)))


CROSSENTROPIES = [
    ("BinaryCrossentropy", {}, bits, chances),
    ("BinaryCrossentropy", {"from_logits": True}, bits, logits),
    ("BinaryCrossentropy", {"from_logits": True}, bits, huge),
    ("BinaryFocalCrossentropy", {}, bits, chances),
    ("BinaryFocalCrossentropy", {"from_logits": True}, bits, logits),
    ("CategoricalCrossentropy", {"label_smoothing": 0.1}, onehot(classes), softmax(logits)),
    ("CategoricalCrossentropy", {"from_logits": True}, onehot(classes), huge),
    ("CategoricalFocalCrossentropy", {"from_logits": True}, onehot(classes), logits),
    ("SparseCategoricalCrossentropy", {}, classes, softmax(logits)),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, classes, huge),
    ("SparseCategoricalCrossentropy", {"from_logits": True, "ignore_class": 1}, classes3, logits3),
]


def gradient(loss, y, p):
    """Compiled, since that is much quicker than one small program per operation."""
    return jax.jit(jax.grad(lambda p: loss(y, p)))(jnp.asarray(p))


@pytest.mark.parametrize(("name", "arguments", "y", "p"), CROSSENTROPIES)
def test_gradients_are_keras_s(name, arguments, y, p):
    theirs = gradient(getattr(keras.losses, name)(**arguments), y, p)
    ours = gradient(getattr(losses, name)(**arguments), y, p)
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)


# -- better than Keras


def test_focal_losses_with_large_logits_are_exact_and_have_a_gradient():
    z = jnp.array([[-40.0]])
    loss = losses.BinaryFocalCrossentropy(from_logits=True)
    close(loss(jnp.ones((1, 1)), z), 40.0)
    assert abs(gradient(loss, jnp.ones((1, 1)), z)[0, 0] + 1) < 1e-5
    z = jnp.array([[40.0, 0.0]])
    loss = losses.CategoricalFocalCrossentropy(alpha=1.0, from_logits=True)
    close(loss(jnp.array([[0.0, 1.0]]), z), 40.0)


def test_masked_logits_of_minus_infinity_cost_nothing():
    z = jnp.array([[2.0, -jnp.inf, 1.0]])
    expected = -np.log(np.exp(1) / (np.exp(2) + np.exp(1)))
    for name, y in (("SparseCategoricalCrossentropy", np.array([2])), ("CategoricalCrossentropy", onehot([2], 3))):
        loss = getattr(losses, name)(from_logits=True)
        close(loss(y, z), expected)
        assert np.isfinite(gradient(loss, y, z)).all()


def test_smoothing_divides_by_the_classes_wherever_they_are():
    y, p = onehot(classes3), softmax(logits3)
    first = losses.CategoricalCrossentropy(label_smoothing=0.3, axis=1).call(*(np.swapaxes(a, 1, 2) for a in (y, p)))
    close(first, losses.CategoricalCrossentropy(label_smoothing=0.3).call(y, p))


def test_the_cosine_of_a_zero_vector_has_a_finite_gradient():
    assert np.isfinite(gradient(losses.CosineSimilarity(), jnp.ones((2, 3)), jnp.zeros((2, 3)))).all()


def test_dice_and_tversky_have_a_value_per_example():
    close(losses.Dice().call(masks, images), losses.Dice(axis=(1, 2, 3)).call(masks, images))
    close(losses.dice(masks, images), keras.losses.dice(masks, images))
    assert losses.Tversky(axis=(-1, -2)).call(masks, images).shape == (3, 4)
    with pytest.raises(ValueError, match="axis 0"):
        losses.Dice(axis=(0, 1)).call(masks, images)


def test_tversky_s_alpha_weighs_what_was_missed_as_keras_s_code_does():
    y, p = np.ones((1, 4), np.float32), np.full((1, 4), 0.5, np.float32)
    close(losses.tversky(y, p, alpha=1.0, beta=0.0), 1 - 2 / (2 + 2))


def test_hinge_reads_a_label_without_looking_at_the_others():
    y, p = np.array([[0.0], [-1.0], [1.0]]), np.array([[0.3], [0.3], [0.3]])
    close(losses.Hinge().call(y, p), [1.3, 1.3, 0.7])


def test_ignored_positions_leave_the_mean_and_the_gradient():
    y = np.array([0, 1, -1])
    z = np.array([[1.0, 2], [0, 1], [np.nan, 0]], np.float32)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    close(loss(y, z), losses.SparseCategoricalCrossentropy(from_logits=True)(y[:2], z[:2]))
    assert np.isfinite(gradient(loss, y, z)).all()
    assert loss.valid(y, z).tolist() == [True, True, False]


def test_half_precision_is_raised():
    y, p = np.array([[1.0]]), jnp.array([[1e-4]], jnp.bfloat16)
    assert losses.BinaryCrossentropy().call(y, p).dtype == jnp.float32
    assert losses.MeanSquaredError(dtype="float16")(y, p).dtype == jnp.float16


# -- shapes


def test_targets_of_rank_1_match_predictions_of_one_column():
    y, p = bits1[:, 0], chances[:, :1]
    close(losses.BinaryCrossentropy()(y, p), losses.BinaryCrossentropy()(y[:, None], p))
    close(losses.MeanSquaredError()(y, p), np.mean((y - p[:, 0]) ** 2))
    assert losses.MeanSquaredError().call(y, p[:, 0]).shape == (N,)
    close(losses.mean_squared_error([1.0, 2.0], [1.0, 3.0]), 0.5)
    assert losses.MeanSquaredError().call(real3[..., 0], real3[..., :1]).shape == (N, 5)


def test_B7_own_functions_take_targets_of_sequences_as_the_named_losses_do():
    def squared(y_true, y_pred):
        return ((y_true - y_pred) ** 2).mean(-1)

    y, p, weight = real3[..., 0], real3[..., 1:2], np.abs(real3[..., 2])
    close(losses.get(squared)(y, p), np.mean((y - p[..., 0]) ** 2))
    close(losses.get(squared)(y, p, weight), losses.MeanSquaredError()(y, p, weight))
    assert metrics.get(squared)(y, p) == pytest.approx(float(losses.MeanSquaredError()(y, p)), rel=1e-6)


@pytest.mark.parametrize(
    ("y", "p"), [((6, 1), (6, 2)), ((6, 2), (6, 1)), ((6,), (6, 2)), ((5,), (6, 1)), ((6, 1, 1), (6, 1))]
)
@pytest.mark.parametrize("name", ["mse", "bce", "hinge", "categorical_crossentropy", "kld", "mae"])
def test_nothing_is_broadcast(name, y, p):
    with pytest.raises(ValueError) as error:
        losses.get(name).call(np.zeros(y), np.zeros(p))
    assert str(y) in str(error.value)
    assert str(p) in str(error.value)


def test_sparse_targets_of_a_wrong_shape():
    with pytest.raises(ValueError, match=r"\(6,\).*\(6, 3\).*\(5,\)"):
        losses.SparseCategoricalCrossentropy().call(np.zeros(5), np.zeros((6, 3)))
    with pytest.raises(ValueError, match="sparse_categorical_crossentropy"):
        losses.CategoricalCrossentropy().call(np.zeros(6), np.zeros((6, 3)))


def test_one_class_is_warned_of():
    with pytest.warns(UserWarning, match="binary_crossentropy"):
        losses.CategoricalCrossentropy().call(np.ones((3, 1)), np.ones((3, 1)))


@pytest.mark.parametrize("name", ["ce", "crossentropy"])
def test_crossentropy_by_shape(name):
    loss = losses.get(name)
    close(loss(bits1, chances[:, :1]), losses.BinaryCrossentropy()(bits1, chances[:, :1]))
    close(loss(bits1[:, 0], chances[:, :1]), losses.BinaryCrossentropy()(bits1, chances[:, :1]))
    for y in (classes, classes[:, None]):
        close(loss(y, softmax(logits)), losses.SparseCategoricalCrossentropy()(y, softmax(logits)))
    close(loss(onehot(classes), softmax(logits)), losses.CategoricalCrossentropy()(onehot(classes), softmax(logits)))
    close(loss(classes3, softmax(logits3)), losses.SparseCategoricalCrossentropy()(classes3, softmax(logits3)))


# -- names


@pytest.mark.parametrize("name", sorted(losses.TABLE))
def test_every_name_resolves(name):
    loss = losses.get(name)
    assert isinstance(loss, Loss)
    again = deserialize(serialize(loss))
    assert type(again) is type(loss)
    assert (again.name, again.reduction) == (loss.name, loss.reduction)


def test_keras_knows_no_name_that_is_missing_here():
    missing = {n for n in keras.src.losses.ALL_OBJECTS_DICT if n not in losses.TABLE}
    assert missing <= {"Loss", "LossFunctionWrapper", "Circle", "circle"}
    assert set(losses.__all__) >= {n for n in losses.TABLE if n not in ("ce", "crossentropy", "huber_loss")}


def test_names_of_the_objects_are_keras_s():
    for name in losses.__all__:
        cls = getattr(losses, name)
        if isinstance(cls, type) and issubclass(cls, Loss) and hasattr(keras.losses, name) and name != "Loss":
            assert cls().name == getattr(keras.losses, name)().name


@pytest.mark.parametrize(
    ("typo", "near"), [("mean_squard_error", "mean_squared_error"), ("huberr", "huber"), ("MES", "MSE")]
)
def test_a_typo_gives_the_nearest_name(typo, near):
    with pytest.raises(ValueError, match=f"Unknown loss.*{near}"):
        losses.get(typo)


def test_functions_classes_and_objects():
    def my_loss(y_true, y_pred):
        return jnp.mean((y_true - y_pred) ** 4, axis=-1)

    wrapped = losses.get(my_loss)
    assert wrapped.name == "my_loss"
    close(wrapped(real[:, 0], real[:, 1:2]), np.mean((real[:, 0] - real[:, 1]) ** 4))
    assert isinstance(losses.get(losses.huber), losses.Huber)
    assert losses.get(losses.huber).name == "huber"
    assert isinstance(losses.get(losses.MeanSquaredError), losses.MeanSquaredError)
    loss = losses.Huber(2)
    assert losses.get(loss) is loss
    assert loss.delta == 2
    assert losses.get(None) is None
    for wrong in (3, dict):
        with pytest.raises(ValueError, match="Expected a loss"):
            losses.get(wrong)


def test_a_loss_of_ones_own():
    class Cubic(Loss):
        def call(self, y_true, y_pred):
            return jnp.mean(jnp.abs(y_true - y_pred) ** 3, axis=-1)

    loss = Cubic()
    assert (loss.name, loss.reduction) == ("cubic", "sum_over_batch_size")
    close(loss([1.0, 2.0], [[2.0], [4.0]]), 4.5)
    close(Cubic(reduction="sum")([1.0, 2.0], [[2.0], [4.0]]), 9.0)
    with pytest.raises(NotImplementedError, match="call"):
        Loss().call(real, real)


def test_one_number_for_the_batch_cannot_be_weighted():
    loss = losses.get(lambda y, p: jnp.mean((y - p) ** 2))
    close(loss(real, real * 2), np.mean(real**2))
    with pytest.raises(ValueError, match="one number"):
        loss(real, real, np.ones(N))


def test_an_unknown_reduction():
    with pytest.raises(ValueError, match="sum_over_batch_size"):
        losses.MeanSquaredError(reduction="average")


def test_the_function_wrapper_passes_arguments_on():
    loss = losses.LossFunctionWrapper(losses.huber, delta=0.3)
    close(loss(real, real * 2), losses.Huber(0.3)(real, real * 2))
    close(deserialize(serialize(loss))(real, real * 2), loss(real, real * 2))


# -- labels, on the host


def test_labels_out_of_range_are_named():
    sparse = losses.SparseCategoricalCrossentropy()
    losses.check_labels(sparse, np.array([0, 2]), 3)
    losses.check_labels(losses.MeanSquaredError(), np.array([0, 9]), 3)
    losses.check_labels(None, np.array([9]), 3)
    losses.check_labels(losses.SparseCategoricalCrossentropy(ignore_class=255), np.array([0, 255]), 3)
    with pytest.raises(ValueError, match=r"0 … 2.*3 classes.*-1, 3"):
        losses.check_labels(sparse, np.array([[0], [3], [-1]]), 3)
    for wrong in (0.5, np.nan):
        with pytest.raises(ValueError, match=str(wrong)):
            losses.check_labels(sparse, np.array([0, wrong]), 3)
    losses.check_labels(losses.get("ce"), np.array([[0, 1, 1]]), 3)
    losses.check_labels(losses.get("ce"), np.array([0.2, 7]), 1)
    with pytest.raises(ValueError, match="holds 7"):
        losses.check_labels(losses.get("ce"), np.array([7]), 3)


@pytest.mark.parametrize("name", ["sparse_categorical_crossentropy", "categorical_crossentropy"])
def test_probabilities_whose_logits_are_known_cost_the_same(name, monkeypatch):
    z = jnp.asarray(real3 * 12)  # also beyond the clipping at 1e-7
    targets = classes3 if name.startswith("sparse") else onehot(classes3)
    found = []
    known = losses.functions.activations.logits_of
    monkeypatch.setattr(
        losses.functions.activations, "logits_of", lambda p, axis: found.append(known(p, axis)) or found[-1]
    )

    def value(softmax, z):
        values = getattr(losses, name)(targets, softmax(z))
        return (values * jnp.arange(1.0, 6)).sum(), values

    got = jax.jit(jax.grad(lambda z: value(losses.functions.activations.softmax, z), has_aux=True))(z)
    assert [logits is not None for logits in found] == [True]
    want = jax.grad(lambda z: value(lambda z: keras.ops.softmax(z), z), has_aux=True)(z)
    assert found[-1] is None
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5)
