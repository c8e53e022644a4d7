"""Which batch size to take: the choice from measurements against closed forms; the measuring on real models."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import jax
import numpy as np
import pytest
from data import breast_cancer, diabetes, digits
from matplotlib.image import imread

import epochal as keras
from epochal.critical_batch import Moments, NoiseEstimate, combined
from epochal.data.examples import as_examples
from epochal.engine import example_gradients
from epochal.models import planning
from epochal.plans import choice, trial
from epochal.plans.measurements import Measurements
from epochal.plans.plan import BatchPlan, make_plan
from epochal.random import seed_state
from epochal.runtime.memory import Limit

SIZES = (4, 16, 64, 256, 1024)


def noise(value: float, low: float | None = None, high: float | None = None) -> NoiseEstimate:
    return NoiseEstimate(
        value, value / 2 if low is None else low, value * 2 if high is None else high, 1.0, value, 1000
    )


def measured(
    a: float = 245e-6,
    b: float = 1e-6,
    critical: float | None = 39.0,
    n: int = 100_000,
    per_row: int = 1000,
    **changed: Any,
) -> Measurements:
    """Steps of a + b m seconds that need 1 MB + per_row * m bytes."""
    given: dict[str, Any] = {
        "n": n,
        "seconds": {m: a + b * m for m in SIZES},
        "epoch_seconds": 0.0,
        "bytes": {m: 1_000_000 + per_row * m for m in SIZES},
        "limit": Limit(10**9, "the test"),
        "noise": None if critical is None else noise(critical),
        "trained": 100,
    }
    return Measurements(**{**given, **changed})


# -- the choice: pure


def test_best_size_is_the_geometric_mean_of_the_machine_s_and_the_problem_s():
    plan = make_plan(measured())  # a digits MLP: a / b = 245, B = 39
    assert plan.half_throughput_batch == pytest.approx(245)
    assert plan.optimum == pytest.approx(math.sqrt(245 * 39))  # 97.8
    assert plan.batch_size == 64  # 4 % above the least time; 32 is 28 %


@pytest.mark.parametrize("critical", [5, 39, 300, 4000])
@pytest.mark.parametrize("ratio", [10, 245, 3000])
def test_a_choice_costs_at_most_a_tenth_more_than_the_best_of_all_sizes_and_is_the_smallest_such_power_of_two(
    ratio, critical
):
    found = measured(a=ratio * 1e-6, critical=critical)

    def cost(m: int) -> float:
        return (1 + critical / m) * (ratio + m)

    least = min(map(cost, range(1, found.n)))
    m = make_plan(found).batch_size
    assert cost(m) <= 1.1 * least
    assert all(cost(2**k) > 1.09 * least for k in range(m.bit_length() - 1))  # short last batches count as less


def test_expected_seconds_are_the_formula_s_relative_to_the_recommended():
    plan = make_plan(measured())

    def t(m: float) -> float:
        return (1 + 39 / m) * (245 + m)

    for m in (16, 256, 1000):  # n is a multiple of none of them: average sizes count
        assert plan.expected_seconds_to_target(m) == pytest.approx(t(m) / t(plan.batch_size), rel=0.01)
    assert plan.expected_seconds_to_target(plan.batch_size) == 1


def test_seconds_of_an_epoch_beside_its_steps_count_like_seconds_per_example():
    n = 2048
    plan = make_plan(measured(n=n, epoch_seconds=3e-6 * n))
    assert plan.optimum == pytest.approx(math.sqrt(245e-6 / 4e-6 * 39))


def test_a_short_last_batch_costs_a_whole_step():
    plan = make_plan(measured(n=1025, critical=1e6))
    assert plan.expected_seconds_to_target(1024) > 1.4 * plan.expected_seconds_to_target(1025)


def test_memory_caps_the_size_and_the_largest_one_fits():
    limit = 1_000_000 + 1000 * 50
    plan = make_plan(measured(limit=Limit(limit, "the test")))
    assert plan.max_batch_size == 50
    assert plan.batch_size <= 50
    assert plan.memory(50) == limit
    assert (plan.memory(51) or 0) > limit
    row = next(r for r in plan.rows() if r["batch_size"] == 256)
    assert not row["fits"]
    assert "does not fit" in plan.table()


def test_a_noise_above_all_examples_makes_full_batches_where_steps_cost_nearly_the_same():
    plan = make_plan(measured(a=1.0, b=1e-9, critical=1e9, n=5000))
    assert plan.batch_size == plan.max_batch_size == 5000


def test_unresolved_noise_counts_with_its_lower_end_and_the_plan_says_so():
    plan = make_plan(measured(critical=None, noise=noise(math.inf, low=500.0, high=math.inf)))
    assert plan.optimum == pytest.approx(math.sqrt(245 * 500))
    assert any("at least 500" in sentence for sentence in plan.why)


def test_only_sizes_asked_for_are_chosen_from():
    plan = make_plan(measured(batch_sizes=(8, 300)))
    assert plan.batch_size == 300
    assert {8, 300} <= {row["batch_size"] for row in plan.rows()}


def test_where_no_line_fits_the_measured_table_counts_and_nothing_beyond_it():
    # a CNN whose throughput is best at 16: seconds grow faster than the batch from there on
    seconds = {4: 4e-3, 16: 8e-3, 64: 80e-3, 256: 700e-3}
    plan = make_plan(measured(seconds=seconds, critical=1e5))
    assert plan.batch_size == 16
    assert "straight line" in plan.why[1]
    assert make_plan(measured(seconds={4: 1e-2, 16: 1e-2, 64: 1.1e-2, 256: 2e-1}, critical=1e9)).batch_size <= 256


def test_of_two_measured_sizes_nothing_far_beside_them_is_concluded():
    # a line through zero would make single examples best, a flat one all of them
    assert make_plan(measured(seconds={16: 1e-3, 128: 8e-3})).batch_size == 8
    assert make_plan(measured(seconds={16: 1e-3, 128: 1e-3}, critical=1e9)).batch_size == 128


def test_of_one_measured_size_half_is_taken_to_be_the_step_s_own_and_the_choice_stays_near():
    plan = make_plan(measured(seconds={32: 64e-6}, n=3200, epoch_seconds=3200 * 1e-6, critical=50))
    assert plan.optimum == pytest.approx(math.sqrt(32e-6 / (1e-6 + 1e-6) * 50))
    assert make_plan(measured(seconds={32: 1e-3}, critical=1e9)).batch_size == 128
    assert make_plan(measured(seconds={32: 1e-3}, critical=1e-3)).batch_size == 8


def test_a_line_through_measured_times_is_found_again_and_never_slopes_down():
    found = choice.line({m: 3.0 + 0.5 * m for m in SIZES})
    assert (found.a, found.b, found.error) == pytest.approx((3.0, 0.5, 0.0), abs=1e-9)
    falling = choice.line({1: 2.0, 100: 1.0})
    assert falling.a > 0
    assert falling.b == 0
    through = choice.line({10: 1.0, 1000: 200.0})
    assert through.a == 0
    assert through.b > 0


def test_between_measured_sizes_values_are_straight_on_log_scales():
    assert choice.between({10: 1.0, 1000: 100.0}, 100) == pytest.approx(10.0)
    assert choice.between({10: 1.0, 1000: 100.0}, 5) == 1.0
    assert choice.between({10: 1.0, 1000: 1.5}, 2000) == pytest.approx(3.0)


def test_table_always_has_the_sizes_people_ask_for_and_marks_one():
    plan = make_plan(measured(n=5000))
    sizes = [row["batch_size"] for row in plan.rows()]
    assert sizes == sorted({32, 64, 128, 256, 5000, plan.batch_size})
    marked = [line for line in plan.table().splitlines() if "recommended" in line]
    assert len(marked) == 1
    assert marked[0].split()[0] == str(plan.batch_size)
    assert "5000 (full)" in plan.table()
    assert plan.table() in str(plan)


def test_reasons_name_machine_problem_and_memory_and_what_would_change_the_answer():
    why = " ".join(make_plan(measured()).why)
    for part in ("Machine:", "Problem:", "Memory:", "m* = 98", "over the first 100 updates", "would change"):
        assert part in why


def test_a_plan_is_json_and_comes_back_from_it():
    plan = make_plan(measured(noise=noise(math.inf, low=7.0, high=math.inf), notes=("A note.",)))
    again = BatchPlan.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False)))
    assert again.to_dict() == plan.to_dict()
    assert str(again) == str(plan)


def test_a_picture_is_written(tmp_path):
    figure = make_plan(measured(limit=Limit(1_500_000, "the test"))).plot(tmp_path / "plan.png")
    assert len(figure.axes) == 3
    assert imread(tmp_path / "plan.png").std() > 0.01


# -- measuring


def network(units: int = 16, dropout: float = 0.2) -> Any:
    layers = [keras.layers.Dense(units, activation="relu"), keras.layers.Dropout(dropout)]
    model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def everything(model: Any) -> list[Any]:
    """All that training changes, and what random numbers come next."""
    optimizer = model.optimizer
    state = [] if optimizer.state is None else jax.tree.leaves(optimizer.state)
    return [np.array(a) for a in [*model.get_weights(), *model._training.parts().collect()[1], *state]] + [seed_state()]


def same(a: list[Any], b: list[Any]) -> bool:
    *arrays, seeds = a
    *others, other_seeds = b
    equal = all(np.array_equal(left, right) for left, right in zip(arrays, others, strict=True))
    return equal and repr(seeds) == repr(other_seeds)


@pytest.fixture(scope="module")
def quick():
    """Few sizes, short looks: nothing here depends on how long anything takes."""
    patch = pytest.MonkeyPatch()
    for name, value in {
        "SIZES": (64, 16),
        "ROUNDS": 1,
        "SLICE": 1e-4,
        "LOOKS": (1, 2),
        "GRADIENTS": 32,
    }.items():
        patch.setattr(trial, name, value)
    yield
    patch.undo()


def test_a_plan_is_measured_on_real_data(quick):
    x, y = digits(300)
    plan = keras.plan_batch_size(network(), x, y, max_seconds=1000)
    assert set(plan.measurements.seconds) == {16, 64, 300}
    assert all(seconds > 0 for seconds in plan.measurements.seconds.values())
    assert 1 <= plan.batch_size <= 300
    assert plan.max_batch_size == 300
    estimate = plan.critical_batch_size
    assert estimate is not None
    assert 0 < estimate.low <= estimate.value <= estimate.high
    assert plan.measurements.trained == 2


def test_the_model_is_the_same_afterwards_to_the_bit_and_trains_as_if_nothing_had_been(quick):
    x, y = digits(300)
    model, other = network(), network()
    for m in (model, other):
        keras.utils.set_random_seed(3)
        m.build((None, 64))
        m.fit(x, y, batch_size=50, epochs=1, verbose=0)
    before, seconds = everything(model), model.history
    keras.plan_batch_size(model, x, y, max_seconds=1000)
    assert same(everything(model), before)
    assert model.history is seconds
    assert model.optimizer.iterations == 6
    histories = []
    for m in (model, other):
        keras.utils.set_random_seed(4)
        histories.append(m.fit(x, y, batch_size=64, epochs=2, verbose=0).history)
    assert histories[0] == histories[1]
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))


def test_the_model_is_the_same_where_measuring_is_broken_off(quick, monkeypatch):
    x, y = digits(300)
    model = network()
    model.fit(x, y, batch_size=50, epochs=1, verbose=0)
    before = everything(model)

    def broken(*arguments: Any) -> Any:
        assert not same(everything(model), before)  # the trial's weights are in it
        raise KeyboardInterrupt

    monkeypatch.setattr(example_gradients, "squares_and_products", broken)
    with pytest.raises(KeyboardInterrupt):
        keras.plan_batch_size(model, x, y, max_seconds=1000)
    assert same(everything(model), before)
    model.fit(x, y, batch_size=50, epochs=1, verbose=0)  # its arrays are alive


def test_a_plan_of_micro_batches_tells_what_is_run(quick):
    x, y = digits(300)
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy", micro_batch_size=16)
    plan = keras.plan_batch_size(model, x, y, max_seconds=1000)
    assert model.programs()["train"] == 3
    for m in (16, 64, 300):
        model.fit(x, y, batch_size=m, verbose=0)
    assert model.programs()["train"] == 3  # what the plan has measured is what fit runs
    assert (plan.memory(300) or 0) - (plan.memory(64) or 0) < 236 * 64 * 4  # no room for 236 more rows of x
    assert plan.micro_batch_size == min(plan.batch_size, 16)
    assert "in micro-batches of 16" in str(plan)
    assert str(BatchPlan.from_dict(plan.to_dict())) == str(plan)


def test_a_step_that_runs_out_of_memory_while_it_is_timed_does_not_fit(quick, monkeypatch):
    x, y = digits(300)
    real = trial.Trial._called

    def short(self: Any, m: int, count: int) -> float:
        took = real(self, m, count)  # the state is used up
        if m > 64:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
        return took

    monkeypatch.setattr(trial.Trial, "_called", short)
    plan = keras.plan_batch_size(network(), x, y, max_seconds=1000)
    assert set(plan.measurements.seconds) == {16, 64}
    assert plan.batch_size <= plan.max_batch_size < 300
    assert "A step with 300 examples ran out of memory" in str(plan)


def test_a_new_optimizer_has_made_no_step_afterwards(quick):
    model = network()
    keras.plan_batch_size(model, *digits(300), max_seconds=1000)
    assert model.optimizer.iterations == 0


def test_a_limit_below_a_step_of_one_example_is_told(quick):
    with pytest.raises(ValueError, match=r"A step with one example needs .* and there are 100 B"):
        keras.plan_batch_size(network(), *digits(300), memory_limit=100)


@pytest.mark.slow  # many programs
def test_under_a_limit_the_largest_size_fits_and_the_next_sixteenth_does_not(quick):
    x, y = digits()
    model = network(units=256)
    plan = keras.plan_batch_size(model, x, y, memory_limit="3MB", max_seconds=1000)
    most = plan.max_batch_size
    assert 64 < most < len(x)
    assert plan.batch_size <= most
    predicted = {m: size for m, size in plan.measurements.bytes.items() if size <= 3_000_000}
    assert max(predicted) > 15 / 16 * most  # verified by compiling
    assert any(m <= 17 / 16 * most + 1 for m, size in plan.measurements.bytes.items() if size > 3_000_000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_sizes": [0]}, "Expected batch_sizes"),
        ({"batch_sizes": "full"}, "Expected batch_sizes"),
        ({"batch_sizes": []}, "Expected batch_sizes"),
        ({"max_seconds": 0}, "Expected max_seconds"),
        ({"max_seconds": "long"}, "Expected max_seconds"),
        ({"memory_limit": "much"}, "Expected memory_limit"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_measured(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras.plan_batch_size(network(), *digits(50), **arguments)


def test_batches_and_stateful_models_are_refused():
    x, y = digits(64)
    with pytest.raises(ValueError, match="pass arrays"):
        keras.plan_batch_size(network(), (batch for batch in [(x, y)]))
    model = keras.Sequential([keras.layers.LSTM(4, stateful=True), keras.layers.Dense(10)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="stateful"):
        keras.plan_batch_size(model, x.reshape(64, 8, 8), np.zeros((64, 10), np.float32))
    with pytest.raises(RuntimeError, match="compile"):
        keras.plan_batch_size(keras.Sequential([keras.layers.Dense(1)]), x, y)


def test_a_regression_and_an_eager_model_are_measured(quick):
    x, y = diabetes(100)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert keras.plan_batch_size(model, x, y, max_seconds=1000).measurements.bytes
    model.compile("sgd", "mse", run_eagerly=True)
    plan = keras.plan_batch_size(model, x, y, batch_sizes=(50, "full"), max_seconds=1000)
    assert plan.memory(50) is None
    assert plan.batch_size in (50, 100)


# -- fit(batch_size="auto")


def test_a_step_s_own_seconds_are_what_more_steps_add_to_a_call():
    calls = {
        (16, 10): 5.0 + 10 * 2,
        (16, 5): 5.0 + 5 * 2,
        (64, 4): 5.0 + 4 * 3,
        (64, 2): 5.0 + 2 * 3,
        (300, 1): 5.0 + 7,
    }
    assert trial._own_seconds(calls) == pytest.approx({16: 2, 64: 3, 300: 7})
    assert trial._own_seconds({(300, 1): 4.0}) == {300: 4.0}


@pytest.mark.parametrize(
    ("tick", "epochs", "sizes", "said"),
    [
        (1e-3, 3, {64}, "kept short, since 3 epochs in batches of 64 would take .* than another size takes to compile"),
        (1.0, 3, {16, 64}, "kept short, since 3 epochs in batches of 64 would take"),
        (1e-3, 10**9, {16, 64, 300}, ""),
    ],
)
def test_a_plan_for_a_short_training_measures_less_and_says_so(quick, tick, epochs, sizes, said):
    ticks = iter(range(10**9))
    given = as_examples(*digits(300), None, method="fit")
    plan = planning.plan_for(network(), given, max_seconds=1000, epochs=epochs, clock=lambda: next(ticks) * tick)
    assert set(plan.measurements.seconds) == sizes
    assert plan.critical_batch_size is not None
    assert plan.batch_size <= {1: 4 * 64, 2: 64, 3: 300}[len(sizes)]  # nothing is said far beside few sizes
    assert not said or re.search(said, " ".join(plan.why))
    assert said or "kept short" not in " ".join(plan.why)


@pytest.mark.parametrize(
    ("given", "judged"),
    [
        ({"fraction": 0}, (0, 0.0)),
        ({"fraction": 0.2, "passes": 0.5}, (60, 0.5)),
        ({"fraction": 0, "validation_data": (np.zeros((70, 64)), np.zeros(70))}, (70, 1.0)),
        ({"fraction": 0, "validation_data": iter([])}, (0, 0.0)),  # nobody knows how many
    ],
)
def test_validation_counts_among_an_epoch_s_seconds(monkeypatch, given, judged):
    x, y = digits(300)
    asked: dict[str, Any] = {}
    monkeypatch.setattr(planning, "plan_for", lambda *_, **named: asked.update(named))
    planning.plan_for_fit(None, (x, y, None), None, epochs=5, **given)
    assert asked["validation"] == judged
    tried = trial.Trial(network()._training, as_examples(x, y, None, method="fit"), None, 0, lambda: 0.0)
    tried._seconds, tried._epoch_seconds = {30: 3e-3, 300: 6e-3}, 1.0
    found = tried.measurements(None, judged)
    rows, passes = judged
    assert found.epoch_seconds == pytest.approx(1 + passes * (1 + rows / 3 * 6e-3 / 300))
    assert ("validation on" in make_plan(found).why[1]) == (rows > 0)


def test_a_copy_is_trained_as_fit_would_in_one_go_or_several(quick):
    x, y = digits(300)
    model = network()
    tried = trial.Trial(model._training, as_examples(x, y, None, method="fit"), None, 5, lambda: 0.0)
    tried._compile(64)
    once, _ = tried._advance(64, tried._state(copied=True), 0, 8)  # 5 make an epoch
    twice, _ = tried._advance(64, tried._state(copied=True), 0, 3)
    twice, _ = tried._advance(64, twice, 3, 8)
    assert all(np.array_equal(a, b) for a, b in zip(once.params, twice.params, strict=True))
    assert not np.array_equal(once.params[0], model._training.parts().collect()[0][0])


def test_the_noise_is_the_mean_over_the_steps_without_noise_that_updates_are_worth():
    # gradients that shrink by 1000 while their noise scale grows from 2 to 640: looks after 2, 4 and 8 updates
    found = [Moments(g, g * b, (0.0, 0.0, 0.0), 1024, 64) for g, b in [(1.0, 2.0), (0.1, 64.0), (1e-3, 640.0)]]
    weights = trial._ideal_steps(dict(zip((2, 4, 8), found, strict=True)), m=64)
    updates = np.array([3.0, 3.0, 2.0])
    worth = updates / (1 + np.array([2.0, 64.0, 640.0]) / 64)
    expected = worth @ [2.0, 64.0, 640.0] / worth.sum()
    assert combined(found, weights=weights).value == pytest.approx(expected)
    # so that S(m) is the same for the size that was trained with: all updates, 1 + B / m for each step without noise
    assert worth.sum() * (1 + expected / 64) == pytest.approx(updates.sum())


def test_a_training_that_has_come_to_its_end_does_not_decide_what_the_noise_is():
    # all n = 40 examples at once: at the end the mean gradient is zero, and |G|² without bias is -tr Σ / n
    begun, ended = Moments(1.0, 20.0, (0.0, 0.0, 0.0), 40, 40), Moments(-0.1 / 40, 0.1, (0.0, 0.0, 0.0), 40, 40)
    weights = trial._ideal_steps({2: begun, 4: ended}, m=40)
    e = np.array([1 / (1 + 20 / 40), -1.0])  # of each of 3 updates, and of 1
    expected = (3 * 20 * e[0] + 40) / (3 * e[0] + e[1])
    assert combined([begun, ended], weights=weights).value == pytest.approx(expected)
    still = Moments(0.0, 0.0, (0.0, 0.0, 0.0), 40, 40)  # no gradient at all: it tells nothing
    assert trial._ideal_steps({2: begun, 4: still}, m=40)[1] == 0
    assert trial._ideal_steps({2: still, 4: still}, m=40) == [3.0, 1.0]


def test_updates_between_two_looks_count_half_for_each():
    looks = [1, 2, 4, 8]
    weights = trial._updates(looks)
    assert sum(weights) == 8
    values = np.array(looks, float)  # a straight line is integrated exactly, but for what is before the first look
    assert np.dot(weights[1:], values[1:]) + (weights[0] - 1) * values[0] == pytest.approx((8**2 - 1) / 2)


def test_fit_measures_first_and_trains_as_with_the_size_that_was_chosen(quick, capsys):
    x, y = breast_cancer(300)
    models = []
    size: Any = "auto"
    for _ in range(2):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2, activation="softmax")]
        )
        model.compile("adam", "sparse_categorical_crossentropy")
        history = model.fit(x, y, batch_size=size, epochs=2, verbose=2, validation_split=0.2)
        if size == "auto":
            assert history.plan is not None
            assert history.plan.measurements.n == 240  # those that are trained on
            size = history.plan.batch_size
            assert f"Batch size {size}, measured." in capsys.readouterr().out
        else:
            assert history.plan is None
        assert history.params["batch_size"] == size
        models.append((model, history.history))
    assert models[0][1] == models[1][1]


def test_auto_scales_the_learning_rate_to_the_size_that_was_chosen(quick, capsys):
    x, y = digits(300)
    rates: list[float] = []
    note = keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs: rates.append(float(optimizer.learning_rate)))
    found = []
    for rule in ("sqrt", None):
        keras.utils.set_random_seed(1)
        model = network()
        optimizer = model.optimizer
        size = "auto" if rule else found[0].params["batch_size"]
        if rule is None:
            optimizer.learning_rate = rates[0]  # by hand
        found.append(model.fit(x, y, batch_size=size, epochs=1, verbose=2, callbacks=[note], lr_scaling=rule))
    size = found[0].plan.batch_size
    assert rates == pytest.approx([0.01 * math.sqrt(size / 32)] * 2)
    assert found[0].history == found[1].history
    said = f"Learning rate 0.01 → {rates[0]:.4g}, times {rates[0] / 0.01:.4g} by 'sqrt' for batches of 32 → {size}."
    assert (said in capsys.readouterr().out) == (size != 32)


def test_a_run_that_goes_on_keeps_the_size_that_was_chosen(quick, tmp_path, monkeypatch):
    x, y = digits(300)

    def run(epochs: int) -> Any:
        keras.utils.set_random_seed(1)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        return network().fit(x, y, batch_size="auto", epochs=epochs, verbose=0, callbacks=[backup])

    first = run(1)
    assert first.plan is not None

    def again(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(planning, "plan_for", again)
    second = run(2)
    assert second.params["batch_size"] == first.plan.batch_size
    assert second.plan is not None
    assert second.plan.to_dict() == first.plan.to_dict()
    assert len(second.epoch) == 2


def test_a_run_with_auto_that_is_broken_off_in_mid_epoch_ends_like_one_that_was_not(quick, tmp_path, monkeypatch):
    x, y = digits(300)

    class Broken(Exception):
        pass

    def run(batch_size: Any, stop_at: int | None = None, backup: str = "backup") -> Any:
        batches: list[int] = []

        def count(batch: int, logs: Any) -> None:
            batches.append(batch)
            if len(batches) == stop_at:
                raise Broken

        keras.utils.set_random_seed(1)
        model = network()
        callbacks = [
            keras.callbacks.BackupAndRestore(tmp_path / backup, save_freq=1),
            keras.callbacks.LambdaCallback(on_train_batch_end=count),
        ]
        fit = {"batch_size": batch_size, "epochs": 3, "verbose": 0, "callbacks": callbacks}
        return model.fit(x, y, **fit), everything(model)

    with pytest.raises(Broken):  # batches of 16 or 64: within an epoch in any case
        run("auto", stop_at=7)
    monkeypatch.setattr(planning, "plan_for", lambda *_, **__: pytest.fail("measured again"))
    history, found = run("auto")
    assert history.plan is not None
    whole, expected = run(history.plan.batch_size, backup="whole")
    assert history.history == whole.history
    assert same(found, expected)


def test_auto_beside_batches_is_refused():
    x, y = digits(64)
    with pytest.raises(ValueError, match="batch_size"):
        network().fit(iter([(x, y)]), batch_size="auto", verbose=0)
