"""Metrics against real Keras over several batches; what is better than Keras has a test of its own."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from epochal import losses, metrics
from epochal.metrics import Metric
from epochal.registry.serialize import deserialize, serialize

N, C = 30, 4
rng = np.random.default_rng(1)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(np.float32)


real, guess = rng.normal(size=(2, N, C)).astype(np.float32)
positive, rates = np.abs(real) + 0.1, np.abs(guess) + 0.1
classes = rng.integers(0, C, N)
other = rng.integers(0, C, N)
onehot = np.eye(C, dtype=np.float32)[classes]
chances = softmax(rng.normal(size=(N, C)) * 2)
classes3, chances3 = rng.integers(0, C, (N, 5)), softmax(rng.normal(size=(N, 5, C)) * 2)
bits = (rng.random((N, C)) < 0.4).astype(np.float32)
yes = (rng.random((N, C)) * 0.7 + bits * 0.3).astype(np.float32)
yes[0], yes[1] = 0, 1
bit, maybe = bits[:, :1], yes[:, :1]
logits = np.log((yes + 0.01) / (1.01 - yes)).astype(np.float32)

REGRESSION = [
    (n, {}, real, guess)
    for n in ("MeanSquaredError", "RootMeanSquaredError", "MeanAbsoluteError", "MeanAbsolutePercentageError")
] + [
    ("LogCoshError", {}, real, guess),
    ("CosineSimilarity", {}, real, guess),
    ("PearsonCorrelation", {}, real, guess),
    ("ConcordanceCorrelation", {}, real, guess),
    ("MeanSquaredLogarithmicError", {}, positive, rates),
    ("R2Score", {}, real, real + guess / 2),
    ("R2Score", {"class_aggregation": None}, real, guess),
    ("R2Score", {"class_aggregation": "variance_weighted_average"}, real, guess),
    ("R2Score", {"num_regressors": 3}, real[:, :1], guess[:, :1]),
]
PROBABILITIES = [
    ("Hinge", {}, bits, real),
    ("SquaredHinge", {}, bits * 2 - 1, real),
    ("CategoricalHinge", {}, onehot, real),
    ("KLDivergence", {}, onehot, chances),
    ("Poisson", {}, positive, rates),
    ("BinaryCrossentropy", {"label_smoothing": 0.1}, bits, yes),
    ("BinaryCrossentropy", {"from_logits": True}, bits, logits),
    ("CategoricalCrossentropy", {}, onehot, chances),
    ("CategoricalCrossentropy", {"from_logits": True, "label_smoothing": 0.1}, onehot, real),
    ("SparseCategoricalCrossentropy", {}, classes, chances),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, classes3, chances3),
]
ACCURACIES = [
    ("Accuracy", {}, classes, other),
    ("BinaryAccuracy", {}, bits, yes),
    ("BinaryAccuracy", {"threshold": 0.3}, bit, maybe),
    ("CategoricalAccuracy", {}, onehot, chances),
    ("SparseCategoricalAccuracy", {}, classes, chances),
    ("SparseCategoricalAccuracy", {}, classes[:, None], chances),
    ("SparseCategoricalAccuracy", {}, classes3, chances3),
    ("TopKCategoricalAccuracy", {"k": 2}, onehot, chances),
    ("SparseTopKCategoricalAccuracy", {"k": 2}, classes, chances),
    (
        "SparseTopKCategoricalAccuracy",
        {"k": 2, "from_sorted_ids": True},
        classes,
        np.argsort(-chances, axis=-1).astype(np.float32),
    ),
]
COUNTS = [
    *[(n, {}, bit, maybe) for n in ("TruePositives", "FalsePositives", "TrueNegatives", "FalseNegatives")],
    ("TruePositives", {"thresholds": [0.7, 0.2]}, bits, yes),
    ("FalseNegatives", {"thresholds": [0.0, 0.5, 1.0]}, bits, yes),
    *[
        (n, a, bits, yes)
        for n in ("Precision", "Recall")
        for a in ({}, {"thresholds": [0.8, 0.1]}, {"top_k": 2}, {"class_id": 1}, {"top_k": 2, "class_id": 1})
    ],
    ("SensitivityAtSpecificity", {"specificity": 0.6}, bit, maybe),
    ("SensitivityAtSpecificity", {"specificity": 0.6, "class_id": 2}, bits, yes),
    ("SpecificityAtSensitivity", {"sensitivity": 0.6}, bit, maybe),
    ("SpecificityAtSensitivity", {"sensitivity": 0.6, "num_thresholds": 1}, bit, maybe),
    ("PrecisionAtRecall", {"recall": 0.6}, bit, maybe),
    ("RecallAtPrecision", {"precision": 0.6}, bit, maybe),
]
AREAS = [
    *[
        ("AUC", {"curve": c, "summation_method": m}, bit, maybe)
        for c in ("ROC", "PR", "PRGAIN")
        for m in ("interpolation", "minoring", "majoring")
    ],
    ("AUC", {"thresholds": [0.6, 0.35]}, bit, maybe),
    ("AUC", {"from_logits": True}, bit, logits[:, :1]),
    ("AUC", {"label_weights": [0.1, 0.2, 0.3, 0.4]}, bits, yes),
    ("AUC", {"multi_label": True}, bits, yes),
    ("AUC", {"multi_label": True, "curve": "PR", "num_labels": C, "label_weights": [0.1, 0.2, 0.3, 0.4]}, bits, yes),
]
SCORES = [
    *[(n, {"average": a}, onehot, chances) for n in ("F1Score",) for a in (None, "micro", "macro", "weighted")],
    ("FBetaScore", {"beta": 2.0, "threshold": 0.4, "average": "macro"}, bits, yes),
    ("FBetaScore", {"beta": 0.5}, bits, yes),
]
OVERLAPS = [
    ("IoU", {"num_classes": C, "target_class_ids": [0, 2]}, classes, other),
    ("IoU", {"num_classes": C, "target_class_ids": [0, 2], "ignore_class": 0}, classes, other),
    ("IoU", {"num_classes": C, "target_class_ids": [1], "sparse_y_pred": False}, classes, chances),
    ("BinaryIoU", {}, bit[:, 0], maybe[:, 0]),
    ("BinaryIoU", {"target_class_ids": [1], "threshold": 0.3}, bit[:, 0], maybe[:, 0]),
    ("MeanIoU", {"num_classes": C + 1}, classes, other),
    ("MeanIoU", {"num_classes": C - 1}, classes, other),
    ("OneHotIoU", {"num_classes": C, "target_class_ids": [0, 3]}, onehot, chances),
    ("OneHotMeanIoU", {"num_classes": C}, onehot, chances),
]
CASES = REGRESSION + PROBABILITIES + ACCURACIES + COUNTS + AREAS + SCORES + OVERLAPS
IDS = [f"{n}-{'-'.join(a)}-{i}" for i, (n, a, _, _) in enumerate(CASES)]
# Few shapes, since every new one compiles every operation again.
CUTS = ([0, 15, N], [0, N])


def feed(metric, y, p, w=None, cut=CUTS[0]):
    metric.reset_state()
    for a, b in pairwise(cut):
        metric.update_state(y[a:b], p[a:b], None if w is None else w[a:b])
    return np.asarray(metric.result())


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")  # Keras's IoU asks for what JAX has not
@pytest.mark.parametrize(("name", "arguments", "y", "p"), CASES, ids=IDS)
def test_numbers_are_keras_s(name, arguments, y, p):
    theirs, ours = getattr(keras.metrics, name)(**arguments), getattr(metrics, name)(**arguments)
    np.testing.assert_allclose(feed(ours, y, p), feed(theirs, y, p), rtol=2e-5, atol=1e-6)
    # Keras cuts the weights of an IoU to integers, and has no answer to weights that are in its way here.
    low = 1 if name == "R2Score" else 0  # Keras counts examples of weight 0
    w = rng.integers(low, 3, N).astype(np.int32 if "IoU" in name else np.float32)
    if name == "AUC" and "thresholds" in arguments:
        w = np.ones(N, np.float32)
    np.testing.assert_allclose(feed(ours, y, p, w), feed(theirs, y, p, w), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "arguments", "y", "p"), CASES, ids=IDS)
def test_batches_and_padding_change_nothing(name, arguments, y, p):
    metric = getattr(metrics, name)(**arguments)
    w = rng.random(N).astype(np.float32)
    whole = feed(metric, y, p, w, CUTS[1])
    np.testing.assert_allclose(feed(metric, y, p, w, CUTS[0]), whole, rtol=1e-6, atol=1e-6)
    half = N // 2
    plain = metric.stats(y[:half], p[:half])
    padding = np.full_like(p[:half], np.nan if p.dtype.kind == "f" else 0)
    rows = (np.arange(N) < half).astype(np.float32)
    padded = metric.stats(y, np.concatenate([p[:half], padding]), rows)
    assert padded.keys() == plain.keys()
    for key in plain:
        np.testing.assert_allclose(padded[key], plain[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "arguments", "y", "p"), CASES, ids=IDS)
def test_nothing_summed_gives_a_number_without_warning(name, arguments, y, p):
    metric = getattr(metrics, name)(**arguments)
    assert metric.result() == 0.0
    if arguments.get("num_regressors"):
        return
    empty = metric.initial(y, p)  # traces stats, as jit does
    assert np.isfinite(metric.value(jax.tree.map(np.asarray, empty))).all()


@pytest.mark.parametrize("metric", [metrics.AUC(), metrics.F1Score(), metrics.MeanSquaredError()])
def test_a_state_is_updated_by_pure_functions(metric):
    state = metric.initial(*(jax.ShapeDtypeStruct((N, C), np.float32),) * 2)
    update = jax.jit(metric.update)
    for rows in (slice(0, 15), slice(15, N)):
        state = update(state, bits[rows], yes[rows])
    np.testing.assert_allclose(metric.value(jax.tree.map(np.asarray, state)), feed(metric, bits, yes), rtol=1e-5)


@pytest.mark.parametrize("metric", [metrics.Mean, metrics.Sum])
def test_mean_and_sum_of_values(metric):
    theirs, ours = getattr(keras.metrics, metric.__name__)(), metric()
    assert ours.name == theirs.name
    for values, w in (([1.0, 3.0], None), ([[1.0, 2.0], [4.0, 8.0]], [1.0, 0.5]), (7.0, None), (7.0, 2.0)):
        np.testing.assert_allclose(ours(values, w), theirs(np.asarray(values), w), rtol=1e-6)
    ours.reset_state()
    assert ours.result() == 0.0


# -- better than Keras


def test_temporal_weights():
    metric = metrics.SparseCategoricalAccuracy()
    hits = classes3 == chances3.argmax(-1)
    w = rng.random((N, 5)).astype(np.float32)
    for weights in (w, w[..., None]):
        np.testing.assert_allclose(feed(metric, classes3, chances3, weights), (hits * w).sum() / w.sum(), rtol=1e-5)
    iou = metrics.MeanIoU(C, sparse_y_pred=False)
    rows = np.arange(N) % 2
    some = rows == 1
    assert feed(iou, classes3, chances3, rows) == pytest.approx(feed(iou, classes3[some], chances3[some], cut=[0, 15]))


def test_iou_takes_fractions_as_weights():
    halves = feed(metrics.MeanIoU(C), classes, other, np.full(N, 0.5, np.float32))
    assert halves == pytest.approx(feed(metrics.MeanIoU(C), classes, other))


def test_auc_with_thresholds_of_its_own_takes_weights():
    metric, w = metrics.AUC(thresholds=[0.6, 0.35]), rng.integers(0, 3, N).astype(np.float32)
    again = np.repeat(np.arange(N), w.astype(int))
    assert feed(metric, bit, maybe, w) == pytest.approx(feed(metric, bit[again], maybe[again], cut=[0, len(again)]))


def test_auc_of_predictions_outside_0_1_is_of_the_nearest():
    y, p = np.array([0, 0, 1, 1]), np.array([-3.0, 0.2, 0.1, 7.0])
    for thresholds in (None, [0.15]):
        clipped = metrics.AUC(thresholds=thresholds)(y, np.clip(p, 0, 1))
        assert metrics.AUC(thresholds=thresholds)(y, p) == pytest.approx(clipped)


def test_k_may_exceed_the_classes():
    assert metrics.TopKCategoricalAccuracy(k=9)(onehot, chances) == 1.0
    assert metrics.Precision(top_k=9)(bits, yes) == pytest.approx(bits.mean())
    assert metrics.SparseTopKCategoricalAccuracy(k=9)([7, -1], chances[:2]) == 0.0


def test_r2_of_a_constant_target():
    y = np.full((5, 1), 2.0)
    assert metrics.R2Score()(y, y) == 1.0
    assert metrics.R2Score()(y, y + 1) == 0.0


def test_adjusted_r2_counts_examples_not_values():
    plain, n, k = metrics.R2Score()(real, guess), N, 3
    adjusted = 1 - (1 - plain) * (n - 1) / (n - k - 1)
    assert metrics.R2Score(num_regressors=k)(real, guess) == pytest.approx(adjusted)
    with pytest.warns(UserWarning, match="more than 31 examples, got 30"):
        assert metrics.R2Score(num_regressors=30)(real, guess) == pytest.approx(plain)


def test_the_correlation_of_a_constant_is_0():
    assert metrics.PearsonCorrelation()(np.ones((2, 3)), real[:2, :3]) == 0.0


def test_a_number_per_batch_counts_for_its_examples():
    metric = metrics.get(lambda y, p: jnp.mean(jnp.abs(y - p)))
    np.testing.assert_allclose(feed(metric, real, guess), np.abs(real - guess).mean(), rtol=1e-6)
    w = np.ones(N, np.float32)
    np.testing.assert_allclose(feed(metric, real, guess, w), np.abs(real - guess).mean(), rtol=1e-6)


def test_ignored_classes_count_neither_way():
    """Keras leaves them out of a weighted mean, as here, but counts them as zeros in a plain one."""
    metric, theirs = (m.SparseCategoricalCrossentropy(ignore_class=2) for m in (metrics, keras.metrics))
    keep, w = classes != 2, rng.random(N).astype(np.float32)
    plain = losses.SparseCategoricalCrossentropy().call(classes, chances)[keep]
    np.testing.assert_allclose(feed(metric, classes, chances), np.mean(plain), rtol=1e-5)
    np.testing.assert_allclose(feed(metric, classes, chances, w), np.average(plain, weights=w[keep]), rtol=1e-5)
    np.testing.assert_allclose(feed(metric, classes, chances, w), feed(theirs, classes, chances, w), rtol=1e-5)


# -- shapes


@pytest.mark.parametrize("name", ["mse", "binary_accuracy", "AUC", "Precision", "rmse_", "hinge", "F1Score", "R2Score"])
def test_targets_of_rank_1_match_one_column_and_nothing_else(name):
    metric = metrics.RootMeanSquaredError() if name == "rmse_" else metrics.get(name)
    flat, column = feed(metric, bit[:, 0], maybe), feed(metric, bit, maybe)
    np.testing.assert_array_equal(flat, column)
    for y, p in (((6, 2), (6, 1)), ((6, 1), (6, 2)), ((5,), (6, 1))):
        with pytest.raises(ValueError) as error:
            metric.stats(np.zeros(y), np.zeros(p))
        assert str(y) in str(error.value)
        assert str(p) in str(error.value)


def test_weights_of_another_shape():
    with pytest.raises(ValueError, match=r"\(30, 4\).*\(30, 3\)"):
        metrics.BinaryAccuracy().stats(bits, yes, np.ones((N, 3)))
    with pytest.raises(ValueError, match="one shape"):
        metrics.MeanIoU(C).stats(classes, other[:9])
    for metric in (metrics.F1Score(), metrics.R2Score(), metrics.AUC(multi_label=True)):
        with pytest.raises(ValueError, match=r"\(30, 5, 4\)"):
            metric.stats(chances3, chances3)


@pytest.mark.parametrize("name", ["accuracy", "acc"])
@pytest.mark.parametrize(
    ("y", "p", "cls"),
    [
        ((None, 1), (None, 1), metrics.BinaryAccuracy),
        ((8,), (8, 1), metrics.BinaryAccuracy),
        ((8,), (8,), metrics.BinaryAccuracy),
        ((8,), (8, 3), metrics.SparseCategoricalAccuracy),
        ((8, 1), (8, 3), metrics.SparseCategoricalAccuracy),
        ((8, 5), (8, 5, 3), metrics.SparseCategoricalAccuracy),
        ((8, 3), (8, 3), metrics.CategoricalAccuracy),
        ((8, 5, 3), (8, 5, 3), metrics.CategoricalAccuracy),
    ],
)
def test_C2_accuracy_by_shape(name, y, p, cls):
    metric = metrics.resolve(name, y, p)
    assert (type(metric), metric.name) == (cls, name)


def test_crossentropy_by_shape():
    for name in ("ce", "crossentropy"):
        metric = metrics.resolve(name, (N,), (N, C))
        assert metric.name == name
        assert feed(metric, classes, chances) == pytest.approx(feed(metric, onehot, chances))
        assert feed(metric, bit, maybe) == pytest.approx(feed(metrics.BinaryCrossentropy(), bit, maybe))


# -- names


@pytest.mark.parametrize("name", sorted(metrics.TABLE))
def test_every_name_resolves(name):
    try:
        metric = metrics.get(name)
    except ValueError as error:
        assert "needs arguments" in str(error)  # noqa: PT017
        return
    assert isinstance(metric, Metric)
    assert metric.name == name
    assert metrics.resolve(name, (8, 3), (8, 3)).name == name
    again = deserialize(serialize(metric))
    assert (type(again), again.name) == (type(metric), name)


def test_keras_knows_no_name_that_is_missing_here():
    assert {n for n in keras.src.metrics.ALL_OBJECTS_DICT if n not in metrics.TABLE} <= {"Metric", "metric"}
    for name in metrics.__all__:
        cls, theirs = getattr(metrics, name), getattr(keras.metrics, name, None)
        if isinstance(cls, type) and theirs and not cls.__init__.__kwdefaults__ and name not in ("Metric",):
            arguments = {"IoU": (2, [0]), "OneHotIoU": (2, [0]), "MeanIoU": (2,), "OneHotMeanIoU": (2,)}.get(name, ())
            arguments = (0.5,) if "At" in name else arguments
            arguments = (metrics.binary_accuracy,) if name == "MeanMetricWrapper" else arguments
            theirs = theirs(*arguments).name
            assert (
                cls(*arguments).name == theirs
                or theirs.rsplit("_", 1)[0] == cls(*arguments).name
                or name == ("MeanMetricWrapper")
            )


@pytest.mark.parametrize(("typo", "near"), [("acuracy", "accuracy"), ("auc_", "auc"), ("Precison", "Precision")])
def test_a_typo_gives_the_nearest_name(typo, near):
    with pytest.raises(ValueError, match=f"Unknown metric.*{near}"):
        metrics.get(typo)


def test_functions_classes_and_objects():
    def off(y_true, y_pred):
        return jnp.abs(y_true - y_pred)[..., 0]

    metric = metrics.get(off)
    assert metric.name == "off"
    np.testing.assert_allclose(feed(metric, real[:, 0], guess[:, :1]), np.abs(real - guess)[:, 0].mean(), rtol=1e-6)
    huber = metrics.get(losses.Huber(0.3))
    assert huber.name == "huber_loss"
    np.testing.assert_allclose(feed(huber, real, guess), losses.Huber(0.3)(real, guess), rtol=1e-6)
    assert metrics.get(losses.huber).name == "huber"
    assert metrics.get(metrics.binary_accuracy).name == "binary_accuracy"
    assert metrics.get(losses.LossFunctionWrapper(off)).name == "off"
    assert isinstance(metrics.get(metrics.AUC), metrics.AUC)
    assert metrics.get(huber) is huber
    assert metrics.get(None) is None
    assert metrics.get("cosine_similarity")(real, real) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="None"):
        metrics.resolve(None, (1,), (1,))
    for wrong in (3, dict):
        with pytest.raises(ValueError, match="Expected a metric"):
            metrics.get(wrong)


def test_a_metric_of_ones_own():
    class Range(Metric):
        """The sums need no particular names, nor a mean."""

        def stats(self, y_true, y_pred, sample_weight=None):
            hit = (jnp.abs(y_true - y_pred) < 1).astype(jnp.float32)
            w = jnp.ones(len(hit)) if sample_weight is None else sample_weight
            return {"in": jnp.sum(hit.mean(axis=-1) * w), "all": jnp.sum(w)}

        def value(self, sums):
            return float(sums["in"] / sums["all"])

    metric = Range()
    assert metric.name == "range"
    np.testing.assert_allclose(feed(metric, real, guess), np.mean(np.abs(real - guess) < 1), rtol=1e-6)
    assert metric(real, guess) == pytest.approx(float(metric.result()))
    with pytest.raises(NotImplementedError, match="stats"):
        Metric().stats(real, guess)
    with pytest.raises(NotImplementedError, match="value"):
        Metric().value({})


def test_arguments_are_checked():
    for make in (
        lambda: metrics.Precision(thresholds=[0.5, 2]),
        lambda: metrics.AUC(curve="X"),
        lambda: metrics.AUC(summation_method="X"),
        lambda: metrics.AUC(num_thresholds=1),
        lambda: metrics.AUC(num_labels=3),
        lambda: metrics.SensitivityAtSpecificity(1.5),
        lambda: metrics.RecallAtPrecision(0.5, num_thresholds=0),
        lambda: metrics.F1Score(average="all"),
        lambda: metrics.FBetaScore(beta=0.0),
        lambda: metrics.F1Score(threshold=0.0),
        lambda: metrics.R2Score(class_aggregation="mean"),
        lambda: metrics.R2Score(num_regressors=-1),
        lambda: metrics.IoU(2, [2]),
    ):
        with pytest.raises(ValueError, match="Expected"):
            make()
    assert metrics.AUC(num_thresholds=3).thresholds == pytest.approx([-1e-7, 0.5, 1 + 1e-7])
